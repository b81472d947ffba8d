//! Who else could put code into this process through a directory?
//!
//! Trusted are root and the effective user of this process. The way to the directory is gone one name at a time
//! from the root, each opened in the one before and judged while open: what was judged is what is used. A
//! directory on the way must belong to a trusted user, and nobody else may write to it unless it is sticky (as
//! /tmp): there others can neither rename nor remove what is not theirs (unlink(2)). Links on the way must belong to
//! trusted users too. To the directory itself, and to the files in it, nobody else may write at all.
//!
//! Rights of groups count as those of others, since nobody knows who is in a group. Under POSIX access lists the
//! group's bits are the mask of the list (acl(5)), so a list that lets others write is seen there. Other kinds
//! of lists (NFSv4), and what a file server, a user namespace or a capability lets others do, are not seen.

use crate::error::Error;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
const NEW_FILE: &str = "copy it to a new file and rename that into the directory";
/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Where a directory stands, and which one it is: to be opened and judged again each time. It is not kept open,
/// since the kernel tells of the end of a directory only when nobody has it open.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    /// Without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, judged anew with all above it.
    pub(super) fn open(&self) -> Result<Directory, Error> {
        let directory = Directory::open(&self.path)?;
        let now = directory.place()?;
        if (now.device, now.inode) != (self.device, self.inode) || now.path != self.path {
            let source = io::Error::new(io::ErrorKind::NotFound, "another directory stands in its place");
            return Err(Error::Watch { path: self.path.clone(), source });
        }
        Ok(directory)
    }
}

/// A directory that was judged when it was opened, and its path without links.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens `path` and judges it and every directory above it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Watch { path: path.to_owned(), source: error };
        let absolute = std::path::absolute(path).map_err(failed)?;
        let mut way = Way { failed: &failed, opened: vec![Way::root(&failed)?], links: 0 };
        way.go(&absolute)?;
        let (fd, path) = way.opened.pop().ok_or_else(|| failed(Errno::NOENT.into()))?;
        // The same one again: what is open as a mere place (`PATH`) cannot be read.
        let fd = openat(&fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let directory = Self { fd, path };
        judge(&directory.path, &directory.stat()?, OTHERS_MAY_WRITE)?;
        Ok(directory)
    }

    pub(super) fn place(&self) -> Result<Place, Error> {
        let stat = self.stat()?;
        Ok(Place { path: self.path.clone(), device: stat.st_dev, inode: stat.st_ino })
    }

    /// Without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A name for inotify_add_watch(2), which takes no descriptor.
    pub(super) fn by_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/thread-self/fd/{}", self.fd.as_raw_fd()))
    }

    /// What stands in it now.
    pub(super) fn names(&self) -> Result<Vec<OsString>, Error> {
        let failed = |errno: Errno| Error::Watch { path: self.path.clone(), source: errno.into() };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            names.push(OsStr::from_bytes(entry.map_err(failed)?.file_name().to_bytes()).to_owned());
        }
        Ok(names)
    }

    fn stat(&self) -> Result<Stat, Error> {
        fstat(&self.fd).map_err(|errno| Error::Watch { path: self.path.clone(), source: errno.into() })
    }

    pub(super) fn has(&self, name: &OsStr) -> bool {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Opens a regular file in it that only trusted users can write to; none if there is no such name.
    pub(super) fn file(&self, name: &OsStr, distrusted: &mut Distrusted) -> Result<Option<File>, Error> {
        let path = self.path.join(name);
        // Neither waits for a pipe's other end nor takes a terminal, should it be one.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let untrusted = |reason: &str| Error::Untrusted { path: path.clone(), reason: reason.to_owned() };
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                distrusted.0.remove(name);
                return Ok(None);
            }
            Err(Errno::LOOP) => return Err(untrusted("it is a symbolic link; put the file itself there")),
            Err(errno) => return Err(Error::ReadPatch { path, source: errno.into() }),
        };
        let stat =
            fstat(&fd).map_err(|errno| Error::ReadPatch { path: path.clone(), source: errno.into() })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(untrusted("it is not a regular file"));
        }
        let inode = (stat.st_dev, stat.st_ino);
        let judged = judge(&path, &stat, OTHERS_MAY_WRITE);
        let was_known = distrusted.0.values().any(|known| *known == inode);
        if judged.is_err() || was_known {
            distrusted.0.insert(name.to_owned(), inode);
            let why = "others could write to it before, and whoever has it open still can";
            return Err(judged.err().unwrap_or_else(|| untrusted(&format!("{why}; {NEW_FILE}"))));
        }
        distrusted.0.remove(name);
        Ok(Some(File::from(fd)))
    }
}

