//! A whole library, replaced by itself.

use super::apart;
use super::crowd::Crowd;
use super::functions::{Function, Loaded};
use super::thunks::{self, Place, Thunks};
use crate::support::{bytes_at, fixtures::Folder, patient};
use midflight::{Applied, Error, Options, Transaction};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How many threads work, beside the one that commits.
const THREADS: usize = 2;

/// A library and what it is to do.
pub struct Subject {
    /// Name of the test, in this module.
    pub test: &'static str,
    pub library: &'static str,
    /// At least so many thousandths of its functions can be replaced.
    pub floor: u64,
    /// Does something of which all answers are known or can be compared: the same text each time. It may write to
    /// files whose names begin with the path.
    pub work: fn(&Loaded, &Path) -> String,
}

impl Subject {
    pub fn run(&self) {
        match apart::part(self.test).as_deref() {
            Some("plain") => self.plain(),
            Some(_) => self.replaced(),
            None => {
                let folder = Folder::new();
                let path = folder.path("");
                let text = apart::run(self.test, "plain", &path);
                if text.contains(MISSING) {
                    let must_be =
                        std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
                    assert!(!must_be, "{MISSING}: {}", self.library);
                    println!("{MISSING}, and nothing is shown: {}", self.library);
                    return;
                }
                let count = std::fs::read_to_string(path.join("count")).unwrap().parse().unwrap();
                print!("{}", apart::run_replaced(self.test, &path, count));
            }
        }
    }

    /// The answers of the library as it is.
    fn plain(&self) {
        let Some(loaded) = Loaded::open(self.library) else { return println!("{MISSING}") };
        let answers = (self.work)(&loaded, &folder().join("plain"));
        assert_eq!(answers, (self.work)(&loaded, &folder().join("plain")), "the work is not the same twice");
        std::fs::write(folder().join("answers"), answers).unwrap();
        std::fs::write(folder().join("count"), loaded.functions.len().to_string()).unwrap();
    }

    fn replaced(&self) {
        let loaded: &'static Loaded = Box::leak(Box::new(Loaded::open(self.library).unwrap()));
        let (answers, work) = (std::fs::read_to_string(folder().join("answers")).unwrap(), self.work);
        let round = move |number: usize| {
            let now = work(loaded, &folder().join(format!("thread{number}")));
            assert!(now == answers, "{}", difference(&answers, &now));
        };
        round(THREADS);
        let before = loaded.content();
        let crowd = Crowd::start(THREADS, round.clone());
        crowd.a_round();
        for place in thunks::places() {
            let on = replace(&loaded.functions, *place, self.floor, loaded.indirect);
            round(THREADS);
            crowd.a_round();
            on.report();
            let start = Instant::now();
            let held = on.applied.rollback_with(&patient()).unwrap();
            println!("rolled back in {:?}: {held}", start.elapsed());
            assert!(before == loaded.content(), "some byte is not as before");
            round(THREADS);
            crowd.a_round();
        }
        println!("{} rounds of {}", crowd.end(), self.library);
    }
}

const MISSING: &str = "this machine does not have the library";

/// Where a child may write.
pub fn folder() -> PathBuf {
    std::env::var_os("MIDFLIGHT_IDENTITY_FOLDER").unwrap().into()
}

/// The first line that is another one.
fn difference(wanted: &str, found: &str) -> String {
    let lines = wanted.lines().zip(found.lines());
    let first = lines.clone().find(|(wanted, found)| wanted != found);
    format!("of the answers, {first:?} (without the replacement, with it) differ")
}

/// Functions that are replaced by themselves.
pub struct On {
    pub applied: Applied,
    thunks: Thunks,
    /// Number of the function, number of the thunk.
    kept: Vec<Function>,
}

impl On {
    /// Was the function at `address` called? None if it was not replaced.
    pub fn was_called(&self, address: *const ()) -> Option<bool> {
        let number = self.kept.iter().position(|function| function.address == address as u64)?;
        Some(self.thunks.was_called(number))
    }

