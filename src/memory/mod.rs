//! Near memory, and the writer of code.

mod coherence;
mod near;
mod probe;
mod script;
mod writer;

pub(crate) use coherence::{barrier_outlook, has_barrier, order_everywhere};
pub(crate) use near::{NearBlock, publish};
pub(crate) use probe::may_become_executable;
pub(crate) use writer::{CodeChange, PointerChange, WriteFailure, Writer};
