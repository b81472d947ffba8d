//! Landing pads, signing, traps, and words that must stay together.

use midflight_arch::{Form, Function, InstructionSet, Places, Refusal, encode, measure};

use super::{measured, measured_guarded, plan_of, planned, refusal_of, refused, words};
use crate::support::{AT, PLACES, hex};

const SIGNING: [(u32, &str); 2] = [(0xd503_233f, "paciasp"), (0xd503_237f, "pacibsp")];

#[test]
fn case_088_the_site_is_behind_the_landing_pad() {
    // bti c, bti j, bti jc: on guarded pages and others.
    for pad in [0xd503_245fu32, 0xd503_249f, 0xd503_24df] {
        let function = words(&[pad, 0xd503_201f, 0xd65f_03c0]);
        let plan = planned(&function, Form::Island);
        assert_eq!(plan.site, AT + 4);
        let guarded = plan_of(&measured_guarded(&function), &function, Form::Island);
        assert_eq!((guarded.site, &guarded.entry), (AT + 4, &plan.entry));
        assert!(matches!(refused(&words(&[pad])), Refusal::TooShort { .. }));
    }
    // Plain bti is no landing pad for a call.
    assert_eq!(measured(&words(&[0xd503_241f, 0xd65f_03c0])).site(), AT);
    assert_eq!(measured_guarded(&words(&[0xd503_241f, 0xd65f_03c0])).site(), AT);
}

#[test]
fn case_089_signing_is_one_displaced_word_where_no_landing_pad_is_needed() {
    for (sign, text) in SIGNING {
        let function = words(&[sign, 0xd65f_03c0]);
        let plan = planned(&function, Form::Island);
        assert_eq!((plan.site, &plan.trampoline[..4]), (AT, &sign.to_le_bytes()[..]), "{text}");
        let measure = measured(&function);
        assert_eq!(measure.usable(Form::Island).map(|d| d.instructions[0].text.as_str()), Ok(text));
        // Behind a pad it is one word on guarded pages as well.
        let function = words(&[0xd503_245f, sign, 0xd65f_03c0]);
        let plan = plan_of(&measured_guarded(&function), &function, Form::Island);
        assert_eq!((plan.site, plan.entry.len()), (AT + 4, 4));
    }
}

#[test]
fn case_089_102_on_guarded_pages_a_landing_pad_takes_the_place_of_signing() {
    for (sign, text) in SIGNING {
        // mov x29, sp behind it.
        let function = words(&[sign, 0x9100_03fd, 0xd65f_03c0]);
        let measure = measured_guarded(&function);
        let plan = plan_of(&measure, &function, Form::Island);
        assert_eq!((plan.site, plan.original.len()), (AT, 8));
        assert_eq!(plan.entry[..4], 0xd503_245fu32.to_le_bytes(), "bti c");
        assert_eq!(plan.trampoline[..8], hex(&words(&[sign, 0x9100_03fd])));
        let displaced = measure.usable(Form::Island).expect("a usable form");
        let listed: Vec<_> = displaced.instructions.iter().map(|i| (i.offset, i.len, &*i.text)).collect();
        assert_eq!(listed, [(0, 4, text), (4, 4, ".inst 0x910003fd")]);

        // A thread behind the signing has a signed return address: it goes on behind the trampoline's.
        let (map, trampoline) = (&plan.pc_map, PLACES.trampoline);
        assert_eq!(map.entries(), [(AT, trampoline), (AT + 4, trampoline + 4)]);
        assert_eq!([AT, AT + 4, AT + 8].map(|pc| map.inside(pc)), [false, true, false]);
        assert_eq!((map.forward(AT + 4), map.forward(AT + 8)), (Some(trampoline + 4), None));
        let back = [0, 4, 8].map(|offset| map.back(trampoline + offset));
        assert_eq!(back, [Some(AT), Some(AT + 4), Some(AT + 8)]);
        // One behind the pad has not signed yet: without the jump it begins again.
        assert_eq!(map.inside_jump(), Some((AT + 4, AT)));

        // The jump elsewhere has the pad as well.
        for form in [Form::Direct, Form::Island] {
            let jump = plan.entry_jump(form, AT + 0x1000).expect("in reach");
            assert_eq!(jump, measure.entry_jump(form, AT + 0x1000).expect("in reach"));
            assert_eq!(jump, hex(&words(&[0xd503_245f, 0x1400_03ff])));
        }
    }
}

