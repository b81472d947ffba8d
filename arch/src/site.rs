//! A request becomes a site plan: the public types, and the choice of instruction set.

use std::fmt;

use crate::measure::Entry;
use crate::{Displaced, Measure, Refusal, aarch64, x86_64};

/// The instruction sets that midflight knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstructionSet {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm, little-endian.
    Aarch64,
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// A whole function: the run-time address of its first byte, and exactly its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Function<'a> {
    /// Where the first byte is when the function runs.
    pub address: u64,
    /// All of its bytes, as many as its symbol says.
    pub bytes: &'a [u8],
    /// Whether its page is mapped with `PROT_BTI`, so that indirect calls may only land on a landing pad. There is no
    /// such protection on x86-64.
    pub guarded: bool,
}

/// What is known of the bytes around a function. Nothing by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// The bytes right behind the function, as far as they are known: whoever's they are.
    pub behind: &'a [u8],
    /// How many of them are padding: NOP and INT3 instructions that belong to no symbol and to no unwind entry, so that
    /// nothing runs them.
    pub padding: usize,
    /// Further such padding near the function: the run-time address, and the bytes.
    pub paddings: &'a [(u64, &'a [u8])],
    /// Whether returns are compared with a shadow stack, so that a call cannot be made by other instructions.
    pub shadow_stack: bool,
}

/// How an entry jump gets to the replacement; the better ones first ([`choose`](crate::choose)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Form {
    /// A branch straight to the replacement.
    Direct,
    /// A jump through the slot.
    Slot,
    /// A branch to an island, which jumps through the slot.
    Island,
    /// A branch to an island, of which only the bytes of the first instruction are written; the bytes that follow stay,
    /// and say where the island has to be.
    Punned,
    /// A branch of two bytes to padding near the function, and there one to an island.
    Relay,
    /// A jump to an island at any distance, whose address stands behind it.
    Absolute,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Slot => "slot",
            Self::Island => "island",
            Self::Punned => "punned",
            Self::Relay => "relay",
            Self::Absolute => "absolute",
        })
    }
}

/// Where the parts of a site are to be in memory.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// The trampoline, [`Measure::trampoline_room`] bytes.
    pub trampoline: u64,
    /// The island, [`island_room`] bytes.
    pub island: u64,
    /// The slot, [`slot_room`] bytes, aligned to them.
    pub slot: u64,
}

/// The bytes of a site and of what belongs to it.
#[derive(Debug, Clone)]
pub struct SitePlan {
    /// The form it was encoded for.
    pub form: Form,
    /// Address of the first overwritten byte.
    pub site: u64,
    /// The bytes before, as many as in `entry`.
    pub original: Vec<u8>,
    /// The entry jump.
    pub entry: Vec<u8>,
    /// What else is overwritten.
    pub others: Vec<Overwritten>,
    /// The displaced instructions, relocated, then a jump back.
    pub trampoline: Vec<u8>,
    /// The island; encoded for every form, so that a site can change to it without allocating.
    pub island: Vec<u8>,
    /// Which address in the trampoline stands for which in the site.
    pub pc_map: PcMap,
    /// As [`Measure::has_inside`] of its form.
    pub has_inside: bool,
    /// As [`Measure::changes_at_once`] of its form.
    pub changes_at_once: bool,
    /// As [`Measure::reverts_at_once`] of its form.
    pub reverts_at_once: bool,
    pub(crate) jump: Entry,
}

/// Bytes that a site overwrites apart from its entry jump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overwritten {
    /// Address of the first byte.
    pub at: u64,
    /// The bytes before.
    pub original: Vec<u8>,
    /// The new ones: one instruction.
    pub bytes: Vec<u8>,
    /// Whether nothing ran there before. Else the old bytes are one instruction as well.
    pub is_padding: bool,
}

impl SitePlan {
    /// The entry jump alone, as long as the plan's, for a site that is on and is to go elsewhere: `to` is the
    /// replacement (direct), the slot (slot) or the island (island).
    pub fn entry_jump(&self, form: Form, to: u64) -> Result<Vec<u8>, Refusal> {
        self.jump.jump(form, to)
    }

    /// The bytes from the site on that must be there for it to be put on: those that it overwrites, and those that a
    /// punned jump uses.
    pub fn needs(&self) -> &[u8] {
        match &self.jump.x86.pun {
            Some(pun) if self.form == Form::Punned => pun.now(),
            _ => &self.original,
        }
    }

    /// How many bytes from the site on must stay what they are while it is on.
    pub fn kept(&self) -> usize {
        self.jump.kept(self.form, self.entry.len())
    }
}

/// Which address in the trampoline stands for which in the function.
#[derive(Debug, Clone)]
pub struct PcMap {
    /// Old and new address of each displaced instruction, sorted.
    pub(crate) entries: Vec<(u64, u64)>,
    /// Further addresses in the trampoline, and where the function would be there: new, old.
    pub(crate) beyond: Vec<(u64, u64)>,
    pub(crate) site: u64,
    pub(crate) overwritten: u64,
    pub(crate) repeatable: bool,
    pub(crate) inside_jump: Option<(u64, u64)>,
}

impl PcMap {
    /// The place in the trampoline that matches the displaced instruction at `pc`.
    pub fn forward(&self, pc: u64) -> Option<u64> {
        self.entries.iter().find(|(old, _)| *old == pc).map(|&(_, new)| new)
    }

