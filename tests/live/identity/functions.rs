//! The functions of a loaded library, by the symbols of its file.

use crate::support::bytes_at;
use goblin::elf::program_header::{PF_X, PT_LOAD};
use goblin::elf::sym::{STT_FUNC, STT_GNU_IFUNC};
use goblin::elf::{Elf, Sym};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};

/// A function of this process.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    pub address: u64,
}

/// A library, loaded for good.
pub struct Loaded {
    library: Library,
    /// One for each address, sorted by it.
    pub functions: Vec<Function>,
    /// How many symbols choose an implementation when the program is loaded.
    pub indirect: usize,
    /// Its segments that are executable: first byte and length.
    text: Vec<(usize, usize)>,
}

/// The beginning of `struct link_map` (link.h).
#[repr(C)]
struct LinkMap {
    bias: u64,
    name: *const c_char,
}

unsafe extern "C" {
    fn dlinfo(handle: *mut c_void, request: c_int, info: *mut c_void) -> c_int;
}

/// `RTLD_DI_LINKMAP` (dlinfo(3)).
const LINK_MAP: c_int = 2;

impl Loaded {
    /// None if this machine does not have it.
    pub fn open(name: &str) -> Option<Self> {
        // SAFETY: a library of the system, whose initialisers anybody may run.
        let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.ok()?;
        let handle = library.into_raw();
        let mut map: *const LinkMap = std::ptr::null();
        // SAFETY: an open handle, and a place for the answer.
        assert_eq!(unsafe { dlinfo(handle, LINK_MAP, (&raw mut map).cast()) }, 0);
        // SAFETY: the linker's record of the library, which is never closed.
        let (bias, path) = unsafe { ((*map).bias, CStr::from_ptr((*map).name)) };
        // SAFETY: the handle of before.
        let library = unsafe { Library::from_raw(handle) };
        let bytes = std::fs::read(path.to_str().unwrap()).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        let segments = elf.program_headers.iter();
        let text = segments.filter(|header| header.p_type == PT_LOAD && header.p_flags & PF_X != 0);
        let text = text.map(|header| ((bias + header.p_vaddr) as usize, header.p_filesz as usize)).collect();
        let (mut functions, mut indirect) = (BTreeMap::new(), Vec::new());
        let exported = elf.dynsyms.iter().map(|symbol| (elf.dynstrtab.get_at(symbol.st_name), symbol));
        let all = elf.syms.iter().map(|symbol| (elf.strtab.get_at(symbol.st_name), symbol));
        for (name, symbol) in exported.chain(all) {
            match kind(&symbol) {
                Some(STT_FUNC) => {
                    let (name, address) = (name.unwrap_or("?").to_owned(), bias + symbol.st_value);
                    functions.entry(address).or_insert(Function { name, address });
                }
                Some(_) => indirect.push(bias + symbol.st_value),
                None => {}
            }
        }
        indirect.sort_unstable();
        indirect.dedup();
        functions.retain(|address, _| indirect.binary_search(address).is_err());
        let functions = functions.into_values().collect();
        Some(Self { library, functions, indirect: indirect.len(), text })
    }

    /// The function or variable `name`, as an `F`.
    ///
    /// # Safety
    /// It is one.
    pub unsafe fn symbol<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the caller's promise; the library is never closed.
        *unsafe { self.library.get::<F>(name.as_bytes()) }.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Is there a symbol of that name?
    pub fn has(&self, name: &str) -> bool {
        // SAFETY: only looked up.
        unsafe { self.library.get::<*const c_void>(name.as_bytes()) }.is_ok()
    }

    /// All its code as it is now.
    pub fn content(&self) -> Vec<Vec<u8>> {
        // SAFETY: loaded for good.
        self.text.iter().map(|(start, len)| unsafe { bytes_at(*start, *len) }).collect()
    }
}

/// The type of a symbol that is defined here and is a function.
fn kind(symbol: &Sym) -> Option<u8> {
    let kind = symbol.st_type();
    let is_function = (kind == STT_FUNC && symbol.st_size > 0) || kind == STT_GNU_IFUNC;
    (is_function && symbol.st_shndx != 0).then_some(kind)
}
