//! x86-64: what iced-x86 decodes is either copied byte by byte, or moved with its absolute target kept.

mod assembly;
mod calls;
mod decode;
mod displace;
mod ending;
mod far;
mod jumps;
mod loops;
mod pun;
mod relay;
mod relocate;
mod sweep;
mod tables;

use iced_x86::{Code, Mnemonic};

pub(crate) use ending::ending;
pub(crate) use jumps::{ISLAND_ROOM, entry_jump, entry_needs, island, island_need};
pub(crate) use loops::{Loop, may_loop};
pub(crate) use relocate::{Kind, trampoline};
pub(crate) use tables::{branches_of, jumps_of};

use pun::Pun;
use relay::Relay;

use crate::measure::Entry;
use crate::{Around, Form, Function, InstructionSet, Measure, Refusal};

/// What only x86-64 forms need.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extras {
    pub(crate) pun: Option<Pun>,
    pub(crate) relay: Option<Relay>,
}

pub(crate) fn measure(function: &Function<'_>, around: &Around<'_>) -> Measure {
    let set = InstructionSet::X86_64;
    let pad = landing_pad(function);
    let site = function.address.wrapping_add(pad as u64);
    let body = sweep::sweep(function, around);
    let paddings = not_run(function, around);
    let around = &Around { paddings: &paddings, ..*around };
    let of = |overwritten: usize, kept: usize, far: bool| match &body {
        Ok(body) => displace::displace(function, around, pad, (overwritten, kept), far, body),
        // A function that is too short is so whatever its bytes are.
        Err(refusal) => {
            let short = displace::too_short(function, around, pad, overwritten);
            Err(short.unwrap_or_else(|| Refusal::clone(refusal)))
        }
    };
    let fixed = |form| of(jumps::entry_length(form), jumps::entry_length(form), form == Form::Absolute);
    let pun = pun_at(function, around, pad, site);
    let relay = Relay::find(site, around);
    // Both jumps have one length.
    let island = fixed(Form::Island);
    Measure {
        entry: Entry {
            set,
            site,
            pad: false,
            x86: Extras { pun: pun.as_ref().ok().copied(), relay: relay.as_ref().ok().copied() },
        },
        indirect_jump: body.as_ref().is_ok_and(|body| body.indirect_jump),
        direct: island.clone(),
        slot: fixed(Form::Slot),
        island,
        punned: pun.and_then(|pun| of(pun.written, pun.len(), false)),
        relay: relay.and_then(|_| fixed(Form::Relay)),
        absolute: fixed(Form::Absolute),
    }
}

/// The padding around a function, without that behind it if the function runs on into it: a jump there would be run.
fn not_run<'a>(function: &Function<'_>, around: &Around<'a>) -> Vec<(u64, &'a [u8])> {
    let end = function.address.saturating_add(function.bytes.len() as u64);
    let own = end..end.saturating_add(padding(around.behind) as u64);
    let paddings = around.paddings.iter().copied();
    let Some(_) = paddings.clone().find(|(start, _)| own.contains(start)) else { return paddings.collect() };
    let runs_on = sweep::runs_on(function);
    paddings.filter(|(start, _)| !(runs_on && own.contains(start))).collect()
}

fn pun_at(function: &Function<'_>, around: &Around<'_>, pad: usize, site: u64) -> Result<Pun, Refusal> {
    let own = function.bytes.get(pad..).unwrap_or_default();
    let bytes = own.iter().chain(around.behind).copied();
    let Some(first) = decode::one(own, site) else {
        let bytes = own.iter().copied().take(4).collect();
        return Err(Refusal::Undecodable { address: site, bytes });
    };
    Pun::new(site, first.len(), bytes)
}

/// Bytes of the NOP and INT3 instructions that `bytes` begin with.
pub(crate) fn padding(bytes: &[u8]) -> usize {
    let mut len = 0;
    while let Some(next) = bytes.get(len..).and_then(|rest| decode::one(rest, 0))
        && (next.mnemonic() == Mnemonic::Nop || next.code() == Code::Int3)
    {
        len += next.len();
    }
    len
}

/// Bytes of an `endbr64` at the entry: indirect calls must find it there.
fn landing_pad(function: &Function<'_>) -> usize {
    match decode::one(function.bytes, function.address) {
        Some(first) if first.code() == Code::Endbr64 => first.len(),
        _ => 0,
    }
}
