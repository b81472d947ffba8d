//! Memory near a target for trampolines, islands and slots: code pages first, then one or more pages of
//! slots. Writable while it is filled, then the code part is executable and not writable for ever.

use crate::sys::{self, Errno};
use std::sync::atomic::{AtomicU64, Ordering::Release};

/// A mapping of ours.
///
/// Invariant: `[start, start + code + data)` was mapped by [`NearBlock::map`] and belongs to nobody else;
/// unless `kept`, no address in it has left this crate.
#[derive(Debug)]
pub(crate) struct NearBlock {
    start: u64,
    code: u64,
    data: u64,
    kept: bool,
}

impl NearBlock {
    /// Maps `code` and `data` bytes (whole pages) at `start`, where nothing is mapped yet. EEXIST if
    /// something is, or if the kernel is too old to promise that nothing gets overwritten.
    pub(crate) fn map(start: u64, code: u64, data: u64) -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let len = (code + data) as usize;
        let arguments = [start as usize, len, protection as usize, flags as usize, usize::MAX, 0];
        // SAFETY: a new mapping, which replaces nothing.
        let at = unsafe { sys::call(libc::SYS_mmap, arguments)? } as u64;
        let block = Self { start: at, code, data, kept: false };
        // Before Linux 4.17 the flag is unknown and the address a hint; dropping the block unmaps it.
        if at == start { Ok(block) } else { Err(Errno(libc::EEXIST)) }
    }

    /// Run-time address of the first byte of code.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Run-time address of the first slot.
    pub(crate) fn slots(&self) -> u64 {
        self.start + self.code
    }

    /// Writes `bytes` at `address` in the code part, before [`Self::seal`].
    pub(crate) fn write_code(&mut self, address: u64, bytes: &[u8]) {
        let end = address.saturating_add(bytes.len() as u64);
        assert!(!self.kept && address >= self.start && end <= self.start + self.code, "outside the block");
        // SAFETY: inside the mapping, which is writable until it is sealed and known to nobody.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }

    /// The slot at `address`.
    pub(crate) fn slot(&self, address: u64) -> &'static AtomicU64 {
        let inside = address >= self.slots() && address + 8 <= self.slots() + self.data;
        assert!(inside && address.is_multiple_of(8), "not a slot of the block");
        // SAFETY: aligned, inside the mapping; slots are used only once the block is kept for ever, or by
        // whoever holds the block.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }

    /// Makes the code executable and no longer writable. From now on the block stays mapped for ever.
    pub(crate) fn seal(mut self) -> Result<(), Errno> {
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as usize;
        // SAFETY: our own mapping.
        unsafe {
            sys::call(libc::SYS_mprotect, [self.start as usize, self.code as usize, protection, 0, 0, 0])?
        };
        super::script::cohere_now(self.start, self.code);
        self.kept = true;
        Ok(())
    }
}

impl Drop for NearBlock {
    fn drop(&mut self) {
        if !self.kept {
            let len = (self.code + self.data) as usize;
            // SAFETY: our own mapping, of which nobody has an address.
            let _ = unsafe { sys::call(libc::SYS_munmap, [self.start as usize, len, 0, 0, 0, 0]) };
        }
    }
}

/// Publishes `value` in a slot or an original by one store.
pub(crate) fn publish(cell: &AtomicU64, value: u64) {
    cell.store(value, Release);
}
