//! Each system call of the commit path fails in turn: the error says which step, nothing has changed, every
//! thread runs, and the next try works.

use crate::adds;
use crate::support::fixtures::Folder;
use crate::support::{bytes_at, child, patient, watchdog};
use libloading::os::unix::Library;
use midflight::{Applied, Error, Options, Transaction, fault};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

adds! {
    live_faults_one + 1;
    live_faults_two + 2;
}

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

fn commit(options: &Options) -> Result<Applied, Error> {
    let mut change = Transaction::new();
    change.replace("live_faults_one", a_thousand as *const ());
    change.replace("live_faults_two", a_thousand as *const ());
    // SAFETY: same types.
    unsafe { change.commit(options) }
}

/// Both targets' code, and the protections of the whole process's executable memory.
fn state() -> (Vec<u8>, Vec<u8>, Vec<String>) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let code = maps.lines().filter(|line| line.contains("/live-"));
    let code = code.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    // SAFETY: the targets' pages.
    unsafe {
        (
            bytes_at(live_faults_one as *const () as usize, 64),
            bytes_at(live_faults_two as *const () as usize, 64),
            code,
        )
    }
}

fn is_about(error: &Error, words: &str) -> bool {
    matches!(error, Error::Kernel { step, .. } if step.contains(words))
}

/// Three threads run all the while; each must go on after every fault.
fn beside_runners(test: impl FnOnce(&dyn Fn())) {
    static CALLS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
    static DONE: AtomicBool = AtomicBool::new(false);
    let _watchdog = watchdog::start(Duration::from_secs(200));
    std::thread::scope(|scope| {
        for calls in &CALLS {
            scope.spawn(|| {
                while !DONE.load(SeqCst) {
                    assert!([2, 1001].contains(&live_faults_one(1)));
                    calls.fetch_add(1, SeqCst);
                }
            });
        }
        test(&|| {
            for calls in &CALLS {
                let before = calls.load(SeqCst);
                while calls.load(SeqCst) == before {
                    std::thread::yield_now();
                }
            }
        });
        DONE.store(true, SeqCst);
    });
}

#[test]
fn each_step_that_fails_is_named_and_undone() {
    child::run("faults::each_step_that_fails_is_named_and_undone", || {
        beside_runners(|all_run| {
            map_what_is_mapped_once();
            // Sites exist after the first time, and the page that a policy is asked about; then only the commit itself
            // is left to fail.
            let first = [
                (libc::SYS_mmap, 0, libc::ENOMEM, "map near memory"),
                (libc::SYS_mprotect, 0, libc::EACCES, "make trampolines executable"),
                (libc::SYS_mmap, 1, libc::EPERM, "executable again"),
            ];
            let always = [
                (libc::SYS_process_vm_readv, 0, libc::EIO, "read the target"),
                (libc::SYS_mprotect, 0, libc::EACCES, "executable again"),
                (libc::SYS_mprotect, 1, libc::EACCES, "executable again"),
                (libc::SYS_mprotect, 2, libc::ENOMEM, "make code writable"),
                (libc::SYS_membarrier, 0, libc::EPERM, "synchronise the cores"),
                (libc::SYS_openat, 0, libc::EMFILE, "read /proc/self/maps"),
                (libc::SYS_openat, 1, libc::EMFILE, "open /proc/self/task"),
                (libc::SYS_getdents64, 0, libc::ENOMEM, "list the threads"),
                (libc::SYS_fstat, 0, libc::EIO, "list the threads"),
                (libc::SYS_lseek, 0, libc::EIO, "list the threads"),
                (libc::SYS_rt_sigprocmask, 0, libc::EINVAL, "block the signals"),
                (libc::SYS_rt_tgsigqueueinfo, 0, libc::EPERM, "signal a thread"),
            ];
            for (number, (call, skip, errno, words)) in first.into_iter().chain(always).enumerate() {
                if number == first.len() {
                    commit(&patient()).unwrap().rollback_with(&patient()).unwrap();
                }
                let before = state();
                fault::fail(call, skip, 1, errno);
                let error = commit(&patient()).unwrap_err();
                assert_eq!(fault::heal(), 0, "{words}: the call was made");
                assert!(is_about(&error, words), "{words}: {error}");
                assert_eq!(state(), before, "{words}");
                all_run();
                assert!(midflight::applied().is_empty());
            }
            commit(&patient()).unwrap().rollback_with(&patient()).unwrap();
        });
    });
}

#[test]
fn the_second_page_that_fails_undoes_the_first() {
    child::run("faults::the_second_page_that_fails_undoes_the_first", || {
        beside_runners(|all_run| {
            // Brought apart, so that each is a step of its own.
            assert_ne!(
                live_faults_one as *const () as usize / 4096,
                live_faults_two as *const () as usize / 4096
            );
            commit(&patient()).unwrap().rollback_with(&patient()).unwrap();
            let before = state();
            fault::separate_pages(true);
            fault::fail(libc::SYS_mprotect, 3, 1, libc::ENOMEM);
            let error = commit(&patient()).unwrap_err();
            assert_eq!(fault::heal(), 0);
            assert!(is_about(&error, "make code writable"), "{error}");
            assert_eq!(state(), before);
            all_run();
            let applied = commit(&patient()).unwrap();
            let on = state();
            fault::fail(libc::SYS_mprotect, 3, 1, libc::ENOMEM);
            let error = applied.rollback_with(&patient()).unwrap_err();
            assert_eq!(fault::heal(), 0);
            assert!(is_about(&error, "make code writable"), "{error}");
            assert_eq!(state(), on, "a rollback that fails leaves the patch on as a whole");
            assert!(applied.is_applied());
            all_run();
            applied.rollback_with(&patient()).unwrap();
            assert_eq!(state().0, before.0);
        });
    });
}

