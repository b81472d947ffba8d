//! Which instructions an entry jump displaces, and what forbids it.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, Register};

use super::assembly::Copies;
use super::decode;
use super::loops::Loop;
use super::relay::{self, Relay};
use super::relocate::{self, End, Kind};
use super::sweep::{self, Body, Perhaps};
use crate::{Around, Displaced, DisplacedInstruction, Function, Refusal};

/// Taken for the size of an operand that has none in its encoding (xsave areas with tiles have 11 KiB).
const UNKNOWN_SIZE: u64 = 0x4000;

/// A function, and what is to become of it.
struct Request<'a> {
    function: &'a Function<'a>,
    around: &'a Around<'a>,
    /// The first byte to be overwritten.
    site: u64,
    /// The function's bytes from there on.
    bytes: &'a [u8],
    overwritten: usize,
    /// How many bytes must be known and stay as they are: more than are overwritten if the jump is punned.
    kept: usize,
    far: bool,
}

/// The displaced instructions of an entry jump of `kept` bytes, of which `overwritten` are written, `pad` bytes into the
/// function. Its trampoline may be anywhere if it is `far`.
pub(crate) fn displace(
    function: &Function<'_>,
    around: &Around<'_>,
    pad: usize,
    (overwritten, kept): (usize, usize),
    far: bool,
    body: &Body,
) -> Result<Displaced, Refusal> {
    if let Some(refusal) = too_short(function, around, pad, overwritten) {
        return Err(refusal);
    }
    let site = function.address + pad as u64;
    if site.checked_add(overwritten as u64).is_none() {
        return Err(Refusal::AddressSpace { address: site, size: overwritten });
    }
    let request = Request { function, around, site, bytes: &function.bytes[pad..], overwritten, kept, far };
    let mut displaced = request.collect()?;
    for reference in &body.references {
        let offset = reference.ip().wrapping_sub(site);
        let is_displaced = displaced.instructions.iter().any(|own| own.offset as u64 == offset);
        if !is_displaced && request.is_loop(reference)? {
            request.lead_back(&mut displaced, reference)?;
        }
        check_memory(reference, function.address, site, overwritten)?;
    }
    check_whole(&displaced, body)?;
    body.perhaps
        .iter()
        .try_for_each(|perhaps| check_perhaps(*perhaps, function.address, site, overwritten))?;
    Ok(displaced)
}

/// Padding behind a function counts as its own, but there must be an instruction to displace.
pub(crate) fn too_short(
    function: &Function<'_>,
    around: &Around<'_>,
    pad: usize,
    needed: usize,
) -> Option<Refusal> {
    let (address, size) = (function.address, function.bytes.len());
    let site = address.wrapping_add(pad as u64);
    let own = size - pad;
    let all = own + around.padding.min(around.behind.len());
    (own == 0 || all < needed).then_some(Refusal::TooShort { address, size, site, needed })
}

