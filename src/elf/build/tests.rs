use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::forge::{CODE, DATA_OFFSET, Forge};
use super::*;
use crate::elf::Machine;

const LOCAL_FUNCTION: u8 = 0x02;
const DYNSYM: u32 = 11;
const SYMTAB: u32 = 2;
const RUST: (&str, u8, u16, u64) = ("_RNvCs1234_3app5count", LOCAL_FUNCTION, 1, CODE);
const C: (&str, u8, u16, u64) = ("count", LOCAL_FUNCTION, 1, CODE);

fn build(file: &[u8]) -> Build {
    let machine = match u16::from_le_bytes([file[18], file[19]]) {
        183 => Machine::Aarch64,
        _ => Machine::X86_64,
    };
    Image::parse(file, machine).unwrap().build(file)
}

fn compiler(forge: &Forge) -> Compiler {
    build(&forge.build()).compiler
}

fn rustc(versions: &[&str]) -> Compiler {
    Compiler::Rustc(versions.iter().map(|version| (*version).to_owned()).collect())
}

fn comment(texts: &str) -> Forge {
    Forge { section_name: ".comment", ..Forge::new(texts.as_bytes().to_vec()) }
}

fn strings(texts: &[u8]) -> Forge {
    Forge {
        section_name: ".debug_str",
        symbols: vec![RUST],
        symbols_kind: SYMTAB,
        ..Forge::new(texts.to_vec())
    }
}

#[test]
fn compilers_named_in_comments() {
    let one = "Linker: LLD\0rustc version 1.95.0 (59807616e 2026-04-14)\0GCC: (Debian) 12.2.0\0";
    assert_eq!(compiler(&comment(one)), rustc(&["1.95.0 (59807616e 2026-04-14)"]));
    let two = "rustc version 1.95.0 (b)\0rustc version 1.94.1 (a)\0rustc version 1.95.0 (b)";
    assert_eq!(compiler(&comment(two)), rustc(&["1.94.1 (a)", "1.95.0 (b)"]));
    assert_eq!(compiler(&comment("GCC: (GNU) 9.5.0\0")), Compiler::NotRust);
    assert_eq!(compiler(&Forge { symbols: vec![RUST], ..comment("GCC: (GNU) 9.5.0\0") }), Compiler::Unknown);
}

#[test]
fn comments_that_are_no_versions_are_passed_over() {
    let long = format!("rustc version 1{}\0", "0".repeat(MAX_VERSION));
    for text in
        ["rustc version \0", "rustc version x\0", "rustc version 1\n2\0", "a rustc version 1.2\0", &long]
    {
        assert_eq!(compiler(&comment(text)), Compiler::NotRust, "{text:?}");
    }
    let many: String = (0..1000).map(|number| format!("rustc version 1.{number}\0")).collect();
    assert!(matches!(compiler(&comment(&many)), Compiler::Rustc(versions) if versions.len() == MAX_VERSIONS));
    // Compressed ones are not looked into, and ones beyond the end of the file do no harm.
    let compressed = u64::from(SHF_COMPRESSED) | 3;
    let hidden = Forge { section_flags: compressed, ..comment("rustc version 1.95.0 (a)\0") };
    assert_eq!(compiler(&hidden), Compiler::Unknown);
    let mut cut = comment("rustc version 1.95.0 (a)\0").build();
    let headers = u64::from_le_bytes(cut[40..48].try_into().unwrap()) as usize;
    cut[headers + 64 + 24..headers + 64 + 32].fill(0xff);
    assert_eq!(build(&cut).compiler, Compiler::Unknown);
}

#[test]
fn compilers_named_in_the_debug_information() {
    let producer = b"main\0clang LLVM (rustc version 1.60.0 (7737e0b5c 2022-04-04))\0f\0";
    assert_eq!(compiler(&strings(producer)), rustc(&["1.60.0 (7737e0b5c 2022-04-04)"]));
    // Who has no Rust code is not searched.
    assert_eq!(compiler(&Forge { symbols: vec![C], ..strings(producer) }), Compiler::NotRust);
    let compressed = Forge { section_flags: u64::from(SHF_COMPRESSED), ..strings(producer) };
    assert_eq!(compiler(&compressed), Compiler::Unknown);
    for text in [
        "(rustc version 1.60.0)",
        "(rustc version x)\0",
        "rustc version 1.60.0)\0",
        "((rustc version )\0",
        "(",
    ] {
        assert_eq!(compiler(&strings(text.as_bytes())), Compiler::Unknown, "{text:?}");
    }
}

