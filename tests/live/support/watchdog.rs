//! Ends a test that hangs, with the stacks of all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// While it lives, the process is aborted when `limit` passes.
pub struct Watchdog(Arc<AtomicBool>);

pub fn start(limit: Duration) -> Watchdog {
    super::alloc::watch();
    let done = Arc::new(AtomicBool::new(false));
    let (flag, start) = (Arc::clone(&done), Instant::now());
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            while !flag.load(SeqCst) {
                if start.elapsed() > limit {
                    bite(limit);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        })
        .unwrap();
    Watchdog(done)
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Each thread prints its own stack from a signal handler: unsound in general, good enough for last words.
fn bite(limit: Duration) -> ! {
    extern "C" fn print(_: i32) {
        let thread = std::thread::current();
        eprintln!("{:?}:\n{}", thread.name(), std::backtrace::Backtrace::force_capture());
    }
    eprintln!("watchdog: still not done after {limit:?}");
    // SAFETY: the process ends here.
    unsafe { libc::signal(libc::SIGUSR2, print as *const () as usize) };
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let path = entry.path();
        let read = |file| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        eprintln!("{} {} {}", path.display(), read("comm").trim(), read("syscall").trim());
        let tid: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        // SAFETY: a signal to a thread of ours.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR2) };
        std::thread::sleep(Duration::from_millis(200));
    }
    std::process::abort()
}
