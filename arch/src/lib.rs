//! What instructions are.
//!
//! Given the bytes of one function and its address, this crate says which bytes at its entry can be
//! overwritten with a jump (the *site*), and makes the bytes of the jump, of the *island* it may go through and
//! of the *trampoline* that keeps the original callable. All of it is arithmetic over bytes: nothing is read
//! from or written to memory, and both instruction sets work on every host.
//!
//! It is done in two steps. [`measure`] needs nothing but the function and says for each [`Form`] of site which
//! instructions are displaced, or why it cannot be used. [`encode`] takes the places that were found in memory
//! and gives the bytes of a [`SitePlan`]. What cannot be moved without changing its meaning is a [`Refusal`]
//! that names the instruction; nothing is guessed.
//!
//! ```
//! use midflight_arch::{Form, Function, InstructionSet, Places, Refusal, encode, measure};
//!
//! // xor eax, eax; cmp dword ptr [rip+0x1000], 5; ret
//! let bytes = [0x31, 0xc0, 0x83, 0x3d, 0x00, 0x10, 0x00, 0x00, 0x05, 0xc3];
//! let function = Function { address: 0x40_1000, bytes: &bytes, guarded: false };
//!
//! let measured = measure(InstructionSet::X86_64, &function);
//! let displaced = measured.usable(Form::Slot).map_err(Refusal::clone)?;
//! assert_eq!((displaced.overwritten, displaced.span), (6, 9));
//!
//! let places = Places { trampoline: 0x50_0000, island: 0x50_0040, slot: 0x50_1000 };
//! let plan = encode(&measured, Form::Slot, &places, 0x7f00_0000_0000)?;
//! assert_eq!(plan.entry, [0xff, 0x25, 0xfa, 0xff, 0x0f, 0x00]);
//! # Ok::<(), Refusal>(())
//! ```
//!
//! What it does not see: branches from other symbols into the site (from a landing pad of an exception, say), and whether
//! a call of the function was inlined. [`Measure::has_indirect_jump`] tells when there may be a jump table, [`jumps`] finds
//! those that it knows, and [`branches_into`] tells where the code of a `.cold` part goes: [`choose`] takes such entrances.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod aarch64;
mod choose;
mod ending;
mod measure;
mod reach;
mod refusal;
mod site;
mod tables;
mod trace;
mod x86_64;

pub use choose::{Choice, choose};
pub use ending::{Ending, ending};
pub use measure::{Displaced, DisplacedInstruction, Measure, island_window, measure, measure_in};
pub use refusal::Refusal;
pub use site::{
    Around, Form, Function, InstructionSet, Overwritten, PcMap, Places, SitePlan, encode, island_room,
    padding, slot_room, wants_padding,
};
pub use tables::{Jumps, Table, TableKind, branches_into, jumps};
pub use trace::{Trace, trace};
