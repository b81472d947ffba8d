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
//! by rustc 1.95 with `-C opt-level=z -C panic=abort --emit asm`, and of the same in C by gcc 12 with `-O2 -fPIC -S`.
//! They are never made anew: when the format changes in a way that breaks them, its version has to change.

use crate::support::fixtures::Folder;
use crate::support::patient;
use crate::target;
use midflight::Patch;

target! {
    fn live_format_v1(u64) -> u64 { "lea rax, [rdi + 1]", "nop", "nop", "ret" }
    fn live_format_v1_c(u64) -> u64 { "lea rax, [rdi + 1]", "nop", "nop", "ret" }
}

#[test]
fn a_library_of_version_1_in_rust_works() {
    works(
        "libold_rust.so",
        include_str!("../fixtures/format_v1/rust_x86_64.s"),
        "built-with-0.1.0",
        live_format_v1,
    );
}

#[test]
fn a_library_of_version_1_in_c_works() {
    works(
        "libold_c.so",
        include_str!("../fixtures/format_v1/c_x86_64.s"),
        "built-with-0.1.0-in-c",
        live_format_v1_c,
    );
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
