//! Near memory, and the writer of code.

mod coherence;
mod near;
mod script;
mod writer;

pub(crate) use coherence::has_barrier;
pub(crate) use near::{NearBlock, publish};
pub(crate) use writer::{CodeChange, PointerChange, WriteFailure, Writer};
