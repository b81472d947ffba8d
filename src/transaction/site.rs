//! A site that exists: its trampoline, island and slot, the layers on it, and what has to be written to
//! put a layer on or take it off. Knows what to write, writes nothing.

use crate::arch::{self, Form, Overwritten, SitePlan};
use crate::error::Error;
use crate::memory::{CodeChange, PointerChange};
use crate::process::{ModuleHold, Target};
use crate::threads::Danger;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A cell that holds an original: of a static in the host or a patch library, or of a handle.
#[derive(Debug, Clone)]
pub(crate) enum OriginalCell {
    /// Nobody wants the original.
    None,
    /// A static, or memory of a library that is never unloaded.
    Static(&'static AtomicU64),
    /// Of a handle. Kept by the layer, so that the cell lives as long as somebody may write it.
    Shared(Arc<AtomicU64>),
}

impl OriginalCell {
    pub(super) fn get(&self) -> Option<&AtomicU64> {
        match self {
            Self::None => None,
            Self::Static(cell) => Some(cell),
            Self::Shared(cell) => Some(cell),
        }
    }
}

/// A replacement on a site.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) entry: u64,
    pub(super) replacement: u64,
    pub(super) original: OriginalCell,
}

/// Code and data of one target, for ever: trampolines are not unmapped.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) target: Arc<Target>,
    /// While a layer is on.
    pub(super) hold: Option<Arc<ModuleHold>>,
    plan: SitePlan,
    /// Run-time addresses.
    trampoline: u64,
    island: u64,
    slot: &'static AtomicU64,
    /// What stands at the site now; the form is the plan's while nothing is on.
    now: Standing,
    /// Oldest first.
    pub(super) layers: Vec<Layer>,
}

/// What stands at a site: the form, and its bytes.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) form: Form,
    bytes: Vec<u8>,
}

/// Everything that a transaction writes, and what to look out for.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) code: Vec<CodeChange>,
    /// Slots that nothing goes through before the code changes.
    pub(super) ahead: Vec<PointerChange>,
    /// Pointers that switch something.
    pub(super) pointers: Vec<PointerChange>,
    pub(super) dangers: Vec<Danger>,
    /// How many of the changes of code one store each is not enough for.
    slow: usize,
}

impl Work {
    /// The pointer that is all there is to switch.
    pub(super) fn is_one_pointer(&self) -> bool {
        self.code.is_empty() && self.pointers.len() <= 1
    }

    /// The change of code that one store makes, while threads run, if it is all there is to switch.
    pub(super) fn at_once(&self) -> Option<&CodeChange> {
        match self.code.as_slice() {
            [one] if self.slow == 0 && self.pointers.is_empty() => Some(one),
            _ => None,
        }
    }

    /// All pointers, for when nobody runs.
    pub(super) fn all_pointers(&self) -> Vec<PointerChange> {
        [&self.ahead[..], &self.pointers].concat()
    }

    fn change(&mut self, change: CodeChange, at_once: bool) {
        self.slow += usize::from(!at_once);
        self.code.push(change);
    }
}

impl Site {
    /// What a site has of the program outside of its function lies no farther from the first byte than this: padding
    /// within reach of two jumps of two bytes, one after the other.
    pub(super) const FARTHEST: u64 = 300;

    /// A new site; `places` are those that `plan` was encoded for.
    pub(super) fn new(
        target: Arc<Target>,
        plan: SitePlan,
        places: &arch::Places,
        slot: &'static AtomicU64,
    ) -> Self {
        let now = Standing { form: plan.form, bytes: plan.original.clone() };
        let (trampoline, island) = (places.trampoline, places.island);
        Self { target, hold: None, plan, trampoline, island, slot, now, layers: Vec::new() }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.layers.is_empty()
    }

    /// What it looks like now.
    pub(super) fn form(&self) -> Form {
        self.now.form
    }

    /// Can it serve `target` again?
    pub(super) fn serves(&self, target: &Target) -> bool {
        self.target.address == target.address
            && self.target.bytes == target.bytes
            && self.target.guarded == target.guarded
    }

