//! Whether what follows a function is run.

use crate::{InstructionSet, x86_64};

/// How the code of a function ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With an instruction behind which nothing runs: a jump, a return, a trap.
    Ends,
    /// With a call. If that returns, what follows is run.
    Call,
    /// With anything else, or it cannot be told: what follows may be run.
    Continues,
}

/// How the function with these bytes ends, all of them. It is told on x86-64 only.
pub fn ending(set: InstructionSet, bytes: &[u8]) -> Ending {
    match set {
        InstructionSet::X86_64 => x86_64::ending(bytes),
        InstructionSet::Aarch64 => Ending::Continues,
    }
}
