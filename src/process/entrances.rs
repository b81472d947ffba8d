//! Where else a function may be entered: at symbols inside it, by its jump tables, from a part of it that the compiler
//! put somewhere else.
//!
//! All addresses are the file's.
#![forbid(unsafe_code)]

use super::image::{ModuleFile, ModuleImage};
use crate::arch::{self, Function, InstructionSet, Table, TableKind};
use crate::elf::Fault;
use std::ops::Range;

/// A part that is longer is not read.
const LONGEST_PART: u64 = 1 << 20;

/// The addresses behind the first byte at which a function may be entered, as far as the file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entrances {
    /// Sorted.
    pub(super) inside: Vec<u64>,
    /// Was each jump to a computed address followed through its table?
    pub(super) told: bool,
}

impl Entrances {
    /// Of the function at `function` with these bytes. `labels` are the symbols strictly inside.
    pub(super) fn of(
        set: InstructionSet,
        image: &ModuleImage,
        file: &ModuleFile,
        function: &Range<u64>,
        bytes: &[u8],
        labels: impl Iterator<Item = u64>,
    ) -> Self {
        let mut entrances = Self { inside: labels.collect(), told: true };
        if may_jump_by_table(set, bytes) {
            entrances.add_tables(set, image, file, function, bytes);
        }
        for part in image.parts_of(function.start) {
            // What cannot be read was not told by the symbols alone, either.
            let len = part.end.saturating_sub(part.start).min(LONGEST_PART);
            let code = image.bytes_at(file, part.start, len).unwrap_or_default();
            let code = Function { address: part.start, bytes: &code, guarded: false };
            entrances.inside.extend(arch::branches_into(set, &code, function));
        }
        entrances.inside.retain(|address| *address != function.start);
        entrances.inside.sort_unstable();
        entrances.inside.dedup();
        entrances
    }

    fn add_tables(
        &mut self,
        set: InstructionSet,
        image: &ModuleImage,
        file: &ModuleFile,
        function: &Range<u64>,
        bytes: &[u8],
    ) {
        let jumps = arch::jumps(set, &Function { address: function.start, bytes, guarded: false });
        self.told = jumps.matched;
        for table in &jumps.tables {
            // Where the next one begins this one has ended.
            let next = jumps.tables.iter().map(|other| other.address).find(|other| *other > table.address);
            let data = read(image, file, table, next.unwrap_or(u64::MAX)).unwrap_or_default();
            let targets = table.targets(&data, function);
            // How many entries there are must be known: one that leaves the function need not be the last.
            self.told &= !targets.is_empty()
                && table.bound.is_some_and(|bound| bound.saturating_mul(table.entry()) <= data.len());
            self.inside.extend(targets);
        }
    }
}

/// The bytes of a table, up to `end`.
fn read(image: &ModuleImage, file: &ModuleFile, table: &Table, end: u64) -> Result<Vec<u8>, Fault> {
    let start = table.address;
    let most = image.file_bytes_from(start).min(end - start).min(table.len() as u64);
    // Whole entries.
    let len = most - most % table.entry() as u64;
    match table.kind {
        TableKind::Absolute => image.pointers(file, start..start + len),
        _ => image.bytes_at(file, start, len),
    }
}

/// Is there anything among the bytes that may be a jump to a computed address? Most functions have none, and need not
/// be read a second time.
fn may_jump_by_table(set: InstructionSet, bytes: &[u8]) -> bool {
    match set {
        // FF /4, not relative to rip (Intel SDM volume 2, JMP).
        InstructionSet::X86_64 => {
            bytes.windows(2).any(|pair| matches!(pair, [0xff, mode] if mode & 0x38 == 0x20 && *mode != 0x25))
        }
        _ => true,
    }
}

/// The name of the whole function if a name is that of a part of it: `f.cold`, `f.cold.3`, `f.part.0`, `f.__part.1`.
pub(super) fn whole_of(name: &[u8]) -> Option<&[u8]> {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let numbered = name.get(..name.len() - digits)?.strip_suffix(b".").filter(|_| digits > 0);
    let whole = match numbered {
        None => name.strip_suffix(b".cold"),
        Some(name) => {
            [&b".cold"[..], b".part", b".__part"].iter().find_map(|suffix| name.strip_suffix(*suffix))
        }
    };
    whole.filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let whole = [("f.cold", "f"), ("f.cold.12", "f"), ("f.part.0", "f"), ("f.part.0.cold", "f.part.0")];
        for (part, whole) in whole.into_iter().chain([("_ZN1a1bEv.__part.1", "_ZN1a1bEv")]) {
            assert_eq!(whole_of(part.as_bytes()), Some(whole.as_bytes()), "{part}");
        }
        for name in
            ["f", "f.cold.", "f.part", ".cold", "f.constprop.0", "cold", "f.colder", "f.cold7", "7", ""]
        {
            assert_eq!(whole_of(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn bytes_that_may_be_a_jump_by_a_table() {
        let of = |bytes: &[u8]| may_jump_by_table(InstructionSet::X86_64, bytes);
        // jmp rax; notrack jmp rdx; jmp r11; jmp [rax*8+x]; jmp [rip+x]; call rax; call [rip+x]
        assert!(of(&[0xff, 0xe0]) && of(&[0x3e, 0xff, 0xe2]) && of(&[0x41, 0xff, 0xe3]));
        assert!(of(&[0xff, 0x24, 0xc5, 0, 0, 0, 0]));
        assert!(!of(&[0xff, 0x25, 0, 0, 0, 0]) && !of(&[0xff, 0xd0]) && !of(&[0xff, 0x15, 0, 0, 0, 0]));
    }
}
