//! What an ELF file says, out of its bytes: segments, sections, symbols, relocations.
//!
//! goblin decodes single headers and entries. Its whole-file parser is not used: it copies every name and
//! reads tables that nobody asked for. Everything here is bounded by the length of the file, and nothing is
//! trusted: every offset, count and string is checked before use. All addresses are the file's, without load
//! bias.
#![forbid(unsafe_code)]

mod allocator;
mod build;
mod dynamic;
#[cfg(test)]
pub(crate) mod forge;
mod interposable;
mod names;
mod relocations;
mod source;
mod symbols;
#[cfg(test)]
mod tests;
mod unwind;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{self, header64};
use goblin::elf::program_header::{self, ProgramHeader};
use goblin::elf::section_header::{self, SectionHeader};

pub(crate) use allocator::Allocator;
pub(crate) use build::{Build, Compiler, is_rust_name};
pub(crate) use dynamic::Dynamic;
pub(crate) use interposable::Interposable;
pub(crate) use relocations::{Pointer, Relocations};
pub(crate) use source::{Fault, Source};
pub(crate) use symbols::{Binding, Symbol, SymbolKind, SymbolTable, Symbols};
pub(crate) use unwind::Unwind;

use source::read;

/// How everything here is stored.
const CTX: Ctx = Ctx { container: Container::Big, le: Endian::Little };

/// e_phnum, when the number of program headers stands in the first section header instead.
const PN_XNUM: u16 = 0xffff;

/// e_shstrndx, when it stands in the first section header instead.
const SHN_XINDEX: u16 = 0xffff;

/// Notes are read as a whole up to this length; a build id stands in the first few hundred bytes.
const MAX_NOTES: u64 = 1 << 16;

/// How many notes' sections and segments are looked at for a build id.
const MAX_NOTE_TABLES: usize = 32;

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    fn number(self) -> u16 {
        match self {
            Self::X86_64 => header::EM_X86_64,
            Self::Aarch64 => header::EM_AARCH64,
        }
    }

    /// The name of any machine number that a file may bear.
    pub(crate) fn describe(number: u16) -> Cow<'static, str> {
        match number {
            header::EM_X86_64 => "x86-64".into(),
            header::EM_AARCH64 => "aarch64".into(),
            header::EM_386 => "32-bit x86".into(),
            header::EM_ARM => "32-bit ARM".into(),
            header::EM_RISCV => "RISC-V".into(),
            _ => format!("machine {number}").into(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::describe(self.number()))
    }
}

/// What a file is for the dynamic linker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// ET_DYN: a shared library or a position-independent executable.
    Dynamic,
    /// ET_EXEC: an executable at fixed addresses.
    Fixed,
}

/// A part of the file that is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Load {
    /// Addresses in memory.
    pub(crate) memory: Range<u64>,
    /// Where its first byte stands in the file.
    pub(crate) offset: u64,
    /// How many of its bytes stand in the file; the rest are zeros.
    pub(crate) file_len: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
}

/// A section header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    name: usize,
    link: usize,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) entry_size: u64,
}

impl Section {
    /// Whether it is part of what is mapped.
    pub(crate) fn is_allocated(&self) -> bool {
        self.flags & u64::from(section_header::SHF_ALLOC) != 0
    }

    /// Whether its bytes stand in the file.
    pub(crate) fn has_bytes(&self) -> bool {
        self.kind != section_header::SHT_NOBITS && self.kind != section_header::SHT_NULL
    }
}

/// The headers of one file. Its bytes are asked for again by whatever needs them.
///
/// Parts of the file that only *might* be needed are not looked at before they are: separate debug files keep
/// headers of what they do not contain.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    machine: Machine,
    kind: FileKind,
    loads: Vec<Load>,
    /// Ranges that the dynamic linker makes read-only after relocation.
    relro: Vec<Range<u64>>,
    /// File offset and length of the dynamic table.
    dynamic: Option<(u64, u64)>,
    /// File offsets and lengths of the note segments.
    notes: Vec<(u64, u64)>,
    /// File offset and length of the segment of program properties.
    properties: Option<(u64, u64)>,
    /// Address and length of the header of the unwind table.
    unwind: Option<(u64, u64)>,
    sections: Vec<Section>,
    section_names: Vec<u8>,
}

impl Image {
    pub(crate) fn parse<S: Source + ?Sized>(source: &S, expected: Machine) -> Result<Self, Fault> {
        let (header, kind) = file_header(source, expected)?;
        let first = first_section(source, &header)?;
        let sections = section_headers(source, &header, first.as_ref())?;
        let segments = program_headers(source, &header, first.as_ref())?;

        let names = match header.e_shstrndx {
            SHN_XINDEX => first.map_or(0, |first| first.sh_link as usize),
            index => usize::from(index),
        };
        let section_names = match sections.get(names) {
            // Index 0 says that there are no names.
            Some(section) if names != 0 && section.has_bytes() => {
                read(source, "the table of section names", section.offset, section.size)?.into_owned()
            }
            Some(_) => Vec::new(),
            None if sections.is_empty() => Vec::new(),
            None => return Err(Fault::Malformed { what: "the index of the section names", offset: 62 }),
        };

        let mut image = Self {
            machine: expected,
            kind,
            loads: Vec::new(),
            relro: Vec::new(),
            dynamic: None,
            notes: Vec::new(),
            properties: None,
            unwind: None,
            sections,
            section_names,
        };
        for segment in &segments {
            image.add_segment(segment)?;
        }
        Ok(image)
    }

