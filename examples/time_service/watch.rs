//! Keeps the patches that are on equal to the patch libraries that stand in a directory.

use crate::Result;
use crate::trust;
use midflight::{Applied, Error, Options, Patch};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A directory that is watched.
pub(crate) struct Watch {
    changes: OwnedFd,
    watched: Watched,
}

impl Watch {
    /// Begins to watch. Refuses a directory that others can write to.
    pub(crate) fn begin(directory: &Path) -> Result<Self> {
        let named = |error| format!("{}: {error}", directory.display());
        let directory = directory.canonicalize().map_err(named)?;
        trust::directory(&directory)?;
        let changes = inotify::init(CreateFlags::CLOEXEC)?;
        let written = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        let gone = WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&changes, &directory, written | gone | itself)
            .map_err(|error| named(error.into()))?;
        println!("watching {}", directory.display());
        Ok(Self { changes, watched: Watched { directory, on: BTreeMap::new() } })
    }

    /// Applies what is there and then follows the changes, until the directory itself is gone. What goes
    /// wrong with a single patch library is printed.
    pub(crate) fn run(self) -> Result<Infallible> {
        let Self { changes, mut watched } = self;
        // After the watch began: what comes in between is seen twice rather than never.
        watched.compare_all()?;
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut changes = Reader::new(changes, &mut space);
        loop {
            let change = match changes.next() {
                Err(Errno::INTR) => continue,
                change => change?,
            };
            let (events, name) = (change.events(), change.file_name());
            if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
                return Err("it is gone".into());
            } else if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                watched.compare_all()?;
            } else if let Some(name) = name {
                watched.compare(OsStr::from_bytes(name.to_bytes()), events);
            }
        }
    }
}

struct Watched {
    directory: PathBuf,
    /// What is on of the file of each name, the newest last. More than one only if a rollback failed.
    on: BTreeMap<OsString, Vec<Applied>>,
}

impl Watched {
    /// Everything anew, files in the order of their names.
    fn compare_all(&mut self) -> Result<()> {
        let files = self.directory.read_dir()?.map(|file| file.map(|file| file.file_name()));
        let mut names: Vec<_> = files.collect::<std::io::Result<_>>()?;
        names.extend(self.on.keys().cloned());
        names.sort();
        names.dedup();
        for name in names {
            let exists = self.directory.join(&name).exists();
            self.compare(&name, if exists { ReadFlags::MOVED_TO } else { ReadFlags::MOVED_FROM });
        }
        Ok(())
    }

    /// Something happened to a file. What the directory looks like now counts, since that may be newer.
    fn compare(&mut self, name: &OsStr, events: ReadFlags) {
        let path = self.directory.join(name);
        if path.extension() != Some(OsStr::new("so")) {
            return;
        }
        let written = events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO);
        let done = match (written, path.exists()) {
            (true, true) => self.put_on(name, &path),
            (false, false) => self.take_off(name),
            // Removed since, or there anew: that will be an event of its own.
            _ => return,
        };
        if let Err(error) = done {
            println!("{}: {error}", name.display());
        }
    }

    /// The new one goes on top of the old one, and then the old one is rolled back below it: so every call
    /// meets one of them.
    fn put_on(&mut self, name: &OsStr, path: &Path) -> Result<()> {
        trust::directory(&self.directory)?;
        trust::file(path)?;
        let patch = Patch::open(path)?;
        println!("{}: {}", name.display(), patch.check()?);
        // SAFETY: whoever could put it here answers for it, as `--help` says: nobody else can.
        let applied = match unsafe { patch.apply(&Options::new()) } {
            Err(Error::AlreadyApplied { .. }) => {
                println!("{}: is on already", name.display());
                return Ok(());
            }
            applied => applied?,
        };
        println!("{}: applied {applied}", name.display());
        let older = self.on.insert(name.to_owned(), vec![applied]).unwrap_or_default();
        self.roll_back(name, older)
    }

    fn take_off(&mut self, name: &OsStr) -> Result<()> {
        let all = self.on.remove(name).unwrap_or_default();
        self.roll_back(name, all)
    }

    /// What cannot be rolled back is kept, to be tried again at the next occasion.
    fn roll_back(&mut self, name: &OsStr, all: Vec<Applied>) -> Result<()> {
        let mut failed = Ok(());
        for applied in all.into_iter().rev() {
            match applied.rollback() {
                Ok(held) => println!("{}: rolled back {}, {held}", name.display(), applied.name()),
                Err(error) => {
                    failed = Err(error.into());
                    self.on.entry(name.to_owned()).or_default().insert(0, applied);
                }
            }
        }
        failed
    }
}
