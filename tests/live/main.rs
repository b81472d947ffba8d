//! The live behaviour: midflight on its own process. One module a promise.
//!
//! Tests run in one process, many threads, any order. So each has targets of its own, and what changes the
//! whole process (faults, checksums, storms) runs in a child that is this binary again (`support::child`).
//! The allocator aborts when a committing thread allocates while it holds others, in every test.

#![allow(unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "calls of libc in a row have one reason")]
#![allow(clippy::unwrap_used, reason = "a test that meets an error fails")]

mod around;
mod bad_input;
mod by_hand;
mod bytes;
mod capabilities;
mod compile_fail;
mod contract;
mod copies;
mod copies_of_midflight;
mod entrances;
mod errors;
mod faults;
mod fork;
mod format;
// Instructions of several lengths.
#[cfg(target_arch = "x86_64")]
mod forms;
mod guide;
mod held;
mod held_code;
mod identity;
mod interposed;
// Only aarch64 has them on user's pages.
#[cfg(target_arch = "aarch64")]
mod landing_pads;
mod loading;
mod many;
mod modules;
mod names;
mod optimiser;
mod optimiser_in_c;
mod panics;
mod patch_libraries;
mod prologues;
mod runtimes;
mod serialized;
mod stacking;
mod storm;
mod support;
mod targets;
mod watch;
mod watch_ends;
mod watch_trust;

#[global_allocator]
static ALLOCATOR: support::alloc::Guarded = support::alloc::Guarded;
