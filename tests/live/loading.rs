//! What the dynamic linker is asked, and what it refuses.

use crate::adds;
use crate::support::fixtures::{self, Folder};
use crate::support::{child, patient};
use midflight::{Error, Patch, fault};

adds! {
    live_loading + 1;
}

const BODY: &str = r#"
    static unsigned long zero(unsigned long value) { return value * 0; }
    MIDFLIGHT_PATCH("loading");
    MIDFLIGHT_REPLACE("live_loading", zero);
"#;

#[test]
fn undefined_symbols_are_all_listed_before_anything_is_loaded() {
    let folder = Folder::new();
    let source = r#"
        unsigned long nowhere_one(unsigned long);
        unsigned long nowhere_two(unsigned long);
        static unsigned long call(unsigned long value) { return nowhere_one(value) + nowhere_two(value); }
        MIDFLIGHT_PATCH("undefined");
        MIDFLIGHT_REPLACE("live_loading", call);
    "#;
    let patch = Patch::open(fixtures::patch(&folder, "libundefined.so", source)).unwrap();
    // SAFETY: refused.
    let from_apply = unsafe { patch.apply(&patient()) }.map(drop).unwrap_err();
    for error in [patch.check().map(drop).unwrap_err(), from_apply] {
        let Error::UndefinedSymbols { names, .. } = &error else { panic!("{error}") };
        assert_eq!(*names, ["nowhere_one", "nowhere_two"]);
        assert!(error.to_string().contains("libundefined.so needs 2 symbols"), "{error}");
    }
    assert_eq!(live_loading(1), 2);
}

#[test]
fn what_the_dynamic_linker_refuses() {
    let folder = Folder::new();
    // It needs a library that is not where the linker looks.
    folder.library("libgone.so", "int gone(void) { return 1; }");
    let arguments =
        [format!("-L{}", folder.path("").display()), "-lgone".into(), "-Wl,--no-as-needed".into()];
    let source = r#"
        #include <midflight/patch.h>
        int gone(void);
        static unsigned long call(unsigned long value) { return value + (unsigned long)gone(); }
        MIDFLIGHT_PATCH("refused");
        MIDFLIGHT_REPLACE("live_loading", call);
    "#;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let path = folder.library_with("librefused.so", source, &arguments);
    let patch = Patch::open(path).unwrap();
    // SAFETY: refused.
    let error = unsafe { patch.apply(&patient()) }.unwrap_err();
    let Error::Load { message, .. } = &error else { panic!("{error}") };
    assert!(message.contains("libgone.so") && !error.to_string().contains("/proc/self/fd"), "{error}");
    assert_eq!(live_loading(1), 2);
}

#[test]
fn without_memfds_a_file_without_a_name_serves() {
    child::run("loading::without_memfds_a_file_without_a_name_serves", || {
        let folder = Folder::new();
        let patch = Patch::open(fixtures::patch(&folder, "libloading.so", BODY)).unwrap();
        fault::fail(libc::SYS_memfd_create, 0, 9, libc::EACCES);
        // SAFETY: same type.
        let applied = unsafe { patch.apply(&patient()) }.unwrap();
        assert_eq!(fault::heal(), 8, "a memfd was asked for, once");
        assert_eq!(live_loading(1), 0);
        applied.rollback_with(&patient()).unwrap();
    });
}

#[test]
fn without_any_private_copy_nothing_is_loaded() {
    child::run("loading::without_any_private_copy_nothing_is_loaded", || {
        let folder = Folder::new();
        let patch = Patch::open(fixtures::patch(&folder, "libloading.so", BODY)).unwrap();
        // SAFETY: this process has one thread that reads variables.
        unsafe { std::env::set_var("TMPDIR", folder.path("nowhere")) };
        fault::fail(libc::SYS_memfd_create, 0, 1, libc::EACCES);
        // SAFETY: refused.
        let error = unsafe { patch.apply(&patient()) }.unwrap_err();
        assert!(matches!(&error, Error::KeepCopy { .. }), "{error}");
        assert_eq!(live_loading(1), 2);
    });
}

#[test]
fn a_descriptor_that_the_program_closed_is_not_mistaken() {
    child::run("loading::a_descriptor_that_the_program_closed_is_not_mistaken", || {
        let folder = Folder::new();
        let other = BODY.replace("value * 0", "value * 0 + 5").replace("\"loading\"", "\"other\"");
        let first = Patch::open(fixtures::patch(&folder, "libfirst.so", BODY)).unwrap();
        let second = Patch::open(fixtures::patch(&folder, "libsecond.so", &other)).unwrap();
        // SAFETY: same type.
        let first = unsafe { first.apply(&patient()) }.unwrap();
        assert_eq!(live_loading(1), 0);
        // As a program does that makes a daemon of itself.
        for fd in 3..100 {
            // SAFETY: nothing of this process is in use through a descriptor.
            unsafe { libc::close(fd) };
        }
        // SAFETY: same type.
        let second = unsafe { second.apply(&patient()) }.unwrap();
        assert_eq!(live_loading(1), 5, "the second library, not the first under its number");
        second.rollback_with(&patient()).unwrap();
        first.rollback_with(&patient()).unwrap();
        assert_eq!(live_loading(1), 2);
    });
}
