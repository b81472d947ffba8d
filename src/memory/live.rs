//! Changing code while threads run in it: one aligned store of four or eight bytes, on a page that stays executable.
//!
//! The page is writable and executable from before the store to after it. Where a policy forbids that nothing is
//! changed, and the caller may hold the threads instead.

use super::coherence;
use super::script::Script;
use super::writer::{CodeChange, PointerChange, WriteFailure, protection};
use crate::sys::{self, Errno};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// The aligned word that a change lies in: the smaller one that will do. On aarch64 that is one instruction, so that
/// its neighbour is not written.
#[derive(Debug, Clone, Copy)]
enum Word {
    Four { old: u32, new: u32 },
    Eight { old: u64, new: u64 },
}

/// Makes a change that lies in one aligned word, after the pointers that it leads to; with a barrier on all cores between
/// them if the processor may see the two in another `order`.
///
/// The caller knows that every thread may meet the bytes before and the bytes after at any moment: see
/// `Measure::changes_at_once` of `arch`.
pub(crate) fn write_running(
    change: &CodeChange,
    pointers: &[PointerChange],
    order: bool,
) -> Result<(), WriteFailure> {
    let (start, word) = word_of(change)?;
    for pointer in pointers {
        // SAFETY: a slot of the registry, which lives for ever.
        super::publish(unsafe { AtomicU64::from_ptr(pointer.cell as *mut u64) }, pointer.value);
    }
    if order && !coherence::order_everywhere() {
        return Err(WriteFailure::Kernel("order the cores (membarrier)", Errno(libc::ENOSYS)));
    }
    let protection = protection(change.guarded);
    exchange(start, word, protection)?;
    let mut check = Script::default();
    check.compare(change.address, change.new.as_ptr() as u64, change.new.len() as u64);
    if coherence::has_barrier() {
        check.barrier();
    }
    let Err((step, errno)) = run(check) else { return Ok(()) };
    exchange(start, word.reversed(), protection)?;
    Err(match step {
        0 => WriteFailure::NotWritten(0),
        _ => WriteFailure::Kernel("synchronise the cores (membarrier)", errno),
    })
}

/// Address and content of the word, as it is and as it is to be.
fn word_of(change: &CodeChange) -> Result<(u64, Word), WriteFailure> {
    let (from, to) = (change.address, change.address + change.new.len() as u64);
    if from / 4 == (to - 1) / 4 {
        let (start, old, new) = splice::<4>(change)?;
        return Ok((start, Word::Four { old: u32::from_ne_bytes(old), new: u32::from_ne_bytes(new) }));
    }
    let (start, old, new) = splice::<8>(change)?;
    Ok((start, Word::Eight { old: u64::from_ne_bytes(old), new: u64::from_ne_bytes(new) }))
}

/// The aligned word of `N` bytes around the change: its address, its content now, and then.
fn splice<const N: usize>(change: &CodeChange) -> Result<(u64, [u8; N], [u8; N]), WriteFailure> {
    let start = change.address / N as u64 * N as u64;
    let mut old = [0; N];
    match sys::read_memory(start, &mut old) {
        Ok(count) if count == N => {}
        Ok(_) => return Err(WriteFailure::Kernel("read the target", Errno(libc::EFAULT))),
        Err(errno) => return Err(WriteFailure::Kernel("read the target", errno)),
    }
    let mut new = old;
    let from = (change.address - start) as usize;
    let place = new.get_mut(from..from + change.new.len()).filter(|place| **place == *change.old);
    place.ok_or(WriteFailure::Modified(0))?.copy_from_slice(&change.new);
    Ok((start, old, new))
}

impl Word {
    fn reversed(self) -> Self {
        match self {
            Self::Four { old, new } => Self::Four { old: new, new: old },
            Self::Eight { old, new } => Self::Eight { old: new, new: old },
        }
    }

    /// Puts the new content in the place of the old, if that is what is there.
    ///
    /// # Safety
    /// `start` is the aligned address of the word, which can be written and read.
    unsafe fn exchange_at(self, start: u64) -> bool {
        match self {
            Self::Four { old, new } => {
                // SAFETY: the caller's promise.
                let word = unsafe { AtomicU32::from_ptr(start as *mut u32) };
                word.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
            }
            Self::Eight { old, new } => {
                // SAFETY: the caller's promise.
                let word = unsafe { AtomicU64::from_ptr(start as *mut u64) };
                word.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
            }
        }
    }
}

/// `before` is the protection of the page, which it gets again.
fn exchange(start: u64, word: Word, before: i32) -> Result<(), WriteFailure> {
    let size = sys::page_size();
    let page = start / size * size;
    let [mut open, mut close] = <[Script; 2]>::default();
    open.protect(page, size, before | libc::PROT_WRITE);
    close.protect_or_die(page, size, before);
    close.cohere(start, 8);

    let refused = |(_, errno)| WriteFailure::Kernel("make code writable while threads run in it", errno);
    run(open).map_err(refused)?;
    // SAFETY: aligned by `splice`, and writable now.
    let changed = unsafe { word.exchange_at(start) };
    // Cannot fail.
    let _ = run(close);
    if changed { Ok(()) } else { Err(WriteFailure::Modified(0)) }
}

fn run(mut script: Script) -> Result<(), (usize, Errno)> {
    script.finish();
    // SAFETY: changes the protection of the target's page, which stays executable, and reads.
    unsafe { script.run_from(0) }
}

#[cfg(test)]
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
        assert_eq!(write_running(&change, &[], false), Ok(()));
        assert_eq!(now(start), [1, 2, 0x33, 0x44, 5, 6, 7, 8]);
        let (old, new) = (vec![4, 5, 6], vec![0x44, 5, 0x66]);
        let over = CodeChange { address: start + 3, old: vec![0x44, 5], new: vec![7, 8], guarded: false };
        assert_eq!(
            write_running(&CodeChange { address: start + 3, old, new, guarded: false }, &[], false),
            Err(WriteFailure::Modified(0))
        );
        assert_eq!(write_running(&over, &[], false), Ok(()));
        assert_eq!(now(start), [1, 2, 0x33, 7, 8, 6, 7, 8]);
        let back = CodeChange { old: vec![7, 8], new: vec![0x44, 5], ..over };
        assert_eq!(write_running(&back, &[], false), Ok(()));
        // The old bytes are not there any more.
        assert_eq!(write_running(&change, &[], false), Err(WriteFailure::Modified(0)));
        assert_eq!(now(start), [1, 2, 0x33, 0x44, 5, 6, 7, 8]);
    }

    #[test]
    fn what_is_not_mapped_is_not_changed() {
        let change = CodeChange { address: 0x10, old: vec![1], new: vec![2], guarded: false };
        assert!(matches!(write_running(&change, &[], false), Err(WriteFailure::Kernel(..))));
    }
}
