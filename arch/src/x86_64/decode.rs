//! Reads a whole function: what branches where, and what refers to addresses.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, OpKind, Register,
};

use crate::{Function, Refusal};

/// What a function's instructions say about addresses.
pub(crate) struct Body {
    /// Direct branches and calls, and instructions with an operand relative to rip.
    pub(crate) references: Vec<Instruction>,
    /// A jump to a computed address.
    pub(crate) indirect_jump: bool,
    /// Why code that begins in the middle of an instruction could not be read.
    pub(crate) overlap: Option<Refusal>,
}

/// The instruction at the start of `bytes`.
pub(crate) fn one(bytes: &[u8], address: u64) -> Option<Instruction> {
    let instruction = decoder(bytes, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Its instruction, and where its displacement lies among its bytes, if it has one of 4 bytes.
pub(crate) fn one_with_displacement(bytes: &[u8], address: u64) -> (Instruction, Option<usize>) {
    let mut decoder = decoder(bytes, address, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let offsets = decoder.get_constant_offsets(&instruction);
    let at = (offsets.displacement_size() == 4).then(|| offsets.displacement_offset());
    (instruction, at)
}

/// As an assembler would write it.
pub(crate) fn text(instruction: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// The target of a direct branch or call.
pub(crate) fn branch_target(instruction: &Instruction) -> Option<u64> {
    let near = |op| matches!(op, OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    near(instruction.op0_kind()).then(|| instruction.near_branch_target())
}

/// Decodes all of the function, from its first byte on.
pub(crate) fn sweep(function: &Function<'_>) -> Result<Body, Refusal> {
    let (address, size) = (function.address, function.bytes.len());
    if address.checked_add(size as u64).is_none() {
        return Err(Refusal::AddressSpace { address, size });
    }
    let mut body = Body { references: Vec::new(), indirect_jump: false, overlap: None };
    let mut seen = vec![false; size];
    read_from(function, 0, &mut seen, &mut body)?;
    read_overlapping(function, &mut seen, &mut body);
    Ok(body)
}

/// Branches into the middle of an instruction (over a `lock` prefix, say) show further instructions.
fn read_overlapping(function: &Function<'_>, seen: &mut [bool], body: &mut Body) {
    let mut next = 0;
    while let Some(instruction) = body.references.get(next) {
        next += 1;
        let offset = branch_target(instruction)
            .and_then(|to| to.checked_sub(function.address))
            .and_then(|offset| usize::try_from(offset).ok());
        if let Some(offset) = offset
            && seen.get(offset) == Some(&false)
            && let Err(refusal) = read_from(function, offset, seen, body)
        {
            body.overlap.get_or_insert(refusal);
        }
    }
}

/// Reads on from `offset` to the end, or to an instruction that was read before.
fn read_from(
    function: &Function<'_>,
    offset: usize,
    seen: &mut [bool],
    body: &mut Body,
) -> Result<(), Refusal> {
    let bytes = &function.bytes[offset..];
    let start = function.address + offset as u64;
    let mut decoder = decoder(bytes, start, DecoderOptions::NONE);
    while decoder.can_decode() {
        let at = decoder.position();
        if std::mem::replace(&mut seen[offset + at], true) {
            return Ok(());
        }
        let instruction = decoder.decode();
        let address = start + at as u64;
        if instruction.is_invalid() {
            let bytes = bytes[at..].iter().copied().take(4).collect();
            return Err(Refusal::Undecodable { address, bytes });
        }
        if !same_for_all_vendors(&instruction, &bytes[at..], address) {
            return Err(Refusal::VendorDependent { address, text: text(&instruction) });
        }
        note(&instruction, body);
    }
    Ok(())
}

fn note(instruction: &Instruction, body: &mut Body) {
    let relative = instruction.is_ip_rel_memory_operand();
    if relative || branch_target(instruction).is_some() {
        body.references.push(*instruction);
    }
    // A segment base makes an address of rip+x that is not known.
    let known = relative && !matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    if instruction.flow_control() == FlowControl::IndirectBranch && !known {
        body.indirect_jump = true;
    }
}

/// Processors disagree about 66 prefixes on near branches, REX.W on far pointers, and the length of `ud0`.
fn same_for_all_vendors(instruction: &Instruction, bytes: &[u8], address: u64) -> bool {
    let other = decoder(bytes, address, DecoderOptions::AMD).decode();
    let same = other == *instruction && other.len() == instruction.len();
    same && !matches!(
        instruction.code(),
        Code::Ud0 | Code::Ud0_r16_rm16 | Code::Ud0_r32_rm32 | Code::Ud0_r64_rm64
    )
}

fn decoder(bytes: &[u8], address: u64, options: u32) -> Decoder<'_> {
    Decoder::with_ip(64, bytes, address, options)
}
