//! Padding: NOP and INT3 instructions which belong to no symbol and to no unwind entry (x86-64).

use std::collections::HashMap;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection};
use goblin::elf::Elf;
use goblin::elf::section_header::SHN_UNDEF;
use yaxpeax_arch::LengthedInstruction;
use yaxpeax_x86::long_mode::{InstDecoder, Opcode};

use crate::module::Section;

const INT3: u8 = 0xcc;

/// Start and length of each piece of padding, sorted.
///
/// Only what follows a symbol or an unwind entry at once is looked at, up to the first other instruction: behind that
/// there may be code that no table tells of.
pub(crate) fn paddings(
    elf: &Elf<'_>,
    file: &[u8],
    sections: &[Section],
) -> Result<Vec<(u64, usize)>, String> {
    let mut owned = owned(elf);
    owned.extend(unwind_entries(elf, file)?);
    owned.sort_unstable();
    let mut found = Vec::new();
    for section in sections {
        let mut covered = None;
        let inside = owned.iter().filter(|&&(start, _)| (section.address..section.end()).contains(&start));
        for &(start, end) in inside.chain([&(section.end(), section.end())]) {
            if let Some(covered) = covered.filter(|&covered| covered < start)
                && let Some(bytes) = section.from(file, covered)
                && let Ok(gap) = usize::try_from(start - covered)
            {
                let length = padding(bytes.get(..gap).unwrap_or(bytes));
                found.extend((length > 0).then_some((covered, length)));
            }
            // Where something without a size begins, its end is not known.
            covered = if start == end { None } else { Some(covered.unwrap_or(0).max(end)) };
        }
    }
    Ok(found)
}

/// What belongs to symbols of any type.
fn owned(elf: &Elf<'_>) -> Vec<(u64, u64)> {
    let symbols = elf.syms.iter().chain(elf.dynsyms.iter());
    let defined = symbols.filter(|symbol| symbol.st_shndx != SHN_UNDEF as usize && symbol.st_value != 0);
    defined.map(|symbol| (symbol.st_value, symbol.st_value.saturating_add(symbol.st_size))).collect()
}

fn unwind_entries(elf: &Elf<'_>, file: &[u8]) -> Result<Vec<(u64, u64)>, String> {
    let named = |wanted: &str| {
        elf.section_headers.iter().find(|section| elf.shdr_strtab.get_at(section.sh_name) == Some(wanted))
    };
    let Some(section) = named(".eh_frame") else { return Ok(Vec::new()) };
    let bytes = section.file_range().and_then(|range| file.get(range)).unwrap_or_default();
    let frame = EhFrame::new(bytes, LittleEndian);
    let mut bases = BaseAddresses::default().set_eh_frame(section.sh_addr);
    if let Some(text) = named(".text") {
        bases = bases.set_text(text.sh_addr);
    }
    let mut known = HashMap::new();
    let mut entries = frame.entries(&bases);
    let mut found = Vec::new();
    while let Some(entry) = entries.next().map_err(|error| format!(".eh_frame: {error}"))? {
        let CieOrFde::Fde(partial) = entry else { continue };
        let entry = partial
            .parse(|frame, bases, offset| {
                if let Some(cie) = known.get(&offset) {
                    return Ok(gimli::CommonInformationEntry::clone(cie));
                }
                let cie = frame.cie_from_offset(bases, offset)?;
                known.insert(offset, cie.clone());
                Ok(cie)
            })
            .map_err(|error| format!(".eh_frame: {error}"))?;
        found.push((entry.initial_address(), entry.initial_address().wrapping_add(entry.len())));
    }
    Ok(found)
}

/// Bytes of the NOP and INT3 instructions at the start.
fn padding(bytes: &[u8]) -> usize {
    let decoder = InstDecoder::default();
    let mut length = 0;
    while let Some(rest) = bytes.get(length..).filter(|rest| !rest.is_empty()) {
        // `xchg ax, ax`, with as many prefixes as there are.
        let prefixes = rest.iter().take_while(|byte| **byte == 0x66).count();
        if prefixes < 15 && rest.get(prefixes) == Some(&0x90) {
            length += prefixes + 1;
            continue;
        }
        match decoder.decode_slice(rest) {
            Ok(found) if found.opcode() == Opcode::NOP || rest.first() == Some(&INT3) => {
                length += found.len().to_const() as usize;
            }
            _ => break,
        }
    }
    length
}
