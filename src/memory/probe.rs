//! May memory that was writable become executable? Asked before code is made writable, since it could not be
//! put back where it may not: under PR_SET_MDWE (Linux 6.3), some seccomp filters and SELinux.

use crate::sys::{self, Errno};

/// Tries it on a page of our own, which takes three system calls.
pub(crate) fn may_become_executable() -> Result<(), Errno> {
    const PAGE: usize = 4096;
    let (rw, rx) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    // SAFETY: a new mapping, which replaces nothing.
    let page = unsafe { sys::call(libc::SYS_mmap, [0, PAGE, rw as usize, flags, usize::MAX, 0])? };
    // SAFETY: our own page.
    let answer = unsafe { sys::call(libc::SYS_mprotect, [page, PAGE, rx as usize, 0, 0, 0]) };
    // SAFETY: our own page, of which nobody has the address.
    let _ = unsafe { sys::call(libc::SYS_munmap, [page, PAGE, 0, 0, 0, 0]) };
    answer.map(drop)
}
