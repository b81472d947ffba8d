//! aarch64: one word is overwritten, or two where a landing pad has to take the place of the first. They are displaced,
//! and a loop that begins with them as a whole (see [`region`]). What depends on its address is written anew without any
//! register but its own destination, x16 and x17 (see [`relocate`]), since all others may hold arguments or values.

mod concurrent;
mod decode;
mod displace;
mod jumps;
mod region;
mod relocate;
mod text;

#[cfg(test)]
#[path = "../../tests/aarch64/reference.rs"]
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use jumps::{ISLAND_ROOM, branch_of_entry, entry_jump, entry_reaches, island};
pub(crate) use relocate::trampoline;

use decode::{Kind, Word};

use crate::measure::Entry;
use crate::{Around, Form, Function, InstructionSet, Measure, Refusal};

/// Bytes of an instruction.
const WORD: u64 = 4;

/// Whether it jumps to an address that it computes.
pub(crate) fn has_indirect_jump(function: &Function<'_>) -> bool {
    decode::words(function).any(|word: Word| word.kind == Kind::Jump)
}

/// Where the direct branches go.
pub(crate) fn branches_of(function: &Function<'_>) -> Vec<u64> {
    decode::words(function).filter(Word::is_branch).filter_map(|word| word.target()).collect()
}

/// Whether a `b` may take the place of the first of these words by one store, and give it back, while threads run.
pub(crate) fn may_become_branch(words: &[u8]) -> bool {
    const B: u32 = 0x1400_0000;
    words.first_chunk().is_some_and(|word| concurrent::may_change_running(u32::from_le_bytes(*word), B))
}

/// Indirect calls of a function on a guarded page land on `bti c`, or on `paciasp` or `pacibsp`, which are landing pads
/// for the same branches (Arm Architecture Reference Manual, "Branch Target Identification", `BTypeCompatible_PACIXSP`).
/// Every `bti` with a target stays where it is, on any page: it does nothing else. Signing cannot stay, since the
/// replacement would find a signed return address: it is displaced with the word behind it, and `bti c` takes its
/// place. A guarded function that begins with neither is never called indirectly.
pub(crate) fn measure(function: &Function<'_>, around: &Around<'_>) -> Measure {
    let set = InstructionSet::Aarch64;
    let first = decode::words(function).next().map(|word| word.kind);
    let kept = if first == Some(Kind::LandingPad) { WORD } else { 0 };
    let pad = function.guarded && first == Some(Kind::Sign);
    let none = |form| Err(Refusal::NoSuchForm { set, form });
    let near = displace::displace(function, around, kept, if pad { 2 } else { 1 });
    Measure {
        entry: Entry { set, site: function.address.wrapping_add(kept), pad, x86: Default::default() },
        indirect_jump: has_indirect_jump(function),
        direct: near.clone(),
        slot: none(Form::Slot),
        island: near,
        punned: none(Form::Punned),
        relay: none(Form::Relay),
        absolute: none(Form::Absolute),
    }
}
