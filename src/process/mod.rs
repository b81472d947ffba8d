//! The running image: what is loaded where, and which function is meant.

mod around;
mod copies;
mod entrances;
mod guard;
mod image;
mod index;
mod loaded;
mod maps;
mod modules;
mod names;
mod remember;
mod resolve;

pub(crate) use around::Surroundings;
pub(crate) use copies::Policy;
pub(crate) use loaded::build_at;
pub(crate) use maps::{Mapping, MemoryMap};
pub(crate) use modules::{ModuleHold, bias_of, executable, keep_loaded};
pub(crate) use remember::Remembered;
pub(crate) use resolve::{HeldTarget, Resolver, Target};
