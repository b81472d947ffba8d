//! The search for addresses on a stack, which may vanish while it is read.

use super::context::code_address;
use super::safe_point::{Danger, find};
use crate::sys::{Errno, MemoryReader};

/// Bytes read in one step.
const STEP: usize = 16 * 1024;
/// What is read above a stack pointer whose mapping is not known, at most.
const UNKNOWN_STACK: u64 = 64 << 20;

/// What [`search`] needs, made before threads are held.
#[derive(Debug)]
pub(super) struct Scratch {
    buffer: Box<[u8; STEP]>,
    reader: MemoryReader,
}

impl Scratch {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self { buffer: Box::new([0; STEP]), reader: MemoryReader::new()? })
    }
}

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// This address, at this place of the stack.
    Address(u64),
    /// The stack could not be read.
    Unreadable(Errno),
    /// The deadline passed first.
    Late,
}

/// Looks for addresses inside `dangers` among the aligned words from `sp` to the end of the mapping
/// that holds it (`stacks`: start and end, sorted). Conservative: a word that merely looks like such an address counts.
pub(super) fn search(
    sp: u64,
    stacks: &[(u64, u64)],
    dangers: &[Danger],
    scratch: &mut Scratch,
    deadline: u64,
) -> Found {
    if dangers.is_empty() {
        return Found::Nothing;
    }
    let end = end_of_mapping(sp, stacks).unwrap_or_else(|| sp.saturating_add(UNKNOWN_STACK));
    let mut place = sp & !7;
    while place < end {
        if place != sp & !7 && crate::sys::now() >= deadline {
            return Found::Late;
        }
        let want = usize::try_from(end - place).unwrap_or(STEP).min(STEP);
        let Some(buffer) = scratch.buffer.get_mut(..want) else { return Found::Nothing };
        let count = match scratch.reader.read(place, buffer) {
            Ok(0) | Err(Errno(libc::EFAULT)) => return Found::Nothing,
            Ok(count) => count,
            Err(errno) => return Found::Unreadable(errno),
        };
        for word in buffer.get(..count).unwrap_or(&[]).as_chunks().0 {
            let address = code_address(u64::from_ne_bytes(*word));
            if find(address, dangers).is_some() {
                return Found::Address(address);
            }
        }
        place = place.saturating_add(count.max(8) as u64 & !7);
    }
    Found::Nothing
}

fn end_of_mapping(sp: u64, mappings: &[(u64, u64)]) -> Option<u64> {
    let after = mappings.partition_point(|(start, _)| *start <= sp);
    let (_, end) = mappings.get(after.checked_sub(1)?)?;
    (sp < *end).then_some(*end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn danger(start: u64) -> Vec<Danger> {
        vec![Danger { range: start..start + 4, moves: Vec::new() }]
    }

    #[test]
    fn finds_a_word_far_up() {
        let mut memory = vec![0u64; 9000];
        memory[8000] = 0x7777_0002;
        let start = memory.as_ptr() as u64;
        let stacks = [(start, start + 9000 * 8)];
        let mut scratch = Scratch::new().unwrap();
        assert_eq!(
            search(start, &stacks, &danger(0x7777_0000), &mut scratch, u64::MAX),
            Found::Address(0x7777_0002)
        );
        assert_eq!(search(start, &stacks, &danger(0x7777_0004), &mut scratch, u64::MAX), Found::Nothing);
        assert_eq!(search(start, &stacks, &danger(0x7777_0000), &mut scratch, 0), Found::Late);
        assert_eq!(
            search(start + 8001 * 8, &stacks, &danger(0x7777_0000), &mut scratch, u64::MAX),
            Found::Nothing
        );
    }

    #[test]
    fn a_signed_address_is_found() {
        let memory = [crate::threads::context::signed(0x7777_0002), 0];
        let (start, mut scratch) = (memory.as_ptr() as u64, Scratch::new().unwrap());
        let mut found =
            |from| search(from, &[(start, start + 16)], &danger(0x7777_0000), &mut scratch, u64::MAX);
        assert_eq!(found(start), Found::Address(0x7777_0002));
        assert_eq!(found(start + 8), Found::Nothing);
    }

    #[test]
    fn a_hole_is_an_answer() {
        let mut scratch = Scratch::new().unwrap();
        assert_eq!(search(4096, &[], &danger(1), &mut scratch, u64::MAX), Found::Nothing);
    }
}
