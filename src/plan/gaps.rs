//! Free address space.
#![forbid(unsafe_code)]

use super::place::page;
use crate::arch::InstructionSet;
use std::ops::RangeInclusive;

/// The lowest address that Linux lets a program map as it comes (vm.mmap_min_addr).
const LOWEST: u64 = 0x1_0000;

/// Addresses from here on are the kernel's.
const KERNEL: u64 = 1 << 63;

/// What is mapped, with the room that its owner may grow into.
#[derive(Debug, Clone)]
pub(crate) struct Occupied {
    mappings: Vec<(u64, u64)>,
    page: u64,
    /// Behind the last address that can be mapped, less a page. How many bits user space has is the kernel's choice; the
    /// stack is mapped right below its end.
    highest: u64,
}

impl Occupied {
    /// From (start, end, name as in the memory map), sorted by address.
    pub(crate) fn new<'a>(set: InstructionSet, mappings: impl Iterator<Item = (u64, u64, &'a str)>) -> Self {
        let users = mappings.filter(|(start, ..)| *start < KERNEL);
        let mappings: Vec<_> = users
            .map(|(start, end, name)| match name {
                // brk(2) moves its end up, and falls back to other memory when it cannot.
                "[heap]" => (start, end.saturating_add(256 << 20)),
                // Grows down on demand as far as RLIMIT_STACK, and keeps a gap of 256 pages.
                "[stack]" => (start.saturating_sub(256 << 20), end),
                _ => (start, end),
            })
            .collect();
        let end = mappings.iter().map(|(_, end)| *end).max().unwrap_or_default();
        let highest = end.checked_next_power_of_two().unwrap_or(KERNEL).saturating_sub(2 * page(set));
        Self { mappings, page: page(set), highest }
    }

    /// With further memory (start, end) that is not free, in any order.
    pub(crate) fn and(mut self, others: &[(u64, u64)]) -> Self {
        self.mappings.extend_from_slice(others);
        self.mappings.sort_unstable();
        self
    }

    /// The start of `len` free bytes (whole pages), inside `window` (of start addresses), nearest to
    /// `near`; below it rather than above, where heaps grow.
    pub(crate) fn find(&self, window: &RangeInclusive<u64>, len: u64, near: u64) -> Option<u64> {
        let mut best: Option<u64> = None;
        let mut free_from = LOWEST;
        let (page, highest) = (self.page, self.highest);
        for (start, end) in self.mappings.iter().copied().chain(std::iter::once((highest, highest))) {
            let first = free_from.max(*window.start()).div_ceil(page) * page;
            let last = start.min(highest).checked_sub(len).map(|last| last.min(*window.end()) / page * page);
            if let Some(last) = last.filter(|last| first <= *last) {
                let here = near.clamp(first, last) / page * page;
                let is_better = |old: u64| here.abs_diff(near) < old.abs_diff(near);
                if best.is_none_or(is_better) {
                    best = Some(here);
                }
            }
            free_from = free_from.max(end);
        }
        best
    }
}

