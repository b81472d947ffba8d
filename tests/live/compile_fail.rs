//! What must not compile does not, and the compiler says why. The cases are in `tests/compile_fail`; the messages
//! beside them are those of the oldest compiler that is supported. To write them anew:
//! `TRYBUILD=overwrite cargo test --test live compile_fail`.

use crate::support::fixtures::Folder;
use crate::support::{child, emulator};
use std::path::Path;
use std::process::Command;

#[test]
fn what_is_no_function_or_has_another_type_is_refused() {
    if emulator::is_there() {
        return; // Nothing in it depends on the machine that code is made for.
    }
    // trybuild compiles the cases with what a package has, and this one has little, so it does not take long.
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/plain_host");
    let oldest = is_the_oldest_compiler();
    let mut environment = vec![("CARGO_MANIFEST_DIR", package)];
    if !oldest {
        environment.push(("TRYBUILD", "overwrite"));
    }
    child::run_with("compile_fail::what_is_no_function_or_has_another_type_is_refused", &environment, || {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let (cases, folder) = (tests.join("compile_fail"), Folder::new());
        // Other compilers must refuse the same in words of their own, which go to copies of the cases.
        let cases = if oldest { cases } else { copies(&cases, &folder) };
        let build = trybuild::TestCases::new();
        // Since one case compiles and runs, code is made for all of them; some refusals come only then.
        build.pass(tests.join("compile_pass/accepted.rs"));
        build.compile_fail(cases.join("*.rs"));
    });
}

/// The one that `rust-version` names; its messages are the expected ones.
fn is_the_oldest_compiler() -> bool {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    assert!(version.starts_with("rustc "), "{version}");
    version.starts_with(concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"), "."))
}

/// The cases in `folder`, without messages.
fn copies(cases: &Path, folder: &Folder) -> std::path::PathBuf {
    for entry in std::fs::read_dir(cases).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            std::fs::copy(&path, folder.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
        }
    }
    folder.path("")
}
