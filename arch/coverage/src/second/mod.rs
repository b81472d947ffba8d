//! A second opinion on a plan, by decoders that midflight does not use: yaxpeax-x86 and disarm64.
//!
//! Nothing here trusts the plan: which instructions are displaced, where they go on and what they refer to is read from
//! the function's own bytes, and the trampoline is followed instruction by instruction. Of the plan's tables only the
//! addresses of the copies are used.

mod aarch64;
#[path = "../../../tests/aarch64/reference.rs"]
mod reference;
mod x86_64;

use std::fmt;
use std::ops::Range;

use midflight_arch::{Around, Form, Function, InstructionSet, Places, SitePlan};

/// Why a plan does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The second decoder does not know an instruction of the function, so it cannot tell.
    Unread(String),
    /// It reads something else than what should be there.
    Wrong(String),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unread(why) | Self::Wrong(why)) = self;
        f.write_str(why)
    }
}

impl From<String> for Doubt {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

impl From<&str> for Doubt {
    fn from(why: &str) -> Self {
        Self::Wrong(why.to_owned())
    }
}

/// Checks that the entry jump gets to the replacement, that each displaced instruction kept its operation, its operands
/// and its absolute targets, that the trampoline goes on behind them, and that nothing else in the function comes to or
/// reads the bytes that are overwritten. The error says what differs, with bytes and addresses.
pub fn verify(
    set: InstructionSet,
    function: &Function<'_>,
    around: &Around<'_>,
    plan: &SitePlan,
    places: &Places,
    replacement: u64,
) -> Result<(), Doubt> {
    let site = Site { function, around, plan, places, replacement };
    let checked = site.original().and_then(|()| Ok(site.others()?)).and_then(|()| match set {
        InstructionSet::X86_64 => x86_64::verify(&site),
        _ => aarch64::verify(&site),
    });
    let with_bytes = |why: String| {
        format!(
            "{} form, site {:#x}: {why}\n    function at {:#x}: {:02x?}\n    behind it: {:02x?}\n    entry: {:02x?}\n    \
             trampoline at {:#x}: {:02x?}\n    copies: {:x?}",
            plan.form,
            plan.site,
            function.address,
            function.bytes.get(..function.bytes.len().min(48)).unwrap_or_default(),
            around.behind.get(..around.behind.len().min(16)).unwrap_or_default(),
            plan.entry,
            places.trampoline,
            plan.trampoline,
            plan.pc_map.entries(),
        )
    };
    checked.map_err(|doubt| match doubt {
        Doubt::Unread(why) => Doubt::Unread(with_bytes(why)),
        Doubt::Wrong(why) => Doubt::Wrong(with_bytes(why)),
    })
}

/// All that belongs to a plan.
struct Site<'a> {
    function: &'a Function<'a>,
    around: &'a Around<'a>,
    plan: &'a SitePlan,
    places: &'a Places,
    replacement: u64,
}