impl Request<'_> {
    /// Whether a branch of the rest of the function goes back to the entry.
    fn is_loop(&self, branch: &Instruction) -> Result<bool, Refusal> {
        let Some(to) = decode::branch_target(branch) else { return Ok(false) };
        if to > self.site && to < self.site + self.overwritten as u64 {
            let (from, text) = (branch.ip(), decode::text(branch));
            return Err(Refusal::BranchIntoSite { from, to, text });
        }
        Ok((self.function.address..=self.site).contains(&to) && !branch.is_call_near())
    }

    /// A loop goes on in the trampoline, if that is near.
    fn lead_back(&self, displaced: &mut Displaced, branch: &Instruction) -> Result<(), Refusal> {
        let (from, to) = (branch.ip(), branch.near_branch_target());
        let start = (from - self.function.address) as usize;
        // What nothing is known to come to may be data, other instructions keep their bytes, and the entry jump its own.
        let may_change = !self.far
            && (branch.next_ip() <= self.site || from >= self.site + self.kept as u64)
            && sweep::is_plain(self.function, branch);
        let bytes = self.function.bytes.get(start..start + branch.len()).filter(|_| may_change);
        let text = || decode::text(branch);
        let bytes = bytes.ok_or_else(|| Refusal::LoopsToEntry { from, to, text: text() })?;
        let new = Loop::new(branch, bytes, self.around, &displaced.loops, &self.taken())?;
        displaced.needs.push(new.need());
        displaced.loops.push(new);
        Ok(())
    }

    /// What the entry jump takes of the padding: what it overwrites behind the function, and that of a relay.
    fn taken(&self) -> [(u64, u64); 2] {
        let relay = Relay::find(self.site, self.around).ok().filter(|_| self.kept == relay::SHORT);
        [(self.site, self.kept as u64), relay.map_or((0, 0), |relay| (relay.at, relay.now.len() as u64))]
    }

    fn collect(&self) -> Result<Displaced, Refusal> {
        let Self { bytes, overwritten, far, function, .. } = *self;
        let mut displaced = Displaced {
            overwritten,
            span: 0,
            instructions: Vec::new(),
            bytes: Vec::new(),
            room: 0,
            falls_through: true,
            repeatable: false,
            needs: Vec::new(),
            loops: Vec::new(),
            x86: Kind { entry: function.address, far, end: End::Never },
        };
        let mut instructions = Vec::new();
        while displaced.span < overwritten.min(bytes.len()) {
            let offset = displaced.span;
            let instruction = self.read(offset, instructions.last())?;
            let len = instruction.len();
            if offset == 0 {
                displaced.repeatable = repeatable(&instruction);
            }
            let text = decode::text(&instruction);
            displaced.instructions.push(DisplacedInstruction { offset, len, text });
            displaced.span += len;
            instructions.push(instruction);
        }
        let end = self.end(&displaced, self.check_reached(&instructions)?)?;
        displaced.falls_through = matches!(end, End::Back(_));
        displaced.x86.end = end;
        self.require(&mut displaced, &instructions)?;
        // With the padding that is overwritten behind them.
        let padding = overwritten.saturating_sub(displaced.span);
        let all = bytes[..displaced.span].iter().chain(&self.around.behind[..padding]);
        displaced.bytes = all.copied().collect();
        Ok(displaced)
    }

    /// The instruction at an offset, if it can be displaced.
    fn read(&self, offset: usize, before: Option<&Instruction>) -> Result<Instruction, Refusal> {
        let (bytes, address) = (&self.bytes[offset..], self.site + offset as u64);
        let Some(instruction) = decode::one(bytes, address) else {
            if let Some(end) = before.filter(|before| decode::ends(before)) {
                let (address, text) = (end.ip(), decode::text(end));
                return Err(Refusal::EndsEarly { address, text, covered: offset, needed: self.overwritten });
            }
            let bytes = bytes.iter().copied().take(4).collect();
            return Err(Refusal::Undecodable { address, bytes });
        };
        if !decode::same_for_all_vendors(&instruction, bytes, address) {
            return Err(Refusal::VendorDependent { address, text: decode::text(&instruction) });
        }
        // Whether something comes to one that fills a gap is looked at later.
        let gap = instruction.code() == Code::Int3
            && before.is_some_and(|before| decode::ends(before) || decode::pads(before));
        if !gap {
            check_movable(&instruction)?;
        }
        if calls(&instruction) {
            self.check_call(&instruction)?;
        }
        Ok(instruction)
    }

    /// The callee returns to the function itself, so there the old bytes must be.
    fn check_call(&self, call: &Instruction) -> Result<(), Refusal> {
        let (address, text, to) = (call.ip(), decode::text(call), call.next_ip());
        if to - self.site < self.overwritten as u64 {
            return Err(Refusal::ReturnsIntoSite { address, to, text });
        }
        if self.around.shadow_stack {
            return Err(Refusal::Call { address, text });
        }
        Ok(())
    }

    /// What nothing comes to, as far as it is known, may be data or somebody else's entry, unless it fills a gap. Gives
    /// whether what is behind the last one is reached.
    fn check_reached(&self, instructions: &[Instruction]) -> Result<bool, Refusal> {
        let mut end: Option<&Instruction> = None;
        for instruction in instructions {
            let to = |other: &Instruction| decode::branch_target(other) == Some(instruction.ip());
            end = end.filter(|_| !instructions.iter().any(to));
            let (address, text) = (instruction.ip(), decode::text(instruction));
            match end {
                Some(end) if !decode::pads(instruction) && instruction.code() != Code::Ud2 => {
                    let (covered, needed) = ((address - self.site) as usize, self.overwritten);
                    let (address, text) = (end.ip(), decode::text(end));
                    return Err(Refusal::EndsEarly { address, text, covered, needed });
                }
                None if instruction.code() == Code::Int3 => {
                    return Err(Refusal::Breakpoint { address, text });
                }
                _ => {}
            }
            // Of the instructions that are displaced, a call is the last.
            end = end.or((decode::ends(instruction) || calls(instruction)).then_some(instruction));
        }
        Ok(end.is_none())
    }

    /// What has to stand behind the displaced instructions, if that is reached.
    fn end(&self, displaced: &Displaced, reached: bool) -> Result<End, Refusal> {
        let (mut offset, mut trap) = (displaced.span, false);
        // What runs on behind the function runs on behind the overwritten padding, and traps where it did.
        while offset < self.overwritten {
            let behind = &self.around.behind[offset - displaced.span..];
            let Some(padding) = decode::one(behind, self.site + offset as u64).filter(decode::pads) else {
                let (address, size, needed) =
                    (self.function.address, self.function.bytes.len(), self.overwritten);
                return Err(Refusal::TooShort { address, size, site: self.site, needed });
            };
            trap |= padding.code() == Code::Int3;
            offset += padding.len();
        }
        Ok(match (reached, trap) {
            (false, _) => End::Never,
            (true, true) => End::Trap,
            (true, false) => End::Back(offset),
        })
    }

    /// Room and needs of the trampoline.
    fn require(&self, displaced: &mut Displaced, instructions: &[Instruction]) -> Result<(), Refusal> {
        let (site, overwritten) = (self.site, self.overwritten as u64);
        let copies = Copies { entry: self.function.address, site, overwritten, places: Vec::new() };
        for instruction in instructions {
            if let Some(to) = decode::branch_target(instruction) {
                let starts = || instructions.iter().any(|other| other.ip() == to);
                if to > site && to < site + overwritten && !starts() {
                    let (from, text) = (instruction.ip(), decode::text(instruction));
                    return Err(Refusal::BranchIntoSite { from, to, text });
                }
                if to > self.function.address && to < site && !calls(instruction) {
                    let (from, text) = (instruction.ip(), decode::text(instruction));
                    return Err(Refusal::LoopsToEntry { from, to, text });
                }
            }
            check_memory(instruction, self.function.address, site, self.overwritten)?;
            let at = (instruction.ip() - site) as usize;
            let own = &self.bytes[at..at + instruction.len()];
            let shadow_stack = self.around.shadow_stack;
            let (size, need) = relocate::requirements(instruction, own, &copies, self.far, shadow_stack)?;
            displaced.room += size;
            displaced.needs.extend(need);
        }
        let (size, need) = relocate::end_requirements(site, displaced.x86.end, self.far);
        displaced.room += size;
        displaced.needs.extend(need);
        Ok(())
    }
}

