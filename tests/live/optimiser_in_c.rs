//! What gcc does to a static function and its callers when it knows the body, and what prevents it.
//! `docs/targets.md` names these tests.
//!
//! As in `optimiser`: the cure must hold with every gcc, the harm is shown on x86-64 with the one at hand. Of clang,
//! which has neither the attribute nor the options, only the cure `weak` is asked.

use crate::support::fixtures::{self, Folder};
use crate::support::patient;
use crate::target;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use midflight::{Error, Options, Transaction};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

type Number = unsafe extern "C" fn(u64) -> u64;

/// How a source is compiled: what `TARGET` stands for in it, and further arguments.
struct Build {
    target: &'static str,
    arguments: &'static [&'static str],
}

const PLAIN: Build = Build { target: "__attribute__((noinline)) static", arguments: &[] };
const BARE: Build = Build { target: "static", arguments: &[] };
const NOIPA: Build = Build { target: "__attribute__((noipa)) static", arguments: &[] };
const WEAK: Build = Build { target: "__attribute__((noinline, weak))", arguments: &[] };
const EXPORTED: Build = Build { target: "", arguments: &[] };
const HIDDEN_LTO: Build =
    Build { target: "__attribute__((noinline, weak, visibility(\"hidden\")))", arguments: &["-flto"] };
const NO_IPA_RA: Build = Build { arguments: &["-fno-ipa-ra"], ..PLAIN };
const NO_STACK_ALIGNMENT: Build = Build { arguments: &["-fno-ipa-stack-alignment"], ..PLAIN };
const INLINE_CLONE: Build = Build { arguments: &["-flive-patching=inline-clone"], ..PLAIN };
const INLINE_ONLY_STATIC: Build = Build { arguments: &["-flive-patching=inline-only-static"], ..PLAIN };

/// A source with a function `target`, and what its driver returns for 5 before `target` is replaced and while it is.
struct Effect {
    source: &'static str,
    replacement: *const (),
    before: u64,
    replaced: u64,
}

type Outcome = Result<u64, Error>;

impl Build {
    fn arguments(&self) -> Vec<String> {
        let target = format!("-DTARGET={}", self.target);
        ["-O2".to_owned(), target].into_iter().chain(self.arguments.iter().map(|&text| text.into())).collect()
    }
}

fn drive(effect: &Effect, build: &Build) -> Outcome {
    let folder = Folder::new();
    drive_library(&folder.library_with("liboptimised_in_c.so", effect.source, &build.arguments()), effect)
}

fn drive_library(path: &Path, effect: &Effect) -> Outcome {
    drive_with(path, effect, patient())
}

fn drive_with(path: &Path, effect: &Effect, options: Options) -> Outcome {
    // SAFETY: a library of plain functions.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.unwrap();
    // SAFETY: that is its type.
    let driver = unsafe { *library.get::<Number>(b"driver").unwrap() };
    let drive = || {
        CALLS.store(0, SeqCst);
        // SAFETY: the library is open until the end.
        unsafe { driver(5) }
    };
    assert_eq!(drive(), effect.before);
    let mut change = Transaction::new();
    change.replace(format!("{}!target", path.display()), effect.replacement);
    // SAFETY: same type. That callers know more of the target than that is what is to be seen.
    let applied = unsafe { change.commit(&options) }?;
    let result = drive();
    applied.rollback_with(&patient()).unwrap();
    assert_eq!(drive(), effect.before, "after the rollback");
    Ok(result)
}

/// Whether the compiler is gcc, so that its attributes and options are known.
fn is_gcc() -> bool {
    let output =
        Command::new(fixtures::compiler("CC", "cc")).args(["-dM", "-E", "-x", "c", "/dev/null"]).output();
    let macros = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(macros.contains("__GNUC__"), "neither gcc nor clang: {macros}");
    !macros.contains("__clang__")
}

/// The harm without a cure, and that all of `cures` are some.
fn shows(effect: &Effect, plain: &Build, is_harm: impl Fn(&Outcome) -> bool, cures: &[Build]) {
    crate::support::alloc::watch();
    assert_eq!(drive(effect, &WEAK).unwrap(), effect.replaced, "weak");
    if !is_gcc() {
        return;
    }
    for build in [NOIPA, INLINE_ONLY_STATIC, EXPORTED].iter().chain(cures) {
        let result = drive(effect, build).unwrap();
        assert_eq!(result, effect.replaced, "{} {:?}", build.target, build.arguments);
    }
    if cfg!(target_arch = "x86_64") {
        let outcome = drive(effect, plain);
        assert!(
            is_harm(&outcome),
            "{outcome:?}; the compiler no longer does this, docs/targets.md should say so"
        );
    }
}

/// Whether there are only clones of the target, which the error names.
fn is_gone(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Error::NotFound { nearest, .. })
        if nearest.iter().any(|name| name.starts_with("target.") || name.starts_with("target [clone")))
}

