//! What another decoder, whose tables were made from those of GNU binutils, says about a word.

use disarm64::decoder::{Opcode, decode};
use disarm64::format_insn::format_insn_pc;
use disarm64::{Insn, InsnOpcode};
use disarm64_defn::{InsnBitField, InsnOperandKind};

/// A word that refers to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relative {
    pub(crate) definition: &'static Insn,
    pub(crate) target: u64,
    /// The bits of the word that hold the distance.
    pub(crate) field: u32,
}

impl Relative {
    pub(crate) fn name(&self) -> &'static str {
        self.definition.mnemonic
    }
}

/// The definition of a word, unless it is not allocated.
pub(crate) fn definition(word: u32) -> Option<&'static Insn> {
    is_allocated(word).then(|| decode(word)).flatten().map(|opcode: Opcode| opcode.definition())
}

/// The address that a word at `at` refers to.
pub(crate) fn relative(word: u32, at: u64) -> Option<Relative> {
    let definition = definition(word)?;
    let (operand, base, unit) = definition.operands.iter().find_map(|operand| match operand.kind {
        InsnOperandKind::ADDR_ADRP => Some((operand, at & !0xfff, 0x1000)),
        InsnOperandKind::ADDR_PCREL21 => Some((operand, at, 1)),
        InsnOperandKind::ADDR_PCREL9
        | InsnOperandKind::ADDR_PCREL14
        | InsnOperandKind::ADDR_PCREL19
        | InsnOperandKind::ADDR_PCREL26 => Some((operand, at, 4)),
        _ => None,
    })?;
    let (mut distance, mut bits, mut field) = (0i64, 0, 0);
    // The operand of a conditional branch has the condition beside the distance.
    for part in operand.bit_fields.iter().filter(|part| part.bitfield != InsnBitField::cond) {
        let mask = (1 << part.width) - 1;
        distance = distance << part.width | i64::from(word >> part.lsb & mask);
        bits += u32::from(part.width);
        field |= mask << part.lsb;
    }
    if distance >> (bits - 1) == 1 {
        distance -= 1 << bits;
    }
    Some(Relative { definition, target: base.wrapping_add_signed(distance * unit), field })
}

/// The text of a word at `at`, with single spaces. An address is the last operand.
pub(crate) fn text(word: u32, at: u64) -> Option<String> {
    let mut text = String::new();
    format_insn_pc(at, &mut text, &is_allocated(word).then(|| decode(word))??).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What the decoder takes for an instruction although the Arm Architecture Reference Manual does not allocate it.
///
/// * "Load register (literal)" in C4.1: opc 11 with VR 1. The decoder says `ldr` of a register of no size.
fn is_allocated(word: u32) -> bool {
    word & 0xff00_0000 != 0xdc00_0000
}