impl Occupied {
    /// Are `len` bytes at `start` free?
    pub(crate) fn is_free(&self, start: u64, len: u64) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        let apart = |(first, last): &(u64, u64)| end <= *first || *last <= start;
        start >= LOWEST && end <= self.highest && self.mappings.iter().all(apart)
    }

    /// How many bytes are free at start addresses in `window`, and how many of them in one piece.
    pub(crate) fn free(&self, window: &RangeInclusive<u64>) -> (u64, u64) {
        let (mut all, mut largest, mut free_from) = (0, 0, LOWEST.max(*window.start()));
        let end = self.highest.min(window.end().saturating_add(1));
        for (start, next) in self.mappings.iter().copied().chain(std::iter::once((end, end))) {
            let piece = start.min(end).saturating_sub(free_from);
            (all, largest) = (all + piece, largest.max(piece));
            free_from = free_from.max(next);
        }
        (all, largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [(u64, u64, &str); 4] = [
        (0x40_0000, 0x50_0000, "/bin/x"),
        (0x50_0000, 0x60_0000, "[heap]"),
        (0x7ffc_0002_0000, 0x7ffc_0003_0000, "[stack]"),
        (0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, "[vsyscall]"),
    ];
    const HIGHEST: u64 = 0x7fff_ffff_e000;

    fn occupied() -> Occupied {
        Occupied::new(InstructionSet::X86_64, LINES.into_iter())
    }

    #[test]
    fn aarch64_has_larger_pages_and_more_or_less_addresses() {
        let find = |window: RangeInclusive<u64>, lines: [(u64, u64, &str); 2]| {
            Occupied::new(InstructionSet::Aarch64, lines.into_iter()).find(&window, 0x2_0000, *window.start())
        };
        let large =
            [(0xaaaa_0000_0000, 0xaaaa_0010_0000, "/bin/x"), (0xffff_f000_0000, 0xffff_f002_0000, "[stack]")];
        assert_eq!(find(0xaaaa_0000_1000..=u64::MAX, large), Some(0xaaaa_0010_0000));
        assert_eq!(find(0xaaaa_0010_0001..=u64::MAX, large), Some(0xaaaa_0011_0000));
        let small = [(0x55_5555_0000, 0x55_5556_0000, "/bin/x"), (0x7f_f000_0000, 0x7f_f002_0000, "[stack]")];
        assert_eq!(find(0x80_0000_0000..=u64::MAX, small), None);
    }

    #[test]
    fn nearest_gap_that_fits() {
        let all = 0..=u64::MAX;
        assert_eq!(occupied().find(&all, 0x2000, 0x48_0000), Some(0x3f_e000));
        assert_eq!(occupied().find(&(0x40_0000..=u64::MAX), 0x2000, 0x48_0000), Some(0x1060_0000));
    }

    #[test]
    fn what_is_taken_without_a_line_is_passed_over() {
        let find = |others: &[(u64, u64)]| occupied().and(others).find(&(0..=u64::MAX), 0x2000, 0x48_0000);
        assert_eq!(find(&[(0x3f_e000, 0x3f_f000)]), Some(0x3f_c000));
        assert_eq!(find(&[(0x3f_c000, 0x40_1000), (0x10_0000, 0x20_0000)]), Some(0x3f_a000));
    }

    #[test]
    fn nothing_outside_the_window() {
        assert_eq!(occupied().find(&(0x40_0000..=0x5f_ffff), 0x1000, 0x48_0000), None);
        assert_eq!(occupied().find(&(0x3f_f000..=0x3f_f000), 0x1000, 0x48_0000), Some(0x3f_f000));
        assert_eq!(occupied().find(&(0x3f_f001..=0x3f_ffff), 0x1000, 0x48_0000), None);
        assert_eq!(occupied().find(&(0x3f_f000..=0x3f_f000), 0x2000, 0x48_0000), None);
        assert_eq!(occupied().find(&(0..=0xffff), 0x1000, 0), None);
    }

    #[test]
    fn of_a_map_that_says_nothing_nothing_is_free() {
        for set in [InstructionSet::X86_64, InstructionSet::Aarch64] {
            let nothing = Occupied::new(set, std::iter::empty());
            assert_eq!(nothing.find(&(0..=u64::MAX), 0x2_0000, 0x40_0000), None);
            assert_eq!(nothing.free(&(0..=u64::MAX)), (0, 0));
        }
    }

    #[test]
    fn what_is_free_in_a_window() {
        let (below, above) = (0x40_0000 - LOWEST, 0x2000_0000 - 0x1060_0000);
        assert_eq!(occupied().free(&(0..=0x1fff_ffff)), (below + above, above));
        assert_eq!(occupied().free(&(0..=0x47_ffff)), (below, below));
        assert_eq!(occupied().free(&(0..=0x1_ffff)), (0x1_0000, 0x1_0000));
        assert_eq!(occupied().free(&(0x3f_f000..=0x1060_0fff)), (0x2000, 0x1000));
        assert_eq!(occupied().free(&(0x40_0000..=0x105f_ffff)), (0, 0));
        assert_eq!(occupied().free(&(HIGHEST - 0x1000..=u64::MAX)), (0x1000, 0x1000));
    }
}
