//! The patches that are on because of the directory, and what a change of a file does to them.

use super::Shared;
use super::event::WatchEvent;
use super::trust::{Directory, Distrusted, Place};
use crate::applied::Applied;
use crate::error::Error;
use crate::options::Options;
use crate::patch::Patch;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pauses between tries double from the one to the other.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What was seen of a file. What the directory looks like now counts, since that may be newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It came, complete.
    Arrived,
    /// Its rights changed.
    Touched,
    /// It went.
    Left,
}

pub(super) struct Patches {
    place: Place,
    options: Options,
    shared: Arc<Shared>,
    /// What is on of the file of each name, the newest last. More than one only if a rollback failed.
    on: BTreeMap<OsString, Vec<Applied>>,
    /// Names whose patch is not as it should be.
    failed: BTreeMap<OsString, Failure>,
    distrusted: Distrusted,
    /// Set while others can write to the directory, or it cannot be opened or read.
    suspended: Option<Pause>,
}

struct Failure {
    /// Set if it may go better after a while.
    again: Option<Pause>,
    /// What was read of the file, if it is a patch library: it may have been loaded, and once is enough. The same
    /// library may be on already under another name.
    patch: Option<Patch>,
}

#[derive(Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Pause {
    fn after(before: Option<Self>) -> Self {
        let length = before.map_or(PAUSES.0, |before| PAUSES.1.min(before.length * 2));
        Self { until: Instant::now() + length, length }
    }

    fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }
}

impl Patches {
    pub(super) fn new(place: Place, options: Options, shared: Arc<Shared>) -> Self {
        let (on, failed, distrusted) = (BTreeMap::new(), BTreeMap::new(), Distrusted::default());
        Self { place, options, shared, on, failed, distrusted, suspended: None }
    }

    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    pub(super) fn ready(&self) -> WatchEvent {
        let on = self.on.values().flatten().filter(|applied| applied.is_applied()).count();
        WatchEvent::Ready { path: self.path().to_owned(), on }
    }

    /// When [`Self::try_again`] will have something to do.
    pub(super) fn next_try(&self) -> Option<Instant> {
        // Meanwhile no file is tried, however long ago its time came.
        if let Some(pause) = self.suspended {
            return Some(pause.until);
        }
        self.failed.values().filter_map(|failure| failure.again).map(|pause| pause.until).min()
    }

    pub(super) fn try_again(&mut self) -> Result<(), Error> {
        if let Some(pause) = self.suspended {
            return if pause.is_over() { self.compare_all() } else { Ok(()) };
        }
        let due = |failure: &Failure| failure.again.is_some_and(|pause| pause.is_over());
        let due = self.failed.iter().filter(|(_, failure)| due(failure));
        let names: Vec<_> = due.map(|(name, _)| (name.clone(), Change::Arrived)).collect();
        self.compare(&names)
    }

    /// Everything anew, files in the order of their names.
    pub(super) fn compare_all(&mut self) -> Result<(), Error> {
        let found = self.place.open().and_then(|directory| Ok((directory.names()?, directory)));
        let (mut names, directory) = match found {
            Ok(found) => found,
            Err(error) => return self.suspend(error),
        };
        self.suspended = None;
        names.extend(self.on.keys().chain(self.failed.keys()).cloned());
        names.sort();
        names.dedup();
        names.iter().for_each(|name| self.compare_one(&directory, name, Change::Arrived));
        Ok(())
    }

    /// Something happened to these files, in this order. An error if the directory is gone.
    pub(super) fn compare(&mut self, names: &[(OsString, Change)]) -> Result<(), Error> {
        // Meanwhile anything may have changed.
        if self.suspended.is_some() {
            return self.compare_all();
        }
        if !names.iter().any(|(name, _)| is_library(name)) {
            return Ok(());
        }
        match self.place.open() {
            Ok(directory) => {
                names.iter().for_each(|(name, change)| self.compare_one(&directory, name, *change));
                Ok(())
            }
            Err(error) => self.suspend(error),
        }
    }

    /// The directory cannot be used now: an error if it never will be again.
    fn suspend(&mut self, error: Error) -> Result<(), Error> {
        if is_end(&error) {
            return Err(error);
        }
        match self.suspended {
            None => self.refused(self.path(), error),
            // Something else woke the thread.
            Some(pause) if !pause.is_over() => return Ok(()),
            Some(_) => {}
        }
        self.suspended = Some(Pause::after(self.suspended));
        Ok(())
    }

    fn compare_one(&mut self, directory: &Directory, name: &OsStr, change: Change) {
        let touched_in_vain = change == Change::Touched && !self.failed.contains_key(name);
        if !is_library(name) || touched_in_vain || self.shared.is_stopping() {
            return;
        }
        let path = directory.path().join(name);
        let file = directory.file(name, &mut self.distrusted);
        if change == Change::Left && matches!(file, Ok(Some(_))) {
            // It will be told of when it is complete.
            return;
        }
        // Out of the way of what looks for duplicates.
        let (before, mut patch) =
            self.failed.remove(name).map_or((None, None), |failure| (failure.again, failure.patch));
        let done = match file {
            Ok(Some(file)) => read(&path, file, patch.as_ref())
                .and_then(|read| self.put_on(directory, name, &path, patch.insert(read))),
            Ok(None) => {
                self.put_on_duplicates(directory, name);
                Ok(self.take_off(name, &path))
            }
            Err(error) => Err(error),
        };
        let again = match done {
            Ok(true) => return,
            Ok(false) => true,
            Err(error) => {
                let may_go_better =
                    matches!(error, Error::Busy { .. } | Error::Deadline { .. } | Error::ReadPatch { .. });
                self.refused(&path, error);
                may_go_better
            }
        };
        let again = again.then(|| Pause::after(before));
        self.failed.insert(name.to_owned(), Failure { again, patch });
    }

