//! What happens while threads are held: protections, allocation, safety of the threads.

use crate::adds;
use crate::support::{self, bytes_at, child, emulator, error_in_time, patient, watchdog};
#[cfg(target_arch = "x86_64")]
use crate::target;
use midflight::{Options, Transaction, fault};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

fn commit(name: &str, options: &Options) -> midflight::Result<midflight::Applied> {
    let mut change = Transaction::new();
    change.replace(name, a_thousand as *const ());
    // SAFETY: every target here takes a number and gives one.
    unsafe { change.commit(options) }
}

adds! {
    live_pages + 1;
}

static MAPS: [AtomicU64; 8192] = [const { AtomicU64::new(0) }; 8192];
static MAPS_LEN: AtomicUsize = AtomicUsize::new(0);
static WITNESSED: AtomicBool = AtomicBool::new(false);

/// Reads `/proc/self/maps` as held code may: system calls and stores only.
extern "C" fn read_maps() {
    let buffer = MAPS.as_ptr() as *mut u8;
    // SAFETY: a static path; bytes go to the static buffer, which nobody else uses meanwhile.
    unsafe {
        let fd =
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/proc/self/maps".as_ptr(), libc::O_RDONLY, 0);
        let mut filled = 0;
        loop {
            let count = libc::syscall(libc::SYS_read, fd, buffer.add(filled), size_of_val(&MAPS) - filled);
            if count <= 0 {
                break;
            }
            filled += count as usize;
        }
        libc::syscall(libc::SYS_close, fd);
        MAPS_LEN.store(filled, SeqCst);
    }
    WITNESSED.store(true, SeqCst);
}

/// The permissions in `maps` of the page at `address`.
fn permissions(maps: &str, address: usize) -> String {
    let line = maps.lines().find(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        (usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap())
            .contains(&address)
    });
    line.unwrap_or_else(|| panic!("{address:#x} is not mapped in\n{maps}"))
        .split(' ')
        .nth(1)
        .unwrap()
        .to_owned()
}

fn writable_and_executable(maps: &str) -> Vec<&str> {
    maps.lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|p| p.contains('w') && p.contains('x')))
        .collect()
}

#[test]
fn pages_are_rw_then_rx_and_never_both() {
    child::run("held::pages_are_rw_then_rx_and_never_both", || {
        let now = || std::fs::read_to_string("/proc/self/maps").unwrap();
        let target = live_pages as *const () as usize;
        let before = now();
        assert_eq!(permissions(&before, target), "r-xp");
        assert!(writable_and_executable(&before).is_empty());
        fault::witness(Some(read_maps));
        let applied = commit("live_pages", &patient()).unwrap();
        assert!(WITNESSED.load(SeqCst), "the witness was called");
        // SAFETY: the static buffer, written by the witness.
        let inside = unsafe { bytes_at(MAPS.as_ptr() as usize, MAPS_LEN.load(SeqCst)) };
        let inside = String::from_utf8(inside).unwrap();
        assert_eq!(permissions(&inside, target), "rw-p");
        assert!(writable_and_executable(&inside).is_empty(), "{:?}", writable_and_executable(&inside));
        let after = now();
        assert_eq!(permissions(&after, target), "r-xp");
        assert!(writable_and_executable(&after).is_empty());
        applied.rollback_with(&patient()).unwrap();
        assert_eq!(permissions(&now(), target), "r-xp");
    });
}

adds! {
    live_no_allocation + 1;
    live_no_allocation_either + 1;
}

#[test]
fn nothing_is_allocated_while_threads_are_held() {
    child::run("held::nothing_is_allocated_while_threads_are_held", || {
        static DONE: AtomicBool = AtomicBool::new(false);
        // Threads that start and end make the list grow during the hold.
        let spawners: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    while !DONE.load(SeqCst) {
                        std::thread::spawn(|| live_no_allocation(1)).join().unwrap();
                    }
                })
            })
            .collect();
        let before = support::alloc::WATCHED.load(SeqCst);
        for _ in 0..100 {
            let mut change = Transaction::new();
            // Two: one function alone may be switched without a hold.
            change.replace("live_no_allocation", a_thousand as *const ());
            change.replace("live_no_allocation_either", a_thousand as *const ());
            // SAFETY: both take a number and give one.
            unsafe { change.commit(&patient()) }.unwrap().rollback_with(&patient()).unwrap();
        }
        DONE.store(true, SeqCst);
        spawners.into_iter().for_each(|spawner| spawner.join().unwrap());
        assert!(support::alloc::WATCHED.load(SeqCst) - before >= 200, "the allocator watched");
    });
}

#[test]
fn an_allocation_while_threads_are_held_would_be_seen() {
    fn allocate(stage: fault::Stage) {
        if stage == fault::Stage::Quiesced {
            drop(std::hint::black_box(Box::new(1)));
        }
    }
    let name = "held::an_allocation_while_threads_are_held_would_be_seen";
    child::must_die(name, "allocation while threads are held", || {
        support::alloc::watch();
        support::alloc::then(allocate);
        let _ = commit("live_no_allocation", &patient());
    });
}

adds! {
    live_blocked + 1;
}

