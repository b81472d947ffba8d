//! Whether the word at the site can be displaced.

use super::decode::{self, Kind, Literal, Word};
use super::{WORD, relocate};
use crate::{Displaced, DisplacedInstruction, Function, Refusal};

/// The displaced word, `pad` bytes into the function.
pub(crate) fn displace(function: &Function<'_>, pad: u64) -> Result<Displaced, Refusal> {
    let (address, size) = (function.address, function.bytes.len());
    if address.checked_add(size as u64).is_none() {
        return Err(Refusal::AddressSpace { address, size });
    }
    let site = address + pad;
    if !address.is_multiple_of(WORD) {
        return Err(Refusal::Misaligned { what: "the function".into(), address, alignment: WORD });
    }
    let Some(first) = decode::words(function).find(|word| word.at == site) else {
        return Err(Refusal::TooShort { address, size, site, needed: WORD as usize });
    };
    check_movable(&first, pad == 0)?;
    for word in decode::words(function) {
        check_reference(&word, address, site)?;
    }
    let shape = relocate::shape(&first);
    Ok(Displaced {
        overwritten: WORD as usize,
        span: WORD as usize,
        instructions: vec![DisplacedInstruction { offset: 0, len: WORD as usize, text: first.to_string() }],
        bytes: first.value.to_le_bytes().to_vec(),
        room: shape.room,
        falls_through: shape.falls_through,
        repeatable: false,
        needs: shape.needs,
    })
}

fn check_movable(word: &Word, is_entry: bool) -> Result<(), Refusal> {
    let (address, text) = (word.at, word.to_string());
    let unmovable = |reason| Err(Refusal::Unmovable { address, text: text.clone(), reason });
    match word.kind {
        Kind::Call | Kind::IndirectCall => Err(Refusal::Call { address, text }),
        Kind::Breakpoint => Err(Refusal::Breakpoint { address, text }),
        Kind::Transaction => Err(Refusal::Transaction { address, text }),
        Kind::Privileged => Err(Refusal::Privileged { address, text }),
        Kind::Sign if is_entry => unmovable(
            "it is the landing pad of indirect calls; compile with -mbranch-protection=standard+leaf or bti",
        ),
        Kind::SignWithPc => unmovable("it signs or authenticates with its own address"),
        Kind::Exclusive => unmovable("an exclusive load and its store must stay together"),
        Kind::Copy => unmovable("the words of a memory copy or set must stay together"),
        Kind::CompareAndBranch => unmovable("compare-and-branch of Armv9.6 is not handled yet"),
        Kind::Literal(Literal::General(_)) if word.register() == 31 => {
            unmovable("there is no register that may hold the address of its literal")
        }
        _ => Ok(()),
    }
}

/// What a word of the body refers to must not be the displaced one.
fn check_reference(word: &Word, entry: u64, site: u64) -> Result<(), Refusal> {
    let Some(to) = word.target() else { return Ok(()) };
    let text = || word.to_string();
    if word.is_branch() {
        return if (entry..=site).contains(&to) && word.kind != Kind::Call {
            Err(Refusal::LoopsToEntry { from: word.at, to, text: text() })
        } else {
            Ok(())
        };
    }
    let size = match word.kind {
        Kind::Address if to == entry => return Ok(()), // The function's identity, not its bytes.
        Kind::Address => 1,
        Kind::Literal(Literal::Vector(size)) => size,
        Kind::Literal(_) => 8,
        _ => return Ok(()), // A page is no byte.
    };
    if to < site + WORD && site < to.saturating_add(size) {
        return Err(Refusal::ReadsOwnBytes { address: word.at, to, text: text() });
    }
    Ok(())
}
