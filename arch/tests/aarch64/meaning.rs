//! What a trampoline does, played through word by word, against what the displaced word does.

use midflight_arch::{Form, Function, InstructionSet, Places, encode, measure};
use proptest::prelude::*;

use crate::support::AT;

/// All that a piece of code can do to the rest, on one of its paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Path {
    does: Vec<Effect>,
    /// Where it goes on.
    to: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// The word itself, without its distance.
    Word(u32),
    /// A register gets this value.
    Set(u32, u64),
    /// A register is loaded from there; the size and sign of the load.
    Load(u32, u64, u32),
}

/// Bits of a distance: mask and value of the words that have it there, its place and length.
const DISTANCES: [(u32, u32, u32, u32); 5] = [
    (0xfc00_0000, 0x1400_0000, 0, 26), // b
    (0xff00_0000, 0x5400_0000, 5, 19), // b.cond
    (0x7e00_0000, 0x3400_0000, 5, 19), // cbz
    (0x7e00_0000, 0x3600_0000, 5, 14), // tbz
    (0x3b00_0000, 0x1800_0000, 5, 19), // ldr, prfm
];

fn distance(word: u32) -> Option<(i64, u32)> {
    if word >> 24 == 0xdc {
        return None; // Not allocated.
    }
    let (_, _, shift, bits) = DISTANCES.into_iter().find(|&(mask, value, ..)| word & mask == value)?;
    let field = (word >> shift) & ((1 << bits) - 1);
    let signed = if field >> (bits - 1) == 1 { i64::from(field) - (1 << bits) } else { i64::from(field) };
    Some((signed * 4, word & !(((1 << bits) - 1) << shift)))
}

/// The `N` bytes at `address`, if all of them are in the code at `base`.
fn inside<const N: usize>(code: &[u8], base: u64, address: u64) -> Option<[u8; N]> {
    let at = usize::try_from(address.checked_sub(base)?).ok()?;
    code.get(at..)?.first_chunk().copied()
}

/// Plays the code at `base` from a branch at `pc` on. Branches within a trampoline go forward: what goes back to it,
/// or to itself, has left it for something else that the random places put there.
fn branch(code: &[u8], base: u64, pc: u64, to: u64, does: &[Effect], paths: &mut Vec<Path>) {
    if to > pc {
        play(code, base, to, does, paths);
    } else {
        paths.push(Path { does: does.to_vec(), to: Some(to) });
    }
}

/// Plays the code at `base` from `pc` on, until it leaves the code.
fn play(code: &[u8], base: u64, pc: u64, does: &[Effect], paths: &mut Vec<Path>) {
    let Some(word) = inside(code, base, pc).map(u32::from_le_bytes) else {
        return paths.push(Path { does: does.to_vec(), to: Some(pc) });
    };
    let (register, mut does) = (word & 31, does.to_vec());
    let relative = distance(word).map(|(distance, rest)| (pc.wrapping_add_signed(distance), rest));
    match relative {
        Some((to, _)) if word >> 26 == 5 => return branch(code, base, pc, to, &does, paths),
        Some((to, rest)) if word & 0x3b00_0000 != 0x1800_0000 => {
            does.push(Effect::Word(rest));
            branch(code, base, pc, to, &does, paths);
        }
        // The literal of a trampoline is in it; that of a function may be right behind its only word.
        Some((to, _)) if word >> 24 == 0x58 && inside::<8>(code, base, to).is_some() => {
            let value = inside(code, base, to).map(u64::from_le_bytes).expect("it was just looked at");
            does.push(Effect::Set(register, value));
        }
        Some((to, _)) if matches!(word >> 24, 0x18 | 0x58 | 0x98) => {
            does.push(Effect::Load(register, to, word >> 30));
        }
        Some((to, rest)) => does.extend([Effect::Word(rest), Effect::Set(99, to)]),
        // adr, adrp
        None if word & 0x1f00_0000 == 0x1000_0000 => {
            let low = i64::from(((word >> 5) & 0x7_ffff) << 2 | (word >> 29) & 3);
            let signed = if low >> 20 == 1 { low - (1 << 21) } else { low };
            let page = word >> 31 == 1;
            let to = if page {
                (pc & !0xfff).wrapping_add_signed(signed * 0x1000)
            } else {
                pc.wrapping_add_signed(signed)
            };
            does.push(Effect::Set(register, to));
        }
        // A load through the register that was just set.
        None if matches!(word >> 22, 0b10_1110_0101 | 0b11_1110_0101 | 0b10_1110_0110)
            && matches!(does.last(), Some(&Effect::Set(set, _)) if word & 0x3f_ffff == set << 5 | set) =>
        {
            let Some(Effect::Set(_, from)) = does.pop() else { unreachable!("it was just looked at") };
            let kind = if word >> 22 & 3 == 2 { 2 } else { u32::from(word >> 30 == 3) };
            does.push(Effect::Load(register, from, kind));
        }
        None => {
            does.push(Effect::Word(word));
            let ends = word >> 16 == 0 || word >> 25 == 0x6b;
            if ends {
                return paths.push(Path { does, to: None });
            }
        }
    }
    play(code, base, pc + 4, &does, paths);
}

