//! What can be wrong with a patch file.

use std::io;

/// What is wrong with a patch library's file. Nothing of it has been loaded when one of these is reported.
///
/// Offsets are counted in the file, from its start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchFault {
    /// The file does not start like an ELF file, or is empty.
    #[error("it is not an ELF file: give the shared library (.so) that the patch was built to")]
    NotElf,

    /// The file ends too early.
    #[error(
        "it is truncated: {what} should be at offset {offset:#x}, {len:#x} bytes long; copy or build \
         the file again"
    )]
    Truncated {
        /// What should be there.
        what: &'static str,
        /// Where it should start.
        offset: u64,
        /// How long it should be.
        len: u64,
    },

    /// The file is an ELF file of 32 bits.
    #[error("it is not a 64-bit library (ELF class, offset 0x4): build it for the machine of the program")]
    WrongClass,

    /// The file is an ELF file for big-endian machines.
    #[error(
        "it is not a little-endian library (ELF data, offset 0x5): build it for the machine of the program"
    )]
    WrongEndianness,

    /// The file is for another instruction set than the program.
    #[error("it is made for {found} (offset 0x12), but the program is {expected}: build it for that")]
    WrongMachine {
        /// The program's machine.
        expected: String,
        /// The file's machine.
        found: String,
    },

    /// The file is an object file, an executable, a core dump or the like.
    #[error(
        "it is not a shared library but {found}: build it with `crate-type = [\"cdylib\"]` or \
         `cc -shared -fPIC`"
    )]
    NotShared {
        /// What it is.
        found: &'static str,
    },

    /// A part of the ELF file contradicts itself.
    #[error("{what} at offset {offset:#x} is malformed: build the file again")]
    Malformed {
        /// The part.
        what: &'static str,
        /// Where it is.
        offset: u64,
    },

    /// A part of the ELF file should be at an address where the file has nothing.
    #[error(
        "{what} should be at address {address:#x}, {len:#x} bytes long, where the file has none: build \
         it again"
    )]
    Unmapped {
        /// The part.
        what: &'static str,
        /// Its address in the file's own numbering.
        address: u64,
        /// How long it should be.
        len: u64,
    },

    /// The file could not be read.
    #[error("it could not be read at offset {offset:#x}: {kind}")]
    Read {
        /// Where reading failed.
        offset: u64,
        /// How.
        kind: io::ErrorKind,
    },

    /// The file says nothing of replacements.
    #[error(
        "it has no section `midflight_patch`, so it replaces nothing: use `midflight_patch::patch!` in Rust, \
         `MIDFLIGHT_PATCH` and `MIDFLIGHT_REPLACE` of midflight/patch.h in C"
    )]
    NoManifest,

    /// The library has a midflight of its own.
    #[error(
        "it contains the engine (section `midflight_engine`), and there can be only one in a process: a \
         patch library may depend on midflight-patch, not on midflight"
    )]
    ContainsEngine,

    /// A record of the manifest is malformed.
    #[error("the manifest's record at offset {offset:#x} is malformed: {reason}")]
    BadRecord {
        /// Where the record starts.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },

    /// The text of a record cannot be a name.
    #[error("the name in the manifest's record at offset {offset:#x} {reason}")]
    BadText {
        /// Where the record starts.
        offset: u64,
        /// What is wrong, as a verb.
        reason: &'static str,
    },

    /// The record was written by a later version of midflight-patch.
    #[error(
        "the manifest's record at offset {offset:#x} has format version {found}, and this midflight reads \
         {}: update midflight in the program",
        midflight_patch::format::VERSION
    )]
    UnknownVersion {
        /// Where the record starts.
        offset: u64,
        /// Its version.
        found: u16,
    },

    /// The record says something that this midflight does not know and may not pass over.
    #[error(
        "the manifest's record at offset {offset:#x} is of kind {kind}, which this midflight does not know: \
         update midflight in the program"
    )]
    UnknownKind {
        /// Where the record starts.
        offset: u64,
        /// Its kind.
        kind: u16,
    },

    /// The patch has no name.
    #[error("the patch has no name: add `name: \"...\"` to `patch!`, or MIDFLIGHT_PATCH(\"...\")")]
    NoName,

    /// The patch has two names.
    #[error(
        "the patch has two names, {first:?} and {second:?} (record at offset {offset:#x}): one `patch!` or \
         MIDFLIGHT_PATCH in a library"
    )]
    TwoNames {
        /// The first name.
        first: String,
        /// The second name.
        second: String,
        /// Where the second record starts.
        offset: u64,
    },

    /// The patch has a name but replaces nothing.
    #[error("the patch replaces nothing: add `#[replaces(\"target\")]` functions, or MIDFLIGHT_REPLACE")]
    NoReplacements,

    /// Two records replace one target.
    #[error(
        "`{target}` is replaced twice, by the records at offsets {first:#x} and {second:#x}: leave one \
         of them"
    )]
    TwoForOneTarget {
        /// The target's name.
        target: String,
        /// Where the first record starts.
        first: u64,
        /// Where the second record starts.
        second: u64,
    },

    /// What should take over the calls of a target is not code of the library.
    #[error(
        "the replacement of `{target}` (record at offset {offset:#x}) is no code of this library: {reason}"
    )]
    NotCode {
        /// The target's name.
        target: String,
        /// Where the record starts.
        offset: u64,
        /// What it is.
        reason: String,
    },

    /// The original of a target cannot be handed over.
    #[error(
        "the original of `{target}` (record at offset {offset:#x}) cannot be stored: {reason}; declare it \
         with `original = NAME`, or in C as a variable that is not const"
    )]
    BadOriginal {
        /// The target's name.
        target: String,
        /// Where the record starts.
        offset: u64,
        /// What is wrong with the place for it.
        reason: String,
    },
}
