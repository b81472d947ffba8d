//! Code that runs while pages of the program are writable, and so not executable.
//!
//! Such a page may be the one that holds our own code, since the library is linked into the program. So
//! what the committing thread executes meanwhile, and what a parked thread executes (a futex wait may
//! return at any time for no reason), lies on pages of its own, in section `midflight_held`, and calls
//! nothing. The padding at the end of each body aligns both its beginning and its end, which is why
//! they are naked functions.

mod park;
mod run;

pub(crate) use park::park;
pub(crate) use run::*;

/// Bytes that each has for itself: a page of the largest size that Linux has on this machine.
pub(crate) const PAGE: u64 = if cfg!(target_arch = "x86_64") { 0x1000 } else { 0x1_0000 };

/// First addresses of those pages. No target lies there.
pub(crate) fn pages() -> [u64; 2] {
    [run as *const () as u64, park as *const () as u64]
}
