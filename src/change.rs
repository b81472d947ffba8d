//! Changes by hand: several functions at once, or one.

use crate::applied::Applied;
use crate::error::Error;
use crate::options::Options;
use crate::plan::Check;
use crate::process::{HeldTarget, Policy, Remembered, Resolver};
use crate::transaction::{Change, Held, MACHINE, OriginalCell, Request, Session};
use midflight_patch::{FnPointer, Original};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire};

/// What is to be replaced: a name as in [`Transaction::replace`], or the address of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// `[module!]symbol`, raw or demangled.
    Name(String),
    /// Run-time address of the first byte.
    Address(u64),
}

impl From<&str> for Target {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Target {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<*const ()> for Target {
    fn from(address: *const ()) -> Self {
        Self::Address(address as u64)
    }
}

impl Target {
    fn resolve(&self, resolver: &Resolver) -> Result<Vec<HeldTarget>, Error> {
        match self {
            Self::Name(name) => resolver.by_name(name),
            Self::Address(address) => resolver.by_address(*address),
        }
    }
}

/// Replacements that switch together.
///
/// ```no_run
/// use midflight::{Options, Original, Transaction};
///
/// static OLD: Original<fn(&str) -> usize> = Original::new();
///
/// fn my_count(text: &str) -> usize {
///     OLD.get()(text) + 1
/// }
///
/// # fn main() -> midflight::Result<()> {
/// let mut change = Transaction::new();
/// change.replace_fn("app::count", &OLD, my_count);
/// println!("{}", change.check()?);
/// // SAFETY: `my_count` has the type of `app::count` and does what its callers expect.
/// let applied = unsafe { change.commit(&Options::new())? };
/// applied.rollback()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Transaction {
    changes: Vec<(Target, u64, OriginalCell)>,
    known: Remembered,
}

impl Transaction {
    /// Without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls of `target` are to go to `replacement`, the address of a function. A target is named as
    /// `[module!]symbol`, the symbol raw or demangled (Rust without its hash, C++ with or without
    /// parameters), or given by its address.
    pub fn replace(&mut self, target: impl Into<Target>, replacement: *const ()) -> &mut Self {
        self.push(target.into(), replacement as u64, OriginalCell::None)
    }

    /// As [`Self::replace`], for a function of which the type is known, with a place for the original. It is
    /// filled before the first byte of the program changes, and stays callable as long as the target's library is
    /// loaded. An `Original` serves one replacement at a time.
    pub fn replace_fn<F: FnPointer>(
        &mut self,
        target: impl Into<Target>,
        original: &'static Original<F>,
        replacement: F,
    ) -> &mut Self {
        // SAFETY: the cell of a static `Original`, which is one atomic pointer.
        let cell = unsafe { OriginalCell::at(original.as_slot() as u64) };
        self.push(target.into(), F::address(replacement) as u64, cell)
    }

    fn push(&mut self, target: Target, replacement: u64, original: OriginalCell) -> &mut Self {
        self.changes.push((target, replacement, original));
        self.known.forget();
        self
    }

    /// A dry run: finds every target and measures every site, and changes nothing. With the default [`Options`].
    ///
    /// # Errors
    /// What stands in the way, all of it.
    pub fn check(&self) -> Result<Check, Error> {
        self.check_with(&Options::new())
    }

    /// As [`Self::check`], for a commit with these options.
    ///
    /// # Errors
    /// As of [`Self::check`].
    pub fn check_with(&self, options: &Options) -> Result<Check, Error> {
        let session = Session::to_look(options)?;
        let targets = self.resolve(options)?.into_iter().zip(&self.changes);
        let targets = targets.flat_map(|(targets, (_, replacement, _))| {
            targets.into_iter().map(|target| (target, Some(*replacement)))
        });
        let targets: Vec<_> = targets.collect();
        session.check(&self.name(), &targets)
    }

    /// Commits: from one moment on all changes are in force; or an error says why none is.
    ///
    /// # Errors
    /// As of [`Self::check`], and those of the commit. Nothing has been changed then.
    ///
    /// # Safety
    /// * Each replacement has its target's ABI, signature and types of the same layout.
    /// * It upholds what callers of the target rely on; so does the target after a rollback at any time.
    /// * The target was compiled so that it can be replaced: its callers use nothing of it but its calling
    ///   convention (not inlined, no constant folded in, no register known to survive). In Rust
    ///   [`patchable!`](crate::patchable) does that; `docs/targets.md` tells the rest.
    pub unsafe fn commit(&self, options: &Options) -> Result<Applied, Error> {
        let session = Session::begin(options)?;
        let changes = self.resolve(options)?.into_iter().zip(&self.changes);
        let changes = changes.flat_map(|(targets, (_, replacement, original))| {
            Change::of_copies(targets, *replacement, original.clone())
        });
        let changes = changes.collect();
        let request = Request { name: self.name(), path: None, image: None, changes };
        session.apply(request).map(Applied::new)
    }

