//! Where the islands of punned jumps go: the bytes at a site say where one may start, and pages are shared.
#![forbid(unsafe_code)]

use super::gaps::Occupied;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

/// What islands are mapped by.
pub(crate) const PAGE: u64 = 0x1000;

/// The pages that hold islands of punned jumps, and which of their bytes are taken. They stay for ever.
#[derive(Debug, Default, Clone)]
pub(crate) struct PunPages {
    /// Addresses of pages.
    pages: BTreeSet<u64>,
    /// Islands, start to end; apart.
    taken: BTreeMap<u64, u64>,
}

impl PunPages {
    pub(crate) const fn new() -> Self {
        Self { pages: BTreeSet::new(), taken: BTreeMap::new() }
    }

    /// Finds room for an island of `len` bytes that starts at one of `places`, and takes it: on pages that there are,
    /// else on free ones; on free ones only unless it may `share`.
    pub(crate) fn take(
        &mut self,
        places: &RangeInclusive<u64>,
        len: u64,
        occupied: &Occupied,
        share: bool,
    ) -> Option<u64> {
        let known = share.then(|| self.on_known_page(places, len)).flatten();
        let start = known.or_else(|| self.on_new_page(places, len, occupied, share))?;
        self.taken.insert(start, start + len);
        self.pages.extend(pages_of(&(start..start + len)));
        Some(start)
    }

    /// Gives back an island that was taken since these were a copy of `before`.
    pub(crate) fn give_back(&mut self, start: u64, before: &Self) {
        self.taken.remove(&start);
        let used = self.taken.iter().flat_map(|(start, end)| pages_of(&(*start..*end)));
        self.pages = used.chain(before.pages.iter().copied()).collect();
    }

    /// The pages that `before` has not, as (start, end).
    pub(crate) fn new_since(&self, before: &Self) -> Vec<(u64, u64)> {
        self.pages.difference(&before.pages).map(|page| (*page, page + PAGE)).collect()
    }

    /// Is there a page of ours at this address?
    pub(crate) fn has_page(&self, address: u64) -> bool {
        self.pages.contains(&address)
    }

    fn on_known_page(&self, places: &RangeInclusive<u64>, len: u64) -> Option<u64> {
        let (first, last) = (places.start() / PAGE * PAGE, *places.end());
        self.pages.range(first..=last).find_map(|page| {
            let mut start = *places.start().max(page);
            // Behind each island that is in the way.
            while let Some((_, end)) = self.in_the_way(start, len) {
                start = end;
            }
            let fits = start <= last && start < page + PAGE && self.has_pages(start, len);
            fits.then_some(start)
        })
    }

    fn on_new_page(
        &self,
        places: &RangeInclusive<u64>,
        len: u64,
        occupied: &Occupied,
        share: bool,
    ) -> Option<u64> {
        let usable = |start: u64| {
            let island = start..start.checked_add(len)?;
            let is_free = |page: u64| share && self.pages.contains(&page) || occupied.is_free(page, PAGE);
            let all = self.in_the_way(start, len).is_none() && pages_of(&island).all(is_free);
            all.then_some(start)
        };
        // The first of them may lie in the middle of a page.
        usable(*places.start())
            .or_else(|| usable(occupied.find(places, PAGE, *places.start())?))
            .or_else(|| usable(*places.end()))
    }

    /// The last island that overlaps this one.
    fn in_the_way(&self, start: u64, len: u64) -> Option<(u64, u64)> {
        let before = self.taken.range(..start + len).next_back();
        before.map(|(start, end)| (*start, *end)).filter(|(_, end)| *end > start)
    }

    fn has_pages(&self, start: u64, len: u64) -> bool {
        pages_of(&(start..start + len)).all(|page| self.pages.contains(&page))
    }
}

