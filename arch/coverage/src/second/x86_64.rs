//! x86-64, as yaxpeax-x86 reads it.

use midflight_arch::Form;
use yaxpeax_arch::LengthedInstruction;
use yaxpeax_x86::long_mode::{InstDecoder, Instruction, Opcode, Operand, RegSpec};

use super::{Doubt, Site, expect, goal};

/// An instruction at an address.
#[derive(Debug, Clone, Copy)]
struct At {
    address: u64,
    length: u64,
    instruction: Instruction,
}

impl At {
    fn decode(bytes: &[u8], address: u64) -> Result<Self, String> {
        let shown = || bytes.get(..bytes.len().min(15)).unwrap_or_default().to_vec();
        let decoded = InstDecoder::default().decode_slice(bytes);
        let instruction = decoded.map_err(|error| format!("{:02x?} at {address:#x}: {error:?}", shown()))?;
        Ok(Self { address, length: instruction.len().to_const(), instruction })
    }

    fn next(&self) -> u64 {
        self.address.wrapping_add(self.length)
    }

    fn opcode(&self) -> Opcode {
        self.instruction.opcode()
    }

    fn operands(&self) -> impl Iterator<Item = Operand> {
        (0..self.instruction.operand_count()).map(|index| self.instruction.operand(index))
    }

    /// The target of a direct branch or call.
    fn target(&self) -> Option<u64> {
        let direct = self.opcode().is_jcc()
            || matches!(self.opcode(), Opcode::JMP | Opcode::CALL | Opcode::XBEGIN)
            || is_counted(self.opcode());
        match self.instruction.operand(0) {
            Operand::ImmediateI8 { imm } if direct => Some(self.next().wrapping_add_signed(imm.into())),
            Operand::ImmediateI32 { imm } if direct => Some(self.next().wrapping_add_signed(imm.into())),
            _ => None,
        }
    }

    /// The address of an operand relative to rip.
    fn memory(&self) -> Option<u64> {
        let distance = self.operands().find_map(|operand| relative(&operand))?;
        Some(self.next().wrapping_add_signed(distance.into()))
    }

    /// Whether an address is computed from eip.
    fn is_eip_relative(&self) -> bool {
        self.operands().any(|operand| match operand {
            Operand::MemDeref { base } | Operand::Disp { base, .. } => base == RegSpec::eip(),
            Operand::MemDerefMasked { base, .. } | Operand::DispMasked { base, .. } => base == RegSpec::eip(),
            _ => false,
        })
    }

    /// Whether nothing goes on behind it.
    fn ends(&self) -> bool {
        let ends = [Opcode::JMP, Opcode::RETURN, Opcode::UD0, Opcode::UD1, Opcode::UD2, Opcode::HLT];
        ends.contains(&self.opcode())
    }

    /// Where it goes if it is a jump to an address, or through one that stands in the trampoline.
    fn jump(&self, site: &Site<'_>) -> Option<u64> {
        let is_jump = self.opcode() == Opcode::JMP;
        let through = || self.memory().and_then(|at| site.constant(at));
        self.target().or_else(through).filter(|_| is_jump)
    }

    /// The same operation on the same operands, and what is relative to rip is at the same address.
    fn is_like(&self, other: &Self) -> bool {
        let (this, that) = (&self.instruction, &other.instruction);
        this.opcode() == that.opcode()
            && this.prefixes == that.prefixes
            && this.mem_size().map(|size| size.bytes_size()) == that.mem_size().map(|size| size.bytes_size())
            && same_operands(self, other, 0)
    }
}

/// The distance of an operand relative to rip.
fn relative(operand: &Operand) -> Option<i32> {
    match *operand {
        Operand::MemDeref { base } | Operand::MemDerefMasked { base, .. } if base == RegSpec::rip() => {
            Some(0)
        }
        Operand::Disp { base, disp } | Operand::DispMasked { base, disp, .. } if base == RegSpec::rip() => {
            Some(disp)
        }
        _ => None,
    }
}

fn mask(operand: &Operand) -> Option<RegSpec> {
    match *operand {
        Operand::MemDerefMasked { mask, .. } | Operand::DispMasked { mask, .. } => Some(mask),
        _ => None,
    }
}

