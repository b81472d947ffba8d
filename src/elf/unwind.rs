//! The unwind table: where functions begin and end, also those without a symbol.
//!
//! `.eh_frame_hdr` (Linux Standard Base 5.0, Core, 10.6.2) is a sorted table of the first addresses, which is kept; how far
//! an entry reaches stands in `.eh_frame` and is read when it is asked for. Only the encodings that linkers
//! write are known; a file with others has no table for us.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::{Image, Source};

/// DW_EH_PE_udata4, DW_EH_PE_datarel | DW_EH_PE_sdata4.
const COUNT: u8 = 0x03;
const TABLE: u8 = 0x3b;
/// The version, three encodings, the address of `.eh_frame`, the count.
const HEADER: usize = 12;
const ENTRY: usize = 8;
/// As much of a common information entry as can matter.
const CIE: u64 = 64;

/// The functions of a file by their first addresses.
#[derive(Debug)]
pub(crate) struct Unwind {
    /// The file's address of the header, which entries count from.
    address: u64,
    /// Pairs of 32-bit distances: of the function, of its entry in `.eh_frame`.
    entries: Vec<u8>,
}

impl Unwind {
    /// The table of `image`, if it has one.
    pub(crate) fn read<S: Source + ?Sized>(image: &Image, source: &S) -> Option<Self> {
        let (address, len) = image.unwind?;
        let header = image.bytes_at(source, address, HEADER as u64).ok()?;
        let &[1, frames, COUNT, TABLE, _, _, _, _, a, b, c, d] = header.get(..HEADER)? else { return None };
        // DW_EH_PE_pcrel | DW_EH_PE_sdata4: else the count is somewhere else.
        if frames != 0x1b {
            return None;
        }
        let count = u64::from(u32::from_le_bytes([a, b, c, d]));
        let size = count.checked_mul(ENTRY as u64).filter(|size| size + HEADER as u64 <= len)?;
        let entries = image.bytes_at(source, address + HEADER as u64, size).ok()?.into_owned();
        Some(Self { address, entries })
    }

    /// Bytes of memory that it takes.
    pub(crate) fn weight(&self) -> usize {
        self.entries.len()
    }

    /// The last function that begins at or before the file address `address`, from its first byte to behind its last;
    /// it need not reach as far. `Err` if its entry cannot be read.
    pub(crate) fn last_before<S: Source + ?Sized>(
        &self,
        image: &Image,
        source: &S,
        address: u64,
    ) -> Result<Option<Range<u64>>, ()> {
        let behind = self.place(|start| start <= address);
        let Some((start, entry)) = behind.checked_sub(1).and_then(|last| self.entry(last)) else {
            return Ok(None);
        };
        let len = length(image, source, entry).ok_or(())?;
        Ok(Some(start..start.checked_add(len).ok_or(())?))
    }

    /// Where the first function at or behind `address` begins.
    pub(crate) fn next(&self, address: u64) -> Option<u64> {
        self.entry(self.place(|start| start < address)).map(|(start, _)| start)
    }

