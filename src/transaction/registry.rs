//! What is on: the sites with their layers, and the entries that a user's handles point to.

use super::common::commit_lock;
use super::list::List;
use super::lock::{Guard, NotLocked};
use super::site::Site;
use crate::error::Error;
use crate::plan::PunPages;
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, SystemTime};

/// The registry of this copy of the library. Whoever has the lock of all commits has it.
static REGISTRY: Shared = Shared(UnsafeCell::new(Registry::new()));
/// What is on, for everybody else.
static LIST: List<Entry> = List::new();

struct Shared(UnsafeCell<Registry>);

// SAFETY: reached through `Owned` only, of which there is one at a time.
unsafe impl Sync for Shared {}

/// Everything that midflight has done to the process.
#[derive(Debug)]
pub(crate) struct Registry {
    /// By the target's address; sites that are off keep their trampolines for the next time.
    pub(super) sites: BTreeMap<u64, Site>,
    /// What is on, newest last.
    pub(super) entries: Vec<Arc<Entry>>,
    /// Where islands of punned jumps are.
    pub(super) puns: PunPages,
}

/// One committed transaction.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Unique in the process.
    pub(crate) id: u64,
    /// Name of the patch.
    pub(crate) name: String,
    /// The patch file as the user named it, None for what was done by hand.
    pub(crate) path: Option<PathBuf>,
    /// The bytes of the patch library, which tell whether a patch is the same.
    pub(crate) image: Option<Arc<[u8]>>,
    /// Targets as they were asked for, with their addresses.
    pub(crate) functions: Vec<(String, u64)>,
    /// When it was committed.
    pub(crate) since: SystemTime,
    /// What the commit cost.
    pub(crate) held: Held,
    /// False once it was rolled back.
    pub(crate) on: AtomicBool,
}

impl Entry {
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Acquire)
    }

    pub(super) fn switch_off(&self) {
        self.on.store(false, Release);
    }
}

/// What a commit cost the other threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Held {
    /// How many were held; none if one store was enough.
    pub threads: usize,
    /// How long, at most: from the first signal to the moment when all may go on. When each does is up to the
    /// scheduler then.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "time_ns", serialize_with = "crate::serialize::nanoseconds")
    )]
    pub time: Duration,
}

/// `9 threads held 41 µs`
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} held", crate::error::count(self.threads, "thread"))?;
        if self.threads > 0 { write!(f, " {} µs", self.time.as_micros()) } else { Ok(()) }
    }
}

impl Registry {
    const fn new() -> Self {
        Self { sites: BTreeMap::new(), entries: Vec::new(), puns: PunPages::new() }
    }

    /// Lets [`applied`] see the entries as they are now.
    pub(super) fn publish(&self) {
        LIST.publish(self.entries.clone());
    }

    /// The cells that hold originals of layers that are on, and for which targets.
    pub(super) fn used_cells(&self) -> BTreeMap<u64, &str> {
        let cells = self.sites.values().flat_map(|site| {
            let cells = site.layers.iter().filter_map(|layer| layer.original.get());
            cells.map(|cell| (cell.as_ptr() as u64, site.target.name.as_str()))
        });
        cells.collect()
    }

    /// The sites that are on and may have bytes in or around `start`, as far as a padding run is long.
    pub(super) fn near(&self, start: u64) -> impl Iterator<Item = &Site> {
        let reach = start.saturating_sub(2 * Site::FARTHEST)..start.saturating_add(2 * Site::FARTHEST);
        self.sites.range(reach).map(|(_, site)| site).filter(|site| site.is_on())
    }

    /// The sites that are on and have overwritten bytes in `bytes`.
    pub(super) fn touching(&self, bytes: &Range<u64>) -> impl Iterator<Item = &Site> {
        let reach = bytes.start.saturating_sub(Site::FARTHEST)..bytes.end.saturating_add(Site::FARTHEST);
        let sites = self.sites.range(reach).map(|(_, site)| site);
        let bytes = bytes.clone();
        sites.filter(move |site| site.is_on() && site.touches(&bytes))
    }

    /// The site that has some of these bytes, other than that of `target`.
    pub(super) fn overlapping(&self, target: u64, bytes: &Range<u64>) -> Option<&Site> {
        self.touching(bytes).find(|site| site.target.address != target)
    }
}

/// The number of the next entry.
pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// The right to commit, with the registry that belongs to it.
#[derive(Debug)]
pub(super) struct Owned {
    _commit: Guard<'static, ()>,
}

impl Owned {
    /// Takes the lock of all commits, waiting until `deadline`.
    pub(super) fn take(deadline: u64, waited: Duration) -> Result<Self, Error> {
        let commit = commit_lock()?.acquire(deadline).map_err(|why| match why {
            NotLocked::Late => Error::Busy { waited },
            NotLocked::Mine => Error::Nested,
        })?;
        Ok(Self { _commit: commit })
    }
}

impl Deref for Owned {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        // SAFETY: the lock is ours, and this is the only `Owned` that it was taken for.
        unsafe { &*REGISTRY.0.get() }
    }
}

impl DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Registry {
        // SAFETY: as above, and borrowed for this.
        unsafe { &mut *REGISTRY.0.get() }
    }
}

/// What is on, newest last. Takes no lock.
pub(crate) fn applied() -> Vec<Arc<Entry>> {
    // One that is being rolled back is off before it leaves the list.
    LIST.read().into_iter().filter(|entry| entry.is_on()).collect()
}

/// In a forked child.
pub(super) fn reset_in_child() {
    LIST.reset_in_child();
}