    /// The bytes of the program that are its own while it is on: it overwrites them, or needs them as they are.
    pub(super) fn claims(&self) -> impl Iterator<Item = Range<u64>> {
        let (site, others) = (self.plan.site, self.plan.others.iter());
        let others = others.map(|other| other.at..other.at + other.bytes.len() as u64);
        std::iter::once(site..site + self.plan.kept() as u64).chain(others)
    }

    /// Are some of these bytes its own?
    pub(super) fn touches(&self, bytes: &Range<u64>) -> bool {
        self.claims().any(|own| own.start < bytes.end && bytes.start < own.end)
    }

    /// Address and content of the overwritten bytes as they should be now.
    pub(super) fn bytes_now(&self) -> (u64, &[u8]) {
        (self.plan.site, &self.now.bytes)
    }

    /// Address and content of everything it has overwritten as it should be now.
    pub(super) fn pieces_now(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let others = self.plan.others.iter();
        let others =
            others.map(|other| (other.at, if self.is_on() { &*other.bytes } else { &*other.original }));
        std::iter::once(self.bytes_now()).chain(others)
    }

    /// Address and content of the bytes of the program that it needs as they are, as long as it is off.
    pub(super) fn needs(&self) -> (u64, &[u8]) {
        (self.plan.site, self.plan.needs())
    }

    /// Can it serve a commit that holds nobody?
    pub(super) fn changes_at_once(&self) -> bool {
        self.is_on() || self.plan.changes_at_once
    }

    /// What the original of the layer at `place` is: what was below it, or the trampoline.
    fn below(&self, place: usize) -> u64 {
        let below = place.checked_sub(1).and_then(|place| self.layers.get(place));
        below.map_or(self.trampoline, |layer| layer.replacement)
    }

    /// The original of a layer that is put on top.
    pub(super) fn original_of_next(&self) -> u64 {
        self.below(self.layers.len())
    }

    /// Notes in `work` what puts `replacement` on top, and answers what stands at the site then.
    pub(super) fn put_on(&self, replacement: u64, work: &mut Work) -> Result<Standing, Error> {
        if self.is_on() && self.now.form != Form::Direct {
            work.pointers.push(PointerChange { cell: self.slot.as_ptr() as u64, value: replacement });
            return Ok(self.now.clone());
        }
        let form = match self.plan.form {
            Form::Direct | Form::Island => self.direct_or_island(replacement),
            fixed => fixed,
        };
        let bytes = self.entry_jump(form, replacement)?;
        work.ahead.push(PointerChange { cell: self.slot.as_ptr() as u64, value: replacement });
        let (old, new) = (self.now.bytes.clone(), bytes.clone());
        // Inside a jump that is on, a thread stands before its last instruction, and runs that of the new one.
        if self.is_on() {
            work.change(self.change(old, new), self.plan.reverts_at_once);
        } else {
            work.change(self.change(old, new), self.plan.changes_at_once);
            work.dangers.extend(self.plan.has_inside.then(|| self.danger()));
            for Overwritten { at, original, bytes, .. } in &self.plan.others {
                work.change(self.change_at(*at, original.clone(), bytes.clone()), false);
            }
        }
        Ok(Standing { form, bytes })
    }

