//! Whether the words at the site can be displaced.

use std::ops::Range;

use super::decode::{self, Kind, Word};
use super::region::{Region, region};
use super::{WORD, relocate};
use crate::{Around, Displaced, DisplacedInstruction, Function, Refusal};

/// What is displaced for `count` overwritten words, `kept` bytes into the function.
pub(crate) fn displace(
    function: &Function<'_>,
    around: &Around<'_>,
    kept: u64,
    count: usize,
) -> Result<Displaced, Refusal> {
    let (address, size) = (function.address, function.bytes.len());
    if address.checked_add(size as u64).is_none() {
        return Err(Refusal::AddressSpace { address, size });
    }
    let site = address + kept;
    if !address.is_multiple_of(WORD) {
        return Err(Refusal::Misaligned { what: "the function".into(), address, alignment: WORD });
    }
    let overwritten = count as u64 * WORD;
    if (size as u64) < kept + overwritten {
        return Err(Refusal::TooShort { address, size, site, needed: overwritten as usize });
    }
    check_computed(function)?;
    let region = region(function, site, site + overwritten)?;
    let is_displaced = |word: &Word| (site..region.end).contains(&word.at);
    let words: Vec<Word> = decode::words(function).filter(is_displaced).collect();
    for word in &words {
        check_movable(word, &region)?;
        check_call(word, around, region.end)?;
    }
    for word in decode::words(function) {
        check_reference(&word, address, site..region.end)?;
    }
    let shape = relocate::shape(&words);
    let described = |word: &Word| DisplacedInstruction {
        offset: (word.at - site) as usize,
        len: WORD as usize,
        text: word.to_string(),
    };
    Ok(Displaced {
        overwritten: overwritten as usize,
        span: (region.end - site) as usize,
        instructions: words.iter().map(described).collect(),
        bytes: words.iter().flat_map(|word| word.value.to_le_bytes()).collect(),
        room: shape.room,
        falls_through: shape.falls_through,
        // An interrupted system call is made again: the kernel sets pc back to it (signal(7)).
        repeatable: region.repeats || words.first().is_some_and(Word::is_system_call),
        needs: shape.needs,
        loops: Vec::new(),
        x86: Default::default(),
    })
}

fn check_movable(word: &Word, region: &Region) -> Result<(), Refusal> {
    let (address, text) = (word.at, word.to_string());
    let unmovable = |reason| Err(Refusal::Unmovable { address, text: text.clone(), reason });
    match word.kind {
        Kind::Breakpoint if !is_compilers_trap(word) => Err(Refusal::Breakpoint { address, text }),
        Kind::Transaction => Err(Refusal::Transaction { address, text }),
        Kind::Privileged => Err(Refusal::Privileged { address, text }),
        // The first of a function is not displaced: this is another place that computed branches come to, as
        // the `bti j` of a loop from the top with `goto *`.
        Kind::LandingPad => unmovable("computed branches come here"),
        Kind::SignWithPc => unmovable("it signs or authenticates with its own address"),
        // A loop has them all.
        Kind::Exclusive if !region.loops => unmovable("an exclusive load and its store must stay together"),
        Kind::Copy => unmovable("the words of a memory copy or set must stay together"),
        // Arm ARM, `MOVPRFX`: any other word behind it, and so the branch back, is CONSTRAINED UNPREDICTABLE.
        Kind::Prefix => unmovable("the word that it prefixes must be the next one"),
        _ => Ok(()),
    }
}

/// What compilers make of `__builtin_trap()` and of what is not reached: LLVM `brk #1`, GCC `brk #1000`. Debuggers write
/// `brk #0`, uprobes `brk #5`; any other number may be another tool's.
fn is_compilers_trap(word: &Word) -> bool {
    matches!(word.value >> 5 & 0xffff, 1 | 1000)
}

/// A displaced call returns behind the displaced words of the function, never to the trampoline.
fn check_call(word: &Word, around: &Around<'_>, end: u64) -> Result<(), Refusal> {
    let is_known = match word.kind {
        Kind::Call => true,
        Kind::IndirectCall => relocate::jump_of_call(word.value).is_some(),
        _ => return Ok(()),
    };
    // A guarded control stack (FEAT_GCS) would have to get the return address as well.
    if is_known && !around.shadow_stack && word.at + WORD >= end {
        return Ok(());
    }
    Err(Refusal::Call { address: word.at, text: word.to_string() })
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
        // The other branches stay in the copy, see `region`. Recursion goes to the replacement.
        let is_inside = word.kind == Kind::Call && displaced.start < to && displaced.contains(&to);
        return if is_inside {
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
