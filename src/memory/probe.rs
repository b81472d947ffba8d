//! May memory that was writable become executable? Asked before code is made writable, since it could not be
//! put back where it may not: under PR_SET_MDWE (Linux 6.3), some seccomp filters and SELinux.

use crate::sys::{self, Errno};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PAGE: usize = 4096;
const RW: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
const RX: usize = (libc::PROT_READ | libc::PROT_EXEC) as usize;

/// A page of our own that is never touched, readable and writable; 0 until it is mapped. Two threads that ask at once may map one
/// each; the second is not used again.
static SCRATCH: AtomicUsize = AtomicUsize::new(0);

/// Tries it on a page of our own.
pub(crate) fn may_become_executable() -> Result<(), Errno> {
    let page = scratch()?;
    // SAFETY: our own page, which holds nothing.
    unsafe { sys::call(libc::SYS_mprotect, [page, PAGE, RX, 0, 0, 0])? };
    // SAFETY: as above.
    unsafe { sys::call(libc::SYS_mprotect, [page, PAGE, RW, 0, 0, 0]) }.map(drop)
}

fn scratch() -> Result<usize, Errno> {
    let known = SCRATCH.load(Relaxed);
    if known != 0 {
        return Ok(known);
    }
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    // SAFETY: a new mapping, which replaces nothing.
    let page = unsafe { sys::call(libc::SYS_mmap, [0, PAGE, RW, flags, usize::MAX, 0])? };
    SCRATCH.store(page, Relaxed);
    Ok(page)
}