    /// Brings `patch` on, and then what was on of that name off. False if the latter failed.
    fn put_on(
        &mut self,
        directory: &Directory,
        name: &OsStr,
        path: &Path,
        patch: &Patch,
    ) -> Result<bool, Error> {
        // Also if it is off: then the program itself rolled it back.
        let is_it = |applied: &Applied| patch.is_of(applied);
        let (same, older): (Vec<_>, Vec<_>) =
            self.on.remove(name).unwrap_or_default().into_iter().partition(is_it);
        let new = if let Some(applied) = same.into_iter().next() {
            Ok(applied)
        } else if let Some(applied) = self.renamed(directory, path, is_it) {
            Ok(applied)
        } else {
            self.apply(path, patch)
        };
        match new {
            Ok(applied) => {
                let mut all = older;
                all.push(applied);
                self.on.insert(name.to_owned(), all);
                self.put_on_duplicates(directory, name);
                let mut older = self.on.remove(name).unwrap_or_default();
                self.on.insert(name.to_owned(), older.pop().into_iter().collect());
                Ok(self.roll_back(name, path, older))
            }
            Err(error) => {
                if !older.is_empty() {
                    self.on.insert(name.to_owned(), older);
                }
                Err(error)
            }
        }
    }

    fn apply(&self, path: &Path, patch: &Patch) -> Result<Applied, Error> {
        let check = patch.check()?;
        tracing::debug!(path = %path.display(), %check, "checked");
        // SAFETY: the contract of `Watch::directory`: whoever could put the library here keeps that of `apply`.
        let applied = unsafe { patch.apply(&self.options) }?;
        self.tell(WatchEvent::Applied { path: path.to_owned(), applied: applied.clone() });
        Ok(applied)
    }

    /// A patch that is on of a file that is gone or has other content, since it has the name `path` now.
    fn renamed(
        &mut self,
        directory: &Directory,
        path: &Path,
        is_it: impl Fn(&Applied) -> bool,
    ) -> Option<Applied> {
        let (from, applied) = self.on.iter_mut().find_map(|(name, all)| {
            // Below the last are older versions.
            let left = if directory.has(name) { all.len().saturating_sub(1) } else { all.len() };
            let place = all.iter().take(left).position(|applied| applied.is_applied() && is_it(applied))?;
            Some((directory.path().join(name), all.remove(place)))
        })?;
        self.tell(WatchEvent::Renamed { from, path: path.to_owned(), applied: applied.clone() });
        Some(applied)
    }

    /// Before a file's patch goes off: another file that was refused for being the same takes its place.
    fn put_on_duplicates(&mut self, directory: &Directory, from: &OsStr) {
        let Some(all) = self.on.get(from) else { return };
        let is_in = |patch: &Patch| all.iter().any(|applied| patch.is_of(applied));
        let duplicates = self.failed.iter().filter(|(_, failure)| failure.patch.as_ref().is_some_and(is_in));
        let names: Vec<_> = duplicates.map(|(name, _)| name.clone()).collect();
        for name in names.iter().filter(|name| directory.has(name)) {
            self.compare_one(directory, name, Change::Arrived);
        }
    }

    fn take_off(&mut self, name: &OsStr, path: &Path) -> bool {
        let all = self.on.remove(name).unwrap_or_default();
        self.roll_back(name, path, all)
    }

    /// The newest first. What cannot be rolled back is kept, below what is on of that name.
    fn roll_back(&mut self, name: &OsStr, path: &Path, all: Vec<Applied>) -> bool {
        let mut stay = Vec::new();
        for applied in all.into_iter().rev() {
            let path = path.to_owned();
            match applied.rollback_with(&self.options) {
                Ok(held) => self.tell(WatchEvent::RolledBack { path, applied, held }),
                // The program itself did it.
                Err(Error::NotApplied { .. }) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "not rolled back");
                    stay.insert(0, applied.clone());
                    self.tell(WatchEvent::StaysOn { path, applied, error });
                }
            }
        }
        let done = stay.is_empty();
        if !done {
            let newer = self.on.remove(name).unwrap_or_default();
            stay.extend(newer);
            self.on.insert(name.to_owned(), stay);
        }
        done
    }

    fn refused(&self, path: &Path, error: Error) {
        tracing::warn!(path = %path.display(), %error, "not applied");
        self.tell(WatchEvent::Refused { path: path.to_owned(), error });
    }

    fn tell(&self, event: WatchEvent) {
        self.shared.events.push(event);
    }
}

/// The patch in `file`, or the one that was read before from the same bytes.
fn read(path: &Path, file: File, before: Option<&Patch>) -> Result<Patch, Error> {
    let patch = Patch::from_file(path, file)?;
    Ok(before.filter(|before| before.is_same(&patch)).cloned().unwrap_or(patch))
}

/// The directory is gone, or another one stands in its place. Anything else, as a want of descriptors, may pass.
fn is_end(error: &Error) -> bool {
    let gone = [ErrorKind::NotFound, ErrorKind::NotADirectory];
    matches!(error, Error::Watch { source, .. } if gone.contains(&source.kind()))
}

/// `*.so`, not hidden.
fn is_library(name: &OsStr) -> bool {
    Path::new(name).extension() == Some(OsStr::new("so")) && !name.as_bytes().starts_with(b".")
}
