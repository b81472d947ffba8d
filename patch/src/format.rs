//! The section that a patch library carries: the one description of it, used by writers and by the reader.
//!
//! ELF section [`SECTION`] holds *records* in any order. Each starts at a multiple of [`ALIGN`]; between
//! records a word of [`ALIGN`] zero bytes is padding, since linkers join what several object files bring. All
//! numbers are little-endian, offsets are in bytes:
//!
//! | offset | type | meaning |
//! |---|---|---|
//! | 0 | `u8[4]` | [`MAGIC`] |
//! | 4 | `u16` | [`VERSION`] |
//! | 6 | `u16` | kind: [`KIND_NAME`], [`KIND_REPLACE`], [`KIND_ATTACH`]; see [`OPTIONAL`] |
//! | 8 | `u32` | size of the whole record, a multiple of [`ALIGN`], at least [`HEADER_SIZE`] |
//! | 12 | `u32` | length of the text |
//! | 16 | pointer | A: the replacement or another function, or null |
//! | 24 | pointer | B: the original's slot, or null |
//! | 32 | text | UTF-8 without control characters, zeros up to the record's end |
//!
//! The pointers are read from the file's relocations. The slot is one pointer-sized atomic cell in writable
//! memory of the library; the engine stores the callable original there before the first byte of the program
//! changes. What follows the text's last word is ignored: fields of later versions may stand there.
//!
//! A patch library has exactly one record of [`KIND_NAME`], at least one of [`KIND_REPLACE`], and at most one of
//! [`KIND_ATTACH`].
//!
//! The section is writable in every object file, because compilers refuse or split a section whose flags
//! differ from one variable to the next, and a variable that holds a pointer may not be read-only in a shared
//! library.

use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::AtomicPtr;

/// Name of the section that holds the records.
pub const SECTION: &str = "midflight_patch";

/// Name of a section that the engine carries. A patch library must not have it: a second engine in the
/// process would have a registry of its own, which knows nothing of the first one's patches.
pub const ENGINE_SECTION: &str = "midflight_engine";

/// First four bytes of every record.
pub const MAGIC: [u8; 4] = *b"MFLT";

/// The version that this module describes.
pub const VERSION: u16 = 1;

/// The record's text is the name of the patch; both pointers are null.
pub const KIND_NAME: u16 = 1;

/// The record's text is the name of a target; pointer A is its replacement, pointer B the original's slot or
/// null.
pub const KIND_REPLACE: u16 = 2;

/// The record's pointer A is an [`Attach`]; pointer B is null, the text says what the library was written with.
/// Libraries in Rust have it.
pub const KIND_ATTACH: u16 = 3 | OPTIONAL;

/// Bit of the kind that says "optional": a reader that does not know such a kind skips the record. An unknown
/// kind without it is refused.
pub const OPTIONAL: u16 = 1 << 15;

/// A function of the library that the engine calls once, after the library was loaded and before the first call of
/// a replacement. Panics that leave replacements go to the function that it is given.
///
/// # Safety
/// The [`Resume`] may be called at any time from then on.
pub type Attach = unsafe extern "C" fn(Resume);

/// A function of the engine: resumes in the program's runtime a panic that a replacement was left by.
///
/// # Safety
/// The [`Thrown`] is valid during the call, and its payload is handed over.
pub type Resume = unsafe extern "C-unwind" fn(*const Thrown) -> !;

/// A panic that leaves a replacement.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Thrown {
    /// The message in UTF-8, if the payload is a text; else null. Part of the payload.
    pub text: *const u8,
    /// Length of the message in bytes.
    pub text_len: usize,
    /// What was thrown. Its type is the library's own affair.
    pub payload: *mut (),
    /// Frees the payload.
    pub discard: unsafe extern "C" fn(*mut ()),
}

/// Bytes of a record before its text.
pub const HEADER_SIZE: usize = 32;

/// Alignment of records, and the word that padding consists of.
pub const ALIGN: usize = 8;

/// Offset of pointer A in a record.
pub const POINTER_A: usize = 16;

/// Offset of pointer B in a record.
pub const POINTER_B: usize = 24;

/// Bytes that a text of `len` bytes takes in a record.
pub const fn text_space(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// The numbers at the start of a record, as they stand in the file. The pointers are not among them: their
/// bytes mean nothing before relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`] in a valid record.
    pub magic: [u8; 4],
    /// [`VERSION`] in a record that this module describes.
    pub version: u16,
    /// What the record says.
    pub kind: u16,
    /// Size of the whole record in bytes.
    pub size: u32,
    /// Length of the text in bytes.
    pub text_len: u32,
}

