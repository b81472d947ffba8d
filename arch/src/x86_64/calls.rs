//! Displaced calls.
//!
//! A call from the trampoline would leave a return address of the trampoline on the stack: unwinders do not know it, a
//! function that asks for its caller's address gets a wrong one, and the trampoline could never be freed. So the
//! original return address is pushed, and the callee is jumped to: it returns right behind the displaced instructions.

use iced_x86::{Code, Instruction, MemoryOperand, Register};

use super::assembly::{Assembly, unencodable};
use super::relocate::with_displacement;
use super::{decode, far};
use crate::Refusal;

/// `call rel32`.
pub(crate) fn direct(assembly: &mut Assembly<'_>, call: &Instruction) -> Result<(), Refusal> {
    push_return(assembly, call)?;
    let to = call.near_branch_target();
    assembly.beyond.push((assembly.here(), to));
    assembly.jump(call, to, true)
}

/// `call` through a register or memory.
pub(crate) fn indirect(assembly: &mut Assembly<'_>, call: &Instruction, bytes: &[u8]) -> Result<(), Refusal> {
    if call.op0_register() == Register::RSP {
        return Err(unmovable(call, "its target is the stack, which a push moves"));
    }
    if call.is_ip_rel_memory_operand() && call.memory_base() == Register::RIP {
        return relative(assembly, call, bytes);
    }
    let mut jump = *call;
    jump.set_code(Code::Jmp_rm64);
    if call.memory_base() == Register::None && call.memory_index() == Register::None {
        push_return(assembly, call)?;
        return assembly.put(&jump);
    }
    if call.memory_base() == Register::ESP {
        return Err(unmovable(call, "its operand is at a 32-bit stack address"));
    }
    // What is 8 bytes wide and just below the stack pointer is overwritten by the push.
    let offset = call.memory_displacement64().cast_signed();
    let above = call.memory_base() == Register::RSP && call.memory_index() == Register::None && offset >= 0;
    if above && !has_segment_base(call) {
        push_return(assembly, call)?;
        return assembly.put(&below(&jump));
    }
    through_stack(assembly, call)
}

/// `call [rip+x]`: a pointer that is not on the stack.
fn relative(assembly: &mut Assembly<'_>, call: &Instruction, bytes: &[u8]) -> Result<(), Refusal> {
    let to = call.ip_rel_memory_address();
    if has_segment_base(call) {
        return Err(unmovable(call, "its operand has a segment base"));
    }
    push_return(assembly, call)?;
    if !assembly.reaches(call, bytes.len() as u64, to)? {
        return far::call_through(assembly, call, to);
    }
    // /4 in place of /2: the same bytes but for one.
    let (_, displacement) = decode::one_with_displacement(bytes, call.ip());
    let mut bytes = bytes.to_vec();
    match displacement.and_then(|at| at.checked_sub(1)).and_then(|at| bytes.get_mut(at)) {
        Some(modrm) => *modrm = 0x25,
        None => return Err(unmovable(call, "its displacement was not found")),
    }
    let mut jump = *call;
    jump.set_code(Code::Jmp_rm64);
    with_displacement(assembly, &jump, &bytes)
}

/// Where it is not known whether the pointer is in memory that the push overwrites: it is put below the return address
/// first, where the call would leave nothing that can be relied on, and is still there for the jump, as signal handlers
/// leave 128 bytes alone (System V ABI, 3.2.2).
fn through_stack(assembly: &mut Assembly<'_>, call: &Instruction) -> Result<(), Refusal> {
    let mut push = *call;
    push.set_code(Code::Push_rm64);
    push.set_has_repne_prefix(false);
    assembly.make(move_stack(-8))?;
    assembly.put(&below(&push))?;
    assembly.make(move_stack(16))?;
    push_return(assembly, call)?;
    let target = MemoryOperand::with_base_displ(Register::RSP, -8);
    let mut jump = Instruction::with1(Code::Jmp_rm64, target).map_err(|error| unencodable(call, &error))?;
    if call.segment_prefix() == Register::DS {
        jump.set_segment_prefix(Register::DS); // notrack
    }
    assembly.put(&jump)
}

fn push_return(assembly: &mut Assembly<'_>, call: &Instruction) -> Result<(), Refusal> {
    let address = assembly.constant_operand(call.next_ip());
    assembly.make(Instruction::with1(Code::Push_rm64, address))
}

/// With its operand found from a stack pointer that is 8 lower.
fn below(instruction: &Instruction) -> Instruction {
    let mut moved = *instruction;
    if moved.memory_base() == Register::RSP {
        moved.set_memory_displacement64(moved.memory_displacement64().wrapping_add(8));
        moved.set_memory_displ_size(1);
    }
    moved
}

/// Changes no flags.
pub(crate) fn move_stack(by: i64) -> Result<Instruction, iced_x86::IcedError> {
    let operand = MemoryOperand::with_base_displ(Register::RSP, by);
    Instruction::with2(Code::Lea_r64_m, Register::RSP, operand)
}

fn has_segment_base(instruction: &Instruction) -> bool {
    matches!(instruction.memory_segment(), Register::FS | Register::GS)
}

fn unmovable(instruction: &Instruction, reason: &'static str) -> Refusal {
    Refusal::Unmovable { address: instruction.ip(), text: decode::text(instruction), reason }
}
