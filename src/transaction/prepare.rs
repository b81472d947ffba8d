//! From changes to work: everything that can fail, done before a thread is held.

use super::place::{self, NewSite};
use super::registry::Registry;
use super::select::Selector;
use super::site::{OriginalCell, Standing, Work};
use super::{Change, running};
use crate::error::Error;
use crate::memory::publish;
use crate::options::Hold;
use crate::process::{MemoryMap, Target};
use crate::sys::Errno;
use std::collections::BTreeMap;

/// How often other places for islands are looked for.
const TRIES: usize = 8;

/// Makes sure that each change has a site in the registry, publishes the originals, and says what to write.
/// Answers what will stand at each change's site.
pub(super) fn prepare(
    changes: &[Change],
    registry: &mut Registry,
    map: &MemoryMap,
    hold: Hold,
) -> Result<(Work, Vec<Standing>), Error> {
    check_changes(changes.iter().map(|change| (&*change.target.target, Some(change.replacement))), map)?;
    check_originals(changes, registry)?;
    running::check(changes.iter().map(|change| &*change.target.target), registry, map)?;
    make_sites(changes, registry, hold)?;
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

/// Each change has a site in the registry afterwards, that lies apart from all others.
fn make_sites(changes: &[Change], registry: &mut Registry, hold: Hold) -> Result<(), Error> {
    let has_site = |target: &Target| {
        let site = registry.sites.get(&target.address);
        site.is_some_and(|site| {
            site.is_on() || site.serves(target) && (site.changes_at_once() || hold != Hold::Never)
        })
    };
    let (known, without): (Vec<_>, Vec<_>) =
        changes.iter().partition(|change| has_site(&change.target.target));
    let mut failed: Vec<(u64, Errno)> = Vec::new();
    loop {
        let mut selector = Selector::new(registry, hold, &failed);
        for change in &known {
            let target = &change.target.target;
            // What is on has its bytes already.
            if let Some(site) = registry.sites.get(&target.address).filter(|site| !site.is_on()) {
                site.claims().try_for_each(|bytes| selector.claim(target, bytes))?;
                let (start, expected) = site.needs();
                running::check_bytes(target, start, expected)?;
            }
        }
        let mut new = Vec::with_capacity(without.len());
        for change in &without {
            let selected = selector.select(&change.target.target, Some(change.replacement))?;
            new.push(NewSite { change, selected });
        }
        if new.is_empty() {
            return Ok(());
        }
        match place::place(new, selector)? {
            Ok((sites, puns)) => {
                registry.puns = puns;
                registry.sites.extend(sites.into_iter().map(|site| (site.target.address, site)));
                return Ok(());
            }
            Err((_, errno)) if failed.len() >= TRIES => return Err(kernel("write islands", errno)),
            // Somebody has it by now, or a policy forbids to add to it.
            Err(page) => failed.push(page),
        }
    }
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
