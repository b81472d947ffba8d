//! What a function is like as a target: for each form of site the displaced instructions, or why it cannot be used.

use std::ops::RangeInclusive;

use crate::reach::{self, Need};
use crate::{Around, Form, Function, InstructionSet, Refusal, aarch64, x86_64};

/// Says for each form which instructions are displaced, or why it cannot be used.
///
/// Needs no address but the function's own, and takes any bytes. Of what is around the function nothing is known; see
/// [`measure_in`].
pub fn measure(set: InstructionSet, function: &Function<'_>) -> Measure {
    measure_in(set, function, &Around::default())
}

/// As [`measure`], with what is known of the bytes around the function: there are more forms then.
pub fn measure_in(set: InstructionSet, function: &Function<'_>, around: &Around<'_>) -> Measure {
    match set {
        InstructionSet::X86_64 => x86_64::measure(function, around),
        InstructionSet::Aarch64 => aarch64::measure(function, around),
    }
}

/// The instructions that the overwritten bytes belong to.
#[derive(Debug, Clone)]
pub struct Displaced {
    /// Bytes of the entry jump.
    pub overwritten: usize,
    /// Bytes of the displaced instructions: at least those overwritten, unless the function ends before.
    pub span: usize,
    /// What they are, in their order.
    pub instructions: Vec<DisplacedInstruction>,
    /// The bytes of the displaced instructions, and of the padding that is overwritten behind them.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of the trampoline.
    pub(crate) room: usize,
    /// Whether execution goes on behind the last one, so that the trampoline has to jump back.
    pub(crate) falls_through: bool,
    /// Whether the first one can be interrupted half done, with pc at the site.
    pub(crate) repeatable: bool,
    /// What the trampoline must reach, and be reached by.
    pub(crate) needs: Vec<Need>,
    /// Branches back to the entry that are led to the trampoline.
    pub(crate) loops: Vec<x86_64::Loop>,
    pub(crate) x86: x86_64::Kind,
}

impl Displaced {
    fn has_inside(&self) -> bool {
        self.instructions.len() != 1 || self.repeatable || self.overwritten > self.span
    }
}

/// One displaced instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisplacedInstruction {
    /// Bytes from the site.
    pub offset: usize,
    /// Its length in bytes.
    pub len: usize,
    /// As an assembler would write it.
    pub text: String,
}

/// What [`measure`] found out about a function.
#[derive(Debug, Clone)]
pub struct Measure {
    pub(crate) entry: Entry,
    pub(crate) indirect_jump: bool,
    pub(crate) direct: Result<Displaced, Refusal>,
    pub(crate) slot: Result<Displaced, Refusal>,
    pub(crate) island: Result<Displaced, Refusal>,
    pub(crate) punned: Result<Displaced, Refusal>,
    pub(crate) relay: Result<Displaced, Refusal>,
    pub(crate) absolute: Result<Displaced, Refusal>,
}

/// What an entry jump depends on, apart from where it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) set: InstructionSet,
    /// The first byte to be overwritten.
    pub(crate) site: u64,
    /// Whether the jump begins with a landing pad, in place of a displaced one.
    pub(crate) pad: bool,
    pub(crate) x86: x86_64::Extras,
}

impl Entry {
    pub(crate) fn jump(&self, form: Form, to: u64) -> Result<Vec<u8>, Refusal> {
        match self.set {
            InstructionSet::X86_64 => x86_64::entry_jump(self, form, to),
            InstructionSet::Aarch64 => aarch64::entry_jump(form, self.site, self.pad, to),
        }
    }

    /// How many bytes from the site on must stay, of a site that overwrites this many.
    pub(crate) fn kept(&self, form: Form, overwritten: usize) -> usize {
        let pun = self.x86.pun.filter(|_| form == Form::Punned);
        overwritten.max(pun.map_or(0, |pun| pun.len()))
    }
}

impl Measure {
    /// The instruction set it was measured for.
    pub fn set(&self) -> InstructionSet {
        self.entry.set
    }

    /// Address of the first byte to be overwritten. A landing pad before it stays; one that does more than that
    /// (`paciasp` on a guarded page) is displaced, and the entry jump begins with another.
    pub fn site(&self) -> u64 {
        self.entry.site
    }

    /// The bytes of an entry jump alone, whether or not the form can be used: `to` is the replacement (direct), the slot
    /// (slot) or the island (island).
    pub fn entry_jump(&self, form: Form, to: u64) -> Result<Vec<u8>, Refusal> {
        self.entry.jump(form, to)
    }

    /// Where the island of a punned jump may start; `None` if there is no such jump.
    pub fn pun_places(&self) -> Option<RangeInclusive<u64>> {
        self.punned.as_ref().ok().and(self.entry.x86.pun)?.places().ok()
    }

