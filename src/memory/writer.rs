//! Changing code: pages go from RX to RW, bytes are stored, pages go back to RX. Everything is laid
//! out as a script before threads are held; [`Writer::write`] only runs it.
//!
//! Order: all old bytes are compared; then page run by page run made writable, stored, made
//! executable, read back; then the barrier; then the pointers. What fails before the barrier is undone, run
//! by run in reverse.

use super::coherence;
use super::script::Script;
use crate::proof::Quiescent;
use crate::sys::{self, Errno};
use std::ops::Range;

/// Page runs of one mapping that are no more bytes apart than this are changed together: making a page
/// writable that is not written costs less than another pair of system calls.
const JOIN: u64 = 64 << 10;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
/// PROT_BTI of asm/mman.h of aarch64.
const GUARDED: i32 = 0x10;

/// Bytes of code to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CodeChange {
    /// Run-time address of the first.
    pub(crate) address: u64,
    /// What must be there before; as long as `new`, not empty.
    pub(crate) old: Vec<u8>,
    /// What will be there.
    pub(crate) new: Vec<u8>,
    /// Is its page mapped with PROT_BTI (aarch64)?
    pub(crate) guarded: bool,
}

/// A pointer-sized cell of data to be changed with the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PointerChange {
    /// Run-time address of the cell, aligned; a slot or an original, which live for ever.
    pub(crate) cell: u64,
    /// Its new value.
    pub(crate) value: u64,
}

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteFailure {
    /// The bytes of this change (by number, sorted by address) are not the old ones.
    Modified(usize),
    /// The bytes read back are not the new ones.
    NotWritten(usize),
    /// The kernel refused.
    Kernel(&'static str, Errno),
}

/// All that is to be written, ready.
#[derive(Debug)]
pub(crate) struct Writer {
    changes: Vec<CodeChange>,
    forward: Script,
    meanings: Vec<Meaning>,
    undo: Script,
    /// For each run, what makes its pages executable again should only some of them have become writable.
    close: Vec<Script>,
    /// The step of `undo` at which the run of this number is undone; those behind it undo the runs before.
    undo_from: Vec<usize>,
}

/// What it means that a step of the forward script failed. As data: of a `match` over kinds of steps the compiler
/// could make a table of addresses to jump to, which cannot be followed.
#[derive(Debug, Clone, Copy)]
struct Meaning {
    /// The number of the error will be the kernel's.
    failure: WriteFailure,
    /// A run of which only some pages may have become writable.
    half_open: Option<usize>,
    /// How many runs are complete then, and have to be undone.
    complete: usize,
}

impl Meaning {
    fn refused(step: &'static str, complete: usize) -> Self {
        Self { failure: WriteFailure::Kernel(step, Errno(0)), half_open: None, complete }
    }
}

/// Page-aligned bytes, and which changes lie in them.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    pages: Range<u64>,
    changes: Range<usize>,
    /// The protection that they have and get again.
    before: i32,
}

impl Writer {
    /// Lays out the script. `changes` do not overlap, and lie on pages that are readable, executable and
    /// not writable, guarded or not the same within a mapping; `mappings` are the executable ones (start, end), sorted. Pages between two changes may be opened
    /// along with them if `join` says so.
    pub(crate) fn prepare(
        mut changes: Vec<CodeChange>,
        pointers: &[PointerChange],
        mappings: &[(u64, u64)],
        join: bool,
    ) -> Self {
        changes.sort_by_key(|change| change.address);
        let runs = runs(&changes, mappings, if join { JOIN } else { 0 }, sys::page_size());
        let mut writer = Self {
            changes,
            forward: Script::default(),
            meanings: Vec::new(),
            undo: Script::default(),
            close: runs.iter().map(close).collect(),
            undo_from: vec![0; runs.len()],
        };
        writer.lay_out_forward(&runs, pointers);
        writer.lay_out_undo(&runs);
        writer
    }

    /// The changes, sorted by address.
    pub(crate) fn changes(&self) -> &[CodeChange] {
        &self.changes
    }

