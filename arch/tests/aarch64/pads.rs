//! Landing pads, signing, traps, and words that must stay together.

use midflight_arch::{Form, InstructionSet, Refusal};

use super::{measured, planned, refused, words};
use crate::support::AT;

#[test]
fn case_088_the_site_is_behind_the_landing_pad() {
    for pad in [0xd503_245fu32, 0xd503_249f, 0xd503_24df] {
        let plan = planned(&words(&[pad, 0xd503_201f, 0xd65f_03c0]), Form::Island);
        assert_eq!(plan.site, AT + 4);
        assert!(matches!(refused(&words(&[pad])), Refusal::TooShort { .. }));
    }
    // Plain bti is no landing pad for a call.
    assert_eq!(measured(&words(&[0xd503_241f, 0xd65f_03c0])).site(), AT);
}

#[test]
fn case_089_signing_at_the_entry_is_refused_behind_a_pad_it_moves() {
    for (sign, text) in [(0xd503_233fu32, "paciasp"), (0xd503_237f, "pacibsp")] {
        let refusal = refused(&words(&[sign, 0xd65f_03c0]));
        assert!(matches!(&refusal, Refusal::Unmovable { text: t, .. } if t == text), "{refusal}");
        assert!(measured(&words(&[0xd503_245f, sign, 0xd65f_03c0])).usable(Form::Island).is_ok());
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
    let refusal = refused(&words(&[0xd420_0020]));
    assert_eq!(refusal, Refusal::Breakpoint { address: AT, text: "brk #0x1".into() });
}

#[test]
fn case_098_patchable_entries() {
    let plan = planned(&words(&[0xd503_201f, 0xd503_201f, 0xd65f_03c0]), Form::Island);
    assert_eq!(plan.trampoline[..4], 0xd503_201fu32.to_le_bytes());
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
    assert_eq!(midflight_arch::entry_jump(InstructionSet::Aarch64, Form::Slot, AT, AT + 64), Err(expected));
}
