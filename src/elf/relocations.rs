//! What a pointer in the file will be once the dynamic linker has relocated it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

use goblin::elf::reloc::{self, Reloc, RelocSection};
use goblin::elf::section_header::{SHN_ABS, SHN_UNDEF};
use goblin::elf::sym::{self, Sym};

use super::{CTX, Dynamic, Fault, Image, Machine, Source, names};

/// A pointer-sized cell.
const CELL: u64 = 8;

/// What a pointer in the file refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pointer {
    Null,
    /// An address of this file.
    Address(u64),
    /// A symbol that another file must define.
    Undefined(String),
    /// What is no address of this file: an IFUNC's choice, a thread-local or absolute symbol, a relocation of
    /// another kind. The relocation's number.
    Unsupported(u32),
}

/// The relocations of a range of addresses.
#[derive(Debug, Clone)]
pub(crate) struct Relocations {
    range: Range<u64>,
    /// By address. Only whole cells are kept, so there are never more than the range has room for, however
    /// often the file's tables name them. Where they name one twice, the later entry counts, as in the
    /// dynamic linker.
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    /// Load bias plus what stands in the cell.
    Stored,
    /// Load bias plus this.
    Relative(u64),
    Symbol(Sym, i64),
    Other(u32),
}

impl Image {
    /// Reads the relocation tables once for the pointers in `range`.
    pub(crate) fn relocations<S: Source + ?Sized>(
        &self,
        source: &S,
        dynamic: &Dynamic,
        range: Range<u64>,
    ) -> Result<Relocations, Fault> {
        let mut relocations = Relocations { range, entries: BTreeMap::new() };
        // RELR first, as the dynamic linker does it.
        let relr = self.table(source, "the packed relocation table", dynamic.relr)?;
        relocations.add_relr(&relr);
        for table in [dynamic.rela, dynamic.plt] {
            let bytes = self.table(source, "the relocation table", table)?;
            let malformed =
                Fault::Malformed { what: "the relocation table at address", offset: table.address };
            let entries = RelocSection::parse(&bytes, 0, bytes.len(), true, CTX).map_err(|_| malformed)?;
            for relocation in entries.iter() {
                if !relocations.keeps(relocation.r_offset) {
                    continue;
                }
                if let Some(entry) = self.entry(source, dynamic, &relocation)? {
                    relocations.entries.insert(relocation.r_offset, entry);
                }
            }
        }
        Ok(relocations)
    }

    /// What the pointer at `address` will refer to. The address is in the range of the relocations.
    pub(crate) fn pointer_at<S: Source + ?Sized>(
        &self,
        source: &S,
        dynamic: &Dynamic,
        relocations: &Relocations,
        address: u64,
    ) -> Result<Pointer, Fault> {
        let pointer = match relocations.entries.get(&address) {
            None => match self.stored(source, address)? {
                0 => Pointer::Null,
                value => Pointer::Address(value),
            },
            Some(Entry::Stored) => Pointer::Address(self.stored(source, address)?),
            Some(&Entry::Relative(address)) => Pointer::Address(address),
            Some(&Entry::Other(kind)) => Pointer::Unsupported(kind),
            Some(Entry::Symbol(symbol, addend)) => {
                if symbol.st_shndx == SHN_UNDEF as usize {
                    Pointer::Undefined(self.dynamic_name(source, dynamic, symbol.st_name)?)
                } else if symbol.st_shndx == SHN_ABS as usize
                    || matches!(symbol.st_type(), sym::STT_GNU_IFUNC | sym::STT_TLS)
                {
                    Pointer::Unsupported(self.absolute())
                } else {
                    // The file's own definition, also where another file's of the same name would win.
                    Pointer::Address(symbol.st_value.wrapping_add_signed(*addend))
                }
            }
        };
        Ok(pointer)
    }

    fn absolute(&self) -> u32 {
        match self.machine() {
            Machine::X86_64 => reloc::R_X86_64_64,
            Machine::Aarch64 => reloc::R_AARCH64_ABS64,
        }
    }

