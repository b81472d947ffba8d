//! Moves displaced instructions into a trampoline.
//!
//! An instruction that does not depend on its address is copied byte by byte. In one with an operand relative
//! to rip only the displacement changes, at the place that the decoder names, so every prefix and immediate
//! stays. Branches are encoded anew in their long form; the ones that have none are led around a jump. What refers to a
//! place that is too far away for that is made of several instructions (`far`), and so is a call (`calls`).

use iced_x86::{Code, FlowControl, Instruction, Register};

use super::assembly::{Assembly, BACK, Copies, Distance};
use super::{calls, decode, far};
use crate::reach::{Need, Reach};
use crate::{Displaced, PcMap, Refusal};

/// What a trampoline of x86-64 depends on, apart from its instructions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kind {
    /// The first byte of the function.
    pub(crate) entry: u64,
    /// Whether it may be anywhere.
    pub(crate) far: bool,
    pub(crate) end: End,
}

/// What stands behind the last displaced instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing: it is not reached.
    #[default]
    Never,
    /// A jump to so many bytes from the site.
    Back(usize),
    /// A breakpoint like the one there.
    Trap,
}

/// Bytes that an instruction takes up in a trampoline at most, and what must be in reach of it.
///
/// Tries out the relocation as well, so that what the encoder cannot keep is refused already here.
pub(crate) fn requirements(
    instruction: &Instruction,
    bytes: &[u8],
    copies: &Copies,
    far: bool,
    shadow_stack: bool,
) -> Result<(usize, Option<Need>), Refusal> {
    let (here, nothing) = (instruction.ip(), Copies::default());
    // A target that is in reach of everything.
    let mut near = *instruction;
    if decode::branch_target(instruction).is_some() {
        near.set_near_branch64(here);
    } else if instruction.memory_base() == Register::RIP {
        near.set_memory_displacement64(here);
    }
    let distances: &[Distance] = if far { &[Distance::Near, Distance::Far] } else { &[Distance::Near] };
    let (mut room, mut length) = (0, 0);
    for &distance in distances {
        let mut assembly = Assembly::new(&nothing, distance, here, here);
        assembly.shadow_stack = shadow_stack;
        relocate(&mut assembly, &near, bytes)?;
        assembly.check()?;
        room = assembly.room().max(room);
        // The part that depends on the address is the last one.
        length = assembly.wanted.last().map_or(0, Instruction::len) as u64;
    }
    let outside = |&to: &u64| {
        let branch = decode::branch_target(instruction).is_some();
        !(branch && copies.has(to, instruction.is_call_near()) || instruction.memory_base() == Register::EIP)
    };
    let to = decode::target(instruction).filter(|_| !far).filter(outside);
    Ok((room, to.map(|to| Need::OutOf { to, reach: Reach::rel32(length) })))
}

/// Bytes of what stands behind the last one, and what must be in reach of that.
pub(crate) fn end_requirements(site: u64, end: End, far: bool) -> (usize, Option<Need>) {
    match end {
        End::Never => (0, None),
        End::Trap => (1, None),
        // jmp [rip+constant]
        End::Back(_) if far => (6 + 8, None),
        End::Back(offset) => {
            let to = site + offset as u64;
            (BACK.length as usize, Some(Need::OutOf { to, reach: BACK }))
        }
    }
}

/// The trampoline at `address`, and which address in it stands for which.
pub(crate) fn trampoline(
    site: u64,
    displaced: &Displaced,
    address: u64,
) -> Result<(Vec<u8>, PcMap), Refusal> {
    let Kind { entry, .. } = displaced.x86;
    let overwritten = displaced.overwritten as u64;
    let mut copies = Copies { entry, site, overwritten, places: Vec::new() };
    let first = assemble(site, displaced, &copies, address, address)?;
    let pool = address + first.0.bytes.len() as u64;
    copies.places = first.1;
    let (assembly, entries) = assemble(site, displaced, &copies, address, pool)?;
    if entries != copies.places || pool != assembly.here() {
        let text = "the trampoline".to_owned();
        return Err(Refusal::SelfCheck { address, text, found: "another one".to_owned() });
    }
    assembly.check()?;
    let Assembly { mut bytes, constants, beyond, .. } = assembly;
    bytes.extend(constants.iter().flat_map(|constant| constant.to_le_bytes()));
    let repeatable = displaced.repeatable;
    Ok((bytes, PcMap { entries, beyond, site, overwritten, repeatable, inside_jump: None }))
}

/// Makes it with its constants at `pool`; gives the old and the new addresses as well.
fn assemble<'a>(
    site: u64,
    displaced: &Displaced,
    copies: &'a Copies,
    address: u64,
    pool: u64,
) -> Result<(Assembly<'a>, Vec<(u64, u64)>), Refusal> {
    let Kind { far, end, .. } = displaced.x86;
    let distance = if far { Distance::AsNeeded } else { Distance::Near };
    let mut assembly = Assembly::new(copies, distance, address, pool);
    let mut entries = Vec::with_capacity(displaced.instructions.len());
    for part in &displaced.instructions {
        let old = site + part.offset as u64;
        let own = &displaced.bytes[part.offset..part.offset + part.len];
        let (instruction, _) = decode::one_with_displacement(own, old);
        entries.push((old, assembly.here()));
        relocate(&mut assembly, &instruction, own)?;
    }
    let here = assembly.here();
    match end {
        End::Never => {}
        End::Back(offset) => {
            let old = site + offset as u64;
            assembly.beyond.push((here, old));
            assembly.jump(&Instruction::default(), old, true)?;
        }
        End::Trap => {
            assembly.beyond.push((here, site + displaced.span as u64));
            assembly.put(&Instruction::with(Code::Int3))?;
        }
    }
    Ok((assembly, entries))
}