#[test]
fn texts_are_found_wherever_pieces_end() {
    let text = b"clang LLVM (rustc version 1.60.0 (7737e0b5c 2022-04-04))\0";
    for at in PIECE as usize - text.len()..=PIECE as usize {
        let mut section = vec![b'('; at];
        section.extend(text);
        section.resize(PIECE as usize + 300, 0);
        assert_eq!(compiler(&strings(&section)), rustc(&["1.60.0 (7737e0b5c 2022-04-04)"]), "{at}");
    }
}

#[test]
fn without_a_word_of_the_compiler_symbols_tell() {
    let forge =
        |symbol, symbols_kind| Forge { symbols: vec![symbol], symbols_kind, ..Forge::new(vec![0; 8]) };
    assert_eq!(compiler(&forge(RUST, SYMTAB)), Compiler::Unknown);
    assert_eq!(compiler(&forge(RUST, DYNSYM)), Compiler::Unknown);
    assert_eq!(compiler(&forge(C, SYMTAB)), Compiler::NotRust);
    assert_eq!(compiler(&forge(C, DYNSYM)), Compiler::Unknown, "stripped");
}

#[test]
fn rust_names_are_known_by_their_form() {
    for name in [
        "_RNvCs1234_3app5count",
        "_RNvXCs1234_3appNtB2_5ClockNtB2_4Tell4tell",
        "_ZN3app5count17h0123456789abcdefE",
        "_ZN3app5count17h0123456789abcdefE.llvm.123",
    ] {
        assert!(is_rust_name(name.as_bytes()), "{name}");
    }
    for name in [
        "count",
        "_R",
        "_Read",
        "_ZN2ns5countEi",
        "_ZN3app5countE",
        "_ZN3app5count17h0123456789abcdeXE",
        "_ZN3app5count16h0123456789abcdefE",
        "_ZNE",
        "17h0123456789abcdefE",
    ] {
        assert!(!is_rust_name(name.as_bytes()), "{name}");
    }
    assert!(!is_rust_name(b"_R\xff"));
    assert!(!is_rust_name("_ZNäää17h0123456789abcdäE".as_bytes()));
}