    fn entry<S: Source + ?Sized>(
        &self,
        source: &S,
        dynamic: &Dynamic,
        relocation: &Reloc,
    ) -> Result<Option<Entry>, Fault> {
        let addend = relocation.r_addend.unwrap_or(0);
        let symbol = |addend| {
            let symbol = self.dynamic_symbol(source, dynamic, relocation.r_sym)?;
            Ok(Some(Entry::Symbol(symbol, addend)))
        };
        match (self.machine(), relocation.r_type) {
            (Machine::X86_64, reloc::R_X86_64_NONE) | (Machine::Aarch64, reloc::R_AARCH64_NONE) => Ok(None),
            (Machine::X86_64, reloc::R_X86_64_RELATIVE) | (Machine::Aarch64, reloc::R_AARCH64_RELATIVE) => {
                Ok(Some(Entry::Relative(addend.cast_unsigned())))
            }
            // On x86-64 these two take no addend, on aarch64 they do.
            (Machine::X86_64, reloc::R_X86_64_GLOB_DAT | reloc::R_X86_64_JUMP_SLOT) => symbol(0),
            (Machine::X86_64, reloc::R_X86_64_64)
            | (
                Machine::Aarch64,
                reloc::R_AARCH64_ABS64 | reloc::R_AARCH64_GLOB_DAT | reloc::R_AARCH64_JUMP_SLOT,
            ) => symbol(addend),
            (_, other) => Ok(Some(Entry::Other(other))),
        }
    }

    fn stored<S: Source + ?Sized>(&self, source: &S, address: u64) -> Result<u64, Fault> {
        let bytes = self.bytes_at(source, address, CELL).map_err(|fault| fault.reading("a pointer"))?;
        let unmapped = Fault::Unmapped { what: "a pointer", address, len: CELL };
        Ok(u64::from_le_bytes(*bytes.first_chunk().ok_or(unmapped)?))
    }

    pub(super) fn dynamic_symbol<S: Source + ?Sized>(
        &self,
        source: &S,
        dynamic: &Dynamic,
        index: usize,
    ) -> Result<Sym, Fault> {
        let what = "a relocation's symbol";
        let size = sym::sym64::SIZEOF_SYM as u64;
        let unmapped = Fault::Unmapped { what, address: dynamic.symbols, len: size };
        // The index has 32 bits, so the product does not overflow.
        let address = dynamic.symbols.checked_add(index as u64 * size).ok_or(unmapped.clone())?;
        let bytes = self.bytes_at(source, address, size).map_err(|fault| fault.reading(what))?;
        Sym::parse(&bytes, 0, 1, CTX).ok().and_then(|mut symbols| symbols.pop()).ok_or(unmapped)
    }

    fn dynamic_name<S: Source + ?Sized>(
        &self,
        source: &S,
        dynamic: &Dynamic,
        at: usize,
    ) -> Result<String, Fault> {
        let strings = self.table(source, "the dynamic string table", dynamic.strings)?;
        let malformed = Fault::Malformed { what: "the name of a symbol, in a table", offset: at as u64 };
        let name = names::at(&strings, at).ok_or(malformed)?;
        Ok(String::from_utf8_lossy(name).into_owned())
    }
}

impl Relocations {
    /// Addresses of the cells that are relocated, in order.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        self.entries.keys().copied()
    }

    fn keeps(&self, address: u64) -> bool {
        self.range.contains(&address) && address.is_multiple_of(CELL)
    }

    /// Packed relative relocations (gABI, SHT_RELR): an even word is the address of a cell; an odd one has a
    /// bit for each of the 63 cells that follow the last cell that was spoken of.
    fn add_relr(&mut self, table: &[u8]) {
        let mut next = 0_u64;
        for word in table.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word)) {
            if word & 1 == 0 {
                self.add_stored(word);
                next = word.wrapping_add(CELL);
                continue;
            }
            for bit in 0..63 {
                if word >> (bit + 1) & 1 != 0 {
                    self.add_stored(next.wrapping_add(bit * CELL));
                }
            }
            next = next.wrapping_add(63 * CELL);
        }
    }

    fn add_stored(&mut self, address: u64) {
        if self.keeps(address) {
            self.entries.insert(address, Entry::Stored);
        }
    }
}
