//! Replacements that go on in the original: pieces of code with a place for the original each, on pages of their own.
//! Each sets a mark, so that it can be told which were called.

use crate::support::emulator;
use midflight::Original;
use std::ptr::null_mut;

/// What all functions are replaced as: nothing of it is used but the address.
pub type Any = unsafe extern "C" fn();

/// Bytes of one piece of code.
const STRIDE: usize = 48;

/// Mapped for good: originals, marks, then code, each from a page on.
pub struct Thunks {
    originals: usize,
    marks: usize,
    code: usize,
    count: usize,
}

/// Where they are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the kernel puts things: mostly near the libraries.
    Anywhere,
    /// Farther from all code than a jump reaches.
    Far,
}

/// Both, but under an emulator, where each commit takes long.
pub fn places() -> &'static [Place] {
    let all = &[Place::Anywhere, Place::Far];
    if emulator::is_there() { &all[..1] } else { all }
}

/// Far from where the kernel puts programs, libraries and stacks, and within what each processor can address.
const FAR: usize = 0x10_0000_0000;

impl Thunks {
    pub fn new(count: usize, place: Place) -> Self {
        // The largest pages that there are.
        let whole = |len: usize| len.next_multiple_of(0x10000);
        let (originals, marks, code) = (whole(count * 8), whole(count), whole(count * STRIDE));
        let wanted = if place == Place::Far { FAR as *mut libc::c_void } else { null_mut() };
        let (flags, mut protection) =
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping.
        let start = unsafe { libc::mmap(wanted, originals + marks + code, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let originals_at = start as usize;
        let marks_at = originals_at + originals;
        let this = Self { originals: originals_at, marks: marks_at, code: marks_at + marks, count };
        for number in 0..count {
            let thunk = thunk(this.code_of(number), this.mark(number), this.original_at(number));
            assert!(thunk.len() <= STRIDE);
            // SAFETY: within the mapping.
            unsafe { std::ptr::copy(thunk.as_ptr(), this.code_of(number) as *mut u8, thunk.len()) };
        }
        protection = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: the code of the mapping, which nobody has run yet.
        assert_eq!(unsafe { libc::mprotect(this.code as *mut libc::c_void, code, protection) }, 0);
        clear_cache(this.code, code);
        this
    }

    /// The piece of code, to be used as a replacement.
    pub fn replacement(&self, number: usize) -> Any {
        // SAFETY: code that jumps to the original, which is filled before it is called.
        unsafe { std::mem::transmute::<usize, Any>(self.code_of(number)) }
    }

    /// Its place for the original.
    pub fn original(&self, number: usize) -> &'static Original<Any> {
        // SAFETY: an atomic pointer that was null, which is an empty `Original` (`repr(transparent)`).
        unsafe { &*(self.original_at(number) as *const Original<Any>) }
    }

    /// Was it called?
    pub fn was_called(&self, number: usize) -> bool {
        // SAFETY: within the mapping.
        unsafe { (self.mark(number) as *const u8).read_volatile() != 0 }
    }

    fn code_of(&self, number: usize) -> usize {
        assert!(number < self.count);
        self.code + number * STRIDE
    }

    fn mark(&self, number: usize) -> usize {
        self.marks + number
    }

    fn original_at(&self, number: usize) -> usize {
        self.originals + number * 8
    }
}

/// `mov byte ptr [rip + mark], 1` and `jmp [rip + original]`: no register and no flag is changed.
#[cfg(target_arch = "x86_64")]
fn thunk(at: usize, mark: usize, original: usize) -> Vec<u8> {
    let distance = |to: usize, end: usize| i32::try_from(to as i64 - end as i64).unwrap().to_le_bytes();
    [&[0xc6, 0x05][..], &distance(mark, at + 7), &[1, 0xff, 0x25], &distance(original, at + 13)].concat()
}

/// With x16 and x17, which every call may change (AAPCS64, 6.1.1): what the mark and the original are at stands behind
/// the code.
#[cfg(target_arch = "aarch64")]
fn thunk(_: usize, mark: usize, original: usize) -> Vec<u8> {
    let code: [u32; 6] = [
        0x5800_00d0, // ldr x16, .+24
        0x5280_0031, // mov w17, 1
        0x3900_0211, // strb w17, [x16]
        0x5800_00b0, // ldr x16, .+20
        0xf940_0210, // ldr x16, [x16]
        0xd61f_0200, // br x16
    ];
    let words = code.into_iter().flat_map(u32::to_le_bytes);
    let places = [mark, original].into_iter().flat_map(usize::to_le_bytes);
    words.chain(places).collect()
}

#[cfg(target_arch = "x86_64")]
fn clear_cache(_: usize, _: usize) {}

#[cfg(target_arch = "aarch64")]
fn clear_cache(start: usize, len: usize) {
    unsafe extern "C" {
        fn __clear_cache(start: *mut u8, end: *mut u8);
    }
    // SAFETY: mapped code.
    unsafe { __clear_cache(start as *mut u8, (start + len) as *mut u8) }
}
