//! Storms: threads call a target in a tight loop while it is patched and rolled back, and every result is
//! the old or the new one. `MIDFLIGHT_SOAK=seconds` makes each of them run that long.

use crate::support::fixtures::{self, Folder};
use crate::support::{child, emulator, watchdog};
use crate::target;
use midflight::{Applied, Error, Options, Patch, Transaction};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

// Six instructions of one byte each: also the slot form, which takes six bytes, ends between instructions.
#[cfg(target_arch = "x86_64")]
target! {
    fn live_storm(u64) -> u64 {
        "push rbp", "push rbx", "push rdi", "pop rax", "pop rbx", "pop rbp", "inc rax", "ret"
    }
}
#[cfg(target_arch = "aarch64")]
target! {
    fn live_storm(u64) -> u64 { "add x0, x0, #1", "ret" }
}

extern "C" fn near(value: u64) -> u64 {
    value + 1000
}

const FAR: &str = "
    static unsigned long far(unsigned long value) { return value + 1000; }
    MIDFLIGHT_PATCH(\"storm\");
    MIDFLIGHT_REPLACE(\"live_storm\", far);
";

/// One caller's tally.
#[derive(Default)]
struct Caller {
    calls: AtomicU64,
    /// Times that the result changed to the old, to the new one.
    phases: [AtomicU64; 2],
    wrong: AtomicU64,
}

impl Caller {
    fn call(&self, last: &mut Option<usize>, value: u64) {
        let result = live_storm(value);
        let phase = match result.wrapping_sub(value) {
            1 => 0,
            1000 => 1,
            _ => {
                self.wrong.fetch_add(1, SeqCst);
                return;
            }
        };
        if *last != Some(phase) {
            self.phases[phase].fetch_add(1, Relaxed);
            *last = Some(phase);
        }
        self.calls.fetch_add(1, Relaxed);
    }

    fn has_seen_both(&self, times: u64) -> bool {
        self.phases.iter().all(|phase| phase.load(Relaxed) >= times)
    }
}

/// Runs at least `cycles` cycles of `apply` and rollback against `threads` callers, and on until each has
/// seen both results in ten phases each.
fn storm(what: &str, threads: usize, cycles: u64, apply: impl Fn() -> Result<Applied, Error>) {
    let soak =
        std::env::var("MIDFLIGHT_SOAK").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let _watchdog = watchdog::start(soak.unwrap_or_default() + Duration::from_secs(240));
    // Instruction by instruction translated, all takes longer; so do holds.
    let cycles = if emulator::is_there() { cycles / 20 } else { cycles };
    let callers: Vec<Caller> = (0..threads).map(|_| Caller::default()).collect();
    let done = AtomicBool::new(false);
    let (mut complete, mut late, start) = (0u64, 0u64, Instant::now());
    std::thread::scope(|scope| {
        let done = &done;
        for caller in &callers {
            scope.spawn(move || {
                if threads > 4 {
                    // So many callers let the committing thread have its turn; else each commit waits for a
                    // round of time slices of all of them, which says nothing about commits.
                    // SAFETY: a thread may always be nicer.
                    assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }, 0);
                }
                let (mut last, mut value) = (None, 0);
                while !done.load(Relaxed) {
                    value += 1;
                    caller.call(&mut last, value);
                }
            });
        }
        let go_on = |complete| match soak {
            Some(soak) => start.elapsed() < soak,
            None => complete < cycles || !callers.iter().all(|caller| caller.has_seen_both(10)),
        };
        while go_on(complete) {
            match apply().and_then(|applied| {
                // A switch that nobody could see in force proves nothing.
                if complete.is_multiple_of(4) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                roll_back(&applied, &mut late)
            }) {
                Ok(()) => complete += 1,
                Err(Error::Deadline { .. }) => late += 1,
                Err(error) => panic!("{error}"),
            }
            if complete.is_multiple_of(4) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        done.store(true, SeqCst);
    });
    let sum = |field: fn(&Caller) -> u64| callers.iter().map(field).sum::<u64>();
    let (calls, wrong) = (sum(|one| one.calls.load(SeqCst)), sum(|one| one.wrong.load(SeqCst)));
    let rate = complete as f64 / start.elapsed().as_secs_f64();
    println!(
        "{what}: {threads} threads, {complete} cycles, {rate:.0} a second, {late} late, {calls} calls, {wrong} wrong"
    );
    assert_eq!(wrong, 0);
    assert!(late * 100 <= complete, "{late} of {complete} ended at their deadline");
}

/// The default deadline, but under an emulator.
fn options() -> Options {
    let options = emulator::options();
    if emulator::is_there() { options.deadline(Duration::from_secs(20)) } else { options }
}

/// A rollback that comes too late is tried again: the storm must not end with the patch on.
fn roll_back(applied: &Applied, late: &mut u64) -> Result<(), Error> {
    loop {
        match applied.rollback_with(&options()) {
            Err(Error::Deadline { .. }) => *late += 1,
            other => return other.map(drop),
        }
    }
}

fn near_storm(threads: usize, cycles: u64) {
    let mut change = Transaction::new();
    change.replace("live_storm", near as *const ());
    // SAFETY: same type.
    storm("near", threads, cycles, || unsafe { change.commit(&options()) });
}

fn far_storm(threads: usize, cycles: u64) {
    let folder = Folder::new();
    let patch = Patch::open(fixtures::patch(&folder, "libstorm.so", FAR)).unwrap();
    // SAFETY: same type.
    storm("far", threads, cycles, || unsafe { patch.apply(&options()) });
}

#[test]
fn near_with_4_threads() {
    child::run("storm::near_with_4_threads", || near_storm(4, 2000));
}

#[test]
fn near_with_64_threads() {
    child::run("storm::near_with_64_threads", || near_storm(64, 200));
}

#[test]
fn far_with_4_threads() {
    child::run("storm::far_with_4_threads", || far_storm(4, 2000));
}

#[test]
fn far_with_64_threads() {
    child::run("storm::far_with_64_threads", || far_storm(64, 200));
}

#[test]
fn while_threads_start_and_end() {
    child::run("storm::while_threads_start_and_end", || {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        let short = std::thread::spawn(|| {
                            (0..1000).all(|value| [1, 1000].contains(&(live_storm(value) - value)))
                        });
                        assert!(short.join().unwrap());
                    }
                });
            }
            far_storm(4, 500);
            done.store(true, SeqCst);
        });
    });
}
