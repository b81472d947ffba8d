//! One name for several functions, and several names for one: what the compiler and the linker make of one
//! function of the source, and of two that are alike.
#![forbid(unsafe_code)]

use super::image::{FunctionSymbol, ModuleImage};
use super::names::{every_name, rust_name};

/// What is allowed beyond one function with one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// A function of which there are copies means all of them.
    pub(crate) every_copy: bool,
    /// A function may be another one as well.
    pub(crate) folded_code: bool,
}

/// Are these, found by one name, copies of one function of Rust?
pub(super) fn are_copies(functions: &[FunctionSymbol<'_>]) -> bool {
    let mut names = functions.iter().map(|function| rust_name(function.name()));
    let first = names.next().flatten();
    first.is_some() && names.all(|name| name == first)
}

/// All copies of `function`, itself among them, one for each address. Of Rust only: elsewhere one name for
/// several functions means several functions.
pub(super) fn of<'i>(image: &'i ModuleImage, function: &FunctionSymbol<'i>) -> Vec<FunctionSymbol<'i>> {
    let Some(name) = rust_name(function.name()) else { return vec![*function] };
    let mut copies = image.named_in_rust(&name);
    by_address(&mut copies);
    copies
}

/// Sorted, one for each address: the one that has a size.
pub(super) fn by_address(functions: &mut Vec<FunctionSymbol<'_>>) {
    functions.sort_by_key(|function| (function.value, std::cmp::Reverse(function.size)));
    functions.dedup_by_key(|function| function.value);
}

/// What else the code of `function` is called, if it is the code of other functions as well. Names that an
/// author gave to one function are no others.
pub(super) fn other_names(image: &ModuleImage, function: &FunctionSymbol<'_>) -> Vec<String> {
    let here = image.at(function.value);
    let others = here.iter().filter(|other| other.name() != function.name() && !is_alias(function, other));
    let mut names: Vec<String> =
        others.map(|other| String::from_utf8_lossy(other.name()).into_owned()).collect();
    names.sort();
    names.dedup();
    names
}

/// Are these two names that were meant for one function?
fn is_alias(one: &FunctionSymbol<'_>, other: &FunctionSymbol<'_>) -> bool {
    match (every_name(one.name()), every_name(other.name())) {
        // Of C++, such as the constructors of an object and of a base, which have one name in the source. Two of
        // Rust that differ in their hash are two instances.
        (Some(one_names), Some(other_names)) => {
            rust_name(one.name()).is_none() && one_names.last() == other_names.last()
        }
        // In C a second name is weak, or the same with something before it: `__libc_malloc`.
        (None, None) => one.is_weak || other.is_weak || plain(one.name()) == plain(other.name()),
        _ => false,
    }
}

/// A name of C without what C libraries put before and behind it for their own use.
fn plain(name: &[u8]) -> &[u8] {
    let name = name.split(|byte| *byte == b'@').next().unwrap_or(name);
    let name = without_underscores(name);
    let prefixes: [&[u8]; 5] = [b"libc_", b"GI_", b"IO_new_", b"IO_", b"new_"];
    let stripped = prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix));
    without_underscores(stripped.unwrap_or(name))
}

fn without_underscores(name: &[u8]) -> &[u8] {
    let start = name.iter().position(|byte| *byte != b'_').unwrap_or(name.len());
    name.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_c_libraries() {
        let same = [
            ("malloc", "__libc_malloc"),
            ("puts", "_IO_puts"),
            ("fclose", "_IO_new_fclose"),
            ("read", "__GI___read"),
            ("memcpy", "memcpy@@GLIBC_2.14"),
        ];
        for (one, other) in same {
            assert_eq!(plain(one.as_bytes()), plain(other.as_bytes()), "{one} {other}");
        }
        for (one, other) in [("read", "write"), ("new_price", "price_new"), ("a", "")] {
            assert_ne!(plain(one.as_bytes()), plain(other.as_bytes()), "{one} {other}");
        }
    }
}
