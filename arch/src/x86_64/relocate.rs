//! Moves displaced instructions into a trampoline.
//!
//! An instruction that does not depend on its address is copied byte by byte. In one with an operand relative
//! to rip only the displacement changes, at the place that the decoder names, so every prefix and immediate
//! stays. Branches are encoded anew in their long form; the ones that have none are led around a jump.

use iced_x86::{Code, Encoder, FlowControl, IcedError, Instruction};

use super::decode;
use crate::reach::{Need, Reach};
use crate::{Displaced, PcMap, Refusal};

/// The jump from the end of the trampoline to what follows the displaced instructions.
pub(crate) const BACK: Reach = Reach::rel32(5);

/// An instruction in its new place.
struct Moved {
    bytes: Vec<u8>,
    /// What decoding the bytes must give.
    wanted: Vec<Instruction>,
}

/// Bytes that an instruction takes up in a trampoline, and what must be in reach of it.
///
/// Tries out the relocation as well, so that what the encoder cannot keep is refused already here.
pub(crate) fn requirements(
    instruction: &Instruction,
    bytes: &[u8],
) -> Result<(usize, Option<Need>), Refusal> {
    let Some(to) = target(instruction) else { return Ok((bytes.len(), None)) };
    let mut near = *instruction;
    if decode::branch_target(instruction).is_some() {
        near.set_near_branch64(instruction.ip());
    }
    let moved = relocate(&near, bytes, instruction.ip())?;
    check(&moved, instruction.ip())?;
    // The part that depends on the address is the last one.
    let length = moved.wanted.last().map_or(0, Instruction::len) as u64;
    Ok((moved.bytes.len(), Some(Need::OutOf { to, reach: Reach::rel32(length) })))
}

/// The trampoline at `address`, and which address in it stands for which.
pub(crate) fn trampoline(
    site: u64,
    displaced: &Displaced,
    address: u64,
) -> Result<(Vec<u8>, PcMap), Refusal> {
    let mut bytes = Vec::with_capacity(displaced.room);
    let mut map = PcMap {
        entries: Vec::with_capacity(displaced.instructions.len()),
        beyond: Vec::new(),
        site,
        overwritten: displaced.overwritten as u64,
        repeatable: displaced.repeatable,
        inside_jump: None,
    };
    for part in &displaced.instructions {
        let old = site + part.offset as u64;
        let new = address + bytes.len() as u64;
        let own = &displaced.bytes[part.offset..part.offset + part.len];
        let (instruction, _) = decode::one_with_displacement(own, old);
        let moved = relocate(&instruction, own, new)?;
        check(&moved, new)?;
        map.entries.push((old, new));
        if let [_, over, out] = moved.wanted[..] {
            map.beyond.push((over.ip(), instruction.next_ip()));
            map.beyond.push((out.ip(), instruction.near_branch_target()));
        }
        bytes.extend(moved.bytes);
    }
    if displaced.falls_through {
        let (old, new) = (site + displaced.span as u64, address + bytes.len() as u64);
        let mut back = Assembly::at(new);
        back.branch(Code::Jmp_rel32_64, old)?;
        let moved = back.finish();
        check(&moved, new)?;
        map.beyond.push((new, old));
        bytes.extend(moved.bytes);
    }
    Ok((bytes, map))
}

/// The absolute address that an instruction's meaning depends on.
fn target(instruction: &Instruction) -> Option<u64> {
    let memory = || instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    decode::branch_target(instruction).or_else(memory)
}

fn relocate(instruction: &Instruction, bytes: &[u8], to: u64) -> Result<Moved, Refusal> {
    if decode::branch_target(instruction).is_none() {
        return if instruction.is_ip_rel_memory_operand() {
            relocate_memory(instruction, bytes, to)
        } else {
            Ok(Moved { bytes: bytes.to_vec(), wanted: vec![at(instruction, to, bytes.len())] })
        };
    }
    let mut assembly = Assembly::at(to);
    match instruction.flow_control() {
        FlowControl::ConditionalBranch if !(instruction.is_jcc_short_or_near()) => {
            assembly.around(instruction)?
        }
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
            let mut long = *instruction;
            long.as_near_branch();
            assembly.push(long)?;
        }
        _ => {
            let (address, text) = (instruction.ip(), decode::text(instruction));
            return Err(Refusal::Unmovable {
                address,
                text,
                reason: "no way to move such a branch is known",
            });
        }
    }
    Ok(assembly.finish())
}

