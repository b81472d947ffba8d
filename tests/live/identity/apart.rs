//! A part of a test in a process of its own that may hang: the parent has the watch, since in the child nothing may
//! work any more.

use crate::support::{alloc, emulator};
use std::fmt::Write;
use std::fs::{self, File};
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

/// Runs `part` of test `name` of this module in a child, which writes to files in `folder`. Answers what it printed.
pub fn run(name: &str, part: &str, folder: &Path) -> String {
    let log = folder.join(format!("{part}.log"));
    let file = File::create(&log).unwrap();
    let mut child = emulator::command(std::env::current_exe().unwrap())
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
    assert!(status.success(), "{name}, {part}: {status}\n{text}");
    text
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
