//! Numbers that depend on nothing but a seed.

use std::ops::RangeInclusive;

/// Another start for all choices: a number, in hexadecimal after `0x`.
pub(crate) const SEED: &str = "MIDFLIGHT_RUN_SEED";
/// How many times the usual number of cases to run.
pub(crate) const TIMES: &str = "MIDFLIGHT_RUN_TIMES";

/// The number in an environment variable.
pub(crate) fn number(variable: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else { return otherwise };
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|error| panic!("{variable}={text}: {error}"))
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(crate) struct Random(u64);

impl Random {
    /// The choices of one part of a run.
    pub(crate) fn new(seed: u64, part: u64) -> Self {
        let mut random = Self(seed ^ part.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        low + self.below(high - low + 1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// What a register may hold: any bits, or numbers at the edges of the widths.
    pub(crate) fn value(&mut self) -> u64 {
        let edge = 1u64 << self.pick(&[0, 7, 8, 15, 16, 31, 32, 63]);
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => edge,
            3 => edge.wrapping_sub(1),
            4 => self.below(256),
            5 => self.next() >> 32,
            _ => self.next(),
        }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.take(count.div_ceil(8)).flatten().take(count).collect()
    }
}