#[test]
fn a_thread_that_cannot_be_stopped_is_named_and_nothing_changes() {
    child::run("held::a_thread_that_cannot_be_stopped_is_named_and_nothing_changes", || {
        static TID: AtomicI32 = AtomicI32::new(0);
        static DONE: AtomicBool = AtomicBool::new(false);
        let deaf = std::thread::Builder::new().name("deaf".into()).spawn(|| {
            // SAFETY: a mask of this thread's own.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
                TID.store(libc::gettid(), SeqCst);
            }
            while !DONE.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        while TID.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        // SAFETY: the target's bytes.
        let before = unsafe { bytes_at(live_blocked as *const () as usize, 16) };
        let start = Instant::now();
        let words = format!("thread {} (deaf) blocks signal", TID.load(SeqCst));
        let error = error_in_time(
            |options| commit("live_blocked", options),
            |error| error.to_string().contains(&words),
        );
        assert!(start.elapsed() >= Duration::from_millis(200));
        assert!(error.to_string().contains(&words), "{error}");
        // SAFETY: as above.
        assert_eq!(before, unsafe { bytes_at(live_blocked as *const () as usize, 16) });
        assert_eq!(live_blocked(1), 2);
        // Left alone by name it does not stand in the way; and once it listens it is held like any other.
        // SAFETY: it does not come near the page of the target.
        let ignoring = unsafe { patient().ignore_thread(TID.load(SeqCst)) };
        commit("live_blocked", &ignoring).unwrap().rollback_with(&ignoring).unwrap();
        DONE.store(true, SeqCst);
        deaf.unwrap().join().unwrap();
        commit("live_blocked", &patient()).unwrap().rollback_with(&patient()).unwrap();
    });
}

adds! {
    live_waits_for_signals + 1;
}

#[test]
fn signals_in_use_are_left_alone() {
    if emulator::is_there() {
        return; // What its threads wait for in the kernel is not what the program's wait for.
    }
    child::run("held::signals_in_use_are_left_alone", || {
        static STOLEN: AtomicI32 = AtomicI32::new(0);
        static READY: AtomicBool = AtomicBool::new(false);
        extern "C" fn mine(signal: i32) {
            STOLEN.store(signal, SeqCst);
        }
        let _watchdog = watchdog::start(Duration::from_secs(100));
        // SIGURG and every signal above 50 has a handler of the program's; one more is waited for.
        for signal in (51..=64).chain([libc::SIGURG]) {
            // SAFETY: the handler stores a number.
            unsafe { libc::signal(signal, mine as *const () as usize) };
        }
        std::thread::spawn(|| {
            // SAFETY: a set of this thread's own.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, 50);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                READY.store(true, SeqCst);
                let mut signal = 0;
                libc::sigwait(&raw const set, &raw mut signal);
                STOLEN.store(signal, SeqCst);
            }
        });
        while !READY.load(SeqCst) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(100));
        commit("live_waits_for_signals", &patient()).unwrap().rollback_with(&patient()).unwrap();
        assert_eq!(STOLEN.load(SeqCst), 0, "a signal of the program's was used");
    });
}

// The first instruction is the system call; its thread sleeps in the kernel and goes on inside the site.
#[cfg(target_arch = "x86_64")]
target! {
    fn live_sleeps_at_once(*const libc::timespec, u64, u64, u64) -> u64 {
        "syscall", "nop", "nop", "nop", "nop", "mov eax, 5", "ret"
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_thread_inside_the_site_goes_on_in_the_trampoline() {
    child::run("held::a_thread_inside_the_site_goes_on_in_the_trampoline", || {
        let _watchdog = watchdog::start(Duration::from_secs(100));
        static INSIDE: AtomicBool = AtomicBool::new(false);
        extern "C" fn ten(_: u64) -> u64 {
            10
        }
        // The wrapper sets rax to the number of nanosleep before it calls the target.
        fn sleep() -> u64 {
            let time = libc::timespec { tv_sec: 0, tv_nsec: 400_000_000 };
            let result: u64;
            INSIDE.store(true, SeqCst);
            // SAFETY: calls the target as its assembly wants it: nanosleep(&time, null).
            unsafe {
                std::arch::asm!(
                    "call {target}",
                    target = sym live_sleeps_at_once,
                    inlateout("rax") libc::SYS_nanosleep => result,
                    in("rdi") &raw const time, in("rsi") 0,
                    lateout("rcx") _, lateout("r11") _, clobber_abi("C"),
                );
            }
            result
        }
        for _ in 0..3 {
            INSIDE.store(false, SeqCst);
            let sleeper = std::thread::spawn(sleep);
            while !INSIDE.load(SeqCst) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(100));
            let mut change = Transaction::new();
            change.replace("live_sleeps_at_once", ten as *const ());
            // SAFETY: the replacement ignores its arguments.
            let applied = unsafe { change.commit(&patient()) }.unwrap();
            assert_eq!(sleep(), 10, "new calls go to the replacement");
            assert_eq!(sleeper.join().unwrap(), 5, "the call begun in old code ends there");
            applied.rollback_with(&patient()).unwrap();
        }
    });
}
