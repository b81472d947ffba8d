//! What a trampoline does, played through word by word as another decoder reads them, against what the displaced words
//! do.

use disarm64_defn::InsnClass;
use midflight_arch::{Form, Function, InstructionSet, Places, SitePlan, encode, measure};
use proptest::prelude::*;

use super::reference;
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
    /// A load or prefetch from there: operation and register as text.
    Load(String, u64),
    /// A jump with x30 set, as text: what a call through a register does.
    Jump(String),
}

/// `mov x<register>, x30`
const fn move_link(register: u32) -> Effect {
    Effect::Word(0xaa1e_03e0 | register)
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
    if let Some(relative) = reference::relative(word, pc) {
        let to = relative.target;
        match relative.name() {
            "bl" => {
                does.push(Effect::Set(30, pc + 4));
                return paths.push(Path { does, to: Some(to) });
            }
            // With x30 set just before, it is the rest of a call.
            "b" if matches!(does.last(), Some(Effect::Set(30, _))) => {
                return paths.push(Path { does, to: Some(to) });
            }
            "b" => return branch(code, base, pc, to, &does, paths),
            "adr" | "adrp" => does.push(Effect::Set(register, to)),
            // The address of a trampoline is in it; the literal of a function may be right behind its only word.
            "ldr" if word >> 24 == 0x58 && inside::<8>(code, base, to).is_some() => {
                let value = inside(code, base, to).map(u64::from_le_bytes).expect("it was just looked at");
                does.push(Effect::Set(register, value));
            }
            "ldr" | "ldrsw" | "prfm" => {
                let text = reference::text(word, pc).expect("a known word");
                let (operation, _) = text.rsplit_once(", ").expect("an address");
                does.push(Effect::Load(operation.to_owned(), to));
            }
            _ => {
                does.push(Effect::Word(word & !relative.field));
                branch(code, base, pc, to, &does, paths);
            }
        }
    } else if let Some(load) = load_through(word, does.last()) {
        does.pop();
        does.push(load);
    } else if let Some(does) = call_through(word, pc, &does) {
        return paths.push(Path { does, to: None });
    } else {
        does.push(Effect::Word(word));
        if ends(word) {
            return paths.push(Path { does, to: None });
        }
    }
    play(code, base, pc + 4, &does, paths);
}

/// A load through the register that was just set, if it may be lost: because it is loaded, or is x16.
fn load_through(word: u32, last: Option<&Effect>) -> Option<Effect> {
    let Some(&Effect::Set(set, from)) = last else { return None };
    let text = reference::text(word, 0)?;
    let operation = text.strip_suffix(&format!(", [x{set}]"))?;
    let (name, register) = operation.split_once(' ')?;
    let loaded = register.strip_prefix(['x', 'w']).and_then(|number| number.parse().ok());
    let is_load = matches!(name, "ldr" | "ldrsw" | "prfm") && (set == 16 || loaded == Some(set));
    is_load.then(|| Effect::Load(operation.to_owned(), from))
}

/// What a call through a register does, or a jump with x30 set just before, with what was done before that.
fn call_through(word: u32, pc: u64, does: &[Effect]) -> Option<Vec<Effect>> {
    let text = jump_text(word)?;
    let mut does = does.to_vec();
    let jump = match (text.strip_prefix("bl"), does.last()) {
        (Some(rest), _) if rest.starts_with('r') => {
            does.push(Effect::Set(30, pc + 4));
            format!("b{rest}")
        }
        (None, Some(&Effect::Set(30, _))) => moved_link(text, &mut does),
        _ => return None,
    };
    does.push(Effect::Jump(jump));
    Some(does)
}

/// A jump or a call through a register.
fn jump_text(word: u32) -> Option<String> {
    let name = reference::definition(word)?.mnemonic;
    let is_one = matches!(name, "br" | "braa" | "braaz" | "brab" | "brabz") || name.starts_with("blr");
    is_one.then(|| reference::text(word, 0)).flatten()
}

/// The jump with x30 for a register that has its value from before it was set.
fn moved_link(jump: String, does: &mut Vec<Effect>) -> String {
    let Some(before) = does.len().checked_sub(2) else { return jump };
    for register in [16, 17] {
        let name = format!("x{register}");
        if does[before] == move_link(register) && jump.contains(&name) {
            does.remove(before);
            return jump.replace(&name, "x30");
        }
    }
    jump
}

/// Whether nothing goes on behind the word: it branches, or is undefined.
fn ends(word: u32) -> bool {
    let Some(definition) = reference::definition(word) else { return true };
    definition.mnemonic == "udf" || definition.class == InsnClass::BRANCH_REG
}

fn paths(code: &[u8], base: u64) -> Vec<Path> {
    let mut paths = Vec::new();
    play(code, base, base, &[], &mut paths);
    paths.sort();
    paths
}