fn relocate(assembly: &mut Assembly<'_>, instruction: &Instruction, bytes: &[u8]) -> Result<(), Refusal> {
    if instruction.is_call_near() {
        return calls::direct(assembly, instruction);
    }
    if instruction.is_call_near_indirect() {
        return calls::indirect(assembly, instruction, bytes);
    }
    if let Some(to) = decode::branch_target(instruction) {
        return branch(assembly, instruction, to);
    }
    if !instruction.is_ip_rel_memory_operand() {
        assembly.copy(instruction, bytes);
        return Ok(());
    }
    let to = instruction.ip_rel_memory_address();
    // An address of 32 bits comes around again: every distance can be had.
    if instruction.memory_base() == Register::EIP || assembly.reaches(instruction, bytes.len() as u64, to)? {
        with_displacement(assembly, instruction, bytes)
    } else {
        far::operand(assembly, instruction)
    }
}

fn branch(assembly: &mut Assembly<'_>, instruction: &Instruction, to: u64) -> Result<(), Refusal> {
    let copy = assembly.copy_of(to, false);
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch => assembly.jump(instruction, to, false),
        FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
            let mut long = *instruction;
            long.as_near_branch();
            long_or_around(assembly, &long, to, copy)
        }
        FlowControl::ConditionalBranch => around(assembly, instruction, to),
        _ if instruction.code() == Code::Xbegin_rel32 => long_or_around(assembly, instruction, to, copy),
        _ => {
            let (address, text) = (instruction.ip(), decode::text(instruction));
            let reason = "no way to move such a branch is known";
            Err(Refusal::Unmovable { address, text, reason })
        }
    }
}

/// One that has a distance of 32 bits already.
fn long_or_around(
    assembly: &mut Assembly<'_>,
    long: &Instruction,
    to: u64,
    copy: Option<u64>,
) -> Result<(), Refusal> {
    let length = length_of(assembly, long)?;
    if copy.is_some() || assembly.reaches(long, length, to)? {
        let mut long = *long;
        long.set_near_branch64(copy.unwrap_or(to));
        return assembly.put(&long);
    }
    around(assembly, long, to)
}

/// Loops and `jrcxz` have no long form and no inverse, and must leave flags and registers alone:
/// they go over a jump to where they would not, and to a jump to where they would. So does everything that is to go
/// farther than 32 bits.
fn around(assembly: &mut Assembly<'_>, instruction: &Instruction, to: u64) -> Result<(), Refusal> {
    const SHORT: u64 = 2;
    let (mut short, start) = (*instruction, assembly.here());
    short.as_short_branch();
    let length = length_of(assembly, &short)?;
    short.set_near_branch64(start + length + SHORT);
    let out = assembly.jump_length(to, false, length + SHORT)?;
    assembly.put(&short)?;
    assembly.beyond.push((assembly.here(), instruction.next_ip()));
    assembly.make(Instruction::with_branch(Code::Jmp_rel8_64, start + length + SHORT + out))?;
    assembly.beyond.push((assembly.here(), to));
    assembly.jump(&Instruction::default(), to, false)
}

/// The length does not depend on the target, but the encoder needs one in reach to tell it.
fn length_of(assembly: &Assembly<'_>, branch: &Instruction) -> Result<u64, Refusal> {
    let (nothing, here) = (Copies::default(), assembly.here());
    let mut near = *branch;
    near.set_near_branch64(here);
    let mut alone = Assembly::new(&nothing, Distance::Near, here, here);
    alone.put(&near)?;
    Ok(alone.bytes.len() as u64)
}

/// The same bytes with another displacement.
pub(crate) fn with_displacement(
    assembly: &mut Assembly<'_>,
    instruction: &Instruction,
    bytes: &[u8],
) -> Result<(), Refusal> {
    let (_, displacement) = decode::one_with_displacement(bytes, instruction.ip());
    let mut moved = bytes.to_vec();
    let field = displacement.and_then(|at| moved.get_mut(at..at + 4));
    let Some(field) = field else {
        let (address, text) = (instruction.ip(), decode::text(instruction));
        let reason = "its displacement was not found";
        return Err(Refusal::Unmovable { address, text, reason });
    };
    // It was looked at before whether that fits; decoding again shows it if not.
    let next = assembly.here().wrapping_add(bytes.len() as u64);
    let distance = instruction.ip_rel_memory_address().wrapping_sub(next) as u32;
    field.copy_from_slice(&distance.to_le_bytes());
    assembly.copy(instruction, &moved);
    Ok(())
}
