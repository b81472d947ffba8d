//! The relay: a jump of two bytes at the site, to padding nearby that holds a longer one.

use super::jumps::{self, BRANCH};
use crate::reach::{Origin, Reach};
use crate::site::Overwritten;
use crate::{Around, Refusal};

/// Bytes of the jump at the site.
pub(crate) const SHORT: usize = 2;
/// Bytes of the jump in the padding.
const LONG: usize = BRANCH.length as usize;

const REACH: Reach = Reach {
    length: SHORT as u64,
    origin: Origin::End,
    backward: i8::MIN as i64,
    forward: i8::MAX as i64,
    alignment: 1,
};

/// Padding in reach of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) at: u64,
    /// The bytes there now.
    pub(crate) now: [u8; LONG],
}

impl Relay {
    /// The nearest padding of those around that a jump at `site` reaches.
    pub(crate) fn find(site: u64, around: &Around<'_>) -> Result<Self, Refusal> {
        let places = around.paddings.iter().flat_map(|(start, bytes)| {
            let pieces = (*start..).zip(bytes.array_windows::<LONG>());
            pieces.map(|(at, now)| Self { at, now: *now })
        });
        let apart = |place: &Self| place.at >= site + SHORT as u64 || place.at + LONG as u64 <= site;
        let in_reach = |place: &Self| REACH.distance(String::new, site, place.at).is_ok();
        let found = places.filter(|place| apart(place) && in_reach(place));
        found.min_by_key(|place| place.at.abs_diff(site)).ok_or(Refusal::NoPadding { site })
    }

    /// The jump at the site.
    pub(crate) fn entry(&self, site: u64) -> Result<Vec<u8>, Refusal> {
        jumps::short(site, self.at)
    }

    /// What is overwritten in the padding.
    pub(crate) fn jump(&self, island: u64) -> Result<Overwritten, Refusal> {
        let bytes = jumps::branch(self.at, island)?;
        Ok(Overwritten { at: self.at, original: self.now.to_vec(), bytes, is_padding: true })
    }
}
