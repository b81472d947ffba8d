//! Entry jumps and veneers.

use super::WORD;
use super::decode::{IMM26, Kind, Word};
use crate::reach::Reach;
use crate::{Form, InstructionSet, Refusal};

pub(crate) const BRANCH: Reach = IMM26.reach();

/// `adrp x16; ldr x16, [x16]; br x16`
pub(crate) const ISLAND_ROOM: usize = 12;

/// `bti c`. Linux sets SCTLR_EL1.BT0, so `paciasp` and `pacibsp` are landing pads for exactly the same branches.
const LANDING_PAD: u32 = 0xd503_245f;

/// Pages that `adrp` reaches, in bytes.
const PAGES: Reach = Reach::word(21, 0x1000);

pub(crate) fn entry_reaches() -> &'static [Reach] {
    &[BRANCH]
}

/// The address of the branch in an entry jump at `site`.
pub(crate) fn branch_of_entry(site: u64, pad: bool) -> u64 {
    if pad { site.wrapping_add(WORD) } else { site }
}

/// The branch at a site, behind a landing pad if it is to have one.
pub(crate) fn entry_jump(form: Form, site: u64, pad: bool, to: u64) -> Result<Vec<u8>, Refusal> {
    match form {
        Form::Direct | Form::Island => {
            let pad = pad.then_some(LANDING_PAD);
            let jump = branch(branch_of_entry(site, pad.is_some()), to)?;
            Ok(pad.into_iter().chain([jump]).flat_map(u32::to_le_bytes).collect())
        }
        _ => Err(Refusal::NoSuchForm { set: InstructionSet::Aarch64, form }),
    }
}

/// `b`
pub(crate) fn branch(from: u64, to: u64) -> Result<u32, Refusal> {
    let distance = BRANCH.distance(|| format!("b {to:#x}"), from, to)?;
    checked(IMM26.put(0x1400_0000, distance), from, Kind::Branch, to)
}

/// The veneer at `address`. A call may change x16 and x17 on its way, so they are free at an entry, and a branch
/// through them may land on `bti c`.
pub(crate) fn island(address: u64, slot: u64) -> Result<Vec<u8>, Refusal> {
    for (what, address, alignment) in [("the island", address, 4), ("the slot", slot, 8)] {
        if !address.is_multiple_of(alignment) {
            return Err(Refusal::Misaligned { what: what.into(), address, alignment });
        }
    }
    let page = slot & !0xfff;
    let distance = PAGES.distance(|| format!("adrp x16, {page:#x}"), address & !0xfff, page)? >> 12;
    let (low, high) = (distance as u32 & 3, (distance >> 2) as u32 & 0x7_ffff);
    let adrp = checked(0x9000_0010 | low << 29 | high << 5, address, Kind::Page, page)?;
    let ldr = 0xf940_0210 | ((slot & 0xfff) as u32 >> 3) << 10;
    Ok([adrp, ldr, 0xd61f_0200].iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// The word, if decoding gives what it was made for.
pub(crate) fn checked(value: u32, at: u64, kind: Kind, to: u64) -> Result<u32, Refusal> {
    let word = Word::decode(value, at);
    if word.kind == kind && word.target() == Some(to) {
        return Ok(value);
    }
    Err(Refusal::SelfCheck { address: at, text: format!("{kind:?} to {to:#x}"), found: word.to_string() })
}
