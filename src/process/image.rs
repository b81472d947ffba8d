//! The file of a loaded module: its functions and their bytes.
//!
//! Read by pread(2), never mapped: a file that is truncated meanwhile gives an error, not SIGBUS.

use super::modules::Module;
use crate::elf::{Binding, Fault, Image, Machine, Source, SymbolKind, SymbolTable};
use crate::error::Error;
use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A function symbol of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FunctionSymbol {
    name: (u32, u32),
    /// The file's address.
    pub(crate) value: u64,
    pub(crate) size: u64,
    /// Chooses the implementation when the program is loaded.
    pub(crate) is_ifunc: bool,
    /// Seen by the dynamic linker, or at least by other object files.
    pub(crate) is_global: bool,
}

/// A module's file, parsed.
#[derive(Debug)]
pub(crate) struct ModuleImage {
    file: OpenFile,
    image: Image,
    /// The names of all functions, one behind the other.
    names: Vec<u8>,
    /// Sorted by name.
    functions: Vec<FunctionSymbol>,
}

impl ModuleImage {
    pub(crate) fn read(module: &Module, machine: Machine) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadModule { path: module.path.clone(), reason };
        let file = OpenFile::open(module).map_err(|error| bad(error.to_string()))?;
        let image = Image::parse(&file, machine).map_err(|fault| bad(fault.to_string()))?;
        let mut this = Self { file, image, names: Vec::new(), functions: Vec::new() };
        this.check_identity(module)?;
        for table in [SymbolTable::Full, SymbolTable::Dynamic] {
            this.collect(table).map_err(|fault| bad(fault.to_string()))?;
        }
        let Self { names, functions, .. } = &mut this;
        functions.sort_by(|a, b| (name_in(names, a), a.value, b.size).cmp(&(name_in(names, b), b.value, a.size)));
        functions.dedup_by(|b, a| a.value == b.value && name_in(names, a) == name_in(names, b));
        Ok(this)
    }

    pub(crate) fn functions(&self) -> &[FunctionSymbol] {
        &self.functions
    }

    pub(crate) fn name(&self, function: &FunctionSymbol) -> &[u8] {
        name_in(&self.names, function)
    }

    /// The functions with exactly this raw name.
    pub(crate) fn named(&self, raw: &[u8]) -> &[FunctionSymbol] {
        let start = self.functions.partition_point(|function| self.name(function) < raw);
        let end = self.functions.partition_point(|function| self.name(function) <= raw);
        self.functions.get(start..end).unwrap_or(&[])
    }

    /// The file's bytes at the file address `address`.
    pub(crate) fn bytes_at(&self, address: u64, len: u64) -> Result<Vec<u8>, Fault> {
        self.image.bytes_at(&self.file, address, len).map(Cow::into_owned)
    }

    pub(crate) fn is_executable(&self, address: u64) -> bool {
        self.image.is_executable(address)
    }

    /// The file's address of what is called `raw` without being a function, and what it is.
    pub(crate) fn other_named(&self, raw: &[u8]) -> Option<(u64, &'static str)> {
        [SymbolTable::Full, SymbolTable::Dynamic].into_iter().find_map(|table| {
            let symbols = self.image.symbols(&self.file, table).ok()??;
            let found = symbols.iter().find(|symbol| symbol.defined && symbol.is_named(raw))?;
            let what = match found.kind {
                SymbolKind::Object => "a variable or constant",
                SymbolKind::Tls => "a thread-local variable",
                SymbolKind::Function | SymbolKind::Ifunc | SymbolKind::File => return None,
                SymbolKind::Other => "a label without a type",
            };
            Some((found.value, what))
        })
    }

    fn collect(&mut self, table: SymbolTable) -> Result<(), Fault> {
        let Some(symbols) = self.image.symbols(&self.file, table)? else { return Ok(()) };
        for symbol in symbols.iter() {
            let is_ifunc = symbol.kind == SymbolKind::Ifunc;
            if !symbol.defined || !(is_ifunc || symbol.kind == SymbolKind::Function) {
                continue;
            }
            let (start, name) = (self.names.len() as u32, symbol.name());
            self.names.extend_from_slice(name);
            self.functions.push(FunctionSymbol {
                name: (start, name.len() as u32),
                value: symbol.value,
                size: symbol.size,
                is_ifunc,
                is_global: symbol.binding != Binding::Local,
            });
        }
        Ok(())
    }

    /// The file must be the one that was loaded: same segments at least. (That the bytes of a target
    /// are the same is checked for each target.)
    fn check_identity(&self, module: &Module) -> Result<(), Error> {
        let loaded = module.segments.iter().map(|(range, _)| {
            (range.start.wrapping_sub(module.bias), range.end.wrapping_sub(module.bias))
        });
        let in_file = self.image.loads().iter().map(|load| (load.memory.start, load.memory.end));
        if loaded.eq(in_file) {
            return Ok(());
        }
        let reason = "the file is not the one that was loaded; it was replaced since".to_owned();
        Err(Error::BadModule { path: module.path.clone(), reason })
    }
}

fn name_in<'n>(names: &'n [u8], function: &FunctionSymbol) -> &'n [u8] {
    let start = function.name.0 as usize;
    names.get(start..start + function.name.1 as usize).unwrap_or(&[])
}

/// A file that is read where asked.
#[derive(Debug)]
struct OpenFile {
    file: File,
    len: u64,
}

impl OpenFile {
    fn open(module: &Module) -> std::io::Result<Self> {
        let file = File::open(module.file())?;
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }
}

impl Source for OpenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Fault> {
        let truncated = Fault::Truncated { what: "the file", offset, len };
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(truncated);
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| truncated.clone())?];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => truncated,
            kind => Fault::Read { offset, kind },
        })?;
        Ok(Cow::Owned(bytes))
    }
}
