//! The list of this process's threads: `/proc/self/task`.
//!
//! A pass over the folder now and then skips a live thread when another one ends meanwhile, so a pass
//! comes with the folder's link count before and after: two more than the threads there are.

use crate::sys::{Errno, Fd};

/// The folder, open, with a buffer: a pass allocates nothing.
#[derive(Debug)]
pub(super) struct TaskFolder {
    folder: Fd,
    buffer: Box<[u8; 16 * 1024]>,
}

/// What a pass saw, beside the threads themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    /// Threads seen.
    pub(super) count: u64,
    /// A digest of their numbers in the order seen.
    digest: u64,
    /// Does the link count say the same, before and after?
    pub(super) complete: bool,
}

impl TaskFolder {
    pub(super) fn open() -> Result<Self, Errno> {
        let folder = Fd::open(b"/proc/self/task\0", libc::O_DIRECTORY)?;
        Ok(Self { folder, buffer: Box::new([0; 16 * 1024]) })
    }

    /// Is the calling thread the only one? Then there is no other one to make more.
    pub(super) fn is_alone(&self) -> Result<bool, Errno> {
        Ok(self.folder.links()? == 3)
    }

    /// Calls `see` with each thread's number.
    pub(super) fn pass(&mut self, mut see: impl FnMut(i32)) -> Result<Pass, Errno> {
        let before = self.folder.links()?;
        self.folder.rewind()?;
        let (mut count, mut digest) = (0, 0u64);
        loop {
            let filled = self.folder.entries(self.buffer.as_mut_slice())?;
            if filled == 0 {
                break;
            }
            for tid in Entries(self.buffer.get(..filled).unwrap_or(&[])) {
                count += 1;
                // FNV-1a, 64 bits.
                digest = (digest ^ tid as u64).wrapping_mul(0x0100_0000_01b3);
                see(tid);
            }
        }
        let after = self.folder.links()?;
        Ok(Pass { count, digest, complete: before == after && before == count + 2 })
    }
}

/// The numeric names among packed `struct linux_dirent64` (getdents64(2)): inode u64, offset i64,
/// length u16, type u8, name up to a NUL.
struct Entries<'a>(&'a [u8]);

impl Iterator for Entries<'_> {
    type Item = i32;

    fn next(&mut self) -> Option<i32> {
        loop {
            let length = usize::from(u16::from_ne_bytes([*self.0.get(16)?, *self.0.get(17)?]));
            let entry = self.0.get(..length).filter(|entry| entry.len() > 19)?;
            self.0 = self.0.get(length..)?;
            let name = entry.get(19..)?.split(|byte| *byte == 0).next()?;
            if let Some(tid) = decimal(name) {
                return Some(tid);
            }
        }
    }
}

fn decimal(digits: &[u8]) -> Option<i32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i32, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(i32::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_this_thread() {
        let me = crate::sys::gettid();
        let mut folder = TaskFolder::open().unwrap();
        let mut seen = false;
        let pass = folder.pass(|tid| seen |= tid == me).unwrap();
        assert!(seen && pass.count >= 1);
    }

    #[test]
    fn a_damaged_entry_ends_the_list() {
        assert_eq!(Entries(&[0; 5]).next(), None);
        assert_eq!(Entries(&[0; 40]).next(), None);
        let mut entry = [0u8; 24];
        entry[16] = 24;
        entry[19..22].copy_from_slice(b"123");
        assert_eq!(Entries(&entry).collect::<Vec<_>>(), [123]);
        entry[16] = 255;
        assert_eq!(Entries(&entry).next(), None);
    }
}
