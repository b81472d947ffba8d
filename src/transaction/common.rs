//! The lock of all commits in the process, also of other copies of this library: a program and a plugin may each have
//! one linked in. It lies on a page that all of them look for at the same addresses; the first that commits
//! maps it. Each copy keeps its own account of what it did: what one has changed, another refuses to touch.

use super::lock::Lock;
use crate::error::Error;
use crate::sys::{self, Errno};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// Tried in this order by every copy: outside of where Linux puts anything by itself. The first lies beyond what
/// AddressSanitizer keeps for itself, the second within 39-bit address spaces.
const ADDRESSES: [usize; 3] = [0x2000_4d4c_0000, 0x4d_4c46_0000, 0x1_4d4c_0000];

/// `MIDFLGHT`, and the version of what follows: changes whenever [`Lock`] does.
const MARK: u64 = u64::from_le_bytes(*b"MIDFLGHT");
const VERSION: u64 = 1;

const PAGE: usize = 4096;
/// How long a page without a mark may still become one: somebody has just mapped it.
const PATIENCE: u64 = 1_000_000_000;

/// What stands on the page.
#[repr(C)]
struct Common {
    /// Stored last.
    mark: AtomicU64,
    version: AtomicU64,
    commit: Lock<()>,
}

/// The lock, found or made.
pub(super) fn commit_lock() -> Result<&'static Lock<()>, Error> {
    static FOUND: OnceLock<&Lock<()>> = OnceLock::new();
    if let Some(lock) = FOUND.get() {
        return Ok(lock);
    }
    let found = find()?;
    Ok(FOUND.get_or_init(|| found))
}

fn find() -> Result<&'static Lock<()>, Error> {
    let mut last = Errno(libc::ENOMEM);
    // One that is there already counts, also behind an address that has become free.
    let marked = ADDRESSES.into_iter().find(|address| mark(*address) == Some(MARK));
    for address in marked.into_iter().chain(ADDRESSES) {
        match map(address) {
            Ok(()) => {}
            Err(Errno(libc::EEXIST)) if is_ours(address) => {}
            Err(errno) => {
                last = errno;
                continue;
            }
        }
        // SAFETY: our page, or one of another copy, which has the mark: mapped for ever, zeroed at first.
        let common = unsafe { &*(address as *const Common) };
        let version = common.version.load(Acquire);
        if version != VERSION {
            return Err(Error::OtherCopy { version, ours: VERSION });
        }
        return Ok(&common.commit);
    }
    Err(Error::Kernel { step: "map the lock of all copies of midflight", source: last.into() })
}

/// Maps the page, unless something is there: then EEXIST.
fn map(address: usize) -> Result<(), Errno> {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as usize;
    // SAFETY: a new mapping, which replaces nothing.
    let got = unsafe { sys::call(libc::SYS_mmap, [address, PAGE, protection, flags, usize::MAX, 0])? };
    if got != address {
        // Before Linux 4.17 the address is a wish.
        // SAFETY: mapped just now, and known to nobody.
        let _ = unsafe { sys::call(libc::SYS_munmap, [got, PAGE, 0, 0, 0, 0]) };
        return Err(Errno(libc::EEXIST));
    }
    // SAFETY: mapped just now, zeroed, never unmapped; all fields are atomic, and zero is a free lock.
    let common = unsafe { &*(address as *const Common) };
    common.version.store(VERSION, Release);
    common.mark.store(MARK, Release);
    Ok(())
}

/// Is what lies there the page of another copy?
fn is_ours(address: usize) -> bool {
    let end = sys::now().saturating_add(PATIENCE);
    loop {
        match mark(address) {
            Some(MARK) => return true,
            Some(0) if sys::now() < end => sys::sleep(1_000_000),
            _ => return false,
        }
    }
}

/// The word at the start of a page, if there is one.
fn mark(address: usize) -> Option<u64> {
    let mut mark = [0; 8];
    (sys::read_memory(address as u64, &mut mark) == Ok(mark.len())).then_some(u64::from_le_bytes(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_found_again() {
        let lock = commit_lock().unwrap();
        let again = find().unwrap();
        assert!(std::ptr::eq(lock, again));
        let page = std::ptr::from_ref(lock) as usize / PAGE * PAGE;
        assert!(ADDRESSES.contains(&page));
        assert_eq!(map(page), Err(Errno(libc::EEXIST)));
        assert!(is_ours(page));
        assert!(!is_ours(std::ptr::from_ref(&MARK) as usize / PAGE * PAGE + 1));
    }
}
