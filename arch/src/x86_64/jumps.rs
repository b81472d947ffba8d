//! Entry jumps and islands.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

use super::decode;
use crate::measure::Entry;
use crate::reach::{Need, Reach};
use crate::{Form, InstructionSet, Refusal};

pub(super) const BRANCH: Reach = Reach::rel32(5);
const THROUGH_SLOT: Reach = Reach::rel32(6);

/// Bytes of an absolute jump.
const ABSOLUTE: usize = THROUGH_SLOT.length as usize + 8;

/// Bytes of an island.
pub(crate) const ISLAND_ROOM: usize = THROUGH_SLOT.length as usize;

/// Bytes of an entry jump of a form that has a fixed length.
pub(super) fn entry_length(form: Form) -> usize {
    match form {
        Form::Slot => THROUGH_SLOT.length as usize,
        Form::Absolute => ABSOLUTE,
        Form::Relay => super::relay::SHORT,
        Form::Direct | Form::Island | Form::Punned => BRANCH.length as usize,
    }
}

/// What the entry jumps must reach that the site may be given: a near block that holds island and slot.
pub(crate) fn entry_needs(entry: &Entry, form: Form) -> Vec<Need> {
    let site = entry.site;
    let into = |from, reach| Need::Into { from, reach };
    match form {
        Form::Direct | Form::Island => vec![into(site, BRANCH)],
        Form::Slot => vec![into(site, BRANCH), into(site, THROUGH_SLOT)],
        Form::Relay => entry.x86.relay.iter().map(|relay| into(relay.at, BRANCH)).collect(),
        // The island is elsewhere, or the jump reaches everything.
        Form::Punned | Form::Absolute => Vec::new(),
    }
}

/// What an island at `island` must reach: a near block that holds its slot.
pub(crate) fn island_need(island: u64) -> Need {
    Need::Into { from: island, reach: THROUGH_SLOT }
}

/// The jump at a site: straight to `to`, through the pointer at `to`, or to the island at `to`.
pub(crate) fn entry_jump(entry: &Entry, form: Form, to: u64) -> Result<Vec<u8>, Refusal> {
    let site = entry.site;
    let missing = || Refusal::NoSuchForm { set: InstructionSet::X86_64, form };
    match form {
        Form::Direct | Form::Island => branch(site, to),
        Form::Slot => through_slot(site, to),
        Form::Punned => entry.x86.pun.ok_or_else(missing)?.entry(to),
        Form::Relay => entry.x86.relay.ok_or_else(missing)?.entry(site),
        Form::Absolute => absolute(site, to),
    }
}

/// The island at `address`: a jump through the slot.
pub(crate) fn island(address: u64, slot: u64) -> Result<Vec<u8>, Refusal> {
    through_slot(address, slot)
}

pub(super) fn branch(from: u64, to: u64) -> Result<Vec<u8>, Refusal> {
    BRANCH.distance(|| format!("jmp {to:#x}"), from, to)?;
    encode(Instruction::with_branch(Code::Jmp_rel32_64, to), from)
}

/// A jump of two bytes.
pub(super) fn short(from: u64, to: u64) -> Result<Vec<u8>, Refusal> {
    encode(Instruction::with_branch(Code::Jmp_rel8_64, to), from)
}

/// `jmp [rip]` with the address behind it.
fn absolute(from: u64, to: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = through_slot(from, from.wrapping_add(THROUGH_SLOT.length))?;
    bytes.extend(to.to_le_bytes());
    Ok(bytes)
}

fn through_slot(from: u64, slot: u64) -> Result<Vec<u8>, Refusal> {
    THROUGH_SLOT.distance(|| format!("jmp qword ptr [{slot:#x}]"), from, slot)?;
    let operand = MemoryOperand::with_base_displ(Register::RIP, slot.cast_signed());
    encode(Instruction::with1(Code::Jmp_rm64, operand), from)
}

/// Encodes, then decodes what came out and compares.
fn encode(instruction: Result<Instruction, iced_x86::IcedError>, from: u64) -> Result<Vec<u8>, Refusal> {
    let failed = |text: String, found: String| Refusal::SelfCheck { address: from, text, found };
    let wanted = instruction.map_err(|e| failed("jmp".into(), e.to_string()))?;
    let text = || decode::text(&wanted);
    let mut encoder = Encoder::new(64);
    encoder.encode(&wanted, from).map_err(|e| failed(text(), e.to_string()))?;
    let bytes = encoder.take_buffer();
    match decode::one(&bytes, from) {
        Some(found) if same_jump(&found, &wanted) => Ok(bytes),
        found => Err(failed(text(), found.map_or_else(|| "nothing".into(), |f| decode::text(&f)))),
    }
}

fn same_jump(a: &Instruction, b: &Instruction) -> bool {
    a.code() == b.code()
        && decode::branch_target(a) == decode::branch_target(b)
        && a.memory_base() == b.memory_base()
        && a.memory_displacement64() == b.memory_displacement64()
}
