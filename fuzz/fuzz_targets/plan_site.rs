//! Any function at any place with anything around it: no panic, and a second decoder agrees with every plan that is given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use midflight_coverage::Case;

fuzz_target!(|bytes: &[u8]| {
    let Some(case) = Case::from_bytes(bytes) else { return };
    if let Err(doubt) = case.check() {
        panic!("{doubt}\n{case:x?}");
    }
});
