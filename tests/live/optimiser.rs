//! What the optimiser does to a function and its callers when it knows the body, and that `patchable!` prevents
//! it. `docs/targets.md` names these tests.
//!
//! The cure must hold with every compiler. The harm is shown with the one at hand, and only on x86-64: another one
//! may do less of it, and then the documentation has to follow.

use crate::support::{child, fixtures, patient};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use midflight::{Error, Original, Transaction};
use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};

type Number = fn(u64) -> u64;

/// As `Effect` of `tests/fixtures/optimised`.
#[repr(C)]
struct Exported {
    name: *const c_char,
    driver: extern "C" fn(u64) -> u64,
    replacement: *const (),
    original: *const Original<Number>,
}

/// One effect: what its driver returns for `argument`, before the target is replaced and while it is.
struct Effect {
    name: &'static str,
    argument: u64,
    /// None if the target panics.
    before: Option<u64>,
    replaced: u64,
}

const fn effect(name: &'static str, argument: u64, before: u64, replaced: u64) -> Effect {
    Effect { name, argument, before: Some(before), replaced }
}

const CONSTANT: Effect = effect("results::constant", 5, 12, 13);
const RANGE: Effect = effect("results::range", 5, 5, u64::MAX);
const INLINED: Effect = effect("calls::inlined", 5, 15, 25);
const HOISTED: Effect = effect("calls::hoisted", 10, 0, 10);
const DELETED: Effect = effect("calls::deleted", 5, 5, 200);
const MEMORY: Effect = effect("calls::memory", 15, 17, 1000);
const MERGED: Effect = effect("calls::merged", 5, 505, 5005);
const RECURSION: Effect = effect("calls::recursion", 10, 0, 11);
const DROPPED: Effect = effect("arguments::dropped", 7, 70, 10_007);
const PROMOTED: Effect = effect("arguments::promoted", 0, 0, 1);
const BORROWED: Effect = effect("arguments::borrowed", 5, 185, 5);
const CLEANUP: Effect = effect("unwinding::cleanup", 5, 1, 101);
const NO_RETURN: Effect = Effect { name: "unwinding::no_return", argument: 5, before: None, replaced: 11 };

const ALL: [&Effect; 13] = [
    &CONSTANT, &RANGE, &INLINED, &HOISTED, &DELETED, &MEMORY, &MERGED, &RECURSION, &DROPPED, &PROMOTED,
    &BORROWED, &CLEANUP, &NO_RETURN,
];

/// The effects in the library at `path`, which stays loaded.
fn exported(path: &Path) -> &'static [Exported] {
    // SAFETY: a library without constructors.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.unwrap();
    // SAFETY: that is its type.
    let first = unsafe { *library.get::<*const Exported>(b"EFFECTS").unwrap() };
    let _ = library.into_raw();
    // SAFETY: there is one more than has a name; the library stays.
    unsafe { std::slice::from_raw_parts(first, ALL.len() + 1) }
}

fn name(exported: &Exported) -> &str {
    // SAFETY: the fixture's texts end in a zero byte and stay.
    unsafe { CStr::from_ptr(exported.name) }.to_str().unwrap()
}

/// What the driver returns while the target is replaced.
fn drive(path: &Path, effect: &Effect) -> Result<u64, Error> {
    let exported = exported(path).iter().find(|exported| name(exported) == effect.name).unwrap();
    let is_as_before = || effect.before.is_none_or(|before| (exported.driver)(effect.argument) == before);
    assert!(is_as_before(), "{}", effect.name);
    let target = format!("{}!optimised::{}::target", path.display(), effect.name);
    let mut change = Transaction::new();
    if exported.original.is_null() {
        change.replace(target, exported.replacement);
    } else {
        // SAFETY: a static of the library, which stays.
        let original = unsafe { &*exported.original };
        // SAFETY: where there is an original, that is the type.
        let replacement = unsafe { std::mem::transmute::<*const (), Number>(exported.replacement) };
        change.replace_fn(target, original, replacement);
    }
    // SAFETY: same type. That callers know more of the target than that is what is to be seen.
    let applied = unsafe { change.commit(&patient()) }?;
    let result = (exported.driver)(effect.argument);
    applied.rollback_with(&patient()).unwrap();
    assert!(is_as_before(), "{} after the rollback", effect.name);
    Ok(result)
}

fn plain() -> PathBuf {
    fixtures::optimised(false, &["codegen-units=1"])
}

fn cured() -> PathBuf {
    fixtures::optimised(true, &["codegen-units=1"])
}

/// The harm to a target that is only `#[inline(never)]`, and that one of `patchable!` is replaced well.
fn shows(effect: &Effect, is_harm: impl Fn(&Result<u64, Error>) -> bool) {
    crate::support::alloc::watch();
    assert_eq!(drive(&cured(), effect).unwrap(), effect.replaced, "{}", effect.name);
    if cfg!(target_arch = "x86_64") {
        let outcome = drive(&plain(), effect);
        assert!(
            is_harm(&outcome),
            "{}: {outcome:?}; the compiler no longer does this, docs/targets.md should say so",
            effect.name
        );
    }
}