    pub fn report(&self) {
        let called = (0..self.kept.len()).filter(|number| self.thunks.was_called(*number)).count();
        println!("{called} of {} replaced functions were called", self.kept.len());
        assert!(called > 10 || apart::is_chosen(), "the work does not go through the replacements");
    }
}

/// Replaces every one of `functions` that can be, and says how many.
pub fn replace(functions: &[Function], place: Place, floor: u64, indirect: usize) -> On {
    let start = Instant::now();
    let functions = &functions[apart::chosen(functions.len())];
    if let [one] = functions {
        // SAFETY: the first bytes of a function, which lie in a page with more.
        println!("{} at {:#x}: {:02x?}", one.name, one.address, unsafe {
            bytes_at(one.address as usize, 32)
        });
    }
    let (on, refused) = match try_replace(functions, place, &patient()) {
        Err(Error::Empty) if apart::is_chosen() => {
            println!("none of them can be replaced");
            std::process::exit(0);
        }
        result => result.unwrap(),
    };
    let (all, kept) = (functions.len() as u64, on.kept.len() as u64);
    println!(
        "{kept} of {all} functions replaced, thunks {place:?}, {indirect} indirect, {:?}",
        start.elapsed()
    );
    for (reason, names) in &refused {
        println!("    {:5} {reason}: {}", names.len(), names[..names.len().min(6)].join(" "));
    }
    assert!(
        kept * 1000 >= all * floor || apart::is_chosen(),
        "{kept} of {all} functions is less than {floor} of a thousand"
    );
    on
}

/// By the reason, the names of functions that cannot be replaced.
pub type Refused = BTreeMap<String, Vec<String>>;

/// As [`replace`]; an error is one of the commit, with nothing changed.
pub fn try_replace(functions: &[Function], place: Place, options: &Options) -> Result<(On, Refused), Error> {
    let options = options.clone().folded_code();
    let thunks = Thunks::new(functions.len(), place);
    let (mut kept, mut refused) = (functions.to_vec(), Refused::new());
    loop {
        let mut change = Transaction::new();
        for (number, function) in kept.iter().enumerate() {
            let address = function.address as *const ();
            change.replace_fn(address, thunks.original(number), thunks.replacement(number));
        }
        let error = match change.check_with(&options) {
            // SAFETY: each replacement is its target, a few instructions later.
            Ok(_) => match unsafe { change.commit(&options) } {
                Ok(applied) => return Ok((On { applied, thunks, kept }, refused)),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let before = kept.len();
        leave_out(error, &mut kept, &mut refused)?;
        assert!(kept.len() < before);
    }
}

/// Leaves out what `error` is about, if it is about functions.
fn leave_out(error: Error, kept: &mut Vec<Function>, refused: &mut Refused) -> Result<(), Error> {
    let errors = match error {
        Error::Several { errors } => errors,
        error => vec![error],
    };
    let mut places = BTreeMap::new();
    for error in errors {
        let Some((address, reason)) = about(&error) else { return Err(error) };
        // That of an overlap is the site, which may lie behind a landing pad.
        let behind = kept.partition_point(|function| function.address <= address);
        let Some(function) = behind.checked_sub(1).and_then(|number| kept.get(number)) else {
            return Err(error);
        };
        places.insert(function.address, reason);
    }
    kept.retain(|function| {
        let Some(reason) = places.get(&function.address) else { return true };
        refused.entry(reason.clone()).or_default().push(function.name.clone());
        false
    });
    Ok(())
}

/// The function that cannot be replaced, and the kind of the reason.
fn about(error: &Error) -> Option<(u64, String)> {
    let kind = |debug: String| debug.split([' ', '{']).next().unwrap_or_default().to_owned();
    match error {
        Error::Refused { address, refusal, .. } => Some((*address, kind(format!("{refusal:?}")))),
        Error::NotAFunction { address, .. }
        | Error::UnknownSize { address, .. }
        | Error::FoldedCode { address, .. }
        | Error::NoNearMemory { address, .. }
        | Error::Overlap { address, .. } => Some((*address, kind(format!("{error:?}")))),
        _ => None,
    }
}
