//! How the dynamic linker will bind a patch library's symbols: which it will not find, and which it will find
//! elsewhere although the library defines them.

use libloading::os::unix::Library;
use std::ffi::CString;

/// The names in `undefined` that neither the process nor a loaded one of the `needed` libraries defines.
/// None if a needed library is not loaded yet: what it brings cannot be known without loading it.
pub(crate) fn missing(undefined: &[String], needed: &[String]) -> Option<Vec<String>> {
    let mut libraries = Vec::with_capacity(needed.len());
    for name in needed {
        // SAFETY: the library is loaded already or the call fails, so no constructor runs.
        libraries.push(unsafe { Library::open(Some(name), libc::RTLD_NOLOAD | libc::RTLD_LAZY) }.ok()?);
    }
    let found = |name: &&String| {
        let Ok(name) = CString::new(name.as_str()) else { return false };
        // SAFETY: only looks a name up.
        let in_process = !unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }.is_null();
        // SAFETY: the symbol is not used, whatever its type.
        let has = |library: &Library| unsafe { library.get::<*const ()>(name.as_bytes_with_nul()) }.is_ok();
        in_process || libraries.iter().any(has)
    };
    Some(undefined.iter().filter(|name| !found(name)).cloned().collect())
}

/// The names that the program, or a library that it makes visible to all, defines too: they come before the patch
/// library's own definitions.
pub(crate) fn defined_before(names: &[String]) -> Vec<String> {
    let program = Library::this();
    let is_defined = |name: &&String| {
        let Ok(name) = CString::new(name.as_str()) else { return false };
        // SAFETY: the symbol is not used, whatever its type.
        unsafe { program.get::<*const ()>(name.as_bytes_with_nul()) }.is_ok()
    };
    names.iter().filter(is_defined).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_are_missing() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let undefined = names(&["malloc", "no_such_symbol", "memcpy", "nor_this_one"]);
        let needed = names(&["libc.so.6"]);
        assert_eq!(missing(&undefined, &needed), Some(names(&["no_such_symbol", "nor_this_one"])));
        assert_eq!(missing(&undefined, &names(&["libnowhere.so"])), None);
        assert_eq!(defined_before(&undefined), names(&["malloc", "memcpy"]));
    }
}
