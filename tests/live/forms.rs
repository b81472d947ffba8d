//! The forms of sites: one store where that is enough, short functions, no memory nearby. Each target is written in
//! assembly, since the length of its first instruction is the point.

use crate::support::{bytes_at, child, patient, watchdog};
use midflight::{Applied, Error, Options, Original, Transaction, fault};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

std::arch::global_asm!(
    ".macro LIVE_FORM name",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    ".endm",
    ".pushsection .text.live_forms, \"ax\", @progbits",
    ".p2align 5",
    "LIVE_FORM live_form_one",
    "push rbp",
    "mov rbp, rsp",
    "pop rbp",
    "lea rax, [rdi + 1]",
    "ret",
    ".size live_form_one, . - live_form_one",
    ".p2align 5",
    "LIVE_FORM live_form_two",
    "push r12",
    "mov rax, rdi",
    "pop r12",
    "add rax, 1",
    "ret",
    ".size live_form_two, . - live_form_two",
    ".p2align 5",
    "LIVE_FORM live_form_three",
    "mov rax, rdi",
    "add rax, 1",
    "ret",
    ".size live_form_three, . - live_form_three",
    ".p2align 5",
    "LIVE_FORM live_form_four",
    "lea rax, [rdi + 1]",
    "ret",
    ".size live_form_four, . - live_form_four",
    ".p2align 5",
    "LIVE_FORM live_form_tiny",
    "mov rax, rdi",
    "ret",
    ".size live_form_tiny, . - live_form_tiny",
    // Right behind it: its first byte is needed by a punned jump there.
    "LIVE_FORM live_form_next",
    "lea rax, [rdi + 1]",
    "ret",
    ".size live_form_next, . - live_form_next",
    ".p2align 5",
    "LIVE_FORM live_form_five",
    "mov eax, 1",
    "add rax, rdi",
    "ret",
    ".size live_form_five, . - live_form_five",
    ".p2align 5",
    "LIVE_FORM live_form_rep",
    "rep movsb",
    "mov rax, rdi",
    "nop dword ptr [rax + 0x40]",
    "ret",
    ".size live_form_rep, . - live_form_rep",
    // Two words of eight bytes have a part of its first instruction.
    ".p2align 5",
    ".skip 6, 0x90",
    "LIVE_FORM live_form_across",
    "lea rax, [rdi + 1]",
    "ret",
    ".size live_form_across, . - live_form_across",
    ".p2align 5",
    "LIVE_FORM live_form_long",
    "mov rax, qword ptr [rip + live_form_numbers]",
    "add rax, qword ptr [rip + live_form_numbers + 8]",
    "add rax, rdi",
    "ret",
    ".size live_form_long, . - live_form_long",
    // Three bytes, and padding up to the next.
    ".p2align 4",
    "LIVE_FORM live_form_padded",
    "mov eax, edi",
    "ret",
    ".size live_form_padded, . - live_form_padded",
    // Alone in its words: no whole jump fits, and for a punned one no memory is free.
    ".p2align 4",
    "LIVE_FORM live_form_relayed",
    "mov eax, edi",
    "ret",
    ".size live_form_relayed, . - live_form_relayed",
    "LIVE_FORM live_form_beside",
    "add byte ptr [rax], al", // Zeros, as the upper bytes of a distance: the island would be in this program.
    "lea rax, [rdi + 1]",
    "ret",
    ".size live_form_beside, . - live_form_beside",
    ".p2align 5",
    "LIVE_FORM live_form_calls",
    "call live_form_helper",
    "add rax, rdi",
    "ret",
    ".size live_form_calls, . - live_form_calls",
    // Loops from the top: the sum of rdi, rdi - 1, ... 1 and rsi.
    ".p2align 5",
    "LIVE_FORM live_form_loops",
    "lea rax, [rsi + rdi]",
    "mov rsi, rax",
    "dec rdi",
    "jnz live_form_loops",
    "ret",
    ".size live_form_loops, . - live_form_loops",
    ".p2align 5",
    "LIVE_FORM live_form_loops_far",
    "lea rax, [rsi + rdi]",
    "mov rsi, rax",
    "dec rdi",
    ".byte 0x0f, 0x85", // jnz with a distance of 32 bits
    ".long live_form_loops_far - . - 4",
    "ret",
    ".size live_form_loops_far, . - live_form_loops_far",
    ".p2align 5",
    "LIVE_FORM live_form_helper",
    // The return address, as the caller of the caller sees it.
    "mov rax, qword ptr [rsp]",
    "ret",
    ".size live_form_helper, . - live_form_helper",
    ".popsection",
    ".pushsection .rodata",
    ".p2align 3",
    "live_form_numbers: .quad 40, 2",
    ".popsection",
);

