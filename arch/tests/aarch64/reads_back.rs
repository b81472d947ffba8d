//! Entry jumps, veneers and trampolines as another decoder reads them, near and at the edges of reach.

use midflight_arch::{Form, Function, InstructionSet, Measure, Places, SitePlan, encode, measure};

use super::reference::{relative, text};
use crate::support::PLACES;

const HIGH: u64 = 0xaaaa_5555_0000;
const MIB128: u64 = 128 << 20;
const GIB4: u64 = 1 << 32;

fn measured(words: &[u32], guarded: bool) -> Measure {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    measure(InstructionSet::Aarch64, &Function { address: HIGH, bytes: &bytes, guarded })
}

fn texts(bytes: &[u8], address: u64) -> Vec<String> {
    let (words, _) = bytes.as_chunks();
    let places = (0..).map(|index| address + index * 4);
    let text = |(word, at)| text(u32::from_le_bytes(word), at).unwrap_or_else(|| ".inst".to_owned());
    words.iter().copied().zip(places).map(text).collect()
}

fn planned(words: &[u32], guarded: bool, trampoline: u64) -> SitePlan {
    let places = Places { trampoline, island: trampoline + 64, slot: trampoline + 128 };
    let measure = measured(words, guarded);
    encode(&measure, Form::Island, &places, 0)
        .unwrap_or_else(|refusal| panic!("{words:x?} {trampoline:x}: {refusal}"))
}

#[test]
fn entry_jumps() {
    for (words, guarded, pad) in [
        (&[0xd503_201fu32, 0xd503_201f][..], true, None),
        (&[0xd503_233f, 0xd503_201f], false, None),
        (&[0xd503_233f, 0xd503_201f], true, Some("bti c")),
        (&[0xd503_237f, 0xd503_201f], true, Some("bti c")),
        (&[0xd503_245f, 0xd503_233f, 0xd503_201f], true, None),
    ] {
        let measure = measured(words, guarded);
        let branch = measure.site() + if pad.is_some() { 4 } else { 0 };
        for to in [branch - MIB128, branch - 4, branch + 0x1000, branch + MIB128 - 4] {
            for form in [Form::Direct, Form::Island] {
                let jump = texts(&measure.entry_jump(form, to).expect("in reach"), measure.site());
                let expected = pad.map(str::to_owned).into_iter().chain([format!("b {to:#x}")]);
                assert_eq!(jump, expected.collect::<Vec<_>>(), "{words:x?}");
            }
        }
        assert!(measure.entry_jump(Form::Island, branch - MIB128 - 4).is_err());
        assert!(measure.entry_jump(Form::Island, branch + MIB128).is_err());
    }
}

#[test]
fn veneers() {
    // High enough for pages before it.
    let (address, trampoline) = (HIGH, HIGH + (PLACES.trampoline - 0x40_0000));
    let near = HIGH + (PLACES.island - 0x40_0000);
    let page = near & !0xfff;
    let measure = measure(
        InstructionSet::Aarch64,
        &Function { address, bytes: &0xd503_201fu32.to_le_bytes(), guarded: true },
    );
    let far = near + (1 << 40);
    for (island, slot) in [
        (near, page + 0x1000),
        (near, page + 0xff8),
        (near, page - GIB4),
        (near, page + GIB4 - 8),
        (HIGH + MIB128 - 4, near),
    ] {
        let plan = encode(&measure, Form::Island, &Places { trampoline, island, slot }, far).expect("a plan");
        let offset = match slot & 0xfff {
            0 => "[x16]".to_owned(),
            offset => format!("[x16, #{offset:#x}]"),
        };
        let expected =
            [format!("adrp x16, {:#x}", slot & !0xfff), format!("ldr x16, {offset}"), "br x16".to_owned()];
        assert_eq!(texts(&plan.island, island), expected);
    }
}

