//! The record by which a library is handed the program's way to resume panics.

#![forbid(unsafe_code)]

use super::*;

fn attach(pointers: [u64; 2]) -> Vec<u8> {
    record(format::KIND_ATTACH, b"midflight-patch 9", pointers)
}

fn with(records: &[Vec<u8>]) -> Result<Option<u64>, PatchFault> {
    let first = [name(), replace("f", CODE, 0)];
    parsed(&[&first, records].concat()).map(|manifest| manifest.attach)
}

#[test]
fn a_library_attaches_by_one_function_or_none() {
    assert_eq!(with(&[]), Ok(None));
    assert_eq!(with(&[attach([CODE, 0])]), Ok(Some(CODE)));
    assert_eq!(with(&[attach([CODE, 0]), attach([CODE, 0])]), Ok(Some(CODE)), "one that is named twice");
    assert!(matches!(with(&[attach([CODE, 0]), attach([CODE + 1, 0])]), Err(PatchFault::BadRecord { .. })));
    assert!(matches!(with(&[attach([CODE, CELL_1])]), Err(PatchFault::BadRecord { .. })));
    for no_code in [0, DATA, 3] {
        assert!(matches!(with(&[attach([no_code, 0])]), Err(PatchFault::NotCode { .. })), "{no_code:#x}");
    }
}
