//! An instruction as yaxpeax-x86 reads it.

use yaxpeax_arch::LengthedInstruction;
use yaxpeax_x86::long_mode::{InstDecoder, Instruction, Opcode, Operand, RegSpec};

use crate::second::Site;

/// An instruction at an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) address: u64,
    pub(super) length: u64,
    pub(super) instruction: Instruction,
}

impl At {
    pub(super) fn decode(bytes: &[u8], address: u64) -> Result<Self, String> {
        let shown = || bytes.get(..bytes.len().min(15)).unwrap_or_default().to_vec();
        let decoded = InstDecoder::default().decode_slice(bytes);
        let instruction = decoded.map_err(|error| format!("{:02x?} at {address:#x}: {error:?}", shown()))?;
        Ok(Self { address, length: instruction.len().to_const(), instruction })
    }

    pub(super) fn next(&self) -> u64 {
        self.address.wrapping_add(self.length)
    }

    pub(super) fn opcode(&self) -> Opcode {
        self.instruction.opcode()
    }

    pub(super) fn operands(&self) -> impl Iterator<Item = Operand> {
        (0..self.instruction.operand_count()).map(|index| self.instruction.operand(index))
    }

    /// The target of a direct branch or call.
    pub(super) fn target(&self) -> Option<u64> {
        let direct = self.opcode().is_jcc()
            || matches!(self.opcode(), Opcode::JMP | Opcode::CALL | Opcode::XBEGIN)
            || is_counted(self.opcode());
        match self.instruction.operand(0) {
            Operand::ImmediateI8 { imm } if direct => Some(self.next().wrapping_add_signed(imm.into())),
            Operand::ImmediateI32 { imm } if direct => Some(self.next().wrapping_add_signed(imm.into())),
            _ => None,
        }
    }

    /// The address of an operand relative to rip, or to eip.
    pub(super) fn memory(&self) -> Option<u64> {
        let (is_wide, distance) = self.operands().find_map(|operand| relative(&operand))?;
        let address = self.next().wrapping_add_signed(distance.into());
        Some(if is_wide { address } else { u64::from(address as u32) })
    }

    /// As an assembler would write it.
    pub(super) fn text(&self) -> String {
        self.instruction.to_string()
    }

    /// Whether nothing goes on behind it.
    pub(super) fn ends(&self) -> bool {
        let ends = [Opcode::JMP, Opcode::RETURN, Opcode::UD0, Opcode::UD1, Opcode::UD2, Opcode::HLT];
        ends.contains(&self.opcode())
    }

    /// Where it goes if it is a jump to an address, or through one that stands in the trampoline.
    pub(super) fn jump(&self, site: &Site<'_>) -> Option<u64> {
        let is_jump = self.opcode() == Opcode::JMP;
        let through = || self.memory().and_then(|at| site.constant(at));
        self.target().or_else(through).filter(|_| is_jump)
    }

    /// The same operation on the same operands, and what is relative to rip is at the same address.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let (this, that) = (&self.instruction, &other.instruction);
        this.opcode() == that.opcode()
            && this.prefixes == that.prefixes
            && this.mem_size().map(|size| size.bytes_size()) == that.mem_size().map(|size| size.bytes_size())
            && same_operands(self, other, 0)
    }
}

/// The distance of an operand relative to rip, and whether it is rip and not eip.
pub(super) fn relative(operand: &Operand) -> Option<(bool, i32)> {
    let is_wide = |base: RegSpec| match () {
        () if base == RegSpec::rip() => Some(true),
        () if base == RegSpec::eip() => Some(false),
        () => None,
    };
    match *operand {
        Operand::MemDeref { base } | Operand::MemDerefMasked { base, .. } => Some((is_wide(base)?, 0)),
        Operand::Disp { base, disp } | Operand::DispMasked { base, disp, .. } => Some((is_wide(base)?, disp)),
        _ => None,
    }
}

pub(super) fn mask(operand: &Operand) -> Option<RegSpec> {
    match *operand {
        Operand::MemDerefMasked { mask, .. } | Operand::DispMasked { mask, .. } => Some(mask),
        _ => None,
    }
}

/// Whether operands mean the same, where the stack pointer of the second is `lower` bytes lower.
pub(super) fn same_operands(a: &At, b: &At, lower: i32) -> bool {
    let is_same = |(this, that): (Operand, Operand)| match (relative(&this), relative(&that)) {
        (Some((wide, _)), Some((other, _))) => {
            wide == other && a.memory() == b.memory() && mask(&this) == mask(&that)
        }
        (None, None) => on_lower_stack(this, lower) == Some(that),
        _ => false,
    };
    a.instruction.operand_count() == b.instruction.operand_count()
        && a.operands().zip(b.operands()).all(is_same)
}

/// The operand once the stack pointer is lower by so much.
fn on_lower_stack(operand: Operand, lower: i32) -> Option<Operand> {
    if lower == 0 {
        return Some(operand);
    }
    let moved =
        |base: RegSpec, disp: i32| if base == RegSpec::rsp() { disp.checked_add(lower) } else { Some(disp) };
    Some(match operand {
        Operand::Register { reg } if reg == RegSpec::rsp() => return None,
        Operand::MemDeref { base } if base == RegSpec::rsp() => Operand::Disp { base, disp: lower },
        Operand::Disp { base, disp } => match moved(base, disp)? {
            0 => Operand::MemDeref { base },
            disp => Operand::Disp { base, disp },
        },
        Operand::MemBaseIndexScale { base, index, scale } if base == RegSpec::rsp() => {
            Operand::MemBaseIndexScaleDisp { base, index, scale, disp: lower }
        }
        Operand::MemBaseIndexScaleDisp { base, index, scale, disp } => match moved(base, disp)? {
            0 => Operand::MemBaseIndexScale { base, index, scale },
            disp => Operand::MemBaseIndexScaleDisp { base, index, scale, disp },
        },
        other => other,
    })
}

/// A branch on rcx.
pub(super) fn is_counted(opcode: Opcode) -> bool {
    use Opcode::{JECXZ, JRCXZ, LOOP, LOOPNZ, LOOPZ};
    matches!(opcode, LOOP | LOOPZ | LOOPNZ | JRCXZ | JECXZ)
}

/// The branch on the opposite condition.
pub(super) fn opposite(opcode: Opcode) -> Option<Opcode> {
    use Opcode::{JA, JB, JG, JGE, JL, JLE, JNA, JNB, JNO, JNP, JNS, JNZ, JO, JP, JS, JZ};
    const PAIRS: [(Opcode, Opcode); 8] =
        [(JO, JNO), (JB, JNB), (JZ, JNZ), (JA, JNA), (JS, JNS), (JP, JNP), (JL, JGE), (JLE, JG)];
    PAIRS.iter().find_map(|&(a, b)| match opcode {
        _ if opcode == a => Some(b),
        _ if opcode == b => Some(a),
        _ => None,
    })
}
