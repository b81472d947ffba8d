//! Every instruction that iced has for this processor with an operand relative to rip, found by trying all encodings.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

/// One way to write an instruction: its bytes before the displacement.
pub(crate) struct Encoding {
    pub(crate) bytes: Vec<u8>,
    /// Register units and access: `sse load`.
    pub(crate) class: String,
}

/// Ways to write one instruction.
pub(crate) type Encodings = Vec<Encoding>;

/// As many ways are kept for each instruction.
const KEPT: usize = 12;

/// All instructions, in the order of iced.
pub(crate) fn catalogue() -> &'static [Encodings] {
    static CATALOGUE: OnceLock<Vec<Encodings>> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        let mut found = BTreeMap::<usize, (u64, Encodings)>::new();
        let mut factory = InstructionInfoFactory::new();
        for_each_prefix(&mut |prefix| {
            for byte in 0..=0x7ff_u16 {
                // Opcode, and ModRM that says rip with a 32-bit displacement.
                let bytes = [prefix, &[(byte >> 3) as u8, (byte as u8 & 7) << 3 | 5]].concat();
                let Some(instruction) = decode(&bytes, &[0; 12]) else { continue };
                let Some(class) = class(&instruction, &mut factory) else { continue };
                let (seen, kept) = found.entry(instruction.code() as usize).or_default();
                *seen += 1;
                // The first ones, then sometimes another in the place of one.
                let slot = seen.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                let encoding = Encoding { bytes, class };
                if kept.len() < KEPT {
                    kept.push(encoding);
                } else if slot.is_multiple_of(*seen / KEPT as u64) {
                    kept[slot as usize / 8 % KEPT] = encoding;
                }
            }
        });
        found.into_values().map(|(_, kept)| kept).collect()
    })
}

/// Everything that can stand in front of an opcode and is part of the encoding.
fn for_each_prefix(then: &mut dyn FnMut(&[u8])) {
    for mandatory in [&[][..], &[0x66], &[0xf2], &[0xf3]] {
        for map in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
            then(&[mandatory, map].concat());
            for rex in [0x40, 0x44, 0x48, 0x4c] {
                then(&[mandatory, &[rex], map].concat());
            }
        }
    }
    // Two bytes of VEX say the same as three of the first map.
    for last in 0..=0xff_u8 {
        if matches!(last >> 3 & 0xf, 0b1111 | 0b0100) {
            then(&[0xc5, last]);
        }
    }
    // VEX; the inverted bits of R and vvvv, then W, L, pp.
    for map in 1..=3 {
        for last in 0..=0xff_u8 {
            if matches!(last >> 3 & 0xf, 0b1111 | 0b0100) {
                then(&[0xc4, 0xe0 | map, last]);
                then(&[0xc4, 0x60 | map, last]);
            }
        }
    }
}

/// The instruction that begins with `bytes` and goes on with `rest`.
fn decode(bytes: &[u8], rest: &[u8]) -> Option<Instruction> {
    let all = [bytes, rest].concat();
    let mut decoder = Decoder::with_ip(64, &all, 0, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let fits = !instruction.is_invalid()
        && instruction.memory_base() == Register::RIP
        && decoder.get_constant_offsets(&instruction).displacement_offset() == bytes.len();
    fits.then_some(instruction)
}

/// What kind of instruction it is, if it can be run here.
fn class(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Option<String> {
    if instruction.flow_control() != FlowControl::Next
        || instruction.is_privileged()
        || !instruction.cpuid_features().iter().all(|feature| is_here(*feature))
        || is_left_out(instruction.mnemonic())
        || writes_what_others_need(instruction, factory)
        || is_bit_string(instruction) && instruction.op1_register().full_register() == Register::RSP
    {
        return None;
    }
    let info = factory.info(instruction);
    let operand = (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)?;
    let access = match info.op_access(operand) {
        OpAccess::NoMemAccess | OpAccess::None => "address",
        OpAccess::Read | OpAccess::CondRead => "load",
        OpAccess::Write | OpAccess::CondWrite => "store",
        _ => "update",
    };
    let feature = instruction.cpuid_features().first()?;
    let unit = match *feature {
        CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 => "x87",
        CpuidFeature::MMX => "mmx",
        CpuidFeature::AVX | CpuidFeature::AVX2 | CpuidFeature::FMA | CpuidFeature::F16C => "avx",
        _ if (0..instruction.op_count()).any(|op| instruction.op_register(op).is_mm()) => "mmx",
        _ if (0..instruction.op_count()).any(|op| instruction.op_register(op).is_xmm()) => "sse",
        _ if instruction.is_stack_instruction() => "stack",
        _ => "general",
    };
    Some(format!("rip: {unit} {access}"))
}

/// Whether the second operand says how far from the first one, in bits, the memory is.
pub(crate) fn is_bit_string(instruction: &Instruction) -> bool {
    let tests =
        matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    tests && instruction.op1_register().is_gpr()
}

/// Sets the stack pointer to something, or a segment register.
fn writes_what_others_need(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> bool {
    let info = factory.info(instruction);
    let writes = |access| !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
    info.used_registers().iter().filter(|used| writes(used.access())).any(|used| {
        let register = used.register();
        register.is_segment_register()
            || register.full_register() == Register::RSP && !instruction.is_stack_instruction()
    })
}

/// What is moved like all others, but cannot be compared or cannot be run with any bytes in memory.
fn is_left_out(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    match mnemonic {
        // They store the address of the last x87 instruction.
        M::Fnstenv | M::Fnsave | M::Fxsave | M::Fxsave64 => true,
        // They load control bits, which unmask exceptions or are reserved.
        M::Fldcw | M::Fldenv | M::Frstor | M::Fxrstor | M::Fxrstor64 | M::Ldmxcsr | M::Vldmxcsr => true,
        // A kernel may forbid them, or give numbers that change with the processor.
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => true,
        _ => false,
    }
}

fn is_here(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => true,
        F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::CMOV | F::CX8 | F::SSE | F::SSE2 | F::FXSR => true,
        F::CLFSH | F::MULTIBYTENOP => true,
        F::SSE3 => is_x86_feature_detected!("sse3"),
        F::SSSE3 => is_x86_feature_detected!("ssse3"),
        F::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        F::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        F::AES => is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        F::POPCNT => is_x86_feature_detected!("popcnt"),
        F::LZCNT => is_x86_feature_detected!("lzcnt"),
        F::MOVBE => is_x86_feature_detected!("movbe"),
        F::BMI1 => is_x86_feature_detected!("bmi1"),
        F::BMI2 => is_x86_feature_detected!("bmi2"),
        F::ADX => is_x86_feature_detected!("adx"),
        F::CMPXCHG16B => is_x86_feature_detected!("cmpxchg16b"),
        F::SHA => is_x86_feature_detected!("sha"),
        F::AVX => is_x86_feature_detected!("avx"),
        F::AVX2 => is_x86_feature_detected!("avx2"),
        F::FMA => is_x86_feature_detected!("fma"),
        F::F16C => is_x86_feature_detected!("f16c"),
        F::VAES => is_x86_feature_detected!("vaes"),
        F::VPCLMULQDQ => is_x86_feature_detected!("vpclmulqdq"),
        F::GFNI => is_x86_feature_detected!("gfni"),
        // EVEX needs registers that a state does not have; the rest is rare.
        _ => false,
    }
}
