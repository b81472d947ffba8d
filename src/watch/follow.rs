//! The thread: waits for changes of the directory and passes them on.

use super::Shared;
use super::event::WatchEvent;
use super::on::{Change, Patches};
use super::trust::Directory;
use crate::error::Error;
use crate::options::Options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Instant;

/// So many changes are taken together at most.
const TOGETHER: usize = 4096;

pub(super) struct Follower {
    changes: OwnedFd,
    patches: Patches,
    shared: Arc<Shared>,
}

/// Changes that were read together.
#[derive(Default)]
struct Batch {
    /// Renamed into the directory, or closed after writing.
    arrived: BTreeSet<OsString>,
    /// Their rights changed.
    touched: BTreeSet<OsString>,
    /// Removed or renamed away.
    left: BTreeSet<OsString>,
    /// Changes were lost.
    overflow: bool,
    /// The directory is gone.
    gone: bool,
}

impl Follower {
    /// From now on changes are noted.
    pub(super) fn new(directory: Directory, options: Options, shared: Arc<Shared>) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::Watch { path: directory.path().to_owned(), source: errno.into() };
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let files =
            WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        let itself =
            WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&changes, directory.by_descriptor(), files | itself).map_err(failed)?;
        let patches = Patches::new(directory.place()?, options, Arc::clone(&shared));
        Ok(Self { changes, patches, shared })
    }

    /// Follows the directory until the watch is stopped or the directory is gone.
    pub(super) fn run(mut self) {
        let mut end =
            End { shared: Arc::clone(&self.shared), path: self.patches.path().to_owned(), last: None };
        let error = self.follow().err();
        if let Some(error) = &error {
            tracing::warn!(directory = %end.path.display(), %error, "no longer watched");
        }
        end.last = Some(WatchEvent::Ended { path: end.path.clone(), error });
    }

    fn follow(&mut self) -> Result<(), Error> {
        // After the watch began: what comes in between is seen twice rather than never.
        self.patches.compare_all()?;
        if !self.shared.is_stopping() {
            self.shared.events.push(self.patches.ready());
        }
        while !self.shared.is_stopping() {
            self.wait()?;
            let batch = self.read()?;
            if batch.gone {
                return Err(self.failed(io::Error::new(io::ErrorKind::NotFound, "it was moved or removed")));
            }
            self.pass_on(batch)?;
            self.patches.try_again()?;
        }
        Ok(())
    }

    fn pass_on(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.overflow {
            let path = self.patches.path().to_owned();
            tracing::warn!(directory = %path.display(), "changes were lost, reading all of it again");
            self.shared.events.push(WatchEvent::ReadAgain { path });
            return self.patches.compare_all();
        }
        // What comes is on before what goes is off, so nothing is off in between.
        let arrived = batch.arrived.into_iter().map(|name| (name, Change::Arrived));
        let touched = batch.touched.into_iter().map(|name| (name, Change::Touched));
        let left = batch.left.into_iter().map(|name| (name, Change::Left));
        let changes: Vec<_> = arrived.chain(touched).chain(left).collect();
        self.patches.compare(&changes)
    }

    /// Until something changes, something is to be tried again, or the watch is to end.
    fn wait(&self) -> Result<(), Error> {
        let left = self.patches.next_try().map(|at| at.saturating_duration_since(Instant::now()));
        // A time that is too long for the kernel is for ever.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut both =
            [PollFd::new(&self.changes, PollFlags::IN), PollFd::new(&self.shared.wake, PollFlags::IN)];
        match poll(&mut both, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    /// What can be read now.
    fn read(&self) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        let mut space = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(&self.changes, &mut space);
        let mut count = 0;
        while count < TOGETHER || !reader.is_buffer_empty() {
            count += 1;
            let change = match reader.next() {
                Ok(change) => change,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.failed(errno.into())),
            };
            let name = change.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            batch.note(change.events(), name);
        }
        Ok(batch)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Watch { path: self.patches.path().to_owned(), source }
    }
}

impl Batch {
    fn note(&mut self, events: ReadFlags, name: Option<&OsStr>) {
        let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        self.gone |= events.intersects(ends);
        self.overflow |= events.contains(ReadFlags::QUEUE_OVERFLOW);
        // Of the directory itself: whether it is trusted is asked after every batch.
        let Some(name) = name else { return };
        if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
            self.arrived.insert(name.to_owned());
        }
        if events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            self.left.insert(name.to_owned());
        }
        if events.contains(ReadFlags::ATTRIB) {
            self.touched.insert(name.to_owned());
        }
    }
}

/// Tells the end, however it comes.
struct End {
    shared: Arc<Shared>,
    path: std::path::PathBuf,
    last: Option<WatchEvent>,
}

impl Drop for End {
    fn drop(&mut self) {
        let last = self.last.take().unwrap_or_else(|| {
            let source = io::Error::other("its thread panicked; please report this as a bug");
            let error = Some(Error::Watch { path: self.path.clone(), source });
            WatchEvent::Ended { path: self.path.clone(), error }
        });
        self.shared.events.push(last);
        self.shared.events.close();
    }
}
