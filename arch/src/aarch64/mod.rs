//! aarch64: one word is displaced. What depends on its address is written anew without any register but its own
//! destination, since all others may hold arguments or values.

mod decode;
mod displace;
mod jumps;
mod relocate;
mod text;

pub(crate) use jumps::{ISLAND_ROOM, entry_jump, entry_reaches, island};
pub(crate) use relocate::trampoline;

use decode::{Kind, Word};

use crate::{Form, Function, InstructionSet, Measure, Refusal};

/// Bytes of an instruction.
const WORD: u64 = 4;

pub(crate) fn measure(function: &Function<'_>) -> Measure {
    let set = InstructionSet::Aarch64;
    let first = decode::words(function).next();
    let pad = if first.is_some_and(|word| word.kind == Kind::LandingPad) { WORD } else { 0 };
    let near = displace::displace(function, pad);
    Measure {
        set,
        site: function.address.wrapping_add(pad),
        indirect_jump: decode::words(function).any(|word: Word| word.kind == Kind::Jump),
        direct: near.clone(),
        slot: Err(Refusal::NoSuchForm { set, form: Form::Slot }),
        island: near,
    }
}
