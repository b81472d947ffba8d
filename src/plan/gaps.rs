//! Free address space.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

const PAGE: u64 = 4096;
/// The lowest address that Linux lets a program map as it comes (vm.mmap_min_addr).
const LOWEST: u64 = 0x1_0000;
/// The end of what user space has with four-level page tables, less a page.
const HIGHEST: u64 = 0x7fff_ffff_e000;

/// What is mapped, with the room that its owner may grow into.
#[derive(Debug, Clone)]
pub(crate) struct Occupied(Vec<(u64, u64)>);

impl Occupied {
    /// From (start, end, name as in the memory map), sorted by address.
    pub(crate) fn new<'a>(mappings: impl Iterator<Item = (u64, u64, &'a str)>) -> Self {
        Self(
            mappings
                .map(|(start, end, name)| match name {
                    // brk(2) moves its end up, and falls back to other memory when it cannot.
                    "[heap]" => (start, end.saturating_add(256 << 20)),
                    // Grows down on demand as far as RLIMIT_STACK, and keeps a gap of 256 pages.
                    "[stack]" => (start.saturating_sub(256 << 20), end),
                    _ => (start, end),
                })
                .collect(),
        )
    }

    /// The start of `len` free bytes (whole pages), inside `window` (of start addresses), nearest to
    /// `near`; below it rather than above, where heaps grow.
    pub(crate) fn find(&self, window: &RangeInclusive<u64>, len: u64, near: u64) -> Option<u64> {
        let mut best: Option<u64> = None;
        let mut free_from = LOWEST;
        let ends = std::iter::once((HIGHEST, HIGHEST));
        for (start, end) in self.0.iter().copied().chain(ends) {
            let first = free_from.max(*window.start()).div_ceil(PAGE) * PAGE;
            let last = start.min(HIGHEST).checked_sub(len).map(|last| last.min(*window.end()) / PAGE * PAGE);
            if let Some(last) = last.filter(|last| first <= *last) {
                let here = near.clamp(first, last) / PAGE * PAGE;
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
    /// How many bytes are free at start addresses in `window`, and how many of them in one piece.
    pub(crate) fn free(&self, window: &RangeInclusive<u64>) -> (u64, u64) {
        let (mut all, mut largest, mut free_from) = (0, 0, LOWEST.max(*window.start()));
        let end = HIGHEST.min(window.end().saturating_add(1));
        for (start, next) in self.0.iter().copied().chain(std::iter::once((end, end))) {
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

    fn occupied() -> Occupied {
        let lines = [(0x40_0000, 0x50_0000, "/bin/x"), (0x50_0000, 0x60_0000, "[heap]")];
        Occupied::new(lines.into_iter())
    }

    #[test]
    fn nearest_gap_that_fits() {
        let all = 0..=u64::MAX;
        assert_eq!(occupied().find(&all, 0x2000, 0x48_0000), Some(0x3f_e000));
        assert_eq!(occupied().find(&(0x40_0000..=u64::MAX), 0x2000, 0x48_0000), Some(0x1060_0000));
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
