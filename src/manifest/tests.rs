mod attach;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::elf::SymbolTable;
use crate::elf::forge::{CODE, DATA, DATA_OFFSET, Forge, words};

/// The first record of a forged library.
const FIRST: u64 = DATA_OFFSET;
/// A place in its writable memory that is not in the file.
const CELL_1: u64 = DATA + 0x800;

fn record(kind: u16, text: &[u8], pointers: [u64; 2]) -> Vec<u8> {
    let size = (format::HEADER_SIZE + format::text_space(text.len())) as u32;
    let mut record = b"MFLT\x01\0".to_vec();
    record.extend(kind.to_le_bytes());
    record.extend(size.to_le_bytes());
    record.extend((text.len() as u32).to_le_bytes());
    words(&mut record, &pointers);
    record.extend(text);
    record.resize(size as usize, 0);
    record
}

fn name() -> Vec<u8> {
    record(1, b"forged", [0, 0])
}

fn replace(target: &str, replacement: u64, original: u64) -> Vec<u8> {
    record(2, target.as_bytes(), [replacement, original])
}

/// A library with these records, which has room for originals behind them.
fn library(records: &[Vec<u8>]) -> Vec<u8> {
    forge(records).build()
}

fn forge(records: &[Vec<u8>]) -> Forge {
    let mut section = records.concat();
    section.resize(section.len().max(0x900), 0);
    Forge::new(section)
}

fn parsed(records: &[Vec<u8>]) -> Result<Manifest, PatchFault> {
    parse(&library(records), Machine::X86_64)
}

fn fault(records: &[Vec<u8>]) -> PatchFault {
    parsed(records).unwrap_err()
}

#[test]
fn records_in_any_order_with_padding_between() {
    let records = [
        vec![0; 16],
        replace("host!a.c:f", CODE, CELL_1),
        record(0x8000, b"unknown but optional", [1, 2]),
        record(0x8002, b"\xff", [0, 0]),
        vec![0; 8],
        name(),
        replace("g", CODE, 0),
    ];
    let manifest = parsed(&records).unwrap();
    assert_eq!(manifest.name, "forged");
    let replacement =
        |target: &str, original| Replacement { target: target.to_owned(), replacement: CODE, original };
    assert_eq!(manifest.replacements, [replacement("host!a.c:f", Some(CELL_1)), replacement("g", None)]);
    assert_eq!((manifest.undefined, manifest.needed, manifest.build_id), (vec![], vec![], None));
}

#[test]
fn what_follows_a_text_is_ignored() {
    let mut longer = replace("f", CODE, 0);
    longer.extend([0xaa; 24]);
    longer[8] += 24;
    assert_eq!(parsed(&[name(), longer]).unwrap().replacements.len(), 1);
}

#[test]
fn what_is_no_elf_file() {
    let file = library(&[name(), replace("f", CODE, 0)]);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        parse(&file, Machine::X86_64).unwrap_err()
    };
    assert_eq!(parse(b"", Machine::X86_64), Err(PatchFault::NotElf));
    assert_eq!(parse(b"\x7fEL", Machine::X86_64), Err(PatchFault::NotElf));
    assert_eq!(parse(b"#!/bin/sh\n", Machine::X86_64), Err(PatchFault::NotElf));
    assert!(matches!(parse(b"\x7fELF", Machine::X86_64), Err(PatchFault::Truncated { .. })));
    assert_eq!(with(4, &[1]), PatchFault::WrongClass);
    assert_eq!(with(5, &[2]), PatchFault::WrongEndianness);
    let wrong = |expected: &str, found: &str| PatchFault::WrongMachine {
        expected: expected.to_owned(),
        found: found.to_owned(),
    };
    assert_eq!(with(18, &[183]), wrong("x86-64", "aarch64"));
    assert_eq!(with(18, &[22]), wrong("x86-64", "machine 22"));
    assert_eq!(parse(&file, Machine::Aarch64), Err(wrong("aarch64", "x86-64")));
    assert_eq!(with(16, &[1]), PatchFault::NotShared { found: "an object file" });
    assert_eq!(with(16, &[2]), PatchFault::NotShared { found: "an executable" });
    assert_eq!(with(16, &[4]), PatchFault::NotShared { found: "a core dump" });
    assert!(matches!(with(16, &[9]), PatchFault::NotShared { .. }));
}

