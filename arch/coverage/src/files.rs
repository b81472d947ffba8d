//! The files to look at, as far as a machine has them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it is called here.
    pub name: &'static str,
    /// Where it is, if the machine has it.
    pub path: Option<PathBuf>,
}

/// Folders with the libraries of x86-64.
const X86_64: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64"];
/// Folders with the libraries of aarch64.
const AARCH64: [&str; 3] =
    ["/usr/lib/aarch64-linux-gnu", "/usr/aarch64-linux-gnu/lib", "/usr/aarch64-linux-gnu/lib64"];

/// Libraries of x86-64, the compiler's among them where the host is one, and the program that runs.
pub fn x86_64() -> Vec<Wanted> {
    let folders: Vec<PathBuf> = X86_64.iter().map(PathBuf::from).collect();
    let mut wanted = vec![
        Wanted { name: "libc", path: find(&folders, "libc.so.6") },
        Wanted { name: "libm", path: find(&folders, "libm.so.6") },
        Wanted { name: "libcrypto", path: find(&folders, "libcrypto.so") },
        Wanted { name: "libstdc++", path: find(&folders, "libstdc++.so.6") },
        Wanted { name: "libpython", path: find(&folders, "libpython3") },
    ];
    if cfg!(target_arch = "x86_64") {
        wanted.push(Wanted { name: "librustc_driver", path: compiler() });
        wanted.push(Wanted { name: "this program", path: Some("/proc/self/exe".into()) });
    }
    wanted
}

/// Libraries of aarch64: of the folder that `MIDFLIGHT_ARM64_LIBRARIES` names, else of the packages for arm64.
pub fn aarch64() -> Vec<Wanted> {
    let named = std::env::var_os("MIDFLIGHT_ARM64_LIBRARIES").map(PathBuf::from);
    let folders: Vec<PathBuf> = named.into_iter().chain(AARCH64.iter().map(PathBuf::from)).collect();
    [("libc", "libc.so.6"), ("libcrypto", "libcrypto.so"), ("libstdc++", "libstdc++.so.6")]
        .into_iter()
        .map(|(name, file)| Wanted { name, path: find(&folders, file) })
        .collect()
}

/// The first file in a folder whose name begins so, and which is an ELF file: some are scripts for the linker.
fn find(folders: &[PathBuf], begins: &str) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins)))
            .filter(|path| is_library(path))
            .collect();
        found.sort();
        found.into_iter().next()
    })
}

fn is_library(path: &Path) -> bool {
    let is_named = path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.ends_with(".so") || name.contains(".so.")
    });
    let mut first = [0; 4];
    let read =
        std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut first));
    is_named && read.is_ok() && first == *b"\x7fELF"
}

/// The library that is the Rust compiler.
fn compiler() -> Option<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    find(&[sysroot.join("lib")], "librustc_driver-")
}
