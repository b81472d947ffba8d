//! Patch libraries as the dynamic linker sees them. The bytes that were parsed are the bytes that are
//! loaded: they are kept in a sealed memfd, or a private file without a name, and opened from there.

mod copy;
mod panics;
mod symbols;

pub(crate) use copy::probe;
pub use panics::ForeignPanic;
pub(crate) use symbols::{defined_before, missing};

use crate::error::Error;
use copy::PrivateCopy;
use libloading::os::unix::Library as Handle;
use std::path::Path;

/// A loaded patch library. It stays mapped for ever: threads may be in it at any time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    /// Run-time address minus the address in the file.
    pub(crate) bias: u64,
}

/// What has to be known of a patch library to load it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Library<'p> {
    pub(crate) bytes: &'p [u8],
    /// What reports call it.
    pub(crate) path: &'p Path,
    /// The file's address of the function that is handed the program's way to resume panics.
    pub(crate) attach: Option<u64>,
    /// Are compiler and allocator known to be the program's?
    pub(crate) same_runtime: bool,
}

/// Loads the library; its constructors run.
pub(crate) fn load(library: Library<'_>) -> Result<Loaded, Error> {
    let Library { bytes, path, attach, same_runtime } = library;
    let copy = PrivateCopy::keep(bytes, path)?;
    // SAFETY: running the constructors is what the caller of `Patch::apply` allows. Bound at once, so that
    // a missing symbol shows now, and not visible to others.
    let library = unsafe { Handle::open(Some(copy.path()), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    let library =
        library.map_err(|error| Error::Load { path: path.to_owned(), message: message(&error, &copy) })?;
    let (bias, library) = crate::process::bias_of(library);
    // The handle and the copy are given away: neither the mapping nor the number in its name may be reused.
    let _ = library.into_raw();
    copy.keep_open();
    let bias = bias.ok_or_else(|| Error::Load {
        path: path.to_owned(),
        message: "the dynamic linker does not tell where it put the library".into(),
    })?;
    if let Some(attach) = attach {
        // SAFETY: the manifest says that this is such a function; whether runtimes are the same was compared.
        unsafe { panics::attach(bias.wrapping_add(attach), same_runtime) };
    }
    Ok(Loaded { bias })
}

/// The linker's message, without the name of our copy.
fn message(error: &libloading::Error, copy: &PrivateCopy) -> String {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = source.to_string();
    }
    let prefix = format!("{}: ", copy.path().display());
    text.replace(&prefix, "")
}
