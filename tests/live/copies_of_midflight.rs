//! Two copies of midflight in one process, as a program and a plugin may have: their commits exclude each other, and
//! what one has changed the other refuses to touch.

use crate::adds;
use crate::support::{child, emulator, fixtures, patient, watchdog};
use midflight::fault::{self, Stage};
use midflight::{Error, Transaction};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

adds! {
    live_two_copies + 1;
    live_two_copies_other + 1;
}

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

type Commit = extern "C" fn(*const (), *const (), u64) -> i32;

struct Second(libloading::Library);

impl Second {
    fn load() -> Self {
        // SAFETY: its constructors are those of std.
        Self(unsafe { libloading::Library::new(fixtures::second_copy()) }.unwrap())
    }

    fn commit(&self, target: *const (), milliseconds: u64) -> i32 {
        self.know_the_emulator();
        // SAFETY: it has this type.
        let commit = unsafe { self.0.get::<Commit>(b"second_copy_commit") }.unwrap();
        commit(target, a_thousand as *const (), milliseconds)
    }

    /// Before each use: in a forked child it is another thread.
    fn know_the_emulator(&self) {
        for tid in emulator::threads() {
            // SAFETY: it has this type.
            unsafe { self.0.get::<extern "C" fn(i32)>(b"second_copy_ignore") }.unwrap()(*tid);
        }
    }

    fn roll_back(&self) -> i32 {
        self.know_the_emulator();
        // SAFETY: it has this type.
        unsafe { self.0.get::<extern "C" fn() -> i32>(b"second_copy_roll_back") }.unwrap()()
    }
}

fn commit(target: *const ()) -> midflight::Result<midflight::Applied> {
    let mut change = Transaction::new();
    change.replace(target, a_thousand as *const ());
    // SAFETY: same types.
    unsafe { change.commit(&patient()) }
}

const ONE: *const () = live_two_copies as *const ();
const OTHER: *const () = live_two_copies_other as *const ();

#[test]
fn neither_touches_what_the_other_has_changed() {
    child::run("copies_of_midflight::neither_touches_what_the_other_has_changed", || {
        let second = Second::load();
        let first = commit(ONE).unwrap();
        assert_eq!(second.commit(ONE, 60_000), 2);
        assert_eq!(second.commit(OTHER, 60_000), 0);
        assert_eq!((live_two_copies(1), live_two_copies_other(1)), (1001, 1001));
        assert!(matches!(commit(OTHER), Err(Error::OtherHook { .. })));
        assert_eq!(midflight::applied().len(), 1, "each knows its own");
        first.rollback_with(&patient()).unwrap();
        assert_eq!((live_two_copies(1), live_two_copies_other(1)), (2, 1001));
        assert_eq!(second.commit(ONE, 60_000), 0);
        assert_eq!(second.roll_back(), 2);
        assert_eq!((live_two_copies(1), live_two_copies_other(1)), (2, 2));
        commit(ONE).unwrap().rollback_with(&patient()).unwrap();
    });
}

