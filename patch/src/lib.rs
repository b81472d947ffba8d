//! All that a midflight patch library needs.
//!
//! A *patch library* is a shared library that carries replacements for functions of a running program and
//! says what they replace. It depends on this crate alone, never on the engine, and is built as a `cdylib`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! midflight-patch = "0.1"
//! ```
//!
//! ```
//! use std::time::SystemTime;
//!
//! midflight_patch::patch! {
//!     name: "friendly-time",
//!
//!     /// Takes over every call of `time_service::format_time`.
//!     #[replaces("time_service::format_time", original = FORMAT_TIME)]
//!     fn friendly_time(now: SystemTime) -> String {
//!         format!("it is {}", FORMAT_TIME.get()(now))
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! [`patch!`] defines the functions as they stand and writes one record each into a section of the library,
//! so that the engine can read what the library replaces before any of its code is loaded. The section's
//! layout is documented in [`format`](mod@format); `midflight/patch.h` writes the same one from C and C++.
//!
//! In the program, [`patchable!`] defines functions that are meant to be replaced.
//!
//! # What must hold
//!
//! Nothing here can compare a replacement with its target. It must have the target's signature, ABI and the
//! same layouts of all types that it is passed: the same compiler, the same versions of the crates whose
//! types are shared. That promise is made where a patch is applied.

#[doc(hidden)]
pub mod border;
pub mod format;
mod macros;
mod original;
mod patchable;
mod pointer;
mod shield;

pub use original::Original;
#[doc(hidden)]
pub use patchable::__patchable_number;
pub use pointer::FnPointer;
