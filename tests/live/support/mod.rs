//! What the tests stand on.

pub mod alloc;
pub mod child;
pub mod fixtures;
pub mod watchdog;

use midflight::Options;
use std::time::Duration;

/// For commits whose speed is not the point: tests share the commit lock, and machines are slow.
pub fn patient() -> Options {
    Options::new().deadline(Duration::from_secs(120))
}

/// The bytes of this process at `address`.
///
/// # Safety
/// They are mapped and readable.
pub unsafe fn bytes_at(address: usize, len: usize) -> Vec<u8> {
    // SAFETY: the caller's promise; volatile, since other threads may be writing code.
    (0..len).map(|offset| unsafe { ((address + offset) as *const u8).read_volatile() }).collect()
}
