//! The code of a trampoline while it is put together: instructions one after the other, then constants.
//!
//! It is made twice. The first time shows where everything will be; no length depends on where that is.

use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};

use super::decode;
use crate::Refusal;
use crate::reach::Reach;

/// The jump from the end of the trampoline to what follows the displaced instructions.
pub(crate) const BACK: Reach = Reach::rel32(5);
/// A jump through a constant.
const THROUGH: Reach = Reach::rel32(6);

/// Which places have another one in the trampoline.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copies {
    /// The first byte of the function.
    pub(crate) entry: u64,
    /// The first displaced instruction.
    pub(crate) site: u64,
    /// What is overwritten from there on.
    pub(crate) overwritten: u64,
    /// Of displaced instructions: old and new address.
    pub(crate) places: Vec<(u64, u64)>,
}

impl Copies {
    /// Whether a displaced branch to there goes to a copy. A call of the function itself is one like any other.
    pub(crate) fn has(&self, to: u64, call: bool) -> bool {
        let offset = to.wrapping_sub(self.site);
        let entry = offset == 0 || to == self.entry;
        offset < self.overwritten && offset > 0 || entry && !call && self.overwritten > 0
    }

    /// Where it is; `start` as long as that is not known.
    fn of(&self, to: u64, call: bool, start: u64) -> Option<u64> {
        let old = if to == self.entry { self.site } else { to };
        let copy = || self.places.iter().find(|(place, _)| *place == old).map_or(start, |&(_, new)| new);
        self.has(to, call).then(copy)
    }
}

/// How to go to what is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distance {
    /// Refuse what is out of reach of 32 bits.
    Near,
    /// With 64 bits where 32 do not do.
    AsNeeded,
    /// With 64 bits always, to see how long that is.
    Far,
}

/// Instructions one after the other.
pub(crate) struct Assembly<'a> {
    pub(crate) copies: &'a Copies,
    pub(crate) distance: Distance,
    pub(crate) shadow_stack: bool,
    start: u64,
    pool: u64,
    pub(crate) bytes: Vec<u8>,
    /// What decoding the bytes must give.
    pub(crate) wanted: Vec<Instruction>,
    pub(crate) constants: Vec<u64>,
    /// Addresses of parts of an instruction, and where the function would be there: new, old.
    pub(crate) beyond: Vec<(u64, u64)>,
}

impl<'a> Assembly<'a> {
    /// At `start`, with its constants at `pool`.
    pub(crate) fn new(copies: &'a Copies, distance: Distance, start: u64, pool: u64) -> Self {
        Self {
            copies,
            distance,
            shadow_stack: false,
            start,
            pool,
            bytes: Vec::new(),
            wanted: Vec::new(),
            constants: Vec::new(),
            beyond: Vec::new(),
        }
    }

    /// Where the next instruction will be.
    pub(crate) fn here(&self) -> u64 {
        self.start.wrapping_add(self.bytes.len() as u64)
    }

    /// Bytes of instructions and constants.
    pub(crate) fn room(&self) -> usize {
        self.bytes.len() + 8 * self.constants.len()
    }

    /// Whether an instruction of `length` bytes put here can have the distance to `to`.
    pub(crate) fn reaches(&self, instruction: &Instruction, length: u64, to: u64) -> Result<bool, Refusal> {
        let found = Reach::rel32(length).distance(|| decode::text(instruction), self.here(), to);
        match self.distance {
            Distance::Near => found.map(|_| true),
            Distance::AsNeeded => Ok(found.is_ok()),
            Distance::Far => Ok(false),
        }
    }

    /// Where a branch to `to` has to go to, if that is in the trampoline.
    pub(crate) fn copy_of(&self, to: u64, call: bool) -> Option<u64> {
        self.copies.of(to, call, self.start)
    }

    /// These bytes, which are that instruction at another place.
    pub(crate) fn copy(&mut self, instruction: &Instruction, bytes: &[u8]) {
        self.wanted.push(at(instruction, self.here(), bytes.len()));
        self.bytes.extend(bytes);
    }

