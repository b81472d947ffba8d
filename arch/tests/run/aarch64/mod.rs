//! The generated functions of aarch64: every word that depends on its address, with all registers, calls, loops from the
//! entry, and what is usual at the start of a function.
//!
//! Not here: `bc.<cond>` and `cb<cond>`, which few processors and emulators have.

mod classes;
mod machine;
mod refusals;
mod site;
mod words;

use midflight_arch::{InstructionSet, Places};

use super::case::{Case, Refused};
use super::compare::{Tamper, Wrong};
use super::memory::{PAGE, World};
use super::random::Random;
use super::tally::Tally;
pub(crate) use machine::{Machine, State};
use site::Site;

pub(crate) const SET: InstructionSet = InstructionSet::Aarch64;
/// Of code.
pub(crate) const ALIGNMENT: u64 = 4;
/// How many are to run.
pub(crate) const WANTED: usize = 10_000;

const MIB: i64 = 1 << 20;

/// Functions are in the first arena; the others are up to nearly 128 MiB away from them, on both sides.
pub(crate) fn world(random: &mut Random) -> World {
    let mut between = |low, high| (random.within(low..=high) & !(PAGE - 1)).cast_signed();
    let (up, down) = (between(8 << 20, 120 << 20), between(8 << 20, 120 << 20));
    let arenas = [
        (0, 4 << 20),
        (up, 1 << 18),
        (-down, 1 << 18),
        (129 * MIB, 1 << 18),
        (-125 * MIB - MIB / 4, 1 << 18),
    ];
    World::new(random, &[1 << 32..=1 << 36, 1 << 36..=0x7e00_0000_0000], &arenas)
}

/// Functions that are to run.
pub(crate) fn cases(world: &mut World, machine: &Machine, random: &mut Random, _: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for _ in 0..2 {
        for condition in 0..16 {
            cases.push(classes::conditional(Site::new(world, machine, random), condition));
        }
        for which in 0..classes::REGISTERS.len() {
            for _ in 0..3 {
                cases.push(classes::on_register(Site::new(world, machine, random), which));
            }
        }
        for which in 0..classes::LITERALS.len() {
            for _ in 0..2 {
                cases.push(classes::literal(Site::new(world, machine, random), which));
            }
        }
        for _ in 0..4 {
            cases.push(classes::branch(Site::new(world, machine, random)));
            cases.push(classes::address(Site::new(world, machine, random), false));
            cases.push(classes::address(Site::new(world, machine, random), true));
            cases.push(classes::indirect(Site::new(world, machine, random)));
            cases.push(classes::call(Site::new(world, machine, random)));
            cases.push(classes::indirect_call(Site::new(world, machine, random)));
            cases.push(classes::counted_loop(Site::new(world, machine, random)));
            cases.push(classes::left_loop(Site::new(world, machine, random)));
        }
        cases.push(classes::system_call(Site::new(world, machine, random)));
        for _ in 0..40 {
            let site = Site::new(world, machine, random);
            let (class, word) = words::word(site.random);
            cases.push(site.finish(class, word));
        }
    }
    cases
}

pub(crate) fn refusals(random: &mut Random) -> Vec<Refused> {
    refusals::refusals(random)
}

/// An island leaves the address that it went to in x16.
pub(crate) fn pass_island(state: &mut State, places: &Places) {
    state.x[16] = places.trampoline;
}

/// The last register is loaded near the target.
pub(crate) fn way_in(world: &mut World, random: &mut Random, start: u64, state: &State) -> u64 {
    let near = start - 0x7f0_0000..=start + 0x7f0_0000;
    let at = world.claim(random, &near, 16, 4).expect("room for a way in");
    world.write_code(at, &Machine::way_in(at, start, state));
    at
}

/// The words.
pub(crate) fn listing(bytes: &[u8], address: u64) -> Vec<String> {
    let words = bytes.chunks(4).zip((address..).step_by(4));
    words
        .map(|(word, at)| {
            format!("{at:#x}  {:08x}", word.iter().rev().fold(0, |all, &b| all << 8 | u32::from(b)))
        })
        .collect()
}

