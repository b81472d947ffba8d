//! Symbol tables, read without copying a name.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use goblin::elf::section_header::{SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB};
use goblin::elf::sym::{self, sym64::SIZEOF_SYM};

use super::{Fault, Image, Source, names, source::read};

/// Which of a file's symbol tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SymbolTable {
    /// `.symtab`: all symbols, unless the file was stripped.
    Full,
    /// `.dynsym`: what the dynamic linker sees.
    Dynamic,
}

/// What a symbol stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SymbolKind {
    Function,
    /// A function that chooses the implementation when the program is loaded.
    Ifunc,
    Object,
    Tls,
    /// The source file of the local symbols that follow.
    File,
    Other,
}

/// How a symbol takes part in linking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binding {
    Local,
    Global,
    Weak,
    Other,
}

/// One entry of a symbol table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbol<'t> {
    names: &'t [u8],
    name: u32,
    /// The file's address.
    pub(crate) value: u64,
    pub(crate) size: u64,
    pub(crate) kind: SymbolKind,
    pub(crate) binding: Binding,
    /// Whether it has a value in this file.
    pub(crate) defined: bool,
}

impl<'t> Symbol<'t> {
    /// Takes an entry apart by hand: goblin's iterator, which returns a result for every field, takes twice
    /// as long for a table of 150,000.
    #[inline]
    fn new(entry: &[u8; SIZEOF_SYM], names: &'t [u8]) -> Self {
        let &[n0, n1, n2, n3, info, _visibility, s0, s1, ref numbers @ ..] = entry;
        let &[v0, v1, v2, v3, v4, v5, v6, v7, z0, z1, z2, z3, z4, z5, z6, z7] = numbers;
        let section = u16::from_le_bytes([s0, s1]);
        Self {
            names,
            name: u32::from_le_bytes([n0, n1, n2, n3]),
            value: u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]),
            size: u64::from_le_bytes([z0, z1, z2, z3, z4, z5, z6, z7]),
            kind: match sym::st_type(info) {
                sym::STT_FUNC => SymbolKind::Function,
                sym::STT_GNU_IFUNC => SymbolKind::Ifunc,
                sym::STT_OBJECT => SymbolKind::Object,
                sym::STT_TLS => SymbolKind::Tls,
                sym::STT_FILE => SymbolKind::File,
                _ => SymbolKind::Other,
            },
            binding: match sym::st_bind(info) {
                sym::STB_LOCAL => Binding::Local,
                // STB_GNU_UNIQUE is global with one definition in the whole process.
                sym::STB_GLOBAL | sym::STB_GNU_UNIQUE => Binding::Global,
                sym::STB_WEAK => Binding::Weak,
                _ => Binding::Other,
            },
            defined: section != SHN_UNDEF as u16,
        }
    }

    /// The name, empty if it is outside of the string table. Its end is looked for only here: most symbols
    /// are passed over without it.
    pub(crate) fn name(&self) -> &'t [u8] {
        names::at(self.names, self.name as usize).unwrap_or_default()
    }

    /// The name, if it is no longer than `limit`. Unlike [`name`](Self::name) no work for a hostile table whose
    /// entries all point at one long string.
    pub(super) fn short_name(&self, limit: usize) -> Option<&'t [u8]> {
        let rest = self.names.get(self.name as usize..)?;
        names::at(rest.get(..=limit).unwrap_or(rest), 0)
    }

    /// Whether the name begins so.
    pub(crate) fn begins_with(&self, prefix: &[u8]) -> bool {
        self.names.get(self.name as usize..).is_some_and(|rest| rest.starts_with(prefix))
    }

    /// Whether the name is this one; cheaper than to compare [`name`](Self::name).
    pub(crate) fn is_named(&self, name: &[u8]) -> bool {
        names::is_at(self.names, self.name as usize, name)
    }
}

/// The bytes of a symbol table and of its names.
#[derive(Debug, Clone)]
pub(crate) struct Symbols<'s> {
    entries: Cow<'s, [u8]>,
    names: Cow<'s, [u8]>,
}

impl Symbols<'_> {
    /// All symbols but the first, which is none.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        let (entries, _) = self.entries.as_chunks();
        entries.iter().skip(1).map(|entry| Symbol::new(entry, &self.names))
    }

    /// The symbol at this place of [`iter`](Self::iter).
    pub(crate) fn get(&self, place: usize) -> Option<Symbol<'_>> {
        let (entries, _) = self.entries.as_chunks();
        entries.get(place.checked_add(1)?).map(|entry| Symbol::new(entry, &self.names))
    }

    /// How many bytes it is long.
    pub(crate) fn weight(&self) -> usize {
        self.entries.len() + self.names.len()
    }

    /// The same, independent of where it was read from.
    pub(crate) fn into_owned(self) -> Symbols<'static> {
        Symbols { entries: self.entries.into_owned().into(), names: self.names.into_owned().into() }
    }
}

impl Image {
    /// A symbol table with its names, or `None` if the file has none.
    pub(crate) fn symbols<'s, S: Source + ?Sized>(
        &self,
        source: &'s S,
        table: SymbolTable,
    ) -> Result<Option<Symbols<'s>>, Fault> {
        let kind = match table {
            SymbolTable::Full => SHT_SYMTAB,
            SymbolTable::Dynamic => SHT_DYNSYM,
        };
        let Some(section) = self.sections.iter().find(|section| section.kind == kind) else {
            return Ok(None);
        };
        let malformed =
            Fault::Malformed { what: "the section header of the symbol table", offset: section.offset };
        if section.entry_size != SIZEOF_SYM as u64 {
            return Err(malformed);
        }
        let names = self.sections.get(section.link).filter(|names| names.has_bytes()).ok_or(malformed)?;
        let entries = read(source, "the symbol table", section.offset, section.size)?;
        let names = read(source, "the symbols' names", names.offset, names.size)?;
        Ok(Some(Symbols { entries, names: names::terminated(names) }))
    }

    /// Names that must be found elsewhere when the file is loaded; weak ones may stay without.
    pub(crate) fn undefined<S: Source + ?Sized>(&self, source: &S) -> Result<Vec<String>, Fault> {
        let mut undefined = names::Collector::new(source.len());
        if let Some(symbols) = self.symbols(source, SymbolTable::Dynamic)? {
            for symbol in symbols.iter().filter(|symbol| !symbol.defined && symbol.binding == Binding::Global)
            {
                undefined.add(symbol.name())?;
            }
        }
        Ok(undefined.finish())
    }
}
