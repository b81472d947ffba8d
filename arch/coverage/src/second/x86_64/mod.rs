//! x86-64, as yaxpeax-x86 reads it.

mod at;
mod far;
mod moved;

use midflight_arch::Form;
use yaxpeax_x86::long_mode::Opcode;

use super::{Doubt, Site, expect, goal};
use at::At;
use moved::{Next, moved};

pub(super) fn verify(site: &Site<'_>) -> Result<(), Doubt> {
    entry(site)?;
    let displaced = displaced(site)?;
    let end = displaced.last().map_or(site.plan.site, At::next);
    let reached = reached(&displaced);
    for (index, old) in displaced.iter().enumerate() {
        if !reached.contains(&old.address) {
            continue;
        }
        let next = match displaced.get(index + 1) {
            Some(next) => site.copy(next.address).map_or(Next::Lost, Next::At),
            None => behind(site, end),
        };
        match site.copy(old.address) {
            Some(copy) => moved(site, old, copy, next).map_err(|error| {
                format!("{} at {:#x}, moved to {copy:#x}: {error}", old.instruction, old.address)
            })?,
            None => return Err(format!("{:#x} has no copy", old.address).into()),
        }
    }
    body(site, end)
}

/// Addresses of the displaced instructions that control comes to from the first one. To the others nothing comes: what
/// stays of the function does not go there ([`body`]).
fn reached(displaced: &[At]) -> Vec<u64> {
    let mut found: Vec<u64> = displaced.first().map(|first| first.address).into_iter().collect();
    let mut next = 0;
    while let Some(address) = found.get(next).copied() {
        next += 1;
        let Some(at) = displaced.iter().find(|at| at.address == address) else { continue };
        let goes_on = !at.ends() && at.opcode() != Opcode::CALL;
        let ways = [at.target(), goes_on.then(|| at.next())];
        for way in ways.into_iter().flatten() {
            if !found.contains(&way) && displaced.iter().any(|at| at.address == way) {
                found.push(way);
            }
        }
    }
    found
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
    let from = from.ok_or("the entry jump goes nowhere")?;
    let bytes =
        site.other(from, true).ok_or_else(|| format!("the entry jump goes to {from:#x}, no padding"))?;
    let jump = At::decode(bytes, from)?;
    let to = jump.target().filter(|_| jump.opcode() == Opcode::JMP && jump.length == bytes.len() as u64);
    to.ok_or_else(|| format!("there is {} in the padding", jump.text()))
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
        let is_one = found.iter().any(|at| at.address == old);
        expect(is_one, || format!("{old:#x} is no displaced instruction"))?;
    }
    found.iter().try_for_each(|at| reads(site, at))?;
    Ok(found)
}

/// Where control that runs on behind the function's displaced instructions comes to: padding that is overwritten does
/// nothing, or traps.
fn behind(site: &Site<'_>, end: u64) -> Next {
    let own_end = site.function.address.wrapping_add(site.function.bytes.len() as u64);
    let mut at = end;
    while site.overwritten().contains(&at) {
        let bytes = at.checked_sub(own_end).and_then(|offset| site.around.behind.get(offset as usize..));
        match bytes.and_then(|bytes| At::decode(bytes, at).ok()) {
            Some(next)
                if next.opcode() == Opcode::INT
                    || bytes.is_some_and(|bytes| bytes.first() == Some(&0xcc)) =>
            {
                return Next::Trap;
            }
            Some(next) => at = next.next(),
            None => return Next::Lost,
        }
    }
    Next::At(at)
}

/// An operand must not refer to bytes that are overwritten.
fn reads(site: &Site<'_>, at: &At) -> Result<(), String> {
    let reads = at.memory().filter(|to| site.overwritten().contains(to));
    let is_based =
        at.operands().zip(0..).any(|(_, index)| at.instruction.segment_override_for_op(index).is_some());
    let is_identity = at.opcode() == Opcode::LEA && reads == Some(site.function.address);
    expect(reads.is_none() || is_identity || is_based, || {
        format!("{} at {:#x} reads the entry jump", at.text(), at.address)
    })
}

/// Nothing that stays comes to the overwritten bytes, or refers to them; branches back to the entry are led to the
/// trampoline. What is no instruction is data, and what follows it is looked at from the next byte on.
fn body(site: &Site<'_>, end: u64) -> Result<(), Doubt> {
    let (mut address, mut led) = (end, 0);
    let own = site.own();
    while let Some(bytes) = own.get((address - site.plan.site) as usize..).filter(|bytes| !bytes.is_empty()) {
        let Ok(at) = At::decode(bytes, address) else {
            address += 1;
            continue;
        };
        let shown = || format!("{} at {address:#x}", at.text());
        if let Some(to) = at.target() {
            expect(!site.is_inside(to), || format!("{} goes into the entry jump", shown()))?;
            if site.is_entry(to) && at.opcode() != Opcode::CALL {
                led_back(site, &at)
                    .map_err(|error| format!("{} goes back to the entry: {error}", shown()))?;
                led += 1;
            }
        }
        reads(site, &at)?;
        address = at.next();
    }
    let others = site.plan.others.iter().filter(|other| !other.is_padding).count();
    expect(others == led, || format!("{others} branches are changed, {led} go back to the entry"))?;
    Ok(())
}

/// The branch is changed so that it goes to the trampoline, and is the same otherwise.
fn led_back(site: &Site<'_>, old: &At) -> Result<(), String> {
    let bytes = site.other(old.address, false).ok_or("it stays")?;
    let new = At::decode(bytes, old.address)?;
    let (before, after) = (old.instruction.prefixes, new.instruction.prefixes);
    let is_like = new.opcode() == old.opcode()
        && new.length == old.length
        && bytes.len() as u64 == new.length
        && before == after;
    expect(is_like, || format!("it became {}", new.text()))?;
    let first = new.target().ok_or("it is no branch any more")?;
    let to = match site.other(first, true) {
        Some(bytes) => {
            let stub = At::decode(bytes, first)?;
            stub.target().filter(|_| stub.opcode() == Opcode::JMP && stub.length == bytes.len() as u64)
        }
        None => Some(first),
    };
    let copy = site.copy(site.plan.site);
    expect(to.is_some() && to == copy, || format!("it is led to {to:x?}, not to {copy:x?}"))
}
