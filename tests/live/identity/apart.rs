//! A part of a test in a process of its own that may hang: the parent has the watch, since in the child nothing may
//! work any more.

use crate::support::{alloc, emulator};
use std::fmt::Write;
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const MARK: &str = "MIDFLIGHT_IDENTITY_CHILD";

/// Generous: seconds are what it takes on a machine that does nothing else.
const LIMIT: Duration = Duration::from_secs(900);

/// The part that this process is to play in test `name`, if it is a child.
pub fn part(name: &str) -> Option<String> {
    let part = std::env::var(MARK).ok()?.strip_prefix(name)?.strip_prefix('/')?.to_owned();
    alloc::watch();
    Some(part)
}

/// Numbers of the functions to be replaced, as `0..100`: those alone. To look for the one that goes wrong.
const ONLY: &str = "MIDFLIGHT_IDENTITY_ONLY";

/// The numbers of the functions that are to be replaced, of `count`.
pub fn chosen(count: usize) -> Range<usize> {
    let Ok(range) = std::env::var(ONLY) else { return 0..count };
    let (start, end) = range.split_once("..").unwrap();
    start.parse().unwrap()..count.min(end.parse().unwrap())
}

/// Were functions left out on purpose?
pub fn is_chosen() -> bool {
    std::env::var(ONLY).is_ok()
}

/// Runs `part` of test `name` of this module in a child, which writes to files in `folder`. Answers what it printed.
pub fn run(name: &str, part: &str, folder: &Path) -> String {
    try_run(name, part, folder, None).unwrap_or_else(|failure| panic!("{failure}"))
}

/// As [`run`], of a part that replaces `count` functions. If it fails, the function is looked for whose replacement is
/// enough for that, by halves.
pub fn run_replaced(name: &str, folder: &Path, count: usize) -> String {
    let first = match try_run(name, "replaced", folder, None) {
        Ok(text) => return text,
        Err(failure) => failure,
    };
    let (mut range, mut last) = (0..count, String::new());
    while range.len() > 1 {
        let middle = range.start + range.len() / 2;
        let halves = [range.start..middle, middle..range.end];
        let failing = halves.into_iter().find_map(|half| {
            let failure = try_run(name, "replaced", folder, Some(half.clone())).err()?;
            Some((half, failure))
        });
        let Some((half, failure)) = failing else { break };
        (range, last) = (half, failure);
    }
    panic!("{first}\nfunctions {range:?} are enough for that:\n{last}");
}

fn try_run(name: &str, part: &str, folder: &Path, only: Option<Range<usize>>) -> Result<String, String> {
    let log = folder.join(format!("{part}.log"));
    let file = File::create(&log).unwrap();
    let mut command = emulator::command(std::env::current_exe().unwrap());
    if let Some(range) = only {
        command.env(ONLY, format!("{range:?}"));
    }
    let mut child = command
        .args([&format!("identity::{name}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, format!("{name}/{part}"))
        .env("MIDFLIGHT_IDENTITY_FOLDER", folder)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let (start, printed) =
        (Instant::now(), || String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LIMIT {
            let threads = threads(&child);
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{name}, {part}: not done after {LIMIT:?}\n{threads}it had printed:\n{}", printed());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = printed();
    // A name that matches no test would pass without having run.
    assert!(text.contains("running 1 test"), "no test is called {name}:\n{text}");
    if status.success() { Ok(text) } else { Err(format!("{name}, {part}: {status}\n{text}")) }
}

/// What each thread of the child is doing.
fn threads(child: &Child) -> String {
    let mut text = String::new();
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id()));
    for task in tasks.into_iter().flatten().flatten() {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (name, call, wait) = (read("comm"), read("syscall"), read("wchan"));
        writeln!(text, "thread {:?} {} {} {wait}", task.file_name(), name.trim(), call.trim()).unwrap();
    }
    text
}
