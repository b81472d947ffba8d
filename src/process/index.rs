//! Symbols by a number: a digest of their names, or their addresses.
#![forbid(unsafe_code)]

use std::ops::Range;

/// Which table, and the place in it.
pub(crate) type Place = (u32, u32);

/// Places by key.
#[derive(Debug)]
pub(crate) struct Index {
    /// Sorted.
    entries: Vec<(u64, Place)>,
}

impl Index {
    pub(crate) fn new(entries: impl Iterator<Item = (u64, Place)>) -> Self {
        let mut entries: Vec<_> = entries.collect();
        entries.sort_unstable();
        entries.shrink_to_fit();
        Self { entries }
    }

    /// The places with this key.
    pub(crate) fn equal(&self, key: u64) -> impl Iterator<Item = Place> {
        let start = self.entries.partition_point(|(one, _)| *one < key);
        let rest = self.entries.get(start..).unwrap_or_default();
        rest.iter().take_while(move |(one, _)| *one == key).map(|(_, place)| *place)
    }

    /// Keys and places with a key in the range.
    pub(crate) fn within(&self, keys: Range<u64>) -> impl Iterator<Item = (u64, Place)> {
        let start = self.entries.partition_point(|(one, _)| *one < keys.start);
        let rest = self.entries.get(start..).unwrap_or_default();
        rest.iter().take_while(move |(one, _)| *one < keys.end).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_and_no_others() {
        let index = Index::new([(7, (0, 1)), (3, (1, 0)), (7, (0, 0)), (9, (0, 5))].into_iter());
        assert_eq!(index.equal(7).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
        assert_eq!(index.equal(8).count() + index.equal(10).count() + index.equal(0).count(), 0);
        assert_eq!(index.within(3..8).map(|(key, _)| key).collect::<Vec<_>>(), [3, 7, 7]);
        assert_eq!(index.within(4..7).count(), 0);
        assert_eq!(index.within(9..9).count(), 0);
    }
}
