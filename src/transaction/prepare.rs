//! From changes to work: everything that can fail, done before a thread is held.

use super::registry::Registry;
use super::site::{OriginalCell, Site, Standing, Work};
use super::{Change, HOST, running};
use crate::arch::{self, Form, Function, Measure};
use crate::error::Error;
use crate::memory::{NearBlock, publish};
use crate::plan::{self, Need, NoForm, Occupied};
use crate::process::{MemoryMap, Target};
use crate::sys::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often a gap may be taken by somebody else before the search for near memory is given up.
const TRIES: usize = 32;

/// A target that has no site yet.
struct NewSite<'a> {
    change: &'a Change,
    measure: Measure,
    form: Form,
}

/// Makes sure that each change has a site in the registry, publishes the originals, and says what to write.
/// Answers what will stand at each change's site.
pub(super) fn prepare(
    changes: &[Change],
    registry: &mut Registry,
    map: &MemoryMap,
) -> Result<(Work, Vec<Standing>), Error> {
    check_changes(changes.iter().map(|change| (&*change.target.target, Some(change.replacement))), map)?;
    check_originals(changes, registry)?;
    running::check(changes.iter().map(|change| &*change.target.target), registry, map)?;
    let new = new_sites(changes, registry)?;
    check_overlaps(changes, &new, registry)?;
    if !new.is_empty() {
        place(&new, registry)?;
    }
    let mut work = Work::default();
    let mut standing = Vec::with_capacity(changes.len());
    for change in changes {
        let target = &change.target.target;
        let Some(site) = registry.sites.get(&target.address) else { continue };
        standing.push(site.put_on(change.replacement, &mut work)?);
        if let Some(cell) = change.original.get() {
            publish(cell, site.original_of_next());
        }
    }
    work.dangers.sort_by_key(|danger| danger.range.start);
    Ok((work, standing))
}

/// Measures a target for a replacement at `replacement`, or at an unknown place.
pub(super) fn measure(target: &Target, replacement: Option<u64>) -> Result<(Measure, Form), Error> {
    let measure = arch::measure(
        HOST,
        &Function { address: target.address, bytes: &target.bytes, guarded: target.guarded },
    );
    let (name, address) = (target.name.clone(), target.address);
    match plan::choose(&measure, replacement, &target.inner) {
        Ok(form) => Ok((measure, form)),
        Err(NoForm::Refused(refusal)) => Err(Error::Refused { target: name, address, refusal }),
        Err(NoForm::EnteredAt(other_address)) => {
            let other = "another symbol inside it".to_owned();
            Err(Error::Overlap { target: name, address, other, other_address })
        }
    }
}

/// What is wrong with the changes as such.
pub(super) fn check_changes<'c>(
    changes: impl Iterator<Item = (&'c Target, Option<u64>)>,
    map: &MemoryMap,
) -> Result<(), Error> {
    let mut seen: BTreeMap<u64, &str> = BTreeMap::new();
    for (target, replacement) in changes {
        if let Some(other) = seen.insert(target.address, &target.name) {
            let (address, other) = (target.address, other.to_owned());
            return Err(Error::DuplicateTarget { target: target.name.clone(), address, other });
        }
        replacement.map_or(Ok(()), |replacement| check_replacement(target, replacement, map))?;
    }
    Ok(())
}

fn check_replacement(target: &Target, address: u64, map: &MemoryMap) -> Result<(), Error> {
    let not_code =
        |found: String| Err(Error::ReplacementNotCode { target: target.name.clone(), address, found });
    match map.at(address)? {
        None => not_code("nothing is mapped there".into()),
        Some(mapping) if !mapping.executable => {
            let name = map.named_at(address)?.map_or("", |mapping| mapping.name.as_str());
            not_code(format!("{name} mapped {}", mapping.protection()).trim_start().to_owned())
        }
        Some(_) if address == target.address => not_code("the target itself".into()),
        Some(_) => Ok(()),
    }
}

/// An original serves one layer: another one's would be lost.
fn check_originals(changes: &[Change], registry: &Registry) -> Result<(), Error> {
    if changes.iter().all(|change| change.original.get().is_none()) {
        return Ok(());
    }
    let mut seen: BTreeMap<u64, &str> = registry.used_cells();
    for change in changes {
        let target = &change.target.target.name;
        let Some(cell) = change.original.get().map(|cell| cell.as_ptr() as u64) else { continue };
        if let Some(other) = seen.insert(cell, target) {
            return Err(Error::OriginalInUse { target: target.clone(), other: other.to_owned() });
        }
    }
    Ok(())
}

fn new_sites<'a>(changes: &'a [Change], registry: &Registry) -> Result<Vec<NewSite<'a>>, Error> {
    let has_site = |target: &Target| {
        registry.sites.get(&target.address).is_some_and(|site| site.is_on() || site.serves(target))
    };
    let without = changes.iter().filter(|change| !has_site(&change.target.target));
    without
        .map(|change| {
            let (measure, form) = measure(&change.target.target, Some(change.replacement))?;
            Ok(NewSite { change, measure, form })
        })
        .collect()
}

