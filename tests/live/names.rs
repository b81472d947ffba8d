//! Names of targets: raw, demangled, with and without module; not found; ambiguous.

use crate::support::fixtures::Folder;
use crate::support::patient;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use midflight::{Error, Transaction};

fn check(target: &str) -> Result<midflight::Check, Error> {
    let mut change = Transaction::new();
    change.replace(target, crate::targets::greet as *const ());
    change.check()
}

#[inline(never)]
fn a_function_of_this_test(value: u64) -> u64 {
    std::hint::black_box(value)
}

#[test]
fn rust_names_without_their_hash() {
    let check = check("live::names::a_function_of_this_test").unwrap();
    assert_eq!(check.functions[0].address, a_function_of_this_test as *const () as u64);
    assert!(check.functions[0].symbol.contains("a_function_of_this_test"));
    assert_ne!(check.functions[0].symbol, "live::names::a_function_of_this_test");
}

#[test]
fn raw_names_of_the_executable() {
    let check = check("live_rust_target").unwrap();
    assert_eq!(check.functions[0].address, crate::targets::live_rust_target as *const () as u64);
}

#[test]
fn exported_names_of_libraries() {
    // Not the IFUNCs: those have no one implementation in the file.
    for name in ["qsort", "libc.so.6!qsort"] {
        let function = &check(name).unwrap().functions[0];
        assert_eq!(function.address, libc::qsort as *const () as u64, "{name}");
        assert!(function.module.ends_with("libc.so.6"));
    }
}

#[test]
fn a_module_that_is_not_loaded() {
    let error = check("libnowhere.so!qsort").unwrap_err();
    assert!(
        matches!(&error, Error::NotLoaded { module, loaded, .. }
        if module == "libnowhere.so" && loaded.iter().any(|name| name == "libc.so.6")),
        "{error}"
    );
}

#[test]
fn not_found_tells_what_comes_near() {
    let error = check("live::names::a_functoin_of_this_test").unwrap_err();
    let Error::NotFound { nearest, .. } = &error else { panic!("{error}") };
    assert_eq!(nearest[0], "live::names::a_function_of_this_test", "{error}");
    assert!(error.to_string().contains("nearest: live::names::a_function_of_this_test"));
}

#[test]
fn ifuncs_are_not_guessed() {
    let error = check("libc.so.6!memcpy").unwrap_err();
    let refused = matches!(&error, Error::NotAFunction { found, .. } if found.contains("IFUNC"))
        || matches!(&error, Error::Ambiguous { .. });
    assert!(refused, "{error}");
}

#[test]
fn static_functions_of_one_name_are_ambiguous() {
    let folder = Folder::new();
    let half = |value: u32| {
        format!(
            "static __attribute__((noinline, used)) int twin(int x) {{ static volatile int v = {value}; return x + v; }}
             int call_{value}(int x) {{ static volatile int v = {value}; return v + v + x + twin(x); }}"
        )
    };
    std::fs::write(folder.path("other.c"), half(2)).unwrap();
    let other = folder.path("other.c");
    let library = folder.library_with("libtwins.so", &half(1), &[other.to_str().unwrap()]);
    // SAFETY: a library of plain functions.
    let _opened = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_LOCAL) }.unwrap();
    let error = check("libtwins.so!twin").unwrap_err();
    let Error::Ambiguous { candidates, .. } = &error else { panic!("{error}") };
    assert_eq!(candidates.len(), 2);
    let text = error.to_string();
    for candidate in candidates {
        assert!(candidate.module.ends_with("libtwins.so"));
        assert!(text.contains(&format!("{:#x}", candidate.address)), "{text}");
    }
    // A function of its own can still be named.
    assert_eq!(check("libtwins.so!call_1").unwrap().functions.len(), 1);
}

#[test]
fn cpp_names_with_and_without_parameters() {
    let folder = Folder::new();
    let source =
        "namespace shop { int price(int x, char const *) { static volatile int v = 1; return x + v; } }";
    let file = folder.path("shop.cc");
    std::fs::write(&file, source).unwrap();
    let library = folder.library_with("libshop2.so", "", &[file.to_str().unwrap()]);
    // SAFETY: a library of plain functions.
    let _opened = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_LOCAL) }.unwrap();
    for name in
        ["shop::price", "shop::price(int, char const*)", "libshop2.so!shop::price", "_ZN4shop5priceEiPKc"]
    {
        let function = &check(name).unwrap().functions[0];
        assert_eq!(function.symbol, "_ZN4shop5priceEiPKc", "{name}");
    }
    assert!(matches!(check("shop::price(int)"), Err(Error::NotFound { .. })));
}

#[test]
fn one_function_under_two_names() {
    let mut change = Transaction::new();
    change.replace("live_rust_target", crate::targets::greet as *const ());
    change.replace(crate::targets::live_rust_target as *const (), crate::targets::greet as *const ());
    // SAFETY: nothing is committed.
    let error = unsafe { change.commit(&patient()) }.unwrap_err();
    assert!(matches!(error, Error::DuplicateTarget { .. }), "{error}");
}
