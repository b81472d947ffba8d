//! What a library refers to by name although it defines it: another definition may win.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use goblin::elf::reloc::RelocSection;
use goblin::elf::section_header::SHN_UNDEF;
use goblin::elf::sym::{self, STV_DEFAULT};

use super::{CTX, Dynamic, Fault, Image, Source, names};

/// Names of a library's own definitions that the dynamic linker binds to whoever comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interposable {
    /// Of which there should be one.
    pub(crate) strong: Vec<String>,
    /// Of which every file that needs one may have one, such as inline functions of C++: any is as good.
    pub(crate) weak: Vec<String>,
}

impl Image {
    /// The own definitions that relocations name by a symbol which others may define too (System V ABI, chapter 5,
    /// "Shared Object Dependencies"; visibility, chapter 4).
    pub(crate) fn interposable<S: Source + ?Sized>(
        &self,
        source: &S,
        dynamic: &Dynamic,
    ) -> Result<Interposable, Fault> {
        let mut symbols = BTreeSet::new();
        for table in [dynamic.rela, dynamic.plt] {
            let bytes = self.table(source, "the relocation table", table)?;
            let malformed =
                Fault::Malformed { what: "the relocation table at address", offset: table.address };
            let entries = RelocSection::parse(&bytes, 0, bytes.len(), true, CTX).map_err(|_| malformed)?;
            symbols.extend(entries.iter().map(|entry| entry.r_sym).filter(|symbol| *symbol != 0));
        }
        let strings = self.table(source, "the dynamic string table", dynamic.strings)?;
        let (mut strong, mut weak) =
            (names::Collector::new(source.len()), names::Collector::new(source.len()));
        for index in symbols {
            let symbol = self.dynamic_symbol(source, dynamic, index)?;
            let is_own = symbol.st_shndx != SHN_UNDEF as usize && symbol.st_visibility() == STV_DEFAULT;
            let kinds = [sym::STT_FUNC, sym::STT_OBJECT, sym::STT_NOTYPE, sym::STT_GNU_IFUNC];
            if !is_own || !kinds.contains(&symbol.st_type()) {
                continue;
            }
            let list = match symbol.st_bind() {
                sym::STB_GLOBAL => &mut strong,
                sym::STB_WEAK => &mut weak,
                // Local ones are bound to themselves; unique ones are meant to be one in the process.
                _ => continue,
            };
            let malformed =
                Fault::Malformed { what: "the name of a symbol, in a table", offset: symbol.st_name as u64 };
            // What is looked at counts against the length of the file, so names may share bytes without harm.
            list.add(names::at(&strings, symbol.st_name).ok_or(malformed)?)?;
        }
        Ok(Interposable { strong: strong.finish(), weak: weak.finish() })
    }
}
