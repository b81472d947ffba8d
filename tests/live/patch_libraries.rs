//! Patch libraries in Rust and in C do the same; what is loaded is what was parsed.

use crate::adds;
use crate::support::fixtures::{self, Folder};
use crate::support::{child, patient, watchdog};
use crate::targets::{greet, live_rust_target};
use midflight::{Error, Patch};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

#[test]
fn in_rust() {
    let patch = Patch::open(fixtures::rust_patch()).unwrap();
    assert_eq!(patch.name(), "rust-patch");
    assert_eq!(patch.targets().collect::<Vec<_>>().len(), 2);
    // This program has an allocator of its own, which is the system's with a watch on it.
    let options = patient().allow_other_runtime();
    let check = patch.check_with(&options).unwrap();
    assert_eq!(check.functions.len(), 2);
    assert_eq!((live_rust_target(1), greet("you").as_str()), (2, "Hello, you."));
    // SAFETY: built for these targets.
    let applied = unsafe { patch.apply(&options) }.unwrap();
    assert_eq!((live_rust_target(1), greet("you").as_str()), (1002, "patched: hello, you"));
    // SAFETY: as above.
    let again = unsafe { patch.apply(&options) };
    assert!(matches!(again, Err(Error::AlreadyApplied { name }) if name == "rust-patch"));
    let same_bytes = Patch::open(fixtures::rust_patch()).unwrap();
    // SAFETY: as above.
    assert!(matches!(unsafe { same_bytes.apply(&options) }, Err(Error::AlreadyApplied { .. })));
    assert!(patch.check_with(&options).unwrap().functions.iter().all(|function| function.layers == 1));
    applied.rollback_with(&patient()).unwrap();
    assert_eq!((live_rust_target(1), greet("you").as_str()), (2, "Hello, you."));
    assert!(matches!(applied.rollback_with(&patient()), Err(Error::NotApplied { .. })));
    // SAFETY: as above.
    let applied = unsafe { patch.apply(&options) }.unwrap();
    assert_eq!(live_rust_target(1), 1002, "on again after the rollback");
    applied.rollback_with(&patient()).unwrap();
}

adds! {
    live_c_target + 1;
    live_c_second + 2;
    live_constructor + 1;
    live_same_path + 1;
    live_original_first + 1;
}

#[test]
fn in_c() {
    let folder = Folder::new();
    let source = r#"
        static unsigned long (*old)(unsigned long);
        static unsigned long add(unsigned long value) { return old(value) + 1000; }
        static unsigned long zero(unsigned long value) { return value * 0; }
        MIDFLIGHT_PATCH("in-c");
        MIDFLIGHT_REPLACE_ORIGINAL("live_c_target", add, old);
        MIDFLIGHT_REPLACE("live_c_second", zero);
    "#;
    let patch = Patch::open(fixtures::patch(&folder, "libin_c.so", source)).unwrap();
    assert_eq!(patch.name(), "in-c");
    patch.check().unwrap();
    // SAFETY: same types.
    let applied = unsafe { patch.apply(&patient()) }.unwrap();
    assert_eq!((live_c_target(1), live_c_second(1)), (1002, 0));
    assert_eq!(applied.path(), Some(folder.path("libin_c.so").as_path()), "reports show the user's path");
    applied.rollback_with(&patient()).unwrap();
    assert_eq!((live_c_target(1), live_c_second(1)), (2, 3));
}

#[test]
fn no_code_of_it_runs_before_apply() {
    child::run("patch_libraries::no_code_of_it_runs_before_apply", || {
        let folder = Folder::new();
        let source = r#"
            #include <stdlib.h>
            __attribute__((constructor)) static void ran(void) { setenv("MIDFLIGHT_TEST_CONSTRUCTED", "yes", 1); }
            static unsigned long zero(unsigned long value) { return value * 0; }
            MIDFLIGHT_PATCH("constructor");
            MIDFLIGHT_REPLACE("live_constructor", zero);
        "#;
        let ran = || std::env::var("MIDFLIGHT_TEST_CONSTRUCTED").is_ok();
        let patch = Patch::open(fixtures::patch(&folder, "libconstructor.so", source)).unwrap();
        patch.check().unwrap();
        assert!(!ran(), "open and check run nothing of it");
        assert!(
            !std::fs::read_to_string("/proc/self/maps").unwrap().contains("libconstructor"),
            "nor load it"
        );
        // SAFETY: same type; the constructor sets a variable.
        let applied = unsafe { patch.apply(&patient()) }.unwrap();
        assert!(ran());
        applied.rollback_with(&patient()).unwrap();
    });
}

fn version(number: u32) -> String {
    format!(
        "static unsigned long version(unsigned long value) {{ return value * 0 + {number}; }}
         MIDFLIGHT_PATCH(\"version-{number}\");
         MIDFLIGHT_REPLACE(\"live_same_path\", version);"
    )
}

#[test]
fn what_was_opened_is_what_is_loaded() {
    let folder = Folder::new();
    let path = fixtures::patch(&folder, "libversion.so", &version(2));
    let second = std::fs::read(&path).unwrap();
    fixtures::patch(&folder, "libversion.so", &version(1));
    let first = Patch::open(&path).unwrap();
    // Written over in place, then replaced by rename, then removed: what was read counts.
    std::fs::write(&path, b"rubbish").unwrap();
    // SAFETY: same type.
    let one = unsafe { first.apply(&patient()) }.unwrap();
    assert_eq!(live_same_path(5), 1);
    std::fs::write(folder.path("new"), &second).unwrap();
    std::fs::rename(folder.path("new"), &path).unwrap();
    let patch = Patch::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // SAFETY: same type.
    let two = unsafe { patch.apply(&patient()) }.unwrap();
    assert_eq!(live_same_path(5), 2, "a second version at the same path");
    assert_eq!((one.name(), two.name()), ("version-1", "version-2"));
    one.rollback_with(&patient()).unwrap();
    assert_eq!(live_same_path(5), 2);
    two.rollback_with(&patient()).unwrap();
    assert_eq!(live_same_path(5), 6);
}

#[test]
fn the_original_is_there_before_the_first_call() {
    child::run("patch_libraries::the_original_is_there_before_the_first_call", || {
        let _watchdog = watchdog::start(Duration::from_secs(200));
        let folder = Folder::new();
        // From its first instruction on: it does nothing but jump through the original.
        let source = r#"
            #ifdef __x86_64__
            #define JUMP "jmp *old(%rip)"
            #else
            #define JUMP "adrp x16, old\n ldr x16, [x16, :lo12:old]\n br x16"
            #endif
            unsigned long (*old)(unsigned long) __attribute__((visibility("hidden")));
            unsigned long through(unsigned long value);
            __asm__(".text\n.globl through\n.hidden through\n.type through,@function\n"
                    "through: " JUMP "\n.size through,.-through\n");
            MIDFLIGHT_PATCH("through");
            MIDFLIGHT_REPLACE_ORIGINAL("live_original_first", through, old);
        "#;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        assert_eq!(live_original_first(1), 2);
                    }
                });
            }
            // Each of these libraries is new, so its original is empty until it is applied.
            for number in 0..30 {
                let source = source.replace("\"through\")", &format!("\"through-{number}\")"));
                let patch =
                    Patch::open(fixtures::patch(&folder, &format!("lib{number}.so"), &source)).unwrap();
                // SAFETY: same type.
                let applied = unsafe { patch.apply(&patient()) }.unwrap();
                std::thread::sleep(Duration::from_millis(2));
                applied.rollback_with(&patient()).unwrap();
            }
            done.store(true, SeqCst);
        });
    });
}
