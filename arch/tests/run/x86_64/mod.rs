//! The generated functions of x86-64: every instruction that has an operand relative to rip, every branch, and what is
//! usual at the start of a function around them.
//!
//! Not here: EVEX (its registers are not part of a state), `syscall` (its rcx is the address behind it, another one in
//! a trampoline), and what the catalogue leaves out with a reason.

mod calls;
mod catalogue;
mod classes;
mod fillers;
mod machine;
mod refusals;
mod window;

use midflight_arch::{Form, InstructionSet, Places};

use super::case::{Case, Refused};
use super::compare::{Tamper, Wrong};
use super::memory::{PAGE, World};
use super::random::Random;
use super::tally::Tally;
use crate::support;
pub(crate) use machine::{Machine, State};
use window::Window;

pub(crate) const SET: InstructionSet = InstructionSet::X86_64;
/// Of code.
pub(crate) const ALIGNMENT: u64 = 1;
/// How many are to run.
pub(crate) const WANTED: usize = 42_000;

/// Instructions of the catalogue for a world.
const EACH: u64 = 90;

const MIB: i64 = 1 << 20;
const GIB2: i64 = 1 << 31;

/// Functions are in the first arena; others are up to nearly 2 GiB away from them, on both sides, and two are farther.
pub(crate) fn world(random: &mut Random) -> World {
    let mut between = |low, high| (random.within(low..=high) & !(PAGE - 1)).cast_signed();
    let (up, down) = (between(4 << 20, 1000 << 20), between(4 << 20, 1000 << 20));
    let arenas = [
        (0, 2 << 20),
        (up, 1 << 18),
        (-down, 1 << 18),
        (GIB2 + MIB / 2, 1 << 18),
        (-GIB2 + MIB + MIB / 4, 1 << 18),
        // For trampolines that reach nothing.
        (GIB2 * 4, 1 << 18),
        (GIB2 * 50, 1 << 18),
    ];
    let (low, high) = (0x8080_0000..=0xffff_f000, 1 << 32..=0x7e00_0000_0000);
    World::new(random, &[low, high.clone(), high.clone(), high], &arenas)
}

/// Functions that are to run. Each world has the next ones of the catalogue.
pub(crate) fn cases(world: &mut World, machine: &Machine, random: &mut Random, part: u64) -> Vec<Case> {
    let catalogue = catalogue::catalogue();
    let next = catalogue.iter().cycle().skip((part * EACH) as usize % catalogue.len()).take(EACH as usize);
    let mut cases: Vec<Case> = Vec::new();
    for encodings in next {
        cases.push(classes::relative(Window::new(world, machine, random), encodings));
    }
    for condition in 0..16 {
        for _ in 0..4 {
            cases.extend(classes::branch(Window::new(world, machine, random), Some(condition)));
        }
    }
    for round in 0..6 {
        cases.extend(classes::branch(Window::new(world, machine, random), None));
        for which in 0..4 {
            cases.extend(classes::counted(Window::new(world, machine, random), which));
        }
        cases.extend(classes::indirect(Window::new(world, machine, random)));
        for which in 0..calls::CALLS.len() {
            cases.extend(calls::call(Window::new(world, machine, random), which));
        }
        cases.push(classes::eip_relative(Window::new(world, machine, random)));
        cases.push(classes::internal(Window::new(world, machine, random)));
        if is_x86_feature_detected!("rtm") {
            cases.extend(classes::transaction(Window::new(world, machine, random)));
        }
        if round < 3 {
            for which in 0..5 {
                cases.push(classes::string(Window::new(world, machine, random), which));
            }
        }
        for _ in 0..4 {
            cases.push(classes::prologue(Window::new(world, machine, random)));
        }
    }
    cases
}

pub(crate) fn refusals(random: &mut Random) -> Vec<Refused> {
    refusals::refusals(random)
}

/// An island changes no register.
pub(crate) fn pass_island(_: &mut State, _: &Places) {}

/// Code can be entered anywhere.
pub(crate) fn way_in(_: &mut World, _: &mut Random, start: u64, _: &State) -> u64 {
    start
}