#[test]
fn executables_and_static_files_are_no_patch_libraries() {
    let records = [name(), replace("f", CODE, 0)];
    let mut file = Forge { flags_1: 0x0800_0001, ..forge(&records) }.build();
    let found = "an executable (position-independent)";
    assert_eq!(parse(&file, Machine::X86_64), Err(PatchFault::NotShared { found }));
    // Without its dynamic segment.
    file[64 + 2 * 56] = 0;
    assert!(matches!(parse(&file, Machine::X86_64), Err(PatchFault::NotShared { .. })));
}

#[test]
fn no_manifest_and_too_much_of_it() {
    let records = [name(), replace("f", CODE, 0)];
    let file = Forge { section_name: "midflight_path", ..forge(&records) }.build();
    assert_eq!(parse(&file, Machine::X86_64), Err(PatchFault::NoManifest));
    let file = Forge { section_name: "midflight_engine", ..forge(&records) }.build();
    assert_eq!(parse(&file, Machine::X86_64), Err(PatchFault::ContainsEngine));
}

#[test]
fn malformed_records() {
    let bad = |records: &[Vec<u8>], at: u64| match fault(records) {
        PatchFault::BadRecord { offset, reason } => {
            assert_eq!(offset, FIRST + at, "{reason}");
            reason
        }
        other => panic!("{other}"),
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut record = replace("f", CODE, 0);
        record[at..at + bytes.len()].copy_from_slice(bytes);
        [name(), record]
    };
    let second = name().len() as u64;
    assert!(bad(&with(0, b"MFLX"), second).contains("MFLT"));
    assert!(bad(&with(8, &31_u32.to_le_bytes()), second).contains("multiple"));
    assert!(bad(&with(8, &24_u32.to_le_bytes()), second).contains("multiple"));
    assert!(bad(&with(8, &[0; 4]), second).contains("multiple"));
    assert!(bad(&with(8, &0x1_0000_u32.to_le_bytes()), second).contains("left"));
    assert!(bad(&with(8, &0xffff_fff8_u32.to_le_bytes()), second).contains("left"));
    assert!(bad(&[record(1, b"n", [CODE, 0])], 0).contains("pointers"));
    assert!(bad(&[record(1, b"n", [0, CELL_1])], 0).contains("pointers"));

    let mut section = [name(), replace("f", CODE, 0), name()].concat();
    section.truncate(section.len() - 24);
    let file = Forge::new(section).build();
    let reason = "the section ends within the record";
    let offset = FIRST + second + replace("f", CODE, 0).len() as u64;
    assert_eq!(parse(&file, Machine::X86_64), Err(PatchFault::BadRecord { offset, reason }));
}

#[test]
fn versions_and_kinds() {
    let mut later = name();
    later[4] = 2;
    assert_eq!(fault(&[later]), PatchFault::UnknownVersion { offset: FIRST, found: 2 });
    assert_eq!(fault(&[record(3, b"x", [0, 0])]), PatchFault::UnknownKind { offset: FIRST, kind: 3 });
    assert_eq!(fault(&[record(0, b"x", [0, 0])]), PatchFault::UnknownKind { offset: FIRST, kind: 0 });
}

#[test]
fn texts() {
    let reason = |text: &[u8]| match fault(&[record(1, text, [0, 0])]) {
        PatchFault::BadText { offset: FIRST, reason } => reason,
        other => panic!("{other}"),
    };
    assert_eq!(reason(b""), "is empty");
    assert_eq!(reason(b"a\0b"), "contains a NUL byte");
    assert_eq!(reason(b"a\x1b[2J"), "contains a control character");
    assert_eq!(reason(b"\xc3("), "is not UTF-8");
    let mut long = name();
    long[12] = 9;
    assert_eq!(
        fault(&[long.clone()]),
        PatchFault::BadText { offset: FIRST, reason: "is longer than the record" }
    );
    long[12..16].fill(0xff);
    assert_eq!(fault(&[long]), PatchFault::BadText { offset: FIRST, reason: "is longer than the record" });
}

