//! Many functions at once: form, conflicts, near memory, report. Pure.
#![forbid(unsafe_code)]

mod choose;
mod gaps;
mod place;
mod report;
mod runtime;

pub(crate) use choose::{NoForm, choose, overlap};
pub(crate) use gaps::Occupied;
pub(crate) use place::{Group, Need, group, lay_out, reachable};
pub use report::{Check, CheckedFunction};
pub use runtime::Note;
pub(crate) use runtime::{Built, Rules, compare_runtimes, is_same_runtime};