    /// Writes everything, or nothing. Allocates nothing, takes no lock, cannot panic.
    pub(crate) fn write(&self, _proof: &Quiescent<'_>) -> Result<(), WriteFailure> {
        // SAFETY: `prepare` put in only addresses of changes and cells; the proof says that no thread runs
        // on pages that are not executable for a moment; the routine itself is on none of them.
        let Err((step, errno)) = (unsafe { self.forward.run_from(0) }) else { return Ok(()) };
        let unknown = || Meaning::refused("write code", self.undo_from.len());
        let meaning = self.meanings.get(step).copied().unwrap_or_else(unknown);
        if let Some(close) = meaning.half_open.and_then(|run| self.close.get(run)) {
            // SAFETY: as above.
            let _ = unsafe { close.run_from(0) };
        }
        if let Some(from) = meaning.complete.checked_sub(1).and_then(|last| self.undo_from.get(last)) {
            // SAFETY: as above; puts the old bytes back where the new ones are.
            let _ = unsafe { self.undo.run_from(*from) };
        }
        Err(match meaning.failure {
            WriteFailure::Kernel(step, _) => WriteFailure::Kernel(step, errno),
            other => other,
        })
    }

    fn lay_out_forward(&mut self, runs: &[Run], pointers: &[PointerChange]) {
        let Self { changes, forward, meanings, .. } = self;
        let mut mark = |script: &Script, meaning| meanings.resize(script.len(), meaning);
        let cannot_fail = Meaning::refused("write code", runs.len());
        for (number, change) in changes.iter().enumerate() {
            forward.compare(change.address, change.old.as_ptr() as u64, change.old.len() as u64);
            let failure = WriteFailure::Modified(number);
            mark(forward, Meaning { failure, half_open: None, complete: 0 });
        }
        for (number, run) in runs.iter().enumerate() {
            let len = run.pages.end - run.pages.start;
            forward.protect(run.pages.start, len, RW);
            let half_open = Some(number);
            mark(forward, Meaning { half_open, ..Meaning::refused("make code writable", number) });
            #[cfg(feature = "fault-injection")]
            if let Some(function) = crate::fault::current_witness().filter(|_| number == 0) {
                forward.witness(function);
            }
            for change in changes.get(run.changes.clone()).unwrap_or(&[]) {
                forward.copy(change.address, change.new.as_ptr() as u64, change.new.len() as u64);
            }
            forward.protect_or_die(run.pages.start, len, run.before);
            for change in changes.get(run.changes.clone()).unwrap_or(&[]) {
                forward.cohere(change.address, change.new.len() as u64);
            }
            mark(forward, cannot_fail);
            for (place, change) in run.changes.clone().zip(changes.get(run.changes.clone()).unwrap_or(&[])) {
                forward.compare(change.address, change.new.as_ptr() as u64, change.new.len() as u64);
                let failure = WriteFailure::NotWritten(place);
                mark(forward, Meaning { failure, half_open: None, complete: number + 1 });
            }
        }
        if !runs.is_empty() && coherence::has_barrier() {
            forward.barrier();
            mark(forward, Meaning::refused("synchronise the cores (membarrier)", runs.len()));
        }
        for pointer in pointers {
            forward.store(pointer.cell, pointer.value);
        }
        forward.finish();
        mark(forward, cannot_fail);
    }

    fn lay_out_undo(&mut self, runs: &[Run]) {
        for (number, run) in runs.iter().enumerate().rev() {
            if let Some(place) = self.undo_from.get_mut(number) {
                *place = self.undo.len();
            }
            let len = run.pages.end - run.pages.start;
            self.undo.protect_or_die(run.pages.start, len, RW);
            for change in self.changes.get(run.changes.clone()).unwrap_or(&[]) {
                self.undo.copy(change.address, change.old.as_ptr() as u64, change.old.len() as u64);
            }
            self.undo.protect_or_die(run.pages.start, len, run.before);
            for change in self.changes.get(run.changes.clone()).unwrap_or(&[]) {
                self.undo.cohere(change.address, change.old.len() as u64);
            }
        }
        if coherence::has_barrier() {
            self.undo.barrier();
        }
        self.undo.finish();
    }
}

