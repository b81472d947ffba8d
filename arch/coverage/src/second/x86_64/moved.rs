//! What displaced instructions became.

use yaxpeax_x86::long_mode::{Opcode, Operand, RegSpec};

use super::at::{At, is_counted, opposite, relative, same_operands};
use super::far;
use crate::second::{Site, expect};

/// Whether the copy at `copy` does what `old` does, and goes on where it goes on.
pub(super) fn moved(site: &Site<'_>, old: &At, copy: u64, next: Next) -> Result<(), String> {
    let decode = |address| At::decode(site.trampoline(address).unwrap_or_default(), address);
    let reaches = |from, to| site.reaches(from, to, |address| decode(address).ok()?.jump(site));
    let new = decode(copy)?;
    let differs = |what: &str| Err(format!("{what}: it became {}", new.instruction));
    let goes_on = |from| match next {
        Next::At(next) => reaches(from, next),
        Next::Trap => {
            let end = site.settles(from, |address| decode(address).ok()?.jump(site));
            let traps = site.trampoline(end).is_some_and(|bytes| bytes.first() == Some(&0xcc));
            expect(traps, || format!("there is no trap at {end:#x}"))
        }
        Next::Lost => Err("what follows has no copy".to_owned()),
    };
    if old.opcode() == Opcode::CALL {
        return call(site, old, copy, reaches);
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
        let end = if old.is_like(&new) { Ok(new.next()) } else { far::operand(site, old, copy) };
        return end.and_then(|end| if old.ends() { Ok(()) } else { goes_on(end) });
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
    copy: u64,
    reaches: impl Fn(u64, u64) -> Result<(), String>,
) -> Result<(), String> {
    expect(!site.overwritten().contains(&old.next()), || "it would return into the entry jump".into())?;
    expect(!site.around.shadow_stack, || "a shadow stack forbids to return there".into())?;
    let sequence = far::sequence(site, copy);
    if let Some(to) = old.target() {
        let [push, jump, ..] = &sequence[..] else { return Err("too short".into()) };
        pushes(site, push, old.next())?;
        let first = jump.jump(site).ok_or_else(|| format!("{} is no jump to the callee", jump.text()))?;
        return reaches(first, site.place_of_callee(to)?);
    }
    match &sequence[..] {
        [push, jump, ..] if jump.opcode() == Opcode::JMP => {
            pushes(site, push, old.next())?;
            let same = same_operands(old, jump, 8)
                && old.instruction.prefixes.segment() == jump.instruction.prefixes.segment()
                && old.instruction.prefixes.address_size() == jump.instruction.prefixes.address_size();
            expect(same, || format!("the jump {} has another operand", jump.text()))?;
            expect(is_above_stack(old), || "the return address may be where its pointer is".into())
        }
        // The pointer is put below the return address first.
        [down, pointer, up, push, jump, ..]
            if push.opcode() == Opcode::PUSH && pointer.opcode() == Opcode::PUSH =>
        {
            pushes(site, push, old.next())?;
            far::are(
                &[*down, *up, *jump],
                &["lea rsp, qword [rsp - 0x8]", "lea rsp, qword [rsp + 0x10]", "jmp qword [rsp - 0x8]"],
            )?;
            let segment = old.instruction.prefixes.segment() == pointer.instruction.prefixes.segment();
            expect(segment && same_operands(old, pointer, 8), || {
                format!("{} has another operand", pointer.text())
            })
        }
        [push, ..] => {
            pushes(site, push, old.next())?;
            far::call_through(old, sequence.get(1..).unwrap_or_default())
        }
        [] => Err("nothing is there".into()),
    }
}

fn pushes(site: &Site<'_>, push: &At, wanted: u64) -> Result<(), String> {
    let pushed = push.memory().and_then(|at| site.constant(at)).filter(|_| push.opcode() == Opcode::PUSH);
    expect(pushed == Some(wanted), || format!("{} pushes {pushed:x?}, not {wanted:#x}", push.text()))
}

/// Whether the target of a call through a register or memory is not where the call puts its return address.
fn is_above_stack(call: &At) -> bool {
    match call.instruction.operand(0) {
        operand if relative(&operand).is_some() => true,
        Operand::Register { .. } | Operand::AbsoluteU32 { .. } | Operand::AbsoluteU64 { .. } => true,
        Operand::MemDeref { base } => base == RegSpec::rsp(),
        Operand::Disp { base, disp } => base == RegSpec::rsp() && disp >= 0,
        _ => false,
    }
}

/// Where control goes on behind an instruction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    /// At the copy of the next one, or behind what is overwritten.
    At(u64),
    /// Into a breakpoint that is overwritten.
    Trap,
    /// At an instruction that has no copy.
    Lost,
}
