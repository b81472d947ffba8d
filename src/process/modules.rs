//! What is loaded: the executable and its libraries, as the dynamic linker lists them.

use crate::error::Error;
use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file. For the executable what [`executable`] points to.
    pub(crate) path: PathBuf,
    /// Run-time address minus the address in the file.
    pub(crate) bias: u64,
    /// Run-time addresses of its segments, and whether they are executable.
    pub(crate) segments: Vec<(Range<u64>, bool)>,
    /// Is it the executable?
    pub(crate) is_main: bool,
    /// The kernel's own module, which has no file.
    pub(crate) is_vdso: bool,
}

impl Module {
    /// Where its bytes are read from: the executable also when its file was replaced.
    pub(crate) fn file(&self) -> &Path {
        if self.is_main { executable() } else { &self.path }
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        self.segments.iter().any(|(range, _)| range.contains(&address))
    }

    /// Is it called `name`: path or file name, also that of the file a link leads to?
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let name = Path::new(name);
        self.path == name
            || self.path.file_name() == Some(name.as_os_str())
            || self
                .path
                .canonicalize()
                .is_ok_and(|real| real == name || real.file_name() == Some(name.as_os_str()))
    }

    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Makes sure that the module stays loaded while the value lives.
    pub(crate) fn hold(&self, target: &str) -> Result<ModuleHold, Error> {
        if self.is_main {
            return Ok(ModuleHold { _library: None });
        }
        let gone = || Error::ModuleGone { target: target.to_owned(), path: self.path.clone() };
        let flags = libc::RTLD_NOLOAD | libc::RTLD_LAZY;
        // SAFETY: the library is loaded already or the call fails, so no constructor runs.
        let library = unsafe { libloading::os::unix::Library::open(Some(&self.path), flags) };
        let library = library.map_err(|_| gone())?;
        let (bias, library) = bias_of(library);
        if bias != Some(self.bias) {
            return Err(gone());
        }
        Ok(ModuleHold { _library: Some(library) })
    }
}

/// Makes sure that the module in which `address` lies stays loaded for ever: signal handlers of ours stay in use.
pub(crate) fn keep_loaded(address: u64) {
    let modules = list();
    let Some(module) = modules.iter().find(|module| module.contains(address) && !module.is_main) else {
        return;
    };
    let flags = libc::RTLD_NOLOAD | libc::RTLD_LAZY | libc::RTLD_NODELETE;
    // SAFETY: the library is loaded already or the call fails, so no constructor runs.
    let library = unsafe { libloading::os::unix::Library::open(Some(&module.path), flags) };
    // The handle is given away with the module.
    let _ = library.map(libloading::os::unix::Library::into_raw);
}

/// Keeps a module loaded.
#[derive(Debug)]
pub(crate) struct ModuleHold {
    _library: Option<libloading::os::unix::Library>,
}

/// The load bias of an open library.
pub(crate) fn bias_of(
    library: libloading::os::unix::Library,
) -> (Option<u64>, libloading::os::unix::Library) {
    let handle = library.into_raw();
    let mut map: *mut LinkMap = std::ptr::null_mut();
    // SAFETY: `handle` is open; RTLD_DI_LINKMAP stores a pointer (dlinfo(3)).
    let answer = unsafe { libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
    let bias = if answer == 0 && !map.is_null() {
        // SAFETY: the linker's own record, which lives as long as the library is open.
        Some(unsafe { (*map).address } as u64)
    } else {
        None
    };
    // SAFETY: the handle taken out above.
    (bias, unsafe { libloading::os::unix::Library::from_raw(handle) })
}

/// The beginning of `struct link_map` (link.h).
#[repr(C)]
struct LinkMap {
    address: usize,
}

/// How often modules came and went (dlpi_adds and dlpi_subs of dl_iterate_phdr(3)): as long as it is the same, so
/// is the list.
pub(crate) fn changes() -> (u64, u64) {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, answer: *mut libc::c_void) -> i32 {
        // SAFETY: `changes` handed its pair; the linker calls this on the same thread.
        let answer = unsafe { &mut *answer.cast::<(u64, u64)>() };
        // SAFETY: the linker's record, valid for this call.
        let info = unsafe { &*info };
        *answer = (info.dlpi_adds, info.dlpi_subs);
        1
    }
    let mut answer = (0u64, 0u64);
    // SAFETY: `first` gets the pair that it expects, and keeps nothing.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut answer).cast()) };
    answer
}

/// The link to the executable's file: the process's own, which emulators know too, or this thread's, since the process's
/// leads nowhere once the main thread has ended.
pub(crate) fn executable() -> &'static Path {
    let own = Path::new("/proc/self/exe");
    if own.read_link().is_ok() { own } else { Path::new("/proc/thread-self/exe") }
}

/// All modules in load order, the executable first.
pub(crate) fn list() -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    // SAFETY: `note` gets the vector that it expects, and keeps nothing.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut modules).cast()) };
    modules
}

unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _size: usize, modules: *mut libc::c_void) -> i32 {
    // SAFETY: `list` handed its vector; the linker calls this on the same thread.
    let modules = unsafe { &mut *modules.cast::<Vec<Module>>() };
    // SAFETY: the linker's record, valid for this call.
    let info = unsafe { &*info };
    let name = if info.dlpi_name.is_null() {
        &[]
    } else {
        // SAFETY: a string of the linker's, valid for this call.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()
    };
    let headers = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: as many headers as the record says, mapped as long as the module is.
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    let is_main = modules.is_empty();
    let path = if is_main {
        std::fs::read_link(executable()).unwrap_or_else(|_| executable().to_owned())
    } else {
        PathBuf::from(OsStr::from_bytes(name))
    };
    let bias = info.dlpi_addr;
    let loads = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let segments = loads.map(|header| {
        let start = bias.wrapping_add(header.p_vaddr);
        (start..start.wrapping_add(header.p_memsz), header.p_flags & libc::PF_X != 0)
    });
    let is_vdso = name.is_empty() || !name.contains(&b'/') && name.starts_with(b"linux-vdso");
    modules.push(Module { path, bias, segments: segments.collect(), is_main, is_vdso: is_vdso && !is_main });
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_comes_first() {
        let modules = list();
        let main = modules.first().unwrap();
        assert!(main.is_main && main.contains(the_executable_comes_first as *const () as u64));
        assert!(main.is_called(&main.file_name()));
        assert!(main.hold("x").is_ok());
    }

    #[test]
    fn libraries_can_be_held() {
        let modules = list();
        let libc = modules.iter().find(|module| module.is_called("libc.so.6")).unwrap();
        assert!(libc.hold("x").is_ok());
        let elsewhere = Module { bias: libc.bias + 4096, ..libc.clone() };
        assert!(matches!(elsewhere.hold("x"), Err(Error::ModuleGone { .. })));
        let gone = Module { path: "/nowhere/libx.so".into(), ..libc.clone() };
        assert!(matches!(gone.hold("x"), Err(Error::ModuleGone { .. })));
    }
}