fn paths(code: &[u8], base: u64) -> Vec<Path> {
    let mut paths = Vec::new();
    play(code, base, base, &[], &mut paths);
    paths.sort();
    paths
}

/// Words of all kinds that refer to addresses, and any others.
fn word() -> impl Strategy<Value = u32> {
    const KINDS: [(u32, u32); 12] = [
        (0x1400_0000, 0x03ff_ffff),
        (0x5400_0000, 0x00ff_ffff),
        (0x3400_0000, 0x81ff_ffff),
        (0x3600_0000, 0x81ff_ffff),
        (0x1000_0000, 0xe0ff_ffff),
        (0x1800_0000, 0xc4ff_ffff),
        (0x5800_0000, 0x00ff_ffff),
        (0xd65f_0000, 0x0000_03e0),
        (0xd61f_0000, 0x0000_03e0),
        (0xf940_0000, 0x003f_ffff),
        (0xd503_201f, 0x0000_0fe0),
        (0x0000_0000, 0xffff_ffff),
    ];
    (0..KINDS.len(), any::<u32>(), any::<bool>()).prop_map(|(kind, bits, near)| {
        let (value, mask) = KINDS[kind];
        // The upper bits of the longer distances are mostly zero.
        value | bits & mask & if near { 0xff00_ffff } else { u32::MAX }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_trampoline_does_what_the_displaced_word_does(
        word in word(), address in 0x4000_0000u64..0xffff_ffff_0000, near in -0x10_0000i64..0x10_0000,
    ) {
        let address = address & !3;
        compare(word, address, address.wrapping_add_signed(near) & !7);
    }
}

/// Plans a function of one word with its parts at `block`, and plays both. Whether it could be planned.
fn compare(word: u32, address: u64, block: u64) -> bool {
    let bytes = word.to_le_bytes();
    let measure = measure(InstructionSet::Aarch64, &Function { address, bytes: &bytes });
    let places = Places { trampoline: block, island: block + 64, slot: block + 128 };
    if let Ok(plan) = encode(&measure, Form::Island, &places, 0) {
        let site = usize::try_from(plan.site - address).expect("an offset");
        let (new, old) = (paths(&plan.trampoline, block), paths(&bytes[site..], plan.site));
        assert_eq!(new, old, "{word:x} at {address:x}, moved to {block:x}");
        return true;
    }
    if let Some(window) = measure.window(Form::Island, 256) {
        let apart = block + 256 <= address || block >= address + 4;
        assert!(!window.contains(&block) || !apart, "{word:x} at {address:x}, not moved to {block:x}");
    }
    false
}

#[test]
fn a_literal_right_behind_the_only_word() {
    // ldr x0, .+4; ldr w0, .+4; ldrsw x0, .+4; ldr d0, .+4; prfm #0, .+4; and ldr x0, .-8
    for word in [0x5800_0020, 0x1800_0020, 0x9800_0020, 0x5c00_0020, 0xd800_0020, 0x58ff_ffc0] {
        assert!(compare(word, AT, AT + 0x1000), "{word:x}");
    }
}

#[test]
fn a_branch_to_the_word_before() {
    // b, b.eq, cbz x0, tbz w0
    for word in [0x17ff_ffff, 0x54ff_ffe0, 0xb4ff_ffe0, 0x3607_ffe0] {
        assert!(compare(word, AT, AT + 0x1000), "{word:x}");
    }
}

#[test]
fn what_goes_on_at_the_place_of_the_trampoline() {
    // nop, adr x0, ldr x0 go on behind themselves.
    for word in [0xd503_201f, 0x1000_0000, 0x5800_0100] {
        assert!(compare(word, AT + 4, AT + 8), "{word:x}");
    }
    // b, b.eq, cbz x0, tbz w0 to each of the first words at `AT + 0x40`
    for (word, shift) in [(0x1400_0000, 0), (0x5400_0000, 5), (0xb400_0000, 5), (0x3600_0000, 5)] {
        for distance in 0x10..0x14 {
            let word = word | distance << shift;
            assert!(compare(word, AT, AT + 0x40), "{word:x}");
        }
    }
}