#[test]
fn names_and_targets_once() {
    assert_eq!(fault(&[]), PatchFault::NoName);
    assert_eq!(fault(&[replace("f", CODE, 0)]), PatchFault::NoName);
    assert_eq!(fault(&[name()]), PatchFault::NoReplacements);
    let second = name().len() as u64;
    let two = PatchFault::TwoNames { first: "forged".into(), second: "again".into(), offset: FIRST + second };
    assert_eq!(fault(&[name(), record(1, b"again", [0, 0])]), two);
    let first = FIRST + second;
    let twice = PatchFault::TwoForOneTarget { target: "f".into(), first, second: first + 40 };
    assert_eq!(fault(&[name(), replace("f", CODE, 0), replace("f", CODE + 8, 0)]), twice);
}

#[test]
fn replacements_that_are_no_code() {
    let reason = |address: u64| match fault(&[name(), replace("f", address, 0)]) {
        PatchFault::NotCode { target, reason, .. } if target == "f" => reason,
        other => panic!("{other}"),
    };
    assert_eq!(reason(0), "it is null");
    for address in [1, DATA, CELL_1, CODE - 1, u64::MAX] {
        assert!(reason(address).contains("not executable"), "{address:#x}");
    }
    let cell = DATA + name().len() as u64 + format::POINTER_A as u64;
    let undefined = Forge {
        symbols: vec![("host_function", 0x12, 0, 0)],
        rela: vec![(cell, 1 << 32 | 1, 0)],
        ..forge(&[name(), replace("f", CODE, 0)])
    };
    let fault = parse(&undefined.build(), Machine::X86_64).unwrap_err();
    let PatchFault::NotCode { reason, .. } = fault else { panic!("{fault}") };
    assert_eq!(reason, "`host_function` is not defined in it");

    let odd = Forge { machine: Machine::Aarch64, ..forge(&[name(), replace("f", CODE + 2, 0)]) };
    assert!(matches!(parse(&odd.build(), Machine::Aarch64), Err(PatchFault::NotCode { .. })));
}

#[test]
fn originals_that_cannot_be_stored() {
    let reason = |records: &[Vec<u8>]| match fault(records) {
        PatchFault::BadOriginal { reason, .. } => reason,
        other => panic!("{other}"),
    };
    assert!(reason(&[name(), replace("f", CODE, CELL_1 + 4)]).contains("aligned"));
    assert!(reason(&[name(), replace("f", CODE, CODE)]).contains("writable"));
    assert!(reason(&[name(), replace("f", CODE, 8)]).contains("writable"));
    assert!(reason(&[name(), replace("f", CODE, u64::MAX - 7)]).contains("writable"));
    let shared = [name(), replace("f", CODE, CELL_1), replace("g", CODE, CELL_1)];
    assert!(reason(&shared).contains(&format!("{:#x}", FIRST + name().len() as u64)));
    let relro = Forge { relro: (CELL_1, 8), ..forge(&[name(), replace("f", CODE, CELL_1)]) };
    assert!(matches!(parse(&relro.build(), Machine::X86_64), Err(PatchFault::BadOriginal { .. })));
}

#[test]
fn messages_say_where_and_what_to_do() {
    let message = fault(&[name(), replace("time::zone", DATA, 0)]).to_string();
    for part in ["`time::zone`", "offset 0x228", "0x2000"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(PatchFault::NoManifest.to_string().contains("patch!"));
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("midflight-manifest-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The fixture as compiled with `flags`.
fn compile(flags: &[&str]) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let scratch = Scratch::new();
    let output = scratch.0.join("libpatch.so");
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]).args(flags);
    cc.arg("-I").arg(root.join("include")).arg("-o").arg(&output).arg(root.join("tests/fixtures/manifest.c"));
    let result = cc.output().unwrap();
    assert!(result.status.success(), "{cc:?}\n{}", String::from_utf8_lossy(&result.stderr));
    fs::read(output).unwrap()
}