unsafe extern "C" {
    safe fn live_form_one(_: u64) -> u64;
    safe fn live_form_two(_: u64) -> u64;
    safe fn live_form_three(_: u64) -> u64;
    safe fn live_form_four(_: u64) -> u64;
    safe fn live_form_five(_: u64) -> u64;
    safe fn live_form_tiny(_: u64) -> u64;
    safe fn live_form_next(_: u64) -> u64;
    safe fn live_form_long(_: u64) -> u64;
    safe fn live_form_padded(_: u64) -> u64;
    safe fn live_form_relayed(_: u64) -> u64;
    safe fn live_form_calls(_: u64) -> u64;
    safe fn live_form_loops(_: u64, _: u64) -> u64;
    safe fn live_form_loops_far(_: u64, _: u64) -> u64;
}

type Function = extern "C" fn(u64) -> u64;

/// Those that one store switches, by the length of their first instructions.
const AT_ONCE: [(&str, Function); 5] = [
    ("live_form_one", live_form_one),
    ("live_form_two", live_form_two),
    ("live_form_three", live_form_three),
    ("live_form_four", live_form_four),
    ("live_form_five", live_form_five),
];

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

fn replaced(names: &[&str]) -> Transaction {
    let mut change = Transaction::new();
    for name in names {
        change.replace(*name, a_thousand as *const ());
    }
    change
}

fn commit(names: &[&str], options: &Options) -> Result<Applied, Error> {
    // SAFETY: every target here takes a number and gives one.
    unsafe { replaced(names).commit(options) }
}

fn without_hold() -> Options {
    patient().without_hold()
}