    /// The place in the function that matches an instruction at `pc` in the trampoline. The jump back has one, too, and
    /// so have the parts of one that had to be written as several, as far as the function is ever in such a state. It is
    /// not between the parts of a call through a pointer or the link register, or while a register is on the stack for the address of
    /// something far away.
    pub fn back(&self, pc: u64) -> Option<u64> {
        let entry = self.entries.iter().find(|(_, new)| *new == pc).map(|&(old, _)| old);
        entry.or_else(|| self.beyond.iter().find(|(new, _)| *new == pc).map(|&(_, old)| old))
    }

    /// Whether a thread at `pc` must not go on when the entry jump is written or taken away: `pc` is strictly
    /// inside the overwritten bytes, or at the first of them when the instruction there may be half done (a
    /// repeated string instruction, a gather or scatter, a tile load), or in a loop that was displaced as a whole.
    pub fn inside(&self, pc: u64) -> bool {
        let offset = pc.wrapping_sub(self.site);
        offset < self.overwritten && (offset > 0 || self.repeatable)
    }

    /// The second instruction of an entry jump that is two, and where a thread that stands there goes on when the jump
    /// is taken away. The first is a landing pad then and has done nothing, so the thread begins at the entry again;
    /// what was displaced has not run yet.
    pub fn inside_jump(&self) -> Option<(u64, u64)> {
        self.inside_jump
    }

    /// Old and new address of each displaced instruction, sorted.
    pub fn entries(&self) -> &[(u64, u64)] {
        &self.entries
    }
}

/// Bytes that an island needs.
pub const fn island_room(set: InstructionSet) -> usize {
    match set {
        InstructionSet::X86_64 => x86_64::ISLAND_ROOM,
        InstructionSet::Aarch64 => aarch64::ISLAND_ROOM,
    }
}

/// Bytes that a slot needs, and what it is aligned to.
pub const fn slot_room() -> usize {
    8
}

/// Whether padding around a function with these bytes can be of use.
pub fn wants_padding(set: InstructionSet, bytes: &[u8]) -> bool {
    // With this many no jump of a site is too long.
    const SHORT: usize = 16;
    set == InstructionSet::X86_64 && (bytes.len() < SHORT || x86_64::may_loop(bytes))
}

/// How many of the first bytes are whole instructions of padding: NOP of any length, INT3. Nothing is padding on aarch64,
/// where every function has room for a site.
pub fn padding(set: InstructionSet, bytes: &[u8]) -> usize {
    match set {
        InstructionSet::X86_64 => x86_64::padding(bytes),
        InstructionSet::Aarch64 => 0,
    }
}

/// Makes the bytes of a site whose parts are at `places` and which goes to `replacement`.
pub fn encode(measure: &Measure, form: Form, places: &Places, replacement: u64) -> Result<SitePlan, Refusal> {
    let displaced = measure.usable(form).map_err(Clone::clone)?;
    let Entry { set, site, pad, x86 } = measure.entry;
    check_places(set, site, displaced, places)?;

    let through_island = measure.entry_jump(Form::Island, places.island);
    if matches!(form, Form::Direct | Form::Slot) {
        // The site may change to it.
        through_island.as_ref().map_err(Clone::clone)?;
    }
    let entry = match form {
        Form::Direct => measure.entry_jump(form, replacement)?,
        Form::Slot => measure.entry_jump(form, places.slot)?,
        Form::Island => through_island?,
        _ => measure.entry_jump(form, places.island)?,
    };
    let relay = x86.relay.filter(|_| form == Form::Relay);
    let mut others: Vec<Overwritten> =
        relay.iter().map(|relay| relay.jump(places.island)).collect::<Result<_, _>>()?;
    for back in &displaced.loops {
        let new = back.lead_to(places.trampoline)?;
        others.extend(new.into_iter().filter(|new| !others.contains(new)).collect::<Vec<_>>());
    }
    let (island, (trampoline, pc_map)) = match set {
        InstructionSet::X86_64 => (
            x86_64::island(places.island, places.slot)?,
            x86_64::trampoline(site, displaced, places.trampoline)?,
        ),
        InstructionSet::Aarch64 => (
            aarch64::island(places.island, places.slot)?,
            aarch64::trampoline(site, pad, displaced, places.trampoline)?,
        ),
    };
    let original = displaced.bytes.iter().copied().take(entry.len()).collect();
    Ok(SitePlan {
        form,
        site,
        original,
        entry,
        others,
        trampoline,
        island,
        pc_map,
        has_inside: measure.has_inside(form),
        changes_at_once: measure.changes_at_once(form),
        reverts_at_once: measure.reverts_at_once(form),
        jump: measure.entry,
    })
}

/// The parts must lie apart from each other and from the site, and the slot must be one atomic word.
fn check_places(
    set: InstructionSet,
    site: u64,
    displaced: &Displaced,
    places: &Places,
) -> Result<(), Refusal> {
    let align = slot_room() as u64;
    if !places.slot.is_multiple_of(align) {
        return Err(Refusal::Misaligned { what: "the slot".into(), address: places.slot, alignment: align });
    }
    let parts = [
        ("site", site, displaced.span.max(displaced.overwritten)),
        ("trampoline", places.trampoline, displaced.room),
        ("island", places.island, island_room(set)),
        ("slot", places.slot, slot_room()),
    ];
    for (i, &(what, address, size)) in parts.iter().enumerate() {
        if address.checked_add(size as u64).is_none() {
            return Err(Refusal::AddressSpace { address, size });
        }
        for &(other, other_address, other_size) in &parts[..i] {
            if address < other_address + other_size as u64 && other_address < address + size as u64 {
                return Err(Refusal::Overlap { what, address, other, other_address });
            }
        }
    }
    Ok(())
}