pub(crate) fn listing(bytes: &[u8], address: u64) -> Vec<String> {
    support::listing(bytes, address)
}

/// Nothing may be missing.
pub(crate) fn check(tally: &Tally, worlds: u64) {
    let instructions = catalogue::catalogue();
    // With no more than SSE2 there are as many.
    println!("{} instructions relative to rip", instructions.len());
    assert!(instructions.len() > 400, "{}", instructions.len());
    assert!(worlds * EACH >= instructions.len() as u64, "each of {} must run", instructions.len());
    for class in instructions.iter().flatten().map(|encoding| &encoding.class) {
        tally.check_ran(class, 5);
    }
    for class in ["rip: general load", "rip: general store", "rip: general update", "rip: sse load"] {
        tally.check_ran(class, 200);
    }
    tally.check_ran("rip: locked update", 100);
    for class in classes::CONDITIONS.into_iter().chain(classes::LOOPS) {
        tally.check_both(class, 100);
    }
    for class in ["jmp", "jmp through a pointer", "jmp through a register", "jmp through the stack", "ret"] {
        tally.check_ran(class, 50);
    }
    for class in calls::CALLS.into_iter().chain(["relative to eip", "branch among the displaced"]) {
        tally.check_ran(class, 50);
    }
    for class in classes::STRINGS.into_iter().chain(["prologue", "enter", "leave"]) {
        tally.check_ran(class, 100);
    }
    for refused in refusals(&mut Random::new(0, 0)) {
        tally.check_refused(refused.class, 50);
    }
}

/// Functions that a wrong trampoline must be noticed of.
pub(crate) fn wrong(world: &mut World, machine: &Machine, random: &mut Random) -> Vec<Wrong> {
    let mut with = |class: &str, bytes: &[u8]| {
        let mut window = near(Window::new(world, machine, random));
        let end = window.here() + bytes.len() as u64 + 4;
        let to = window.data(end, &[]);
        window.state.general[0] |= 0x1100;
        window.put(bytes);
        window.put(&to.wrapping_sub(end).to_le_bytes()[..4]);
        window.finish(class)
    };
    let another_operand: Tamper = |plan| plan.trampoline[3] ^= 8;
    let mut all: Vec<Wrong> = [
        ("mov rax, [rip]", &[0x48, 0x8b, 0x05], "rax: "),
        ("mov [rip], rax", &[0x48, 0x89, 0x05], "memory from "),
        ("xor [rip], rax", &[0x48, 0x31, 0x05], "memory from "),
        ("movups xmm0, [rip]", &[0x0f, 0x10, 0x05], "xmm0: "),
    ]
    .map(|(class, bytes, noticed)| Wrong { case: with(class, bytes), tamper: another_operand, noticed })
    .into();

    let mut window = near(Window::new(world, machine, random));
    let end = window.here() + 6;
    let to = window.far_exit(end).expect("room for an exit");
    window.put(&[0x0f, 0x84]);
    window.put(&to.wrapping_sub(end).to_le_bytes()[..4]);
    // je becomes jne.
    let tamper: Tamper = |plan| plan.trampoline[1] ^= 1;
    all.push(Wrong { case: window.finish("je"), tamper, noticed: "exit " });

    // Another return address.
    let tamper: Tamper = |plan| {
        let at = plan.trampoline.len() - 8;
        plan.trampoline[at] ^= 1;
    };
    let window = near(Window::new(world, machine, random));
    let case = calls::call(window, 0).expect("room for an exit");
    all.push(Wrong { case, tamper, noticed: "memory from " });

    let mut window = near(Window::new(world, machine, random));
    // stc, and nop of 6 bytes; becomes clc.
    window.put(&[0xf9, 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00]);
    let tamper: Tamper = |plan| plan.trampoline[0] = 0xf8;
    all.push(Wrong { case: window.finish("stc"), tamper, noticed: "flags: " });
    all
}

/// The changes are made to trampolines that are known byte by byte.
fn near(mut window: Window<'_>) -> Window<'_> {
    window.form = Form::Island;
    window
}