fn host() -> Machine {
    match std::env::consts::ARCH {
        "x86_64" => Machine::X86_64,
        "aarch64" => Machine::Aarch64,
        other => panic!("no such machine: {other}"),
    }
}

/// Libraries that store the pointers in different ways.
fn real() -> &'static [Vec<u8>] {
    static REAL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    REAL.get_or_init(|| {
        let packed = ["-O2", "-Wl,-z,pack-relative-relocs"];
        vec![compile(&["-O0", "-g"]), compile(&packed), compile(&["-O2", "-s", "-Wl,-z,separate-code"])]
    })
}

#[test]
fn real_libraries_say_the_same_however_they_are_built() {
    let flags: [&[&str]; 6] = [
        &["-O0", "-std=c99"],
        &["-O2", "-flto", "-Wl,--gc-sections"],
        &["-O2", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-s"],
        &["-O2", "-Wl,-z,pack-relative-relocs", "-Wl,--build-id=none"],
        &["-O2", "-Wl,-Bsymbolic", "-Wl,-z,now", "-std=c11", "-Wl,--build-id"],
        &["-x", "c++", "-std=c++11", "-O2", "-Wl,--gc-sections"],
    ];
    for flags in flags {
        let file = compile(flags);
        let manifest = parse(&file, host()).unwrap_or_else(|fault| panic!("{flags:?}: {fault}"));
        assert_eq!(manifest.name, "friendly-time", "{flags:?}");
        let mut targets: Vec<(&str, bool)> = manifest
            .replacements
            .iter()
            .map(|replacement| (&replacement.target[..], replacement.original.is_some()))
            .collect();
        targets.sort_unstable();
        let expected = [
            ("count", true),
            ("exported", false),
            ("format_time", false),
            ("libhost.so.1!zone.c:zone", true),
        ];
        assert_eq!(targets, expected, "{flags:?}");
        let missing = |name: &str| manifest.undefined.iter().any(|undefined| undefined.contains(name));
        assert!(missing("host_counter") && missing("host_helper") && missing("snprintf"), "{manifest:?}");
        assert!(!missing("zone") && !missing("_ITM"), "{manifest:?}");
        assert!(manifest.needed.iter().any(|name| name.starts_with("libc.")), "{manifest:?}");
        assert_eq!(manifest.build_id.is_some(), !flags.contains(&"-Wl,--build-id=none"), "{flags:?}");
    }
}

#[test]
fn addresses_are_those_of_the_symbols() {
    let file = &real()[0][..];
    let manifest = parse(file, host()).unwrap();
    let symbols = Image::parse(file, host()).unwrap().symbols(file, SymbolTable::Full).unwrap().unwrap();
    let address = |name: &[u8]| symbols.iter().find(|symbol| symbol.is_named(name)).unwrap().value;
    let found = |target: &str| manifest.replacements.iter().find(|found| found.target == target).unwrap();
    let zone = found("libhost.so.1!zone.c:zone");
    assert_eq!((zone.replacement, zone.original), (address(b"zone"), Some(address(b"old_zone"))));
    let count = found("count");
    assert_eq!((count.replacement, count.original), (address(b"count"), Some(address(b"old_count"))));
    assert_eq!(found("exported").replacement, address(b"exported"));
}

#[test]
fn real_executables_are_refused() {
    let found = "an executable (position-independent)";
    let this = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(parse(&this, host()), Err(PatchFault::NotShared { found }));
}

#[test]
fn libraries_cut_at_any_byte_are_truncated() {
    for file in real() {
        let whole = parse(file, host()).unwrap();
        for len in 0..file.len() {
            match parse(&file[..len], host()) {
                Ok(cut) => assert_eq!(cut, whole, "cut at {len}"),
                Err(PatchFault::NotElf) if len < 4 => {}
                Err(PatchFault::Truncated { what, .. }) if len >= 4 => assert_ne!(what, "the file"),
                Err(other) => panic!("cut at {len}: {other:?}"),
            }
        }
    }
}

/// One change of a file.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Put(usize, u64, usize),
    Copy { from: usize, to: usize, len: usize },
    Remove(usize, usize),
}

