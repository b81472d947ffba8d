//! The decoder against another one, word by word.

use disarm64::Insn;
use disarm64_defn::InsnClass;
use proptest::prelude::*;

use super::decode::{Kind, Word};
use super::reference::{self, Relative};
use crate::Function;

const AT: u64 = 0x4000_0000_1ffc;

/// What we call relative is what the other decoder calls so, with the same kind and target.
fn compare_relative(value: u32) {
    let (ours, theirs) = (Word::decode(value, AT), reference::relative(value, AT));
    let target = ours.target();
    assert_eq!(target, theirs.map(|theirs| theirs.target), "{value:#010x} {:?} {theirs:?}", ours.kind);
    let Some(theirs) = theirs else { return };
    assert!(is_kind(&ours, &theirs), "{value:#010x} {:?} {theirs:?}", ours.kind);
}

fn is_kind(ours: &Word, theirs: &Relative) -> bool {
    match ours.kind {
        Kind::Branch => theirs.name() == "b",
        Kind::Call => theirs.name() == "bl",
        Kind::Conditional(field) => {
            let name = theirs.name();
            let is = matches!(name, "b.c" | "bc.c" | "tbz" | "tbnz") || name.starts_with("cb");
            is && field.put(ours.value, -4) ^ field.put(ours.value, 0) == theirs.field
        }
        Kind::Address => theirs.name() == "adr",
        Kind::Page => theirs.name() == "adrp",
        Kind::Literal(_) => matches!(theirs.name(), "ldr" | "ldrsw" | "prfm"),
        _ => false,
    }
}

/// Every value of the upper 22 bits, which tell the classes apart, with some of the lower ones. With all of them, that
/// is for all 2^32 words, it takes two or three minutes on 2 cores:
///
/// ```sh
/// MIDFLIGHT_ALL_WORDS=1 cargo test --release -p midflight-arch --lib another_decoder_calls_relative
/// ```
#[test]
fn relative_is_what_another_decoder_calls_relative() {
    let all = std::env::var_os("MIDFLIGHT_ALL_WORDS").is_some();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let compare = |upper: u32| {
        if all {
            return (0..1 << 10).for_each(|lower| compare_relative(upper << 10 | lower));
        }
        // Bits that look random but are the same in each run.
        let lower = upper.wrapping_mul(0x9e37_79b9) >> 22;
        [lower, lower ^ 0x1f].iter().for_each(|lower| compare_relative(upper << 10 | lower));
    };
    std::thread::scope(|scope| {
        for thread in 0..threads as u32 {
            scope.spawn(move || (thread..1 << 22).step_by(threads).for_each(compare));
        }
    });
}

/// What a refusal calls the word. Prefetch operations stay numbers, and two conditions have two names each.
#[test]
fn texts_are_those_of_another_decoder() {
    let mut seen = 0;
    for upper in 0..1u32 << 16 {
        let value = upper << 16 | upper.wrapping_mul(0x9e37_79b9) >> 16;
        let Some(relative) = reference::relative(value, AT).filter(|word| word.name() != "prfm") else {
            continue;
        };
        let theirs = reference::text(value, AT).expect("a known word");
        let theirs = theirs.replace(".cs ", ".hs ").replace(".cc ", ".lo ");
        assert_eq!(Word::decode(value, AT).to_string(), theirs, "{value:#010x} {relative:?}");
        seen += 1;
    }
    assert!(seen > 8000, "{seen}");
}

