//! Changing code while threads run in it: one aligned store of eight bytes, on a page that stays executable.
//!
//! The page is writable and executable from before the store to after it. Where a policy forbids that nothing is
//! changed, and the caller may hold the threads instead.

use super::coherence;
use super::script::Script;
use super::writer::{CodeChange, PointerChange, WriteFailure};
use crate::sys::{self, Errno};
use std::sync::atomic::AtomicU64;

const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
const RWX: i32 = RX | libc::PROT_WRITE;
const WORD: usize = 8;

/// Makes a change that lies in one aligned word, after the pointers that it leads to.
///
/// The caller knows that every thread may meet the bytes before and the bytes after at any moment: see
/// `SitePlan::changes_at_once` of `arch`.
pub(crate) fn write_running(change: &CodeChange, pointers: &[PointerChange]) -> Result<(), WriteFailure> {
    let start = change.address / WORD as u64 * WORD as u64;
    let mut old = [0; WORD];
    match sys::read_memory(start, &mut old) {
        Ok(WORD) => {}
        Ok(_) => return Err(WriteFailure::Kernel("read the target", Errno(libc::EFAULT))),
        Err(errno) => return Err(WriteFailure::Kernel("read the target", errno)),
    }
    let mut new = old;
    let from = (change.address - start) as usize;
    let place = new.get_mut(from..from + change.new.len()).filter(|place| **place == *change.old);
    place.ok_or(WriteFailure::Modified(0))?.copy_from_slice(&change.new);

    for pointer in pointers {
        // SAFETY: a slot of the registry, which lives for ever.
        super::publish(unsafe { AtomicU64::from_ptr(pointer.cell as *mut u64) }, pointer.value);
    }
    store(start, &old, &new)
}

/// Puts `new` in the place of `old`, or leaves `old` there.
fn store(start: u64, old: &[u8; WORD], new: &[u8; WORD]) -> Result<(), WriteFailure> {
    exchange(start, old, new)?;
    let mut check = Script::default();
    check.compare(start, new.as_ptr() as u64, WORD as u64);
    if coherence::has_barrier() {
        check.barrier();
    }
    let Err((step, errno)) = run(check) else { return Ok(()) };
    exchange(start, new, old)?;
    Err(match step {
        0 => WriteFailure::NotWritten(0),
        _ => WriteFailure::Kernel("synchronise the cores (membarrier)", errno),
    })
}

fn exchange(start: u64, old: &[u8; WORD], new: &[u8; WORD]) -> Result<(), WriteFailure> {
    let size = sys::page_size();
    let page = start / size * size;
    let [mut open, mut change, mut close] = <[Script; 3]>::default();
    open.protect(page, size, RWX);
    change.compare(start, old.as_ptr() as u64, WORD as u64);
    change.store(start, u64::from_ne_bytes(*new));
    close.protect_or_die(page, size, RX);
    close.cohere(start, WORD as u64);

    let refused = |(_, errno)| WriteFailure::Kernel("make code writable while threads run in it", errno);
    run(open).map_err(refused)?;
    let changed = run(change);
    // Cannot fail.
    let _ = run(close);
    changed.map_err(|_| WriteFailure::Modified(0))
}

fn run(mut script: Script) -> Result<(), (usize, Errno)> {
    script.finish();
    // SAFETY: the word is the target's, on a page that stays executable, and is stored at once.
    unsafe { script.run_from(0) }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::memory::NearBlock;

    /// A page of code with these bytes at its start, for ever.
    fn code(bytes: &[u8]) -> u64 {
        let at = 0x2345_6000_0000 + bytes.len() as u64 * 0x10_0000;
        let mut block = NearBlock::map(at, sys::page_size(), 0).unwrap();
        block.write_code(at, bytes);
        block.seal().unwrap();
        at
    }

    fn now(address: u64) -> [u8; 8] {
        let mut bytes = [0; 8];
        assert_eq!(sys::read_memory(address, &mut bytes), Ok(8));
        bytes
    }

    #[test]
    fn only_its_own_bytes_change() {
        let start = code(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let (old, new) = (vec![3, 4], vec![0x33, 0x44]);
        let change = CodeChange { address: start + 2, old, new, guarded: false };
        assert_eq!(write_running(&change, &[]), Ok(()));
        assert_eq!(now(start), [1, 2, 0x33, 0x44, 5, 6, 7, 8]);
        // The old bytes are not there any more.
        assert_eq!(write_running(&change, &[]), Err(WriteFailure::Modified(0)));
        assert_eq!(now(start), [1, 2, 0x33, 0x44, 5, 6, 7, 8]);
    }

    #[test]
    fn what_is_not_mapped_is_not_changed() {
        let change = CodeChange { address: 0x10, old: vec![1], new: vec![2], guarded: false };
        assert!(matches!(write_running(&change, &[]), Err(WriteFailure::Kernel(..))));
    }
}