    pub(crate) fn machine(&self) -> Machine {
        self.machine
    }

    pub(crate) fn kind(&self) -> FileKind {
        self.kind
    }

    pub(crate) fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// The first section of a name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections_named(name).next()
    }

    /// All sections of a name; linkers join them, but nothing makes them.
    pub(crate) fn sections_named(&self, name: &str) -> impl Iterator<Item = &Section> {
        self.sections
            .iter()
            .filter(move |section| names::is_at(&self.section_names, section.name, name.as_bytes()))
    }

    /// Where in the file the byte of an address stands, if it stands there.
    pub(crate) fn offset_of(&self, address: u64) -> Option<u64> {
        self.load_with_bytes(address, 0).map(|load| load.offset + (address - load.memory.start))
    }

    /// The file's bytes of addresses in one segment. Zeros that are not in the file are refused.
    pub(crate) fn bytes_at<'s, S: Source + ?Sized>(
        &self,
        source: &'s S,
        address: u64,
        len: u64,
    ) -> Result<Cow<'s, [u8]>, Fault> {
        let what = "data";
        let load = self.load_with_bytes(address, len).ok_or(Fault::Unmapped { what, address, len })?;
        read(source, what, load.offset + (address - load.memory.start), len)
    }

    pub(crate) fn is_executable(&self, address: u64) -> bool {
        self.loads.iter().any(|load| load.executable && load.memory.contains(&address))
    }

    /// Whether `len` bytes can be written once the dynamic linker is done.
    pub(crate) fn is_writable(&self, address: u64, len: u64) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let within = |load: &Load| load.writable && load.memory.start <= address && end <= load.memory.end;
        self.loads.iter().any(within)
            && !self.relro.iter().any(|relro| address < relro.end && relro.start < end)
    }

    /// The build id. Notes that cannot be read have none.
    pub(crate) fn build_id<S: Source + ?Sized>(&self, source: &S) -> Option<Vec<u8>> {
        // Sections first: in a separate debug file the segments' offsets mean nothing.
        let sections = self.sections.iter().filter(|section| section.kind == section_header::SHT_NOTE);
        let sections = sections.map(|section| (section.offset, section.size));
        sections.chain(self.notes.iter().copied()).take(MAX_NOTE_TABLES).find_map(|(offset, len)| {
            let notes = source.read(offset, len.min(MAX_NOTES)).ok()?;
            names::build_id(&notes).map(<[u8]>::to_vec)
        })
    }

    /// Whether all indirect calls and jumps in it land on landing pads, so that its code may be mapped to insist on
    /// that: aarch64's BTI (ELF for the Arm 64-bit Architecture, "Program Property").
    pub(crate) fn has_landing_pads<S: Source + ?Sized>(&self, source: &S) -> bool {
        const FEATURE_1_AND: u32 = 0xc000_0000;
        const BTI: u32 = 1;
        let Some((offset, len)) = self.properties.filter(|_| self.machine == Machine::Aarch64) else {
            return false;
        };
        let notes = source.read(offset, len.min(MAX_NOTES)).unwrap_or_default();
        let value = names::properties(&notes).and_then(|all| names::property(all, FEATURE_1_AND));
        value.is_some_and(|value| value & BTI != 0)
    }

    fn load_with_bytes(&self, address: u64, len: u64) -> Option<&Load> {
        let end = address.checked_add(len)?;
        self.loads.iter().find(|load| {
            // `add_segment` has checked that this does not overflow.
            let file_end = load.memory.start + load.file_len;
            load.memory.start <= address && address < file_end && end <= file_end
        })
    }

    fn add_segment(&mut self, segment: &ProgramHeader) -> Result<(), Fault> {
        let malformed =
            Fault::Malformed { what: "the program header of the segment", offset: segment.p_offset };
        let end = segment.p_vaddr.checked_add(segment.p_memsz).ok_or(malformed.clone())?;
        let in_file = (segment.p_offset, segment.p_filesz);
        in_file.0.checked_add(in_file.1).ok_or(malformed.clone())?;
        match segment.p_type {
            program_header::PT_LOAD => {
                if segment.p_filesz > segment.p_memsz {
                    return Err(malformed);
                }
                self.loads.push(Load {
                    memory: segment.p_vaddr..end,
                    offset: segment.p_offset,
                    file_len: segment.p_filesz,
                    readable: segment.is_read(),
                    writable: segment.is_write(),
                    executable: segment.is_executable(),
                });
            }
            program_header::PT_DYNAMIC => self.dynamic = Some(in_file),
            program_header::PT_NOTE => self.notes.push(in_file),
            program_header::PT_GNU_PROPERTY => self.properties = Some(in_file),
            program_header::PT_GNU_EH_FRAME => self.unwind = Some((segment.p_vaddr, segment.p_memsz)),
            program_header::PT_GNU_RELRO => self.relro.push(segment.p_vaddr..end),
            _ => {}
        }
        Ok(())
    }
}

