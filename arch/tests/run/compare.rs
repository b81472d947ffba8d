//! Runs a batch of functions in place, from their trampolines and through their entries, and compares.

use std::fmt::Write;

use midflight_arch::{Displaced, Form, Places, SitePlan, encode, island_room, measure, slot_room};

use super::case::{Block, Case, Refused, function};
use super::memory::World;
use super::native::{self, Machine, State};
use super::random::Random;
use super::tally::Tally;
use crate::support::to_hex;

/// Bytes of the block that the parts of a site are in.
const BLOCK: u64 = 256;

/// What a run left behind.
struct Outcome {
    exit: u64,
    state: State,
    blocks: Vec<Vec<u8>>,
}

/// A case with its parts in memory.
struct Prepared {
    case: Case,
    displaced: Displaced,
    plan: SitePlan,
    places: Places,
    /// Where to enter to come to the site, the trampoline, and the entry.
    ways: [u64; 3],
}

/// A change that makes a trampoline do something else.
pub(crate) type Tamper = fn(&mut SitePlan);

/// A function, a wrong trampoline for it, and what must be said about that.
pub(crate) struct Wrong {
    pub(crate) case: Case,
    pub(crate) tamper: Tamper,
    pub(crate) noticed: &'static str,
}

/// Runs all cases; gives a description of each that did not do the same everywhere.
pub(crate) fn batch(
    world: &mut World,
    machine: &mut Machine,
    random: &mut Random,
    cases: Vec<Case>,
    tamper: Option<Tamper>,
    tally: &mut Tally,
) -> Vec<String> {
    let trace = std::env::var_os("MIDFLIGHT_RUN_TRACE").is_some();
    let mut prepared: Vec<Prepared> = cases.into_iter().map(|case| prepare(world, random, case)).collect();
    for part in &mut prepared {
        if let Some(tamper) = tamper {
            tamper(&mut part.plan);
        }
        if trace {
            eprintln!("{}", describe(part, &[]));
        }
        write_parts(world, part);
    }
    // All of one kind, then all of the other: what was executed is not written to in between.
    let mut run_all = |prepared: &[Prepared], way: usize| -> Vec<Outcome> {
        prepared.iter().map(|part| run(world, machine, &part.case, part.ways[way])).collect()
    };
    let (in_place, moved) = (run_all(&prepared, 0), run_all(&prepared, 1));
    for part in &prepared {
        world.write_code(part.plan.site, &part.plan.entry);
    }
    let through_entry = run_all(&prepared, 2);

    let mut failures = Vec::new();
    for (index, part) in prepared.iter().enumerate() {
        let (original, case) = (&in_place[index], &part.case);
        let mut found = Vec::new();
        for (what, other) in [("trampoline", &moved[index]), ("entry jump", &through_entry[index])] {
            differences(case, original, other, what, &mut found);
        }
        match case.exits.iter().find(|(number, _)| *number == original.exit) {
            Some(&(_, role)) => tally.ran(&case.class, role),
            None => found.push(format!("in place: left by exit {} of another function", original.exit)),
        }
        if !found.is_empty() {
            failures.push(describe(part, &found));
        }
    }
    failures
}

/// Measures, finds places and encodes. Everything here must succeed.
fn prepare(world: &mut World, random: &mut Random, mut case: Case) -> Prepared {
    let whole = function(case.address, &case.bytes, case.guarded);
    let measured = measure(native::SET, &whole);
    let code = || format!("{} at {:#x}: {}", case.class, case.address, to_hex(&case.bytes));
    let displaced =
        measured.usable(case.form).unwrap_or_else(|refusal| panic!("{}: {refusal}", code())).clone();
    let site = (measured.site() - case.address) as usize;
    assert_eq!(site + displaced.span, case.end, "{}", code());
    let window = measured.window(case.form, BLOCK).unwrap_or_else(|| panic!("no window for {}", code()));
    let block = world.claim(random, &window, BLOCK, native::ALIGNMENT);
    let block = block.unwrap_or_else(|| panic!("no place in {window:#x?} for {}", code()));
    let room = measured.trampoline_room(case.form) as u64;
    let places = arrange(random, block, room);
    let plan = encode(&measured, case.form, &places, places.trampoline);
    let plan = plan.unwrap_or_else(|refusal| panic!("{}: {refusal}, {places:#x?}", code()));
    if case.form == Form::Island {
        native::pass_island(&mut case.state, &places);
    }
    let starts = [plan.site, places.trampoline, case.address];
    let ways = starts.map(|start| native::way_in(world, random, start, &case.state));
    Prepared { case, displaced, plan, places, ways }
}

