//! A patch library, from its file to being on.

use crate::applied::Applied;
use crate::change::{Target, resolve_all};
use crate::error::Error;
use crate::loader::{self, Loaded};
use crate::manifest::{self, Manifest};
use crate::options::Options;
use crate::plan::Check;
use crate::process::{HeldTarget, Remembered};
use crate::transaction::{self, Change, MACHINE, OriginalCell, Request, Session};
use parking_lot::Mutex;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A patch library that was opened: its manifest has been read from its bytes, and none of its code has
/// run. A handle: clones are the same patch, and dropping it changes nothing.
///
/// What was read is what will be loaded, whatever happens to the file in between.
#[derive(Clone)]
pub struct Patch {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    bytes: Arc<[u8]>,
    manifest: Manifest,
    targets: Vec<Target>,
    known: Remembered,
    /// Once loaded it stays so.
    loaded: Mutex<Option<Loaded>>,
}

impl Patch {
    /// Reads and checks the file; nothing of it is loaded.
    ///
    /// # Errors
    /// [`Error::ReadPatch`] if there is no such file, [`Error::BadPatch`] if it is no patch library for this machine.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let bytes = read(&path).map_err(|source| Error::ReadPatch { path: path.clone(), source })?;
        let manifest = manifest::parse(&bytes, MACHINE)
            .map_err(|fault| Error::BadPatch { path: path.clone(), fault })?;
        let targets = manifest.replacements.iter().map(|one| Target::Name(one.target.clone())).collect();
        let (known, loaded) = (Remembered::default(), Mutex::new(None));
        let bytes = bytes.into();
        Ok(Self { inner: Arc::new(Inner { path, bytes, manifest, targets, known, loaded }) })
    }

    /// The name that the patch gives itself.
    pub fn name(&self) -> &str {
        &self.inner.manifest.name
    }

    /// The file as it was named.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The functions that it replaces, as it names them.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.inner.manifest.replacements.iter().map(|one| one.target.as_str())
    }

    /// A dry run: finds every target, measures every site and looks for what the library needs. Changes
    /// nothing, loads nothing.
    ///
    /// # Errors
    /// What stands in the way, all of it.
    pub fn check(&self) -> Result<Check, Error> {
        let session = Session::to_look()?;
        let bias = self.loaded().map(|loaded| loaded.bias);
        let mut errors = Vec::new();
        errors.extend(self.check_symbols().err());
        let targets = self.resolve().map(|targets| {
            let replacements = self.inner.manifest.replacements.iter();
            let with = |(target, one): (HeldTarget, &manifest::Replacement)| {
                (target, bias.map(|bias| bias.wrapping_add(one.replacement)))
            };
            targets.into_iter().zip(replacements).map(with).collect::<Vec<_>>()
        });
        let check = targets.and_then(|targets| session.check(self.name(), &targets));
        match check {
            Ok(check) => Error::all(errors).map(|()| check),
            Err(error) => {
                errors.push(error);
                Err(Error::all(errors).err().unwrap_or(Error::Empty))
            }
        }
    }

    /// Loads the library and switches all its targets, or none. Its constructors run first, once.
    ///
    /// # Errors
    /// As of [`Self::check`], those of loading, [`Error::AlreadyApplied`], and those of the commit. No function has
    /// been changed then; the library may have been loaded, and stays so.
    ///
    /// # Safety
    /// * Each replacement has its target's ABI, signature and types of the same layout.
    /// * It upholds what callers of the target rely on; so does the target after a rollback at any time.
    /// * The target was compiled so that it can be replaced: its callers use nothing of it but its calling
    ///   convention (not inlined, no constant folded in, no register known to survive). In Rust
    ///   [`patchable!`](crate::patchable) does that; `docs/targets.md` tells the rest.
    /// * The constructors of the library may run now, on this thread.
    pub unsafe fn apply(&self, options: &Options) -> Result<Applied, Error> {
        if self.is_applied() {
            return Err(Error::AlreadyApplied { name: self.name().to_owned() });
        }
        let session = Session::begin(options)?;
        let targets = self.resolve()?;
        self.check_before_loading(&session, &targets)?;
        let loaded = self.load()?;
        let changes = targets.into_iter().zip(&self.inner.manifest.replacements).map(|(target, one)| {
            let original = match one.original {
                // SAFETY: the manifest says that this is an aligned cell in memory that stays writable; its
                // library is never unloaded.
                Some(cell) => unsafe { OriginalCell::at(loaded.bias.wrapping_add(cell)) },
                None => OriginalCell::None,
            };
            Change { target, replacement: loaded.bias.wrapping_add(one.replacement), original }
        });
        let request = Request {
            name: self.name().to_owned(),
            path: Some(self.inner.path.clone()),
            image: Some(Arc::clone(&self.inner.bytes)),
            changes: changes.collect(),
        };
        session.apply(request).map(Applied::new)
    }

    fn is_applied(&self) -> bool {
        let same = |entry: &Arc<transaction::Entry>| {
            entry.image.as_ref().is_some_and(|image| *image == self.inner.bytes)
        };
        transaction::applied().iter().any(same)
    }

    fn resolve(&self) -> Result<Vec<HeldTarget>, Error> {
        resolve_all(&self.inner.known, self.inner.targets.iter())
    }

    /// What can be known to fail fails before any code of the library runs.
    fn check_before_loading(&self, session: &Session, targets: &[HeldTarget]) -> Result<(), Error> {
        if self.loaded().is_some() {
            return Ok(());
        }
        self.check_symbols()?;
        let targets: Vec<_> = targets.iter().map(|target| (target.clone(), None)).collect();
        session.check(self.name(), &targets).map(drop)
    }

    fn check_symbols(&self) -> Result<(), Error> {
        let Manifest { undefined, needed, .. } = &self.inner.manifest;
        match loader::missing(undefined, needed) {
            Some(names) if !names.is_empty() => {
                Err(Error::UndefinedSymbols { path: self.inner.path.clone(), names })
            }
            _ => Ok(()),
        }
    }

    fn loaded(&self) -> Option<Loaded> {
        *self.inner.loaded.lock()
    }

    fn load(&self) -> Result<Loaded, Error> {
        let mut loaded = self.inner.loaded.lock();
        match *loaded {
            Some(loaded) => Ok(loaded),
            None => {
                let new = loader::load(&self.inner.bytes, &self.inner.path)?;
                *loaded = Some(new);
                Ok(new)
            }
        }
    }
}

/// The whole of a regular file.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    std::fs::read(path)
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patch")
            .field("path", &self.inner.path)
            .field("manifest", &self.inner.manifest)
            .finish()
    }
}