/// That a build of a source has a clone instead of the target, and so is no cure.
fn is_no_cure(effect: &Effect, build: &Build) {
    if is_gcc() && cfg!(target_arch = "x86_64") {
        let outcome = drive(effect, build);
        assert!(is_gone(&outcome), "{outcome:?} with {:?}; docs/targets.md should say so", build.arguments);
    }
}

static CALLS: AtomicU64 = AtomicU64::new(0);

// Has all registers of the caller's changed, as any function may.
#[cfg(target_arch = "x86_64")]
target! {
    fn live_changes_registers(u64) -> u64 {
        "xor eax, eax", "xor ecx, ecx", "xor edx, edx", "xor esi, esi", "xor edi, edi",
        "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d", "xor r11d, r11d", "ret",
    }
}
#[cfg(target_arch = "aarch64")]
target! {
    fn live_changes_registers(u64) -> u64 {
        "mov x0, 0", "mov x1, 0", "mov x2, 0", "mov x3, 0", "mov x4, 0", "mov x5, 0", "mov x6, 0", "mov x7, 0",
        "mov x8, 0", "mov x9, 0", "mov x10, 0", "mov x11, 0", "mov x12, 0", "mov x13, 0", "mov x14, 0",
        "mov x15, 0", "mov x16, 0", "mov x17, 0", "ret",
    }
}

/// `-fipa-ra`: the target is known to change no register but one, so the caller keeps its number in another.
#[test]
fn a_value_stays_in_a_register_of_the_callee() {
    let effect = Effect {
        source: "
            static volatile unsigned long sink;
            TARGET void target(unsigned long number) { sink = number; }
            unsigned long driver(unsigned long number) { target(number); return number + 1; }",
        replacement: live_changes_registers as *const (),
        before: 6,
        replaced: 6,
    };
    shows(&effect, &PLAIN, |outcome| matches!(outcome, Ok(1)), &[NO_IPA_RA, INLINE_CLONE]);
}

// Where the stack was when it was called, modulo 16.
#[cfg(target_arch = "x86_64")]
target! {
    fn live_stack_when_called(u64) -> u64 { "lea rax, [rsp + 8]", "and eax, 15", "ret" }
}
#[cfg(target_arch = "aarch64")]
target! {
    fn live_stack_when_called(u64) -> u64 { "mov x0, sp", "and x0, x0, 15", "ret" }
}

/// `-fipa-stack-alignment`: the target does not care, so the caller does not align the stack.
#[test]
fn the_stack_is_not_aligned() {
    let effect = Effect {
        source: "
            TARGET unsigned long target(unsigned long number) { return number % 7; }
            unsigned long driver(unsigned long number) { return target(number) + 1; }",
        replacement: live_stack_when_called as *const (),
        before: 6,
        replaced: 1,
    };
    shows(&effect, &PLAIN, |outcome| matches!(outcome, Ok(9)), &[NO_STACK_ALIGNMENT, INLINE_CLONE]);
}

