//! x86-64: what iced-x86 decodes is either copied byte by byte, or moved with its absolute target kept.

mod decode;
mod displace;
mod jumps;
mod relocate;

use iced_x86::Code;

pub(crate) use jumps::{ISLAND_ROOM, entry_jump, entry_reaches, island};
pub(crate) use relocate::trampoline;

use crate::{Around, Form, Function, InstructionSet, Measure, Refusal};

pub(crate) fn measure(function: &Function<'_>, _around: &Around<'_>) -> Measure {
    let set = InstructionSet::X86_64;
    let none = |form| Err(Refusal::NoSuchForm { set, form });
    let pad = landing_pad(function);
    let site = function.address.wrapping_add(pad as u64);
    let (indirect_jump, [direct, slot, island]) = match decode::sweep(function) {
        Ok(body) => {
            let of = |form| displace::displace(function, pad, jumps::entry_length(form), &body);
            (body.indirect_jump, [of(Form::Direct), of(Form::Slot), of(Form::Island)])
        }
        Err(refusal) => (
            false,
            [Form::Direct, Form::Slot, Form::Island].map(|form| {
                // A function that is too short is so whatever its bytes are.
                let short = displace::too_short(function, pad, jumps::entry_length(form));
                Err(short.unwrap_or_else(|| Refusal::clone(&refusal)))
            }),
        ),
    };
    let (punned, relay, absolute) = (none(Form::Punned), none(Form::Relay), none(Form::Absolute));
    Measure { set, site, pad: false, indirect_jump, direct, slot, island, punned, relay, absolute }
}

/// Bytes of an `endbr64` at the entry: indirect calls must find it there.
fn landing_pad(function: &Function<'_>) -> usize {
    match decode::one(function.bytes, function.address) {
        Some(first) if first.code() == Code::Endbr64 => first.len(),
        _ => 0,
    }
}
