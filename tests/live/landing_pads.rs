//! Code that signs its return addresses and insists on landing pads (aarch64: `-mbranch-protection=standard`).

use crate::support::fixtures::Folder;
use crate::support::{child, emulator, error_in_time, patient, watchdog};
use libloading::os::unix::Library;
use midflight::{Applied, Error, NotSafe, Original, Transaction};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

type Function = extern "C" fn(u64) -> u64;

/// The start files of the C library have no landing pads, so it goes without them. That the linker says of the library
/// what it must not of the start files, is what `force-bti` does.
const ARGUMENTS: [&str; 4] = ["-O2", "-mbranch-protection=standard", "-nostartfiles", "-Wl,-z,force-bti"];

const SOURCE: &str = r#"
    __attribute__((noipa)) unsigned long guarded_leaf(unsigned long value) { return value + 1; }
    __attribute__((noipa)) unsigned long guarded_caller(unsigned long value) { return guarded_leaf(value) + 1; }

    // read(fd, place, 1), then what was read: the displaced words are the signature and the system call.
    __asm__(".text\n.balign 16\n.globl guarded_read\n.type guarded_read, %function\n"
            "guarded_read: paciasp\n svc 0\n ldrb w0, [x1]\n retaa\n.size guarded_read, . - guarded_read\n"
            // An emulator interrupts a thread between two words where a page ends.
            ".balign 4096\n.skip 4092\n.globl guarded_across\n.type guarded_across, %function\n"
            "guarded_across: paciasp\n stp x29, x30, [sp, -16]!\n add x0, x0, 2\n ldp x29, x30, [sp], 16\n retaa\n"
            ".size guarded_across, . - guarded_across\n"
            // Another function at the second word.
            ".balign 16\n.globl guarded_outer\n.type guarded_outer, %function\n"
            ".globl guarded_inner\n.type guarded_inner, %function\n"
            "guarded_outer: paciasp\nguarded_inner: nop\n retaa\n.size guarded_outer, . - guarded_outer\n"
            ".size guarded_inner, . - guarded_inner\n"
            // As a function without a landing pad.
            ".balign 16\n.globl guarded_without_pad\n.type guarded_without_pad, %function\n"
            "guarded_without_pad: ret\n.size guarded_without_pad, . - guarded_without_pad\n"
            );
"#;

/// The library, under a name of its own.
fn library(folder: &Folder, name: &str) -> (PathBuf, Library) {
    let source = format!("__asm__(\".arch armv8.5-a\");\n{SOURCE}");
    let path = folder.library_with(name, &source, &ARGUMENTS);
    // SAFETY: it has no constructors.
    let library = unsafe { Library::new(&path) }.unwrap();
    (path, library)
}

fn address(library: &Library, name: &str) -> *const () {
    // SAFETY: only its address is used.
    unsafe { *library.get::<*const ()>(name.as_bytes()).unwrap() }
}

/// An exported function of the library, called through a pointer that no compiler can see through.
fn function(library: &Library, name: &str) -> Function {
    // SAFETY: it has this type.
    std::hint::black_box(unsafe { std::mem::transmute::<*const (), Function>(address(library, name)) })
}

/// HWCAP2_BTI of asm/hwcap.h.
fn processor_insists() -> bool {
    // SAFETY: only asks.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 1 << 17 != 0 }
}

fn replace(path: &Path, name: &str, original: &'static Original<Function>, new: Function) -> Applied {
    let mut change = Transaction::new();
    change.replace_fn(format!("{}!{name}", path.display()), original, new);
    // SAFETY: same types.
    unsafe { change.commit(&patient()) }.unwrap()
}

