//! Strings and notes inside tables of bytes.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use goblin::elf::note::{NT_GNU_BUILD_ID, NT_GNU_PROPERTY_TYPE_0};

use super::Fault;

/// The table up to its last NUL. Without this, every name in a tail that does not end would be searched to
/// the end of the table in vain.
pub(super) fn terminated(table: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let len = table.iter().rposition(|&byte| byte == 0).map_or(0, |last| last + 1);
    match table {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(..len).unwrap_or_default()),
        Cow::Owned(mut bytes) => {
            bytes.truncate(len);
            Cow::Owned(bytes)
        }
    }
}

/// The string that starts at `at` and ends before the next NUL; `None` if either is outside of the table.
pub(super) fn at(table: &[u8], at: usize) -> Option<&[u8]> {
    let rest = table.get(at..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    rest.get(..end)
}

/// Whether `name` stands at `at`. Reads no further than its length, where [`at`] looks for the end.
pub(super) fn is_at(table: &[u8], at: usize, name: &[u8]) -> bool {
    table
        .get(at..)
        .and_then(|rest| rest.strip_prefix(name))
        .is_some_and(|rest| rest.first() == Some(&0) && !name.contains(&0))
}

/// Collects names as strings. Entries of a hostile table may all point at one long string, so the names
/// together must not be longer than the file that they come from.
pub(super) struct Collector {
    left: u64,
    names: Vec<String>,
}

impl Collector {
    pub(super) fn new(file_len: u64) -> Self {
        Self { left: file_len, names: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &[u8]) -> Result<(), Fault> {
        let too_many =
            Fault::Malformed { what: "a table with more names than the file has room for", offset: 0 };
        self.left = self.left.checked_sub(name.len() as u64).ok_or(too_many)?;
        self.names.push(String::from_utf8_lossy(name).into_owned());
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<String> {
        self.names
    }
}

/// The build id among notes.
pub(super) fn build_id(notes: &[u8]) -> Option<&[u8]> {
    note(notes, NT_GNU_BUILD_ID)
}

/// The program properties among notes (`NT_GNU_PROPERTY_TYPE_0`).
pub(super) fn properties(notes: &[u8]) -> Option<&[u8]> {
    note(notes, NT_GNU_PROPERTY_TYPE_0)
}

/// The value of a property of the GNU extensions of the gABI: type, length, value, padded to eight bytes each.
pub(super) fn property(mut properties: &[u8], wanted: u32) -> Option<u32> {
    loop {
        let (kind, rest) = number(properties)?;
        let (len, rest) = number(rest)?;
        if kind == wanted {
            return number(rest.get(..4.min(len as usize))?).map(|(value, _)| value);
        }
        properties = rest.get((len as usize).checked_next_multiple_of(8)?..)?;
    }
}

/// The first note of GNU's of this kind that is not empty.
fn note(mut notes: &[u8], wanted: u32) -> Option<&[u8]> {
    loop {
        let (name_len, rest) = number(notes)?;
        let (desc_len, rest) = number(rest)?;
        let (kind, rest) = number(rest)?;
        let (name, rest) = padded(rest, name_len)?;
        let (desc, rest) = padded(rest, desc_len)?;
        if kind == wanted && name == b"GNU\0" && !desc.is_empty() {
            return Some(desc);
        }
        notes = rest;
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

/// Takes `len` bytes and the padding to a multiple of four; the padding may be missing at the end.
fn padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let (taken, rest) = bytes.split_at_checked(len)?;
    Some((taken, rest.get(len.next_multiple_of(4) - len..).unwrap_or_default()))
}
