//! fork(2): the child keeps what is applied, and can commit by itself; neither disturbs the other.

use crate::adds;
use crate::support::{child, patient, watchdog};
use midflight::{Applied, Transaction};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

adds! {
    live_fork + 1;
    live_fork_kept + 1;
}

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

fn commit(name: &str) -> Applied {
    let mut change = Transaction::new();
    change.replace(name, a_thousand as *const ());
    // SAFETY: same types.
    unsafe { change.commit(&patient()) }.unwrap()
}

/// Forks, and tells whether `body` was true in the child.
fn forked(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `body` alone and ends; the allocator of glibc works in it.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(false);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if good { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: a child of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status == 0
}

#[test]
fn at_any_moment_of_a_commit() {
    child::run("fork::at_any_moment_of_a_commit", || {
        let _watchdog = watchdog::start(Duration::from_secs(200));
        let kept = commit("live_fork_kept");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    commit("live_fork").rollback_with(&patient()).unwrap();
                }
            });
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    assert!([2, 1001].contains(&live_fork(1)));
                }
            });
            for _ in 0..100 {
                let good = forked(|| {
                    let (before, kept) = (live_fork(1), live_fork_kept(1));
                    let applied = commit("live_fork");
                    let on = live_fork(1);
                    applied.rollback_with(&patient()).unwrap();
                    [2, 1001].contains(&before) && kept == 1001 && on == 1001 && live_fork(1) == before
                });
                assert!(good, "the child failed");
                assert_eq!(live_fork_kept(1), 1001);
            }
            done.store(true, SeqCst);
        });
        // What the child takes off stays on here.
        assert!(forked(|| kept.rollback_with(&patient()).is_ok() && live_fork_kept(1) == 2));
        assert_eq!(live_fork_kept(1), 1001);
        kept.rollback_with(&patient()).unwrap();
    });
}

#[test]
fn exec_during_commits_does_no_harm_to_the_next_program() {
    child::run("fork::exec_during_commits_does_no_harm_to_the_next_program", || {
        for _ in 0..40 {
            // SAFETY: the child has one thread until it starts its own.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                std::thread::spawn(|| {
                    loop {
                        commit("live_fork").rollback_with(&patient()).unwrap();
                    }
                });
                std::thread::sleep(Duration::from_millis(20));
                let program = c"/bin/true".as_ptr();
                // SAFETY: replaces the child's program.
                unsafe { libc::execl(program, program, std::ptr::null::<libc::c_char>()) };
            }
            let mut status = 0;
            // SAFETY: a child of ours.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(status, 0, "the new program was killed");
        }
    });
}
