//! Patch libraries and host libraries, built by the tests.

use super::emulator;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A folder of this test's own, removed when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, SeqCst);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("live-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Compiles C `source` to the shared library `name`.
    pub fn library(&self, name: &str, source: &str) -> PathBuf {
        self.library_with(name, source, &[""; 0])
    }

    /// As [`Self::library`], with further arguments to the compiler.
    pub fn library_with(&self, name: &str, source: &str, arguments: &[impl AsRef<OsStr>]) -> PathBuf {
        self.compile(&compiler("CC", "cc"), "c", name, source, arguments)
    }

    /// As [`Self::library_with`], in C++.
    pub fn library_in_cpp(&self, name: &str, source: &str, arguments: &[impl AsRef<OsStr>]) -> PathBuf {
        self.compile(&compiler("CXX", "c++"), "cc", name, source, arguments)
    }

    /// As [`Self::library`], of assembly.
    pub fn assembled(&self, name: &str, source: &str) -> PathBuf {
        self.compile(&compiler("CC", "cc"), "s", name, source, &[""; 0])
    }

    fn compile(
        &self,
        compiler: &OsStr,
        kind: &str,
        name: &str,
        source: &str,
        arguments: &[impl AsRef<OsStr>],
    ) -> PathBuf {
        let (file, library) = (self.path(&format!("{name}.{kind}")), self.path(name));
        std::fs::write(&file, source).unwrap();
        let output = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
            .arg(format!("-I{}/include", env!("CARGO_MANIFEST_DIR")))
            .arg(&file)
            .args(arguments)
            .arg("-o")
            .arg(&library)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        library
    }
}

/// The compiler that the environment names, or the usual one.
pub fn compiler(variable: &str, usual: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| usual.into())
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A patch library in C.
pub fn patch(folder: &Folder, name: &str, body: &str) -> PathBuf {
    super::alloc::watch();
    folder.library(name, &format!("#include <midflight/patch.h>\n{body}\n"))
}

/// The cdylib `libNAME.so` of Rust `source`, optimised.
pub fn rustc(folder: &Folder, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let (file, library) = (folder.path(&format!("{name}.rs")), folder.path(&format!("lib{name}.so")));
    std::fs::write(&file, source).unwrap();
    let output = rust_compiler()
        .args(["--crate-type=cdylib", "-O"])
        .args(arguments)
        .arg(&file)
        .arg("-o")
        .arg(&library)
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

/// rustc, for this process's machine.
pub fn rust_compiler() -> Command {
    let mut command = Command::new(compiler("RUSTC", "rustc"));
    command
        .arg("--edition=2024")
        .args(emulator::target().map(|target| format!("--target={target}")))
        .args(emulator::setting("LINKER").map(|linker| format!("-Clinker={linker}")));
    command
}

/// The patch library in Rust of `tests/fixtures/rust_patch`, built once.
pub fn rust_patch() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| patch_library("rust_patch"))
}

/// The patch library in Rust of `tests/fixtures/panics`, built once.
pub fn panics() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| patch_library("panics"))
}

/// The patch library of `tests/fixtures/typed_panic`, which is for `plain_host`.
pub fn typed_panic() -> PathBuf {
    patch_library("typed_panic")
}

/// The cdylib of a package of this workspace.
fn patch_library(package: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust_patch");
    cargo_build(&["--package", package], &target).join(format!("debug/lib{package}.so"))
}

/// The program of `tests/fixtures/plain_host`, built once, optimised and with midflight as users have it. In the
/// folder of all release builds, since what other commands have built there serves here.
pub fn plain_host() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        cargo_build(&["--release", "--package", "plain_host"], target_folder()).join("release/plain_host")
    })
}

/// The host library of `tests/fixtures/optimised`, with or without `patchable!`, in release with these settings of
/// the profile.
pub fn optimised(cured: bool, settings: &[&str]) -> PathBuf {
    let folder = format!("optimised-{cured}-{}", settings.join("-").replace(['"', '='], ""));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let settings: Vec<_> =
        settings.iter().map(|setting| format!("--config=profile.release.{setting}")).collect();
    let mut arguments = vec!["--release", "--package", "optimised"];
    arguments.extend(cured.then_some("--features=cured"));
    arguments.extend(settings.iter().map(String::as_str));
    cargo_build(&arguments, &target).join("release/liboptimised.so")
}

/// The plugin of `tests/fixtures/second_copy.rs`, built once.
pub fn second_copy() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        cargo_build(&["--example", "second_copy"], target_folder()).join("debug/examples/libsecond_copy.so")
    })
}

/// Where cargo builds what these tests are part of.
fn target_folder() -> &'static Path {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    match emulator::target() {
        Some(target) if folder.ends_with(target) => folder.parent().unwrap(),
        _ => folder,
    }
}

/// Builds in the folder `target`, and answers what of it is for this process's machine.
fn cargo_build(arguments: &[&str], target: &Path) -> PathBuf {
    let output = Command::new(compiler("CARGO", "cargo"))
        .args(["build", "--quiet"])
        .args(arguments)
        .args(emulator::target().map(|target| format!("--target={target}")))
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join(emulator::target().unwrap_or_default())
}
