//! Which sites share a near block, and where in it each of their parts stands.
#![forbid(unsafe_code)]

use crate::arch::{self, Form, InstructionSet, Measure, Places};
use std::ops::{Range, RangeInclusive};

/// Trampolines and islands begin at such an address: the alignment that compilers give functions.
const ALIGN: u64 = 16;

/// What a block consists of, in bytes: a page, of the largest size that Linux has on such machines. (On aarch64 it is the
/// kernel's choice; memory that is not touched costs nothing.)
pub(super) const fn page(set: InstructionSet) -> u64 {
    match set {
        InstructionSet::Aarch64 => 0x1_0000,
        _ => 0x1000,
    }
}

/// Sites that one block serves.
#[derive(Debug)]
pub(crate) struct Group {
    /// Which of the sites that were asked about.
    pub(crate) members: Vec<usize>,
    /// Where the block may start.
    pub(crate) window: RangeInclusive<u64>,
    /// Where it should start, if it can.
    pub(crate) near: u64,
    /// Bytes of code, whole pages.
    pub(crate) code: u64,
    /// Bytes of slots, whole pages.
    pub(crate) data: u64,
}

/// A site that needs room in a block.
#[derive(Debug)]
pub(crate) struct Need<'a> {
    pub(crate) measure: &'a Measure,
    pub(crate) form: Form,
    /// Where the island is, if it is not in the block.
    pub(crate) island: Option<u64>,
}

impl Need<'_> {
    fn code(&self, set: InstructionSet) -> u64 {
        round(self.measure.trampoline_room(self.form) as u64, ALIGN)
            + if self.island.is_some() { 0 } else { round(arch::island_room(set) as u64, ALIGN) }
    }

    fn window(&self, set: InstructionSet, len: u64) -> Option<RangeInclusive<u64>> {
        let window = self.measure.window(self.form, len);
        match self.island {
            None => window,
            Some(island) => intersection(&window?, &arch::island_window(set, island, len)?),
        }
    }
}

/// Puts sites together as long as one block can reach all of them. Sites that no block can reach are
/// answered by their numbers.
pub(crate) fn group(set: InstructionSet, needs: &[Need<'_>]) -> (Vec<Group>, Vec<usize>) {
    // An upper bound, since a window depends on the length: all sites in one block.
    let all_code = round(needs.iter().map(|need| need.code(set)).sum(), page(set));
    let bound = all_code + round(needs.len() as u64 * arch::slot_room() as u64, page(set));
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|number| needs.get(*number).map(|need| need.measure.site()));
    let mut groups: Vec<Group> = Vec::new();
    let mut unreachable = Vec::new();
    for number in order {
        let Some(need) = needs.get(number) else { continue };
        let Some(window) = need.window(set, bound) else {
            unreachable.push(number);
            continue;
        };
        match groups.last_mut().map(|group| (intersection(&group.window, &window), group)) {
            Some((Some(common), group)) => {
                group.window = common;
                group.members.push(number);
            }
            _ => groups.push(Group {
                members: vec![number],
                window,
                near: need.measure.site(),
                code: 0,
                data: 0,
            }),
        }
    }
    for group in &mut groups {
        let members = group.members.iter().filter_map(|number| needs.get(*number));
        group.code = round(members.map(|need| need.code(set)).sum(), page(set));
        group.data = round(group.members.len() as u64 * arch::slot_room() as u64, page(set));
    }
    (groups, unreachable)
}

/// Where a block of a page of code and one of slots may start that serves sites anywhere in `text`, as a plain function
/// there would need it. None if no place reaches all of it.
pub(crate) fn reachable(set: InstructionSet, text: &Range<u64>) -> Option<RangeInclusive<u64>> {
    // Instructions of which nothing depends on where they stand, and a return.
    let plain: &[u8] = match set {
        InstructionSet::X86_64 => &[0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3],
        _ => &[0x1f, 0x20, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6],
    };
    let last = text.end.saturating_sub(plain.len() as u64).max(text.start);
    let window = |address| {
        let measure = arch::measure(set, &arch::Function { address, bytes: plain, guarded: false });
        measure.window(*arch::choose(&measure, None, &[]).forms.first()?, 2 * page(set))
    };
    intersection(&window(text.start)?, &window(last)?)
}

