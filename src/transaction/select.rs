//! Which form each new site gets: the best that fits between other sites and for which there is memory.

use super::registry::Registry;
use super::{HOST, running};
use crate::arch::{self, Around, Form, Function, Measure, Refusal};
use crate::error::Error;
use crate::options::Hold;
use crate::plan::{Claims, Occupied, PUN_PAGE, PunPages, apart};
use crate::process::{MemoryMap, Surroundings, Target};
use crate::sys::{self, Errno};
use std::ops::Range;

/// What was selected for a target.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) measure: Measure,
    pub(super) form: Form,
    /// Where the island is, if a jump says so.
    pub(super) island: Option<u64>,
    /// Better forms, and why they were not taken.
    pub(super) passed_over: Vec<(Form, Refusal)>,
    /// Forms that are left if there is no memory for this one.
    left: Vec<Form>,
}

/// Selects forms, one target after the other.
#[derive(Debug)]
pub(super) struct Selector<'r> {
    registry: &'r Registry,
    hold: Hold,
    /// Are returns compared with a shadow stack?
    shadow_stack: bool,
    /// May islands be added to pages that hold some?
    share: bool,
    /// As they will be.
    puns: PunPages,
    /// Memory that turned out to be taken, start to end.
    taken: Vec<(u64, u64)>,
    /// Bytes of the sites selected so far, and the addresses and names of their targets.
    claims: Claims<(u64, String)>,
    /// Read when it is needed.
    occupied: Option<Occupied>,
}

impl<'r> Selector<'r> {
    /// `failed` are the pages for islands that could not be had before, and why.
    pub(super) fn new(registry: &'r Registry, hold: Hold, failed: &[(u64, Errno)]) -> Self {
        let (puns, claims, occupied) = (registry.puns.clone(), Claims::new(), None);
        let shadow_stack = sys::has_shadow_stack();
        // A page that islands are on already is refused where memory may not be writable and executable.
        let share = failed.iter().all(|(page, _)| !puns.has_page(*page));
        let taken = failed.iter().map(|(page, _)| (*page, page + PUN_PAGE)).collect();
        Self { registry, hold, shadow_stack, share, puns, taken, claims, occupied }
    }

    /// The pages of punned islands that there are.
    pub(super) fn known_puns(&self) -> &PunPages {
        &self.registry.puns
    }

    /// Pages that are yet to be mapped, and memory that turned out to be taken.
    pub(super) fn reserved(&self) -> Vec<(u64, u64)> {
        let new = self.puns.new_since(&self.registry.puns);
        new.into_iter().chain(self.taken.iter().copied()).collect()
    }

    /// The pages of punned islands as they will be.
    pub(super) fn into_puns(self) -> PunPages {
        self.puns
    }

    /// The form for a replacement at `replacement`, or at an unknown place.
    pub(super) fn select(&mut self, target: &Target, replacement: Option<u64>) -> Result<Selected, Error> {
        let measure = self.measure(target);
        let choice = arch::choose(&measure, replacement, &target.inner);
        let cannot = choice.refusal().cloned();
        let mut refused = choice.refused;
        let (mut conflict, mut needs_hold) = (None, false);
        let mut forms = choice.forms.into_iter();
        while let Some(form) = forms.next() {
            if self.hold == Hold::Never && !measure.changes_at_once(form) {
                needs_hold = true;
                continue;
            }
            let claims = claims(&measure, form);
            if let Some(found) = claims.iter().find_map(|bytes| self.conflict(target, bytes)) {
                conflict.get_or_insert(found);
                continue;
            }
            let island = if form == Form::Punned {
                match self.place_of_pun(&measure, target)? {
                    Ok(island) => Some(island),
                    Err(refusal) => {
                        refused.push((form, refusal));
                        continue;
                    }
                }
            } else {
                None
            };
            for bytes in claims {
                self.claims.add(bytes, owner(target));
            }
            let may = |form: &Form| self.hold != Hold::Never || measure.changes_at_once(*form);
            let left = forms.filter(may).collect();
            let passed_over = refused.into_iter().filter(|(other, _)| *other < form).collect();
            return Ok(Selected { measure, form, island, passed_over, left });
        }
        let cannot = cannot.or_else(|| refused.pop().map(|(_, why)| why)).filter(|_| !needs_hold);
        Err(nothing_left(target, &measure, conflict, cannot))
    }

    /// Gives a site whose form found no memory in reach the form that needs none.
    pub(super) fn without_near_memory(&mut self, target: &Target, selected: &mut Selected) -> bool {
        let form = Form::Absolute;
        let claims = claims(&selected.measure, form);
        let is_own = |(_, owner): (u64, &(u64, String))| owner.0 == target.address;
        let is_free = |bytes: &Range<u64>| {
            self.claims.owner(bytes).is_none_or(is_own) && self.others(target, bytes).is_none()
        };
        let fits = selected.left.contains(&form) && claims.iter().all(is_free);
        if fits {
            claims.into_iter().for_each(|bytes| self.claims.add(bytes, owner(target)));
            if let Some(island) = selected.island.take() {
                self.puns.give_back(island, &self.registry.puns);
            }
            selected.form = form;
        }
        fits
    }

