//! An ELF file as a loaded module: its functions, their bytes, and what is around them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use goblin::elf::program_header::{PT_LOAD, PT_NOTE};
use goblin::elf::section_header::SHF_EXECINSTR;
use goblin::elf::sym::STT_FUNC;
use goblin::elf::{Elf, header};
use midflight_arch::{Around, Function, InstructionSet};

use crate::gaps;

/// Bytes behind a function that are told, if no more of them are padding.
const BEHIND: usize = 16;
/// How far from a function padding is of any use: for a jump of two bytes, also one at the end of it.
const NEAR: u64 = 160;

/// A function symbol. Addresses are those in the file.
#[derive(Debug, Clone)]
pub struct Symbol {
    /// Of the first byte.
    pub address: u64,
    /// In bytes.
    pub size: u64,
    /// As it stands in the file.
    pub name: String,
}

impl Symbol {
    /// Whether it is a part of another function: `.cold` of GCC and LLVM, `.cold` and `.warm` with a number of BOLT.
    pub(crate) fn is_part(&self) -> bool {
        [".cold", ".warm"].iter().any(|mark| self.name.contains(mark))
    }
}

/// A file whose functions can be planned.
#[derive(Debug)]
pub struct Module {
    /// The name of the file.
    pub name: String,
    /// What its code is written in.
    pub set: InstructionSet,
    /// The function symbols, one an address, sorted.
    pub functions: Vec<Symbol>,
    /// Whether its code is mapped with `PROT_BTI` where the system knows that.
    pub guarded: bool,
    /// What is added to an address in the file.
    base: u64,
    /// Bytes that it takes up when loaded.
    size: u64,
    file: Vec<u8>,
    sections: Vec<Section>,
    /// Start and length of padding, sorted; addresses in the file.
    paddings: Vec<(u64, usize)>,
}

/// An executable section.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) address: u64,
    pub(crate) bytes: Range<usize>,
}

impl Section {
    pub(crate) fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }

    /// The bytes from an address on, to the end of the section.
    pub(crate) fn from<'a>(&self, file: &'a [u8], address: u64) -> Option<&'a [u8]> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        file.get(self.bytes.clone())?.get(offset..)
    }
}

/// What is around a function, owned.
#[derive(Debug)]
pub(crate) struct Neighbourhood<'a> {
    behind: &'a [u8],
    padding: usize,
    paddings: Vec<(u64, &'a [u8])>,
}

impl Neighbourhood<'_> {
    pub(crate) fn around(&self) -> Around<'_> {
        Around { behind: self.behind, padding: self.padding, paddings: &self.paddings, ..Around::default() }
    }
}