/// Where the parts of each member stand in a block at `start`; `members` are what the group's members need, in their
/// order.
pub(crate) fn lay_out(set: InstructionSet, group: &Group, members: &[Need<'_>], start: u64) -> Vec<Places> {
    let (mut code, mut slot) = (start, start + group.code);
    members
        .iter()
        .map(|need| {
            let trampoline = code;
            let behind = trampoline + round(need.measure.trampoline_room(need.form) as u64, ALIGN);
            let island = need.island.unwrap_or(behind);
            let places = Places { trampoline, island, slot };
            code += need.code(set);
            slot += arch::slot_room() as u64;
            places
        })
        .collect()
}

fn intersection(a: &RangeInclusive<u64>, b: &RangeInclusive<u64>) -> Option<RangeInclusive<u64>> {
    let (start, end) = (*a.start().max(b.start()), *a.end().min(b.end()));
    (start <= end).then_some(start..=end)
}

fn round(value: u64, to: u64) -> u64 {
    value.div_ceil(to) * to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Function, measure};

    const SET: InstructionSet = InstructionSet::X86_64;
    /// push rbp; mov rbp, rsp; push rbx; push r12; xor eax, eax; ret
    const CODE: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x53, 0x41, 0x54, 0x31, 0xc0, 0xc3];

    fn measures(addresses: &[u64]) -> Vec<Measure> {
        addresses
            .iter()
            .map(|address| measure(SET, &Function { address: *address, bytes: CODE, guarded: false }))
            .collect()
    }

    #[test]
    fn near_sites_share_and_far_ones_do_not() {
        let measures = measures(&[0x7f00_0000_0000, 0x5500_0000_0000, 0x5500_0000_1000]);
        let needs: Vec<Need<'_>> =
            measures.iter().map(|measure| Need { measure, form: Form::Slot, island: None }).collect();
        let (groups, unreachable) = group(SET, &needs);
        assert_eq!(unreachable, []);
        let members: Vec<_> = groups.iter().map(|group| group.members.clone()).collect();
        assert_eq!(members, [vec![1, 2], vec![0]]);
        for group in &groups {
            assert_eq!((group.code, group.data), (page(SET), page(SET)));
            assert!(group.window.contains(&(group.near - page(SET))));
        }
    }

    #[test]
    fn parts_lie_apart_and_inside() {
        let addresses: Vec<u64> = (0..600).map(|number| 0x5500_0000_0000 + number * 64).collect();
        let measures = measures(&addresses);
        let needs: Vec<Need<'_>> =
            measures.iter().map(|measure| Need { measure, form: Form::Island, island: None }).collect();
        let (groups, _) = group(SET, &needs);
        let group = groups.first().unwrap();
        let (start, code_end) = (0x54ff_0000_0000, 0x54ff_0000_0000 + group.code);
        let mut before = (start, code_end);
        for places in lay_out(SET, group, &needs, start) {
            assert!(places.trampoline >= before.0 && places.island > places.trampoline);
            assert!(places.slot >= before.1 && places.slot % 8 == 0);
            before = (places.island + arch::island_room(SET) as u64, places.slot + 8);
        }
        assert!(before.0 <= code_end && before.1 <= code_end + group.data);
    }

    #[test]
    fn what_is_reachable_is_so_from_both_ends() {
        for (set, reach) in [(InstructionSet::X86_64, 2 << 30), (InstructionSet::Aarch64, 128 << 20)] {
            let text = 0x5500_0000_0000..0x5500_0100_0000;
            let window = reachable(set, &text).unwrap();
            // Less a block; the last function begins before the end.
            let (lowest, highest) = (text.end - reach, text.start + reach);
            assert!((lowest - 8..lowest + 4 * page(set)).contains(window.start()), "{set}: {window:x?}");
            assert!((highest - 4 * page(set)..highest).contains(window.end()), "{set}: {window:x?}");
            assert_eq!(reachable(set, &(text.start..text.start + 3 * reach)), None);
        }
    }
}