    /// Claims the bytes of a site that there is already, and is to be on again.
    pub(super) fn claim(&mut self, target: &Target, bytes: Range<u64>) -> Result<(), Error> {
        if let Some((other, other_address)) = self.conflict(target, &bytes) {
            let (target, address) = (target.name.clone(), bytes.start);
            return Err(Error::Overlap { target, address, other, other_address });
        }
        self.claims.add(bytes, owner(target));
        Ok(())
    }

    fn measure(&self, target: &Target) -> Measure {
        let (address, guarded) = (target.address, target.guarded);
        let Surroundings { behind, free, gaps } = &target.surroundings;
        let end = address + target.bytes.len() as u64;
        let mut paddings = Vec::new();
        for (start, bytes) in gaps {
            paddings.extend(self.free_padding(*start, bytes));
        }
        let own = self.free_padding(end, behind.get(..*free).unwrap_or_default());
        let padding = own.iter().find(|(start, _)| *start == end).map_or(0, |(_, bytes)| bytes.len());
        let around = Around { behind, padding, paddings: &paddings, shadow_stack: self.shadow_stack };
        arch::measure_in(HOST, &Function { address, bytes: &target.bytes, guarded }, &around)
    }

    /// The parts of a gap that are padding and of no other site.
    fn free_padding<'b>(&self, start: u64, gap: &'b [u8]) -> Vec<(u64, &'b [u8])> {
        // What else stands in a gap may begin with its last NOP.
        let gap = if arch::padding(HOST, gap) == gap.len() { gap } else { &[] };
        let all = start..start + gap.len() as u64;
        let others = self.registry.near(start).flat_map(|site| site.claims());
        let free = apart(all.clone(), others.chain(self.claims.within(all)));
        let part = |part: Range<u64>| {
            let bytes = gap.get((part.start - start) as usize..(part.end - start) as usize)?;
            Some((part.start, bytes))
        };
        free.into_iter().filter_map(part).collect()
    }

    /// Who has some of these bytes: the name of the target, and the first of its bytes.
    fn conflict(&self, target: &Target, bytes: &Range<u64>) -> Option<(String, u64)> {
        let own = self.claims.owner(bytes).map(|(start, owner)| (owner.1.clone(), start));
        own.or_else(|| self.others(target, bytes))
    }

    /// As above, among the sites that are on.
    fn others(&self, target: &Target, bytes: &Range<u64>) -> Option<(String, u64)> {
        let other = self.registry.overlapping(target.address, bytes)?;
        Some((other.target.name.clone(), other.bytes_now().0))
    }

    /// Room for the island of a punned jump.
    fn place_of_pun(&mut self, measure: &Measure, target: &Target) -> Result<Result<u64, Refusal>, Error> {
        let site = measure.site();
        let Some(places) = measure.pun_places() else {
            return Ok(Err(Refusal::NoSuchForm { set: HOST, form: Form::Punned }));
        };
        self.check_kept(measure, target)?;
        let occupied = match &mut self.occupied {
            Some(occupied) => occupied,
            none => none.insert(free_memory()?.and(&self.taken)),
        };
        let room = arch::island_room(HOST) as u64;
        let (low, high) = (*places.start(), *places.end());
        // A page that islands are on already is writable and executable while another is added.
        let share = self.share && self.hold != Hold::Always;
        Ok(self.puns.take(&places, room, occupied, share).ok_or(Refusal::NoIslandPlace { site, low, high }))
    }

    /// The bytes behind those of a punned jump that are written must be what they are in the file, and are not
    /// looked at again.
    fn check_kept(&self, measure: &Measure, target: &Target) -> Result<(), Error> {
        let site = measure.site();
        let known = target.bytes.iter().chain(&target.surroundings.behind).copied();
        let from = (site - target.address) as usize;
        let expected: Vec<u8> = known.skip(from).take(measure.kept(Form::Punned)).collect();
        running::check_bytes(target, site, &expected)
    }
}

/// Why a target gets no site.
fn nothing_left(
    target: &Target,
    measure: &Measure,
    conflict: Option<(String, u64)>,
    refusal: Option<Refusal>,
) -> Error {
    let (name, address) = (target.name.clone(), target.address);
    match (conflict, refusal) {
        (Some((other, other_address)), _) => {
            Error::Overlap { target: name, address: measure.site(), other, other_address }
        }
        (None, Some(Refusal::EnteredAt { address: other_address, .. })) => {
            let other = "another entrance".to_owned();
            Error::Overlap { target: name, address, other, other_address }
        }
        (None, Some(refusal)) => Error::Refused { target: name, address, refusal },
        (None, None) => Error::NeedsHold { target: name, address },
    }
}

fn owner(target: &Target) -> (u64, String) {
    (target.address, target.name.clone())
}

/// The bytes that a site of this form takes up.
fn claims(measure: &Measure, form: Form) -> Vec<Range<u64>> {
    let site = measure.site();
    let others = measure.overwrites_too(form).into_iter().map(|(at, len)| at..at + len as u64);
    std::iter::once(site..site + measure.kept(form) as u64).chain(others).collect()
}

fn free_memory() -> Result<Occupied, Error> {
    let now = MemoryMap::read()?;
    let mappings = now.all()?.iter().map(|one| (one.range.start, one.range.end, one.name.as_str()));
    Ok(Occupied::new(HOST, mappings))
}