/// Words of all kinds that refer to addresses, and any others.
pub(crate) fn word() -> impl Strategy<Value = u32> {
    const KINDS: [(u32, u32); 19] = [
        (0x1400_0000, 0x03ff_ffff),
        (0x9400_0000, 0x03ff_ffff),
        (0xd63f_0000, 0x0000_03e0),
        (0xd63f_081f, 0x0000_07e0),
        (0xd73f_0800, 0x0000_07ff),
        (0x5400_0000, 0x00ff_ffff),
        (0x3400_0000, 0x81ff_ffff),
        (0x3600_0000, 0x81ff_ffff),
        (0x7400_0000, 0x81ff_ffff),
        (0x1c00_0000, 0xc0ff_ffff),
        (0xd800_0000, 0x00ff_ffff),
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

/// Checks a plan without the help of the code that made it.
pub(crate) fn verify(function: &Function<'_>, plan: &SitePlan, trampoline: u64) {
    let (map, start) = (&plan.pc_map, usize::try_from(plan.site - function.address).expect("an offset"));
    let displaced = &function.bytes[start..start + map.entries().len() * 4];
    let end = plan.site + displaced.len() as u64;
    assert!(displaced.len() >= plan.original.len());
    assert_eq!(
        (plan.original.len(), &displaced[..plan.original.len()]),
        (plan.entry.len(), &plan.original[..])
    );
    let (words, _) = displaced.as_chunks();
    let places: Vec<u64> = (0..words.len() as u64).map(|index| plan.site + index * 4).collect();
    assert_eq!(map.entries().iter().map(|&(old, _)| old).collect::<Vec<_>>(), places);
    for &(old, new) in map.entries() {
        assert_eq!((map.forward(old), map.back(new)), (Some(new), Some(old)));
    }
    verify_closed(function, plan, end);

    let (mut new, mut old) = (paths(&plan.trampoline, trampoline), paths(displaced, plan.site));
    for path in &new {
        let leaves = path.to.is_none_or(|to| to < plan.site || to >= end);
        // Recursion goes to the replacement.
        assert!(
            leaves || path.does.last() == Some(&Effect::Set(30, end)),
            "back to the old place: {path:x?}"
        );
    }
    // A round of a loop ends with a branch to what stands for a displaced word.
    for to in new.iter_mut().chain(&mut old).filter_map(|path| path.to.as_mut()) {
        let copy = map.entries().iter().find(|(_, new)| *new == *to);
        *to = copy.map_or(*to, |&(old, _)| old);
    }
    new.sort();
    old.sort();
    assert_eq!(new, old, "{displaced:x?} at {:x}, moved to {trampoline:x}", plan.site);
    verify_places(plan, words, trampoline);
}

/// No branch from elsewhere in the function goes to a displaced word; nor does anything that cannot be seen, if a loop
/// was displaced.
fn verify_closed(function: &Function<'_>, plan: &SitePlan, end: u64) {
    let is_loop = end > plan.site + plan.original.len() as u64;
    for (word, at) in function.bytes.as_chunks().0.iter().zip((function.address..).step_by(4)) {
        let word = u32::from_le_bytes(*word);
        if let Some(relative) = reference::relative(word, at) {
            let is_branch = !matches!(relative.name(), "adr" | "adrp" | "ldr" | "ldrsw" | "prfm" | "bl");
            let is_into = (function.address..end).contains(&relative.target);
            assert!(!is_branch || !is_into || (plan.site..end).contains(&at), "{at:#x} goes into the site");
            assert!(!is_loop || relative.name() != "bl", "{at:#x} returns");
        } else if is_loop {
            assert_eq!(jump_text(word), None, "{at:#x}");
        }
    }
}

/// Where threads may stand, in the function and in the trampoline.
fn verify_places(plan: &SitePlan, displaced: &[[u8; 4]], trampoline: u64) {
    let map = &plan.pc_map;
    let values: Vec<u32> = displaced.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let relatives =
        values.iter().zip((plan.site..).step_by(4)).map(|(word, at)| reference::relative(*word, at));
    let relatives: Vec<_> = relatives.collect();
    let repeats = relatives.iter().flatten().any(|relative| {
        relative.target == plan.site
            && !matches!(relative.name(), "adr" | "adrp" | "ldr" | "ldrsw" | "prfm" | "bl")
    });
    for offset in 0..displaced.len() as u64 * 4 + 4 {
        let is_inside = offset < displaced.len() as u64 * 4 && (offset > 0 || repeats);
        assert_eq!(map.inside(plan.site + offset), is_inside, "{offset}");
    }
    assert_eq!(map.inside_jump(), (plan.entry.len() == 8).then_some((plan.site + 4, plan.site)));
    // All but the addresses at the end is code, and a thread may stand at any word of it.
    let names = relatives.iter().flatten().map(|relative| relative.name());
    let addresses =
        names.filter(|name| matches!(*name, "adr" | "adrp" | "ldr" | "ldrsw" | "prfm" | "bl")).count();
    let calls: Vec<String> = values.iter().filter_map(|word| jump_text(*word)).collect();
    let calls = calls.iter().filter(|text| text.starts_with("blr"));
    // The last word for a call through x30, which is the return address by then.
    let lost = calls.clone().filter(|text| text.contains("x30")).count() as u64 * 4;
    let code = plan.trampoline.len() as u64 - (addresses + calls.count()) as u64 * 8;
    for offset in (0..plan.trampoline.len() as u64 + 4).step_by(4) {
        assert_eq!(map.back(trampoline + offset).is_some(), offset < code - lost, "{offset}");
    }
}

/// Plans a function of one word, and one that signs first on a guarded page, with their parts at `block`, and plays
/// them. Whether it could be planned.
fn compare(word: u32, address: u64, block: u64) -> bool {
    let signed = compare_function(&[0xd503_233f, word], true, address, block);
    // What refers to the words of the longer site is refused, and the window differs.
    compare_function(&[word], false, address, block) || signed
}

fn compare_function(words: &[u32], guarded: bool, address: u64, block: u64) -> bool {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let function = Function { address, bytes: &bytes, guarded };
    let measure = measure(InstructionSet::Aarch64, &function);
    let places = Places { trampoline: block, island: block + 64, slot: block + 128 };
    if let Ok(plan) = encode(&measure, Form::Island, &places, 0) {
        verify(&function, &plan, block);
        return true;
    }
    if let Some(window) = measure.window(Form::Island, 256) {
        let apart = block + 256 <= address || block >= address + bytes.len() as u64;
        assert!(
            !window.contains(&block) || !apart,
            "{words:x?} at {address:x}, not moved to {block:x}: {:?}",
            encode(&measure, Form::Island, &places, 0)
        );
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