/// A `br` into the middle of a function on a guarded page would fault there: ways back are `b`, which needs no landing pad.
#[test]
fn case_101_ways_back_into_the_function_need_no_landing_pad() {
    // mov w0, w1; cbz w0, +8; ret; nop
    let function = words(&[0xd503_233f, 0x2a01_03e0, 0x3400_0040, 0xd65f_03c0, 0xd503_201f]);
    let measure = measured_guarded(&function);
    let plan = plan_of(&measure, &function, Form::Island);
    let back = u32::from_le_bytes(*plan.trampoline[8..].first_chunk().expect("a word"));
    assert_eq!(back & 0xfc00_0000, 0x1400_0000, "b");
    let distance = i64::from(back << 6).wrapping_shl(32) >> 38 << 2;
    assert_eq!((PLACES.trampoline + 8).wrapping_add_signed(distance), AT + 8);
    let (words, _) = plan.trampoline.as_chunks();
    let is_br = |word: &[u8; 4]| u32::from_le_bytes(*word) & 0xffff_fc1f == 0xd61f_0000;
    assert!(!words.iter().any(is_br));
}

#[test]
fn case_089_the_second_word_must_be_movable_and_there() {
    let [(sign, _), _] = SIGNING;
    let refusal = refusal_of(&measured_guarded(&words(&[sign])));
    assert_eq!(refusal, Refusal::TooShort { address: AT, size: 4, site: AT, needed: 8 });
    let refused = |second: &[u32]| refusal_of(&measured_guarded(&words(&[&[sign], second].concat())));
    assert!(matches!(refused(&[0xd420_0000]), Refusal::Breakpoint { address, .. } if address == AT + 4));
    // pacm: ldxr: autiasppc of the word before
    for second in [0xd503_24ffu32, 0xc85f_7c20, 0xf380_001f] {
        assert!(matches!(refused(&[second]), Refusal::Unmovable { .. }), "{second:x}");
    }
    // A call into the site.
    let refusal = refused(&[0xd503_201f, 0x97ff_ffff]);
    assert!(matches!(refusal, Refusal::BranchIntoSite { to, .. } if to == AT + 4), "{refusal}");
    // Recursion goes to the replacement. A branch may go behind the site.
    for body in [[0xd503_201fu32, 0x97ff_fffe], [0xb400_0020, 0xd503_201f]] {
        assert!(measured_guarded(&words(&[&[sign], &body[..]].concat())).usable(Form::Island).is_ok());
    }
    // ldr x0, .-4; adr x0, .-4 of the second word; adr of the entry is its identity.
    for body in [[0xd503_201f, 0x58ff_ffe0u32], [0xd503_201f, 0x10ff_ffe0]] {
        assert!(matches!(refused(&body), Refusal::ReadsOwnBytes { to, .. } if to == AT + 4));
    }
    let identity = words(&[sign, 0xd503_201f, 0x10ff_ffc0]);
    assert!(measured_guarded(&identity).usable(Form::Island).is_ok());
}