    /// An instruction that has to be encoded.
    pub(crate) fn put(&mut self, instruction: &Instruction) -> Result<(), Refusal> {
        let (mut encoder, here) = (Encoder::new(64), self.here());
        let length = encoder.encode(instruction, here).map_err(|error| unencodable(instruction, &error))?;
        self.bytes.extend(encoder.take_buffer());
        self.wanted.push(at(instruction, here, length));
        Ok(())
    }

    /// As [`put`](Self::put), of what a constructor gave.
    pub(crate) fn make(&mut self, instruction: Result<Instruction, IcedError>) -> Result<(), Refusal> {
        self.put(&instruction.map_err(|error| unencodable(&Instruction::default(), &error))?)
    }

    /// The address of a constant of 8 bytes.
    pub(crate) fn constant(&mut self, value: u64) -> u64 {
        let index = self.constants.len() as u64;
        self.constants.push(value);
        self.pool.wrapping_add(8 * index)
    }

    /// Such an operand.
    pub(crate) fn constant_operand(&mut self, value: u64) -> MemoryOperand {
        let at = self.constant(value);
        MemoryOperand::with_base_displ(Register::RIP, at.cast_signed())
    }

    /// Bytes of [`jump`](Self::jump), which `lead` bytes of others go before.
    pub(crate) fn jump_length(&self, to: u64, call: bool, lead: u64) -> Result<u64, Refusal> {
        let jump = Instruction::with_branch(Code::Jmp_rel32_64, to).unwrap_or_default();
        let near = self.copy_of(to, call).is_some() || self.reaches(&jump, lead + BACK.length, to)?;
        Ok(if near { BACK.length } else { THROUGH.length })
    }

    /// A jump to `to`, or to its copy; `like` is what it stands for.
    pub(crate) fn jump(&mut self, like: &Instruction, to: u64, call: bool) -> Result<(), Refusal> {
        let copy = self.copy_of(to, call);
        let branch = Instruction::with_branch(Code::Jmp_rel32_64, copy.unwrap_or(to));
        let mut near = branch.map_err(|error| unencodable(like, &error))?;
        near.set_has_repne_prefix(like.has_repne_prefix());
        near.set_segment_prefix(like.segment_prefix());
        let prefixes = [like.has_repne_prefix(), like.segment_prefix() != Register::None];
        let length = BACK.length + prefixes.iter().filter(|&&has| has).count() as u64;
        if copy.is_some() || self.reaches(&near, length, to)? {
            return self.put(&near);
        }
        let operand = self.constant_operand(to);
        self.make(Instruction::with1(Code::Jmp_rm64, operand))
    }

    /// Decodes what was made, and compares.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let mut offset = 0;
        for wanted in &self.wanted {
            let address = self.start.wrapping_add(offset as u64);
            let found = self.bytes.get(offset..).and_then(|bytes| decode::one(bytes, address));
            if !found.is_some_and(|found| same(&found, wanted)) {
                let found = found.map_or_else(|| "nothing".to_owned(), |found| decode::text(&found));
                return Err(Refusal::SelfCheck { address, text: decode::text(wanted), found });
            }
            offset += wanted.len();
        }
        Ok(())
    }
}

/// How many bytes of an operand's displacement there are is of no importance.
fn same(found: &Instruction, wanted: &Instruction) -> bool {
    let mut wanted = *wanted;
    wanted.set_memory_displ_size(found.memory_displ_size());
    *found == wanted && found.len() == wanted.len() && found.ip() == wanted.ip()
}

/// The same instruction with another address and length.
fn at(instruction: &Instruction, address: u64, len: usize) -> Instruction {
    let mut moved = *instruction;
    moved.set_len(len);
    moved.set_ip(address);
    moved
}

pub(crate) fn unencodable(instruction: &Instruction, error: &IcedError) -> Refusal {
    Refusal::SelfCheck {
        address: instruction.ip(),
        text: decode::text(instruction),
        found: error.to_string(),
    }
}
