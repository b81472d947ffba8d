//! What the kernel tells of a thread in `/proc/self/task/TID` (proc(5)), read by direct calls into
//! buffers of the caller: a listing goes on while threads are held.

use crate::sys::{Errno, Fd};

/// The path of a file of a thread. Between the folder and the file are slashes, of which a path may have any
/// number; the last of them give way to the digits of the thread's number. So nothing is copied from place to place,
/// which the compiler would leave to memcpy.
pub(super) type Path = [u8; 40];

const FOLDER: &[u8; 16] = b"/proc/self/task/";
const DIGITS: std::ops::Range<usize> = FOLDER.len()..FOLDER.len() + 10;
pub(super) const STAT: Path = path_of(b"stat");
pub(super) const STATUS: Path = path_of(b"status");
pub(super) const SYSCALL: Path = path_of(b"syscall");
const COMM: Path = path_of(b"comm");

/// How a thread is to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It runs code of this process: it must be held.
    Ordinary,
    /// It will never run code of this process again (state Z or X), or never did (a worker of the kernel).
    Passed,
    /// It is not there any more.
    Gone,
}

/// PF_IO_WORKER and PF_USER_WORKER of include/linux/sched.h.
const KERNEL_WORKER: u64 = 0x10 | 0x4000;

/// Reads `stat` of threads into a buffer that was made before threads are held.
#[derive(Debug)]
pub(super) struct Stat(Box<[u8; 1024]>);

impl Stat {
    pub(super) fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    /// The kind of thread `tid`.
    pub(super) fn kind(&mut self, tid: i32) -> Kind {
        match read(tid, STAT, self.0.as_mut_slice()) {
            Ok(text) => parse_stat(text),
            Err(Errno(libc::ENOENT | libc::ESRCH)) => Kind::Gone,
            // What cannot be read is held like any other.
            Err(_) => Kind::Ordinary,
        }
    }
}

/// `stat`: `tid (name) state ppid pgrp session tty tpgid flags ...`; the name may hold anything.
fn parse_stat(text: &[u8]) -> Kind {
    let Some(end) = text.iter().rposition(|byte| *byte == b')') else { return Kind::Ordinary };
    let mut fields = text.get(end + 1..).unwrap_or(&[]).split(|byte| *byte == b' ').skip(1);
    let state = fields.next().unwrap_or(&[]);
    let flags = fields.nth(5).and_then(|digits| number(digits, 10)).unwrap_or(0);
    match state {
        b"Z" | b"X" | b"x" => Kind::Passed,
        _ if flags & KERNEL_WORKER != 0 => Kind::Passed,
        _ => Kind::Ordinary,
    }
}

/// The signals that thread `tid` blocks, bit n-1 for signal n.
pub(super) fn blocked(tid: i32) -> Option<u64> {
    let mut buffer = [0u8; 4096];
    let text = read(tid, STATUS, &mut buffer).ok()?;
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"SigBlk:\t"))?;
    number(line, 16)
}

/// The signals that thread `tid` waits for in rt_sigtimedwait, which no mask shows.
pub(super) fn awaited(tid: i32) -> u64 {
    let mut buffer = [0u8; 256];
    let Ok(text) = read(tid, SYSCALL, &mut buffer) else { return 0 };
    let mut words = text.split(|byte| *byte == b' ');
    let number_of_call = words.next().and_then(|word| number(word, 10));
    if number_of_call != Some(libc::SYS_rt_sigtimedwait as u64) {
        return 0;
    }
    let Some(set) = words.next().and_then(|word| number(word.strip_prefix(b"0x")?, 16)) else { return 0 };
    let mut value = [0u8; 8];
    match crate::sys::read_memory(set, &mut value) {
        Ok(8) => u64::from_ne_bytes(value),
        _ => 0,
    }
}

/// Can this file of thread `tid` be read?
pub(super) fn probe(tid: i32, file: Path) -> Result<(), Errno> {
    read(tid, file, &mut [0; 16]).map(drop)
}

/// The thread's name, for reports; may allocate.
pub(crate) fn name(tid: i32) -> String {
    let mut buffer = [0u8; 64];
    let text = read(tid, COMM, &mut buffer).unwrap_or(b"?");
    String::from_utf8_lossy(text).trim_end().to_owned()
}

/// The letter of the thread's state and a word for it, for reports.
pub(super) fn state(tid: i32) -> &'static str {
    let mut buffer = [0u8; 1024];
    let Ok(text) = read(tid, STAT, &mut buffer) else { return "gone" };
    let Some(end) = text.iter().rposition(|byte| *byte == b')') else { return "unknown" };
    match text.get(end + 2) {
        Some(b'R') => "running",
        Some(b'S') => "sleeping",
        Some(b'D') => "in uninterruptible sleep",
        Some(b'T') => "stopped by a signal",
        Some(b't') => "stopped by a debugger",
        Some(b'Z' | b'X') => "ended",
        _ => "in an unknown state",
    }
}

fn read(tid: i32, file: Path, buffer: &mut [u8]) -> Result<&[u8], Errno> {
    let fd = Fd::open(with_number(file, tid).as_slice(), 0)?;
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match fd.read(rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(buffer.get(..filled).unwrap_or(&[]))
}

/// The path of `file` without a thread's number, padded with NULs.
const fn path_of(file: &[u8]) -> Path {
    let mut path: Path = [0; 40];
    let mut place = 0;
    while place <= DIGITS.end + file.len() {
        path[place] = match place {
            _ if place < FOLDER.len() => FOLDER[place],
            _ if place <= DIGITS.end => b'/',
            _ => file[place - DIGITS.end - 1],
        };
        place += 1;
    }
    path
}

fn with_number(mut path: Path, tid: i32) -> Path {
    let mut rest = tid.unsigned_abs();
    for place in path[DIGITS].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    path
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let digits = digits.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        value.checked_mul(u64::from(radix))?.checked_add(u64::from((*digit as char).to_digit(radix)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_name() {
        let text = |state: &str, flags: &str| format!("7 (a) Z (b) {state} 1 2 3 0 -1 {flags} 5 6");
        assert_eq!(parse_stat(text("S", "4194368").as_bytes()), Kind::Ordinary);
        assert_eq!(parse_stat(text("Z", "0").as_bytes()), Kind::Passed);
        assert_eq!(parse_stat(text("S", "16").as_bytes()), Kind::Passed);
        assert_eq!(parse_stat(text("R", "16384").as_bytes()), Kind::Passed);
        assert_eq!(parse_stat(b""), Kind::Ordinary);
    }

    #[test]
    fn own_thread() {
        let tid = crate::sys::gettid();
        assert_eq!(Stat::new().kind(tid), Kind::Ordinary);
        assert_eq!(state(tid), "running");
        assert!(blocked(tid).is_some());
        assert_eq!(awaited(tid), 0);
        assert!(!name(tid).is_empty());
        assert_eq!(Stat::new().kind(i32::MAX), Kind::Gone);
    }

    #[test]
    fn paths() {
        assert_eq!(&with_number(STAT, 7)[..32], b"/proc/self/task//////////7/stat\0");
        assert_eq!(&with_number(SYSCALL, i32::MAX)[..35], b"/proc/self/task/2147483647/syscall\0");
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"ff\n", 16), Some(255));
        assert_eq!(number(b"", 10), None);
        assert_eq!(number(b"12x", 10), None);
        assert_eq!(number(b"99999999999999999999999", 10), None);
    }
}
