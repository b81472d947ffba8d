//! How much of real programs can be patched, and whether what is planned is right.
//!
//! [`Module`] reads an ELF file and what is around each of its functions. [`survey`] plans them all as if the module were
//! loaded at a typical address and alone in the address space, and has [`second`] read every plan again, with decoders
//! that midflight does not use. Nothing is loaded and nothing runs, so both instruction sets can be looked at anywhere.

#![forbid(unsafe_code)]

mod case;
pub mod files;
mod gaps;
mod module;
mod places;
pub mod second;
mod survey;
mod tally;

pub use case::Case;
pub use module::{Module, Symbol};
pub use places::{Home, places};
pub use survey::{Effort, survey};
pub use tally::{Class, Example, Tally};