#[test]
fn calls_through_pointers_land_on_a_patched_entry_and_its_original_goes_on() {
    static LEAF: Original<Function> = Original::new();
    static CALLER: Original<Function> = Original::new();
    extern "C" fn leaf(value: u64) -> u64 {
        LEAF.get()(value) + 100
    }
    extern "C" fn caller(value: u64) -> u64 {
        CALLER.get()(value) + 1000
    }
    let folder = Folder::new();
    let (path, library) = library(&folder, "libguarded.so");
    let both = || (function(&library, "guarded_leaf")(1), function(&library, "guarded_caller")(1));
    assert_eq!(both(), (2, 3));
    for _ in 0..3 {
        let one = replace(&path, "guarded_caller", &CALLER, caller);
        assert_eq!(both(), (2, 1003));
        let two = replace(&path, "guarded_leaf", &LEAF, leaf);
        assert_eq!(both(), (102, 1103));
        one.rollback_with(&patient()).unwrap();
        assert_eq!(both(), (102, 103));
        two.rollback_with(&patient()).unwrap();
        assert_eq!(both(), (2, 3));
    }
}

#[test]
fn a_check_tells_both_displaced_words() {
    let folder = Folder::new();
    let (path, _library) = library(&folder, "libchecked.so");
    let mut change = Transaction::new();
    for name in ["guarded_caller", "guarded_leaf"] {
        change.replace(format!("{}!{name}", path.display()), processor_insists as *const ());
    }
    let check = change.check_with(&patient()).unwrap();
    let displaced: Vec<_> = check.functions.iter().map(|function| function.displaced.len()).collect();
    let signed = if processor_insists() { 2 } else { 1 };
    assert_eq!(displaced, [signed, 1], "{check}");
    assert_eq!(check.functions[0].displaced[0], "paciasp", "{check}");
}

#[test]
fn a_function_that_begins_at_the_second_word_is_not_run_over() {
    if !processor_insists() {
        return; // One word is displaced.
    }
    let folder = Folder::new();
    let (path, library) = library(&folder, "libouter.so");
    let mut change = Transaction::new();
    change.replace(format!("{}!guarded_outer", path.display()), processor_insists as *const ());
    let error = change.check_with(&patient()).unwrap_err();
    let inner = address(&library, "guarded_inner") as u64;
    assert!(matches!(&error, Error::Overlap { other_address, .. } if *other_address == inner), "{error}");
}

#[test]
fn guarded_pages_stay_guarded() {
    static CALLER: Original<Function> = Original::new();
    extern "C" fn caller(value: u64) -> u64 {
        CALLER.get()(value) + 1000
    }
    if !processor_insists() {
        return; // There are no guarded pages.
    }
    child::must_die("landing_pads::guarded_pages_stay_guarded", "and now", || {
        let folder = Folder::new();
        let (path, library) = library(&folder, "libstays.so");
        replace(&path, "guarded_caller", &CALLER, caller).rollback_with(&patient()).unwrap();
        assert_eq!(function(&library, "guarded_caller")(1), 3);
        eprintln!("and now");
        // The processor refuses, so this is the end.
        function(&library, "guarded_without_pad")(1);
    });
}

static INSIDE: AtomicBool = AtomicBool::new(false);

/// Calls `guarded_read` as its assembly wants it: the number of the system call is there already.
fn read(function: *const (), pipe: i32) -> u64 {
    let mut byte = 0u8;
    let result: u64;
    INSIDE.store(true, SeqCst);
    // SAFETY: reads one byte, and changes no more registers than a function may.
    unsafe {
        std::arch::asm!(
            "blr {function}",
            function = in(reg) function,
            inout("x0") pipe as u64 => result,
            in("x1") &raw mut byte, in("x2") 1, in("x8") libc::SYS_read,
            clobber_abi("C"),
        );
    }
    result
}

