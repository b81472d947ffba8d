//! Any bytes as a patch file: no panic, no read out of bounds, no allocation out of proportion.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    midflight::fuzzing::parse_patch(file);
});
