//! The patch library of `time_service`: tells the time in a friendlier form.
//!
//! Its two versions stand for two builds of one library, on one day and on the next. A person would edit the
//! source; the example, where nobody is there to do that, turns on a feature.
//!
//! A text made here is freed by the service. That is sound because both use the system's allocator, as Rust
//! programs and libraries do that do not choose another one.

use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(not(feature = "second"))]
mod first;
#[cfg(feature = "second")]
mod second;

/// Whole days since 1970-01-01, and the second of the day, both in UTC. Earlier times count as that one.
fn day_and_second(time: SystemTime) -> (u64, u64) {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (seconds / 86_400, seconds % 86_400)
}