/// Blocks all signals that can be blocked, as a thread of a program may that wants none.
fn block_all_signals() {
    // SAFETY: a local set; the mask of this thread alone.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

#[test]
fn one_store_holds_nobody() {
    child::run("forms::one_store_holds_nobody", || {
        let _dog = watchdog::start(Duration::from_secs(240));
        static STOP: AtomicBool = AtomicBool::new(false);
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let (sleep, wake) = std::io::pipe().unwrap();
        let small = || std::thread::Builder::new().stack_size(64 << 10);
        // Whoever wakes one of these for a commit makes the read end early.
        let sleepers: Vec<_> = (0..1000)
            .map(|_| {
                let sleep = sleep.try_clone().unwrap();
                let body = move || std::io::Read::read(&mut { sleep }, &mut [0; 1]).map_err(|e| e.kind());
                small().spawn(body).unwrap()
            })
            .collect();
        let callers: Vec<_> = (0..2)
            .map(|_| {
                std::thread::spawn(|| {
                    block_all_signals();
                    while !STOP.load(SeqCst) {
                        for (name, function) in AT_ONCE {
                            let answer = function(7);
                            assert!(answer == 8 || answer == 1007, "{name} gave {answer}");
                        }
                        CALLS.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        for round in 0..60 {
            for (name, function) in AT_ONCE {
                let before = CALLS.load(SeqCst);
                let applied = commit(&[name], &without_hold()).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!((function(7), applied.held().threads), (1007, 0), "{name}");
                while round % 20 == 0 && CALLS.load(SeqCst) == before {
                    std::thread::yield_now();
                }
                let held = applied.rollback_with(&without_hold()).unwrap();
                assert_eq!((function(7), held.threads), (8, 0), "{name}");
            }
        }
        STOP.store(true, SeqCst);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        drop(wake);
        for sleeper in sleepers {
            assert_eq!(sleeper.join().unwrap(), Ok(0));
        }
    });
}

#[test]
fn who_wants_a_hold_gets_one() {
    child::run("forms::who_wants_a_hold_gets_one", || {
        static STAGES: AtomicU64 = AtomicU64::new(0);
        fault::observe(Some(|stage| {
            STAGES.fetch_add(u64::from(stage == fault::Stage::Quiesced), SeqCst);
        }));
        for (holds, options) in [(0, patient()), (1, patient().always_hold())] {
            let applied = commit(&["live_form_five"], &options).unwrap();
            assert_eq!((live_form_five(7), STAGES.load(SeqCst)), (1007, holds));
            applied.rollback_with(&options).unwrap();
            assert_eq!((live_form_five(7), STAGES.load(SeqCst)), (8, 2 * holds));
        }
    });
}

/// Two stores are not one switch: a rollback that changes the code of one function and the pointer of another holds.
#[test]
fn a_jump_and_a_pointer_of_two_functions_switch_together() {
    child::run("forms::a_jump_and_a_pointer_of_two_functions_switch_together", || {
        static HOLDS: AtomicU64 = AtomicU64::new(0);
        fault::observe(Some(|stage| {
            HOLDS.fetch_add(u64::from(stage == fault::Stage::Quiesced), SeqCst);
        }));
        // Punned, so that what goes on top of it is a pointer.
        let below = commit(&["live_form_three"], &without_hold()).unwrap();
        let both = commit(&["live_form_five", "live_form_three"], &patient()).unwrap();
        let before = HOLDS.load(SeqCst);
        let error = both.rollback_with(&without_hold()).unwrap_err();
        assert!(matches!(error, Error::NeedsHold { .. }), "{error}");
        both.rollback_with(&patient()).unwrap();
        assert_eq!(HOLDS.load(SeqCst), before + 1);
        assert_eq!((live_form_five(7), live_form_three(7)), (8, 1007));
        below.rollback_with(&without_hold()).unwrap();
        assert_eq!(HOLDS.load(SeqCst), before + 1);
    });
}

#[test]
fn what_one_store_cannot_switch_is_said() {
    let refused = |names: &[&str]| commit(names, &without_hold()).map(drop).unwrap_err();
    // Two functions; a first instruction that may be found half done; one that lies in two words.
    for names in [&["live_form_two", "live_form_three"][..], &["live_form_rep"], &["live_form_across"]] {
        let error = refused(names);
        let first = names[0];
        assert!(matches!(&error, Error::NeedsHold { target, .. } if target == first), "{error}");
    }
}

fn form_of(name: &str) -> String {
    replaced(&[name]).check().unwrap().functions[0].form.to_string()
}

/// Puts a replacement on and takes it off again, with all that stands between.
fn goes_on_and_off(name: &str, function: Function, before: u64) {
    let at = function as *const () as usize - 64;
    // SAFETY: code of this program, which lies on both sides.
    let bytes = || unsafe { bytes_at(at, 192) };
    let was = bytes();
    for _ in 0..20 {
        let applied = commit(&[name], &patient()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(function(7), 1007, "{name}");
        let again = commit(&[name], &patient()).unwrap();
        again.rollback_with(&patient()).unwrap();
        assert_eq!(function(7), 1007, "{name}");
        applied.rollback_with(&patient()).unwrap();
        assert_eq!(function(7), before, "{name}");
        assert!(was == bytes(), "{name} is not what it was");
    }
}

#[test]
fn padding_behind_a_short_function_is_its_own() {
    assert_eq!(form_of("live_form_padded"), "direct");
    goes_on_and_off("live_form_padded", live_form_padded, 7);
}

#[test]
fn padding_nearby_relays() {
    assert_eq!(form_of("live_form_relayed"), "relay");
    goes_on_and_off("live_form_relayed", live_form_relayed, 7);
}

/// The callee returns to the old function, not to a trampoline, so that whoever looks at the stack sees what it always saw.
#[test]
fn a_displaced_call_returns_to_the_old_function() {
    static OLD: Original<Function> = Original::new();
    let new: Function = {
        extern "C" fn new(value: u64) -> u64 {
            OLD.get()(value) - live_form_calls as *const () as u64
        }
        new
    };
    let mut change = Transaction::new();
    change.replace_fn("live_form_calls", &OLD, new);
    // SAFETY: same types.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    assert_eq!(live_form_calls(7), 5 + 7);
    applied.rollback_with(&patient()).unwrap();
    assert_eq!(live_form_calls(7), live_form_calls as *const () as u64 + 5 + 7);
}

/// Every round of the loop stays in the original: the replacement is entered once.
#[test]
fn loops_to_the_entry_stay_in_the_original() {
    type Sum = extern "C" fn(u64, u64) -> u64;
    static OLD: [Original<Sum>; 2] = [const { Original::new() }; 2];
    static CALLS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn new<const N: usize>(from: u64, sum: u64) -> u64 {
        CALLS.fetch_add(1, SeqCst);
        OLD[N].get()(from, sum) + 1000
    }
    let all: [(&str, Sum, Sum); 2] = [
        ("live_form_loops", live_form_loops, new::<0>),
        ("live_form_loops_far", live_form_loops_far, new::<1>),
    ];
    for (number, (name, old, new)) in all.into_iter().enumerate() {
        // SAFETY: code of this program.
        let bytes = || unsafe { bytes_at(old as *const () as usize - 32, 96) };
        let before = bytes();
        for _ in 0..10 {
            let mut change = Transaction::new();
            change.replace_fn(name, &OLD[number], new);
            // SAFETY: same types.
            let applied = unsafe { change.commit(&patient()) }.unwrap_or_else(|error| panic!("{error}"));
            CALLS.store(0, SeqCst);
            assert_eq!((old(100, 3), CALLS.load(SeqCst)), (6053, 1), "{name}");
            applied.rollback_with(&patient()).unwrap();
            assert_eq!((old(100, 3), CALLS.load(SeqCst)), (5053, 1), "{name}");
            assert!(bytes() == before, "{name} is not what it was");
        }
    }
}

#[test]
fn under_a_shadow_stack_no_call_is_displaced() {
    child::run("forms::under_a_shadow_stack_no_call_is_displaced", || {
        fault::shadow_stack(true);
        let error = commit(&["live_form_calls"], &patient()).map(drop).unwrap_err();
        assert!(
            matches!(&error, Error::Refused { refusal, .. } if refusal.to_string().contains("shadow stack")),
            "{error}"
        );
        commit(&["live_form_three"], &patient()).unwrap();
    });
}

#[test]
fn the_check_says_which_form_and_why() {
    let check = |name: &str, options: &Options| {
        let check = replaced(&[name]).check_with(options).unwrap();
        check.functions.into_iter().next().unwrap()
    };
    let near = check("live_form_three", &patient());
    assert_eq!((near.form.to_string().as_str(), near.without_hold), ("direct", false), "{near}");
    let punned = check("live_form_three", &without_hold());
    assert_eq!((punned.form.to_string().as_str(), punned.without_hold), ("punned", true), "{punned}");
    let short = check("live_form_across", &patient());
    let text = short.to_string();
    assert_eq!(short.form.to_string(), "direct", "{text}");
    assert!(text.contains("direct form (one jump), displaces lea rax, [rdi+1]; ret, needs a hold"), "{text}");
    assert!(punned.to_string().contains("punned form (two jumps; a page"), "{punned}");
}

/// Four bytes, then another function at once: only a punned jump fits, and it needs a byte of the other.
#[test]
fn bytes_that_a_punned_jump_needs_stay_as_they_are() {
    let (tiny, next) = ("live_form_tiny", "live_form_next");
    let overlaps = |result: Result<Applied, Error>, with: &str| {
        let error = result.map(drop).unwrap_err();
        assert!(matches!(&error, Error::Overlap { other, .. } if other == with), "{error}");
    };
    let applied = commit(&[tiny], &patient()).unwrap();
    assert_eq!((live_form_tiny(7), live_form_next(7)), (1007, 8));
    overlaps(commit(&[next], &patient()), tiny);
    applied.rollback_with(&patient()).unwrap();
    let applied = commit(&[next], &patient()).unwrap();
    assert_eq!((live_form_tiny(7), live_form_next(7)), (7, 1007));
    overlaps(commit(&[tiny], &patient()), next);
    applied.rollback_with(&patient()).unwrap();
    overlaps(commit(&[next, tiny], &patient()), next);
    overlaps(commit(&[tiny, next], &patient()), tiny);
    let applied = commit(&[tiny], &patient()).unwrap();
    assert_eq!((live_form_tiny(7), live_form_next(7)), (1007, 8));
    applied.rollback_with(&patient()).unwrap();
    assert_eq!((live_form_tiny(7), live_form_next(7)), (7, 8));
}

/// Maps all that is free within reach of a 32-bit distance from `near`, so that nothing else can be.
fn fill_neighbourhood(near: u64) {
    let near = near / 4096 * 4096;
    let (low, high) = (near.saturating_sub(3 << 30).max(0x1_0000), near + (3 << 30));
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // Reading the map may change it.
    for _ in 0..5 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = maps.lines().map(|line| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            [start, end].map(|address| u64::from_str_radix(address, 16).unwrap())
        });
        let mut free_from = low;
        for [start, end] in ranges.chain([[high, high]]) {
            if start.min(high) > free_from {
                let len = (start.min(high) - free_from) as usize;
                // SAFETY: replaces nothing.
                unsafe { libc::mmap(free_from as *mut _, len, libc::PROT_NONE, flags, -1, 0) };
            }
            free_from = free_from.max(end);
        }
    }
}

#[test]
fn with_no_memory_nearby_a_jump_to_anywhere_is_used() {
    child::run("forms::with_no_memory_nearby_a_jump_to_anywhere_is_used", || {
        fill_neighbourhood(live_form_long as *const () as u64);
        static OLD: Original<Function> = Original::new();
        let mut change = Transaction::new();
        let new: Function = {
            extern "C" fn new(value: u64) -> u64 {
                OLD.get()(value) + 1000
            }
            new
        };
        change.replace_fn("live_form_long", &OLD, new);
        // SAFETY: same types.
        let applied = unsafe { change.commit(&patient()) }.unwrap();
        // SAFETY: the code of the target.
        let entry = unsafe { bytes_at(live_form_long as *const () as usize, 6) };
        assert_eq!(entry, [0xff, 0x25, 0, 0, 0, 0], "jmp [rip], with the address behind it");
        // The displaced instructions read what is out of their reach now.
        assert_eq!((live_form_long(7), OLD.get()(1)), (1049, 43));
        applied.rollback_with(&patient()).unwrap();
        assert_eq!(live_form_long(7), 49);
        // Too short for that, and there is no place for its island.
        let error = commit(&["live_form_tiny"], &patient()).map(drop).unwrap_err();
        assert!(matches!(error, Error::Refused { .. } | Error::NoNearMemory { .. }), "{error}");
    });
}
