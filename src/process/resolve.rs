//! From a name or an address to a target: which function of which loaded module.

use super::around::{self, Surroundings};
use super::copies::{self, Policy};
use super::entrances::Entrances;
use super::image::{FunctionSymbol, ModuleImage};
use super::loaded::{Loaded, LoadedModule, OpenModule};
use super::modules::{Module, ModuleHold};
use super::names::{Matcher, TargetName, nearest, readable};
use crate::arch;
use crate::elf::{Build, Machine, is_rust_name};
use crate::error::{Candidate, Error};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// A function of the running program, found.
#[derive(Debug)]
pub(crate) struct Target {
    /// As it was asked for.
    pub(crate) name: String,
    /// Raw.
    pub(crate) symbol: String,
    /// The file of its module.
    pub(crate) module: PathBuf,
    /// Run-time address of its first byte.
    pub(crate) address: u64,
    /// All its bytes, as they stand in the file.
    pub(crate) bytes: Vec<u8>,
    /// What lies around it, if that may be of use.
    pub(crate) surroundings: Surroundings,
    /// May indirect calls enter it at a landing pad only (PROT_BTI)?
    pub(crate) guarded: bool,
    /// Run-time addresses inside it at which it may be entered too: other symbols, targets of its jump tables, and of
    /// branches from its parts elsewhere; sorted.
    pub(crate) inner: Vec<u64>,
    /// Was each of its jumps to a computed address followed through a table?
    pub(crate) jumps_told: bool,
    /// Raw names of other functions that have the same code.
    pub(crate) other_names: Vec<String>,
    /// How its module was built, if it is a function of Rust's.
    pub(crate) build: Option<Arc<Build>>,
}

impl Target {
    /// Does `address` lie in it?
    pub(crate) fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.bytes.len() as u64
    }
}

/// A target, and what keeps its module loaded.
#[derive(Debug, Clone)]
pub(crate) struct HeldTarget {
    pub(crate) target: Arc<Target>,
    pub(crate) hold: Arc<ModuleHold>,
}

/// The modules as they are now; files are read when they are needed.
#[derive(Debug)]
pub(crate) struct Resolver {
    machine: Machine,
    policy: Policy,
    loaded: Arc<Loaded>,
    /// By the address of the module's record.
    opened: RefCell<BTreeMap<*const LoadedModule, Rc<OpenModule>>>,
}

impl Resolver {
    pub(crate) fn new(machine: Machine, policy: Policy) -> Self {
        Self::of(Loaded::now(), machine, policy)
    }

    pub(super) fn of(loaded: Arc<Loaded>, machine: Machine, policy: Policy) -> Self {
        Self { machine, policy, loaded, opened: RefCell::default() }
    }

