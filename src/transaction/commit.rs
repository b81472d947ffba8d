//! The commit: hold, write, let go. What is written was prepared; what is known changes afterwards.

use super::common::commit_lock;
use super::registry::{Entry, Held, Owned, Registry, next_id};
use super::site::{Layer, Standing, Work};
use super::{Change, HOST, Request, fork, prepare, running};
use crate::arch::InstructionSet;
use crate::error::Error;
use crate::memory::{self, CodeChange, WriteFailure, Writer};
use crate::options::{Hold, Options};
use crate::process::{self, MemoryMap};
use crate::sys;
use crate::threads::{self, Crew};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

/// How long a look waits for a commit under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// The right to commit, which one thread at a time has. Whatever asks the dynamic linker (finding, holding and
/// loading modules) is done under it too: fork waits for it, since glibc leaves the linker's lock as it was in
/// a child.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) options: Options,
    pub(super) registry: Owned,
}

impl Session {
    /// Waits for the right, at most as long as `options` say.
    pub(crate) fn begin(options: &Options) -> Result<Self, Error> {
        commit_lock()?;
        fork::prepare();
        let deadline = Deadline::of(options);
        let registry = Owned::take(deadline.at, deadline.after)?;
        // What this library leaves behind, handlers and held code, may be used after everything is rolled back.
        static KEPT: Once = Once::new();
        KEPT.call_once(|| process::keep_loaded(enter as *const () as u64));
        Ok(Self { options: options.clone(), registry })
    }

    /// For what changes nothing, and has time.
    pub(crate) fn to_look(options: &Options) -> Result<Self, Error> {
        Self::begin(&options.clone().deadline(PATIENCE))
    }

    /// Puts all changes of `request` on, or none.
    pub(crate) fn apply(mut self, request: Request) -> Result<Arc<Entry>, Error> {
        if request.changes.is_empty() {
            return Err(Error::Empty);
        }
        let map = MemoryMap::lazy();
        check_not_applied(&request, &self.registry)?;
        let (work, standing) =
            prepare::prepare(&request.changes, &mut self.registry, &map, self.options.hold)?;
        let held = carry_out(work, &self.options, &request.changes, &map)?;
        let entry = Arc::new(Entry {
            id: next_id(),
            name: request.name,
            path: request.path,
            image: request.image,
            functions: request.changes.iter().map(|change| change.name_and_address()).collect(),
            since: SystemTime::now(),
            held,
            on: AtomicBool::new(true),
        });
        enter(&mut self.registry, &entry, request.changes, standing);
        let (patch, functions) = (&entry.name, entry.functions.len());
        tracing::info!(patch, functions, threads = held.threads, time = ?held.time, "applied");
        Ok(entry)
    }

    /// Takes all changes of `entry` off, or none.
    pub(crate) fn roll_back(mut self, entry: &Arc<Entry>) -> Result<Held, Error> {
        let mut standing: BTreeMap<u64, Standing> = BTreeMap::new();
        if !entry.is_on() {
            return Err(Error::NotApplied { name: entry.name.clone() });
        }
        let mut work = Work::default();
        for (_, address) in &entry.functions {
            if let Some(site) = self.registry.sites.get(address) {
                standing.insert(*address, site.take_off(entry.id, &mut work)?);
            }
        }
        work.dangers.sort_by_key(|danger| danger.range.start);
        let held = carry_out(work, &self.options, &[], &MemoryMap::lazy())?;
        // Dropped when the registry is up to date: destructors of a library may run, and ask what is on.
        let mut unused = Vec::new();
        let registry = &mut *self.registry;
        for (address, now) in standing {
            if let Some(site) = registry.sites.get_mut(&address) {
                unused.extend(site.is_taken_off(entry.id, now));
            }
        }
        registry.entries.retain(|one| one.id != entry.id);
        entry.switch_off();
        registry.publish();
        drop(unused);
        tracing::info!(patch = entry.name, threads = held.threads, time = ?held.time, "rolled back");
        Ok(held)
    }
}

/// When to give up.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: u64,
    after: Duration,
}

impl Deadline {
    fn of(options: &Options) -> Self {
        let nanoseconds = u64::try_from(options.deadline.as_nanos()).unwrap_or(u64::MAX);
        Self { at: sys::now().saturating_add(nanoseconds), after: options.deadline }
    }
}

