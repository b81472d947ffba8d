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
//! | either to a displaced word | itself, to what stands for that word | |
//! | `bl` | `ldr x30` of the address behind the displaced word; `b` to the target | of the return |
//! | `blr`, authenticated or not | `ldr x30` of the address behind the displaced word; `br` of the same kind | of the return |
//! | `adr`, `adrp` | `ldr` of the address into its register | the address |
//! | `ldr w`, `ldr x`, `ldrsw` | `ldr` of the address into its register; the load through it | of the literal |
//! | `ldr s`, `ldr d`, `ldr q`, `prfm`, any into `xzr` | `ldr` of the address into x16; the load through it | of the literal |
//!
//! The loads keep their size and sign; they see the literal as it is when they run. A literal may be anywhere: the short
//! form, where the literal happens to be within 1 MiB of the trampoline, is not used, so there is one form to trust.
//!
//! A call returns to the function, behind the displaced words: a callee that looks at its return address sees the one
//! that it always saw, the unwinder finds the function, and no stack has an address of the trampoline. If `blr` goes to
//! or authenticates with x30, that is first moved to x16, or x17 if x16 is the other operand. For the page that it goes
//! to, `br` instead of `blr` is no less welcome: a trampoline is on no guarded page, and `br` from such a page sets BTYPE
//! to 0b01 through any register (Arm ARM, C6.2 `BR`, "Operation"), which `bti c`, `paciasp` and `pacibsp` take as they
//! take the 0b10 of `blr` (D8.4.5 "Branch target identification", `BTypeCompatible_BTI` and `BTypeCompatible_PACIXSP`).
//!
//! x16 and x17 may be changed because displaced words are the first of their function, behind `bti`, `paciasp` or
//! nothing. The procedure call standard (AAPCS64, "Use of IP0 and IP1 by the linker") lets a veneer change both between
//! any call and the entry it goes to, so nothing is in them there; our own veneers change x16 as well. What would need
//! them in a loop, which may come back with a value in them, is refused (see [`region`](super::region)).

use super::WORD;
use super::decode::{IMM19, IP0, Kind, Word};
use super::jumps::{BRANCH, branch, checked};
use crate::reach::Need;
use crate::{Displaced, PcMap, Refusal};

/// The link register.
const LINK: u32 = 30;

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
    let back = last.filter(|(kind, _)| !ends(*kind));
    let exits = words.iter().map(length).sum::<u64>() + u64::from(back.is_some());
    let ways_out: Vec<(Kind, u64)> = words.iter().filter_map(|word| way_out(words, word)).collect();
    let conditional = ways_out.iter().filter(|(kind, _)| matches!(kind, Kind::Conditional(_))).count();
    let addresses = exits + conditional as u64;
    let literals = words.iter().filter(|word| has_address(word)).count() as u64;
    let targets = ways_out.iter().chain(&back).map(|&(_, to)| to);
    Shape {
        room: (addresses * WORD + literals * 8) as usize,
        falls_through: back.is_some(),
        needs: targets.map(|to| Need::OutOf { to, reach: BRANCH }).collect(),
        exits,
        addresses,
    }
}

/// Whether nothing goes on behind such a word; a call comes back to the function.
fn ends(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Branch | Kind::Jump | Kind::Return | Kind::Undefined | Kind::Call | Kind::IndirectCall
    )
}

/// Words that stand for a displaced one, before exits and addresses.
fn length(word: &Word) -> u64 {
    match word.kind {
        Kind::Literal(_) | Kind::Call => 2,
        Kind::IndirectCall if replaced_link(word.value).is_some() => 3,
        Kind::IndirectCall => 2,
        _ => 1,
    }
}

/// Whether an address stands behind for it.
fn has_address(word: &Word) -> bool {
    use Kind::{Address, Call, IndirectCall, Literal, Page};
    matches!(word.kind, Address | Page | Literal(_) | Call | IndirectCall)
}

/// Where a branch leaves the trampoline to: not one to a displaced word.
fn way_out(words: &[Word], word: &Word) -> Option<(Kind, u64)> {
    let to = word.target().filter(|_| word.is_branch())?;
    let is_call = word.kind == Kind::Call;
    (is_call || !words.iter().any(|other| other.at == to)).then_some((word.kind, to))
}