/// Places in a file where a change means something: its headers, its tables, and anywhere.
fn places(file: &[u8]) -> Vec<(usize, usize)> {
    let image = Image::parse(file, host()).unwrap();
    let names = [format::SECTION, ".dynamic", ".rela.dyn", ".relr.dyn", ".dynsym", ".dynstr", ".shstrtab"];
    let sections = names.iter().filter_map(|name| image.section(name));
    let sections = sections.map(|section| (section.offset as usize, section.size as usize));
    let headers = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
    let rest = [(0, 64), (0, 64 + 56 * 11), (headers, file.len() - headers), (0, file.len())];
    sections.chain(rest).filter(|place| place.1 != 0).collect()
}

fn change(file: &'static [u8]) -> impl Strategy<Value = Change> {
    let anywhere = || {
        let places = prop::sample::select(places(file));
        (places, any::<prop::sample::Index>()).prop_map(|((start, len), index)| start + index.index(len))
    };
    let len = file.len() as u64;
    let value = prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            7,
            8,
            0x7fff_ffff,
            u64::MAX,
            u64::MAX - 7,
            1 << 63,
            len,
            len - 1,
            len + 1
        ]),
        0..2 * len,
        any::<u64>(),
    ];
    prop_oneof![
        3 => (anywhere(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        4 => (anywhere(), value, prop::sample::select(vec![1, 2, 4, 8])).prop_map(|(at, value, len)| {
            // Fields are aligned, so most values should be.
            Change::Put(if value & 2 == 0 { at & !(len - 1) } else { at }, value, len)
        }),
        2 => (anywhere(), anywhere(), 1..256_usize)
            .prop_map(|(from, to, len)| Change::Copy { from, to, len }),
        1 => (anywhere(), 1..64_usize).prop_map(|(at, len)| Change::Remove(at, len)),
    ]
}

fn changed(file: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut file = file.to_vec();
    for change in changes {
        let end = |at: usize, len: usize| (at + len).min(file.len());
        match *change {
            Change::Flip(at, bit) if at < file.len() => file[at] ^= 1 << bit,
            Change::Put(at, value, len) if at < file.len() => {
                let end = end(at, len);
                file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            Change::Copy { from, to, len } if from < file.len() && to < file.len() => {
                let end = end(from, len.min(file.len() - to));
                file.copy_within(from..end, to);
            }
            Change::Remove(at, len) if at < file.len() => drop(file.drain(at..end(at, len))),
            _ => {}
        }
    }
    file
}

/// Whatever is in the file, the answer is not much longer, and can be shown.
fn check(file: &[u8]) {
    let length = |names: &[String]| names.iter().map(String::len).sum::<usize>();
    match parse(file, host()) {
        Ok(manifest) => {
            let targets =
                manifest.replacements.iter().map(|replacement| replacement.target.len()).sum::<usize>();
            assert!(targets + manifest.name.len() <= file.len());
            assert!(manifest.replacements.len() * format::HEADER_SIZE <= file.len());
            assert!(length(&manifest.undefined) <= file.len() && length(&manifest.needed) <= file.len());
        }
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}

fn any_real() -> impl Strategy<Value = (&'static [u8], Vec<Change>)> {
    prop::sample::select(real().iter().map(Vec::as_slice).collect::<Vec<_>>())
        .prop_flat_map(|file| (Just(file), prop::collection::vec(change(file), 1..12)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn changed_libraries_do_no_harm((file, changes) in any_real()) {
        check(&changed(file, &changes));
    }

    #[test]
    fn changed_and_cut_libraries_do_no_harm(
        (file, changes) in any_real(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut file = changed(file, &changes);
        file.truncate(at.index(file.len() + 1));
        check(&file);
    }

    #[test]
    fn any_bytes_as_records_do_no_harm(section in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&Forge::new(section).build());
    }
}
