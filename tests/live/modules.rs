//! Modules come and go while commits are made.

use crate::adds;
use crate::support::fixtures::{self, Folder};
use crate::support::{child, emulator, patient, watchdog};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use midflight::{Applied, Error, Patch, Transaction};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

type Number = unsafe extern "C" fn(u64) -> u64;

const GUEST: &str =
    "unsigned long guest(unsigned long value) { static volatile unsigned long one = 1; return value + one; }";
const PATCH: &str = "
    static unsigned long far(unsigned long value) { return value + 1000; }
    MIDFLIGHT_PATCH(\"guest\");
    MIDFLIGHT_REPLACE(\"libguest.so!guest\", far);
";

adds! {
    live_modules + 1;
}

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

fn open(path: &std::path::Path) -> Library {
    // SAFETY: a library of plain functions.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.unwrap()
}

#[test]
fn the_module_of_a_target_stays_until_the_rollback() {
    child::run("modules::the_module_of_a_target_stays_until_the_rollback", || {
        let folder = Folder::new();
        let library = folder.library("libguest.so", GUEST);
        let patch = Patch::open(fixtures::patch(&folder, "libguest_patch.so", PATCH)).unwrap();
        assert!(matches!(patch.check(), Err(Error::NotLoaded { module, .. }) if module == "libguest.so"));
        let opened = open(&library);
        // SAFETY: that is its type.
        let guest = unsafe { *opened.get::<Number>(b"guest").unwrap() };
        // SAFETY: same type.
        let applied = unsafe { patch.apply(&patient()) }.unwrap();
        opened.close().unwrap();
        // SAFETY: the patch keeps the module loaded.
        assert_eq!(unsafe { guest(1) }, 1001);
        applied.rollback_with(&patient()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("libguest.so"), "the last hold on it is gone");
        // Loaded again it can be patched again, wherever it is now.
        let opened = open(&library);
        // SAFETY: as above.
        let guest = unsafe { *opened.get::<Number>(b"guest").unwrap() };
        // SAFETY: same type.
        let applied = unsafe { patch.apply(&patient()) }.unwrap();
        // SAFETY: open.
        assert_eq!(unsafe { guest(1) }, 1001);
        applied.rollback_with(&patient()).unwrap();
        // SAFETY: open.
        assert_eq!(unsafe { guest(1) }, 2);
    });
}

#[test]
fn libraries_are_opened_and_closed_during_commits() {
    child::run("modules::libraries_are_opened_and_closed_during_commits", || {
        let _watchdog = watchdog::start(Duration::from_secs(240));
        let folder = Folder::new();
        let target = folder.library("libguest.so", GUEST);
        let others = [folder.library("libother_a.so", GUEST), folder.library("libother_b.so", GUEST)];
        let patch = Patch::open(fixtures::patch(&folder, "libguest_patch.so", PATCH)).unwrap();
        let done = AtomicBool::new(false);
        let (mut on, mut gone) = (0, 0);
        std::thread::scope(|scope| {
            for library in others.iter().chain([&target]) {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(SeqCst) {
                        let opened = open(library);
                        // SAFETY: that is its type; the library is open.
                        let result = unsafe { opened.get::<Number>(b"guest").unwrap()(1) };
                        assert!(result == 2 || result == 1001, "{result}");
                        opened.close().unwrap();
                    }
                });
            }
            let steady = || {
                let mut change = Transaction::new();
                change.replace("live_modules", a_thousand as *const ());
                // SAFETY: same type.
                unsafe { change.commit(&patient()) }
            };
            let enough = if emulator::is_there() { 20 } else { 200 };
            while on < enough {
                let applied: Applied = steady().unwrap();
                assert_eq!(live_modules(1), 1001);
                applied.rollback_with(&patient()).unwrap();
                // SAFETY: same type.
                match unsafe { patch.apply(&emulator::options().deadline(Duration::from_secs(60))) } {
                    Ok(applied) => {
                        applied.rollback_with(&patient()).unwrap();
                        on += 1;
                    }
                    Err(Error::NotLoaded { .. } | Error::ModuleGone { .. }) => gone += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            done.store(true, SeqCst);
        });
        println!("{on} commits on a module that comes and goes, {gone} times it was gone");
    });
}
