//! What the tests stand on.

pub mod alloc;
pub mod child;
pub mod emulator;
pub mod fixtures;
pub mod watchdog;
pub mod watched;

use midflight::{Error, Options};
use std::time::Duration;

/// For commits whose speed is not the point: tests share the commit lock, and machines are slow.
pub fn patient() -> Options {
    emulator::options().deadline(Duration::from_secs(120))
}

/// Commits with longer and longer deadlines until the error is the one that is `wanted`: on a slow machine a
/// short deadline may pass before what the test has prepared is met.
pub fn error_in_time(
    commit: impl Fn(&Options) -> midflight::Result<midflight::Applied>,
    wanted: impl Fn(&Error) -> bool,
) -> Error {
    let mut deadline = Duration::from_millis(200);
    loop {
        let error = commit(&emulator::options().deadline(deadline)).map(drop).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        if wanted(&error) || deadline > Duration::from_secs(30) {
            return error;
        }
        deadline *= 2;
    }
}

/// The bytes of this process at `address`.
///
/// # Safety
/// They are mapped and readable.
pub unsafe fn bytes_at(address: usize, len: usize) -> Vec<u8> {
    // SAFETY: the caller's promise; volatile, since other threads may be writing code.
    (0..len).map(|offset| unsafe { ((address + offset) as *const u8).read_volatile() }).collect()
}
