//! Calls at the site, as another decoder reads what stands for them.

use midflight_arch::{Around, Form, Function, InstructionSet, Refusal, measure_in};

use super::reference::text;
use super::{measured, measured_guarded, plan_of, planned, refusal_of, words};
use crate::support::{AT, PLACES, hex};

const PACIASP: u32 = 0xd503_233f;

/// The words of a trampoline without the address behind them, and that address.
fn listing(trampoline: &[u8]) -> (Vec<String>, u64) {
    let (code, address) = trampoline.split_last_chunk::<8>().expect("an address");
    let places = (PLACES.trampoline..).step_by(4);
    let words = code.as_chunks().0.iter().zip(places);
    let texts = words.map(|(word, at)| text(u32::from_le_bytes(*word), at).expect("a known word"));
    (texts.collect(), u64::from_le_bytes(*address))
}

#[test]
fn case_080_a_call_returns_to_the_function() {
    let load = format!("ldr x30, {:#x}", PLACES.trampoline + 8);
    for (word, to) in [(0x9400_0400, AT + 0x1000), (0x97ff_fc00, AT - 0x1000), (0x95ff_ffff, AT + 0x7ff_fffc)]
    {
        let function = words(&[word, 0xd65f_03c0]);
        let measure = measured(&function);
        let mut places = PLACES;
        if to > AT + 0x2000 {
            // The trampoline must reach what was called, at the end of its own reach.
            let window = measure.window(Form::Island, 0x1000).expect("a window");
            assert_eq!(*window.start(), to - 0x7ff_fffc);
            places.trampoline = *window.start() + 0x10_0000;
        }
        let plan = midflight_arch::encode(&measure, Form::Island, &places, AT + 0x1000).expect("a plan");
        let second = u32::from_le_bytes(*plan.trampoline[4..].first_chunk().expect("a word"));
        assert_eq!(text(second, places.trampoline + 4), Some(format!("b {to:#x}")));
        assert_eq!(plan.trampoline[8..], (AT + 4).to_le_bytes());
        let back = [0, 4, 8].map(|offset| plan.pc_map.back(places.trampoline + offset));
        assert_eq!(back, [Some(AT), Some(to), None]);
    }
    let (texts, address) = listing(&planned(&words(&[0x9400_0400, 0xd65f_03c0]), Form::Island).trampoline);
    assert_eq!((texts, address), (vec![load, format!("b {:#x}", AT + 0x1000)], AT + 4));
}

#[test]
fn case_080_outlined_prologues() {
    // str x30, [sp, #-16]! is the first word; behind paciasp, the call is displaced with it on guarded pages.
    let function = words(&[PACIASP, 0x9400_0400, 0xd65f_03c0]);
    let plan = plan_of(&measured_guarded(&function), &function, Form::Island);
    let (texts, address) = listing(&plan.trampoline);
    let load = format!("ldr x30, {:#x}", PLACES.trampoline + 12);
    assert_eq!(texts, ["paciasp".to_owned(), load, format!("b {:#x}", AT + 0x1004)]);
    assert_eq!(address, AT + 8);
}

#[test]
fn case_081_get_pc() {
    let plan = planned(&words(&[0x9400_0001, 0xaa1e_03e0, 0xd65f_03c0]), Form::Island);
    let (texts, address) = listing(&plan.trampoline);
    assert_eq!((texts[1].as_str(), address), (format!("b {:#x}", AT + 4).as_str(), AT + 4));
}

#[test]
fn case_080_recursion_goes_to_the_replacement() {
    assert!(measured(&words(&[0xd503_201f, 0x97ff_ffff])).usable(Form::Island).is_ok());
    let (texts, _) = listing(&planned(&words(&[0x9400_0000, 0xd65f_03c0]), Form::Island).trampoline);
    assert_eq!(texts[1], format!("b {AT:#x}"));
}

#[test]
fn case_091_calls_through_registers() {
    // The operand that is x30 is moved to x16, or to x17 where x16 is the other.
    for (word, before, jump) in [
        (0xd63f_0120u32, None, "br x9"),
        (0xd63f_0200, None, "br x16"),
        (0xd63f_03c0, Some("orr x16, xzr, x30"), "br x16"),
        (0xd73f_0a11, None, "braa x16, x17"),
        (0xd73f_0c45, None, "brab x2, x5"),
        (0xd73f_087f, None, "braa x3, sp"),
        (0xd63f_081f, None, "braaz x0"),
        (0xd63f_0fdf, Some("orr x16, xzr, x30"), "brabz x16"),
        (0xd73f_0bc5, Some("orr x16, xzr, x30"), "braa x16, x5"),
        (0xd73f_0bd0, Some("orr x17, xzr, x30"), "braa x17, x16"),
        (0xd73f_08be, Some("orr x16, xzr, x30"), "braa x5, x16"),
        (0xd73f_0e1e, Some("orr x17, xzr, x30"), "brab x16, x17"),
        (0xd73f_0bde, Some("orr x16, xzr, x30"), "braa x16, x16"),
        (0xd73f_0bdf, Some("orr x16, xzr, x30"), "braa x16, sp"),
    ] {
        let plan = planned(&words(&[word, 0xd65f_03c0]), Form::Island);
        let (texts, address) = listing(&plan.trampoline);
        let load = format!("ldr x30, {:#x}", PLACES.trampoline + plan.trampoline.len() as u64 - 8);
        let expected = before.into_iter().chain([load.as_str(), jump]);
        assert_eq!(texts, expected.collect::<Vec<_>>(), "{word:x}");
        assert_eq!(address, AT + 4, "{word:x}");
        let back: Vec<_> =
            (0..4).map(|index| plan.pc_map.back(PLACES.trampoline + index * 4)).take(texts.len()).collect();
        // The last word cannot be done again once x30 is the return address.
        let expected = if before.is_some() { vec![Some(AT), Some(AT), None] } else { vec![Some(AT); 2] };
        assert_eq!(back, expected, "{word:x}");
    }
}

#[test]
fn calls_that_are_not_allocated_are_refused() {
    // `blr` with other bits 4 to 0, bits 20 to 16, bits 15 to 11; `blraa` without bit 11
    for word in [0xd63f_0121u32, 0xd63e_0120, 0xd63f_1120, 0xd63f_0920, 0xd73f_0211] {
        assert!(matches!(refusal_of(&measured(&words(&[word]))), Refusal::Call { .. }), "{word:x}");
    }
}

#[test]
fn a_guarded_control_stack_forbids_displaced_calls() {
    let around = Around { shadow_stack: true, ..Around::default() };
    for word in [0x9400_0400u32, 0x9400_0001, 0xd63f_0120, 0xd73f_0a11] {
        let bytes = hex(&words(&[word, 0xd65f_03c0]));
        let function = Function { address: AT, bytes: &bytes, guarded: false };
        let measure = measure_in(InstructionSet::Aarch64, &function, &around);
        let refusal = refusal_of(&measure);
        assert!(matches!(refusal, Refusal::Call { address: AT, .. }), "{refusal}");
        assert!(measured(&words(&[word, 0xd65f_03c0])).usable(Form::Island).is_ok());
    }
    // Other words do not call.
    let bytes = hex(&words(&[0xd503_201f, 0x9400_0400]));
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    assert!(measure_in(InstructionSet::Aarch64, &function, &around).usable(Form::Island).is_ok());
}