fn close(run: &Run) -> Script {
    let mut script = Script::default();
    script.protect_or_die(run.pages.start, run.pages.end - run.pages.start, run.before);
    script.finish();
    script
}

/// Of a page of code.
pub(super) fn protection(guarded: bool) -> i32 {
    if guarded { RX | GUARDED } else { RX }
}

/// Which pages are changed together. Never across the end of a mapping, and never over pages that
/// must stay executable.
fn runs(changes: &[CodeChange], mappings: &[(u64, u64)], join: u64, page: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        let start = change.address / page * page;
        let end = (change.address + change.new.len() as u64).div_ceil(page) * page;
        match runs.last_mut() {
            Some(last) if may_join(&last.pages, start, mappings, join) => {
                last.pages.end = last.pages.end.max(end);
                last.changes.end = number + 1;
            }
            _ => {
                let before = protection(change.guarded);
                runs.push(Run { pages: start..end, changes: number..number + 1, before });
            }
        }
    }
    runs
}

fn may_join(before: &Range<u64>, start: u64, mappings: &[(u64, u64)], join: u64) -> bool {
    if start < before.end {
        return true;
    }
    #[cfg(feature = "fault-injection")]
    if crate::fault::pages_are_separate() {
        return false;
    }
    let between = before.end..start;
    let one_mapping = mappings.iter().any(|(first, end)| before.start >= *first && start < *end);
    let ours = crate::held::pages().iter().any(|page| between.contains(page));
    between.end - between.start <= join && one_mapping && !ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(address: u64, len: usize) -> CodeChange {
        CodeChange { address, old: vec![1; len], new: vec![2; len], guarded: false }
    }

    fn joined(changes: &[CodeChange], mappings: &[(u64, u64)]) -> Vec<(Range<u64>, Range<usize>)> {
        runs(changes, mappings, JOIN, 0x1000).into_iter().map(|run| (run.pages, run.changes)).collect()
    }

    #[test]
    fn a_change_over_two_pages_opens_both() {
        assert_eq!(joined(&[change(0x1ffe, 6)], &[]), [(0x1000..0x3000, 0..1)]);
        assert_eq!(joined(&[change(0x1ffa, 6)], &[]), [(0x1000..0x2000, 0..1)]);
    }

    #[test]
    fn pages_are_as_large_as_the_kernel_says() {
        let runs = runs(&[change(0x1_fffc, 4), change(0x2_0000, 4)], &[], 0, 0x1_0000);
        let pages: Vec<_> = runs.iter().map(|run| run.pages.clone()).collect();
        assert_eq!(pages, [0x1_0000..0x2_0000, 0x2_0000..0x3_0000]);
    }

    #[test]
    fn near_pages_of_one_mapping_are_joined() {
        let changes = [change(0x1000, 5), change(0x1100, 5), change(0x5000, 5), change(0x4_0000, 5)];
        assert_eq!(
            joined(&changes, &[(0x1000, 0x10_0000)]),
            [(0x1000..0x6000, 0..3), (0x4_0000..0x4_1000, 3..4)]
        );
        let apart = [(0x1000..0x2000, 0..2), (0x5000..0x6000, 2..3), (0x4_0000..0x4_1000, 3..4)];
        assert_eq!(joined(&changes, &[(0x1000, 0x2000), (0x5000, 0x6000)]), apart);
    }

    #[test]
    fn pages_get_the_protection_back_that_they_had() {
        let guarded = CodeChange { guarded: true, ..change(0x9000, 8) };
        let runs = runs(&[change(0x1000, 4), guarded], &[], JOIN, 0x1000);
        let protections: Vec<_> = runs.iter().map(|run| run.before).collect();
        assert_eq!(
            protections,
            [libc::PROT_READ | libc::PROT_EXEC, libc::PROT_READ | libc::PROT_EXEC | 0x10]
        );
    }
}
