//! Where a held thread stands with regard to the bytes that will change.
#![forbid(unsafe_code)]

use std::ops::Range;

/// Addresses that will be written, and where a thread that stands in one of them goes on instead.
#[derive(Debug, Clone)]
pub(crate) struct Danger {
    /// From the first address at which no thread may resume to the end of the written bytes.
    pub(crate) range: Range<u64>,
    /// Old address, new address; sorted.
    pub(crate) moves: Vec<(u64, u64)>,
}

/// What is to be done with a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stands outside.
    Stay,
    /// It stands at an instruction that has a copy there.
    Move(u64),
    /// It stands inside, at no instruction that we know.
    Unsafe,
}

/// Judges a thread that goes on at `pc`. `dangers` are sorted by address and do not overlap.
pub(crate) fn judge(pc: u64, dangers: &[Danger]) -> Verdict {
    let Some(danger) = find(pc, dangers) else { return Verdict::Stay };
    match danger.moves.binary_search_by_key(&pc, |(old, _)| *old) {
        Ok(place) => danger.moves.get(place).map_or(Verdict::Unsafe, |(_, new)| Verdict::Move(*new)),
        Err(_) => Verdict::Unsafe,
    }
}

/// Does `address` lie in one of the dangers?
pub(crate) fn find(address: u64, dangers: &[Danger]) -> Option<&Danger> {
    let after = dangers.partition_point(|danger| danger.range.start <= address);
    let danger = dangers.get(after.checked_sub(1)?)?;
    danger.range.contains(&address).then_some(danger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dangers() -> Vec<Danger> {
        vec![
            Danger { range: 0x1001..0x1005, moves: vec![(0x1001, 0x9001), (0x1004, 0x9008)] },
            Danger { range: 0x2000..0x2006, moves: vec![(0x2000, 0xa000)] },
        ]
    }

    #[test]
    fn outside_stays() {
        for pc in [0, 0x1000, 0x1005, 0x1fff, 0x2006, u64::MAX] {
            assert_eq!(judge(pc, &dangers()), Verdict::Stay, "{pc:#x}");
        }
        assert_eq!(judge(5, &[]), Verdict::Stay);
    }

    #[test]
    fn boundaries_move() {
        assert_eq!(judge(0x1001, &dangers()), Verdict::Move(0x9001));
        assert_eq!(judge(0x1004, &dangers()), Verdict::Move(0x9008));
        assert_eq!(judge(0x2000, &dangers()), Verdict::Move(0xa000));
    }

    #[test]
    fn between_boundaries_is_unsafe() {
        assert_eq!(judge(0x1002, &dangers()), Verdict::Unsafe);
        assert_eq!(judge(0x2005, &dangers()), Verdict::Unsafe);
    }
}
