//! Which instructions an entry jump displaces, and what forbids it.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, Register};

use super::decode::{self, Body};
use super::relocate;
use crate::reach::Need;
use crate::{Displaced, DisplacedInstruction, Function, Refusal};

/// Taken for the size of an operand that has none in its encoding (xsave areas with tiles have 11 KiB).
const UNKNOWN_SIZE: u64 = 0x4000;

/// The displaced instructions of an entry jump of `overwritten` bytes, `pad` bytes into the function.
pub(crate) fn displace(
    function: &Function<'_>,
    pad: usize,
    overwritten: usize,
    body: &Body,
) -> Result<Displaced, Refusal> {
    if let Some(refusal) = too_short(function, pad, overwritten) {
        return Err(refusal);
    }
    let site = function.address + pad as u64;
    let displaced = collect(&function.bytes[pad..], site, overwritten)?;
    for reference in &body.references {
        check_branch(reference, function.address, site, overwritten)?;
        check_memory(reference, function.address, site, overwritten)?;
    }
    match &body.overlap {
        Some(refusal) => Err(refusal.clone()),
        None => Ok(displaced),
    }
}

pub(crate) fn too_short(function: &Function<'_>, pad: usize, needed: usize) -> Option<Refusal> {
    let (address, size) = (function.address, function.bytes.len());
    let site = address.wrapping_add(pad as u64);
    (size - pad < needed).then_some(Refusal::TooShort { address, size, site, needed })
}

fn collect(bytes: &[u8], site: u64, overwritten: usize) -> Result<Displaced, Refusal> {
    let mut displaced = Displaced {
        overwritten,
        span: 0,
        instructions: Vec::new(),
        bytes: Vec::new(),
        room: 0,
        falls_through: true,
        repeatable: false,
        needs: Vec::new(),
    };
    while displaced.span < overwritten {
        let offset = displaced.span;
        let address = site + offset as u64;
        let Some(instruction) = decode::one(&bytes[offset..], address) else {
            let bytes = bytes[offset..].iter().copied().take(4).collect();
            return Err(Refusal::Undecodable { address, bytes });
        };
        check_movable(&instruction)?;
        let len = instruction.len();
        let text = decode::text(&instruction);
        if ends(&instruction) {
            if offset + len < overwritten {
                return Err(Refusal::EndsEarly { address, text, covered: offset + len, needed: overwritten });
            }
            displaced.falls_through = false;
        }
        if offset == 0 {
            displaced.repeatable = repeatable(&instruction);
        }
        let (size, need) = relocate::requirements(&instruction, &bytes[offset..offset + len])?;
        displaced.room += size;
        displaced.needs.extend(need);
        displaced.instructions.push(DisplacedInstruction { offset, len, text });
        displaced.span += len;
    }
    if displaced.falls_through {
        let back = site + displaced.span as u64;
        displaced.room += relocate::BACK.length as usize;
        displaced.needs.push(Need::OutOf { to: back, reach: relocate::BACK });
    }
    displaced.bytes = bytes[..displaced.span].to_vec();
    Ok(displaced)
}

/// Whether an instruction may run at another address at all.
fn check_movable(instruction: &Instruction) -> Result<(), Refusal> {
    let (address, text) = (instruction.ip(), decode::text(instruction));
    if instruction.memory_base() == Register::EIP {
        return Err(Refusal::EipRelative { address, text });
    }
    if matches!(instruction.mnemonic(), Mnemonic::Xbegin | Mnemonic::Xabort | Mnemonic::Xend) {
        return Err(Refusal::Transaction { address, text });
    }
    match instruction.flow_control() {
        FlowControl::Next if instruction.is_privileged() && instruction.code() != Code::Hlt => {
            Err(Refusal::Privileged { address, text })
        }
        FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::Exception => Ok(()),
        FlowControl::UnconditionalBranch if instruction.is_jmp_short_or_near() => Ok(()),
        FlowControl::IndirectBranch if instruction.is_jmp_near_indirect() => Ok(()),
        FlowControl::Return if matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16) => Ok(()),
        FlowControl::Call if instruction.code() == Code::Syscall => Ok(()),
        FlowControl::Call if instruction.is_call_near() => Err(Refusal::Call { address, text }),
        FlowControl::IndirectCall if instruction.is_call_near_indirect() => {
            Err(Refusal::Call { address, text })
        }
        FlowControl::Call if !instruction.is_call_far() => Err(Refusal::Privileged { address, text }),
        FlowControl::Interrupt if instruction.code() == Code::Int3 => {
            Err(Refusal::Breakpoint { address, text })
        }
        // int 0x80 is a system call like any other; what other numbers do is the system's affair.
        FlowControl::Interrupt
            if instruction.code() == Code::Int_imm8 && instruction.immediate8() == 0x80 =>
        {
            Ok(())
        }
        FlowControl::Interrupt => Err(Refusal::Privileged { address, text }),
        _ => Err(Refusal::FarTransfer { address, text }),
    }
}

/// Whether what follows is not reached from here.
fn ends(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Exception
    ) || instruction.code() == Code::Hlt
}

/// Whether an interrupt can find it half done, with pc still at its start.
fn repeatable(instruction: &Instruction) -> bool {
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let tile =
        matches!(instruction.mnemonic(), Mnemonic::Tileloadd | Mnemonic::Tileloaddt1 | Mnemonic::Tilestored);
    (repeated && instruction.flow_control() == FlowControl::Next) || instruction.is_vsib() || tile
}

fn check_branch(instruction: &Instruction, entry: u64, site: u64, overwritten: usize) -> Result<(), Refusal> {
    let Some(to) = decode::branch_target(instruction) else { return Ok(()) };
    let from = instruction.ip();
    if to > site && to < site + overwritten as u64 {
        return Err(Refusal::BranchIntoSite { from, to, text: decode::text(instruction) });
    }
    if (entry..=site).contains(&to) && !instruction.is_call_near() {
        return Err(Refusal::LoopsToEntry { from, to, text: decode::text(instruction) });
    }
    Ok(())
}

/// An operand relative to rip must not touch the overwritten bytes: it would find the entry jump.
fn check_memory(instruction: &Instruction, entry: u64, site: u64, overwritten: usize) -> Result<(), Refusal> {
    let other_base = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    if !instruction.is_ip_rel_memory_operand() || other_base {
        return Ok(());
    }
    let (address, to) = (instruction.ip(), instruction.ip_rel_memory_address());
    let lea = instruction.mnemonic() == Mnemonic::Lea;
    if lea && to == entry && instruction.memory_base() == Register::RIP {
        return Ok(()); // The function's identity, not its bytes.
    }
    let size = match instruction.memory_size().size() as u64 {
        0 if lea => 1,
        0 => UNKNOWN_SIZE,
        size => size,
    };
    if to < site + overwritten as u64 && site < to.saturating_add(size) {
        return Err(Refusal::ReadsOwnBytes { address, to, text: decode::text(instruction) });
    }
    Ok(())
}
