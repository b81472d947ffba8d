//! How a function's code ends.

use iced_x86::{Code, Instruction, Mnemonic};

use super::decode;
use crate::Ending;

/// The longest instruction there is.
const LONGEST: usize = 15;

/// How the code `bytes` ends. To read it from its start is seldom necessary: mostly all ways to read the last
/// instruction say the same.
pub(crate) fn ending(bytes: &[u8]) -> Ending {
    let lengths = 1..=LONGEST.min(bytes.len());
    let mut last = lengths.filter_map(|len| {
        let tail = bytes.get(bytes.len() - len..)?;
        decode::one(tail, 0).filter(|instruction| instruction.len() == len).map(|one| of(&one))
    });
    match last.next() {
        Some(first) if last.all(|other| other == first) => first,
        Some(_) => read(bytes),
        None => Ending::Continues,
    }
}

fn read(mut bytes: &[u8]) -> Ending {
    let mut ending = Ending::Continues;
    while !bytes.is_empty() {
        let Some(next) = decode::one(bytes, 0) else { return Ending::Continues };
        ending = of(&next);
        bytes = bytes.get(next.len()..).unwrap_or_default();
    }
    ending
}

fn of(last: &Instruction) -> Ending {
    match last.mnemonic() {
        Mnemonic::Call => Ending::Call,
        _ if decode::ends(last) || last.code() == Code::Int3 => Ending::Ends,
        _ => Ending::Continues,
    }
}
