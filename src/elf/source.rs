//! Where the bytes of a file come from, and what can be wrong with them.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io;

use super::Machine;

/// The bytes of one file, read piece by piece, so that a large library need not be in memory as a whole.
pub(crate) trait Source {
    /// Length of the file.
    fn len(&self) -> u64;

    /// The bytes `offset..offset + len`. What ends after the file is refused before anything is allocated for
    /// it, with [`Fault::Truncated`].
    fn read(&self, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Fault>;
}

impl Source for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&self, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Fault> {
        let bytes = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(len).ok())
            .and_then(|(offset, len)| self.get(offset..offset.checked_add(len)?));
        bytes.map(Cow::Borrowed).ok_or(Fault::Truncated { what: "the file", offset, len })
    }
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        Source::len(*self)
    }

    fn read(&self, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Fault> {
        Source::read(*self, offset, len)
    }
}

/// What is wrong with an ELF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("not an ELF file")]
    NotElf,
    #[error(
        "{what} should be at offset {offset:#x}, {len:#x} bytes long, which is beyond the end of the file"
    )]
    Truncated { what: &'static str, offset: u64, len: u64 },
    #[error("not a 64-bit ELF file")]
    Class,
    #[error("not a little-endian ELF file")]
    Endianness,
    #[error("made for {}, not for {expected}", Machine::describe(*.found))]
    Machine { expected: Machine, found: u16 },
    #[error("neither a shared library nor an executable (ELF type {found})")]
    Type { found: u16 },
    #[error("{what} at offset {offset:#x} is malformed")]
    Malformed { what: &'static str, offset: u64 },
    #[error("{what} should be at address {address:#x}, {len:#x} bytes long, where the file has none")]
    Unmapped { what: &'static str, address: u64, len: u64 },
    /// For sources that are files.
    #[error("offset {offset:#x} cannot be read: {kind}")]
    Read { offset: u64, kind: io::ErrorKind },
}

impl Fault {
    /// The same fault, saying what was to be read.
    pub(super) fn reading(self, name: &'static str) -> Self {
        match self {
            Self::Truncated { offset, len, .. } => Self::Truncated { what: name, offset, len },
            Self::Unmapped { address, len, .. } => Self::Unmapped { what: name, address, len },
            other => other,
        }
    }
}

/// Reads, and says in a fault what was to be read.
pub(super) fn read<'s, S: Source + ?Sized>(
    source: &'s S,
    what: &'static str,
    offset: u64,
    len: u64,
) -> Result<Cow<'s, [u8]>, Fault> {
    source.read(offset, len).map_err(|fault| fault.reading(what))
}