/// The jump that goes where a call through a register goes to. `None` for words that are not allocated.
pub(crate) fn jump_of_call(word: u32) -> Option<u32> {
    let is = |mask: u32, value: u32| word & mask == value;
    let plain = is(0xffff_fc1f, 0xd63f_0000);
    // C4.1 "Unconditional branch (register)": `blraaz`, `blrabz`; `blraa`, `blrab`.
    let authenticated = is(0xffff_f81f, 0xd63f_081f) || is(0xffff_f800, 0xd73f_0800);
    (plain || authenticated).then_some(word & !(1 << 21))
}

/// For a call that needs x30: the register to have its value in, and the jump that uses that one.
fn replaced_link(call: u32) -> Option<(u32, u32)> {
    let jump = jump_of_call(call)?;
    let (target, modifier) = (jump >> 5 & 31, (jump >> 24 & 1 == 1).then_some(jump & 31));
    let other = if target == LINK { modifier } else { Some(target) };
    let free = if other == Some(IP0) { IP0 + 1 } else { IP0 };
    let mut replaced = jump;
    if target == LINK {
        replaced = replaced & !(31 << 5) | free << 5;
    }
    if modifier == Some(LINK) {
        replaced = replaced & !31 | free;
    }
    (replaced != jump).then_some((free, replaced))
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
    let mut draft = Draft::new(address, &shape(&words), &words);
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
        // All of a loop, see `region`.
        overwritten: displaced.span as u64,
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
    fn new(address: u64, shape: &Shape, displaced: &[Word]) -> Self {
        let (exit, literal) = (address + shape.exits * WORD, address + shape.addresses * WORD);
        let (words, exits, addresses, beyond) = Default::default();
        let place = |next: &mut u64, word: &Word| {
            *next += length(word) * WORD;
            Some((word.at, *next - length(word) * WORD))
        };
        let entries = displaced.iter().scan(address, place).collect();
        Self { address, words, exit, literal, exits, addresses, entries, beyond }
    }

    fn here(&self) -> u64 {
        self.address + self.words.len() as u64 * WORD
    }

    /// Appends what stands for a displaced word.
    fn put(&mut self, word: &Word) -> Result<(), Refusal> {
        let (here, to) = (self.here(), word.target().unwrap_or_default());
        if self.copy_of(word.at) != Some(here) {
            let (text, found) = (word.to_string(), format!("{:?}", self.copy_of(word.at)));
            return Err(Refusal::SelfCheck { address: here, text, found });
        }
        match word.kind {
            Kind::Branch => match self.copy_of(to) {
                Some(copy) => self.words.push(branch(here, copy)?),
                None => self.branch_out(to)?,
            },
            Kind::Conditional(field) => {
                let near = self.copy_of(to).unwrap_or_else(|| self.exit_to(to));
                let distance = field.reach().distance(|| word.to_string(), here, near)?;
                self.words.push(checked(field.put(word.value, distance), here, word.kind, near)?);
            }
            Kind::Call => {
                self.put_address(LINK, word.at + WORD)?;
                self.branch_out(to)?;
            }
            Kind::IndirectCall => self.call_through(word)?,
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

    /// Where what stands for the displaced word at `at` is.
    fn copy_of(&self, at: u64) -> Option<u64> {
        self.entries.iter().find(|(old, _)| *old == at).map(|&(_, new)| new)
    }

    /// The exit that a conditional branch takes to `to`.
    fn exit_to(&mut self, to: u64) -> u64 {
        self.exits.push(to);
        self.exit += WORD;
        self.exit - WORD
    }

    /// Appends what stands for a call through a register.
    fn call_through(&mut self, word: &Word) -> Result<(), Refusal> {
        let unknown = || Refusal::Call { address: word.at, text: word.to_string() };
        let mut jump = jump_of_call(word.value).ok_or_else(unknown)?;
        let replaced = replaced_link(word.value);
        if let Some((free, replaced)) = replaced {
            // `mov x<free>, x30`, which may be done again.
            self.words.push(0xaa1e_03e0 | free);
            self.beyond.push((self.here(), word.at));
            jump = replaced;
        }
        self.put_address(LINK, word.at + WORD)?;
        if replaced.is_none() {
            // The call does not need what is in x30 now.
            self.beyond.push((self.here(), word.at));
        }
        self.words.push(jump);
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
