//! Branches of a function back to its own entry.
//!
//! Whoever goes through the original must stay in it: such a branch would find the entry jump and enter the replacement
//! again on every round. So it is led to the trampoline: one with a distance of 32 bits at once, one of 8 bits by way of
//! a jump in padding that it reaches. Its length stays, so no thread can be inside of what changes.

use iced_x86::Instruction;

use super::decode;
use super::jumps::{self, BRANCH};
use crate::reach::{Need, Origin, Reach};
use crate::site::Overwritten;
use crate::{Around, Refusal};

/// Bytes of the jump in the padding.
const STUB: usize = BRANCH.length as usize;

/// A branch back to the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loop {
    from: u64,
    /// Its bytes now; the distance stands last.
    now: Vec<u8>,
    /// Bytes of the distance.
    distance: usize,
    /// The padding that it is to go to, and the bytes there.
    stub: Option<(u64, [u8; STUB])>,
}

impl Loop {
    /// The branch `instruction` with these bytes; `known` are the loops that were found before, `taken` what else the site
    /// overwrites, address and length.
    pub(crate) fn new(
        instruction: &Instruction,
        bytes: &[u8],
        around: &Around<'_>,
        known: &[Self],
        taken: &[(u64, u64)],
    ) -> Result<Self, Refusal> {
        let (from, to) = (instruction.ip(), instruction.near_branch_target());
        let refused = || Refusal::LoopsToEntry { from, to, text: decode::text(instruction) };
        let mut this = Self { from, now: bytes.to_vec(), distance: 4, stub: None };
        if is_short(instruction) {
            this.distance = 1;
            this.stub = Some(this.find_stub(around, known, taken).ok_or_else(refused)?);
        } else if !(instruction.is_jmp_near() || instruction.is_jcc_near()) {
            return Err(refused());
        }
        Ok(this)
    }

    /// What must reach the trampoline.
    pub(crate) fn need(&self) -> Need {
        match self.stub {
            None => Need::Into { from: self.from, reach: Reach::rel32(self.now.len() as u64) },
            Some((from, _)) => Need::Into { from, reach: BRANCH },
        }
    }

    /// The ranges of addresses that are overwritten.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, usize)> {
        let stub = self.stub.iter().map(|(at, now)| (*at, now.len()));
        std::iter::once((self.from, self.now.len())).chain(stub)
    }

    /// What is overwritten so that it goes to the trampoline.
    pub(crate) fn lead_to(&self, trampoline: u64) -> Result<Vec<Overwritten>, Refusal> {
        let mut all = Vec::new();
        let to = match &self.stub {
            None => trampoline,
            Some((at, now)) => {
                let bytes = jumps::branch(*at, trampoline)?;
                all.push(Overwritten { at: *at, original: now.to_vec(), bytes, is_padding: true });
                *at
            }
        };
        all.push(Overwritten {
            at: self.from,
            original: self.now.clone(),
            bytes: self.to(to)?,
            is_padding: false,
        });
        Ok(all)
    }

    /// The branch with another target, decoded again.
    fn to(&self, to: u64) -> Result<Vec<u8>, Refusal> {
        let text = || format!("the branch at {:#x} to {to:#x}", self.from);
        let distance = self.reach().distance(text, self.from, to)?;
        let mut bytes = self.now.clone();
        let field = bytes.len() - self.distance;
        for (byte, value) in bytes.iter_mut().skip(field).zip(distance.to_le_bytes()) {
            *byte = value;
        }
        let old = decode::one(&self.now, self.from);
        let new = decode::one(&bytes, self.from);
        match (old, new) {
            (Some(old), Some(new)) if new.code() == old.code() && decode::branch_target(&new) == Some(to) => {
                Ok(bytes)
            }
            (_, found) => Err(Refusal::SelfCheck {
                address: self.from,
                text: text(),
                found: found.map_or_else(|| "nothing".to_owned(), |found| decode::text(&found)),
            }),
        }
    }

    fn reach(&self) -> Reach {
        let length = self.now.len() as u64;
        if self.distance == 4 {
            return Reach::rel32(length);
        }
        let (backward, forward) = (i8::MIN.into(), i8::MAX.into());
        Reach { length, origin: Origin::End, backward, forward, alignment: 1 }
    }

    /// Padding in reach: that of another loop, or its own.
    fn find_stub(
        &self,
        around: &Around<'_>,
        known: &[Self],
        taken: &[(u64, u64)],
    ) -> Option<(u64, [u8; STUB])> {
        let in_reach = |at: u64| self.reach().distance(String::new, self.from, at).is_ok();
        let shared = known.iter().filter_map(|other| other.stub).find(|(at, _)| in_reach(*at));
        let is_free = |at: u64| {
            let mut others = known.iter().filter_map(|other| other.stub);
            let apart = |other: u64, len: u64| at + STUB as u64 <= other || other + len <= at;
            others.all(|(other, _)| apart(other, STUB as u64))
                && taken.iter().all(|&(other, len)| apart(other, len))
        };
        let places = around.paddings.iter().flat_map(|(start, bytes)| {
            (*start..).zip(bytes.array_windows::<STUB>()).map(|(at, now)| (at, *now))
        });
        let mut free = places.filter(|(at, _)| in_reach(*at) && is_free(*at));
        shared.or_else(|| free.next())
    }
}

/// Whether its distance has 8 bits. (In any branch it stands last.)
fn is_short(branch: &Instruction) -> bool {
    branch.is_jmp_short()
        || branch.is_jcc_short()
        || branch.is_loop()
        || branch.is_loopcc()
        || branch.is_jcx_short()
}

/// Whether the first bytes of a function look as if a branch of 8 bits went back to its entry or behind a landing pad:
/// paddings around it are of use then.
pub(crate) fn may_loop(bytes: &[u8]) -> bool {
    const FARTHEST: usize = 4 + 130;
    let near = bytes.iter().zip(bytes.iter().skip(1)).take(FARTHEST).enumerate();
    near.into_iter().any(|(at, (code, distance))| {
        let to = at as i64 + 2 + i64::from(distance.cast_signed());
        matches!(code, 0x70..=0x7f | 0xe0..=0xe3 | 0xeb) && (to == 0 || to == 4)
    })
}