fn calls(instruction: &Instruction) -> bool {
    instruction.is_call_near() || instruction.is_call_near_indirect()
}

/// Whether an instruction may run at another address at all.
fn check_movable(instruction: &Instruction) -> Result<(), Refusal> {
    let (address, text) = (instruction.ip(), decode::text(instruction));
    if instruction.code() == Code::Xbegin_rel16 {
        return Err(Refusal::Transaction { address, text });
    }
    match instruction.flow_control() {
        FlowControl::Next if instruction.is_privileged() && instruction.code() != Code::Hlt => {
            Err(Refusal::Privileged { address, text })
        }
        FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::Exception => Ok(()),
        FlowControl::UnconditionalBranch if instruction.is_jmp_short_or_near() => Ok(()),
        FlowControl::IndirectBranch if instruction.is_jmp_near_indirect() => Ok(()),
        FlowControl::Return if matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16) => Ok(()),
        FlowControl::Call if instruction.code() == Code::Syscall => Ok(()),
        FlowControl::Call if instruction.code() == Code::Call_rel32_64 => Ok(()),
        FlowControl::IndirectCall if instruction.code() == Code::Call_rm64 => Ok(()),
        FlowControl::XbeginXabortXend => Ok(()),
        FlowControl::Call if !instruction.is_call_far() => Err(Refusal::Privileged { address, text }),
        FlowControl::Interrupt if instruction.code() == Code::Int3 => {
            Err(Refusal::Breakpoint { address, text })
        }
        // int 0x80 is a system call like any other; what other numbers do is the system's affair.
        FlowControl::Interrupt
            if instruction.code() == Code::Int_imm8 && instruction.immediate8() == 0x80 =>
        {
            Ok(())
        }
        FlowControl::Interrupt => Err(Refusal::Privileged { address, text }),
        _ => Err(Refusal::FarTransfer { address, text }),
    }
}