fn relocate_memory(instruction: &Instruction, bytes: &[u8], to: u64) -> Result<Moved, Refusal> {
    let text = || decode::text(instruction);
    let reach = Reach::rel32(bytes.len() as u64);
    let distance = reach.distance(text, to, instruction.ip_rel_memory_address())?;
    let (_, displacement) = decode::one_with_displacement(bytes, instruction.ip());
    let mut bytes = bytes.to_vec();
    let field = displacement.and_then(|at| bytes.get_mut(at..at + 4));
    let (Some(field), Ok(distance)) = (field, i32::try_from(distance)) else {
        let reason = "its displacement was not found";
        return Err(Refusal::Unmovable { address: instruction.ip(), text: text(), reason });
    };
    field.copy_from_slice(&distance.to_le_bytes());
    let wanted = at(instruction, to, bytes.len());
    Ok(Moved { bytes, wanted: vec![wanted] })
}

/// The same instruction with another address and length.
fn at(instruction: &Instruction, address: u64, len: usize) -> Instruction {
    let mut moved = *instruction;
    moved.set_len(len);
    moved.set_ip(address);
    moved
}

/// Decodes what was made, and compares.
fn check(moved: &Moved, address: u64) -> Result<(), Refusal> {
    let mut offset = 0;
    for wanted in &moved.wanted {
        let found = moved.bytes.get(offset..).and_then(|b| decode::one(b, address + offset as u64));
        if found != Some(*wanted) || found.map(|f| f.len()) != Some(wanted.len()) {
            let found = found.map_or_else(|| "nothing".to_owned(), |f| decode::text(&f));
            return Err(Refusal::SelfCheck { address: wanted.ip(), text: decode::text(wanted), found });
        }
        offset += wanted.len();
    }
    Ok(())
}

/// Instructions one after the other.
struct Assembly {
    encoder: Encoder,
    address: u64,
    wanted: Vec<Instruction>,
}

impl Assembly {
    fn at(address: u64) -> Self {
        Self { encoder: Encoder::new(64), address, wanted: Vec::new() }
    }

    fn finish(mut self) -> Moved {
        Moved { bytes: self.encoder.take_buffer(), wanted: self.wanted }
    }

    /// Loops and `jrcxz` have no long form and no inverse, and must leave flags and registers alone:
    /// they go over a jump to where they would not, and to a jump to where they would.
    fn around(&mut self, instruction: &Instruction) -> Result<(), Refusal> {
        const SHORT: u64 = 2;
        let mut short = *instruction;
        let start = self.address;
        short.set_near_branch64(start);
        let length = Encoder::new(64).encode(&short, start).map_err(|e| unencodable(&short, &e))? as u64;
        short.set_near_branch64(start + length + SHORT);
        self.push(short)?;
        self.branch(Code::Jmp_rel8_64, start + length + SHORT + BACK.length)?;
        self.branch(Code::Jmp_rel32_64, instruction.near_branch_target())
    }

    fn branch(&mut self, code: Code, to: u64) -> Result<(), Refusal> {
        let branch = Instruction::with_branch(code, to);
        self.push(branch.map_err(|e| unencodable(&Instruction::default(), &e))?)
    }

    fn push(&mut self, instruction: Instruction) -> Result<(), Refusal> {
        let mut near = instruction;
        // The length does not depend on the target, but the encoder needs one in reach to tell it.
        near.set_near_branch64(self.address);
        let length = Encoder::new(64).encode(&near, self.address).map_err(|e| unencodable(&near, &e))?;
        let reach = Reach::rel32(length as u64);
        reach.distance(|| decode::text(&instruction), self.address, instruction.near_branch_target())?;
        self.encoder.encode(&instruction, self.address).map_err(|e| unencodable(&instruction, &e))?;
        self.wanted.push(at(&instruction, self.address, length));
        self.address += length as u64;
        Ok(())
    }
}

fn unencodable(instruction: &Instruction, error: &IcedError) -> Refusal {
    Refusal::SelfCheck {
        address: instruction.ip(),
        text: decode::text(instruction),
        found: error.to_string(),
    }
}
