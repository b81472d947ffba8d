//! The manifest: what a patch library replaces, out of the bytes of its file.
//!
//! The file is not trusted. Every offset, count and string is checked before it is used, and what is made of
//! the file is never much longer than the file. The format is described in `midflight_patch::format`.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use midflight_patch::format;

use crate::elf::{
    self, Build, Dynamic, FileKind, Image, Interposable, Machine, Pointer, Relocations, Section,
};
use crate::error::file::PatchFault;

/// A pointer-sized cell.
const CELL: u64 = 8;

/// What a patch library says of itself. All addresses are the file's, without load bias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    /// In the order of the records; no target twice.
    pub(crate) replacements: Vec<Replacement>,
    /// The function that is handed the program's way to resume panics; in an executable segment.
    pub(crate) attach: Option<u64>,
    /// Symbols that must be found elsewhere.
    pub(crate) undefined: Vec<String>,
    /// Own definitions that it may find bound to others.
    pub(crate) interposable: Interposable,
    /// Libraries that are loaded with it.
    pub(crate) needed: Vec<String>,
    pub(crate) build_id: Option<Vec<u8>>,
    /// By what it was compiled.
    pub(crate) build: Build,
}

/// One record: calls of `target` go to `replacement`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replacement {
    pub(crate) target: String,
    /// In an executable segment.
    pub(crate) replacement: u64,
    /// The cell for the callable original: aligned, in memory that stays writable, shared with no other
    /// record.
    pub(crate) original: Option<u64>,
}

/// Reads the manifest of a patch library for `machine`.
pub(crate) fn parse(bytes: &[u8], machine: Machine) -> Result<Manifest, PatchFault> {
    let image = Image::parse(bytes, machine)?;
    let dynamic = shared_library(bytes, &image)?;
    if image.section(format::ENGINE_SECTION).is_some() {
        return Err(PatchFault::ContainsEngine);
    }

    let mut records = Records::default();
    let mut found = false;
    // Linkers make one section of all of them; a file with several is read to the end all the same, so that
    // none of its records is passed over in silence.
    for section in image.sections_named(format::SECTION) {
        found = true;
        Reader::new(bytes, &image, &dynamic, section)?.read_all(&mut records)?;
    }
    if !found {
        return Err(PatchFault::NoManifest);
    }

    let name = records.name.ok_or(PatchFault::NoName)?;
    if records.replacements.is_empty() {
        return Err(PatchFault::NoReplacements);
    }
    Ok(Manifest {
        name,
        replacements: records.replacements,
        attach: records.attach,
        undefined: image.undefined(bytes)?,
        interposable: image.interposable(bytes, &dynamic)?,
        needed: dynamic.needed,
        build_id: image.build_id(bytes),
        build: image.build(bytes),
    })
}

impl From<elf::Fault> for PatchFault {
    fn from(fault: elf::Fault) -> Self {
        match fault {
            elf::Fault::NotElf => Self::NotElf,
            elf::Fault::Truncated { what, offset, len } => Self::Truncated { what, offset, len },
            elf::Fault::Class => Self::WrongClass,
            elf::Fault::Endianness => Self::WrongEndianness,
            elf::Fault::Machine { expected, found } => Self::WrongMachine {
                expected: expected.to_string(),
                found: Machine::describe(found).into_owned(),
            },
            elf::Fault::Type { found } => Self::NotShared {
                found: match found {
                    1 => "an object file",
                    4 => "a core dump",
                    _ => "of an unknown ELF type",
                },
            },
            elf::Fault::Malformed { what, offset } => Self::Malformed { what, offset },
            elf::Fault::Unmapped { what, address, len } => Self::Unmapped { what, address, len },
            elf::Fault::Read { offset, kind } => Self::Read { offset, kind },
        }
    }
}

/// Makes sure that the file is a whole shared library, and gives its dynamic table.
fn shared_library(bytes: &[u8], image: &Image) -> Result<Dynamic, PatchFault> {
    let refuse = |found| Err(PatchFault::NotShared { found });
    if image.kind() == FileKind::Fixed {
        return refuse("an executable");
    }
    let Some(dynamic) = image.dynamic(bytes)? else {
        return refuse("an executable or a debug file without a dynamic table");
    };
    if dynamic.is_executable {
        return refuse("an executable (position-independent)");
    }
    // What is mapped from beyond the end of a file kills the process that touches it.
    for load in image.loads() {
        if load.offset + load.file_len > bytes.len() as u64 {
            return Err(PatchFault::Truncated { what: "a segment", offset: load.offset, len: load.file_len });
        }
    }
    Ok(dynamic)
}