#[test]
fn their_commits_exclude_each_other() {
    child::run("copies_of_midflight::their_commits_exclude_each_other", || {
        let _watchdog = watchdog::start(Duration::from_secs(200));
        static IN_COMMIT: AtomicBool = AtomicBool::new(false);
        static GO_ON: AtomicBool = AtomicBool::new(false);
        fn stay(stage: Stage) {
            if stage == Stage::Prepared {
                IN_COMMIT.store(true, SeqCst);
                while !GO_ON.load(SeqCst) {
                    std::hint::spin_loop();
                }
            }
        }
        let second = Second::load();
        std::thread::scope(|scope| {
            fault::observe(Some(stay));
            let first = scope.spawn(|| commit(ONE).map(drop));
            while !IN_COMMIT.load(SeqCst) {
                std::thread::yield_now();
            }
            assert_eq!(second.commit(OTHER, 100), 1, "the first has not finished");
            assert_eq!(live_two_copies_other(1), 2);
            GO_ON.store(true, SeqCst);
            assert!(first.join().unwrap().is_ok());
            fault::observe(None);
        });
        assert_eq!(second.commit(OTHER, 60_000), 0);

        // Many commits of both at once, and forks meanwhile: the child can commit with either.
        second.roll_back();
        for applied in midflight::applied() {
            applied.rollback_with(&patient()).unwrap();
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    commit(ONE).unwrap().rollback_with(&patient()).unwrap();
                }
            });
            for _ in 0..20 {
                assert_eq!(second.commit(OTHER, 60_000), 0);
                // SAFETY: the child calls these and ends.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    let good = second.roll_back() == 1
                        && second.commit(OTHER, 60_000) == 0
                        && commit(ONE).is_ok() | (live_two_copies(1) == 1001);
                    // SAFETY: ends the child at once.
                    unsafe { libc::_exit(if good { 0 } else { 1 }) };
                }
                let mut status = 0;
                // SAFETY: a child of ours.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                assert_eq!(status, 0);
                assert_eq!(second.roll_back(), 1);
            }
            done.store(true, SeqCst);
        });
        assert_eq!((live_two_copies(1), live_two_copies_other(1)), (2, 2));
    });
}

#[test]
fn a_copy_that_committed_stays_loaded() {
    child::run("copies_of_midflight::a_copy_that_committed_stays_loaded", || {
        std::thread::spawn(|| {
            let second = Second::load();
            assert_eq!(second.commit(OTHER, 60_000), 0);
            assert_eq!(second.roll_back(), 1);
        })
        .join()
        .unwrap();
        // Closed by now; its handler is in use still.
        // SAFETY: a signal to this process, of which the default is to be ignored.
        unsafe { libc::kill(libc::getpid(), libc::SIGURG) };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.contains("libsecond_copy.so"));
        let second = Second::load();
        assert_eq!(second.commit(OTHER, 60_000), 0, "and works on");
        assert_eq!(second.roll_back(), 1);
    });
}

/// Where copies look for their common page first; changes only with the version that stands on it.
const PLACE: usize = 0x2000_4d4c_0000;

/// Maps a page there, as somebody else might have.
fn occupy(words: [u64; 2]) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let (read_write, place) = (libc::PROT_READ | libc::PROT_WRITE, PLACE as *mut libc::c_void);
    // SAFETY: a new mapping, which replaces nothing.
    let page = unsafe { libc::mmap(place, 4096, read_write, flags, -1, 0) };
    assert_eq!(page as usize, PLACE, "this process has not committed yet");
    // SAFETY: ours, and as long as that.
    unsafe { page.cast::<[u64; 2]>().write(words) };
}

#[test]
fn a_copy_that_keeps_its_lock_otherwise_is_not_worked_beside() {
    child::run("copies_of_midflight::a_copy_that_keeps_its_lock_otherwise_is_not_worked_beside", || {
        occupy([u64::from_le_bytes(*b"MIDFLGHT"), 77]);
        let error = commit(ONE).map(drop).unwrap_err();
        assert!(matches!(error, Error::OtherCopy { version: 77, .. }), "{error}");
        assert!(error.to_string().contains("link one version only"), "{error}");
        assert_eq!(live_two_copies(1), 2);
    });
}

#[test]
fn what_is_mapped_where_the_lock_should_be_is_left_alone() {
    child::run("copies_of_midflight::what_is_mapped_where_the_lock_should_be_is_left_alone", || {
        let words = [7, 8];
        occupy(words);
        let second = Second::load();
        let first = commit(ONE).unwrap();
        assert_eq!(second.commit(OTHER, 60_000), 0, "both find the same other place");
        assert_eq!((live_two_copies(1), live_two_copies_other(1)), (1001, 1001));
        assert_eq!(second.roll_back(), 1);
        first.rollback_with(&patient()).unwrap();
        // SAFETY: the page that was mapped above.
        assert_eq!(unsafe { (PLACE as *const [u64; 2]).read() }, words);
    });
}
