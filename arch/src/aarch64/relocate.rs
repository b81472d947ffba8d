//! Moves the displaced word into a trampoline.
//!
//! | displaced | trampoline |
//! |---|---|
//! | does not depend on its address | itself; `b` back |
//! | `b` | `b` to the target |
//! | conditional branch | itself to the third word; `b` back; `b` to the target |
//! | `adr`, `adrp` | `ldr` of the address from behind; `b` back; the address |
//! | `ldr w`, `ldr x`, `ldrsw` | `ldr` of the address; the load through its own destination; `b` back; the address |
//! | other loads, `prfm` | itself, if the literal is within 1 MiB; `b` back |

use super::WORD;
use super::decode::{IMM19, Kind, Literal, Word};
use super::jumps::{BRANCH, branch, checked};
use crate::reach::Need;
use crate::{Displaced, PcMap, Refusal};

/// What a trampoline for a word is like, wherever it will be.
pub(crate) struct Shape {
    pub(crate) room: usize,
    pub(crate) falls_through: bool,
    pub(crate) needs: Vec<Need>,
}

/// The shape of the trampoline for a word.
pub(crate) fn shape(word: &Word) -> Shape {
    let ends = matches!(word.kind, Kind::Branch | Kind::Jump | Kind::Return | Kind::Undefined);
    let room = match word.kind {
        _ if ends => 4,
        Kind::Conditional(_) => 12,
        Kind::Address | Kind::Page => 16,
        Kind::Literal(Literal::General(_)) => 20,
        _ => 8,
    };
    let mut needs = Vec::new();
    if !ends {
        needs.push(Need::OutOf { to: word.at + WORD, reach: BRANCH });
    }
    if let Some(to) = word.target() {
        match word.kind {
            Kind::Branch | Kind::Conditional(_) => needs.push(Need::OutOf { to, reach: BRANCH }),
            Kind::Literal(Literal::Vector(_) | Literal::Prefetch) => {
                needs.push(Need::OutOf { to, reach: IMM19.reach() });
            }
            _ => {}
        }
    }
    Shape { room, falls_through: !ends, needs }
}

/// The trampoline at `address`, and which address in it stands for which.
pub(crate) fn trampoline(
    site: u64,
    displaced: &Displaced,
    address: u64,
) -> Result<(Vec<u8>, PcMap), Refusal> {
    if !address.is_multiple_of(WORD) {
        return Err(Refusal::Misaligned { what: "the trampoline".into(), address, alignment: WORD });
    }
    let value = displaced.bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
    let word = Word::decode(value, site);
    let next = site + WORD;
    let back = |index: u64| branch(address + index * WORD, next);
    let to = word.target().unwrap_or_default();
    // Words, the address behind them, and what the words behind the first stand for.
    let (words, literal, stands_for) = match word.kind {
        _ if !displaced.falls_through && word.kind != Kind::Branch => (vec![value], None, vec![]),
        Kind::Branch => (vec![branch(address, to)?], None, vec![]),
        Kind::Conditional(field) => {
            let taken = checked(field.put(value, 8), address, word.kind, address + 8)?;
            (vec![taken, back(1)?, branch(address + 8, to)?], None, vec![next, to])
        }
        Kind::Address | Kind::Page => {
            (vec![load_from_behind(&word, address, 8)?, back(1)?], Some(to), vec![next])
        }
        Kind::Literal(Literal::General(through)) => {
            let words = vec![load_from_behind(&word, address, 12)?, through, back(2)?];
            // Loading the address once more does no harm.
            (words, Some(to), vec![site, next])
        }
        Kind::Literal(_) => {
            let distance = IMM19.reach().distance(|| word.to_string(), address, to)?;
            let moved = checked(IMM19.put(value, distance), address, word.kind, to)?;
            (vec![moved, back(1)?], None, vec![next])
        }
        _ => (vec![value, back(1)?], None, vec![next]),
    };
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(literal.map(u64::to_le_bytes).iter().flatten());
    let places = (1..).map(|index| address + index * WORD);
    let map = PcMap {
        entries: vec![(site, address)],
        beyond: places.zip(stands_for).collect(),
        site,
        overwritten: displaced.overwritten as u64,
        repeatable: displaced.repeatable,
    };
    Ok((bytes, map))
}

/// `ldr x, .+distance` into the register that the word writes.
fn load_from_behind(word: &Word, address: u64, distance: i64) -> Result<u32, Refusal> {
    let load = IMM19.put(0x5800_0000 | word.register(), distance);
    let kind = Word::decode(load, address).kind;
    checked(load, address, kind, address.wrapping_add_signed(distance))
}