/// What the records read so far say.
#[derive(Default)]
struct Records {
    name: Option<String>,
    replacements: Vec<Replacement>,
    attach: Option<u64>,
    /// Offsets of the records, by target and by the address of the original's cell.
    targets: HashMap<String, u64>,
    originals: HashMap<u64, u64>,
}

/// A section with records.
struct Reader<'f> {
    file: &'f [u8],
    image: &'f Image,
    dynamic: &'f Dynamic,
    relocations: Relocations,
    records: &'f [u8],
    address: u64,
    /// Where the section's first byte stands in the file.
    offset: u64,
}

/// A record whose numbers and text have been checked.
struct Record<'f> {
    kind: u16,
    text: &'f str,
    /// In the file.
    offset: u64,
    address: u64,
}

impl<'f> Reader<'f> {
    fn new(
        file: &'f [u8],
        image: &'f Image,
        dynamic: &'f Dynamic,
        section: &Section,
    ) -> Result<Self, PatchFault> {
        let bad = |reason| PatchFault::BadRecord { offset: section.offset, reason };
        if !section.is_allocated() || !section.has_bytes() {
            return Err(bad("the section is not loaded with the library"));
        }
        if !section.address.is_multiple_of(CELL) {
            return Err(bad("the section is not aligned to 8 bytes"));
        }
        // An empty section has no address to look for.
        if section.size != 0 && image.offset_of(section.address) != Some(section.offset) {
            return Err(bad("the section is not where its segment has it"));
        }
        let records =
            file.get(to_usize(section.offset)..).and_then(|rest| rest.get(..to_usize(section.size)));
        let (what, offset, len) = ("the section midflight_patch", section.offset, section.size);
        let records = records.ok_or(PatchFault::Truncated { what, offset, len })?;
        let end = section
            .address
            .checked_add(section.size)
            .ok_or_else(|| bad("the section's size is too large"))?;
        let relocations = image.relocations(file, dynamic, section.address..end)?;
        Ok(Self {
            file,
            image,
            dynamic,
            relocations,
            records,
            address: section.address,
            offset: section.offset,
        })
    }

    fn read_all(&self, records: &mut Records) -> Result<(), PatchFault> {
        let mut at = 0;
        while let Some(rest) = self.records.get(at..).filter(|rest| !rest.is_empty()) {
            let word = rest.get(..format::ALIGN).unwrap_or(rest);
            if word.iter().all(|&byte| byte == 0) {
                at += word.len();
                continue;
            }
            let (record, size) = self.record(at, rest)?;
            if let Some(record) = record {
                self.add(&record, records)?;
            }
            at += size;
        }
        Ok(())
    }

    /// Takes the record at the start of `rest` apart; `None` if it is optional and not known. With its size.
    fn record(&self, at: usize, rest: &'f [u8]) -> Result<(Option<Record<'f>>, usize), PatchFault> {
        let offset = self.offset + at as u64;
        let bad = |reason| PatchFault::BadRecord { offset, reason };
        let header = rest.first_chunk().ok_or_else(|| bad("the section ends within the record"))?;
        let header = format::Header::read(header);
        if header.magic != format::MAGIC {
            return Err(bad("it does not start with `MFLT`"));
        }
        if header.version != format::VERSION {
            return Err(PatchFault::UnknownVersion { offset, found: header.version });
        }
        let size = to_usize(header.size.into());
        if size < format::HEADER_SIZE || !size.is_multiple_of(format::ALIGN) {
            return Err(bad("its size is not a multiple of 8, or is less than 32"));
        }
        let record =
            rest.get(..size).ok_or_else(|| bad("its size is more than what is left of the section"))?;
        let kind = header.kind;
        if ![format::KIND_NAME, format::KIND_REPLACE, format::KIND_ATTACH].contains(&kind) {
            if kind & format::OPTIONAL != 0 {
                return Ok((None, size));
            }
            return Err(PatchFault::UnknownKind { offset, kind });
        }

        let bad_text = |reason| PatchFault::BadText { offset, reason };
        let text =
            record.get(format::HEADER_SIZE..).and_then(|text| text.get(..to_usize(header.text_len.into())));
        let text = text.ok_or_else(|| bad_text("is longer than the record"))?;
        let text = str::from_utf8(text).map_err(|_| bad_text("is not UTF-8"))?;
        if text.is_empty() {
            return Err(bad_text("is empty"));
        }
        if text.contains('\0') {
            return Err(bad_text("contains a NUL byte"));
        }
        // It will be shown on terminals.
        if text.contains(char::is_control) {
            return Err(bad_text("contains a control character"));
        }
        Ok((Some(Record { kind, text, offset, address: self.address + at as u64 }), size))
    }