    /// The number of the first entry for which `is_before` does not hold.
    fn place(&self, is_before: impl Fn(u64) -> bool) -> usize {
        let (mut low, mut high) = (0, self.entries.len() / ENTRY);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle) {
                Some((start, _)) if is_before(start) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    fn entry(&self, number: usize) -> Option<(u64, u64)> {
        let at = number.checked_mul(ENTRY)?;
        let bytes: &[u8; ENTRY] = self.entries.get(at..at + ENTRY)?.try_into().ok()?;
        let [a, b, c, d, e, f, g, h] = *bytes;
        let absolute = |bytes| self.address.wrapping_add_signed(i64::from(i32::from_le_bytes(bytes)));
        Some((absolute([a, b, c, d]), absolute([e, f, g, h])))
    }
}

/// How many bytes the function has whose entry in `.eh_frame` is at `entry`.
fn length<S: Source + ?Sized>(image: &Image, source: &S, entry: u64) -> Option<u64> {
    let word = |at: u64| {
        let bytes = image.bytes_at(source, at, 4).ok()?;
        Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
    };
    // 0 is the end, all ones a longer form that nobody writes.
    let len = word(entry).filter(|len| !matches!(*len, 0 | u32::MAX))?;
    let back = u64::from(word(entry.checked_add(4)?).filter(|back| *back != 0)?);
    let pointers = entry.checked_add(8)?;
    let encoding = pointer_encoding(image, source, (entry + 4).checked_sub(back)?)?;
    // How the address is relative does not matter for a length.
    match encoding & 0x0f {
        // DW_EH_PE_udata4, DW_EH_PE_sdata4
        0x03 | 0x0b if len >= 12 => word(pointers.checked_add(4)?).map(u64::from),
        // DW_EH_PE_absptr, DW_EH_PE_udata8, DW_EH_PE_sdata8
        0x00 | 0x04 | 0x0c if len >= 20 => {
            let (low, high) = (word(pointers.checked_add(8)?)?, word(pointers.checked_add(12)?)?);
            Some(u64::from(high) << 32 | u64::from(low))
        }
        _ => None,
    }
}

/// How the common information entry at `cie` says that addresses are written (LSB 5.0, Core, 10.6.1.1).
fn pointer_encoding<S: Source + ?Sized>(image: &Image, source: &S, cie: u64) -> Option<u8> {
    let head = image.bytes_at(source, cie, 4).ok()?;
    let len = u64::from(u32::from_le_bytes(head.get(..4)?.try_into().ok()?));
    let bytes = image.bytes_at(source, cie.checked_add(4)?, len.min(CIE)).ok()?;
    let (version, rest) = bytes.get(4..)?.split_first()?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (augmentation, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
    if augmentation.is_empty() {
        return Some(0);
    }
    let letters = augmentation.strip_prefix(b"z")?;
    let rest = after_leb(after_leb(rest)?)?;
    let rest = if *version == 1 { rest.get(1..)? } else { after_leb(rest)? };
    let mut data = after_leb(rest)?;
    for letter in letters {
        let encoding = *data.first()?;
        match letter {
            b'R' => return Some(encoding),
            b'L' => data = data.get(1..)?,
            b'P' => {
                let size = match encoding & 0x0f {
                    0x03 | 0x0b => 4,
                    0x00 | 0x04 | 0x0c => 8,
                    _ => return None,
                };
                data = data.get(1 + size..)?;
            }
            // A signal frame, or landing pads and signed addresses on aarch64: without data.
            b'S' | b'B' | b'G' => {}
            _ => return None,
        }
    }
    Some(0)
}

/// What stands behind a LEB128 number.
fn after_leb(bytes: &[u8]) -> Option<&[u8]> {
    let last = bytes.iter().position(|byte| byte & 0x80 == 0)?;
    bytes.get(last + 1..)
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, SymbolKind, SymbolTable};
    use super::*;

    const MACHINE: Machine = if cfg!(target_arch = "x86_64") { Machine::X86_64 } else { Machine::Aarch64 };

    /// This program: its bytes, and its functions as its symbols say.
    fn this_program() -> (Vec<u8>, Vec<Range<u64>>) {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let image = Image::parse(&file[..], MACHINE).unwrap();
        let symbols = image.symbols(&file[..], SymbolTable::Full).unwrap().unwrap();
        let functions = symbols.iter().filter(|one| one.kind == SymbolKind::Function && one.size > 0);
        let functions = functions.map(|one| one.value..one.value + one.size).collect();
        (file, functions)
    }

    #[test]
    fn it_agrees_with_the_symbols() {
        let (file, functions) = this_program();
        let image = Image::parse(&file[..], MACHINE).unwrap();
        let unwind = Unwind::read(&image, &file[..]).unwrap();
        let of = |address| unwind.last_before(&image, &file[..], address).unwrap().unwrap();
        let same = functions.iter().filter(|function| of(function.end - 1) == **function).count();
        assert!(functions.len() > 1000 && same * 100 > functions.len() * 95, "{same} of {}", functions.len());
        let some = functions.iter().find(|function| of(function.start) == **function).unwrap();
        assert_eq!(unwind.next(some.start), Some(some.start));
        assert!(unwind.next(some.start + 1) >= Some(some.end));
        assert_eq!(unwind.next(u64::MAX), None);
        assert_eq!(unwind.last_before(&image, &file[..], 0), Ok(None));
    }

    /// Whatever stands in a file: an answer or none, no panic.
    #[test]
    fn nothing_in_it_is_trusted() {
        let (mut file, functions) = this_program();
        let image = Image::parse(&file[..], MACHINE).unwrap();
        let unwind = Unwind::read(&image, &file[..]).unwrap();
        let (header, _) = image.unwind.unwrap();
        let mut changed = 0;
        for (number, function) in functions.iter().step_by(functions.len() / 500 + 1).enumerate() {
            let place = unwind.place(|start| start <= function.start) - 1;
            let (start, entry) = unwind.entry(place).unwrap();
            let before = unwind.last_before(&image, &file[..], start);
            for address in [header + 12 + 8 * place as u64, header, entry, entry + 4, entry + 12] {
                for offset in 0..8 {
                    let at = image.offset_of(address + offset).unwrap() as usize;
                    let old = std::mem::replace(&mut file[at], [0xff, 0, 0x80, 0x7f][number % 4]);
                    let answer = Unwind::read(&image, &file[..])
                        .map(|unwind| unwind.last_before(&image, &file[..], start));
                    changed += usize::from(answer != Some(before.clone()));
                    file[at] = old;
                }
            }
        }
        assert!(changed > 1000, "{changed} answers changed");
    }
}