impl Header {
    /// Reads the header; no value is checked.
    pub const fn read(bytes: &[u8; HEADER_SIZE]) -> Self {
        let b = bytes;
        Self {
            magic: [b[0], b[1], b[2], b[3]],
            version: u16::from_le_bytes([b[4], b[5]]),
            kind: u16::from_le_bytes([b[6], b[7]]),
            size: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
            text_len: u32::from_le_bytes([b[12], b[13], b[14], b[15]]),
        }
    }
}

/// One record as a static of the patch library; `TEXT` is [`text_space`] of its text.
/// [`patch!`](crate::patch) makes them; a static of this type elsewhere needs `#[used]` and `link_section` as
/// there.
///
/// The pointers are atomics only to have interior mutability: that is what puts the static into writable
/// memory.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Record<const TEXT: usize> {
    magic: [u8; 4],
    version: u16,
    kind: u16,
    size: u32,
    text_len: u32,
    pointer_a: AtomicPtr<()>,
    pointer_b: AtomicPtr<()>,
    text: [u8; TEXT],
}

impl<const TEXT: usize> Record<TEXT> {
    /// The record that names the patch.
    ///
    /// # Panics
    /// If `name` is empty, has control characters, or is not of the length that `TEXT` was made for.
    pub const fn name(name: &str) -> Self {
        Self::new(KIND_NAME, name, ptr::null(), ptr::null())
    }

    /// A record that replaces `target`; `original` may be null.
    ///
    /// # Panics
    /// If `target` is empty, has control characters, or is not of the length that `TEXT` was made for.
    pub const fn replace(target: &str, replacement: *const (), original: *const AtomicPtr<()>) -> Self {
        Self::new(KIND_REPLACE, target, replacement, original)
    }

    /// The record that hands the program's way to resume panics to the library; `text` says what it was
    /// written with.
    ///
    /// # Panics
    /// If `text` is empty, has control characters, or is not of the length that `TEXT` was made for.
    pub const fn attach(text: &str, attach: Attach) -> Self {
        Self::new(KIND_ATTACH, text, attach as *const (), ptr::null())
    }

    const fn new(kind: u16, text: &str, a: *const (), b: *const AtomicPtr<()>) -> Self {
        let bytes = text.as_bytes();
        assert!(!bytes.is_empty(), "the name of a patch or of a target must not be empty");
        assert!(text_space(bytes.len()) == TEXT, "the record was made for a text of another length");
        assert!(HEADER_SIZE + TEXT <= u32::MAX as usize, "the text is too long for a record");
        let mut padded = [0; TEXT];
        let mut at = 0;
        while at < bytes.len() {
            assert!(
                bytes[at] >= b' ' && bytes[at] != 0x7f,
                "the name of a patch or of a target must not contain control characters"
            );
            padded[at] = bytes[at];
            at += 1;
        }
        Self {
            magic: MAGIC,
            version: VERSION,
            kind,
            size: (HEADER_SIZE + TEXT) as u32,
            text_len: bytes.len() as u32,
            pointer_a: AtomicPtr::new(a.cast_mut()),
            pointer_b: AtomicPtr::new(b.cast::<()>().cast_mut()),
            text: padded,
        }
    }
}

// The struct is the table above, on 64-bit little-endian machines; anywhere else the crate must not build.
const _: () = {
    assert!(cfg!(target_endian = "little"));
    assert!(offset_of!(Record<8>, version) == 4);
    assert!(offset_of!(Record<8>, kind) == 6);
    assert!(offset_of!(Record<8>, size) == 8);
    assert!(offset_of!(Record<8>, text_len) == 12);
    assert!(offset_of!(Record<8>, pointer_a) == POINTER_A);
    assert!(offset_of!(Record<8>, pointer_b) == POINTER_B);
    assert!(offset_of!(Record<8>, text) == HEADER_SIZE);
    assert!(size_of::<Record<8>>() == HEADER_SIZE + 8);
    assert!(align_of::<Record<8>>() == ALIGN);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_what_stands_in_the_bytes() {
        let mut bytes = [0xaa; HEADER_SIZE];
        bytes[..16].copy_from_slice(b"MFLT\x01\0\x02\x80\x28\0\0\0\x05\0\0\0");
        let header = Header::read(&bytes);
        let expected =
            Header { magic: MAGIC, version: VERSION, kind: OPTIONAL | KIND_REPLACE, size: 40, text_len: 5 };
        assert_eq!(header, expected);
    }

    #[test]
    fn text_takes_whole_words() {
        assert_eq!([0, 1, 7, 8, 9].map(text_space), [0, 8, 8, 8, 16]);
    }

    #[test]
    #[should_panic(expected = "must not be empty")]
    fn an_empty_name_is_refused() {
        Record::<0>::name("");
    }

    #[test]
    #[should_panic(expected = "control characters")]
    fn a_name_with_a_nul_is_refused() {
        Record::<8>::name("a\0b");
    }
}
