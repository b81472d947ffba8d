//! Patch libraries that were built with an older midflight-patch of the same format version go on working.
//!
//! `tests/fixtures/format_v1` holds what the compilers made of version 0.1.0, as assembly: of
//!
//! ```
//! midflight_patch::patch! {
//!     name: "built-with-0.1.0",
//!     #[replaces("live_format_v1", original = ORIGINAL)]
//!     extern "C" fn add_a_thousand(value: u64) -> u64 {
//!         ORIGINAL.try_get().map_or(0, |original| original(value)) + 1000
//!     }
//! }
//! ```
//!
//! by rustc (1.95 for x86-64, 1.96 for aarch64) with `-C opt-level=z -C panic=abort --emit asm`, and of the same in C by
//! gcc 12 with `-O2 -fPIC -S`.
//! They are never made anew: when the format changes in a way that breaks them, its version has to change.

use crate::adds;
use crate::support::fixtures::Folder;
use crate::support::patient;
use midflight::Patch;

adds! {
    live_format_v1 + 1;
    live_format_doc + 1;
    live_format_v1_c + 1;
}

#[cfg(target_arch = "x86_64")]
const RUST: &str = include_str!("../fixtures/format_v1/rust_x86_64.s");
#[cfg(target_arch = "aarch64")]
const RUST: &str = include_str!("../fixtures/format_v1/rust_aarch64.s");
#[cfg(target_arch = "x86_64")]
const C: &str = include_str!("../fixtures/format_v1/c_x86_64.s");
#[cfg(target_arch = "aarch64")]
const C: &str = include_str!("../fixtures/format_v1/c_aarch64.s");

#[test]
fn a_library_of_version_1_in_rust_works() {
    works("libold_rust.so", RUST, "built-with-0.1.0", live_format_v1);
}

#[test]
fn a_library_of_version_1_in_c_works() {
    works("libold_c.so", C, "built-with-0.1.0-in-c", live_format_v1_c);
}

/// The document is what others write libraries by.
const DOCUMENT: &str = include_str!("../../docs/patch-format.md");

#[test]
fn the_library_of_the_document_works() {
    let machine = if cfg!(target_arch = "x86_64") { "x86-64" } else { "aarch64" };
    let (_, rest) = DOCUMENT.split_once(&format!("```asm {machine}\n")).unwrap();
    let (assembly, _) = rest.split_once("```").unwrap();
    works("libthousand.so", assembly, "thousand", live_format_doc);
}

#[test]
fn the_tables_of_the_document_say_what_the_reader_reads() {
    use midflight_patch::format;
    let rows = |first: &str| -> Vec<Vec<String>> {
        let (_, table) = DOCUMENT.split_once(first).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
            .collect()
    };
    let fields = rows("| offset | bytes | field | value |");
    let offset = |field: &str| {
        let row = fields.iter().find(|row| row[3] == field).unwrap();
        (row[1].parse::<usize>().unwrap(), row[4].clone())
    };
    assert_eq!(offset("magic"), (0, String::from_utf8(format::MAGIC.to_vec()).unwrap()));
    assert_eq!(offset("version"), (4, format::VERSION.to_string()));
    assert_eq!(offset("pointer A").0, format::POINTER_A);
    assert_eq!(offset("pointer B").0, format::POINTER_B);
    assert_eq!(offset("text").0, format::HEADER_SIZE);
    let mut bytes = [0; format::HEADER_SIZE];
    bytes[offset("kind").0] = 7;
    bytes[offset("size").0] = 8;
    bytes[offset("text length").0] = 9;
    let header = format::Header::read(&bytes);
    assert_eq!((header.kind, header.size, header.text_len), (7, 8, 9));
    let kinds: Vec<_> =
        rows("| kind | name | text").iter().map(|row| (row[1].parse().unwrap(), row[2].clone())).collect();
    let expected =
        [(format::KIND_NAME, "name"), (format::KIND_REPLACE, "replace"), (format::KIND_ATTACH, "attach")];
    assert_eq!(kinds, expected.map(|(kind, name)| (kind, name.to_owned())));
    assert!(DOCUMENT.contains(&format!("`{}`", format::SECTION)));
    assert!(DOCUMENT.contains(&format!("`{}`", format::ENGINE_SECTION)));
}

fn works(library: &str, assembly: &str, name: &str, target: extern "C" fn(u64) -> u64) {
    let folder = Folder::new();
    let patch = Patch::open(folder.assembled(library, assembly)).unwrap();
    assert_eq!(patch.name(), name);
    patch.check().unwrap();
    // SAFETY: same type.
    let applied = unsafe { patch.apply(&patient()) }.unwrap();
    assert_eq!(target(1), 1002);
    applied.rollback_with(&patient()).unwrap();
    assert_eq!(target(1), 2);
}
