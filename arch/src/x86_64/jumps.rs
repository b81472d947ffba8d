//! Entry jumps and islands.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

use super::decode;
use crate::reach::Reach;
use crate::{Form, Refusal};

const BRANCH: Reach = Reach::rel32(5);
const THROUGH_SLOT: Reach = Reach::rel32(6);

/// Bytes of an island.
pub(crate) const ISLAND_ROOM: usize = THROUGH_SLOT.length as usize;

/// Bytes of an entry jump.
pub(crate) fn entry_length(form: Form) -> usize {
    match form {
        Form::Direct | Form::Island | Form::Punned | Form::Relay | Form::Absolute => BRANCH.length as usize,
        Form::Slot => THROUGH_SLOT.length as usize,
    }
}

/// How far the entry jumps reach that a site measured for this form may be given.
pub(crate) fn entry_reaches(form: Form) -> &'static [Reach] {
    match form {
        Form::Direct | Form::Island | Form::Punned | Form::Relay | Form::Absolute => &[BRANCH],
        Form::Slot => &[BRANCH, THROUGH_SLOT],
    }
}

/// The jump at a site: straight to `to`, or through the pointer at `to`.
pub(crate) fn entry_jump(form: Form, site: u64, to: u64) -> Result<Vec<u8>, Refusal> {
    match form {
        Form::Direct | Form::Island | Form::Punned | Form::Relay | Form::Absolute => branch(site, to),
        Form::Slot => through_slot(site, to),
    }
}

/// The island at `address`: a jump through the slot.
pub(crate) fn island(address: u64, slot: u64) -> Result<Vec<u8>, Refusal> {
    through_slot(address, slot)
}

fn branch(from: u64, to: u64) -> Result<Vec<u8>, Refusal> {
    BRANCH.distance(|| format!("jmp {to:#x}"), from, to)?;
    encode(Instruction::with_branch(Code::Jmp_rel32_64, to), from)
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