    /// Notes in `work` what takes the layer of `entry` off, and answers what stands at the site then.
    pub(super) fn take_off(&self, entry: u64, work: &mut Work) -> Result<Standing, Error> {
        let Some(place) = self.layers.iter().position(|layer| layer.entry == entry) else {
            return Ok(self.now.clone());
        };
        if let Some(above) = self.layers.get(place + 1) {
            if let Some(cell) = above.original.get() {
                work.pointers.push(PointerChange { cell: cell.as_ptr() as u64, value: self.below(place) });
            }
            return Ok(self.now.clone());
        }
        let Some(below) = place.checked_sub(1).and_then(|below| self.layers.get(below)) else {
            let (old, bytes) = (self.now.bytes.clone(), self.plan.original.clone());
            work.change(self.change(old, bytes.clone()), self.plan.reverts_at_once);
            work.dangers.extend(self.danger_of_jump());
            for Overwritten { at, original, bytes, is_padding } in &self.plan.others {
                work.change(self.change_at(*at, bytes.clone(), original.clone()), false);
                // A thread that is on its way through padding has done nothing yet; it begins at the entry.
                let range = *at..*at + bytes.len() as u64;
                let moves = vec![(*at, self.plan.site)];
                work.dangers.extend(is_padding.then_some(Danger { range, moves }));
            }
            return Ok(Standing { form: self.plan.form, bytes });
        };
        let slot = PointerChange { cell: self.slot.as_ptr() as u64, value: below.replacement };
        if self.now.form == Form::Direct {
            work.ahead.push(slot);
            let form = self.direct_or_island(below.replacement);
            let bytes = self.entry_jump(form, below.replacement)?;
            let (old, new) = (self.now.bytes.clone(), bytes.clone());
            work.change(self.change(old, new), self.plan.reverts_at_once);
            return Ok(Standing { form, bytes });
        }
        work.pointers.push(slot);
        Ok(self.now.clone())
    }

    /// After a commit: the layer is on, and this stands at the site. The hold on the module that was there before is
    /// handed out, to be dropped where the registry is not locked.
    pub(super) fn is_put_on(
        &mut self,
        layer: Layer,
        now: Standing,
        hold: Arc<ModuleHold>,
    ) -> Option<Arc<ModuleHold>> {
        self.now = now;
        self.layers.push(layer);
        self.hold.replace(hold)
    }

    /// After a commit: the layer of `entry` is off, and this stands at the site. What kept the module loaded is
    /// handed out when nothing is on any more, to be dropped where no lock is held.
    pub(super) fn is_taken_off(&mut self, entry: u64, now: Standing) -> Option<Arc<ModuleHold>> {
        self.layers.retain(|layer| layer.entry != entry);
        self.now = now;
        if self.is_on() { None } else { self.hold.take() }
    }

    fn entry_jump(&self, form: Form, replacement: u64) -> Result<Vec<u8>, Error> {
        let to = match form {
            Form::Direct => replacement,
            Form::Slot => self.slot.as_ptr() as u64,
            _ => self.island,
        };
        self.plan.entry_jump(form, to).map_err(|refusal| Error::Refused {
            target: self.target.name.clone(),
            address: self.target.address,
            refusal,
        })
    }

    /// Where a thread must not stand while the last layer is taken off.
    fn danger_of_jump(&self) -> Option<Danger> {
        let (inside, entry) = self.plan.pc_map.inside_jump()?;
        let end = self.plan.site + self.now.bytes.len() as u64;
        Some(Danger { range: inside..end, moves: vec![(inside, entry)] })
    }

    fn direct_or_island(&self, replacement: u64) -> Form {
        match self.plan.entry_jump(Form::Direct, replacement) {
            Ok(_) => Form::Direct,
            Err(_) => Form::Island,
        }
    }

    fn change(&self, old: Vec<u8>, new: Vec<u8>) -> CodeChange {
        self.change_at(self.plan.site, old, new)
    }

    fn change_at(&self, address: u64, old: Vec<u8>, new: Vec<u8>) -> CodeChange {
        CodeChange { address, old, new, guarded: self.target.guarded }
    }

    /// Where a thread must not stand while the first layer is put on.
    fn danger(&self) -> Danger {
        let (site, len) = (self.plan.site, self.plan.original.len() as u64);
        let map = &self.plan.pc_map;
        let first = if map.inside(site) { site } else { site + 1 };
        // Of a loop that begins at the site, all words.
        let last = map.entries().iter().map(|&(old, _)| old).filter(|old| map.inside(*old)).max();
        let end = last.map_or(site + len, |last| (last + 1).max(site + len));
        let moves = map.entries().iter().copied();
        Danger { range: first..end, moves: moves.filter(|(old, _)| *old >= first && *old < end).collect() }
    }
}
