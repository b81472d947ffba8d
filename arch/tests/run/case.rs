//! One function to be run in place and from its trampoline.

use midflight_arch::{Form, Function, Refusal};

use super::native::State;

/// Where a function ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Behind the displaced instructions.
    Through,
    /// Where the instruction of interest goes to.
    Taken,
    /// Where another one goes to.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "a single word has no others around it"))]
    Aside,
}

/// Memory that is set before a run and compared after it.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A function, and the state that it is run in.
pub(crate) struct Case {
    pub(crate) class: String,
    pub(crate) form: Form,
    pub(crate) address: u64,
    /// Whether it is measured as one on a guarded page.
    pub(crate) guarded: bool,
    /// Its bytes: what is to be displaced, then an exit.
    pub(crate) bytes: Vec<u8>,
    /// Offset of the exit.
    pub(crate) end: usize,
    pub(crate) state: State,
    /// General registers that need not be the same, by number.
    pub(crate) free: u32,
    pub(crate) blocks: Vec<Block>,
    /// The numbers of all exits that it can reach.
    pub(crate) exits: Vec<(u64, Role)>,
}

/// A function that must be refused.
pub(crate) struct Refused {
    pub(crate) class: &'static str,
    pub(crate) form: Form,
    pub(crate) address: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_right: fn(&Refusal) -> bool,
}

/// What is to be measured.
pub(crate) fn function(address: u64, bytes: &[u8], guarded: bool) -> Function<'_> {
    Function { address, bytes, guarded }
}
