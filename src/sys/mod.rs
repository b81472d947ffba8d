//! The system-call seam: everything that a commit asks of the kernel goes through [`call`].
//!
//! The calls are made directly, not through libc: a libc function may itself be a target, may be
//! wrapped by a sanitizer or an `LD_PRELOAD` library, and sets `errno`, which belongs to the application.
//! With the feature `fault-injection` each of them can be made to fail (`crate::fault`).

mod raw;

pub(crate) use raw::synchronise_this_core;

use std::fmt;
use std::mem::MaybeUninit;

/// What the kernel answered instead of a result. `Display` gives the system's words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// Makes system call `number`.
///
/// # Safety
/// The call with these arguments is sound: memory that it reads or writes is valid for that, and
/// mappings or protections that it changes are the caller's to change.
#[inline]
pub(crate) unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, Errno> {
    #[cfg(feature = "fault-injection")]
    if let Some(errno) = crate::fault::take(number) {
        return Err(Errno(errno));
    }
    // SAFETY: the caller's promise.
    let answer = unsafe { raw::syscall(number, arguments) };
    // The kernel's range of error numbers, include/linux/err.h (MAX_ERRNO).
    if (-4095..0).contains(&answer) { Err(Errno(-answer as i32)) } else { Ok(answer as usize) }
}

/// This process.
pub(crate) fn getpid() -> i32 {
    // SAFETY: no argument, no memory.
    unsafe { raw::syscall(libc::SYS_getpid, [0; 6]) as i32 }
}

/// This thread.
pub(crate) fn gettid() -> i32 {
    // SAFETY: no argument, no memory.
    unsafe { raw::syscall(libc::SYS_gettid, [0; 6]) as i32 }
}

/// Nanoseconds of CLOCK_MONOTONIC, without the vDSO: its functions may be nobody's target, but libc's are.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let place = (&raw mut time) as usize;
    // SAFETY: `place` is a timespec of ours.
    unsafe { raw::syscall(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, place, 0, 0, 0, 0]) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// Waits until `word` is no longer `seen`, for at most `nanoseconds`; may return early.
pub(crate) fn futex_wait(word: &std::sync::atomic::AtomicU32, seen: u32, nanoseconds: u64) {
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    };
    let operation = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let (word, time) = (std::ptr::from_ref(word) as usize, (&raw const time) as usize);
    // SAFETY: both are memory of ours that lives through the call; the kernel only reads them.
    let _ = unsafe { raw::syscall(libc::SYS_futex, [word, operation, seen as usize, time, 0, 0]) };
}

/// Sleeps for so long, or less.
pub(crate) fn sleep(nanoseconds: u64) {
    let nobody_wakes = std::sync::atomic::AtomicU32::new(0);
    futex_wait(&nobody_wakes, 0, nanoseconds);
}

/// Wakes every waiter of `word`.
pub(crate) fn futex_wake_all(word: &std::sync::atomic::AtomicU32) {
    let operation = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    let word = std::ptr::from_ref(word) as usize;
    // SAFETY: the kernel takes the address as a key only.
    let _ = unsafe { raw::syscall(libc::SYS_futex, [word, operation, i32::MAX as usize, 0, 0, 0]) };
}

const PIECES: usize = 17;
const PAGE: u64 = 4096;

