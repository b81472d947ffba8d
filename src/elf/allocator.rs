//! Where the Rust code of a file gets its memory from.
//!
//! `Vec`, `Box` and so on call `__rust_alloc` and its kin, of which each executable or cdylib has its own. With rustc
//! 1.95:
//!
//! * without a `#[global_allocator]` each is a jump to `__rdl_alloc` and so on, of std, which calls malloc(3);
//! * with one they are that allocator's methods (older ones jumped to `__rg_alloc`), and `__rdl_alloc` is left out by
//!   the linker, unless it was told to keep what is not used;
//! * link-time optimisation inlines both, so that nothing tells the one from the other, and the empty function
//!   `__rust_no_alloc_shim_is_unstable` too, by which it is known;
//! * a file that uses std as a shared library (`-C prefer-dynamic`) takes them from there, where they are the
//!   default. If it has an allocator of its own as well, some of them may be in the file itself.
//!
//! The names are mangled as of a crate `__rustc`; they were not in older ones.
#![forbid(unsafe_code)]

use super::{Image, Machine, Source, Symbol, SymbolKind, Symbols};

/// Where the Rust code of a file gets its memory from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocator {
    /// malloc(3), as of std.
    Default,
    /// A `#[global_allocator]` of the file's own, whatever it does.
    Own,
    /// It was stripped, or optimised when it was linked.
    Unknown,
    /// It allocates nothing through Rust.
    None,
}

/// The longest name of those looked for, with room for another hash and suffix.
const MAX_NAME: usize = 128;

/// How much of `__rust_alloc` is searched for its jump.
const MAX_CODE: u64 = 64;

/// The symbols that tell.
#[derive(Debug, Default)]
struct Found {
    /// Address and size of `__rust_alloc`.
    alloc: Option<(u64, u64)>,
    /// Address of `__rdl_alloc`.
    default_alloc: Option<u64>,
    /// `__rg_alloc`
    own_alloc: bool,
    /// `__rust_no_alloc_shim_is_unstable`
    shim: bool,
    /// Any of them, also if it is only used here, or what they call.
    any: bool,
}

pub(super) fn find<S: Source + ?Sized>(image: &Image, source: &S, tables: &[Symbols<'_>]) -> Allocator {
    let mut found = Found::default();
    tables.iter().flat_map(Symbols::iter).for_each(|symbol| found.note(&symbol));
    let shares_std = || image.dynamic(source).is_ok_and(|dynamic| dynamic.is_some_and(needs_std));
    match (found.alloc, found.default_alloc) {
        _ if found.own_alloc => Allocator::Own,
        (Some((address, size)), Some(default)) => {
            let code = image.bytes_at(source, address, size.min(MAX_CODE));
            let is_default = code.is_ok_and(|code| leads_to(image.machine(), &code, address, default));
            if is_default { Allocator::Default } else { Allocator::Unknown }
        }
        (Some(_), None) if found.shim || shares_std() => Allocator::Own,
        (None, None) if shares_std() => Allocator::Default,
        (None, None) if !found.any && image.has_all_symbols() => Allocator::None,
        _ => Allocator::Unknown,
    }
}

impl Found {
    fn note(&mut self, symbol: &Symbol<'_>) {
        let Some(name) = runtime_name(symbol) else {
            let of_c = [&b"malloc"[..], b"calloc", b"realloc", b"posix_memalign", b"aligned_alloc", b"free"];
            // Versioned ones are called `malloc@GLIBC_2.2.5`.
            self.any |= !symbol.defined
                && symbol
                    .short_name(MAX_NAME)
                    .and_then(|name| name.split(|&byte| byte == b'@').next())
                    .is_some_and(|name| of_c.contains(&name));
            return;
        };
        let is_heap = [&b"__rust_alloc"[..], b"__rust_dealloc", b"__rust_realloc", b"__rdl_", b"__rg_"];
        self.any |= is_heap.iter().any(|prefix| name.starts_with(prefix));
        if !symbol.defined {
            return;
        }
        match name {
            b"__rust_alloc" => self.alloc = Some((symbol.value, symbol.size)),
            b"__rdl_alloc" => self.default_alloc = Some(symbol.value),
            b"__rg_alloc" => self.own_alloc = true,
            // In older ones it was a variable, which stayed.
            name => {
                self.shim |= symbol.kind == SymbolKind::Function
                    && name.starts_with(b"__rust_no_alloc_shim_is_unstable");
            }
        }
    }
}

/// The name, if it is one of the crate `__rustc`, or of the time before there was that.
fn runtime_name<'t>(symbol: &Symbol<'t>) -> Option<&'t [u8]> {
    const CRATE: &[u8] = b"7___rustc";
    let name = if symbol.begins_with(b"_RNvC") {
        let name = symbol.short_name(MAX_NAME)?;
        let at = name.windows(CRATE.len()).position(|window| window == CRATE)? + CRATE.len();
        let rest = name.get(at..)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // An underscore parts the length from a name that begins with one.
        rest.get(digits..)?.strip_prefix(b"_")?
    } else if symbol.begins_with(b"__r") {
        symbol.short_name(MAX_NAME)?
    } else {
        return None;
    };
    // LLVM may add a suffix.
    name.split(|&byte| byte == b'.').next()
}

fn needs_std(dynamic: super::Dynamic) -> bool {
    dynamic.needed.iter().any(|name| name.starts_with("libstd-") && name.ends_with(".so"))
}

/// Whether a jump or call to `wanted` stands in the code of a short function. A byte that looks like one and is none
/// would have to hit the very address.
fn leads_to(machine: Machine, code: &[u8], address: u64, wanted: u64) -> bool {
    match machine {
        // jmp rel32, call rel32
        Machine::X86_64 => (0..).zip(code.windows(5)).any(|(at, window)| {
            let &[0xe8 | 0xe9, d0, d1, d2, d3] = window else { return false };
            let distance = i64::from(i32::from_le_bytes([d0, d1, d2, d3]));
            address.wrapping_add(at + 5).wrapping_add_signed(distance) == wanted
        }),
        // b, bl: 26 bits, in words
        Machine::Aarch64 => (0..).step_by(4).zip(code.as_chunks::<4>().0).any(|(at, word)| {
            let word = u32::from_le_bytes(*word);
            let distance = i64::from((word << 6).cast_signed() >> 4);
            word & 0x7c00_0000 == 0x1400_0000
                && address.wrapping_add(at).wrapping_add_signed(distance) == wanted
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_followed_on_both_machines() {
        // nop; jmp +0x10; and back: jmp -0x20
        let code = [0x90, 0xe9, 0x10, 0, 0, 0, 0xe9, 0xe0, 0xff, 0xff, 0xff];
        assert!(leads_to(Machine::X86_64, &code, 0x1000, 0x1016));
        assert!(leads_to(Machine::X86_64, &code, 0x1000, 0xfeb));
        assert!(!leads_to(Machine::X86_64, &code, 0x1000, 0x1010));
        // bti c; b +0x10; bl -0x8
        let code = [0x5f, 0x24, 0x03, 0xd5, 0x04, 0, 0, 0x14, 0xfe, 0xff, 0xff, 0x97];
        assert!(leads_to(Machine::Aarch64, &code, 0x1000, 0x1014));
        assert!(leads_to(Machine::Aarch64, &code, 0x1000, 0x1000));
        assert!(!leads_to(Machine::Aarch64, &code, 0x1000, 0x1010));
    }
}