fn file_header<S: Source + ?Sized>(
    source: &S,
    expected: Machine,
) -> Result<(header64::Header, FileKind), Fault> {
    let magic = source.read(0, header::SELFMAG as u64).map_err(|fault| match fault {
        Fault::Truncated { .. } => Fault::NotElf,
        other => other,
    })?;
    if *magic != *header::ELFMAG {
        return Err(Fault::NotElf);
    }
    let what = "the file header";
    let ident = read(source, what, 0, header::SIZEOF_IDENT as u64)?;
    if ident.get(header::EI_CLASS) != Some(&header::ELFCLASS64) {
        return Err(Fault::Class);
    }
    if ident.get(header::EI_DATA) != Some(&header::ELFDATA2LSB) {
        return Err(Fault::Endianness);
    }
    let bytes = read(source, what, 0, header64::SIZEOF_EHDR as u64)?;
    let header = header64::Header::parse(&bytes).map_err(|_| Fault::Malformed { what, offset: 0 })?;
    if header.e_machine != expected.number() {
        return Err(Fault::Machine { expected, found: header.e_machine });
    }
    let kind = match header.e_type {
        header::ET_DYN => FileKind::Dynamic,
        header::ET_EXEC => FileKind::Fixed,
        found => return Err(Fault::Type { found }),
    };
    Ok((header, kind))
}

/// The section header with index 0, which holds the counts that are too large for the file header.
fn first_section<S: Source + ?Sized>(
    source: &S,
    header: &header64::Header,
) -> Result<Option<SectionHeader>, Fault> {
    if header.e_shoff == 0 {
        return Ok(None);
    }
    if usize::from(header.e_shentsize) != section_header::section_header64::SIZEOF_SHDR {
        return Err(Fault::Malformed { what: "the size of a section header", offset: 58 });
    }
    Ok(parse_sections(source, header.e_shoff, 1)?.pop())
}

fn section_headers<S: Source + ?Sized>(
    source: &S,
    header: &header64::Header,
    first: Option<&SectionHeader>,
) -> Result<Vec<Section>, Fault> {
    let Some(first) = first else { return Ok(Vec::new()) };
    let count = match header.e_shnum {
        0 => first.sh_size,
        count => u64::from(count),
    };
    let sections = parse_sections(source, header.e_shoff, count)?;
    let section = |section: &SectionHeader| Section {
        name: section.sh_name,
        link: section.sh_link as usize,
        kind: section.sh_type,
        flags: section.sh_flags,
        address: section.sh_addr,
        offset: section.sh_offset,
        size: section.sh_size,
        entry_size: section.sh_entsize,
    };
    Ok(sections.iter().map(section).collect())
}

fn parse_sections<S: Source + ?Sized>(
    source: &S,
    offset: u64,
    count: u64,
) -> Result<Vec<SectionHeader>, Fault> {
    let what = "the table of section headers";
    let malformed = Fault::Malformed { what, offset };
    if count == 0 {
        return Ok(Vec::new());
    }
    let size = section_header::section_header64::SIZEOF_SHDR as u64;
    let bytes = read(source, what, offset, count.checked_mul(size).ok_or(malformed.clone())?)?;
    let count = usize::try_from(count).map_err(|_| malformed.clone())?;
    SectionHeader::parse_from(&bytes, 0, count, CTX).map_err(|_| malformed)
}

fn program_headers<S: Source + ?Sized>(
    source: &S,
    header: &header64::Header,
    first: Option<&SectionHeader>,
) -> Result<Vec<ProgramHeader>, Fault> {
    let what = "the table of program headers";
    let malformed = Fault::Malformed { what, offset: header.e_phoff };
    let count = match header.e_phnum {
        0 => return Ok(Vec::new()),
        PN_XNUM => first.map(|first| first.sh_info).ok_or(malformed.clone())?,
        count => u32::from(count),
    };
    let size = program_header::program_header64::SIZEOF_PHDR;
    if usize::from(header.e_phentsize) != size {
        return Err(Fault::Malformed { what: "the size of a program header", offset: 54 });
    }
    let bytes = read(source, what, header.e_phoff, u64::from(count) * size as u64)?;
    ProgramHeader::parse(&bytes, 0, count as usize, CTX).map_err(|_| malformed)
}