/// Also where the targets wrap around the ends of the address space.
#[test]
fn targets_wrap_around() {
    for at in [0u64, 4, 0xffc, u64::MAX - 3] {
        for value in [0x17ff_ffffu32, 0x1400_0001, 0x10ff_ffe0, 0x3000_0000, 0x9000_0000, 0xf0ff_ffe0] {
            let theirs = reference::relative(value, at).expect("a relative word");
            assert_eq!(Word::decode(value, at).target(), Some(theirs.target), "{value:#010x} at {at:#x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn relative_is_what_another_decoder_calls_relative_for_random_words(
        values in prop::collection::vec(any::<u32>(), 1000), at in any::<u64>(),
    ) {
        for value in values {
            compare_relative(value);
            let theirs = reference::relative(value, at & !3).map(|theirs| theirs.target);
            assert_eq!(Word::decode(value, at & !3).target(), theirs, "{value:#010x}");
        }
    }
}

/// More words that refer to addresses than a site of two words has.
#[test]
fn a_trampoline_of_several_relative_words() {
    // cbz x0, .+0x40; ldr q7, .+0x40; tbz w1, #0, .+0x40; adr x2, .+0x40
    let words = [0xb400_0200u32, 0x9c00_0207, 0x3600_0201, 0x1000_0202];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let function = Function { address: 0x1000, bytes: &bytes, guarded: false };
    let displaced =
        super::displace::displace(&function, &crate::Around::default(), 0, 4).expect("movable words");
    let (code, map) = super::trampoline(0x1000, false, &displaced, 0x2000).expect("in reach");
    let (words, addresses) = code.as_chunks::<4>().0.split_at(8);
    let texts = words
        .iter()
        .zip((0x2000..).step_by(4))
        .map(|(word, at)| reference::text(u32::from_le_bytes(*word), at).expect("a known word"));
    let expected = [
        "cbz x0, 0x2018",
        "ldr x16, 0x2020",
        "ldr q7, [x16]",
        "tbz w1, #0, 0x201c",
        "ldr x2, 0x2028",
        "b 0x1010",
        "b 0x1040",
        "b 0x1048",
    ];
    assert_eq!(texts.collect::<Vec<_>>(), expected);
    assert_eq!(addresses.concat(), [0x1044u64, 0x104c].map(u64::to_le_bytes).concat());
    assert_eq!((code.len(), displaced.span), (displaced.room, 16));
    assert_eq!(map.entries(), [(0x1000, 0x2000), (0x1004, 0x2004), (0x1008, 0x200c), (0x100c, 0x2010)]);
    let back = [0x2008, 0x2014, 0x2018, 0x201c, 0x2020].map(|pc| map.back(pc));
    assert_eq!(back, [Some(0x1004), Some(0x1010), Some(0x1040), Some(0x1048), None]);
}

/// A load through a register does what the load from a literal does.
#[test]
fn loads_through_registers_are_the_same_loads() {
    let mut seen = 0;
    for upper in 0..=0xffu32 {
        for register in 0..32 {
            let value = upper << 24 | 0x1240 | register;
            let Kind::Literal(literal) = Word::decode(value, AT).kind else { continue };
            let (from, to) = (reference::text(value, AT), reference::text(literal.load, AT));
            let (Some(from), Some(to)) = (from, to) else { panic!("{value:#010x} is not known") };
            let (operation, _) = from.rsplit_once(", ").expect("an address");
            assert_eq!(to, format!("{operation}, [x{}]", literal.base), "{from}");
            let general = operation.strip_prefix("ldr x").or(operation.strip_prefix("ldr w"));
            let own = general.or(operation.strip_prefix("ldrsw x")).and_then(|own| own.parse().ok());
            assert_eq!(literal.base, own.unwrap_or(16), "{from}");
            let size = match operation.split(' ').nth(1).and_then(|name| name.chars().next()) {
                _ if operation.starts_with("prfm") => 0,
                _ if operation.starts_with("ldrsw") => 4,
                Some('w' | 's') => 4,
                Some('x' | 'd') => 8,
                _ => 16,
            };
            assert_eq!(literal.size, size, "{from}");
            seen += 1;
        }
    }
    assert_eq!(seen, 7 * 32);
}

/// What the other decoder knows to end the function, to call, to trap or to belong together, we know as well.
#[test]
fn what_must_not_be_moved_is_known() {
    for upper in 0..1u32 << 22 {
        let lower = upper.wrapping_mul(0x9e37_79b9) >> 22;
        for lower in [lower, 0, 0x3ff, 0x3e0, 0x1f] {
            let value = upper << 10 | lower;
            let Some(definition) = reference::definition(value) else { continue };
            let (name, kind) = (definition.mnemonic, Word::decode(value, AT).kind);
            let expected = match name {
                "br" | "braa" | "braaz" | "brab" | "brabz" => Kind::Jump,
                "blr" | "blraa" | "blraaz" | "blrab" | "blrabz" => Kind::IndirectCall,
                "ret" | "retaa" | "retab" => Kind::Return,
                "brk" => Kind::Breakpoint,
                "udf" => Kind::Undefined,
                "hvc" | "smc" | "hlt" | "eret" | "eretaa" | "eretab" | "drps" => Kind::Privileged,
                "tstart" | "tcommit" | "tcancel" => Kind::Transaction,
                "movprfx" => Kind::Prefix,
                _ if is_exclusive(name) => Kind::Exclusive,
                _ if is_part_of_copy(definition) => Kind::Copy,
                _ => {
                    let fits = !matches!(
                        kind,
                        Kind::Exclusive | Kind::Copy | Kind::Prefix | Kind::Breakpoint | Kind::Return
                    );
                    assert!(fits, "{value:#010x} {name}: {kind:?}");
                    continue;
                }
            };
            assert_eq!(kind, expected, "{value:#010x} {name}");
        }
    }
}

fn is_exclusive(name: &str) -> bool {
    ["ldxr", "ldaxr", "stxr", "stlxr", "ldxp", "ldaxp", "stxp", "stlxp", "ldtxr", "ldatxr", "sttxr", "stltxr"]
        .iter()
        .any(|stem| name.strip_prefix(stem).is_some_and(|size| matches!(size, "" | "b" | "h")))
}

/// The other instructions of their names are those of SVE, and for flags.
fn is_part_of_copy(definition: &Insn) -> bool {
    let is_named_so = definition.mnemonic.starts_with("cpy") || definition.mnemonic.starts_with("set");
    is_named_so && definition.class == InsnClass::AARCH64_MISC
}

/// Hints are told apart by number: `bti c`, `bti j`, `bti jc`; `paciasp`, `pacibsp`.
#[test]
fn landing_pads_are_the_hints_of_that_name() {
    for number in 0..128u32 {
        let value = 0xd503_201f | number << 5;
        let text = reference::text(value, AT).expect("a hint");
        let expected = match text.as_str() {
            "bti c" | "bti j" | "bti jc" => Kind::LandingPad,
            "paciasp" | "pacibsp" => Kind::Sign,
            // FEAT_PAuth_LR: `pacm`, which the decoder does not know, makes the next signing mix in pc.
            _ if number == 39 => Kind::SignWithPc,
            _ => Kind::Other,
        };
        assert_eq!(Word::decode(value, AT).kind, expected, "{text}");
    }
}