/// `-fipa-pure-const`: one call does for all rounds.
#[test]
fn a_call_is_hoisted_out_of_a_loop() {
    extern "C" fn count(_: u64) -> u64 {
        CALLS.fetch_add(1, SeqCst)
    }
    let effect = Effect {
        source: "
            TARGET unsigned long target(unsigned long number) { return number % 7; }
            unsigned long driver(unsigned long number)
            {
                unsigned long sum = 0;
                for (unsigned long round = 0; round < number; round++) {
                    sum += target(number);
                    __asm__ volatile(\"\" ::: \"memory\");
                }
                return sum;
            }",
        replacement: count as *const (),
        before: 25,
        replaced: 1 + 2 + 3 + 4,
    };
    shows(&effect, &PLAIN, |outcome| matches!(outcome, Ok(0)), &[INLINE_CLONE]);
}

/// `-fipa-icf`: two names for one function.
#[test]
fn equal_functions_are_merged() {
    extern "C" fn fifty(_: u64) -> u64 {
        50
    }
    let effect = Effect {
        source: "
            TARGET unsigned long target(unsigned long number) { return number % 13; }
            TARGET unsigned long other(unsigned long number) { return number % 13; }
            unsigned long driver(unsigned long number) { return target(number) * 100 + other(number); }",
        replacement: fifty as *const (),
        before: 505,
        replaced: 5005,
    };
    let is_refused =
        |outcome: &Outcome| matches!(outcome, Err(Error::FoldedCode { names, .. }) if *names == ["other"]);
    shows(&effect, &PLAIN, is_refused, &[INLINE_CLONE]);
    if is_gcc() && cfg!(target_arch = "x86_64") {
        let folder = Folder::new();
        let library = folder.library_with("libmerged_in_c.so", effect.source, &PLAIN.arguments());
        let both = drive_with(&library, &effect, patient().folded_code()).unwrap();
        assert_eq!(both, 5050, "it takes over both");
    }
}

/// `-fipa-cp`: `target.constprop.0` has the constant built in.
#[test]
fn a_clone_has_a_constant_argument() {
    extern "C" fn both(rounds: u64, number: u64) -> u64 {
        rounds * 1000 + number
    }
    let effect = Effect {
        source: "
            TARGET unsigned long target(unsigned long rounds, unsigned long number)
            {
                unsigned long sum = 0;
                for (unsigned long round = 0; round < rounds; round++)
                    sum = sum * 3 + (number ^ round);
                return sum;
            }
            unsigned long driver(unsigned long number) { return target(4, number); }",
        replacement: both as *const (),
        before: 198,
        replaced: 4005,
    };
    shows(&effect, &PLAIN, is_gone, &[]);
    is_no_cure(&effect, &INLINE_CLONE);
    // Where the linker tells that no other definition can come, a weak function is one like others.
    is_no_cure(&effect, &HIDDEN_LTO);
    // In C++ the clone's name has the target's in it, and is not taken for it.
    let folder = Folder::new();
    let source = effect.source.replace("unsigned long driver", "extern \"C\" unsigned long driver");
    for (build, is_cured) in [(NOIPA, true), (PLAIN, false)] {
        if is_gcc() {
            let path = folder.library_in_cpp("liboptimised_in_cpp.so", &source, &build.arguments());
            let outcome = drive_library(&path, &effect);
            let is_fine = matches!(outcome, Ok(4005)) || (!is_cured && is_gone(&outcome));
            assert!(is_fine, "{outcome:?}");
        }
    }
}

/// `-fipa-sra`: `target.isra.0` takes the value instead of the reference.
#[test]
fn a_clone_takes_the_value_of_a_reference() {
    extern "C" fn plus_a_hundred(number: &u64) -> u64 {
        *number + 100
    }
    let effect = Effect {
        source: "
            TARGET unsigned long target(const unsigned long *number) { return *number % 9; }
            unsigned long driver(unsigned long number) { return target(&number); }",
        replacement: plus_a_hundred as *const (),
        before: 5,
        replaced: 105,
    };
    shows(&effect, &PLAIN, is_gone, &[]);
    is_no_cure(&effect, &INLINE_CLONE);
}

/// `-fpartial-inlining`: the check at the beginning is in the callers, the rest is `target.part.0`.
#[test]
fn the_beginning_of_a_function_is_inlined() {
    extern "C" fn plus_a_hundred(number: u64) -> u64 {
        number + 100
    }
    let effect = Effect {
        source: "
            static volatile unsigned long sink;
            TARGET unsigned long target(unsigned long number)
            {
                if (number < 10)
                    return 0;
                unsigned long sum = 0;
                for (unsigned long round = 0; round < number; round++) {
                    sink = round;
                    sum = sum * 3 + (number ^ round);
                    if (sum % 7 == 3)
                        sum += sink;
                }
                for (unsigned long round = 0; round < number; round++) {
                    sink = round;
                    sum = sum * 5 + (number ^ round);
                    if (sum % 9 == 3)
                        sum += sink;
                }
                return sum;
            }
            unsigned long driver(unsigned long number) { return target(number); }
            unsigned long second(unsigned long number) { return target(number + 1) + 2; }
            unsigned long third(unsigned long number) { return target(number + 2) * 2; }",
        replacement: plus_a_hundred as *const (),
        before: 0,
        replaced: 105,
    };
    shows(&effect, &BARE, is_gone, &[PLAIN]);
}

/// In C++ a function that is seen not to throw has callers without landing pads. `noipa` does not change that.
#[test]
fn the_cleanup_of_a_caller_is_lost() {
    const SOURCE: &str = "
        static int drops;
        struct Guard { ~Guard() { ++drops; } };
        TARGET unsigned long target(unsigned long number) { return number % 7; }
        static unsigned long caller(unsigned long number) { Guard guard; return target(number); }
        static unsigned long (*volatile opaque)(unsigned long) = caller;
        extern \"C\" unsigned long replacement(unsigned long) { throw 1; }
        extern \"C\" unsigned long driver(unsigned long number)
        {
            drops = 0;
            try { opaque(number); } catch (int) { return 100 + drops; }
            return drops;
        }";
    crate::support::alloc::watch();
    let drive = |build: &Build| {
        let folder = Folder::new();
        let path = folder.library_in_cpp("liboptimised_in_cpp.so", SOURCE, &build.arguments());
        // SAFETY: a library of plain functions.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.unwrap();
        // SAFETY: that is its type.
        let replacement = unsafe { *library.get::<Number>(b"replacement").unwrap() } as *const ();
        let effect = Effect { source: SOURCE, replacement, before: 1, replaced: 101 };
        drive_library(&path, &effect).unwrap()
    };
    assert_eq!(drive(&WEAK), 101);
    if is_gcc() && cfg!(target_arch = "x86_64") {
        // With the stack as it should be, so that the exception gets anywhere.
        assert_eq!(drive(&EXPORTED), 101);
        for build in [NO_STACK_ALIGNMENT, NOIPA] {
            assert_eq!(drive(&build), 100, "the compiler no longer does this, docs/targets.md should say so");
        }
    }
}
