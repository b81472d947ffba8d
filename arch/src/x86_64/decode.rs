//! One instruction: decoded, as text, and where it goes.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind,
};

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

/// Processors disagree about 66 prefixes on near branches, REX.W on far pointers, and the length of `ud0`.
pub(crate) fn same_for_all_vendors(instruction: &Instruction, bytes: &[u8], address: u64) -> bool {
    let other = decoder(bytes, address, DecoderOptions::AMD).decode();
    let same = other == *instruction && other.len() == instruction.len();
    same && !matches!(
        instruction.code(),
        Code::Ud0 | Code::Ud0_r16_rm16 | Code::Ud0_r32_rm32 | Code::Ud0_r64_rm64
    )
}

/// The absolute address that an instruction's meaning depends on.
pub(crate) fn target(instruction: &Instruction) -> Option<u64> {
    let memory = || instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    branch_target(instruction).or_else(memory)
}

/// Whether execution never goes on behind it.
pub(crate) fn ends(instruction: &Instruction) -> bool {
    use FlowControl as F;
    let ends = [F::UnconditionalBranch, F::IndirectBranch, F::Return, F::Exception];
    ends.contains(&instruction.flow_control()) || instruction.code() == Code::Hlt
}

/// Whether it is what linkers and compilers fill gaps with.
pub(crate) fn pads(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}

fn decoder(bytes: &[u8], address: u64, options: u32) -> Decoder<'_> {
    Decoder::with_ip(64, bytes, address, options)
}
