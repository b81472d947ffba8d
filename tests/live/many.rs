//! Five hundred functions switch at once.

use crate::support::fixtures::{self, Folder};
use crate::support::{child, patient, watchdog};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use midflight::Patch;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const COUNT: usize = 500;

type Function = unsafe extern "C" fn() -> u64;

fn sources() -> (String, String) {
    let (mut targets, mut patch) = (String::new(), String::from("MIDFLIGHT_PATCH(\"many\");\n"));
    for number in 0..COUNT {
        writeln!(
            targets,
            "unsigned long many_{number}(void) {{ static volatile unsigned long v; return v; }}"
        )
        .unwrap();
        writeln!(patch, "static unsigned long new_{number}(void) {{ return 1; }}").unwrap();
        writeln!(patch, "MIDFLIGHT_REPLACE(\"libmany.so!many_{number}\", new_{number});").unwrap();
    }
    (targets, patch)
}

#[test]
fn nobody_sees_one_new_and_then_another_old() {
    child::run("many::nobody_sees_one_new_and_then_another_old", || {
        let _watchdog = watchdog::start(Duration::from_secs(240));
        let (folder, (targets, patch)) = (Folder::new(), sources());
        let library = folder.library("libmany.so", &targets);
        // SAFETY: a library of plain functions.
        let library = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_LOCAL) }.unwrap();
        let functions: Vec<Function> = (0..COUNT)
            // SAFETY: that is their type.
            .map(|number| unsafe { *library.get::<Function>(format!("many_{number}").as_bytes()).unwrap() })
            .collect();
        let patch = Patch::open(fixtures::patch(&folder, "libmany_patch.so", &patch)).unwrap();
        assert_eq!(patch.check().unwrap().functions.len(), COUNT);
        // 0: going on or on, so new then old is wrong; 1: going off or off, so old then new is wrong; odd
        // numbers of `turn` mark the change between the two, when a pair may begin in one and end in the other.
        let (turn, done, mixed, pairs) =
            (AtomicU32::new(0), AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let (functions, turn, done, mixed, pairs) = (&functions, &turn, &done, &mixed, &pairs);
                scope.spawn(move || {
                    let mut number = thread * 7919;
                    while !done.load(SeqCst) {
                        number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let (f, g) = (functions[(number >> 33) % COUNT], functions[(number >> 45) % COUNT]);
                        let before = turn.load(SeqCst);
                        // SAFETY: they take nothing and give a number.
                        let (first, second) = unsafe { (f(), g()) };
                        if before == turn.load(SeqCst) && before % 2 == 0 {
                            let forbidden = if before % 4 == 0 { (1, 0) } else { (0, 1) };
                            mixed.fetch_add(u64::from((first, second) == forbidden), SeqCst);
                            pairs.fetch_add(1, SeqCst);
                        }
                    }
                });
            }
            for _ in 0..60 {
                // SAFETY: same types.
                let applied = unsafe { patch.apply(&patient()) }.unwrap();
                turn.fetch_add(2, SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                applied.rollback_with(&patient()).unwrap();
                turn.fetch_add(2, SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
            done.store(true, SeqCst);
        });
        println!("{} pairs, {} mixed", pairs.load(SeqCst), mixed.load(SeqCst));
        assert!(pairs.load(SeqCst) > 0);
        assert_eq!(mixed.load(SeqCst), 0);
    });
}
