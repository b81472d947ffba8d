//! Why a function cannot be patched, or not in this form.

use crate::{Form, InstructionSet};

/// Why a site cannot be used, or not with these addresses.
///
/// Every message names the instruction and the address it is about, and what can be done if something can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Refusal {
    #[error("{set} has no {form} form of site; use another form")]
    NoSuchForm { set: InstructionSet, form: Form },

    #[error(
        "the function at {address:#x} has {size} bytes, the entry jump at {site:#x} needs {needed}: what follows is \
         not its own; compile it with -fpatchable-function-entry, or replace its callers"
    )]
    TooShort { address: u64, size: usize, site: u64, needed: usize },

    #[error("{size} bytes at {address:#x} run over the end of the address space")]
    AddressSpace { address: u64, size: usize },

    #[error(
        "the bytes {bytes:02x?} at {address:#x} are no known instruction, so branches into the site cannot be ruled \
         out; data in the function or a wrong size of its symbol are the usual reasons"
    )]
    Undecodable { address: u64, bytes: Vec<u8> },

    #[error(
        "Intel and AMD processors read `{text}` at {address:#x} differently (66 prefix on a branch); recompile"
    )]
    VendorDependent { address: u64, text: String },

    #[error(
        "`{text}` at {from:#x} goes to {to:#x}, inside the bytes that would be overwritten; compile the function \
         with -fpatchable-function-entry"
    )]
    BranchIntoSite { from: u64, to: u64, text: String },

    #[error(
        "`{text}` at {from:#x} goes back to the entry at {to:#x}: every round of the loop would enter the \
         replacement; compile the function with -fpatchable-function-entry"
    )]
    LoopsToEntry { from: u64, to: u64, text: String },

    #[error("`{text}` at {address:#x} refers to {to:#x}, a byte that would be overwritten")]
    ReadsOwnBytes { address: u64, to: u64, text: String },

    #[error(
        "`{text}` at {address:#x} is a call within the first bytes, and no other instructions can stand for it: returns are \
         compared with a shadow stack, or it is of an unknown kind; compile the function with -fpatchable-function-entry"
    )]
    Call { address: u64, text: String },

    #[error("`{text}` at {address:#x} is part of a hardware transaction and cannot be moved")]
    Transaction { address: u64, text: String },

    #[error("`{text}` at {address:#x} is a far transfer of control and cannot be moved")]
    FarTransfer { address: u64, text: String },

    #[error(
        "`{text}` at {address:#x} is privileged, or enters the system in a way that depends on its address"
    )]
    Privileged { address: u64, text: String },

    #[error(
        "there is a breakpoint at {address:#x} (`{text}`); remove it (a debugger, a uprobe) and try again"
    )]
    Breakpoint { address: u64, text: String },

    #[error(
        "`{text}` at {address:#x} ends the code after {covered} of the {needed} bytes that would be overwritten; what \
         follows is reached by nothing that is known, and may be data"
    )]
    EndsEarly { address: u64, text: String, covered: usize, needed: usize },

    #[error("`{text}` at {address:#x} cannot be moved: {reason}")]
    Unmovable { address: u64, text: String, reason: &'static str },

    #[error(
        "`{text}` at {from:#x} cannot reach {to:#x}: the distance is {distance:#x}, possible are {backward:#x} to \
         {forward:#x}; a place nearer to the function is needed",
        distance = Signed(*distance), backward = Signed(i128::from(*backward)), forward = Signed(i128::from(*forward))
    )]
    OutOfReach { text: String, from: u64, to: u64, distance: i128, backward: i64, forward: i64 },

    #[error("{what} ({address:#x}) is not a multiple of {alignment}")]
    Misaligned { what: String, address: u64, alignment: u64 },

    #[error("the {what} at {address:#x} overlaps the {other} at {other_address:#x}")]
    Overlap { what: &'static str, address: u64, other: &'static str, other_address: u64 },

    #[error(
        "`{text}` was to be at {address:#x}, but decoding again gave `{found}`; please report this as a bug"
    )]
    SelfCheck { address: u64, text: String, found: String },

    #[error(
        "the function may also be entered at {address:#x}, inside the bytes that would be overwritten at {site:#x}"
    )]
    EnteredAt { site: u64, address: u64 },

    #[error(
        "the first instruction at {site:#x} has {len} bytes, so a whole jump displaces no more than a punned one would"
    )]
    NothingToPun { site: u64, len: usize },

    #[error("of the {needed} bytes at {site:#x} only {known} are known")]
    UnknownBytes { site: u64, known: usize, needed: usize },

    #[error(
        "a punned jump at {site:#x} leads to {low:#x}..={high:#x} because of the bytes that follow it, not to \
         {island:#x}"
    )]
    NotAPlaceOfPun { site: u64, island: u64, low: u64, high: u64 },

    #[error("a punned jump at {site:#x} leads to {low:#x}..={high:#x}, where no memory is free")]
    NoIslandPlace { site: u64, low: u64, high: u64 },

    #[error("no padding of 5 bytes is within reach of a jump of two bytes at {site:#x}")]
    NoPadding { site: u64 },

    #[error(
        "`{text}` at {address:#x} is a call within the first bytes: its return address {to:#x} is inside the bytes that \
         would be overwritten; compile the function with -fpatchable-function-entry"
    )]
    ReturnsIntoSite { address: u64, to: u64, text: String },

    #[error(
        "the bytes at {from:#x} follow others that are no known instruction; if they are a branch and no data, it goes \
         to {to:#x}, to the entry or inside the bytes that would be overwritten"
    )]
    PerhapsIntoSite { from: u64, to: u64 },
}

/// A number in hexadecimal with its sign in front.
struct Signed(i128);

impl std::fmt::LowerHex for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "+" };
        write!(f, "{sign}{:#x}", self.0.unsigned_abs())
    }
}
