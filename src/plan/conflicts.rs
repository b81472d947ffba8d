//! Which bytes belong to a site, so that no other may have them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a program that sites take up, each with what takes it.
#[derive(Debug)]
pub(crate) struct Claims<T> {
    /// By the first address: the end, and whose it is. They lie apart.
    ranges: BTreeMap<u64, (u64, T)>,
}

impl<T> Claims<T> {
    pub(crate) fn new() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// Who has some of these bytes, and from which address on.
    pub(crate) fn owner(&self, bytes: &Range<u64>) -> Option<(u64, &T)> {
        let before = self.ranges.range(..bytes.end).next_back();
        before.filter(|(_, (end, _))| *end > bytes.start).map(|(start, (_, owner))| (*start, owner))
    }

    /// All that touch these bytes.
    pub(crate) fn within(&self, bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let before = self.ranges.range(..bytes.end).rev().map(|(start, (end, _))| *start..*end);
        before.take_while(move |range| range.end > bytes.start)
    }

    /// Takes bytes that nobody has.
    pub(crate) fn add(&mut self, bytes: Range<u64>, owner: T) {
        if !bytes.is_empty() {
            self.ranges.insert(bytes.start, (bytes.end, owner));
        }
    }
}

/// The parts of `bytes` that none of `taken` touches; in order.
pub(crate) fn apart(bytes: Range<u64>, taken: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut parts = vec![bytes];
    for taken in taken {
        let split = |part: Range<u64>| {
            let before = part.start..part.end.min(taken.start);
            let behind = part.start.max(taken.end)..part.end;
            [before, behind].into_iter().filter(|part| part.start < part.end)
        };
        if parts.iter().any(|part| taken.start < part.end && part.start < taken.end) {
            parts = parts.into_iter().flat_map(split).collect();
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_which_bytes() {
        let mut claims = Claims::new();
        for (bytes, owner) in [(10..15, "a"), (15..21, "b"), (0..10, "c"), (40..40, "nothing")] {
            assert_eq!(claims.owner(&bytes), None);
            claims.add(bytes, owner);
        }
        assert_eq!(claims.owner(&(14..15)), Some((10, &"a")));
        assert_eq!(claims.owner(&(20..50)), Some((15, &"b")));
        assert_eq!(claims.owner(&(0..50)), Some((15, &"b")));
        assert_eq!(claims.owner(&(3..4)), Some((0, &"c")));
        assert_eq!(claims.owner(&(21..50)), None);
    }

    #[test]
    fn what_is_left_of_some_bytes() {
        let left = |taken: &[Range<u64>]| -> Vec<(u64, u64)> {
            let left = apart(10..20, taken.iter().cloned());
            left.into_iter().map(|part| (part.start, part.end)).collect()
        };
        assert_eq!(left(&[]), [(10, 20)]);
        assert_eq!(left(&[0..10, 20..30]), [(10, 20)]);
        assert_eq!(left(&[12..14, 0..11, 19..25]), [(11, 12), (14, 19)]);
        assert_eq!(left(std::slice::from_ref(&(0..30))), []);
    }
}