#[test]
fn threads_between_the_two_words_go_on_in_the_trampoline() {
    child::run("landing_pads::threads_between_the_two_words_go_on_in_the_trampoline", || {
        let _watchdog = watchdog::start(Duration::from_secs(300));
        extern "C" fn ten(_: u64) -> u64 {
            10
        }
        static READ: Original<Function> = Original::new();
        let folder = Folder::new();
        let (path, library) = library(&folder, "libinside.so");
        let target = address(&library, "guarded_read") as usize;
        for round in 0..5u8 {
            let mut pipe = [0; 2];
            // SAFETY: two descriptors are written.
            assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
            INSIDE.store(false, SeqCst);
            let reader = std::thread::spawn(move || read(target as *const (), pipe[0]));
            while !INSIDE.load(SeqCst) {
                std::thread::yield_now();
            }
            // The call is interrupted and made again, from the word that makes it.
            std::thread::sleep(Duration::from_millis(50));
            let applied = replace(&path, "guarded_read", &READ, ten);
            assert_eq!(function(&library, "guarded_read")(1), 10);
            if round % 2 == 0 {
                applied.rollback_with(&patient()).unwrap();
            }
            // SAFETY: a byte of ours.
            assert_eq!(unsafe { libc::write(pipe[1], (&raw const round).cast(), 1) }, 1);
            assert_eq!(reader.join().unwrap(), u64::from(round), "the call begun in old code ends there");
            if round % 2 == 1 {
                applied.rollback_with(&patient()).unwrap();
            }
            // SAFETY: descriptors of ours.
            pipe.iter().for_each(|fd| unsafe { assert_eq!(libc::close(*fd), 0) });
        }
    });
}

/// `address` as a function that signs it with some stack pointer has it on its stack (PACIA1716; processors without
/// signatures take it for a NOP).
fn signed(address: u64) -> u64 {
    let word;
    // SAFETY: changes one register.
    unsafe {
        std::arch::asm!("hint #8", inout("x17") address => word, in("x16") 0x7fff_0000_1230u64,
            options(nomem, nostack, preserves_flags));
    }
    word
}

#[test]
fn an_address_between_the_two_words_on_a_stack_is_seen_also_if_it_is_signed() {
    child::run(
        "landing_pads::an_address_between_the_two_words_on_a_stack_is_seen_also_if_it_is_signed",
        || {
            extern "C" fn ten(_: u64) -> u64 {
                10
            }
            if !processor_insists() {
                return; // One word is displaced.
            }
            let folder = Folder::new();
            let (path, library) = library(&folder, "libstack.so");
            let inside = address(&library, "guarded_caller") as u64 + 4;
            for sign in [std::convert::identity, signed] {
                let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let word = sign(inside);
                        let place = std::hint::black_box(&word);
                        ready.store(true, SeqCst);
                        while !done.load(SeqCst) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        std::hint::black_box(place);
                    });
                    while !ready.load(SeqCst) {
                        std::thread::yield_now();
                    }
                    let mut change = Transaction::new();
                    change.replace(format!("{}!guarded_caller", path.display()), ten as *const ());
                    let told = |error: &Error| {
                        matches!(error, Error::Deadline { reason: NotSafe::ReturnsIntoSite { address }, .. }
                        if *address == inside)
                    };
                    // SAFETY: same types.
                    let error = error_in_time(|options| unsafe { change.commit(options) }, told);
                    assert!(told(&error), "{error}");
                    assert_eq!(function(&library, "guarded_caller")(1), 3);
                    done.store(true, SeqCst);
                });
            }
        },
    );
}

#[test]
fn a_storm_over_both_words() {
    child::run("landing_pads::a_storm_over_both_words", || {
        let _watchdog = watchdog::start(Duration::from_secs(300));
        static ACROSS: Original<Function> = Original::new();
        extern "C" fn across(value: u64) -> u64 {
            ACROSS.get()(value) + 1000
        }
        let folder = Folder::new();
        let (path, library) = library(&folder, "libstorm.so");
        let (done, called) = (AtomicBool::new(false), AtomicUsize::new(0));
        let call = function(&library, "guarded_across");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        let answer = call(1);
                        assert!(answer == 3 || answer == 1003, "{answer}");
                        called.fetch_add(1, SeqCst);
                    }
                });
            }
            let cycles = if emulator::is_there() { 150 } else { 500 };
            for _ in 0..cycles {
                let applied = replace(&path, "guarded_across", &ACROSS, across);
                std::thread::yield_now();
                applied.rollback_with(&patient()).unwrap();
            }
            done.store(true, SeqCst);
        });
        assert!(called.load(SeqCst) > 0);
        assert_eq!(call(1), 3);
    });
}
