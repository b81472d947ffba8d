//! Moves the displaced words into a trampoline.
//!
//! What stands for the displaced words comes first, one behind the other, then `b` back unless the last of them ends
//! the function, then the exits, then the addresses.
//!
//! | displaced | stands for it | exit or address |
//! |---|---|---|
//! | does not depend on its address | itself | |
//! | `b` | `b` to the target | |
//! | conditional branch | itself, to its exit | `b` to the target |
//! | `adr`, `adrp` | `ldr` of the address into its register | the address |
//! | `ldr w`, `ldr x`, `ldrsw` | `ldr` of the address into its register; the load through it | of the literal |
//! | `ldr s`, `ldr d`, `ldr q`, `prfm`, any into `xzr` | `ldr` of the address into x16; the load through it | of the literal |
//!
//! The loads keep their size and sign; they see the literal as it is when they run. A literal may be anywhere: the short
//! form, where the literal happens to be within 1 MiB of the trampoline, is not used, so there is one form to trust.
//!
//! x16 may be changed because displaced words are the first of their function, behind `bti`, `paciasp` or nothing. The
//! procedure call standard (AAPCS64, "Use of IP0 and IP1 by the linker") lets a veneer change x16 and x17 between any
//! call and the entry it goes to, so nothing is in them there; our own veneers change x16 as well. A function whose
//! body comes back to the displaced words, perhaps with a value in x16, is refused.

use super::WORD;
use super::decode::{IMM19, Kind, Word};
use super::jumps::{BRANCH, branch, checked};
use crate::reach::Need;
use crate::{Displaced, PcMap, Refusal};

/// What a trampoline for some words is like, wherever it will be.
pub(crate) struct Shape {
    pub(crate) room: usize,
    pub(crate) falls_through: bool,
    pub(crate) needs: Vec<Need>,
    /// Words before the exits, and before the addresses.
    exits: u64,
    addresses: u64,
}

/// The shape of the trampoline for these words.
pub(crate) fn shape(words: &[Word]) -> Shape {
    let last = words.last().map(|word| (word.kind, word.at + WORD));
    let back =
        last.filter(|(kind, _)| !matches!(kind, Kind::Branch | Kind::Jump | Kind::Return | Kind::Undefined));
    let count = |of: fn(Kind) -> u64| words.iter().map(|word| of(word.kind)).sum::<u64>();
    let exits = count(|kind| if let Kind::Literal(_) = kind { 2 } else { 1 }) + u64::from(back.is_some());
    let addresses = exits + count(|kind| matches!(kind, Kind::Conditional(_)).into());
    let literals = count(|kind| matches!(kind, Kind::Address | Kind::Page | Kind::Literal(_)).into());

    let branches = words.iter().filter(|word| matches!(word.kind, Kind::Branch | Kind::Conditional(_)));
    let ways_out = branches.filter_map(Word::target).chain(back.map(|(_, next)| next));
    Shape {
        room: (addresses * WORD + literals * 8) as usize,
        falls_through: back.is_some(),
        needs: ways_out.map(|to| Need::OutOf { to, reach: BRANCH }).collect(),
        exits,
        addresses,
    }
}

/// The trampoline at `address`, and which address in it stands for which.
pub(crate) fn trampoline(
    site: u64,
    pad: bool,
    displaced: &Displaced,
    address: u64,
) -> Result<(Vec<u8>, PcMap), Refusal> {
    if !address.is_multiple_of(WORD) {
        return Err(Refusal::Misaligned { what: "the trampoline".into(), address, alignment: WORD });
    }
    let (values, _) = displaced.bytes.as_chunks();
    let places = (0..).map(|index| site + index * WORD);
    let words: Vec<Word> =
        values.iter().zip(places).map(|(value, at)| Word::decode(u32::from_le_bytes(*value), at)).collect();
    let mut draft = Draft::new(address, &shape(&words));
    for word in &words {
        draft.put(word)?;
    }
    if displaced.falls_through {
        draft.branch_out(site + displaced.span as u64)?;
    }
    for to in std::mem::take(&mut draft.exits) {
        draft.branch_out(to)?;
    }
    let mut bytes: Vec<u8> = draft.words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(draft.addresses.iter().flat_map(|address| address.to_le_bytes()));
    let map = PcMap {
        entries: draft.entries,
        beyond: draft.beyond,
        site,
        overwritten: displaced.overwritten as u64,
        repeatable: displaced.repeatable,
        inside_jump: pad.then(|| (site + WORD, site)),
    };
    Ok((bytes, map))
}

/// A trampoline in the making.
struct Draft {
    address: u64,
    words: Vec<u32>,
    /// Where the next exit and the next address will be.
    exit: u64,
    literal: u64,
    /// Where the exits go.
    exits: Vec<u64>,
    addresses: Vec<u64>,
    entries: Vec<(u64, u64)>,
    beyond: Vec<(u64, u64)>,
}

impl Draft {
    fn new(address: u64, shape: &Shape) -> Self {
        let (exit, literal) = (address + shape.exits * WORD, address + shape.addresses * WORD);
        let (words, exits, addresses, entries, beyond) = Default::default();
        Self { address, words, exit, literal, exits, addresses, entries, beyond }
    }

    fn here(&self) -> u64 {
        self.address + self.words.len() as u64 * WORD
    }

    /// Appends what stands for a displaced word.
    fn put(&mut self, word: &Word) -> Result<(), Refusal> {
        let (here, to) = (self.here(), word.target().unwrap_or_default());
        self.entries.push((word.at, here));
        match word.kind {
            Kind::Branch => self.words.push(branch(here, to)?),
            Kind::Conditional(field) => {
                let distance = field.reach().distance(|| word.to_string(), here, self.exit)?;
                self.words.push(checked(field.put(word.value, distance), here, word.kind, self.exit)?);
                self.exits.push(to);
                self.exit += WORD;
            }
            Kind::Address | Kind::Page => self.put_address(word.register(), to)?,
            Kind::Literal(literal) => {
                self.put_address(literal.base, to)?;
                // Loading the address once more does no harm.
                self.beyond.push((self.here(), word.at));
                self.words.push(literal.load);
            }
            _ => self.words.push(word.value),
        }
        Ok(())
    }

    /// Appends `ldr x<register>` of an address that will stand behind.
    fn put_address(&mut self, register: u32, to: u64) -> Result<(), Refusal> {
        let (here, text) = (self.here(), || format!("ldr x{register}, ={to:#x}"));
        let distance = IMM19.reach().distance(text, here, self.literal)?;
        let load = IMM19.put(0x5800_0000 | register, distance);
        let kind = Word::decode(load, here).kind;
        self.words.push(checked(load, here, kind, self.literal)?);
        self.addresses.push(to);
        self.literal += 8;
        Ok(())
    }

    /// Appends a branch that leaves the trampoline.
    fn branch_out(&mut self, to: u64) -> Result<(), Refusal> {
        let here = self.here();
        self.beyond.push((here, to));
        self.words.push(branch(here, to)?);
        Ok(())
    }
}
