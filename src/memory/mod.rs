//! Near memory, and the writer of code.

mod coherence;
mod live;
mod near;
mod probe;
mod puns;
mod script;
mod writer;

pub(crate) use coherence::{barrier_outlook, has_barrier, order_everywhere};
pub(crate) use live::write_running;
pub(crate) use near::{NearBlock, publish};
pub(crate) use probe::may_become_executable;
pub(crate) use puns::PunIslands;
pub(crate) use writer::{CodeChange, PointerChange, WriteFailure, Writer};
