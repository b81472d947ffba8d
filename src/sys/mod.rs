//! The system-call seam: everything that a commit asks of the kernel goes through [`call`].
//!
//! The calls are made directly, not through libc: a libc function may itself be a target, may be
//! wrapped by a sanitizer or an `LD_PRELOAD` library, and sets `errno`, which belongs to the application.
//! With the feature `fault-injection` each of them can be made to fail (`crate::fault`).

mod memory;
mod raw;

pub(crate) use memory::{MemoryReader, read_memory};
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

/// Bytes of a page of memory: 4096 on x86-64, on aarch64 that or more (getauxval(3), AT_PAGESZ).
pub(crate) fn page_size() -> u64 {
    // SAFETY: only asks for a number that never changes.
    unsafe { libc::getauxval(libc::AT_PAGESZ) }
}

/// Whether returns of this thread are compared with a shadow stack: of x86-64 since Linux 6.6 (arch_prctl(2)), of aarch64
/// since 6.13 (prctl(2)). Threads inherit it from the one that creates them.
pub(crate) fn has_shadow_stack() -> bool {
    let mut on = 0u64;
    let place = &raw mut on as usize;
    let (number, option) = raw::SHADOW_STACK_STATUS;
    // SAFETY: writes one number to `on`, or fails.
    let known = unsafe { call(number, [option, place, 0, 0, 0, 0]) };
    #[cfg(feature = "fault-injection")]
    if crate::fault::has_shadow_stack() {
        return true;
    }
    known.is_ok() && on & 1 != 0
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

    /// Both ends of a new pipe, reading and writing; neither makes anybody wait.
    pub(crate) fn pipe() -> Result<(Self, Self), Errno> {
        let mut ends = [0i32; 2];
        let (place, flags) = ((&raw mut ends) as usize, (libc::O_CLOEXEC | libc::O_NONBLOCK) as usize);
        // SAFETY: the kernel writes two numbers into `ends`.
        unsafe { call(libc::SYS_pipe2, [place, flags, 0, 0, 0, 0])? };
        Ok((Self(ends[0]), Self(ends[1])))
    }

    /// Writes the `len` bytes at `address`, which need not be mapped: EFAULT then.
    pub(crate) fn write_from(&self, address: u64, len: usize) -> Result<usize, Errno> {
        // SAFETY: the kernel only reads, and checks the address itself.
        unsafe { call(libc::SYS_write, [self.0 as usize, address as usize, len, 0, 0, 0]) }
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