    /// The function called `name`, with its copies: in the module it names, else in the first module that has one.
    pub(crate) fn by_name(&self, name: &str) -> Result<Vec<HeldTarget>, Error> {
        let wanted = TargetName::parse(name);
        let searched = self.searched(name, wanted.module)?;
        let mut opened = Vec::new();
        for loaded in &searched {
            let module = &loaded.module;
            let open = match self.open(loaded) {
                Ok(open) => open,
                // Only what was asked for by name has to be readable.
                Err(error) if wanted.module.is_some() || module.is_main => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "module passed over");
                    continue;
                }
            };
            let mut found = matching(&open.image, wanted.symbol);
            copies::by_address(&mut found);
            match found.as_slice() {
                [] => {}
                [_] => return self.targets(name, module, &open, &found),
                copies if copies::are_copies(copies) => return self.targets(name, module, &open, copies),
                several => {
                    let candidates = candidates(module, several);
                    return Err(Error::Ambiguous { target: name.to_owned(), candidates });
                }
            }
            opened.push((module, Rc::clone(&open)));
        }
        Err(not_found(name, wanted.symbol, &opened))
    }

    /// The function that begins at `address`, with its copies.
    pub(crate) fn by_address(&self, address: u64) -> Result<Vec<HeldTarget>, Error> {
        let name = format!("{address:#x}");
        let not_a_function = |found: String| Error::NotAFunction { target: name.clone(), address, found };
        let Some(loaded) = self.loaded.at(address) else {
            return Err(not_a_function("no loaded module is there".into()));
        };
        let module = &loaded.module;
        let open = self.open(loaded)?;
        let image = &*open.image;
        let value = address.wrapping_sub(module.bias);
        let best = image
            .at(value)
            .into_iter()
            .max_by_key(|function| (function.size > 0, function.is_global, std::cmp::Reverse(function.size)));
        match best {
            Some(function) => {
                let name = readable(function.name());
                self.targets(&name, module, &open, &copies::of(image, &function))
            }
            None => {
                let inside = image
                    .functions()
                    .find(|function| function.value < value && value - function.value < function.size);
                Err(not_a_function(match inside {
                    Some(function) => format!("the inside of {}", readable(function.name())),
                    None => format!("no function symbol of {} begins there", module.path.display()),
                }))
            }
        }
    }

    fn open(&self, loaded: &LoadedModule) -> Result<Rc<OpenModule>, Error> {
        let key = std::ptr::from_ref(loaded);
        if let Some(open) = self.opened.borrow().get(&key) {
            return Ok(Rc::clone(open));
        }
        let open = Rc::new(loaded.open(self.machine)?);
        self.opened.borrow_mut().insert(key, Rc::clone(&open));
        Ok(open)
    }

    fn searched(&self, name: &str, module: Option<&str>) -> Result<Vec<&LoadedModule>, Error> {
        let all = self.loaded.modules().iter();
        let Some(wanted) = module else { return Ok(all.collect()) };
        let named: Vec<_> = all.filter(|loaded| loaded.module.is_called(wanted)).collect();
        if named.is_empty() {
            let loaded = self.loaded.modules().iter().map(|loaded| loaded.module.file_name()).collect();
            return Err(Error::NotLoaded { target: name.to_owned(), module: wanted.to_owned(), loaded });
        }
        Ok(named)
    }

    /// One function, or all its copies if that is allowed.
    fn targets(
        &self,
        name: &str,
        module: &Module,
        open: &OpenModule,
        functions: &[FunctionSymbol<'_>],
    ) -> Result<Vec<HeldTarget>, Error> {
        if functions.len() > 1 && !self.policy.every_copy {
            let copies = candidates(module, functions);
            return Err(Error::Copies { target: name.to_owned(), copies });
        }
        functions.iter().map(|function| self.target(name, module, open, function)).collect()
    }

    fn target(
        &self,
        name: &str,
        module: &Module,
        open: &OpenModule,
        function: &FunctionSymbol<'_>,
    ) -> Result<HeldTarget, Error> {
        let image = &*open.image;
        let address = module.bias.wrapping_add(function.value);
        let not_a_function =
            |found: &str| Error::NotAFunction { target: name.to_owned(), address, found: found.to_owned() };
        if function.is_ifunc {
            return Err(not_a_function(
                "an indirect function (IFUNC); name the implementation in use instead",
            ));
        }
        if !image.is_executable(function.value) {
            return Err(not_a_function("its segment is not executable"));
        }
        // In assembly sizes are often left out; who writes unwind information says it there.
        let size = match function.size {
            0 => image.unwound_size(&open.file, function.value),
            size => Some(size),
        };
        let Some(size) = size.filter(|size| *size > 0) else {
            return Err(Error::UnknownSize { target: name.to_owned(), address });
        };
        let other_names = copies::other_names(image, function);
        if !other_names.is_empty() && !self.policy.folded_code {
            return Err(Error::FoldedCode { target: name.to_owned(), address, names: other_names });
        }
        let bytes = image
            .bytes_at(&open.file, function.value, size)
            .map_err(|fault| Error::BadModule { path: module.path.clone(), reason: fault.to_string() })?;
        let hold = Arc::new(module.hold(name)?);
        let symbol = String::from_utf8_lossy(function.name()).into_owned();
        let own = function.value..function.value.saturating_add(size);
        let set = image.instruction_set();
        let wants_padding = arch::wants_padding(set, &bytes);
        let labels = image.labels(if wants_padding { around::window(&own) } else { own.clone() });
        let surroundings = if wants_padding {
            Surroundings::of(image, &open.file, &own, &labels, module.bias)
        } else {
            Surroundings::default()
        };
        let inside =
            labels.iter().map(|(label, _)| *label).filter(|label| own.start < *label && *label < own.end);
        let entrances = Entrances::of(set, image, &open.file, &own, &bytes, inside);
        let inner = entrances.inside.iter().map(|address| module.bias.wrapping_add(*address)).collect();
        let jumps_told = entrances.told;
        let build = is_rust_name(function.name()).then(|| Arc::clone(image.build(&open.file)));
        let (name, module, guarded) = (name.to_owned(), module.path.clone(), open.guarded);
        let target = Target {
            name,
            symbol,
            module,
            address,
            bytes,
            surroundings,
            guarded,
            inner,
            jumps_told,
            other_names,
            build,
        };
        Ok(HeldTarget { target: Arc::new(target), hold })
    }
}

fn not_found(name: &str, wanted: &str, modules: &[(&Module, Rc<OpenModule>)]) -> Error {
    let mut others = modules
        .iter()
        .filter_map(|(module, open)| Some((module, open.image.other_named(wanted.as_bytes())?)));
    if let Some((module, (value, what))) = others.next() {
        let (target, address) = (name.to_owned(), module.bias.wrapping_add(value));
        return Error::NotAFunction { target, address, found: what.to_owned() };
    }
    let functions = modules.iter().flat_map(|(_, open)| open.image.functions());
    let names = functions.map(|function| readable(function.name()));
    Error::NotFound { target: name.to_owned(), nearest: nearest(wanted, names) }
}

fn matching<'i>(image: &'i ModuleImage, wanted: &str) -> Vec<FunctionSymbol<'i>> {
    let raw = image.named(wanted.as_bytes());
    if !raw.is_empty() {
        return raw;
    }
    let matcher = Matcher::new(wanted);
    image.functions().filter(|function| matcher.matches(function.name())).collect()
}

fn candidates(module: &Module, functions: &[FunctionSymbol<'_>]) -> Vec<Candidate> {
    let candidate = |function: &FunctionSymbol<'_>| Candidate {
        name: String::from_utf8_lossy(function.name()).into_owned(),
        module: module.path.clone(),
        address: module.bias.wrapping_add(function.value),
    };
    functions.iter().map(candidate).collect()
}
