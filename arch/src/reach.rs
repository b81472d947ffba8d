//! Kinds of jump as data: how long, how far, how aligned.

use std::ops::RangeInclusive;

use crate::Refusal;

/// What a distance is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The first byte of the instruction (aarch64).
    Start,
    /// The first byte after it (x86).
    End,
}

/// How far one kind of instruction reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Bytes of the instruction.
    pub(crate) length: u64,
    pub(crate) origin: Origin,
    /// The smallest and the largest distance that can be encoded.
    pub(crate) backward: i64,
    pub(crate) forward: i64,
    /// Distances are multiples of this.
    pub(crate) alignment: u64,
}

impl Reach {
    /// A signed 32-bit distance from the end of an x86 instruction of `length` bytes.
    pub(crate) const fn rel32(length: u64) -> Self {
        Self {
            length,
            origin: Origin::End,
            backward: i32::MIN as i64,
            forward: i32::MAX as i64,
            alignment: 1,
        }
    }

    /// A signed distance of `bits` bits in units of `unit` bytes from the start of an aarch64 word.
    pub(crate) const fn word(bits: u32, unit: u64) -> Self {
        let half = (1i64 << (bits - 1)) * unit as i64;
        Self {
            length: 4,
            origin: Origin::Start,
            backward: -half,
            forward: half - unit as i64,
            alignment: unit,
        }
    }

    /// The distance that an instruction at `from` needs for `to`, or why it cannot have it.
    /// `text` is what an error calls the instruction.
    pub(crate) fn distance(&self, text: impl Fn() -> String, from: u64, to: u64) -> Result<i64, Refusal> {
        let distance = i128::from(to) - self.base(from);
        if distance.rem_euclid(i128::from(self.alignment)) != 0 {
            return Err(Refusal::Misaligned {
                what: format!("the distance of `{}`", text()),
                address: to,
                alignment: self.alignment,
            });
        }
        match i64::try_from(distance) {
            Ok(d) if (self.backward..=self.forward).contains(&d) => Ok(d),
            _ => Err(Refusal::OutOfReach {
                text: text(),
                from,
                to,
                distance,
                backward: self.backward,
                forward: self.forward,
            }),
        }
    }

    fn base(&self, from: u64) -> i128 {
        i128::from(from) + self.lead()
    }

    /// From the address of the instruction to what its distance is counted from.
    fn lead(&self) -> i128 {
        match self.origin {
            Origin::Start => 0,
            Origin::End => i128::from(self.length),
        }
    }
}

/// Something that must be in range of a near block of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// An instruction at `from` reaches any byte of the block.
    Into { from: u64, reach: Reach },
    /// An instruction anywhere in the block reaches `to`.
    OutOf { to: u64, reach: Reach },
}

/// Where a block of `len` bytes may start so that all of `needs` hold.
pub(crate) fn window(needs: impl IntoIterator<Item = Need>, len: u64) -> Option<RangeInclusive<u64>> {
    let len = i128::from(len.max(1));
    let mut low = 0i128;
    // The last byte of the block is an address as well.
    let mut high = i128::from(u64::MAX) - (len - 1);
    for need in needs {
        let (least, most) = match need {
            Need::Into { from, reach } => {
                let base = reach.base(from);
                let last = base + i128::from(reach.forward) + i128::from(reach.alignment - 1);
                (base + i128::from(reach.backward), last - (len - 1))
            }
            Need::OutOf { to, reach } => {
                let to = i128::from(to);
                // The instruction starts at the block's first byte, or ends with its last.
                let end = (len - i128::from(reach.length)).max(0) + reach.lead();
                (to - i128::from(reach.forward) - reach.lead(), to - i128::from(reach.backward) - end)
            }
        };
        low = low.max(least);
        high = high.min(most);
    }
    if low > high {
        return None;
    }
    Some(u64::try_from(low).ok()?..=u64::try_from(high).ok()?)
}
