//! Operands that are farther than 2 GiB away from the trampoline.
//!
//! Their address is put into a register that the instruction does not use. No register is free at an entry, and neither
//! are the flags and the 128 bytes below the stack pointer (System V ABI, 3.2.2): `lea` skips those, and the register is
//! pushed and popped again. A load into a whole register needs none of that: the register can hold the address before.

use iced_x86::{Code, Instruction, InstructionInfoFactory, MemoryOperand, OpAccess, OpKind, Register};

use super::assembly::{Assembly, unencodable};
use super::calls::move_stack;
use super::decode;
use crate::Refusal;

/// Bytes below the stack pointer that belong to the function.
const RED_ZONE: i64 = 128;

/// Of the registers without a REX prefix, so that ah to bh can be encoded next to it.
const SCRATCH: [Register; 6] =
    [Register::RAX, Register::RCX, Register::RDX, Register::RBX, Register::RSI, Register::RDI];

/// An instruction with an operand relative to rip, which has that operand by its full address.
pub(crate) fn operand(assembly: &mut Assembly<'_>, instruction: &Instruction) -> Result<(), Refusal> {
    let to = instruction.ip_rel_memory_address();
    let based = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    match instruction.code() {
        Code::Lea_r16_m | Code::Lea_r32_m | Code::Lea_r64_m => address(assembly, instruction, to),
        Code::Jmp_rm64 if !based => jump_through(assembly, instruction, to),
        Code::Push_rm64 if !based => push(assembly, to),
        _ => match free_destination(instruction) {
            Some(register) => {
                assembly.make(Instruction::with2(Code::Mov_r64_imm64, register, to))?;
                put(assembly, &through(instruction, register), instruction)
            }
            None => with_scratch(assembly, instruction, to),
        },
    }
}

/// `lea`: a number like any other.
fn address(assembly: &mut Assembly<'_>, lea: &Instruction, to: u64) -> Result<(), Refusal> {
    let register = lea.op0_register();
    assembly.make(match lea.code() {
        Code::Lea_r16_m => Instruction::with2(Code::Mov_r16_imm16, register, u32::from(to as u16)),
        Code::Lea_r32_m => Instruction::with2(Code::Mov_r32_imm32, register, to as u32),
        _ => Instruction::with2(Code::Mov_r64_imm64, register, to),
    })
}

/// The register that a load writes all of without reading any of it.
fn free_destination(instruction: &Instruction) -> Option<Register> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let register = instruction.op0_register();
    let whole = instruction.op0_kind() == OpKind::Register
        && (register.is_gpr32() || register.is_gpr64())
        && info.op0_access() == OpAccess::Write;
    let full = register.full_register();
    let written = |access| matches!(access, OpAccess::Write);
    let only = info
        .used_registers()
        .iter()
        .all(|used| used.register().full_register() != full || written(used.access()));
    (whole && only && full != Register::RSP).then_some(full)
}

/// With a register that is kept on the stack meanwhile.
fn with_scratch(assembly: &mut Assembly<'_>, instruction: &Instruction, to: u64) -> Result<(), Refusal> {
    let mut factory = InstructionInfoFactory::new();
    let used: Vec<Register> = factory
        .info(instruction)
        .used_registers()
        .iter()
        .map(|used| used.register().full_register())
        .collect();
    if used.contains(&Register::RSP) {
        return Err(unmovable(instruction, "it is far away from what it refers to, and uses the stack"));
    }
    let Some(&scratch) = SCRATCH.iter().find(|register| !used.contains(register)) else {
        return Err(unmovable(
            instruction,
            "it is far away from what it refers to, and leaves no register free",
        ));
    };
    assembly.make(move_stack(-RED_ZONE))?;
    assembly.make(Instruction::with1(Code::Push_r64, scratch))?;
    assembly.make(Instruction::with2(Code::Mov_r64_imm64, scratch, to))?;
    put(assembly, &through(instruction, scratch), instruction)?;
    assembly.make(Instruction::with1(Code::Pop_r64, scratch))?;
    assembly.make(move_stack(RED_ZONE))
}

/// `push [rip+x]`: what is pushed is stored to its place from below it.
fn push(assembly: &mut Assembly<'_>, to: u64) -> Result<(), Refusal> {
    load_below(assembly, to)?;
    let place = MemoryOperand::with_base_displ(Register::RSP, RED_ZONE);
    assembly.make(Instruction::with2(Code::Mov_rm64_r64, place, Register::RAX))?;
    assembly.make(Instruction::with1(Code::Pop_r64, Register::RAX))?;
    assembly.make(move_stack(RED_ZONE - 8))
}

/// `jmp [rip+x]`: a return to the pointer from below the red zone, which gives back the stack as well.
fn jump_through(assembly: &mut Assembly<'_>, jump: &Instruction, to: u64) -> Result<(), Refusal> {
    if assembly.shadow_stack {
        return Err(unmovable(
            jump,
            "it is far away from its pointer, and a shadow stack forbids a return to it",
        ));
    }
    load_below(assembly, to)?;
    exchange(assembly)?;
    assembly.make(Instruction::with1(Code::Retnq_imm16, RED_ZONE as u32))
}

/// The jump of `call [rip+x]`, whose return address is pushed already. Nothing below that has to stay.
pub(crate) fn call_through(assembly: &mut Assembly<'_>, call: &Instruction, to: u64) -> Result<(), Refusal> {
    assembly.make(Instruction::with1(Code::Push_r64, Register::RAX))?;
    load(assembly, to)?;
    exchange(assembly)?;
    assembly.make(move_stack(8))?;
    let target = MemoryOperand::with_base_displ(Register::RSP, -8);
    let mut jump = Instruction::with1(Code::Jmp_rm64, target).map_err(|error| unencodable(call, &error))?;
    if call.segment_prefix() == Register::DS {
        jump.set_segment_prefix(Register::DS); // notrack
    }
    assembly.put(&jump)
}

/// Pushes rax below the red zone, and loads it from there.
fn load_below(assembly: &mut Assembly<'_>, to: u64) -> Result<(), Refusal> {
    assembly.make(move_stack(-RED_ZONE))?;
    assembly.make(Instruction::with1(Code::Push_r64, Register::RAX))?;
    load(assembly, to)
}

fn load(assembly: &mut Assembly<'_>, to: u64) -> Result<(), Refusal> {
    assembly.make(Instruction::with2(Code::Mov_r64_imm64, Register::RAX, to))?;
    let operand = MemoryOperand::with_base(Register::RAX);
    assembly.make(Instruction::with2(Code::Mov_r64_rm64, Register::RAX, operand))
}

/// rax has its own value again, and what it had is on the stack.
fn exchange(assembly: &mut Assembly<'_>) -> Result<(), Refusal> {
    let top = MemoryOperand::with_base(Register::RSP);
    assembly.make(Instruction::with2(Code::Xchg_rm64_r64, top, Register::RAX))
}

/// The same instruction with `[register]` as its operand.
fn through(instruction: &Instruction, register: Register) -> Instruction {
    let mut through = *instruction;
    through.set_memory_base(register);
    through.set_memory_displacement64(0);
    through.set_memory_displ_size(u32::from(register.number() & 7 == 5));
    through
}

fn put(assembly: &mut Assembly<'_>, moved: &Instruction, old: &Instruction) -> Result<(), Refusal> {
    assembly.put(moved).map_err(|_| unmovable(old, "it is far away from what it refers to"))
}

fn unmovable(instruction: &Instruction, reason: &'static str) -> Refusal {
    Refusal::Unmovable { address: instruction.ip(), text: decode::text(instruction), reason }
}