/// The pages that these bytes lie on.
fn pages_of(bytes: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    let (first, end) = (bytes.start / PAGE * PAGE, bytes.end);
    (first..end).step_by(PAGE as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::InstructionSet;

    fn occupied() -> Occupied {
        let lines = [(0x10_0000, 0x20_0000, "/bin/x"), (0x7ffc_0002_0000, 0x7ffc_0003_0000, "[stack]")];
        Occupied::new(InstructionSet::X86_64, lines.into_iter())
    }

    #[test]
    fn islands_share_a_page_and_lie_apart() {
        let (mut puns, occupied) = (PunPages::new(), occupied());
        let places = 0x40_0100..=0x40_01ff;
        let starts: Vec<u64> = (0..43).map_while(|_| puns.take(&places, 6, &occupied, true)).collect();
        let expected: Vec<u64> = (0..43).map(|number| 0x40_0100 + 6 * number).collect();
        assert_eq!(starts, expected);
        assert_eq!(puns.take(&places, 6, &occupied, true), None);
        assert_eq!(Vec::from_iter(puns.pages.iter().copied()), [0x40_0000]);
        assert_eq!(puns.take(&(0x40_0000..=0x40_ffff), 6, &occupied, true), Some(0x40_0000));
    }

    #[test]
    fn one_place_over_two_pages_needs_both() {
        let (mut puns, occupied) = (PunPages::new(), occupied());
        assert_eq!(puns.take(&(0x40_0ffd..=0x40_0ffd), 6, &occupied, true), Some(0x40_0ffd));
        assert_eq!(Vec::from_iter(puns.pages.iter().copied()), [0x40_0000, 0x40_1000]);
        assert_eq!(puns.take(&(0x40_0ffe..=0x40_0ffe), 6, &occupied, true), None);
        assert_eq!(puns.take(&(0x40_1003..=0x40_1003), 6, &occupied, true), Some(0x40_1003));
        // The page behind is somebody's.
        assert_eq!(puns.take(&(0xf_fffd..=0xf_fffd), 6, &occupied, true), None);
        assert_eq!(puns.take(&(0xf_fff0..=0xf_fff0), 6, &occupied, true), Some(0xf_fff0));
    }

    #[test]
    fn a_page_is_not_shared_where_that_is_not_wanted() {
        let mut puns = PunPages::new();
        let (places, occupied) = (0x40_0100..=0x40_1fff, occupied());
        assert_eq!(puns.take(&places, 6, &occupied, true), Some(0x40_0100));
        let occupied = occupied.and(&[(0x40_0000, 0x40_1000)]);
        assert_eq!(puns.take(&places, 6, &occupied, false), Some(0x40_1000));
        assert_eq!(puns.take(&places, 6, &occupied, true), Some(0x40_0106));
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let (mut puns, occupied) = (PunPages::new(), occupied());
        assert_eq!(puns.take(&(0x40_0000..=0x40_ffff), 6, &occupied, true), Some(0x40_0000));
        let before = puns.clone();
        assert_eq!(puns.take(&(0x50_0000..=0x50_ffff), 6, &occupied, true), Some(0x50_0000));
        assert_eq!(puns.take(&(0x40_0000..=0x40_ffff), 6, &occupied, true), Some(0x40_0006));
        assert_eq!(puns.new_since(&before), [(0x50_0000, 0x50_1000)]);
        puns.give_back(0x50_0000, &before);
        assert_eq!(puns.new_since(&before), []);
        assert!(puns.has_page(0x40_0000) && !puns.has_page(0x50_0000));
        puns.give_back(0x40_0006, &before);
        assert_eq!(puns.take(&(0x40_0000..=0x40_ffff), 6, &occupied, true), Some(0x40_0006));
    }

    #[test]
    fn taken_memory_is_passed_over() {
        let (mut puns, occupied) = (PunPages::new(), occupied());
        assert_eq!(puns.take(&(0x10_0000..=0x1f_ffff), 6, &occupied, true), None);
        assert_eq!(puns.take(&(0x10_0000..=0x2f_ffff), 6, &occupied, true), Some(0x20_0000));
        assert_eq!(puns.take(&(0..=0xffff), 6, &occupied, true), None);
        assert_eq!(puns.take(&(1 << 47..=1 << 48), 6, &occupied, true), None);
    }
}
