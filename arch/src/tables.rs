//! Where a function goes by jumps that its own branches do not show: the tables of `switch` and `match`.

use std::ops::Range;

use crate::{Function, InstructionSet, aarch64, x86_64};

/// More entries than this are not looked at.
const MOST: usize = 1 << 16;
/// As many are looked at where the code does not tell how many there are.
const UNTOLD: usize = 1 << 10;

/// What the entries of a jump table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TableKind {
    /// Signed distances from the first byte of the table, 4 bytes each.
    Relative,
    /// Addresses, 8 bytes each.
    Absolute,
}

/// A jump table that a function refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// Address of its first entry, counted as the function's own address is.
    pub address: u64,
    /// What its entries are.
    pub kind: TableKind,
    /// How many entries there are, as far as a comparison before the jump tells. It may be that of another value, so
    /// there may be more.
    pub bound: Option<usize>,
}

/// The jump tables of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jumps {
    /// Each once, sorted.
    pub tables: Vec<Table>,
    /// Whether each jump to a computed address was found to be one through these tables.
    pub matched: bool,
}

impl Table {
    /// Bytes of an entry.
    pub fn entry(&self) -> usize {
        match self.kind {
            TableKind::Relative => 4,
            TableKind::Absolute => 8,
        }
    }

    /// Bytes of the table, at most. Where they end before, another table or nothing at all follows.
    pub fn len(&self) -> usize {
        self.bound.unwrap_or(UNTOLD).clamp(UNTOLD, MOST) * self.entry()
    }

    /// Whether there is no entry. Never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The addresses in `function` that the entries lead to; sorted. `data` are the bytes from the first entry on.
    ///
    /// The entries end with the first that leaves the function, unless the code tells that there are more: some lead to a
    /// part of the function that stands elsewhere.
    pub fn targets(&self, data: &[u8], function: &Range<u64>) -> Vec<u64> {
        let entries =
            data.chunks_exact(self.entry()).take(self.len() / self.entry()).map(|entry| self.target(entry));
        let certain = self.bound.unwrap_or(0);
        let entries = entries.enumerate();
        let entries = entries.take_while(|(number, to)| *number < certain || function.contains(to));
        let mut targets: Vec<u64> = entries.map(|(_, to)| to).filter(|to| function.contains(to)).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    fn target(&self, entry: &[u8]) -> u64 {
        match *entry {
            [a, b, c, d] => self.address.wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => 0,
        }
    }
}

/// Finds the jump tables of a function. On aarch64 none is found.
pub fn jumps(set: InstructionSet, function: &Function<'_>) -> Jumps {
    match set {
        InstructionSet::X86_64 => x86_64::jumps_of(function),
        InstructionSet::Aarch64 => {
            Jumps { tables: Vec::new(), matched: !aarch64::has_indirect_jump(function) }
        }
    }
}

/// The addresses in `range` that direct branches of `code` go to; sorted. For parts of a function that stand elsewhere.
pub fn branches_into(set: InstructionSet, code: &Function<'_>, range: &Range<u64>) -> Vec<u64> {
    let mut targets = match set {
        InstructionSet::X86_64 => x86_64::branches_of(code),
        InstructionSet::Aarch64 => aarch64::branches_of(code),
    };
    targets.retain(|to| range.contains(to));
    targets.sort_unstable();
    targets.dedup();
    targets
}
