//! Whether the words at the site can be displaced.

use std::ops::Range;

use super::decode::{self, Kind, Word};
use super::{WORD, relocate};
use crate::{Displaced, DisplacedInstruction, Function, Refusal};

/// The `count` displaced words, `kept` bytes into the function.
pub(crate) fn displace(function: &Function<'_>, kept: u64, count: usize) -> Result<Displaced, Refusal> {
    let (address, size) = (function.address, function.bytes.len());
    if address.checked_add(size as u64).is_none() {
        return Err(Refusal::AddressSpace { address, size });
    }
    let site = address + kept;
    if !address.is_multiple_of(WORD) {
        return Err(Refusal::Misaligned { what: "the function".into(), address, alignment: WORD });
    }
    let words: Vec<Word> = decode::words(function).skip_while(|word| word.at < site).take(count).collect();
    let span = count * WORD as usize;
    if words.len() < count {
        return Err(Refusal::TooShort { address, size, site, needed: span });
    }
    for word in &words {
        check_movable(word)?;
    }
    check_computed(function)?;
    for word in decode::words(function) {
        check_reference(&word, address, site..site + span as u64)?;
    }
    let shape = relocate::shape(&words);
    let described = |word: &Word| DisplacedInstruction {
        offset: (word.at - site) as usize,
        len: WORD as usize,
        text: word.to_string(),
    };
    Ok(Displaced {
        overwritten: span,
        span,
        instructions: words.iter().map(described).collect(),
        bytes: words.iter().flat_map(|word| word.value.to_le_bytes()).collect(),
        room: shape.room,
        falls_through: shape.falls_through,
        repeatable: false,
        needs: shape.needs,
        loops: Vec::new(),
        x86: Default::default(),
    })
}

fn check_movable(word: &Word) -> Result<(), Refusal> {
    let (address, text) = (word.at, word.to_string());
    let unmovable = |reason| Err(Refusal::Unmovable { address, text: text.clone(), reason });
    match word.kind {
        Kind::Call | Kind::IndirectCall => Err(Refusal::Call { address, text }),
        Kind::Breakpoint => Err(Refusal::Breakpoint { address, text }),
        Kind::Transaction => Err(Refusal::Transaction { address, text }),
        Kind::Privileged => Err(Refusal::Privileged { address, text }),
        // The first of a function is not displaced: this is another place that computed branches come to, as
        // the `bti j` of a loop from the top with `goto *`.
        Kind::LandingPad => unmovable("computed branches come here"),
        Kind::SignWithPc => unmovable("it signs or authenticates with its own address"),
        Kind::Exclusive => unmovable("an exclusive load and its store must stay together"),
        Kind::Copy => unmovable("the words of a memory copy or set must stay together"),
        // Arm ARM, `MOVPRFX`: any other word behind it, and so the branch back, is CONSTRAINED UNPREDICTABLE.
        Kind::Prefix => unmovable("the word that it prefixes must be the next one"),
        _ => Ok(()),
    }
}

/// A `bti` at the entry for jumps is that of a loop from the top with `goto *`, if the function computes jumps: GCC puts
/// nothing before it where the function is only called directly.
fn check_computed(function: &Function<'_>) -> Result<(), Refusal> {
    let mut words = decode::words(function);
    match words.next() {
        Some(pad) if pad.is_for_jumps() && words.any(|word| word.kind == Kind::Jump) => {
            let reason = "computed branches of the function may come back here";
            Err(Refusal::Unmovable { address: pad.at, text: pad.to_string(), reason })
        }
        _ => Ok(()),
    }
}

/// What a word of the body refers to must not be displaced.
fn check_reference(word: &Word, entry: u64, displaced: Range<u64>) -> Result<(), Refusal> {
    let Some(to) = word.target() else { return Ok(()) };
    let text = || word.to_string();
    if word.is_branch() {
        return if (entry..=displaced.start).contains(&to) {
            // Recursion goes to the replacement.
            let is_call = word.kind == Kind::Call;
            if is_call { Ok(()) } else { Err(Refusal::LoopsToEntry { from: word.at, to, text: text() }) }
        } else if displaced.contains(&to) {
            Err(Refusal::BranchIntoSite { from: word.at, to, text: text() })
        } else {
            Ok(())
        };
    }
    let size = match word.kind {
        Kind::Address if to == entry => return Ok(()), // The function's identity, not its bytes.
        Kind::Address => 1,
        Kind::Literal(literal) => literal.size,
        _ => 0, // A page is no byte.
    };
    if size > 0 && to < displaced.end && displaced.start < to.saturating_add(size) {
        return Err(Refusal::ReadsOwnBytes { address: word.at, to, text: text() });
    }
    Ok(())
}