/// Reads from `address` as much of `buffer` as is mapped (process_vm_readv(2) on ourselves, which
/// answers EFAULT where a plain load would kill the process; by the number of this thread, since the process's
/// answers no more once the main thread has ended); 64 KiB at most.
pub(crate) fn read_memory(address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
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

/// A file descriptor that is closed on drop, opened and read by direct calls.
#[derive(Debug)]
pub(crate) struct Fd(i32);

impl Fd {
    /// Opens `path` (which ends in NUL) for reading.
    pub(crate) fn open(path: &[u8], flags: i32) -> Result<Self, Errno> {
        if path.last() != Some(&0) {
            return Err(Errno(libc::EINVAL));
        }
        let flags = (flags | libc::O_RDONLY | libc::O_CLOEXEC) as usize;
        // SAFETY: `path` ends in NUL and lives through the call.
        let fd = unsafe {
            call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags, 0, 0, 0])?
        };
        Ok(Self(fd as i32))
    }

    /// Reads into `buffer` from where the descriptor stands.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let arguments = [self.0 as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
        // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
        unsafe { call(libc::SYS_read, arguments) }
    }

    /// The next directory entries, as the kernel packs them (`struct linux_dirent64`, getdents64(2)).
    pub(crate) fn entries(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let arguments = [self.0 as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
        // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
        unsafe { call(libc::SYS_getdents64, arguments) }
    }

    /// An operation of the file's own.
    ///
    /// # Safety
    /// `argument` is what the operation expects.
    pub(crate) unsafe fn ioctl(&self, operation: usize, argument: usize) -> Result<usize, Errno> {
        // SAFETY: the caller's promise.
        unsafe { call(libc::SYS_ioctl, [self.0 as usize, operation, argument, 0, 0, 0]) }
    }

    /// Back to the beginning.
    pub(crate) fn rewind(&self) -> Result<(), Errno> {
        // SAFETY: no memory is involved.
        unsafe { call(libc::SYS_lseek, [self.0 as usize, 0, libc::SEEK_SET as usize, 0, 0, 0]) }.map(drop)
    }

    /// The link count, which of a folder is two more than its sub-folders.
    pub(crate) fn links(&self) -> Result<u64, Errno> {
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the kernel fills a `struct stat`, which is what libc declares on these two machines.
        unsafe { call(libc::SYS_fstat, [self.0 as usize, stat.as_mut_ptr() as usize, 0, 0, 0, 0])? };
        // SAFETY: zeroed, then filled; every bit pattern is a `stat`.
        let links = unsafe { stat.assume_init() }.st_nlink;
        // Its type is not the same on all machines.
        #[allow(clippy::useless_conversion)]
        Ok(u64::from(links))
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and used by nobody after this.
        let _ = unsafe { raw::syscall(libc::SYS_close, [self.0 as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Blocks signals on this thread, all 64 unless said otherwise, until the guard is dropped, so that no handler of the
/// application runs on the committing thread. Raw: libc keeps two signals for itself.
#[derive(Debug)]
pub(crate) struct SignalsBlocked {
    before: u64,
}

impl SignalsBlocked {
    pub(crate) fn new() -> Result<Self, Errno> {
        Self::these(u64::MAX)
    }

    /// Blocks only those in `signals`, bit n-1 for signal n; threads started meanwhile inherit that.
    pub(crate) fn these(signals: u64) -> Result<Self, Errno> {
        let mut before = 0u64;
        let (new, old) = ((&raw const signals) as usize, (&raw mut before) as usize);
        // SAFETY: both point to 8 bytes, the size of the kernel's set, which is passed along.
        unsafe { call(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK as usize, new, old, 8, 0, 0])? };
        Ok(Self { before })
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        let before = (&raw const self.before) as usize;
        // SAFETY: the mask that the thread had; 8 bytes, the size of the kernel's set.
        let _ = unsafe {
            raw::syscall(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, before, 0, 8, 0, 0])
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_answer() {
        let mut buffer = [0; 16];
        assert_eq!(read_memory(4096, &mut buffer), Err(Errno(libc::EFAULT)));
        let known = [7u8; 9000];
        let mut copy = [0u8; 9000];
        assert_eq!(read_memory(known.as_ptr() as u64, &mut copy), Ok(9000));
        assert_eq!(known, copy);
        // From the middle of a page over a whole one to the middle of the next.
        let (numbers, mut copy) = (std::array::from_fn::<u8, 9000, _>(|n| (n % 251) as u8), [0u8; 6000]);
        for start in [0, 1, 95, 96, 2000, 3000] {
            let part = &numbers[start..start + 6000];
            assert_eq!(read_memory(part.as_ptr() as u64, &mut copy), Ok(6000));
            assert_eq!(part, copy);
        }
        assert_eq!(read_memory(known.as_ptr() as u64 | 1, &mut []), Ok(0));
    }
}
