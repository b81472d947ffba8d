//! A patch library, from its file to being on.

use crate::applied::{Applied, applied};
use crate::change::{Target, resolve_all};
use crate::error::Error;
use crate::loader::{self, Loaded};
use crate::manifest::{self, Manifest};
use crate::options::Options;
use crate::plan::{self, Built, Check, Note, Rules};
use crate::process::{self, HeldTarget, Remembered};
use crate::transaction::{Change, MACHINE, OriginalCell, Request, Session};
use parking_lot::Mutex;
use std::fmt;
use std::fs::File;
use std::io::Read;
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
        let path = path.as_ref();
        match open_regular(path) {
            Ok(file) => Self::from_file(path, file),
            Err(source) => Err(Error::ReadPatch { path: path.to_owned(), source }),
        }
    }

    /// As [`Self::open`], of a file that is open already; `path` is what reports call it.
    pub(crate) fn from_file(path: &Path, mut file: File) -> Result<Self, Error> {
        let (path, mut bytes) = (path.to_owned(), Vec::new());
        file.read_to_end(&mut bytes).map_err(|source| Error::ReadPatch { path: path.clone(), source })?;
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

    /// A dry run: finds every target, measures every site, looks for what the library needs and compares how its Rust
    /// code was built with that of the targets. Changes nothing, loads nothing. With the default [`Options`].
    ///
    /// # Errors
    /// What stands in the way, all of it.
    pub fn check(&self) -> Result<Check, Error> {
        self.check_with(&Options::new())
    }

    /// As [`Self::check`], of what [`Self::apply`] allows with these options. The deadline plays no part.
    ///
    /// # Errors
    /// As of [`Self::check`].
    pub fn check_with(&self, options: &Options) -> Result<Check, Error> {
        let session = Session::to_look(options)?;
        let bias = self.loaded().map(|loaded| loaded.bias);
        let mut errors = Vec::new();
        errors.extend(self.check_symbols().err());
        let targets = self.resolve(options).map(|targets| {
            let replacements = self.inner.manifest.replacements.iter();
            let with = |(targets, one): (Vec<HeldTarget>, &manifest::Replacement)| {
                let replacement = bias.map(|bias| bias.wrapping_add(one.replacement));
                targets.into_iter().map(move |target| (target, replacement))
            };
            targets.into_iter().zip(replacements).flat_map(with).collect::<Vec<_>>()
        });
        let runtimes = targets.as_ref().map_or(Ok(Vec::new()), |targets| {
            self.compare_runtimes(targets.iter().map(|(target, _)| target), options)
        });
        let mut notes = Vec::new();
        for found in [runtimes, self.check_interposed(options)] {
            match found {
                Ok(found) => notes.extend(found),
                Err(error) => errors.push(error),
            }
        }
        let check = targets.and_then(|targets| session.check(self.name(), &targets));
        match check {
            Ok(check) => Error::all(errors).map(|()| Check { notes, ..check }),
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
    /// * With [`Options::allow_other_runtime`] also what stands there.
    pub unsafe fn apply(&self, options: &Options) -> Result<Applied, Error> {
        if self.is_applied() {
            return Err(Error::AlreadyApplied { name: self.name().to_owned() });
        }
        let session = Session::begin(options)?;
        let targets = self.resolve(options)?;
        let notes = self.compare_runtimes(targets.iter().flatten(), options)?;
        for note in notes.into_iter().chain(self.check_interposed(options)?) {
            tracing::info!(patch = self.name(), %note, "apply");
        }
        self.check_before_loading(&session, &targets)?;
        let loaded = self.load()?;
        let replacements = &self.inner.manifest.replacements;
        let changes = targets.into_iter().zip(replacements).flat_map(|(targets, one)| {
            let original = match one.original {
                // SAFETY: the manifest says that this is an aligned cell in memory that stays writable; its
                // library is never unloaded.
                Some(cell) => unsafe { OriginalCell::at(loaded.bias.wrapping_add(cell)) },
                None => OriginalCell::None,
            };
            Change::of_copies(targets, loaded.bias.wrapping_add(one.replacement), original)
        });
        let request = Request {
            name: self.name().to_owned(),
            path: Some(self.inner.path.clone()),
            image: Some(Arc::clone(&self.inner.bytes)),
            changes: changes.collect(),
        };
        session.apply(request).map(Applied::new)
    }

    /// Was `applied` applied from these bytes?
    #[cfg(feature = "watch")]
    pub(crate) fn is_of(&self, applied: &Applied) -> bool {
        applied.is_of(&self.inner.bytes)
    }

    /// Was `other` read from the same bytes?
    #[cfg(feature = "watch")]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.inner.bytes == other.inner.bytes
    }

    fn is_applied(&self) -> bool {
        applied().iter().any(|applied| applied.is_of(&self.inner.bytes))
    }

    fn resolve(&self, options: &Options) -> Result<Vec<Vec<HeldTarget>>, Error> {
        resolve_all(&self.inner.known, options, self.inner.targets.iter())
    }

    /// What can be known to fail fails before any code of the library runs.
    fn check_before_loading(&self, session: &Session, targets: &[Vec<HeldTarget>]) -> Result<(), Error> {
        if self.loaded().is_some() {
            return Ok(());
        }
        self.check_symbols()?;
        let targets: Vec<_> = targets.iter().flatten().map(|target| (target.clone(), None)).collect();
        session.check(self.name(), &targets).map(drop)
    }

    fn compare_runtimes<'t>(
        &'t self,
        targets: impl Iterator<Item = &'t HeldTarget>,
        options: &Options,
    ) -> Result<Vec<Note>, Error> {
        let of_rust = targets.filter_map(|HeldTarget { target, .. }| {
            Some((&*target.name, Built { path: &target.module, build: target.build.as_deref()? }))
        });
        let library = Built { path: &self.inner.path, build: &self.inner.manifest.build };
        let rules = Rules { other_runtime: options.other_runtime, panic_aborts: cfg!(panic = "abort") };
        plan::compare_runtimes(library, of_rust, rules)
    }

    /// What the library defines stays its own, or is said.
    fn check_interposed(&self, options: &Options) -> Result<Vec<Note>, Error> {
        let own = &self.inner.manifest.interposable;
        let (mut names, weak) = (loader::defined_before(&own.strong), loader::defined_before(&own.weak));
        if !names.is_empty() && !options.interposed {
            return Err(Error::Interposed { path: self.inner.path.clone(), names });
        }
        names.extend(weak);
        Ok(if names.is_empty() { Vec::new() } else { vec![Note::Interposed { names }] })
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

    /// Is its Rust code built as the module that this library is part of, which runs the program's panics?
    fn is_of_this_runtime(&self) -> bool {
        let here = process::build_at(loader::load as *const () as u64, MACHINE);
        here.is_some_and(|here| plan::is_same_runtime(&self.inner.manifest.build, &here))
    }

    fn load(&self) -> Result<Loaded, Error> {
        let mut loaded = self.inner.loaded.lock();
        match *loaded {
            Some(loaded) => Ok(loaded),
            None => {
                let new = loader::load(loader::Library {
                    bytes: &self.inner.bytes,
                    path: &self.inner.path,
                    attach: self.inner.manifest.attach,
                    same_runtime: self.is_of_this_runtime(),
                })?;
                *loaded = Some(new);
                Ok(new)
            }
        }
    }
}

/// Asked first: opening something else may wait for ever or have effects.
fn open_regular(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    File::open(path)
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patch")
            .field("path", &self.inner.path)
            .field("manifest", &self.inner.manifest)
            .finish()
    }
}