/// Nothing may be missing.
pub(crate) fn check(tally: &Tally, _: u64) {
    for class in &classes::CONDITIONS[..14] {
        tally.check_both(class, 8);
    }
    for (class, _) in classes::REGISTERS {
        tally.check_both(class, 50);
    }
    for (class, ..) in classes::LITERALS {
        tally.check_ran(class, 80);
    }
    tally.check_both(classes::LEFT_LOOP, 50);
    for class in ["b", "adr", "adrp", "br", "ret", "bl", "blr", classes::THROUGH_LINK, classes::LOOP] {
        tally.check_ran(class, 80);
    }
    for class in ["b.al", "b.nv", "svc"] {
        tally.check_ran(class, 30);
    }
    tally.check_ran(classes::TO_ZERO, 50);
    for class in [
        "pair on the stack",
        "one on the stack",
        "stack pointer",
        "wide immediate",
        "add and sub",
        "logical",
        "with carry or condition",
        "one or two sources",
        "bit field",
        "vector",
        "system register",
        "hint or barrier",
    ] {
        tally.check_ran(class, 80);
    }
    for refused in refusals(&mut Random::new(0, 0)) {
        tally.check_refused(refused.class, 20);
    }
}

/// Functions that a wrong trampoline must be noticed of.
pub(crate) fn wrong(world: &mut World, machine: &Machine, random: &mut Random) -> Vec<Wrong> {
    /// What is behind the words is the address of something.
    const ANOTHER_ADDRESS: Tamper = |plan| {
        let at = plan.trampoline.len() - 8;
        plan.trampoline[at] ^= 4;
    };
    // The bits that make another instruction of a word, by byte.
    let words: [(&str, u32, &str, Tamper); 5] = [
        // adr x0, .+0x1000
        ("adr x0", 0x1000_8000, "x0: ", ANOTHER_ADDRESS),
        // cmp x0, #1 becomes cmn x0, #1.
        ("cmp x0", 0xf100_041f, "nzcv: ", |plan| plan.trampoline[3] ^= 0x40),
        // str x0, [sp, #16] becomes str x0, [sp, #24].
        ("str x0", 0xf900_0be0, "memory from ", |plan| plan.trampoline[1] ^= 4),
        // mov x29, sp becomes mov x28, sp.
        ("mov x29", 0x9100_03fd, "x29: ", |plan| plan.trampoline[0] ^= 1),
        // fmov d0, x0 becomes fmov d1, x0.
        ("fmov d0", 0x9e67_0000, "v1, ", |plan| plan.trampoline[0] ^= 1),
    ];
    let mut all = Vec::new();
    for (class, word, noticed, tamper) in words {
        let mut site = Site::new(world, machine, random);
        site.must_not_sign();
        site.state.x[0] = 1;
        all.push(Wrong { case: site.finish(class, word), tamper, noticed });
    }
    let mut load = Site::new(world, machine, random);
    load.must_not_sign();
    let to = load.data(19);
    let word = 0x5800_0000 | classes::field(&load, to, 19) << 5;
    all.push(Wrong { case: load.finish("ldr x0", word), tamper: ANOTHER_ADDRESS, noticed: "x0: " });
    // The return address of a call becomes another.
    let mut call = Site::new(world, machine, random);
    call.must_not_sign();
    let to = call.exit(26);
    let word = 0x9400_0000 | classes::field(&call, to, 26);
    all.push(Wrong { case: call.finish("bl", word), tamper: ANOTHER_ADDRESS, noticed: "x30: " });
    // cbz x0 becomes cbnz x0.
    let mut branch = Site::new(world, machine, random);
    branch.must_not_sign();
    let to = branch.exit(19);
    let word = 0xb400_0000 | classes::field(&branch, to, 19) << 5;
    let case = branch.finish("cbz x0", word);
    all.push(Wrong { case, tamper: |plan| plan.trampoline[3] ^= 1, noticed: "exit " });
    all
}