    /// What a site of the form overwrites apart from its entry jump, address and length: padding near the function, and
    /// branches back to its entry.
    pub fn overwrites_too(&self, form: Form) -> Vec<(u64, usize)> {
        let Ok(displaced) = self.usable(form) else { return Vec::new() };
        let loops = displaced.loops.iter().flat_map(x86_64::Loop::ranges);
        let relay = self.entry.x86.relay.filter(|_| form == Form::Relay);
        loops.chain(relay.map(|relay| (relay.at, relay.now.len()))).collect()
    }

    /// Whether a thread can be inside the bytes that the form overwrites: not if they belong to one instruction that is
    /// never found half done.
    pub fn has_inside(&self, form: Form) -> bool {
        self.usable(form).map_or(true, Displaced::has_inside)
    }

    /// Whether one aligned store puts the entry jump of the form there, for threads at any place: it has no inside, and is
    /// one instruction that lies in one word of 8 bytes (x86-64). A processor that fetches it meanwhile finds the old
    /// bytes or the new ones: AMD says so of naturally aligned words of 8 bytes (APM volume 2, 7.6.1, "Cross-Modifying
    /// Code"); Intel promises atomic stores (SDM volume 3, 10.1.1) and leaves such changes to the model (10.1.3), none of
    /// which is known to do otherwise. On aarch64 both must be instructions of the list in Arm ARM, B2.2.5.
    pub fn changes_at_once(&self, form: Form) -> bool {
        !self.has_inside(form) && self.reverts_at_once(form)
    }

    /// Whether one such store takes the entry jump of the form away again. Nobody is inside of a jump.
    pub fn reverts_at_once(&self, form: Form) -> bool {
        let Ok(displaced) = self.usable(form) else { return false };
        let Entry { set, site, pad, .. } = self.entry;
        let last = site + displaced.overwritten as u64 - 1;
        match set {
            InstructionSet::X86_64 => site / 8 == last / 8 && self.overwrites_too(form).is_empty(),
            // What may be changed while it runs depends on the instructions.
            InstructionSet::Aarch64 => !pad && aarch64::may_become_branch(&displaced.bytes),
        }
    }

    /// How many bytes from the site on must stay what they are while a site of the form is on: more than are
    /// overwritten if it is punned.
    pub fn kept(&self, form: Form) -> usize {
        self.entry.kept(form, self.usable(form).map_or(0, |displaced| displaced.overwritten))
    }

    /// Whether the function jumps to an address that it computes, as with a jump table. Where such a jump
    /// goes is not known. (A jump through a fixed pointer, `jmp [rip+x]`, does not count.)
    pub fn has_indirect_jump(&self) -> bool {
        self.indirect_jump
    }

    /// The displaced instructions of a form, or why it cannot be used.
    pub fn usable(&self, form: Form) -> Result<&Displaced, &Refusal> {
        match form {
            Form::Direct => self.direct.as_ref(),
            Form::Slot => self.slot.as_ref(),
            Form::Island => self.island.as_ref(),
            Form::Punned => self.punned.as_ref(),
            Form::Relay => self.relay.as_ref(),
            Form::Absolute => self.absolute.as_ref(),
        }
    }

    /// Bytes that the trampoline needs at most; 0 if the form cannot be used.
    pub fn trampoline_room(&self, form: Form) -> usize {
        self.usable(form).map_or(0, |d| d.room)
    }

    /// Addresses at which a near block of `len` bytes may start so that everything in it is in range, wherever
    /// in it trampoline, island and slot are put; `None` if there are none.
    ///
    /// A direct or slot site can be switched to the island form later without leaving this range. The island of a punned
    /// jump is not in the block: see [`pun_places`](Self::pun_places) and [`island_window`].
    pub fn window(&self, form: Form, len: u64) -> Option<RangeInclusive<u64>> {
        let displaced = self.usable(form).ok()?;
        let Entry { set, site, pad, .. } = self.entry;
        let entries = match set {
            InstructionSet::X86_64 => x86_64::entry_needs(&self.entry, form),
            InstructionSet::Aarch64 => {
                let from = aarch64::branch_of_entry(site, pad);
                aarch64::entry_reaches().iter().map(|&reach| Need::Into { from, reach }).collect()
            }
        };
        reach::window(entries.into_iter().chain(displaced.needs.iter().copied()), len)
    }
}

/// Addresses at which a near block of `len` bytes may start so that an island at `island` outside of it reaches slots
/// anywhere in it.
pub fn island_window(set: InstructionSet, island: u64, len: u64) -> Option<RangeInclusive<u64>> {
    match set {
        InstructionSet::X86_64 => reach::window([x86_64::island_need(island)], len),
        // Islands are in the block.
        InstructionSet::Aarch64 => None,
    }
}
