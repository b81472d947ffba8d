//! The file of a loaded module: its functions and their bytes. What is asked often is answered from an index.
//!
//! Read by pread(2), never mapped: a file that is truncated meanwhile gives an error, not SIGBUS.

use super::entrances::whole_of;
use super::index::Index;
use super::modules::Module;
use super::names::{Matcher, rust_name};
use crate::arch::InstructionSet;
use crate::elf::{
    Binding, Build, Fault, FileKind, Image, Machine, Pointer, Source, Symbol, SymbolKind, SymbolTable,
    Symbols, Unwind,
};
use crate::error::Error;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

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
    /// A second name, by its author's will.
    pub(crate) is_weak: bool,
}

impl<'i> FunctionSymbol<'i> {
    fn of(symbol: Symbol<'i>) -> Option<Self> {
        let is_ifunc = symbol.kind == SymbolKind::Ifunc;
        let is_function = symbol.defined && (is_ifunc || symbol.kind == SymbolKind::Function);
        let is_global = symbol.binding != Binding::Local;
        let is_weak = symbol.binding == Binding::Weak;
        let (value, size) = (symbol.value, symbol.size);
        is_function.then_some(Self { symbol, value, size, is_ifunc, is_global, is_weak })
    }

    pub(crate) fn name(&self) -> &'i [u8] {
        self.symbol.name()
    }
}

/// A module's file, parsed. It is not kept open: the program may close descriptors that it does not know.
#[derive(Debug)]
pub(crate) struct ModuleImage {
    image: Image,
    /// `.symtab` and `.dynsym`, as far as there are any.
    tables: Vec<Symbols<'static>>,
    /// How often all symbols were looked at.
    passes: AtomicUsize,
    /// Functions by a digest of their raw names.
    by_name: OnceLock<Index>,
    /// Functions of Rust by a digest of their names with the hash left out.
    by_rust_name: OnceLock<Index>,
    /// Everything that has an address by the file's address.
    by_address: OnceLock<Index>,
    /// Parts of functions by a digest of the name of the whole.
    by_whole: OnceLock<Index>,
    build: OnceLock<Arc<Build>>,
    unwind: OnceLock<Option<Unwind>>,
}

/// A pass over all symbols costs a fraction of an index of them.
const PASSES_BEFORE_INDEX: usize = 16;