/// Whether an interrupt can find it half done, with pc still at its start.
fn repeatable(instruction: &Instruction) -> bool {
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let tile =
        matches!(instruction.mnemonic(), Mnemonic::Tileloadd | Mnemonic::Tileloaddt1 | Mnemonic::Tilestored);
    // An interrupted system call is made again: the kernel sets pc back to it (signal(7)).
    let restarted = matches!(instruction.code(), Code::Syscall | Code::Sysenter | Code::Int_imm8);
    (repeated && instruction.flow_control() == FlowControl::Next)
        || instruction.is_vsib()
        || tile
        || restarted
}

/// Nothing may go into the middle of a branch that is changed.
fn check_whole(displaced: &Displaced, body: &Body) -> Result<(), Refusal> {
    if displaced.loops.is_empty() {
        return Ok(());
    }
    let changed = || displaced.loops.iter().flat_map(Loop::ranges);
    for branch in &body.references {
        let Some(to) = decode::branch_target(branch) else { continue };
        if changed().any(|(at, len)| to > at && to < at + len as u64) {
            let (from, text) = (branch.ip(), decode::text(branch));
            return Err(Refusal::BranchIntoSite { from, to, text });
        }
    }
    Ok(())
}

/// What may be a branch is treated like one.
fn check_perhaps(perhaps: Perhaps, entry: u64, site: u64, overwritten: usize) -> Result<(), Refusal> {
    let Perhaps { from, to, call } = perhaps;
    if to > site && to < site + overwritten as u64 {
        return Err(Refusal::PerhapsIntoSite { from, to });
    }
    if (entry..=site).contains(&to) && !call {
        return Err(Refusal::PerhapsIntoSite { from, to });
    }
    Ok(())
}

/// An operand relative to rip must not touch the overwritten bytes: it would find the entry jump.
fn check_memory(instruction: &Instruction, entry: u64, site: u64, overwritten: usize) -> Result<(), Refusal> {
    let other_base = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    if !instruction.is_ip_rel_memory_operand() || other_base {
        return Ok(());
    }
    let (address, to) = (instruction.ip(), instruction.ip_rel_memory_address());
    let lea = instruction.mnemonic() == Mnemonic::Lea;
    if lea && to == entry && instruction.memory_base() == Register::RIP {
        return Ok(()); // The function's identity, not its bytes.
    }
    let size = match instruction.memory_size().size() as u64 {
        0 if lea => 1,
        0 => UNKNOWN_SIZE,
        size => size,
    };
    if to < site + overwritten as u64 && site < to.saturating_add(size) {
        return Err(Refusal::ReadsOwnBytes { address, to, text: decode::text(instruction) });
    }
    Ok(())
}
