//! The file of a loaded module: its functions and their bytes.
//!
//! Read by pread(2), never mapped: a file that is truncated meanwhile gives an error, not SIGBUS.

use super::modules::Module;
use crate::elf::{Binding, Build, Fault, Image, Machine, Source, Symbol, SymbolKind, SymbolTable, Symbols};
use crate::error::Error;
use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A function symbol of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FunctionSymbol<'i> {
    symbol: Symbol<'i>,
    /// The file's address.
    pub(crate) value: u64,
    pub(crate) size: u64,
    /// Chooses the implementation when the program is loaded.
    pub(crate) is_ifunc: bool,
    /// Seen by the dynamic linker, or at least by other object files.
    pub(crate) is_global: bool,
}

impl<'i> FunctionSymbol<'i> {
    fn of(symbol: Symbol<'i>) -> Option<Self> {
        let is_ifunc = symbol.kind == SymbolKind::Ifunc;
        let is_function = symbol.defined && (is_ifunc || symbol.kind == SymbolKind::Function);
        let is_global = symbol.binding != Binding::Local;
        is_function.then_some(Self { symbol, value: symbol.value, size: symbol.size, is_ifunc, is_global })
    }

    pub(crate) fn name(&self) -> &'i [u8] {
        self.symbol.name()
    }
}

/// A module's file, parsed.
#[derive(Debug)]
pub(crate) struct ModuleImage {
    file: OpenFile,
    image: Image,
    /// `.symtab` and `.dynsym`, as far as there are any.
    tables: Vec<Symbols<'static>>,
    /// How many names were looked up one by one.
    lookups: Cell<usize>,
    /// Digest of the name, table, place; sorted. Made when many names are looked up.
    index: OnceCell<Vec<(u64, u32, u32)>>,
    build: OnceCell<Arc<Build>>,
}

/// A pass over all symbols costs a fraction of an index of them.
const PASSES_BEFORE_INDEX: usize = 16;

impl ModuleImage {
    pub(crate) fn read(module: &Module, machine: Machine) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadModule { path: module.path.clone(), reason };
        let file = OpenFile::open(module).map_err(|error| bad(error.to_string()))?;
        let image = Image::parse(&file, machine).map_err(|fault| bad(fault.to_string()))?;
        let mut tables = Vec::new();
        for table in [SymbolTable::Full, SymbolTable::Dynamic] {
            let symbols = image.symbols(&file, table).map_err(|fault| bad(fault.to_string()))?;
            tables.extend(symbols.map(Symbols::into_owned));
        }
        let (lookups, index, build) = (Cell::new(0), OnceCell::new(), OnceCell::new());
        let this = Self { file, image, tables, lookups, index, build };
        this.check_identity(module)?;
        Ok(this)
    }

    /// All functions; one that stands in both tables twice.
    pub(crate) fn functions(&self) -> impl Iterator<Item = FunctionSymbol<'_>> {
        self.tables.iter().flat_map(Symbols::iter).filter_map(FunctionSymbol::of)
    }

    /// The functions with exactly this raw name.
    pub(crate) fn named(&self, raw: &[u8]) -> Vec<FunctionSymbol<'_>> {
        self.lookups.set(self.lookups.get() + 1);
        if self.lookups.get() <= PASSES_BEFORE_INDEX {
            return self.functions().filter(|function| function.symbol.is_named(raw)).collect();
        }
        let (index, wanted) = (self.index.get_or_init(|| self.make_index()), digest(raw));
        let start = index.partition_point(|(digest, ..)| *digest < wanted);
        let equal = index.iter().skip(start).take_while(|(digest, ..)| *digest == wanted);
        let symbols =
            equal.filter_map(|(_, table, place)| self.tables.get(*table as usize)?.get(*place as usize));
        symbols.filter(|symbol| symbol.is_named(raw)).filter_map(FunctionSymbol::of).collect()
    }

    /// The file's addresses of all symbols strictly inside a function, whatever they are called; sorted.
    pub(crate) fn labels_inside(&self, value: u64, size: u64) -> Vec<u64> {
        let symbols = self.tables.iter().flat_map(Symbols::iter);
        let inside = symbols.filter(|symbol| {
            let is_address = symbol.defined && symbol.kind != SymbolKind::Tls;
            // `$x` and `$d` mark code and data on aarch64, and are nobody's target (its ELF supplement).
            let is_inside = symbol.value > value && symbol.value - value < size;
            is_address && is_inside && !symbol.name().starts_with(b"$")
        });
        let mut labels: Vec<u64> = inside.map(|symbol| symbol.value).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// The file's bytes at the file address `address`.
    pub(crate) fn bytes_at(&self, address: u64, len: u64) -> Result<Vec<u8>, Fault> {
        self.image.bytes_at(&self.file, address, len).map(Cow::into_owned)
    }

    /// How it was built, found out once.
    pub(crate) fn build(&self) -> &Arc<Build> {
        self.build.get_or_init(|| Arc::new(self.image.build_with(&self.file, &self.tables)))
    }

    pub(crate) fn is_executable(&self, address: u64) -> bool {
        self.image.is_executable(address)
    }

    /// The file's address of what is called `raw` without being a function, and what it is.
    pub(crate) fn other_named(&self, raw: &[u8]) -> Option<(u64, &'static str)> {
        let mut symbols = self.tables.iter().flat_map(Symbols::iter);
        let found = symbols.find(|symbol| symbol.defined && symbol.is_named(raw))?;
        let what = match found.kind {
            SymbolKind::Object => "a variable or constant",
            SymbolKind::Tls => "a thread-local variable",
            SymbolKind::Function | SymbolKind::Ifunc | SymbolKind::File => return None,
            SymbolKind::Other => "a label without a type",
        };
        Some((found.value, what))
    }

    fn make_index(&self) -> Vec<(u64, u32, u32)> {
        let mut index = Vec::new();
        for (table, symbols) in (0..).zip(&self.tables) {
            let places =
                (0..).zip(symbols.iter()).filter(|(_, symbol)| FunctionSymbol::of(*symbol).is_some());
            index.extend(places.map(|(place, symbol)| (digest(symbol.name()), table, place)));
        }
        index.sort_unstable();
        index
    }

    /// The file must be the one that was loaded: same segments at least. (That the bytes of a target
    /// are the same is checked for each target.)
    fn check_identity(&self, module: &Module) -> Result<(), Error> {
        let loaded = module
            .segments
            .iter()
            .map(|(range, _)| (range.start.wrapping_sub(module.bias), range.end.wrapping_sub(module.bias)));
        let in_file = self.image.loads().iter().map(|load| (load.memory.start, load.memory.end));
        if loaded.eq(in_file) {
            return Ok(());
        }
        let reason = "the file is not the one that was loaded; it was replaced since".to_owned();
        Err(Error::BadModule { path: module.path.clone(), reason })
    }
}

/// FNV-1a, 64 bits.
fn digest(name: &[u8]) -> u64 {
    name.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
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