impl Site<'_> {
    /// The bytes that are overwritten are those of the function, and padding behind it.
    fn original(&self) -> Result<(), Doubt> {
        let Self { plan, function, around, .. } = self;
        let start = plan.site.checked_sub(function.address).and_then(|start| usize::try_from(start).ok());
        let own =
            start.and_then(|start| function.bytes.get(start..)).ok_or("the site is not in the function")?;
        let there: Vec<u8> = own.iter().chain(around.behind).copied().take(plan.entry.len()).collect();
        if plan.entry.is_empty() || there != plan.original || plan.original.len() != plan.entry.len() {
            return Err(format!("{:02x?} are not the bytes that were there", plan.original).into());
        }
        let beyond = plan.entry.len().saturating_sub(own.len());
        if beyond > around.padding {
            let padding = around.padding;
            return Err(
                format!("{beyond} bytes behind the function are overwritten, {padding} are padding").into()
            );
        }
        Ok(())
    }

    /// The function's own bytes from the site on.
    fn own(&self) -> &[u8] {
        let start = (self.plan.site - self.function.address) as usize;
        self.function.bytes.get(start..).unwrap_or_default()
    }

    fn overwritten(&self) -> Range<u64> {
        self.plan.site..self.plan.site.saturating_add(self.plan.entry.len() as u64)
    }

    /// Whether an address is among the overwritten bytes, but not the first.
    fn is_inside(&self, address: u64) -> bool {
        address != self.plan.site && self.overwritten().contains(&address)
    }

    /// Whether an address is the entry, or the site behind a landing pad.
    fn is_entry(&self, address: u64) -> bool {
        (self.function.address..=self.plan.site).contains(&address)
    }

    /// Where the copy of a displaced instruction starts.
    fn copy(&self, old: u64) -> Option<u64> {
        self.plan.pc_map.forward(old)
    }

    /// Whether a copy starts there.
    fn is_copy(&self, new: u64) -> bool {
        self.plan.pc_map.entries().iter().any(|&(_, at)| at == new)
    }

    /// Where a jump of a displaced instruction to `old` has to come out: at a copy if the instruction there is gone.
    fn place_of(&self, old: u64) -> Result<u64, String> {
        let is_gone = self.is_inside(old) || self.is_entry(old);
        let old = if self.is_entry(old) { self.plan.site } else { old };
        match self.copy(old) {
            Some(copy) if is_gone => Ok(copy),
            None if is_gone => Err(format!("the instruction at {old:#x} is overwritten and has no copy")),
            _ => Ok(old),
        }
    }

    /// Where a call of a displaced instruction to `to` has to come out. Calls of the function itself go to its
    /// replacement, as all others.
    fn place_of_callee(&self, to: u64) -> Result<u64, String> {
        if self.is_entry(to) { Ok(to) } else { self.place_of(to) }
    }

    /// What else of the function or near it is overwritten: the bytes that were there must be in it, or in padding.
    fn others(&self) -> Result<(), String> {
        let Self { function, around, plan, .. } = self;
        for (index, other) in plan.others.iter().enumerate() {
            let end = other.at.wrapping_add(other.bytes.len() as u64);
            let own = [(function.address, function.bytes)];
            let places = if other.is_padding { around.paddings } else { &own };
            let is_there = places.iter().any(|&(start, bytes)| {
                let offset = other.at.checked_sub(start).and_then(|offset| usize::try_from(offset).ok());
                let there = offset.and_then(|offset| bytes.get(offset..)?.get(..other.bytes.len()));
                there == Some(&other.original)
            });
            expect(is_there, || format!("{:02x?} are not the bytes at {:#x}", other.original, other.at))?;
            let earlier = plan.others.iter().take(index).map(|other| (other.at, other.bytes.len() as u64));
            let overlaps = |(at, length)| at < end && other.at < at + length;
            let apart = !earlier.chain([(plan.site, plan.entry.len() as u64)]).any(overlaps);
            expect(apart, || format!("what is overwritten at {:#x} overlaps something else", other.at))?;
        }
        Ok(())
    }

    /// The new bytes at an address that is overwritten apart from the entry jump.
    fn other(&self, at: u64, is_padding: bool) -> Option<&[u8]> {
        let mut others = self.plan.others.iter();
        others
            .find(|other| other.at == at && other.is_padding == is_padding)
            .map(|other| other.bytes.as_slice())
    }

    /// Bytes of the trampoline from an address on.
    fn trampoline(&self, address: u64) -> Option<&[u8]> {
        let offset = usize::try_from(address.checked_sub(self.places.trampoline)?).ok()?;
        self.plan.trampoline.get(offset..).filter(|bytes| !bytes.is_empty())
    }

    /// An address that stands in the trampoline.
    fn constant(&self, address: u64) -> Option<u64> {
        let bytes = self.trampoline(address)?.get(..8)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    /// Whether control that comes to `from` gets to `to` by nothing but jumps within the trampoline; `jump` says where the
    /// one at an address goes. An instruction that begins a copy is no such jump.
    fn reaches(&self, from: u64, to: u64, jump: impl Fn(u64) -> Option<u64>) -> Result<(), String> {
        let end = self.settles(from, |address| jump(address).filter(|_| address != to));
        expect(end == to, || format!("from {from:#x} it goes to {end:#x}, not to {to:#x}"))
    }

    /// Where control that comes to `from` gets to by such jumps.
    fn settles(&self, from: u64, jump: impl Fn(u64) -> Option<u64>) -> u64 {
        let mut at = from;
        for _ in 0..4 {
            match jump(at).filter(|_| !self.is_copy(at)) {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }
}

fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// The form's goal: what the entry jump itself has to get to.
fn goal(site: &Site<'_>) -> u64 {
    match site.plan.form {
        Form::Direct => site.replacement,
        Form::Slot => site.places.slot,
        _ => site.places.island,
    }
}