/// Sites that are to be on must lie apart: new ones, those that were on before, and those that are on.
fn check_overlaps(changes: &[Change], new: &[NewSite<'_>], registry: &Registry) -> Result<(), Error> {
    let fresh = new.iter().map(|site| {
        let overwritten = site.measure.usable(site.form).map_or(0, |displaced| displaced.overwritten);
        (&site.change.target.target, site.measure.site(), overwritten as u64)
    });
    let is_new = |address| new.iter().any(|site| site.change.target.target.address == address);
    let known = changes.iter().map(|change| &change.target.target).filter(|target| !is_new(target.address));
    let dormant = known.filter_map(|target| {
        let (start, bytes) = registry.sites.get(&target.address).filter(|site| !site.is_on())?.bytes_now();
        Some((target, start, bytes.len() as u64))
    });
    let all: Vec<_> = fresh.chain(dormant).collect();
    let sites = all.iter().enumerate().map(|(number, (_, start, len))| (number, *start, *len));
    if let Some((one, other)) =
        plan::overlap(sites).and_then(|(one, other)| Some((all.get(one)?, all.get(other)?)))
    {
        let (target, address, other, other_address) =
            (other.0.name.clone(), other.1, one.0.name.clone(), one.1);
        return Err(Error::Overlap { target, address, other, other_address });
    }
    for (target, address, len) in all {
        if let Some(other) = registry.overlapping(target.address, address, len) {
            let (target, other_address) = (target.name.clone(), other.bytes_now().0);
            return Err(Error::Overlap { target, address, other: other.target.name.clone(), other_address });
        }
    }
    Ok(())
}

/// Maps near memory for the new sites, writes trampolines and islands, and enters the sites.
fn place(new: &[NewSite<'_>], registry: &mut Registry) -> Result<(), Error> {
    let needs: Vec<Need<'_>> =
        new.iter().map(|site| Need { measure: &site.measure, form: site.form }).collect();
    let no_memory = |number: usize, window: String| match new.get(number) {
        Some(site) => Error::NoNearMemory {
            target: site.change.target.target.name.clone(),
            address: site.measure.site(),
            window,
        },
        None => kernel("find near memory", Errno(libc::ENOMEM)),
    };
    let groups = plan::group(HOST, &needs).map_err(|number| no_memory(number, "any address".into()))?;
    for group in &groups {
        let first = group.members.first().copied().unwrap_or_default();
        let window = format!("{:#x}..{:#x}", group.window.start(), group.window.end());
        let mut block = map_block(group)?.ok_or_else(|| no_memory(first, window))?;
        let places = plan::lay_out(HOST, group, &needs, block.start());
        let mut sites = Vec::with_capacity(places.len());
        for (number, places) in group.members.iter().zip(&places) {
            let Some(new) = new.get(*number) else { continue };
            let target = &new.change.target.target;
            let plan =
                arch::encode(&new.measure, new.form, places, new.change.replacement).map_err(|refusal| {
                    Error::Refused { target: target.name.clone(), address: target.address, refusal }
                })?;
            block.write_code(places.trampoline, &plan.trampoline);
            block.write_code(places.island, &plan.island);
            sites.push(Site::new(Arc::clone(target), plan, places, block.slot(places.slot)));
        }
        block.seal().map_err(|errno| kernel("make trampolines executable", errno))?;
        registry.sites.extend(sites.into_iter().map(|site| (site.target.address, site)));
    }
    Ok(())
}

/// Maps a block where the group wants it. A gap that somebody takes meanwhile means looking again.
fn map_block(group: &plan::Group) -> Result<Option<NearBlock>, Error> {
    let len = group.code + group.data;
    // What is taken without standing in the map, as an emulator's own memory, is passed over in longer and longer steps.
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for _ in 0..TRIES {
        let now = MemoryMap::read()?;
        let mappings = now.all()?.iter().map(|one| (one.range.start, one.range.end, one.name.as_str()));
        let occupied = Occupied::new(HOST, mappings).and(&taken);
        let Some(start) = occupied.find(&group.window, len, group.near) else {
            return Ok(None);
        };
        match NearBlock::map(start, group.code, group.data) {
            Ok(block) => return Ok(Some(block)),
            Err(Errno(libc::EEXIST)) => {
                let step = len << (taken.len() / 2).min(8);
                taken.push((start.saturating_sub(step), start.saturating_add(step)));
            }
            Err(errno) => return Err(kernel("map near memory", errno)),
        }
    }
    Ok(None)
}

pub(super) fn kernel(step: &'static str, errno: Errno) -> Error {
    Error::Kernel { step, source: errno.into() }
}

impl OriginalCell {
    /// A static cell.
    ///
    /// # Safety
    /// `address` is that of eight aligned bytes that live for ever and are used by atomic operations only.
    pub(crate) unsafe fn at(address: u64) -> Self {
        // SAFETY: the caller's promise.
        Self::Static(unsafe { std::sync::atomic::AtomicU64::from_ptr(address as *mut u64) })
    }
}
