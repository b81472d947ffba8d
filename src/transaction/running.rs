//! What stands in memory now, against what should.

use super::HOST;
use super::prepare::kernel;
use super::registry::Registry;
use crate::arch::{self, InstructionSet, Trace};
use crate::error::Error;
use crate::process::{MemoryMap, Target};
use crate::sys::{self, Errno};

/// Targets that lie no farther apart than this are read together.
const JOIN: u64 = 1024;
/// As much as one call reads.
const MOST: u64 = 64 * 1024;

/// The functions must stand in memory as they do in their files, but for what midflight wrote there.
pub(super) fn check<'t>(
    targets: impl Iterator<Item = &'t Target>,
    registry: &Registry,
    map: &MemoryMap,
) -> Result<(), Error> {
    let mut targets: Vec<&Target> = targets.collect();
    for target in &targets {
        check_pages(target, map)?;
    }
    targets.sort_by_key(|target| target.address);
    let mut buffer = Vec::new();
    for group in targets.chunk_by(|one, next| next.address.saturating_sub(end(one)) <= JOIN) {
        let mut rest = group;
        while let Some(first) = rest.first() {
            let fits = |target: &&&Target| end(target) - first.address <= MOST;
            let count = rest.iter().take_while(fits).count().max(1);
            let (together, later) = rest.split_at(count);
            rest = later;
            let last = together.iter().map(|target| end(target)).max().unwrap_or(first.address);
            read(first.address, last, &mut buffer)?;
            for target in together {
                let start = (target.address - first.address) as usize;
                let found = buffer.get(start..start + target.bytes.len()).unwrap_or_default();
                compare(target, found, registry)?;
            }
        }
    }
    Ok(())
}

fn end(target: &Target) -> u64 {
    target.address + target.bytes.len() as u64
}

/// Reads `start..end` into `buffer`.
fn read(start: u64, end: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
    buffer.clear();
    buffer.resize((end - start) as usize, 0);
    let mut filled = 0;
    while let Some(piece) = buffer.get_mut(filled..).filter(|piece| !piece.is_empty()) {
        let most = piece.len().min(MOST as usize);
        match sys::read_memory(start + filled as u64, piece.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Err(kernel("read the target", Errno(libc::EFAULT))),
            Ok(count) => filled += count,
            Err(errno) => return Err(kernel("read the target", errno)),
        }
    }
    Ok(())
}

fn compare(target: &Target, found: &[u8], registry: &Registry) -> Result<(), Error> {
    let address = target.address;
    let mut expected = target.bytes.clone();
    for site in registry.touching(&(address..end(target))) {
        for (place, byte) in site.pieces_now().flat_map(|(start, bytes)| (start..).zip(bytes)) {
            let inside = place.checked_sub(address).and_then(|offset| expected.get_mut(offset as usize));
            if let Some(expected) = inside {
                *expected = *byte;
            }
        }
    }
    if expected == found {
        return Ok(());
    }
    Err(modified(target, address, &expected, found))
}

/// These bytes of a target must be in memory.
pub(super) fn check_bytes(target: &Target, start: u64, expected: &[u8]) -> Result<(), Error> {
    let mut found = Vec::new();
    read(start, start + expected.len() as u64, &mut found)?;
    if expected == found { Ok(()) } else { Err(modified(target, start, expected, &found)) }
}

/// The error for bytes from `start` on that are not the expected ones.
pub(super) fn modified(target: &Target, start: u64, expected: &[u8], found: &[u8]) -> Error {
    let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    // An instruction of aarch64 begins at a multiple of four.
    let first = if HOST == InstructionSet::Aarch64 { same / 4 * 4 } else { same };
    let excerpt = |bytes: &[u8]| -> Vec<u8> { bytes.iter().skip(first).take(16).copied().collect() };
    error_of(target.name.clone(), start + first as u64, excerpt(expected), excerpt(found))
}

/// The error for other bytes at `address`, by what they look like.
pub(super) fn error_of(target: String, address: u64, expected: Vec<u8>, found: Vec<u8>) -> Error {
    match arch::trace(HOST, &found) {
        Trace::Breakpoint => Error::Breakpoint { target, address, expected, found },
        Trace::Jump => Error::OtherHook { target, address, expected, found },
        _ => Error::EntryModified { target, address, expected, found },
    }
}

fn check_pages(target: &Target, map: &MemoryMap) -> Result<(), Error> {
    let end = end(target);
    let not_a_function =
        |found: String| Error::NotAFunction { target: target.name.clone(), address: target.address, found };
    let mut place = target.address;
    while place < end {
        let Some(mapping) = map.at(place)? else {
            return Err(not_a_function("its memory is not mapped".into()));
        };
        let protection = mapping.protection();
        if protection != "r-x" {
            return Err(not_a_function(format!("its memory is mapped {protection}, code is r-x")));
        }
        place = mapping.range.end;
    }
    let ours =
        crate::held::pages().into_iter().any(|page| page < end && target.address < page + crate::held::PAGE);
    if ours {
        return Err(not_a_function("code of midflight that runs during a commit".into()));
    }
    Ok(())
}
