//! Branches at the site and in the body.

use midflight_arch::Form;

use super::{NOP, measured, planned, words};
use crate::support::{AT, PLACES};

#[test]
fn case_079_a_thunk_of_one_branch() {
    let plan = planned(&words(&[0x1400_0400]), Form::Island);
    assert_eq!(plan.trampoline.len(), 4);
    assert_eq!(plan.pc_map.back(PLACES.trampoline + 4), None);
}

#[test]
fn case_082_branches_to_the_next_word_and_before_the_entry() {
    assert!(measured(&words(&[0x1400_0001, 0xd65f_03c0])).usable(Form::Direct).is_ok());
    assert!(measured(&words(&[0x17ff_ffff])).usable(Form::Direct).is_ok());
}

#[test]
fn case_083_to_085_conditional_branches_lead_back() {
    for (word, text) in [
        (0x5400_8000, "b.eq 0x402000"),
        (0x5400_0130, "bc.eq 0x401024"),
        (0xb400_0208, "cbz x8, 0x401040"),
        (0x3500_0209, "cbnz w9, 0x401040"),
        (0xb608_020a, "tbz x10, #33, 0x401040"),
        (0x3728_020b, "tbnz w11, #5, 0x401040"),
        (0xf423_0205, "cbge x5, x3, 0x401040"),
        (0x7423_8205, "cbbge w5, w3, 0x401040"),
        (0x74ff_c21f, "cbhne wzr, wzr, 0x401040"),
        (0x755f_8205, "cbhi w5, #63, 0x401040"),
    ] {
        let function = words(&[word]);
        let measure = measured(&function);
        assert_eq!(measure.usable(Form::Island).map(|d| d.instructions[0].text.as_str()), Ok(text));
        let map = planned(&function, Form::Island).pc_map;
        assert_eq!(map.back(PLACES.trampoline + 4), Some(AT + 4));
        assert_eq!(map.back(PLACES.trampoline + 8).map(|to| text.ends_with(&format!("{to:#x}"))), Some(true));
    }
}

#[test]
fn what_cb_does_not_allocate_is_no_branch() {
    // Conditions 4 and 5; size 1; bytes of x5; bit 14 beside a number.
    for word in [0x7483_0205u32, 0x74a3_0205, 0x7423_4205, 0xf423_8205, 0x755f_c205] {
        let plan = planned(&words(&[word]), Form::Island);
        assert_eq!((plan.trampoline.len(), &plan.trampoline[..4]), (8, &word.to_le_bytes()[..]), "{word:x}");
    }
}

#[test]
fn case_086_a_branch_over_the_next_word() {
    assert!(measured(&words(&[0xb400_0040, 0xd503_201f, 0xd65f_03c0])).usable(Form::Island).is_ok());
}

#[test]
fn indirect_jumps_are_told() {
    assert!(measured(&words(&[0xd503_201f, 0xd61f_0200])).has_indirect_jump());
    assert!(measured(&words(&[0xd71f_0a11])).has_indirect_jump());
    assert!(!measured(&format!("{NOP} c0035fd6")).has_indirect_jump());
}
