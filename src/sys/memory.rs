//! Reading memory that may not be there, where a plain load would end the process.

use super::{Errno, Fd, call, gettid};
use std::mem::MaybeUninit;

const PIECES: usize = 17;
const PAGE: u64 = 4096;

/// Reads this process's memory, by what the system offers. Made before threads are held.
#[derive(Debug)]
pub(crate) struct MemoryReader {
    /// Where process_vm_readv(2) is not to be had, which is so in some emulators and under some seccomp filters,
    /// memory is written into a pipe and read back: that answers EFAULT as well.
    pipe: Option<(Fd, Fd)>,
}

impl MemoryReader {
    /// Tries what there is. It answers no more in a forked child, with which it would share the pipe.
    pub(crate) fn new() -> Result<Self, Errno> {
        let known = [0x6du8; 4];
        let answer = by_call(known.as_ptr() as u64, &mut [0; 4]);
        let pipe = match answer {
            Err(Errno(libc::ENOSYS | libc::EPERM)) => Some(Fd::pipe()?),
            _ => None,
        };
        Ok(Self { pipe })
    }

    /// Reads from `address` as much of `buffer` as is mapped, 64 KiB at most; EFAULT if that is nothing.
    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        match &self.pipe {
            None => by_call(address, buffer),
            Some(pipe) => by_pipe(pipe, address, buffer),
        }
    }

    /// The system call that does it, for reports.
    pub(crate) fn name(&self) -> &'static str {
        if self.pipe.is_none() { "process_vm_readv" } else { "write, into a pipe" }
    }
}

/// As [`MemoryReader::read`], for once.
pub(crate) fn read_memory(address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    match by_call(address, buffer) {
        Err(Errno(libc::ENOSYS | libc::EPERM)) => by_pipe(&Fd::pipe()?, address, buffer),
        answer => answer,
    }
}

/// process_vm_readv(2) on ourselves, by the number of this thread, since the process's answers no more once the main
/// thread has ended.
fn by_call(address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // In whole pages, so that what is mapped before a hole is answered.
    let (first, end) = (address & !(PAGE - 1), address.saturating_add(buffer.len() as u64));
    // Filled where it is: an array made elsewhere, or of zeros first, would take a memcpy or a memset.
    let mut remote = [const { MaybeUninit::<libc::iovec>::uninit() }; PIECES];
    for (number, piece) in (0..).zip(&mut remote) {
        let page = first.saturating_add(number * PAGE);
        let (start, end) = (page.max(address), page.saturating_add(PAGE).min(end));
        let iov_len = end.saturating_sub(start) as usize;
        piece.write(libc::iovec { iov_base: start as *mut libc::c_void, iov_len });
    }
    let pieces = (end - first).div_ceil(PAGE).min(PIECES as u64) as usize;
    let (local, remote) = ((&raw const local) as usize, remote.as_ptr() as usize);
    // SAFETY: the kernel writes into `buffer` only, and checks the remote addresses itself.
    unsafe { call(libc::SYS_process_vm_readv, [gettid() as usize, local, 1, remote, pieces, 0]) }
}

/// Page by page, which any pipe has room for.
fn by_pipe((back, into): &(Fd, Fd), address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let from = address.saturating_add(filled as u64);
        let most = (PAGE - from % PAGE).min(rest.len() as u64) as usize;
        let written = match into.write_from(from, most) {
            Ok(written) => written,
            Err(errno) if filled == 0 => return Err(errno),
            Err(_) => break,
        };
        let Some(piece) = rest.get_mut(..written) else { break };
        // What was written is there to be read, all of it.
        match back.read(piece)? {
            count if count == written && count > 0 => filled += count,
            _ => return Err(Errno(libc::EIO)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> MemoryReader {
        MemoryReader { pipe: Some(Fd::pipe().unwrap()) }
    }

    #[test]
    fn memory_that_is_not_there_is_an_answer() {
        let mut buffer = [0; 16];
        assert_eq!(read_memory(4096, &mut buffer), Err(Errno(libc::EFAULT)));
        assert_eq!(pipe().read(4096, &mut buffer), Err(Errno(libc::EFAULT)));
    }

    #[test]
    fn memory_is_read_whole() {
        for reader in [MemoryReader::new().unwrap(), pipe()] {
            let known = [7u8; 9000];
            let mut copy = [0u8; 9000];
            assert_eq!(reader.read(known.as_ptr() as u64, &mut copy), Ok(9000));
            assert_eq!(known, copy);
            // From the middle of a page over a whole one to the middle of the next.
            let (numbers, mut copy) = (std::array::from_fn::<u8, 9000, _>(|n| (n % 251) as u8), [0u8; 6000]);
            for start in [0, 1, 95, 96, 2000, 3000] {
                let part = &numbers[start..start + 6000];
                assert_eq!(reader.read(part.as_ptr() as u64, &mut copy), Ok(6000));
                assert_eq!(part, copy);
            }
            assert_eq!(reader.read(known.as_ptr() as u64 | 1, &mut []), Ok(0));
        }
    }

    #[test]
    fn what_is_mapped_before_a_hole_is_answered() {
        const LEN: usize = 2 * PAGE as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        // SAFETY: a new mapping, which replaces nothing.
        let start = unsafe { call(libc::SYS_mmap, [0, LEN, libc::PROT_READ as usize, flags, usize::MAX, 0]) };
        let start = start.unwrap();
        // SAFETY: our own mapping, of which the second half is used by nobody.
        unsafe { call(libc::SYS_munmap, [start + LEN / 2, LEN / 2, 0, 0, 0, 0]) }.unwrap();
        for reader in [MemoryReader::new().unwrap(), pipe()] {
            let mut buffer = [1; 64];
            let place = (start + LEN / 2 - 16) as u64;
            // Another thread may have mapped something behind it meanwhile.
            let count = reader.read(place, &mut buffer).unwrap();
            assert!(count == 16 || count == 64, "{count}");
            assert_eq!(buffer[..16], [0; 16]);
        }
        // SAFETY: our own mapping.
        unsafe { call(libc::SYS_munmap, [start, LEN / 2, 0, 0, 0, 0]) }.unwrap();
    }
}