    fn resolve(&self, options: &Options) -> Result<Vec<Vec<HeldTarget>>, Error> {
        resolve_all(&self.known, options, self.changes.iter().map(|(target, ..)| target))
    }

    fn name(&self) -> String {
        match self.changes.as_slice() {
            [(Target::Name(name), ..)] => name.clone(),
            [(Target::Address(address), ..)] => format!("{address:#x}"),
            changes => format!("transaction of {} functions", changes.len()),
        }
    }
}

fn policy(options: &Options) -> Policy {
    Policy { every_copy: options.every_copy, folded_code: options.folded_code }
}

/// Finds all targets, each with its copies, or says of each that it was not found.
pub(crate) fn resolve_all<'a>(
    known: &Remembered,
    options: &Options,
    targets: impl Iterator<Item = &'a Target>,
) -> Result<Vec<Vec<HeldTarget>>, Error> {
    known.resolve(MACHINE, policy(options), |resolver| {
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for target in targets {
            match target.resolve(resolver) {
                Ok(target) => found.push(target),
                Err(error) => errors.push(error),
            }
        }
        Error::all(errors).map(|()| found)
    })
}

/// One function that was replaced by hand. A handle: clones are the same replacement, and dropping it
/// leaves the replacement on.
pub struct Hook<F> {
    applied: Applied,
    original: Arc<AtomicU64>,
    _function: std::marker::PhantomData<fn() -> F>,
}

impl<F: FnPointer> Hook<F> {
    /// The function as it was before: what this replacement lies on. Callable also after the rollback, as long
    /// as the library that the function belongs to is loaded.
    pub fn original(&self) -> F {
        let address = self.original.load(Acquire) as *const ();
        // SAFETY: the commit put the address of a function there that is called as `F`, for ever.
        unsafe { F::from_address(address) }
    }

    /// As [`Applied::rollback`].
    ///
    /// # Errors
    /// As of [`Applied::rollback`].
    pub fn rollback(&self) -> Result<Held, Error> {
        self.applied.rollback()
    }

    /// The handle without the type of the function.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }
}

impl<F> Clone for Hook<F> {
    fn clone(&self) -> Self {
        let (applied, original) = (self.applied.clone(), Arc::clone(&self.original));
        Self { applied, original, _function: std::marker::PhantomData }
    }
}

impl<F> fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("applied", &self.applied).finish_non_exhaustive()
    }
}

/// Replaces one function: from now on calls of `old` go to `new`, with the default [`Options`].
///
/// ```no_run
/// fn old(number: u64) -> u64 { number + 1 }
/// fn new(number: u64) -> u64 { number + 2 }
///
/// # fn main() -> midflight::Result<()> {
/// // SAFETY: both have the same type, and callers of `old` expect no more than a number.
/// let hook = unsafe { midflight::replace(old as fn(u64) -> u64, new as fn(u64) -> u64)? };
/// let as_before = hook.original()(7);
/// # let _ = as_before;
/// hook.rollback()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If `old` is not the beginning of a function with a symbol, or cannot be patched; if `new` is no code; and
/// those of the commit. Nothing has been changed then.
///
/// # Safety
/// As of [`Transaction::commit`].
pub unsafe fn replace<F: FnPointer>(old: F, new: F) -> Result<Hook<F>, Error> {
    // SAFETY: the caller's promise.
    unsafe { replace_with(old, new, &Options::new()) }
}

/// As [`replace`], with other options.
///
/// # Errors
/// As of [`replace`].
///
/// # Safety
/// As of [`Transaction::commit`].
pub unsafe fn replace_with<F: FnPointer>(old: F, new: F, options: &Options) -> Result<Hook<F>, Error> {
    let session = Session::begin(options)?;
    let targets = Resolver::new(MACHINE, policy(options)).by_address(F::address(old) as u64)?;
    let original = Arc::new(AtomicU64::new(0));
    let cell = OriginalCell::Shared(Arc::clone(&original));
    let name = targets.first().map(|target| target.target.name.clone()).unwrap_or_default();
    let changes = Change::of_copies(targets, F::address(new) as u64, cell).collect();
    let request = Request { name, path: None, image: None, changes };
    let applied = Applied::new(session.apply(request)?);
    Ok(Hook { applied, original, _function: std::marker::PhantomData })
}
