//! A request becomes a site plan: the public types, and the choice of instruction set.

use std::fmt;
use std::ops::RangeInclusive;

use crate::reach::{self, Need};
use crate::{Refusal, aarch64, x86_64};

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
    fn jump(&self, form: Form, to: u64) -> Result<Vec<u8>, Refusal> {
        match self.set {
            InstructionSet::X86_64 => x86_64::entry_jump(self, form, to),
            InstructionSet::Aarch64 => aarch64::entry_jump(form, self.site, self.pad, to),
        }
    }

    /// How many bytes from the site on must stay, of a site that overwrites this many.
    fn kept(&self, form: Form, overwritten: usize) -> usize {
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

    /// Whether one aligned store of 8 bytes puts the entry jump of the form there, for threads at any place: it has no
    /// inside, and what is written lies in one such word. A processor then fetches the old instruction or the new one. AMD's
    /// manual says so (AMD64 Architecture Programmer's Manual, volume 2, 7.6.1, asynchronous modification). Intel's
    /// promises that the store is atomic (SDM volume 3, 10.1.1), but leaves code that others run meanwhile to the model
    /// (10.1.3): there it is what processors do, not what is written.
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
