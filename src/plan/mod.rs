//! Many functions at once: conflicts, near memory, report. Pure.
#![forbid(unsafe_code)]

mod conflicts;
mod gaps;
mod place;
mod puns;
mod report;
mod runtime;

pub(crate) use conflicts::{Claims, apart};
pub(crate) use gaps::Occupied;
pub(crate) use place::{Group, Need, group, lay_out, reachable};
pub(crate) use puns::{PAGE as PUN_PAGE, PunPages};
pub use report::{Check, CheckedFunction};
pub use runtime::Note;
pub(crate) use runtime::{Built, Rules, compare_runtimes, is_same_runtime};
