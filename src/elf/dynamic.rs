//! The dynamic table: what the dynamic linker is told.
#![forbid(unsafe_code)]

use goblin::elf::dynamic::{self as tags, dyn64};

use super::{Fault, Image, Source, names, source::read};

/// Address and length of a table in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) address: u64,
    pub(super) len: u64,
}

/// What stands in the dynamic table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// Libraries that are loaded with this one.
    pub(crate) needed: Vec<String>,
    pub(crate) soname: Option<String>,
    /// DF_1_PIE: an executable, although its type says shared library.
    pub(crate) is_executable: bool,
    /// DT_RELA, DT_JMPREL (with RELA entries, on both machines) and DT_RELR.
    pub(super) rela: Table,
    pub(super) plt: Table,
    pub(super) relr: Table,
    pub(super) strings: Table,
    pub(super) symbols: u64,
}

impl Image {
    /// The dynamic table, or `None` if the file has none: a static executable.
    pub(crate) fn dynamic<S: Source + ?Sized>(&self, source: &S) -> Result<Option<Dynamic>, Fault> {
        let Some((offset, len)) = self.dynamic else { return Ok(None) };
        let table = read(source, "the dynamic table", offset, len)?;

        let mut dynamic = Dynamic {
            needed: Vec::new(),
            soname: None,
            is_executable: false,
            rela: Table::default(),
            plt: Table::default(),
            relr: Table::default(),
            strings: Table::default(),
            symbols: 0,
        };
        let mut soname = None;
        for (tag, value) in entries(&table) {
            match tag {
                tags::DT_STRTAB => dynamic.strings.address = value,
                tags::DT_STRSZ => dynamic.strings.len = value,
                tags::DT_SYMTAB => dynamic.symbols = value,
                tags::DT_RELA => dynamic.rela.address = value,
                tags::DT_RELASZ => dynamic.rela.len = value,
                tags::DT_JMPREL => dynamic.plt.address = value,
                tags::DT_PLTRELSZ => dynamic.plt.len = value,
                DT_RELR => dynamic.relr.address = value,
                DT_RELRSZ => dynamic.relr.len = value,
                tags::DT_SONAME => soname = Some(value),
                tags::DT_FLAGS_1 => dynamic.is_executable = value & tags::DF_1_PIE != 0,
                _ => {}
            }
        }

        // Names come last, since the entry that says where the strings are may follow them.
        let strings = self.table(source, "the dynamic string table", dynamic.strings)?;
        let name = |at: u64| {
            let name = usize::try_from(at).ok().and_then(|at| names::at(&strings, at));
            name.ok_or(Fault::Malformed { what: "a name in the dynamic table", offset })
        };
        let mut needed = names::Collector::new(source.len());
        for (tag, value) in entries(&table) {
            if tag == tags::DT_NEEDED {
                needed.add(name(value)?)?;
            }
        }
        dynamic.needed = needed.finish();
        if let Some(at) = soname {
            dynamic.soname = Some(String::from_utf8_lossy(name(at)?).into_owned());
        }
        Ok(Some(dynamic))
    }

    /// The bytes of a table; one of length zero needs no address.
    pub(super) fn table<'s, S: Source + ?Sized>(
        &self,
        source: &'s S,
        what: &'static str,
        table: Table,
    ) -> Result<std::borrow::Cow<'s, [u8]>, Fault> {
        if table.len == 0 {
            return Ok(Default::default());
        }
        self.bytes_at(source, table.address, table.len).map_err(|fault| fault.reading(what))
    }
}

// goblin does not know these.
const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;

/// Tags and values up to the entry that ends the table.
fn entries(table: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let (entries, _) = table.as_chunks::<{ dyn64::SIZEOF_DYN }>();
    let entries = entries.iter().map(|entry| {
        let (halves, _) = entry.as_chunks::<8>();
        let half = |index: usize| halves.get(index).map_or(0, |&half| u64::from_le_bytes(half));
        (half(0), half(1))
    });
    entries.take_while(|&(tag, _)| tag != tags::DT_NULL)
}