/// Whether operands mean the same, where the stack pointer of the second is `lower` bytes lower.
fn same_operands(a: &At, b: &At, lower: i32) -> bool {
    let is_same = |(this, that): (Operand, Operand)| match (relative(&this), relative(&that)) {
        (Some(_), Some(_)) => a.memory() == b.memory() && mask(&this) == mask(&that),
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
fn is_counted(opcode: Opcode) -> bool {
    use Opcode::{JECXZ, JRCXZ, LOOP, LOOPNZ, LOOPZ};
    matches!(opcode, LOOP | LOOPZ | LOOPNZ | JRCXZ | JECXZ)
}

/// The branch on the opposite condition.
fn opposite(opcode: Opcode) -> Option<Opcode> {
    use Opcode::{JA, JB, JG, JGE, JL, JLE, JNA, JNB, JNO, JNP, JNS, JNZ, JO, JP, JS, JZ};
    const PAIRS: [(Opcode, Opcode); 8] =
        [(JO, JNO), (JB, JNB), (JZ, JNZ), (JA, JNA), (JS, JNS), (JP, JNP), (JL, JGE), (JLE, JG)];
    PAIRS.iter().find_map(|&(a, b)| match opcode {
        _ if opcode == a => Some(b),
        _ if opcode == b => Some(a),
        _ => None,
    })
}

pub(super) fn verify(site: &Site<'_>) -> Result<(), Doubt> {
    entry(site)?;
    let displaced = displaced(site)?;
    let end = displaced.last().map_or(site.plan.site, At::next);
    for (index, old) in displaced.iter().enumerate() {
        let follower = displaced.get(index + 1).map(|next| next.address);
        match site.copy(old.address) {
            Some(copy) => moved(site, old, copy, follower).map_err(|error| {
                format!("{} at {:#x}, moved to {copy:#x}: {error}", old.instruction, old.address)
            })?,
            // Nothing gets there but branches, and each of those needs a copy.
            None => {
                let before = index.checked_sub(1).and_then(|before| displaced.get(before));
                expect(before.is_some_and(At::ends), || format!("{:#x} has no copy", old.address))?;
            }
        }
    }
    body(site, end)
}

/// The entry jump, the padding that it may go through, and the island.
fn entry(site: &Site<'_>) -> Result<(), String> {
    let (plan, places) = (site.plan, site.places);
    let there = site.own().iter().chain(site.around.behind);
    let with_rest: Vec<u8> = plan.entry.iter().chain(there.skip(plan.entry.len())).copied().collect();
    let jump = At::decode(&with_rest, plan.site)?;
    let length = plan.entry.len() as u64;
    let fits = match plan.form {
        Form::Punned => length < 5 && jump.length == 5,
        Form::Absolute => jump.length == 6 && length == 14,
        _ => jump.length == length,
    };
    expect(fits && jump.opcode() == Opcode::JMP, || format!("the entry is {}", jump.instruction))?;
    let reached = match plan.form {
        Form::Slot => jump.memory(),
        Form::Relay => Some(relay(site, jump.target())?),
        Form::Absolute => {
            let constant =
                plan.entry.get(6..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
            constant.filter(|_| jump.memory() == Some(jump.next()))
        }
        _ => jump.target(),
    };
    expect(reached == Some(goal(site)), || {
        format!("the entry jump gets to {reached:x?}, not {:#x}", goal(site))
    })?;
    let island = At::decode(&plan.island, places.island)?;
    let to = island.memory().filter(|_| island.opcode() == Opcode::JMP);
    expect(to == Some(places.slot), || format!("the island {} goes through {to:x?}", island.instruction))
}

/// Where the jump in the padding goes.
fn relay(site: &Site<'_>, from: Option<u64>) -> Result<u64, String> {
    let relayed = site.plan.relayed.as_ref().ok_or("a relay without padding")?;
    expect(from == Some(relayed.at), || format!("the entry jump goes to {from:x?}, not to the padding"))?;
    let is_there = site.around.paddings.iter().any(|&(start, bytes)| {
        let offset = relayed.at.checked_sub(start).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| bytes.get(offset..)?.get(..relayed.bytes.len())) == Some(&relayed.original)
    });
    expect(is_there, || format!("{:02x?} at {:#x} are no padding", relayed.original, relayed.at))?;
    let jump = At::decode(&relayed.bytes, relayed.at)?;
    let to = jump.target().filter(|_| jump.opcode() == Opcode::JMP);
    to.ok_or_else(|| format!("there is {} in the padding", jump.instruction))
}

/// The instructions that the overwritten bytes belong to, from the function's own bytes.
fn displaced(site: &Site<'_>) -> Result<Vec<At>, Doubt> {
    let (own, mut found, mut length) = (site.own(), Vec::new(), 0);
    while length < site.plan.entry.len() && length < own.len() {
        let at = At::decode(own.get(length..).unwrap_or_default(), site.plan.site + length as u64);
        let at = at.map_err(Doubt::Unread)?;
        length += at.length as usize;
        found.push(at);
    }
    for &(old, _) in site.plan.pc_map.entries() {
        expect(found.iter().any(|at| at.address == old), || format!("{old:#x} is no displaced instruction"))?;
    }
    Ok(found)
}

/// Whether the copy at `copy` does what `old` does, and goes on where it goes on.
fn moved(site: &Site<'_>, old: &At, copy: u64, follower: Option<u64>) -> Result<(), String> {
    let decode = |address| At::decode(site.trampoline(address).unwrap_or_default(), address);
    let reaches = |from, to| site.reaches(from, to, |address| decode(address).ok()?.jump(site));
    let new = decode(copy)?;
    let differs = |what: &str| Err(format!("{what}: it became {}", new.instruction));
    let next = match follower {
        Some(next) => site.copy(next),
        None => Some(old.next()),
    };
    let goes_on = |from| match next {
        Some(next) => reaches(from, next),
        None => Err("what follows has no copy".to_owned()),
    };
    expect(!old.is_eip_relative(), || "it is relative to eip".into())?;
    if old.opcode() == Opcode::CALL {
        return call(site, old, &new, &decode(new.next())?, reaches);
    }
    if let Some(to) = old.target() {
        let to = site.place_of(to)?;
        let (old_prefixes, new_prefixes) = (old.instruction.prefixes, new.instruction.prefixes);
        let same_prefixes = old_prefixes.repnz() == new_prefixes.repnz()
            && old_prefixes.segment() == new_prefixes.segment()
            && (!is_counted(old.opcode()) || old_prefixes.address_size() == new_prefixes.address_size());
        if old.opcode() == Opcode::JMP {
            let Some(first) = new.jump(site) else { return differs("no jump") };
            return reaches(first, to);
        }
        let Some(taken) = new.target() else { return differs("no branch") };
        return if new.opcode() == old.opcode() && same_prefixes {
            reaches(taken, to).and_then(|()| goes_on(new.next()))
        } else if Some(new.opcode()) == opposite(old.opcode()) && same_prefixes {
            reaches(new.next(), to).and_then(|()| goes_on(taken))
        } else {
            differs("another branch")
        };
    }
    if old.memory().is_some() {
        expect(old.is_like(&new), || format!("operation, operands or address differ: {}", new.instruction))?;
    } else {
        let own = site.own().get((old.address - site.plan.site) as usize..).unwrap_or_default();
        let (own, copied) = (own.get(..old.length as usize), site.trampoline(copy).unwrap_or_default());
        let same = own.is_some() && own == copied.get(..old.length as usize);
        expect(same && old.is_like(&new), || format!("the bytes differ: {}", new.instruction))?;
    }
    if old.ends() { Ok(()) } else { goes_on(new.next()) }
}

/// A displaced call: the address behind the old one is pushed, then a jump does the rest.
fn call(
    site: &Site<'_>,
    old: &At,
    push: &At,
    jump: &At,
    reaches: impl Fn(u64, u64) -> Result<(), String>,
) -> Result<(), String> {
    expect(!site.is_inside(old.next()), || "it would return into the entry jump".into())?;
    expect(!site.around.shadow_stack, || "a shadow stack forbids to return there".into())?;
    let pushed = push.memory().and_then(|at| site.constant(at)).filter(|_| push.opcode() == Opcode::PUSH);
    expect(pushed == Some(old.next()), || format!("{} pushes {pushed:x?}", push.instruction))?;
    let is_jump = jump.opcode() == Opcode::JMP;
    match (old.target(), jump.jump(site)) {
        (Some(to), Some(first)) => reaches(first, site.place_of_callee(to)?),
        (None, _) if is_jump => {
            let same = same_operands(old, jump, 8)
                && old.instruction.prefixes.segment() == jump.instruction.prefixes.segment()
                && old.instruction.prefixes.address_size() == jump.instruction.prefixes.address_size();
            expect(same, || format!("the jump {} has another operand", jump.instruction))
        }
        _ => Err(format!("{} is no jump to the callee", jump.instruction)),
    }
}

/// Nothing that stays comes to the overwritten bytes, or refers to them.
fn body(site: &Site<'_>, end: u64) -> Result<(), Doubt> {
    let mut address = end;
    let own = site.own();
    while let Some(bytes) = own.get((address - site.plan.site) as usize..).filter(|bytes| !bytes.is_empty()) {
        let at = At::decode(bytes, address).map_err(Doubt::Unread)?;
        let shown = || format!("{} at {address:#x}", at.instruction);
        if let Some(to) = at.target() {
            expect(!site.is_inside(to), || format!("{} goes into the entry jump", shown()))?;
            let loops = site.is_entry(to) && at.opcode() != Opcode::CALL;
            expect(!loops, || format!("{} goes back to the entry", shown()))?;
        }
        let reads = at.memory().filter(|to| site.overwritten().contains(to));
        let is_identity = at.opcode() == Opcode::LEA && reads == Some(site.function.address);
        expect(reads.is_none() || is_identity, || format!("{} reads the entry jump", shown()))?;
        address = at.next();
    }
    Ok(())
}
