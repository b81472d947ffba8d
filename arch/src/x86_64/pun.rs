//! The punned jump: `jmp rel32` of which only the bytes of the first instruction are written.
//!
//! The bytes that follow stay as they are and serve as the upper part of the distance, so they say where the island has
//! to be: at one address if the first instruction has one byte, within 256, 64 Ki or 16 Mi if it has two, three or four.
//! Since one instruction is displaced, the site has no inside; since it is short, so may the function be.

use std::ops::RangeInclusive;

use super::jumps::{self, BRANCH};
use crate::Refusal;

/// Bytes of the whole jump.
const JUMP: usize = BRANCH.length as usize;

/// The jump as far as it is known before the island has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pun {
    site: u64,
    /// How many bytes are written.
    pub(super) written: usize,
    /// The bytes at the site now.
    now: [u8; JUMP],
}

impl Pun {
    /// Of a site whose first instruction has `first` bytes, out of `bytes` from there on.
    pub(crate) fn new(site: u64, first: usize, bytes: impl Iterator<Item = u8>) -> Result<Self, Refusal> {
        if first >= JUMP {
            return Err(Refusal::NothingToPun { site, len: first });
        }
        let mut now = [0; JUMP];
        let mut known = 0;
        for (to, from) in now.iter_mut().zip(bytes) {
            *to = from;
            known += 1;
        }
        if known < JUMP {
            return Err(Refusal::UnknownBytes { site, known, needed: JUMP });
        }
        let pun = Self { site, written: first, now };
        pun.places().map(|_| pun)
    }

    /// Bytes that the whole jump takes up.
    pub(crate) fn len(&self) -> usize {
        self.now.len()
    }

    /// All bytes at the site before, written and used.
    pub(crate) fn now(&self) -> &[u8] {
        &self.now
    }

    /// Where the island may start.
    pub(crate) fn places(&self) -> Result<RangeInclusive<u64>, Refusal> {
        let free = 8 * (self.written - 1);
        let [_, distance @ ..] = self.now;
        let fixed = i64::from(i32::from_le_bytes(distance)) >> free << free;
        let lowest = i128::from(self.site) + JUMP as i128 + i128::from(fixed);
        let highest = lowest + (1i128 << free) - 1;
        match (u64::try_from(lowest.max(0)), u64::try_from(highest.min(u64::MAX.into()))) {
            (Ok(low), Ok(high)) if low <= high => Ok(low..=high),
            _ => Err(Refusal::AddressSpace { address: self.site, size: JUMP }),
        }
    }

    /// The bytes to be written for an island at `island`.
    pub(crate) fn entry(&self, island: u64) -> Result<Vec<u8>, Refusal> {
        let mut bytes = jumps::branch(self.site, island)?;
        if bytes.get(self.written..) != self.now.get(self.written..) {
            let (low, high) = self.places()?.into_inner();
            return Err(Refusal::NotAPlaceOfPun { site: self.site, island, low, high });
        }
        bytes.truncate(self.written);
        Ok(bytes)
    }
}