#[test]
fn case_088_a_second_landing_pad_is_where_computed_branches_come() {
    // `bti c; bti j` is what GCC makes of `again: ...; goto *t[i];`. A branch in its place is no landing pad, and goes to
    // the replacement in the middle of a call.
    for second in [0xd503_245fu32, 0xd503_249f, 0xd503_24df] {
        for first in [0xd503_245f, 0xd503_233f] {
            let function = words(&[first, second, 0xd503_201f, 0xd61f_0020]);
            let refusal = refusal_of(&measured_guarded(&function));
            let is_it = |address| matches!(refusal, Refusal::Unmovable { address: at, .. } if at == address);
            assert!(is_it(AT + 4), "{first:x} {second:x}: {refusal}");
        }
        assert!(matches!(refused(&words(&[0xd503_245f, second])), Refusal::Unmovable { .. }), "{second:x}");
    }
    // GCC's `bti j` alone, where the function is only called directly: br x2 may go there.
    for (pad, is_usable) in [(0xd503_249f, false), (0xd503_24df, false), (0xd503_245f, true)] {
        let function = words(&[pad, 0xd503_203f, 0xd61f_0040]);
        for measure in [measured(&function), measured_guarded(&function)] {
            assert_eq!(measure.usable(Form::Island).is_ok(), is_usable, "{pad:x}");
        }
    }
    // Behind what is displaced it may stand.
    assert!(measured(&words(&[0xd503_245f, 0xd503_201f, 0xd503_249f])).usable(Form::Island).is_ok());
}

#[test]
fn guarded_functions_that_are_only_called_directly_need_no_landing_pad() {
    let function = words(&[0xd503_201f, 0xd503_233f, 0xd65f_03c0]);
    let plan = plan_of(&measured_guarded(&function), &function, Form::Island);
    assert_eq!((plan.site, plan.entry.len(), plan.pc_map.inside_jump()), (AT, 4, None));
}

#[test]
fn case_100_windows_of_sites_with_a_landing_pad() {
    const HIGH: u64 = 0xaaaa_5555_0000;
    const LEN: u64 = 0x1000;
    let bytes = hex(&words(&[0xd503_233f, 0xd503_201f, 0xd65f_03c0]));
    let function = Function { address: HIGH, bytes: &bytes, guarded: true };
    let measure = measure(InstructionSet::Aarch64, &function);
    let window = measure.window(Form::Island, LEN).expect("a window");
    // The branch at HIGH + 4 reaches the first and the last byte, the branch to HIGH + 8 may be anywhere.
    assert_eq!(window, HIGH + 8 - ((128 << 20) - 4)..=HIGH + 4 + (128 << 20) - LEN);
    let room = measure.trampoline_room(Form::Island) as u64;
    for start in [window.start().next_multiple_of(8), window.end() & !7] {
        let slot_last = Places { trampoline: start, island: start + 64, slot: start + LEN - 8 };
        let slot_first = Places { trampoline: start + LEN - room, island: start + 8, slot: start };
        let island_last = Places { trampoline: start + 64, island: start + LEN - 12, slot: start };
        for places in [slot_last, slot_first, island_last] {
            let plan = encode(&measure, Form::Island, &places, 0);
            assert!(plan.is_ok(), "{places:x?}: {:?}", plan.err());
        }
    }
}

#[test]
fn signing_with_pc_is_refused() {
    // paciasppc; autiasppc; retaasppc; retaasppcr x1
    for word in [0xdac1_a3feu32, 0xf380_001f, 0x5500_001f, 0xd65f_0be1] {
        assert!(matches!(refused(&words(&[word])), Refusal::Unmovable { .. }), "{word:x}");
    }
}

#[test]
fn case_090_to_094_authenticated_returns_and_live_registers_move_unchanged() {
    for word in [
        0xd65f_0bffu32,
        0xd65f_0fff,
        0xd503_23bf,
        0xd71f_0a11,
        0xd503_20ff,
        0xdac1_021e,
        0xaa1e_03f0,
        0xaa1e_03e9,
    ] {
        let plan = planned(&words(&[word, 0xd503_201f]), Form::Island);
        assert_eq!(plan.trampoline[..4], word.to_le_bytes(), "{word:x}");
    }
}