fn allocator(symbols: &[&'static str], symbols_kind: u32) -> Allocator {
    let symbols = symbols.iter().map(|name| (*name, LOCAL_FUNCTION, 1, DATA_OFFSET)).collect();
    build(&Forge { symbols, symbols_kind, ..comment("rustc version 1.95.0 (a)\0") }.build()).allocator
}

#[test]
fn allocators_by_their_symbols() {
    const ALLOC: &str = "_RNvCsfLfy6EI15iL_7___rustc12___rust_alloc";
    const SHIM: &str = "_RNvCsfLfy6EI15iL_7___rustc35___rust_no_alloc_shim_is_unstable_v2.llvm.7";
    assert_eq!(allocator(&[ALLOC, SHIM], SYMTAB), Allocator::Own);
    assert_eq!(
        allocator(&["__rust_alloc", "__rg_alloc", "__rdl_alloc"], SYMTAB),
        Allocator::Own,
        "old names"
    );
    assert_eq!(allocator(&[ALLOC], SYMTAB), Allocator::Unknown, "link-time optimised");
    // As of an older rustc, link-time optimised: the shim is a variable, which stays.
    let variable = ("__rust_no_alloc_shim_is_unstable", 0x01, 2, DATA_OFFSET);
    let symbols = vec![("__rust_alloc", LOCAL_FUNCTION, 1, CODE), variable];
    let old = Forge { symbols, symbols_kind: SYMTAB, ..comment("rustc version 1.75.0 (a)\0") };
    assert_eq!(build(&old.build()).allocator, Allocator::Unknown);
    // Both, but the one does not lead to the other: the linker kept what is not used.
    assert_eq!(allocator(&["__rust_alloc", "__rdl_alloc", SHIM], SYMTAB), Allocator::Unknown);
    assert_eq!(allocator(&["_RNvCsfLfy6EI15iL_7___rustc14___rust_dealloc"], SYMTAB), Allocator::Unknown);
    assert_eq!(allocator(&["_RNvCsfLfy6EI15iL_3app12___rust_alloc", "f"], SYMTAB), Allocator::None);
    assert_eq!(allocator(&["f"], DYNSYM), Allocator::Unknown, "stripped");
    let shared =
        Forge { needed: vec!["libstd-d1237ef7159db0a2.so"], ..comment("rustc version 1.95.0 (a)\0") };
    assert_eq!(build(&shared.build()).allocator, Allocator::Default);
    let imports = vec![("malloc@GLIBC_2.2.5", 0x12, 0, 0)];
    let inlined = Forge { symbols: imports, symbols_kind: SYMTAB, ..comment("rustc version 1.95.0 (a)\0") };
    assert_eq!(build(&inlined.build()).allocator, Allocator::Unknown);
}

const HEAP: &str = r#"
    #[unsafe(no_mangle)] pub extern "C" fn f(n: usize) -> usize { std::hint::black_box(format!("{n}")).len() }
"#;
const OWN: &str = r#"
    use std::alloc::{GlobalAlloc, Layout, System};
    struct Mine;
    unsafe impl GlobalAlloc for Mine {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 { unsafe { System.alloc(layout) } }
        unsafe fn dealloc(&self, place: *mut u8, layout: Layout) { unsafe { System.dealloc(place, layout) } }
    }
    #[global_allocator] static MINE: Mine = Mine;
"#;

/// What rustc makes of `source`.
fn compiled(folder: &Path, source: &str, arguments: &[&str]) -> Vec<u8> {
    let (file, out) = (folder.join("build_test.rs"), folder.join("build_test.out"));
    std::fs::write(&file, source).unwrap();
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "-o"])
        .args([&out, &file])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(&out).unwrap()
}

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("midflight-build-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn what_rustc_makes_is_known() {
    let folder = folder();
    let version =
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-V").output();
    let version = String::from_utf8(version.unwrap().stdout).unwrap();
    let version = rustc(&[version.trim().strip_prefix("rustc ").unwrap()]);
    let (main, own) = ("fn main() { println!(\"{}\", f(1)); }", format!("{OWN}{HEAP}"));
    let (library, debug, release) =
        (["--crate-type", "cdylib"], &["-g"][..], &["-O", "-C", "strip=debuginfo"][..]);
    let (shared, all) = (&["-O", "-C", "prefer-dynamic"][..], &["-C", "link-dead-code"][..]);
    let stripped = &["-O", "-C", "strip=symbols"][..];
    for (source, arguments, expected) in [
        (HEAP, debug, Allocator::Default),
        (HEAP, release, Allocator::Default),
        (HEAP, shared, Allocator::Default),
        (HEAP, all, Allocator::Default),
        (HEAP, stripped, Allocator::Unknown),
        (&own, debug, Allocator::Own),
        (&own, release, Allocator::Own),
        (&own, all, Allocator::Unknown),
        (&own, stripped, Allocator::Unknown),
    ] {
        let built = build(&compiled(&folder, source, &[&library, arguments].concat()));
        assert_eq!(built, Build { compiler: version.clone(), allocator: expected }, "{arguments:?} {source}");
    }
    for (source, expected) in [(HEAP, Allocator::Default), (&own, Allocator::Own)] {
        let built = build(&compiled(&folder, &format!("{source}{main}"), &[]));
        assert_eq!(built.allocator, expected, "an executable: {source}");
    }
    let bare = "#![no_std] #[panic_handler] fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
        #[unsafe(no_mangle)] pub extern \"C\" fn f(n: usize) -> usize { n + 1 }";
    let built = build(&compiled(&folder, bare, &[&library[..], &["-C", "panic=abort"]].concat()));
    assert_eq!(built, Build { compiler: version, allocator: Allocator::None });
    // With link-time optimisation they cannot be told apart, and nothing is claimed.
    for source in [HEAP, &own] {
        let built = build(&compiled(&folder, source, &[&library[..], &["-O", "-C", "lto=thin"]].concat()));
        assert_eq!(built.allocator, Allocator::Unknown, "{source}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_debug_information_names_the_same_compiler() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let known = build(&file);
    assert_eq!(known.allocator, Allocator::Default, "of this test program");
    assert!(matches!(&known.compiler, Compiler::Rustc(versions) if versions.len() == 1), "{known:?}");
    // The same without what the comments say.
    let mut silent = file;
    let mark = b"\0rustc version ";
    let places: Vec<_> =
        (0..silent.len() - mark.len()).filter(|at| silent[*at..].starts_with(&mark[1..])).collect();
    for place in places {
        if silent[place - 1] == 0 {
            silent[place..place + 5].copy_from_slice(b"other");
        }
    }
    assert_eq!(build(&silent).compiler, known.compiler);
}

#[test]
fn the_c_library_is_not_rust() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let libc = libc.into_iter().find(|path| path.ends_with("/libc.so.6")).unwrap();
    let built = build(&std::fs::read(libc).unwrap());
    // Some distributions leave it neither comments nor symbols.
    let not_rust = Build { compiler: Compiler::NotRust, allocator: Allocator::None };
    let unknown = Build { compiler: Compiler::Unknown, allocator: Allocator::Unknown };
    assert!(built == not_rust || built == unknown, "{built:?}");
}
