//! Reads a whole function: what branches where, and what refers to addresses.
//!
//! There may be data in a function, and a symbol may be too long or too short. From the first bytes on that are no
//! instruction, nothing is sure any more: what follows is read again from every byte, so that no branch is missed that
//! a processor could find there.

use iced_x86::{FlowControl, Instruction, Register};

use super::decode;
use crate::{Around, Function, Refusal};

/// More than an entry jump and a landing pad in front of it.
const NEAR_ENTRY: u64 = 64;

/// What a function's instructions say about addresses.
pub(crate) struct Body {
    /// Direct branches and calls, and instructions with an operand relative to rip.
    pub(crate) references: Vec<Instruction>,
    /// Bytes that go to somewhere near the entry, if they are a branch.
    pub(crate) perhaps: Vec<Perhaps>,
    /// A jump to a computed address.
    pub(crate) indirect_jump: bool,
}

/// What would be a branch if a processor came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Perhaps {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) call: bool,
}

/// Decodes all of the function, from its first byte on.
pub(crate) fn sweep(function: &Function<'_>, around: &Around<'_>) -> Result<Body, Refusal> {
    let (address, size) = (function.address, function.bytes.len());
    if address.checked_add(size as u64).is_none() {
        return Err(Refusal::AddressSpace { address, size });
    }
    let body = Body { references: Vec::new(), perhaps: Vec::new(), indirect_jump: false };
    let mut reader = Reader { function, seen: vec![false; size], unsure: size, body };
    reader.read_all();
    reader.read_overlapping();
    reader.read_unsure(around);
    Ok(reader.body)
}

/// Whether execution is known to run on behind the function.
pub(crate) fn runs_on(function: &Function<'_>) -> bool {
    let (end, mut runs_on) = (function.address + function.bytes.len() as u64, false);
    walk(function, |place, _| runs_on |= place == end);
    runs_on
}

/// Whether execution is known to come to a branch, and no other instruction has some of its bytes: none that execution
/// comes to, and none that a reader from the first byte on would see.
pub(crate) fn is_plain(function: &Function<'_>, branch: &Instruction) -> bool {
    let (mut comes, mut is_alone) = (false, true);
    walk(function, |place, instruction| {
        comes |= place == branch.ip();
        let overlaps = place < branch.next_ip() && instruction.next_ip() > branch.ip();
        is_alone &= place == branch.ip() || !overlaps;
    });
    let (bytes, wanted) = (function.bytes, (branch.ip() - function.address) as usize);
    let mut offset = 0;
    while offset < wanted {
        offset += decode::one(&bytes[offset..], function.address + offset as u64).map_or(1, |one| one.len());
    }
    comes && is_alone && offset == wanted
}

/// Shows where execution comes from the entry, by running on and by direct branches; the end of the function with what is
/// no instruction.
fn walk(function: &Function<'_>, mut show: impl FnMut(u64, &Instruction)) {
    let (bytes, address) = (function.bytes, function.address);
    let mut seen = vec![false; bytes.len() + 1];
    let mut starts = vec![0];
    while let Some(mut offset) = starts.pop() {
        while seen.get_mut(offset).is_some_and(|seen| !std::mem::replace(seen, true)) {
            let place = address + offset as u64;
            let instruction = decode::one(&bytes[offset..], place).unwrap_or_default();
            show(place, &instruction);
            let to = decode::branch_target(&instruction).map(|to| to.wrapping_sub(address));
            starts.extend(to.and_then(|to| usize::try_from(to).ok()));
            if instruction.is_invalid() || decode::ends(&instruction) {
                break;
            }
            offset += instruction.len();
        }
    }
}

struct Reader<'a> {
    function: &'a Function<'a>,
    /// Where an instruction was found to start.
    seen: Vec<bool>,
    /// Offset of the first bytes that are no instruction.
    unsure: usize,
    body: Body,
}

impl Reader<'_> {
    /// From the first byte on, and from behind each byte that starts no instruction.
    fn read_all(&mut self) {
        let mut offset = 0;
        while let Some(bad) = self.read_from(offset) {
            offset = bad + 1;
        }
    }

    /// Branches into the middle of an instruction (over a `lock` prefix, say) show further instructions.
    fn read_overlapping(&mut self) {
        let mut next = 0;
        while let Some(instruction) = self.body.references.get(next) {
            next += 1;
            let offset = decode::branch_target(instruction)
                .and_then(|to| to.checked_sub(self.function.address))
                .and_then(|offset| usize::try_from(offset).ok());
            if let Some(offset) = offset.filter(|&offset| offset < self.seen.len()) {
                self.read_from(offset);
            }
        }
    }

    /// Reads on to the end, to an instruction that was read before, or to what is none: gives the offset of that.
    fn read_from(&mut self, mut offset: usize) -> Option<usize> {
        let (bytes, address) = (self.function.bytes, self.function.address);
        while offset < bytes.len() && !std::mem::replace(&mut self.seen[offset], true) {
            let (own, at) = (&bytes[offset..], address + offset as u64);
            let good = decode::one(own, at).filter(|i| decode::same_for_all_vendors(i, own, at));
            let Some(instruction) = good else {
                self.unsure = self.unsure.min(offset);
                return Some(offset);
            };
            note(&instruction, &mut self.body);
            offset += instruction.len();
        }
        None
    }

    /// What may be branches, from the first unsure byte on.
    fn read_unsure(&mut self, around: &Around<'_>) {
        let size = self.function.bytes.len();
        // The function may end in the middle of one.
        let behind = around.behind.iter().take(8);
        let bytes: Vec<u8> = self.function.bytes.iter().chain(behind).copied().collect();
        for offset in self.unsure..size {
            let from = self.function.address + offset as u64;
            if let Some((end, distance, call)) = as_if_branch(&bytes[offset..]) {
                let to = from.wrapping_add(end).wrapping_add_signed(distance);
                if to.wrapping_sub(self.function.address) < NEAR_ENTRY {
                    self.body.perhaps.push(Perhaps { from, to, call });
                }
            }
        }
    }
}

/// Length and distance of the branch that the bytes start with whatever they are, without prefixes, and whether it is a
/// call.
fn as_if_branch(bytes: &[u8]) -> Option<(u64, i64, bool)> {
    let short = |at: usize| Some((at as u64 + 1, i64::from(bytes.get(at)?.cast_signed()), false));
    let near = |at: usize, call| {
        let distance = bytes.get(at..at + 4)?.try_into().ok()?;
        Some((at as u64 + 4, i64::from(i32::from_le_bytes(distance)), call))
    };
    match *bytes {
        [0x70..=0x7f | 0xe0..=0xe3 | 0xeb, ..] => short(1),
        [0xe8, ..] => near(1, true),
        [0xe9, ..] => near(1, false),
        [0x0f, 0x80..=0x8f, ..] | [0xc7, 0xf8, ..] => near(2, false),
        _ => None,
    }
}

fn note(instruction: &Instruction, body: &mut Body) {
    let relative = instruction.is_ip_rel_memory_operand();
    if relative || decode::branch_target(instruction).is_some() {
        body.references.push(*instruction);
    }
    // A segment base makes an address of rip+x that is not known.
    let known = relative && !matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    if instruction.flow_control() == FlowControl::IndirectBranch && !known {
        body.indirect_jump = true;
    }
}
