//! How a file was built, as far as it matters to the Rust code in it: by which rustc, with which allocator.
//!
//! rustc names itself in the section `.comment` (old ones did not) and as the DW_AT_producer of its compile units.
//! LLVM keeps the latter in `.debug_str` whatever the version of DWARF, and no name of a program looks like it. So
//! that section is searched, and no unit, abbreviation or table of offsets is read: less code to trust, and work
//! that is bounded by the section's length alone.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use goblin::elf::section_header::{SHF_COMPRESSED, SHT_SYMTAB};

use super::allocator::{self, Allocator};
use super::{Image, Section, Source, SymbolTable, Symbols};

/// How a file was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    pub(crate) compiler: Compiler,
    pub(crate) allocator: Allocator,
}

/// Which rustc compiled the Rust code of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Such as `1.95.0 (59807616e 2026-04-14)`; several if objects of several were linked together.
    Rustc(BTreeSet<String>),
    /// There is no Rust code in it.
    NotRust,
    /// It does not say.
    Unknown,
}

impl Image {
    /// How the file was built. What cannot be read is unknown.
    pub(crate) fn build<S: Source + ?Sized>(&self, source: &S) -> Build {
        let tables = [SymbolTable::Full, SymbolTable::Dynamic].into_iter();
        let tables: Result<Vec<_>, _> =
            tables.filter_map(|table| self.symbols(source, table).transpose()).collect();
        match tables {
            Ok(tables) => self.build_with(source, &tables),
            Err(_) => Build { compiler: Compiler::Unknown, allocator: Allocator::Unknown },
        }
    }

    /// As [`build`](Self::build), for who has read its symbol tables already.
    pub(crate) fn build_with<S: Source + ?Sized>(&self, source: &S, tables: &[Symbols<'_>]) -> Build {
        let compiler = self.compiler(source, tables);
        let allocator = match compiler {
            Compiler::NotRust => Allocator::None,
            _ => allocator::find(self, source, tables),
        };
        Build { compiler, allocator }
    }

    fn compiler<S: Source + ?Sized>(&self, source: &S, tables: &[Symbols<'_>]) -> Compiler {
        let (comments, has_comments) = comments(self, source);
        if !comments.is_empty() {
            return Compiler::Rustc(comments);
        }
        if has_rust_names(tables) {
            let producers = producers(self, source);
            return if producers.is_empty() { Compiler::Unknown } else { Compiler::Rustc(producers) };
        }
        if has_comments || self.has_all_symbols() { Compiler::NotRust } else { Compiler::Unknown }
    }

    /// Was the file not stripped?
    pub(super) fn has_all_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.kind == SHT_SYMTAB)
    }
}

/// Is it what rustc calls a function of Rust, in one of its two manglings? Functions that are `extern "C"` are
/// called so too, unless they are `no_mangle`.
pub(crate) fn is_rust_name(raw: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(raw) else { return false };
    if text.starts_with("_R") {
        return rustc_demangle::try_demangle(text).is_ok();
    }
    // The legacy one is C++'s, with a hash as its last part; LLVM may add a suffix.
    let Some((path, _)) = text.strip_prefix("_ZN").and_then(|rest| rest.rsplit_once('E')) else {
        return false;
    };
    let hash = path.len().checked_sub(19).and_then(|at| path.get(at..)?.strip_prefix("17h"));
    hash.is_some_and(|hash| hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// How many bytes of `.comment` are read; linkers keep one of equal strings.
const MAX_COMMENTS: u64 = 1 << 16;
/// How many bytes of `.debug_str` are searched, and how many at once.
const MAX_STRINGS: u64 = 1 << 26;
const PIECE: u64 = 1 << 20;
/// The longest version with what stands around it.
const MAX_VERSION: usize = 128;
/// How many versions one file may name; a hostile one could name thousands.
const MAX_VERSIONS: usize = 16;
/// How many mangled names are looked at for one of Rust's, and how much of each.
const MAX_NAMES: usize = 1 << 16;
const MAX_NAME: usize = 1 << 10;

/// The versions in `.comment`, and whether a compiler or linker wrote anything there.
fn comments<S: Source + ?Sized>(image: &Image, source: &S) -> (BTreeSet<String>, bool) {
    let (mut versions, mut any) = (BTreeSet::new(), false);
    for section in image.sections_named(".comment").filter(|section| is_plain(section)) {
        let Ok(bytes) = source.read(section.offset, section.size.min(MAX_COMMENTS)) else { continue };
        for text in bytes.split(|&byte| byte == 0).filter(|text| !text.is_empty()) {
            any = true;
            add(&mut versions, text.strip_prefix(b"rustc version "));
        }
    }
    (versions, any)
}

/// The versions among the strings of the debug information: `clang LLVM (rustc version 1.95.0 (…))`.
fn producers<S: Source + ?Sized>(image: &Image, source: &S) -> BTreeSet<String> {
    const MARK: &[u8] = b"(rustc version ";
    let mut versions = BTreeSet::new();
    let Some(section) = image.section(".debug_str").filter(|section| is_plain(section)) else {
        return versions;
    };
    let size = section.size.min(MAX_STRINGS);
    for at in (0..size).step_by(PIECE as usize) {
        // Pieces overlap, so that one of them has the whole of each text.
        let len = (size - at).min(PIECE + (MARK.len() + MAX_VERSION) as u64);
        let Some(offset) = section.offset.checked_add(at) else { break };
        let Ok(piece) = source.read(offset, len) else { break };
        let mut rest = &piece[..];
        while let Some(next) = rest.iter().position(|&byte| byte == MARK[0]) {
            rest = rest.get(next..).unwrap_or_default();
            if let Some(text) = rest.strip_prefix(MARK) {
                let end = text.iter().take(MAX_VERSION).position(|&byte| byte == 0);
                let text = end.and_then(|end| text.get(..end));
                add(&mut versions, text.and_then(|text| text.strip_suffix(b")")));
            }
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    versions
}

/// Can its bytes be read as they are?
fn is_plain(section: &Section) -> bool {
    section.has_bytes() && section.flags & u64::from(SHF_COMPRESSED) == 0
}

fn add(versions: &mut BTreeSet<String>, version: Option<&[u8]>) {
    let Some(version) = version.and_then(|version| std::str::from_utf8(version).ok()) else { return };
    let is_version = version.starts_with(|first: char| first.is_ascii_digit())
        && version.len() <= MAX_VERSION
        && version.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_version && versions.len() < MAX_VERSIONS {
        versions.insert(version.to_owned());
    }
}

fn has_rust_names(tables: &[Symbols<'_>]) -> bool {
    let symbols = tables.iter().flat_map(Symbols::iter);
    let mangled = symbols.filter(|symbol| symbol.begins_with(b"_R") || symbol.begins_with(b"_ZN"));
    mangled.take(MAX_NAMES).filter_map(|symbol| symbol.short_name(MAX_NAME)).any(is_rust_name)
}