/// Holds the threads if that is needed, and writes.
fn carry_out(work: Work, options: &Options, changes: &[Change], map: &MemoryMap) -> Result<Held, Error> {
    // On x86-64 reads are made in their order (Intel SDM volume 3, 10.2.2).
    if work.is_one_pointer() && (HOST == InstructionSet::X86_64 || memory::order_everywhere()) {
        for pointer in &work.pointers {
            // SAFETY: a slot or an original of the registry, which live for ever.
            memory::publish(unsafe { AtomicU64::from_ptr(pointer.cell as *mut u64) }, pointer.value);
        }
        return Ok(Held::default());
    }
    if let Some(held) = write_running(&work, options, changes)? {
        return Ok(held);
    }
    if !work.code.is_empty() {
        memory::may_become_executable().map_err(|errno| Error::Kernel {
            step: "make changed memory executable again (is there a policy against it?)",
            source: errno.into(),
        })?;
    }
    if !memory::has_barrier() {
        threads::serialize_on_release();
    }
    let (executable, pointers) = (mappings_of(&work.code, map)?, work.all_pointers());
    let writer = Writer::prepare(work.code, &pointers, &executable, options.ignored_threads.is_empty());
    let stacks = || MemoryMap::read()?.ranges(|mapping| mapping.readable && mapping.writable);
    let mut crew = Crew::assemble(&options.ignored_threads, &stacks)?;
    let deadline = Deadline::of(options);
    let done = crew.hold(&work.dangers, deadline.at, deadline.after, |proof| writer.write(proof))?;
    match done.answer {
        Ok(()) => Ok(Held { threads: done.threads, time: done.time }),
        Err(failure) => Err(explain(failure, writer.changes(), changes)),
    }
}

/// Writes while all threads run, if one store is enough. `None` if they have to be held for it.
fn write_running(work: &Work, options: &Options, changes: &[Change]) -> Result<Option<Held>, Error> {
    let needs_hold = || {
        let of_code = work.code.first().map_or(0, |code| code.address);
        let named = changes.first().map(Change::name_and_address);
        let (target, address) = named.unwrap_or_else(|| (format!("{of_code:#x}"), of_code));
        if options.hold == Hold::Never { Err(Error::NeedsHold { target, address }) } else { Ok(None) }
    };
    let at_once = work.at_once().filter(|_| options.hold != Hold::Always);
    let Some(change) = at_once else { return needs_hold() };
    match memory::write_running(change, &work.ahead, HOST != InstructionSet::X86_64) {
        Ok(()) => Ok(Some(Held::default())),
        // Memory may not be writable and executable at a time here.
        Err(WriteFailure::Kernel(step, errno)) => {
            tracing::debug!(step, ?errno, "threads are held");
            needs_hold()
        }
        Err(failure) => Err(explain(failure, &work.code, changes)),
    }
}

/// Start and end of the mappings that the code lies in, sorted; they matter if there are several changes, which may
/// be made together then.
fn mappings_of(code: &[CodeChange], map: &MemoryMap) -> Result<Vec<(u64, u64)>, Error> {
    if code.len() < 2 {
        return Ok(Vec::new());
    }
    let mut mappings = Vec::new();
    for change in code {
        let mapping = map.at(change.address)?.filter(|mapping| mapping.executable);
        mappings.extend(mapping.map(|mapping| (mapping.range.start, mapping.range.end)));
    }
    mappings.sort_unstable();
    mappings.dedup();
    Ok(mappings)
}

fn explain(failure: WriteFailure, code: &[CodeChange], changes: &[Change]) -> Error {
    let number = match failure {
        WriteFailure::Kernel(step, errno) => return Error::Kernel { step, source: errno.into() },
        WriteFailure::Modified(number) | WriteFailure::NotWritten(number) => number,
    };
    let Some(code) = code.get(number) else { return Error::Empty };
    let mut found = vec![0; code.old.len()];
    let count = sys::read_memory(code.address, &mut found).unwrap_or(0);
    found.truncate(count);
    let is_it = |change: &&Change| change.target.target.contains(code.address);
    let target = match changes.iter().find(is_it) {
        Some(change) => change.target.target.name.clone(),
        None => format!("{:#x}", code.address),
    };
    running::error_of(target, code.address, code.old.clone(), found)
}

/// What was committed becomes known.
fn enter(registry: &mut Registry, entry: &Arc<Entry>, changes: Vec<Change>, standing: Vec<Standing>) {
    let mut unused = Vec::with_capacity(changes.len());
    for (change, now) in changes.into_iter().zip(standing) {
        let Change { target, replacement, original } = change;
        if let Some(site) = registry.sites.get_mut(&target.target.address) {
            let layer = Layer { entry: entry.id, replacement, original };
            unused.extend(site.is_put_on(layer, now, target.hold));
        }
    }
    registry.entries.push(Arc::clone(entry));
    // Before what is unused is dropped: closing a library runs foreign code.
    registry.publish();
}

fn check_not_applied(request: &Request, registry: &Registry) -> Result<(), Error> {
    let same = |entry: &&Arc<Entry>| match (&request.image, &entry.image) {
        (Some(new), Some(old)) => Arc::ptr_eq(new, old) || new == old,
        _ => false,
    };
    match registry.entries.iter().find(same) {
        Some(entry) => Err(Error::AlreadyApplied { name: entry.name.clone() }),
        None => Ok(()),
    }
}
