//! Programs that run under an emulator share their process with threads of its own, which no commit can hold.

use midflight::Options;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};

/// The defaults, with an emulator's threads left alone.
pub(crate) fn options() -> Options {
    // SAFETY: a thread of an emulator runs the emulator's code only.
    threads().iter().fold(Options::new(), |options, tid| unsafe { options.ignore_thread(*tid) })
}

/// Threads of the process that are not the program's: they were there before `main`, or in a forked child before this was
/// asked first, which has to be before the child begins a thread.
pub(crate) fn threads() -> &'static [i32] {
    /// What stands in this section runs before `main`.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static AT_START: extern "C" fn() = note;
    extern "C" fn note() {
        threads();
    }
    static NOTED: AtomicPtr<(u32, Vec<i32>)> = AtomicPtr::new(null_mut());
    // SAFETY: null, or leaked below.
    let noted = unsafe { NOTED.load(SeqCst).as_ref() };
    match noted.filter(|(process, _)| *process == std::process::id()) {
        Some((_, threads)) => threads,
        None => {
            let new: &'static mut _ = Box::leak(Box::new((std::process::id(), others())));
            NOTED.store(new, SeqCst);
            threads()
        }
    }
}

/// All threads but the one that asks, as far as they block every signal that a commit may use. A thread that a library
/// began before `main` may run any code and is not to be left alone.
fn others() -> Vec<i32> {
    let me = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let others = tasks.filter(|task| me.file_name() != Some(&task.file_name()));
    let others = others.filter(|task| blocks_all(&task.path()).unwrap_or(false));
    others.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// SIGURG and all real-time signals, by the line `SigBlk` of a thread's `status` (proc_pid_status(5)).
fn blocks_all(task: &Path) -> Option<bool> {
    const ALL: u64 = !0 << 33 | 1 << 22;
    let status = std::fs::read_to_string(task.join("status")).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
    Some(u64::from_str_radix(mask.trim(), 16).ok()? & ALL == ALL)
}