/// Words of every class that refers to an address, with what stands for each in the trampoline; `{to}` is the
/// address it refers to, `{exit}` and `{address}` are the third word of the trampoline and what stands in it.
#[test]
fn displaced_words_keep_operation_operands_and_target() {
    const CLASSES: &[(u32, &[&str])] = &[
        (0x1400_0000, &["b {to}"]),
        (0x5400_000b, &["b.lt {exit}", "b {next}", "b {to}"]),
        (0x5400_001e, &["bc.al {exit}", "b {next}", "b {to}"]),
        (0x3400_0009, &["cbz w9, {exit}", "b {next}", "b {to}"]),
        (0xb500_001f, &["cbnz xzr, {exit}", "b {next}", "b {to}"]),
        (0xb608_000a, &["tbz x10, #33, {exit}", "b {next}", "b {to}"]),
        (0x3728_000b, &["tbnz w11, #5, {exit}", "b {next}", "b {to}"]),
        (0xf423_0005, &["cbge x5, x3, {exit}", "b {next}", "b {to}"]),
        (0x7443_8005, &["cbbhi w5, w3, {exit}", "b {next}", "b {to}"]),
        (0x74ff_c01f, &["cbhne wzr, wzr, {exit}", "b {next}", "b {to}"]),
        (0xf57f_8007, &["cblo x7, #63, {exit}", "b {next}", "b {to}"]),
        (0x1000_0003, &["ldr x3, {address}", "b {next}"]),
        (0x1000_001f, &["ldr xzr, {address}", "b {next}"]),
        (0x9000_001e, &["ldr x30, {address}", "b {next}"]),
        (0x1800_0003, &["ldr x3, {address}", "ldr w3, [x3]", "b {next}"]),
        (0x5800_0010, &["ldr x16, {address}", "ldr x16, [x16]", "b {next}"]),
        (0x9800_0004, &["ldr x4, {address}", "ldrsw x4, [x4]", "b {next}"]),
        (0x1800_001f, &["ldr x16, {address}", "ldr wzr, [x16]", "b {next}"]),
        (0x5800_001f, &["ldr x16, {address}", "ldr xzr, [x16]", "b {next}"]),
        (0x9800_001f, &["ldr x16, {address}", "ldrsw xzr, [x16]", "b {next}"]),
        (0x1c00_0005, &["ldr x16, {address}", "ldr s5, [x16]", "b {next}"]),
        (0x5c00_001f, &["ldr x16, {address}", "ldr d31, [x16]", "b {next}"]),
        (0x9c00_0007, &["ldr x16, {address}", "ldr q7, [x16]", "b {next}"]),
        (0xd800_0011, &["ldr x16, {address}", "prfm pstl1strm, [x16]", "b {next}"]),
    ];
    // Nearly as far as `b` reaches: it has to reach the targets of conditional branches as well.
    const FAR: u64 = MIB128 - (2 << 20);
    let places = [HIGH - FAR, HIGH - 4096, HIGH + 4096, HIGH + FAR];
    for &(word, stands_for) in CLASSES {
        let field = relative(word, HIGH).expect("a relative word").field;
        let (lowest, top) = (field & field.wrapping_neg(), field & !(field >> 1));
        // The farthest distances on both sides; of `b`, for which the trampoline would have to be nearer, 4 KiB.
        let is_branch = field == 0x03ff_ffff;
        let ends = if is_branch { [0x3ff_fc00, 0x400] } else { [top, field & !top] };
        let edges = [lowest << 2, lowest << 3, ends[0], ends[1]];
        for (distance, trampoline) in edges.into_iter().flat_map(|edge| places.map(|place| (edge, place))) {
            for (function, guarded) in [([word | distance, 0], false), ([0xd503_233f, word | distance], true)]
            {
                let leading = if guarded { &["paciasp"][..] } else { &[] };
                let at = HIGH + leading.len() as u64 * 4;
                let to = relative(word | distance, at).expect("a relative word").target;
                let plan = planned(&function[..leading.len() + 1], guarded, trampoline);
                let words = (leading.len() + stands_for.len()) as u64;
                let behind = trampoline + words * 4;
                let expected: Vec<String> = leading
                    .iter()
                    .chain(stands_for)
                    .map(|text| {
                        text.replace("{to}", &format!("{to:#x}"))
                            .replace("{next}", &format!("{:#x}", at + 4))
                            .replace("{exit}", &format!("{:#x}", behind - 4))
                            .replace("{address}", &format!("{behind:#x}"))
                    })
                    .collect();
                let (code, address) = plan.trampoline.split_at(expected.len() * 4);
                assert_eq!(texts(code, trampoline), expected, "{word:#x} {distance:#x}");
                let has_address = stands_for[0].contains("{address}");
                let expected = if has_address { to.to_le_bytes().to_vec() } else { Vec::new() };
                assert_eq!(address, expected);
            }
        }
    }
}
