//! Programs that run under an emulator share their process with threads of its own, which no commit can hold.

use midflight::Options;
use std::sync::OnceLock;

/// The defaults, with an emulator's threads left alone.
pub(crate) fn options() -> Options {
    // SAFETY: a thread of an emulator runs the emulator's code only.
    threads().iter().fold(Options::new(), |options, tid| unsafe { options.ignore_thread(*tid) })
}

/// Threads of the process that are not the program's: they were there before `main`.
pub(crate) fn threads() -> &'static [i32] {
    static THREADS: OnceLock<Vec<i32>> = OnceLock::new();
    /// What stands in this section runs before `main`.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static AT_START: extern "C" fn() = note;
    extern "C" fn note() {
        threads();
    }
    THREADS.get_or_init(|| {
        let me = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let others = tasks.map(|task| task.file_name()).filter(|tid| me.file_name() != Some(tid));
        others.filter_map(|tid| tid.to_str()?.parse().ok()).collect()
    })
}