fn is_gone(outcome: &Result<u64, Error>) -> bool {
    matches!(outcome, Err(Error::NotFound { .. }))
}

#[test]
fn a_function_is_inlined() {
    shows(&INLINED, is_gone);
}

#[test]
fn a_constant_result_is_folded_in() {
    shows(&CONSTANT, is_gone);
}

#[test]
fn a_check_of_the_result_is_left_out() {
    shows(&RANGE, |outcome| matches!(outcome, Ok(5000)));
}

#[test]
fn a_call_is_hoisted_out_of_a_loop() {
    shows(&HOISTED, |outcome| matches!(outcome, Ok(1)));
}

#[test]
fn a_call_without_effects_is_deleted() {
    shows(&DELETED, |outcome| matches!(outcome, Ok(100)));
}

#[test]
fn memory_is_taken_to_be_unchanged() {
    shows(&MEMORY, |outcome| matches!(outcome, Ok(15)));
}

#[test]
fn equal_functions_are_merged() {
    shows(&MERGED, is_gone);
}

#[test]
fn a_recursion_becomes_a_loop() {
    shows(&RECURSION, |outcome| matches!(outcome, Ok(1)));
}

#[test]
fn an_argument_is_dropped() {
    // The second argument is where the first should be, and anything where the second should be.
    shows(&DROPPED, |outcome| matches!(outcome, Ok(result) if *result != DROPPED.replaced));
}

#[test]
fn a_reference_becomes_its_value() {
    shows(&PROMOTED, |outcome| matches!(outcome, Ok(0)));
}

#[test]
fn a_large_argument_is_not_copied() {
    shows(&BORROWED, |outcome| matches!(outcome, Ok(1000)));
}

#[test]
fn the_cleanup_of_a_caller_is_lost() {
    shows(&CLEANUP, |outcome| matches!(outcome, Ok(100)));
}

#[test]
fn nothing_is_behind_a_call_that_never_returned() {
    assert_eq!(drive(&cured(), &NO_RETURN).unwrap(), NO_RETURN.replaced);
    if cfg!(target_arch = "x86_64") {
        child::must_die("optimiser::nothing_is_behind_a_call_that_never_returned", "drives it", || {
            eprintln!("drives it");
            let outcome = drive(&plain(), &NO_RETURN);
            eprintln!("{outcome:?}; the compiler no longer does this, docs/targets.md should say so");
        });
    }
}

/// Whatever else the optimiser is told.
#[test]
fn the_cure_holds_at_every_level() {
    for setting in ["lto=\"fat\"", "opt-level=\"z\"", "opt-level=\"s\"", "opt-level=1", "opt-level=0"] {
        let path = fixtures::optimised(true, &["codegen-units=1", setting]);
        for effect in ALL {
            assert_eq!(drive(&path, effect).unwrap(), effect.replaced, "{} with {setting}", effect.name);
        }
    }
}

#[test]
fn each_effect_of_the_fixture_is_tested() {
    let names: Vec<_> = exported(&cured()).iter().map(name).collect();
    assert_eq!(names, ALL.iter().map(|effect| effect.name).chain([""]).collect::<Vec<_>>());
}

/// An instance has its address, and its name only where no other instance has it.
#[test]
fn instances_of_a_generic_function_are_named_one_by_one() {
    #[inline(never)]
    fn generic<T>(value: T) -> T {
        std::hint::black_box(value)
    }
    let instances = [generic::<u32> as *const (), generic::<u64> as *const ()];
    let check = |target: midflight::Target| {
        let mut change = Transaction::new();
        change.replace(target, crate::targets::greet as *const ());
        change.check()
    };
    assert_ne!(instances[0], instances[1]);
    let name = "live::optimiser::instances_of_a_generic_function_are_named_one_by_one::generic";
    // In the legacy mangling nothing but the hash tells them apart.
    for target in [name.into(), instances[0].into(), instances[1].into()] {
        match check(target) {
            Err(Error::Copies { copies, .. }) => {
                assert_eq!(copies.len(), 2);
                for (instance, copy) in copies.iter().map(|copy| (copy.address, copy)) {
                    let checked = check(copy.name.as_str().into()).unwrap();
                    assert_eq!(checked.functions[0].address, instance, "by its raw name");
                }
            }
            Err(Error::NotFound { .. }) | Ok(_) => assert!(is_v0(), "the types are part of the name"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether this compiler mangles names in the newer way, by which types stand in them.
fn is_v0() -> bool {
    let mut change = Transaction::new();
    change.replace(crate::targets::greet as *const (), is_v0 as *const ());
    change.check().unwrap().functions[0].symbol.starts_with("_R")
}