    fn add(&self, record: &Record<'_>, records: &mut Records) -> Result<(), PatchFault> {
        let &Record { kind, text, offset, .. } = record;
        let replacement = self.pointer(record, format::POINTER_A)?;
        let original = self.pointer(record, format::POINTER_B)?;
        if kind == format::KIND_NAME {
            if replacement != Pointer::Null || original != Pointer::Null {
                return Err(PatchFault::BadRecord { offset, reason: "a name has pointers" });
            }
            return match records.name.take() {
                Some(first) => Err(PatchFault::TwoNames { first, second: text.to_owned(), offset }),
                None => {
                    records.name = Some(text.to_owned());
                    Ok(())
                }
            };
        }

        if kind == format::KIND_ATTACH {
            let not_code = |reason| PatchFault::NotCode { target: "panics".to_owned(), offset, reason };
            let attach = self.code(replacement).map_err(not_code)?;
            if original != Pointer::Null || records.attach.is_some_and(|first| first != attach) {
                let reason = "a second function to attach to, or one with an original";
                return Err(PatchFault::BadRecord { offset, reason });
            }
            records.attach = Some(attach);
            return Ok(());
        }

        match records.targets.entry(text.to_owned()) {
            Entry::Occupied(first) => {
                let (target, first) = (text.to_owned(), *first.get());
                return Err(PatchFault::TwoForOneTarget { target, first, second: offset });
            }
            Entry::Vacant(target) => target.insert(offset),
        };
        let not_code = |reason| PatchFault::NotCode { target: text.to_owned(), offset, reason };
        let replacement = self.code(replacement).map_err(not_code)?;
        let bad_original = |reason| PatchFault::BadOriginal { target: text.to_owned(), offset, reason };
        let original = self.cell(original).map_err(bad_original)?;
        if let Some(first) = original.and_then(|cell| records.originals.insert(cell, offset)) {
            return Err(bad_original(format!(
                "the record at offset {first:#x} has the same place for another one"
            )));
        }
        records.replacements.push(Replacement { target: text.to_owned(), replacement, original });
        Ok(())
    }

    fn pointer(&self, record: &Record<'_>, field: usize) -> Result<Pointer, PatchFault> {
        let address = record.address + field as u64;
        Ok(self.image.pointer_at(self.file, self.dynamic, &self.relocations, address)?)
    }

    fn code(&self, pointer: Pointer) -> Result<u64, String> {
        let address = match pointer {
            Pointer::Address(address) => address,
            Pointer::Null => return Err("it is null".to_owned()),
            other => return Err(elsewhere(&other)),
        };
        if !self.image.is_executable(address) {
            return Err(format!("address {address:#x} is not executable"));
        }
        if self.image.machine() == Machine::Aarch64 && !address.is_multiple_of(4) {
            return Err(format!("address {address:#x} is not that of an instruction"));
        }
        Ok(address)
    }

    fn cell(&self, pointer: Pointer) -> Result<Option<u64>, String> {
        let address = match pointer {
            Pointer::Null => return Ok(None),
            Pointer::Address(address) => address,
            other => return Err(elsewhere(&other)),
        };
        if !address.is_multiple_of(CELL) {
            return Err(format!("address {address:#x} is not aligned to 8 bytes"));
        }
        if !self.image.is_writable(address, CELL) {
            return Err(format!("address {address:#x} is not in memory that stays writable"));
        }
        Ok(Some(address))
    }
}

fn elsewhere(pointer: &Pointer) -> String {
    match pointer {
        Pointer::Undefined(name) => format!("`{}` is not defined in it", name.escape_debug()),
        Pointer::Unsupported(kind) => {
            format!("its address is only known when the library is loaded (an IFUNC, or relocation {kind})")
        }
        Pointer::Null | Pointer::Address(_) => "it is nowhere".to_owned(),
    }
}

/// Lengths and offsets as indices: on the 64-bit machines that midflight is for, nothing is lost.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