/// Device and inode of files that others could write to, by their names. Rights are asked for when a file is opened
/// (open(2)): whoever had it open for writing can write to it after they are gone. A file is forgotten when its name
/// is gone or another file's, since inodes are used again.
#[derive(Debug, Default)]
pub(super) struct Distrusted(BTreeMap<OsString, (u64, u64)>);

/// The way from the root to a directory: what is open, with its path.
struct Way<'f> {
    failed: &'f dyn Fn(io::Error) -> Error,
    opened: Vec<(OwnedFd, PathBuf)>,
    links: usize,
}

impl Way<'_> {
    const STEP: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

    fn root(failed: &dyn Fn(io::Error) -> Error) -> Result<(OwnedFd, PathBuf), Error> {
        let fd = openat(CWD, "/", Self::STEP, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let stat = fstat(&fd).map_err(|errno| failed(errno.into()))?;
        let path = PathBuf::from("/");
        judge(&path, &stat, unless_sticky(&stat))?;
        Ok((fd, path))
    }

    /// Goes along an absolute path.
    fn go(&mut self, path: &Path) -> Result<(), Error> {
        let mut todo: VecDeque<OsString> = names(path);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                if self.opened.len() > 1 {
                    self.opened.pop();
                }
                continue;
            }
            if let Some(target) = self.step(&name)? {
                self.links += 1;
                if self.links > MOST_LINKS {
                    return Err((self.failed)(Errno::LOOP.into()));
                }
                if target.is_absolute() {
                    self.opened.truncate(1);
                }
                names(&target).into_iter().rev().for_each(|name| todo.push_front(name));
            }
        }
        Ok(())
    }

    /// Goes to `name`, or answers where the link of that name leads.
    fn step(&mut self, name: &OsStr) -> Result<Option<PathBuf>, Error> {
        let failed = |errno: Errno| (self.failed)(errno.into());
        let Some((here, path)) = self.opened.last() else { return Err(failed(Errno::NOENT)) };
        let fd = openat(here, name, Self::STEP, Mode::empty()).map_err(failed)?;
        let (stat, path) = (fstat(&fd).map_err(failed)?, path.join(name));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                // The mode of a link means nothing (symlink(7)).
                judge(&path, &stat, 0)?;
                let target = readlinkat(&fd, "", Vec::new()).map_err(failed)?;
                Ok(Some(OsString::from_vec(target.into_bytes()).into()))
            }
            FileType::Directory => {
                judge(&path, &stat, unless_sticky(&stat))?;
                self.opened.push((fd, path));
                Ok(None)
            }
            _ => Err(failed(Errno::NOTDIR)),
        }
    }
}

/// The names of a path in order, `..` among them.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    names.collect()
}

fn unless_sticky(stat: &Stat) -> u32 {
    if stat.st_mode & STICKY != 0 { 0 } else { OTHERS_MAY_WRITE }
}

/// Does it belong to a trusted user, and has nobody else a right among `forbidden`?
fn judge(path: &Path, stat: &Stat, forbidden: u32) -> Result<(), Error> {
    let (owner, ours) = (stat.st_uid, geteuid().as_raw());
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let untrusted = |reason| Err(Error::Untrusted { path: path.to_owned(), reason });
    if owner != 0 && owner != ours {
        let advice = if is_file { NEW_FILE } else { "chown it, or use another place" };
        return untrusted(format!(
            "it belongs to user {owner}, who is neither root nor the user {ours} of this process; {advice}"
        ));
    }
    if stat.st_mode & forbidden != 0 {
        let advice = if is_file { NEW_FILE } else { "take that away with chmod go-w" };
        return untrusted(format!(
            "others than its owner may write to it (mode {:03o}); {advice}",
            stat.st_mode & 0o7777
        ));
    }
    Ok(())
}