#[test]
fn case_095_words_that_must_stay_together() {
    // ldxr, stlxr, ldxp; cpyfp, setp
    for word in [0xc85f_7c20u32, 0x8803_fc20, 0xc87f_0440, 0x1901_0440, 0x1d01_0440, 0x19c2_0420] {
        assert!(matches!(refused(&words(&[word])), Refusal::Unmovable { .. }), "{word:x}");
    }
    // movprfx z0.s, p0/z, z0.s: what compilers make of the first word of `svadd_z`. movprfx z0, z1
    for word in [0x0490_2000u32, 0x0420_bc20] {
        let function = words(&[word, 0x0480_0020, 0xd65f_03c0]);
        assert!(matches!(refused(&function), Refusal::Unmovable { .. }), "{word:x}");
        let signed = words(&[0xd503_233f, word, 0x0480_0020, 0xd65f_03bf]);
        assert!(matches!(refusal_of(&measured_guarded(&signed)), Refusal::Unmovable { .. }), "{word:x}");
    }
    // casp, cas, ldar, swp are whole.
    for word in [0x4820_7c82u32, 0x88a0_7c41, 0x88df_fc20, 0xb820_8041] {
        assert!(measured(&words(&[word])).usable(Form::Island).is_ok(), "{word:x}");
    }
}

#[test]
fn case_096_system_calls_are_allowed() {
    assert_eq!(planned(&words(&[0xd400_0001]), Form::Island).trampoline.len(), 8);
}

#[test]
fn case_097_functions_of_one_word() {
    assert_eq!(planned(&words(&[0xd65f_03c0]), Form::Island).trampoline, [0xc0, 0x03, 0x5f, 0xd6]);
    assert_eq!(planned(&words(&[0]), Form::Island).trampoline, [0; 4]);
    // A debugger's and a uprobe's breakpoint, and those of any other tool.
    for (word, number) in [(0xd420_0000u32, 0), (0xd420_00a0, 5), (0xd43e_0000, 0xf000)] {
        let refusal = refused(&words(&[word]));
        assert_eq!(refusal, Refusal::Breakpoint { address: AT, text: format!("brk #{number:#x}") });
    }
    // What LLVM and GCC make of `__builtin_trap()`. A handler may go on behind it.
    for word in [0xd420_0020u32, 0xd420_7d00] {
        let plan = planned(&words(&[word]), Form::Island);
        let back = 0x1400_0000 | (AT as u32).wrapping_sub(PLACES.trampoline as u32) >> 2 & 0x3ff_ffff;
        assert_eq!(plan.trampoline, hex(&words(&[word, back])));
    }
}

#[test]
fn case_098_patchable_entries() {
    let (nop, ret) = (0xd503_201fu32, 0xd65f_03c0);
    // -fpatchable-function-entry=2; also with -mbranch-protection=standard, where `bti c` comes first; mov x9, x30.
    for (function, kept) in [
        (&[nop, nop, ret][..], 0),
        (&[0xd503_245f, nop, nop, 0xd503_233f, ret], 4),
        (&[0xd503_245f, 0xaa1e_03e9, nop, 0xd503_233f, ret], 4),
    ] {
        for measure in [measured(&words(function)), measured_guarded(&words(function))] {
            let plan = plan_of(&measure, "a patchable entry", Form::Island);
            assert_eq!((plan.site, plan.entry.len()), (AT + kept, 4));
            assert_eq!(plan.trampoline[..4], function[kept as usize / 4].to_le_bytes());
        }
    }
}

#[test]
fn privileged_words_and_transactions() {
    for word in [0xd400_0002u32, 0xd400_0003, 0xd69f_03e0, 0xd440_0000] {
        assert!(matches!(refused(&words(&[word])), Refusal::Privileged { .. }), "{word:x}");
    }
    for word in [0xd523_3060u32, 0xd503_307f, 0xd460_0020] {
        assert!(matches!(refused(&words(&[word])), Refusal::Transaction { .. }), "{word:x}");
    }
}

#[test]
fn there_is_no_slot_form() {
    let measure = measured(&words(&[0xd65f_03c0]));
    let expected = Refusal::NoSuchForm { set: InstructionSet::Aarch64, form: Form::Slot };
    assert_eq!(measure.usable(Form::Slot).err(), Some(&expected));
    assert_eq!(measure.window(Form::Slot, 64), None);
    assert_eq!(measure.entry_jump(Form::Slot, AT + 64), Err(expected));
}
