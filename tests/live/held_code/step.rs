//! One machine instruction as far as it matters where the code goes on. Both instruction sets, on every host.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Register};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    X86_64,
    Aarch64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Flow {
    /// Only to the next instruction; a system call, too.
    Next,
    Jump(u64),
    /// To this address or the next instruction.
    Branch(u64),
    Call(u64),
    /// To where a register or a word of memory says; of a word at a known address, the address.
    IndirectJump(Option<u64>),
    IndirectCall(Option<u64>),
    Return,
    /// An instruction that raises a fault or asks somebody else than the kernel.
    Trap,
    Unknown,
}

#[derive(Debug)]
pub struct Step {
    pub length: u64,
    pub flow: Flow,
    /// Does it use the register of thread-local storage?
    pub thread_local: bool,
    pub text: String,
}

/// The instruction at `address`, whose bytes `code` begins with.
pub fn decode(machine: Machine, code: &[u8], address: u64) -> Step {
    match machine {
        Machine::X86_64 => x86_64(code, address),
        Machine::Aarch64 => match code.first_chunk() {
            Some(bytes) => aarch64(u32::from_le_bytes(*bytes), address),
            None => Step { length: 0, flow: Flow::Unknown, thread_local: false, text: String::new() },
        },
    }
}

fn x86_64(code: &[u8], address: u64) -> Step {
    let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
    Step {
        length: instruction.len() as u64,
        flow: x86_64_flow(&instruction),
        thread_local: matches!(instruction.segment_prefix(), Register::FS | Register::GS),
        text: instruction.to_string(),
    }
}

fn x86_64_flow(instruction: &Instruction) -> Flow {
    let target = instruction.near_branch_target();
    let slot = || instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    match (instruction.code(), instruction.flow_control()) {
        (Code::INVALID, _) => Flow::Unknown,
        (Code::Syscall, _) | (_, FlowControl::Next) => Flow::Next,
        (_, FlowControl::UnconditionalBranch) => Flow::Jump(target),
        (_, FlowControl::ConditionalBranch) => Flow::Branch(target),
        (_, FlowControl::Call) if target != 0 => Flow::Call(target),
        (_, FlowControl::IndirectBranch) => Flow::IndirectJump(slot()),
        (_, FlowControl::IndirectCall) => Flow::IndirectCall(slot()),
        (_, FlowControl::Return) => Flow::Return,
        _ => Flow::Trap,
    }
}

/// Arm ARM, C4.1: "Branches, exception generating and system instructions".
fn aarch64(word: u32, address: u64) -> Step {
    let offset = |low: u32, bits: u32| {
        let field = i64::from(word >> low) << (64 - bits) >> (64 - bits);
        address.wrapping_add_signed(field * 4)
    };
    let flow = match word {
        _ if word & 0xfc00_0000 == 0x1400_0000 => Flow::Jump(offset(0, 26)), // b
        _ if word & 0xfc00_0000 == 0x9400_0000 => Flow::Call(offset(0, 26)), // bl
        _ if word & 0xff00_0000 == 0x5400_0000 => Flow::Branch(offset(5, 19)), // b.cond, bc.cond
        _ if word & 0x7e00_0000 == 0x3400_0000 => Flow::Branch(offset(5, 19)), // cbz, cbnz
        _ if word & 0x7e00_0000 == 0x3600_0000 => Flow::Branch(offset(5, 14)), // tbz, tbnz
        // br, blr, ret and their kin with pointer authentication (bit 24).
        _ if word & 0xfe00_0000 == 0xd600_0000 => match word >> 21 & 7 {
            0 => Flow::IndirectJump(None),
            1 => Flow::IndirectCall(None),
            2 => Flow::Return,
            _ => Flow::Trap,
        },
        _ if word & 0xffe0_001f == 0xd400_0001 => Flow::Next, // svc
        _ if word & 0xff00_0000 == 0xd400_0000 || word >> 16 == 0 => Flow::Trap, // brk, hlt, udf
        _ => Flow::Next,
    };
    // mrs, msr of tpidr_el0.
    let thread_local = word & 0xffdf_ffe0 == 0xd51b_d040;
    Step { length: 4, flow, thread_local, text: format!(".inst {word:#010x}") }
}

/// Words and texts as `as` of GNU binutils has them, at address 0x1000.
#[test]
fn aarch64_branches_are_told_apart() {
    let flow = |word| aarch64(word, 0x1000).flow;
    assert_eq!(flow(0x1400_0004), Flow::Jump(0x1010)); // b 0x1010
    assert_eq!(flow(0x97ff_ffff), Flow::Call(0xffc)); // bl 0xffc
    assert_eq!(flow(0x5400_0081), Flow::Branch(0x1010)); // b.ne 0x1010
    assert_eq!(flow(0xb4ff_ffe0), Flow::Branch(0xffc)); // cbz x0, 0xffc
    assert_eq!(flow(0x3500_0081), Flow::Branch(0x1010)); // cbnz w1, 0x1010
    assert_eq!(flow(0xb707_ffe0), Flow::Branch(0xffc)); // tbnz x0, #32, 0xffc
    assert_eq!(flow(0xd61f_0200), Flow::IndirectJump(None)); // br x16
    assert_eq!(flow(0xd63f_0100), Flow::IndirectCall(None)); // blr x8
    assert_eq!(flow(0xd65f_03c0), Flow::Return); // ret
    assert_eq!(flow(0xd65f_0bff), Flow::Return); // retaa
    assert_eq!(flow(0xd400_0001), Flow::Next); // svc #0
    assert_eq!(flow(0xd420_0020), Flow::Trap); // brk #1
    assert_eq!(flow(0x0000_0000), Flow::Trap); // udf #0
    assert_eq!(flow(0x9100_0400), Flow::Next); // add x0, x0, #1
    assert!(aarch64(0xd53b_d048, 0).thread_local); // mrs x8, tpidr_el0
    assert!(!aarch64(0xd53b_0022, 0).thread_local); // mrs x2, ctr_el0
}