#[test]
fn a_full_signal_queue_is_waited_for() {
    child::run("faults::a_full_signal_queue_is_waited_for", || {
        beside_runners(|all_run| {
            fault::fail(libc::SYS_rt_tgsigqueueinfo, 1, 2, libc::EAGAIN);
            let applied = commit(&patient()).unwrap();
            assert_eq!(fault::heal(), 0);
            all_run();
            applied.rollback_with(&patient()).unwrap();
        });
    });
}

#[test]
fn without_membarrier_threads_synchronise_themselves() {
    child::run("faults::without_membarrier_threads_synchronise_themselves", || {
        fault::fail(libc::SYS_membarrier, 0, u32::MAX, libc::ENOSYS);
        beside_runners(|all_run| {
            for _ in 0..20 {
                let applied = commit(&patient()).unwrap();
                all_run();
                applied.rollback_with(&patient()).unwrap();
            }
        });
    });
}

/// On x86-64 one store is enough to put a layer on another. On aarch64 a barrier has to come first, or a hold.
#[test]
fn without_membarrier_a_layer_needs_a_hold_where_reads_are_not_in_order() {
    child::run("faults::without_membarrier_a_layer_needs_a_hold_where_reads_are_not_in_order", || {
        // So far away that it is jumped to through a pointer.
        let folder = Folder::new();
        let path = folder.library("libfar.so", "unsigned long far(unsigned long n) { return n + 1000; }");
        // SAFETY: it has no constructors.
        let library = unsafe { Library::new(path) }.unwrap();
        // SAFETY: only its address is used.
        let far = unsafe { *library.get::<*const ()>(b"far").unwrap() };
        let put_on = || {
            let mut change = Transaction::new();
            change.replace("live_faults_one", far);
            // SAFETY: same type.
            unsafe { change.commit(&patient()) }.unwrap()
        };
        beside_runners(|_| {
            let first = put_on();
            for refused in [false, true] {
                if refused {
                    fault::fail(libc::SYS_membarrier, 0, u32::MAX, libc::ENOSYS);
                }
                let second = put_on();
                let needs_hold = refused && cfg!(target_arch = "aarch64");
                assert_eq!(second.held().threads > 0, needs_hold);
                assert_eq!(second.rollback_with(&patient()).unwrap().threads > 0, needs_hold);
            }
            fault::heal();
            first.rollback_with(&patient()).unwrap();
        });
    });
}

#[test]
fn near_memory_that_is_taken_meanwhile_is_looked_for_again() {
    child::run("faults::near_memory_that_is_taken_meanwhile_is_looked_for_again", || {
        map_what_is_mapped_once();
        fault::fail(libc::SYS_mmap, 0, 3, libc::EEXIST);
        commit(&patient()).unwrap().rollback_with(&patient()).unwrap();
        assert_eq!(fault::heal(), 0);
    });
}

#[test]
fn near_memory_that_is_always_taken_is_an_error() {
    child::run("faults::near_memory_that_is_always_taken_is_an_error", || {
        map_what_is_mapped_once();
        fault::fail(libc::SYS_mmap, 0, u32::MAX, libc::EEXIST);
        let error = commit(&patient()).unwrap_err();
        assert!(matches!(error, Error::NoNearMemory { .. }), "{error}");
        fault::heal();
        commit(&patient()).unwrap().rollback_with(&patient()).unwrap();
    });
}

/// The lock of all commits.
fn map_what_is_mapped_once() {
    // SAFETY: replaces nothing.
    assert!(matches!(unsafe { midflight::Transaction::new().commit(&patient()) }, Err(Error::Empty)));
}

#[test]
fn without_the_lock_of_all_commits_nothing_is_tried() {
    child::run("faults::without_the_lock_of_all_commits_nothing_is_tried", || {
        fault::fail(libc::SYS_mmap, 0, u32::MAX, libc::EPERM);
        let error = commit(&patient()).unwrap_err();
        assert!(matches!(error, Error::Kernel { step, .. } if step.contains("lock")), "{error}");
        fault::heal();
        commit(&patient()).unwrap().rollback_with(&patient()).unwrap();
    });
}

#[test]
fn single_mappings_are_read_from_the_whole_map_on_older_kernels() {
    child::run("faults::single_mappings_are_read_from_the_whole_map_on_older_kernels", || {
        for errno in [libc::ENOTTY, libc::EPERM] {
            fault::fail(libc::SYS_ioctl, 0, u32::MAX, errno);
            commit(&patient()).unwrap().rollback_with(&patient()).unwrap();
            assert!(fault::heal() < u32::MAX, "it was asked for");
        }
    });
}

#[test]
fn where_memory_may_not_become_executable_nothing_is_tried() {
    child::run("faults::where_memory_may_not_become_executable_nothing_is_tried", || {
        let applied = commit(&patient()).unwrap();
        let before = state();
        // PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: Linux 6.3. Where the kernel has none, the seam refuses.
        // SAFETY: takes a right from this process.
        let has_policy = unsafe { libc::prctl(65, 1, 0, 0, 0) } == 0;
        if !has_policy {
            fault::fail(libc::SYS_mprotect, 0, u32::MAX, libc::EACCES);
        }
        let error = applied.rollback_with(&patient()).unwrap_err();
        assert!(is_about(&error, "executable again"), "{error}");
        assert_eq!(state(), before);
        assert_eq!((live_faults_one(1), live_faults_two(1)), (1001, 1001));
        assert!(applied.is_applied());
    });
}
