//! midflight changes the functions of a process while it runs.
//!
//! A program links it in, opens a *patch library*, and every call of each old function goes to the new
//! one: no restart, no lost connection, no lost state. All of one patch switches at once or nothing
//! does, no thread ever runs a half-written instruction, and it can be rolled back.
//!
//! ```no_run
//! use midflight::{Options, Patch};
//!
//! # fn main() -> midflight::Result<()> {
//! let patch = Patch::open("libfriendly_time.so")?; // parsed; none of its code has run
//! println!("{}", patch.check()?); // dry run: targets found, sites measured
//! // SAFETY: the patch was built for this program; its replacements have their targets' types.
//! let applied = unsafe { patch.apply(&Options::new())? }; // all targets switch, or none
//! println!("{applied}"); // friendly-time: 1 function, 9 threads held 41 µs
//! applied.rollback()?;
//! # Ok(())
//! # }
//! ```
//!
//! What you must do: keep the contract of [`Patch::apply`]; it is `unsafe` because nothing can check that
//! a replacement fits its target. Define functions that you mean to replace with [`patchable!`]: otherwise the
//! compiler has used its knowledge of the old body in their callers.
//!
//! What it is not for: changing the layout of live data, functions that the compiler has inlined, processes
//! other than its own.
//!
//! A patch library is written with the crate `midflight-patch` or the C header `midflight/patch.h`; it never
//! links this crate.

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("midflight works on Linux on x86-64 and (64-bit, little-endian) aarch64 only");

mod applied;
mod capabilities;
mod change;
mod elf;
mod error;
mod held;
mod loader;
mod manifest;
mod memory;
mod options;
mod patch;
mod plan;
mod process;
mod proof;
#[cfg(feature = "serde")]
mod serialize;
mod sys;
mod threads;
mod transaction;
#[cfg(feature = "watch")]
mod watch;

#[doc(hidden)]
pub mod fault;

pub use applied::{Applied, applied};
pub use capabilities::{Capabilities, Capability, Support, capabilities, capabilities_with};
pub use change::{Hook, Target, Transaction, replace, replace_with};
pub use error::{Candidate, Error, NotSafe, PatchFault, Result, RuntimeDifference, ThreadName};
pub use loader::ForeignPanic;
pub use midflight_arch::{Form, Refusal};
pub use midflight_patch::{FnPointer, Original, patchable};
pub use options::Options;
pub use patch::Patch;
pub use plan::{Check, CheckedFunction, Note};
pub use transaction::Held;
#[cfg(feature = "watch")]
pub use watch::{Watch, WatchEvent};

pub(crate) use midflight_arch as arch;

/// Tells a patch library that links the engine by mistake from one that does not: it would have a second
/// registry.
#[used]
#[unsafe(link_section = "midflight_engine")]
static ENGINE: [u8; 5] = *b"0.1.0";

/// The README's Rust is compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So is that of the page about targets.
#[cfg(doctest)]
#[doc = include_str!("../docs/targets.md")]
struct Targets;

/// For the fuzzer.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    /// Reads any bytes as a patch file.
    pub fn parse_patch(file: &[u8]) {
        let _ = crate::manifest::parse(file, crate::transaction::MACHINE);
    }
}