/// Puts trampoline, island and slot somewhere in a block.
fn arrange(random: &mut Random, block: u64, room: u64) -> Places {
    let unit = native::ALIGNMENT;
    let (island, slot) = (island_room(native::SET) as u64, slot_room() as u64);
    let order = random.pick(&[[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]);
    let (mut at, mut starts) = (block, [0; 3]);
    for part in order {
        let (len, align) = [(room, unit), (island, unit), (slot, 8)][part];
        at = (at + random.below(5) * unit).next_multiple_of(align);
        starts[part] = at;
        at += len;
    }
    assert!(at <= block + BLOCK, "the block is too small for a trampoline of {room} bytes");
    Places { trampoline: starts[0], island: starts[1], slot: starts[2] }
}

fn write_parts(world: &World, part: &Prepared) {
    world.write_code(part.places.trampoline, &part.plan.trampoline);
    world.write_code(part.places.island, &part.plan.island);
    world.write(part.places.slot, &part.places.trampoline.to_le_bytes());
}

/// Runs a case from `start`, with its memory as it is to be.
fn run(world: &World, machine: &mut Machine, case: &Case, start: u64) -> Outcome {
    for block in &case.blocks {
        world.write(block.at, &block.bytes);
    }
    // SAFETY: what is at `start` was written by this harness, and leaves through an exit of this machine.
    let (exit, state) = unsafe { machine.run(start, &case.state) };
    let read = |block: &Block| {
        let mut bytes = world.read(block.at, block.bytes.len());
        state.forget_scratch(block.at, &mut bytes);
        bytes
    };
    Outcome { exit, blocks: case.blocks.iter().map(read).collect(), state }
}

fn differences(case: &Case, original: &Outcome, other: &Outcome, what: &str, found: &mut Vec<String>) {
    if original.exit != other.exit {
        found.push(format!("{what}: exit {} became {}", original.exit, other.exit));
    }
    let states = original.state.differences(&other.state, case.free);
    found.extend(states.into_iter().map(|difference| format!("{what}: {difference}")));
    for ((block, before), after) in case.blocks.iter().zip(&original.blocks).zip(&other.blocks) {
        if let Some(at) = before.iter().zip(after).position(|(before, after)| before != after) {
            let address = block.at + at as u64;
            let (before, after) =
                (&before[at..before.len().min(at + 16)], &after[at..after.len().min(at + 16)]);
            let (before, after) = (to_hex(before), to_hex(after));
            found.push(format!("{what}: memory from {address:#x}: {before} became {after}"));
        }
    }
}

fn describe(part: &Prepared, found: &[String]) -> String {
    let Prepared { case, displaced, plan, places, .. } = part;
    let mut text = format!("{} at {:#x}, {}: {}\n", case.class, case.address, case.form, to_hex(&case.bytes));
    for instruction in &displaced.instructions {
        let _ = writeln!(text, "  {:#x}  {}", plan.site + instruction.offset as u64, instruction.text);
    }
    let _ = writeln!(text, "  {places:x?}, trampoline {}", to_hex(&plan.trampoline));
    for line in native::listing(&plan.trampoline, places.trampoline) {
        let _ = writeln!(text, "    {line}");
    }
    let _ = writeln!(text, "  exits {:?}, set to\n{}", case.exits, case.state);
    for line in found {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// What must be refused is, and for the right reason.
pub(crate) fn refuse(case: &Refused, tally: &mut Tally) {
    let measured = measure(native::SET, &function(case.address, &case.bytes, false));
    let code = || format!("{} at {:#x}: {}", case.class, case.address, to_hex(&case.bytes));
    match measured.usable(case.form) {
        Err(refusal) if (case.is_right)(refusal) => tally.refused(case.class),
        Err(refusal) => panic!("{}: refused, but since {refusal}", code()),
        Ok(displaced) => panic!("{}: not refused: {:?}", code(), displaced.instructions),
    }
}