impl Module {
    /// Reads a file. The error is for people.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let shown = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = shown.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self::parse(name, file).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(name: String, file: Vec<u8>) -> Result<Self, String> {
        let elf = Elf::parse(&file).map_err(|error| error.to_string())?;
        let set = match elf.header.e_machine {
            header::EM_X86_64 => InstructionSet::X86_64,
            header::EM_AARCH64 => InstructionSet::Aarch64,
            other => return Err(format!("machine {other} is none of ours")),
        };
        let sections: Vec<Section> = elf
            .section_headers
            .iter()
            .filter(|section| section.sh_flags & u64::from(SHF_EXECINSTR) != 0)
            .filter_map(|section| Some(Section { address: section.sh_addr, bytes: section.file_range()? }))
            .filter(|section| file.get(section.bytes.clone()).is_some())
            .collect();
        let functions = functions(&elf, &sections);
        let loads = elf.program_headers.iter().filter(|segment| segment.p_type == PT_LOAD);
        let size = loads.map(|segment| segment.p_vaddr + segment.p_memsz).max().unwrap_or(0);
        let guarded = set == InstructionSet::Aarch64 && has_landing_pads(&elf, &file);
        let base = if elf.header.e_type == header::ET_EXEC { 0 } else { base(set, elf.soname.is_none()) };
        let paddings = match set {
            InstructionSet::X86_64 => gaps::paddings(&elf, &file, &sections)?,
            // No form needs any.
            _ => Vec::new(),
        };
        Ok(Self { name, set, functions, guarded, base, size, sections, paddings, file })
    }

    /// The addresses that it takes up when loaded.
    pub fn image(&self) -> Range<u64> {
        self.base..self.base + self.size
    }

    /// A function with its bytes, where it is when it is loaded.
    pub fn function(&self, symbol: &Symbol) -> Option<Function<'_>> {
        let bytes = self.section(symbol.address)?.from(&self.file, symbol.address)?;
        let bytes = bytes.get(..usize::try_from(symbol.size).ok()?)?;
        Some(Function { address: self.base + symbol.address, bytes, guarded: self.guarded })
    }

    pub(crate) fn neighbourhood(&self, symbol: &Symbol) -> Neighbourhood<'_> {
        let end = symbol.address + symbol.size;
        let padding = match self.paddings.binary_search_by_key(&end, |&(start, _)| start) {
            Ok(index) => self.paddings.get(index).map_or(0, |&(_, length)| length),
            Err(_) => 0,
        };
        let rest = self.section(symbol.address).and_then(|section| section.from(&self.file, end));
        let rest = rest.unwrap_or_default();
        let behind = rest.get(..padding.max(BEHIND)).unwrap_or(rest);
        let from = self
            .paddings
            .partition_point(|&(start, length)| start + length as u64 <= symbol.address.saturating_sub(NEAR));
        let near = self.paddings.iter().skip(from).take_while(|&&(start, _)| start <= end + NEAR);
        let with_bytes = |&(start, length): &(u64, usize)| {
            let bytes = self.section(start)?.from(&self.file, start)?.get(..length)?;
            Some((self.base + start, bytes))
        };
        Neighbourhood {
            behind,
            padding: padding.min(behind.len()),
            paddings: near.filter_map(with_bytes).collect(),
        }
    }

    fn section(&self, address: u64) -> Option<&Section> {
        self.sections.iter().find(|section| (section.address..section.end()).contains(&address))
    }
}

/// Where Linux puts libraries and executables, more or less.
fn base(set: InstructionSet, is_executable: bool) -> u64 {
    match (set, is_executable) {
        (InstructionSet::X86_64, true) => 0x55d3_4a60_0000,
        (InstructionSet::X86_64, false) => 0x7f38_1c40_0000,
        (_, true) => 0xaaaa_c7a0_0000,
        (_, false) => 0xffff_8e20_0000,
    }
}

/// The function symbols: of `.symtab` if there is one, else of `.dynsym`; the longest of those at one address.
fn functions(elf: &Elf<'_>, sections: &[Section]) -> Vec<Symbol> {
    let (symbols, names) =
        if elf.syms.is_empty() { (&elf.dynsyms, &elf.dynstrtab) } else { (&elf.syms, &elf.strtab) };
    let mut found = BTreeMap::<u64, Symbol>::new();
    for symbol in symbols.iter().filter(|symbol| symbol.st_type() == STT_FUNC && symbol.st_size > 0) {
        let (address, size) = (symbol.st_value, symbol.st_size);
        let is_inside = |section: &&Section| {
            (section.address..section.end()).contains(&address) && size <= section.end() - address
        };
        // Index 0 is of what is defined elsewhere.
        if symbol.st_shndx == 0 || sections.iter().find(is_inside).is_none() {
            continue;
        }
        let is_longest = found.get(&address).is_none_or(|known| known.size < size);
        if is_longest {
            let name = names.get_at(symbol.st_name).unwrap_or("?").to_owned();
            found.insert(address, Symbol { address, size, name });
        }
    }
    found.into_values().collect()
}

/// Whether the linker noted that all of the code has landing pads (`GNU_PROPERTY_AARCH64_FEATURE_1_BTI`).
fn has_landing_pads(elf: &Elf<'_>, file: &[u8]) -> bool {
    const GNU_PROPERTY: u32 = 5;
    const FEATURE_1_AND: u32 = 0xc000_0000;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let notes = elf.program_headers.iter().filter(|segment| segment.p_type == PT_NOTE);
    notes.filter_map(|segment| file.get(segment.file_range())).any(|note| {
        // Name "GNU\0", then one property of 4 bytes: all that linkers write here.
        word(note, 8) == GNU_PROPERTY && word(note, 16) == FEATURE_1_AND && word(note, 24) & 1 != 0
    })
}
