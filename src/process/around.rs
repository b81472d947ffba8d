//! What lies around a function: bytes that belong to nobody may hold a part of its site.
//!
//! Bytes belong to nobody if they stand between the end of one function and the beginning of the next, both known: by a
//! symbol with a size, or by an entry of the unwind table. Whether they are padding is up to whoever knows instructions.
//! Gaps that a function runs on into are left out, as in assembly whose next function is aligned with NOPs: a jump there
//! would be taken.

use super::image::{ModuleFile, ModuleImage};
use crate::arch::{self, Ending};
use std::ops::Range;

/// How far before the first byte a jump of two bytes may lead.
const BEFORE: u64 = 128;
/// How far behind it two such jumps may, one after the other, with a landing pad before them.
const AFTER: u64 = 4 + 129 + 129;
/// As much padding as is looked at: what alignment to a cache line makes.
const MOST: u64 = 64;

/// A longer function is not read for its end.
const LONGEST: u64 = 16 * 1024;

/// Bytes around a function, as they stand in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Right behind it, whoever's they are.
    pub(crate) behind: Vec<u8>,
    /// How many of them belong to nobody.
    pub(crate) free: usize,
    /// Others nearby that belong to nobody: run-time address, bytes.
    pub(crate) gaps: Vec<(u64, Vec<u8>)>,
}

impl Surroundings {
    /// Of the function at `function` (the file's addresses) in a module that is loaded `bias` higher. `labels` are the
    /// symbols from [`window`] with their sizes, sorted. What cannot be read is as if it were somebody's.
    pub(crate) fn of(
        image: &ModuleImage,
        file: &ModuleFile,
        function: &Range<u64>,
        labels: &[(u64, u64)],
        bias: u64,
    ) -> Self {
        let known = Known { image, file, labels };
        let behind = function.end..(function.end + MOST).min(image.end_of_code(function.start));
        let bytes = |range: &Range<u64>| {
            let len = range.end.saturating_sub(range.start);
            image.bytes_at(file, range.start, len).unwrap_or_default()
        };
        let is_whole = known.end_before(function.end) == Some(function.end);
        let next = known.start_from(function.end).filter(|next| is_whole && *next <= behind.end);
        let free = next.map_or(0, |next| next - function.end) as usize;
        let gaps = known.gaps(function.start.saturating_sub(BEFORE)..function.start + AFTER);
        let gaps = gaps.into_iter().map(|gap| (bias.wrapping_add(gap.start), bytes(&gap)));
        Self { behind: bytes(&behind), free, gaps: gaps.collect() }
    }
}

/// The file's addresses of which all symbols are wanted.
pub(crate) fn window(function: &Range<u64>) -> Range<u64> {
    let start = function.start.saturating_sub(BEFORE + MOST);
    start..function.end.max(function.start.saturating_add(AFTER)).saturating_add(MOST)
}

/// Where functions begin and end.
struct Known<'a> {
    image: &'a ModuleImage,
    file: &'a ModuleFile,
    labels: &'a [(u64, u64)],
}

impl Known<'_> {
    /// The first beginning at or behind `address`.
    fn start_from(&self, address: u64) -> Option<u64> {
        let label = self.labels.iter().map(|(start, _)| *start).find(|start| *start >= address);
        let entry = self.image.unwind(self.file).and_then(|unwind| unwind.next(address));
        label.into_iter().chain(entry).min()
    }

    /// Where what begins last before `address` ends, if that is known and not behind `address`.
    fn end_before(&self, address: u64) -> Option<u64> {
        let before = self.labels.iter().rev().skip_while(|(start, _)| *start >= address);
        let (nearest, _) = before.clone().next().copied().unwrap_or_default();
        let label = before.map(|(start, size)| start.saturating_add(*size)).max();
        let entry = match self.image.unwind(self.file) {
            Some(unwind) => self.image.last_unwound(self.file, unwind, address - 1).ok()?,
            None => None,
        };
        let (from, entry) = entry.map_or((0, None), |range| (range.start, Some(range.end)));
        let end = label.into_iter().chain(entry).max()?;
        // A label without a size, as the last: what it stands for may reach up to here.
        let is_sized = end > nearest.max(from);
        (is_sized && end <= address).then_some(end)
    }

    /// The gaps before all beginnings in `range`.
    fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut gaps, mut from) = (Vec::new(), range.start.max(1));
        while let Some(start) = self.start_from(from).filter(|start| *start < range.end) {
            let end = self.end_before(start).filter(|end| *end < start && start - end <= MOST);
            gaps.extend(end.filter(|end| !self.is_run_into(*end)).map(|end| end..start));
            from = start + 1;
        }
        gaps
    }

    /// Does the function that ends at `end` run on behind it, or can that not be told?
    fn is_run_into(&self, end: u64) -> bool {
        let labels =
            self.labels.iter().filter(|(start, size)| start.saturating_add(*size) == end && *size > 0);
        let label = labels.map(|(start, _)| *start).max();
        let entry = self.image.unwind(self.file).and_then(|unwind| {
            self.image.last_unwound(self.file, unwind, end - 1).ok()?.filter(|entry| entry.end == end)
        });
        let Some(start) = label.or(entry.as_ref().map(|entry| entry.start)) else { return true };
        let len = end - start;
        let bytes =
            if len > LONGEST { Err(()) } else { self.image.bytes_at(self.file, start, len).map_err(drop) };
        match bytes.map(|bytes| arch::ending(self.image.instruction_set(), &bytes)) {
            Ok(Ending::Ends) => false,
            // A compiler knows of calls that never return. Whoever writes unwind entries is one, mostly.
            Ok(Ending::Call) => entry.is_none(),
            Ok(Ending::Continues) | Err(()) => true,
        }
    }
}