impl ModuleImage {
    pub(crate) fn read(module: &Module, file: &ModuleFile, machine: Machine) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadModule { path: module.path.clone(), reason };
        let image = Image::parse(file, machine).map_err(|fault| bad(fault.to_string()))?;
        let mut tables = Vec::new();
        for table in [SymbolTable::Full, SymbolTable::Dynamic] {
            let symbols = image.symbols(file, table).map_err(|fault| bad(fault.to_string()))?;
            tables.extend(symbols.map(Symbols::into_owned));
        }
        let (by_name, by_rust_name, by_address, by_whole, build, unwind) = Default::default();
        let passes = AtomicUsize::new(0);
        let this = Self { image, tables, passes, by_name, by_rust_name, by_address, by_whole, build, unwind };
        this.check_identity(module)?;
        Ok(this)
    }

    /// All functions; one that stands in both tables twice.
    pub(crate) fn functions(&self) -> impl Iterator<Item = FunctionSymbol<'_>> {
        self.tables.iter().flat_map(Symbols::iter).filter_map(FunctionSymbol::of)
    }

    /// The functions with exactly this raw name.
    pub(crate) fn named(&self, raw: &[u8]) -> Vec<FunctionSymbol<'_>> {
        if self.may_pass() {
            return self.functions().filter(|function| function.symbol.is_named(raw)).collect();
        }
        let index = self.by_name.get_or_init(|| {
            self.index(|symbol| FunctionSymbol::of(*symbol).map(|function| digest(function.name())))
        });
        let symbols = index.equal(digest(raw)).filter_map(|place| self.symbol(place));
        symbols.filter(|symbol| symbol.is_named(raw)).filter_map(FunctionSymbol::of).collect()
    }

    /// The functions of Rust that are called `name`, hash left out.
    pub(crate) fn named_in_rust(&self, name: &str) -> Vec<FunctionSymbol<'_>> {
        let matcher = Matcher::new(name);
        if self.may_pass() {
            let is_it = |function: &FunctionSymbol<'_>| {
                matcher.matches(function.name()) && rust_name(function.name()).as_deref() == Some(name)
            };
            return self.functions().filter(is_it).collect();
        }
        let index = self.by_rust_name.get_or_init(|| {
            self.index(|symbol| {
                FunctionSymbol::of(*symbol)
                    .and_then(|function| rust_name(function.name()))
                    .map(|name| digest(name.as_bytes()))
            })
        });
        let symbols = index.equal(digest(name.as_bytes())).filter_map(|place| self.symbol(place));
        symbols.filter(|symbol| matcher.matches(symbol.name())).filter_map(FunctionSymbol::of).collect()
    }

    /// The functions that begin at the file's address `value`.
    pub(crate) fn at(&self, value: u64) -> Vec<FunctionSymbol<'_>> {
        if self.may_pass() {
            return self.functions().filter(|function| function.value == value).collect();
        }
        let symbols = self.addresses().equal(value).filter_map(|place| self.symbol(place));
        symbols.filter_map(FunctionSymbol::of).collect()
    }

    /// The file's addresses of all symbols in `range`, whatever they are called, with their sizes; sorted.
    pub(crate) fn labels(&self, range: Range<u64>) -> Vec<(u64, u64)> {
        let mut labels: Vec<(u64, u64)> = if self.may_pass() {
            let symbols = self.tables.iter().flat_map(Symbols::iter);
            let labels = symbols.filter_map(|symbol| Some((label(&symbol)?, symbol.size)));
            labels.filter(|(value, _)| range.contains(value)).collect()
        } else {
            let places = self.addresses().within(range);
            let size = |place| self.symbol(place).map_or(0, |symbol| symbol.size);
            places.map(|(value, place)| (value, size(place))).collect()
        };
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// The parts that compilers put elsewhere of the function at `value`, where their names tell.
    pub(super) fn parts_of(&self, value: u64) -> Vec<Range<u64>> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        // A part is named after one of the names of the whole.
        for whole in self.at(value) {
            let whole = without_version(whole.name());
            let is_its =
                |symbol: &Symbol<'_>| symbol.begins_with(whole) && whole_of(symbol.name()) == Some(whole);
            let part =
                |function: FunctionSymbol<'_>| function.value..function.value.saturating_add(function.size);
            if self.may_pass() {
                let symbols = self.functions().filter(|function| is_its(&function.symbol));
                parts.extend(symbols.map(part));
            } else {
                let index = self.by_whole.get_or_init(|| {
                    self.index(|symbol| {
                        FunctionSymbol::of(*symbol).and_then(|function| whole_of(function.name())).map(digest)
                    })
                });
                let symbols =
                    index.equal(digest(whole)).filter_map(|place| self.symbol(place)).filter(is_its);
                parts.extend(symbols.filter_map(FunctionSymbol::of).map(part));
            }
        }
        parts
    }

    /// The pointers in a range of addresses as the dynamic linker will leave them, less the load bias; 0 for what does
    /// not point into this file.
    pub(super) fn pointers(&self, file: &ModuleFile, range: Range<u64>) -> Result<Vec<u8>, Fault> {
        let dynamic = match self.image.kind() {
            FileKind::Dynamic => self.image.dynamic(file)?,
            FileKind::Fixed => None,
        };
        let Some(dynamic) = dynamic else {
            return self.bytes_at(file, range.start, range.end.saturating_sub(range.start));
        };
        let relocations = self.image.relocations(file, &dynamic, range.clone())?;
        let mut pointers = Vec::new();
        for address in range.step_by(size_of::<u64>()) {
            let pointer = match self.image.pointer_at(file, &dynamic, &relocations, address)? {
                Pointer::Address(address) => address,
                _ => 0,
            };
            pointers.extend(pointer.to_le_bytes());
        }
        Ok(pointers)
    }

    pub(super) fn instruction_set(&self) -> InstructionSet {
        match self.image.machine() {
            Machine::X86_64 => InstructionSet::X86_64,
            Machine::Aarch64 => InstructionSet::Aarch64,
        }
    }

    /// How many bytes from `address` on stand in the file, in one segment.
    pub(super) fn file_bytes_from(&self, address: u64) -> u64 {
        let loads =
            self.image.loads().iter().map(|load| load.memory.start..load.memory.start + load.file_len);
        loads.filter(|bytes| bytes.contains(&address)).map(|bytes| bytes.end - address).next().unwrap_or(0)
    }

    /// The unwind table, read once.
    pub(super) fn unwind(&self, file: &ModuleFile) -> Option<&Unwind> {
        self.unwind.get_or_init(|| Unwind::read(&self.image, file)).as_ref()
    }

    /// As [`Unwind::last_before`].
    pub(super) fn last_unwound(
        &self,
        file: &ModuleFile,
        unwind: &Unwind,
        address: u64,
    ) -> Result<Option<Range<u64>>, ()> {
        unwind.last_before(&self.image, file, address)
    }

    /// How many bytes the function at `value` has, as the unwind table says.
    pub(super) fn unwound_size(&self, file: &ModuleFile, value: u64) -> Option<u64> {
        let range = self.last_unwound(file, self.unwind(file)?, value).ok()??;
        (range.start == value).then_some(range.end - range.start)
    }

    /// Where the file's bytes of the executable segment of `address` end; 0 if there is none.
    pub(super) fn end_of_code(&self, address: u64) -> u64 {
        let loads = self.image.loads().iter();
        let mut code = loads.filter(|load| load.executable && load.memory.contains(&address));
        code.next().map_or(0, |load| load.memory.start + load.file_len)
    }

    /// How many bytes of memory its tables take, roughly.
    pub(crate) fn weight(&self) -> usize {
        let unwind = self.unwind.get().and_then(Option::as_ref).map_or(0, Unwind::weight);
        self.tables.iter().map(Symbols::weight).sum::<usize>() + unwind
    }

    /// The file's bytes at the file address `address`.
    pub(crate) fn bytes_at(&self, file: &ModuleFile, address: u64, len: u64) -> Result<Vec<u8>, Fault> {
        self.image.bytes_at(file, address, len).map(Cow::into_owned)
    }

    /// Does it say that its code may be guarded?
    pub(super) fn has_landing_pads(&self, file: &ModuleFile) -> bool {
        self.image.has_landing_pads(file)
    }

    /// How it was built, found out once.
    pub(crate) fn build(&self, file: &ModuleFile) -> &Arc<Build> {
        self.build.get_or_init(|| Arc::new(self.image.build_with(file, &self.tables)))
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

    /// Is a pass over all symbols cheaper than an index, which it is as long as little was asked?
    fn may_pass(&self) -> bool {
        self.passes.fetch_add(1, Relaxed) < PASSES_BEFORE_INDEX
    }

    fn addresses(&self) -> &Index {
        self.by_address.get_or_init(|| self.index(label))
    }

    /// An index of the symbols that have a key.
    fn index(&self, key: impl Fn(&Symbol<'_>) -> Option<u64>) -> Index {
        let tables = (0..).zip(&self.tables);
        let all = tables.flat_map(|(table, symbols)| {
            (0..).zip(symbols.iter()).map(move |(place, symbol)| (symbol, (table, place)))
        });
        Index::new(all.filter_map(|(symbol, place)| Some((key(&symbol)?, place))))
    }

    fn symbol(&self, (table, place): (u32, u32)) -> Option<Symbol<'_>> {
        self.tables.get(table as usize)?.get(place as usize)
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

/// The file's address of what may be jumped to, if it is that.
fn label(symbol: &Symbol<'_>) -> Option<u64> {
    let is_address = symbol.defined && symbol.kind != SymbolKind::Tls;
    // `$x` and `$d` mark code and data on aarch64, and are nobody's target (its ELF supplement).
    (is_address && !symbol.name().starts_with(b"$")).then_some(symbol.value)
}

/// A name without the version that linkers put behind it.
fn without_version(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == b'@').next().unwrap_or(name)
}

/// FNV-1a, 64 bits.
fn digest(name: &[u8]) -> u64 {
    name.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Which file it is: device, inode, length, time of the last change.
pub(crate) type FileId = (u64, u64, u64, i64, i64);

/// A module's file, open, read where asked.
#[derive(Debug)]
pub(crate) struct ModuleFile {
    file: File,
    pub(crate) id: FileId,
    len: u64,
    /// How many short pieces were read, and the large one that was read last with its offset: many functions of a
    /// file lie near each other.
    short: Cell<u32>,
    window: RefCell<(u64, Vec<u8>)>,
}

/// Bytes read at once where many short pieces are wanted.
const WINDOW: u64 = 64 * 1024;
const SHORT: u64 = 4096;
/// So many short pieces are read by themselves.
const SINGLE: u32 = 8;

impl ModuleFile {
    pub(crate) fn open(module: &Module) -> Result<Self, Error> {
        let open = || {
            let file = File::open(module.file())?;
            let data = file.metadata()?;
            let id = (data.dev(), data.ino(), data.size(), data.ctime(), data.ctime_nsec());
            Ok(Self { file, id, len: data.len(), short: Cell::new(0), window: RefCell::default() })
        };
        open().map_err(|error: std::io::Error| Error::BadModule {
            path: module.path.clone(),
            reason: error.to_string(),
        })
    }
}

impl ModuleFile {
    fn read_piece(&self, offset: u64, len: u64) -> Result<Vec<u8>, Fault> {
        let truncated = Fault::Truncated { what: "the file", offset, len };
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| truncated.clone())?];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => truncated,
            kind => Fault::Read { offset, kind },
        })?;
        Ok(bytes)
    }
}

impl Source for ModuleFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Fault> {
        let truncated = Fault::Truncated { what: "the file", offset, len };
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(truncated);
        }
        self.short.set(self.short.get().saturating_add(u32::from(len <= SHORT)));
        if len > SHORT || self.short.get() <= SINGLE {
            return self.read_piece(offset, len).map(Cow::Owned);
        }
        let mut window = self.window.borrow_mut();
        let is_in = |start: u64, bytes: &[u8]| offset >= start && offset + len <= start + bytes.len() as u64;
        if !is_in(window.0, &window.1) {
            let start = offset / SHORT * SHORT;
            *window = (start, self.read_piece(start, WINDOW.min(self.len - start))?);
        }
        let start = (offset - window.0) as usize;
        let piece = window.1.get(start..start + len as usize).ok_or(truncated)?;
        Ok(Cow::Owned(piece.to_vec()))
    }
}
