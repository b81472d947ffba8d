//! Short functions, and code that ends within the site.

use midflight_arch::{Form, Refusal};

use crate::support::{AT, measured, moved, refused};

fn too_short(text: &str) {
    for form in [Form::Direct, Form::Slot, Form::Island] {
        let measure = measured(text);
        let refusal = measure.usable(form);
        assert!(matches!(refusal, Err(Refusal::TooShort { address: AT, .. })), "{text}: {refusal:?}");
        assert_eq!((measure.trampoline_room(form), measure.window(form, 64)), (0, None));
    }
}

#[test]
fn case_045_to_049_a_short_function_ends_where_its_symbol_ends() {
    too_short("31c0 c3");
}

#[test]
fn case_045_to_048_what_follows_a_return_may_be_data() {
    for padding in ["90*2", "662e0f1f840000000000", "cc*2", "00*4"] {
        let text = format!("31c0 c3 {padding} 90*4");
        assert!(matches!(refused(&text), Refusal::EndsEarly { covered: 3, needed: 5, .. }), "{text}");
    }
}

#[test]
fn case_050_functions_of_one_to_three_bytes() {
    for text in ["c3", "f3c3", "c20800", ""] {
        too_short(text);
    }
    assert!(matches!(refused("c3 90*8"), Refusal::EndsEarly { covered: 1, .. }));
    assert_eq!(moved("90*3 c20800"), ["nop", "nop", "nop", "ret 8"]);
}

#[test]
fn case_051_traps_first() {
    assert!(matches!(refused("0f0b 90*8"), Refusal::EndsEarly { .. }));
    assert!(matches!(refused("f4 90*8"), Refusal::EndsEarly { .. }));
    assert!(matches!(refused("cc 90*8"), Refusal::Breakpoint { .. }));
    assert_eq!(moved("90*3 0f0b"), ["nop", "nop", "nop", "ud2"]);
}

#[test]
fn case_059_one_byte_behind_a_landing_pad() {
    too_short("f30f1efa c3");
    assert_eq!(measured("f30f1efa c3").site(), AT + 4);
}

#[test]
fn case_063_undecodable() {
    assert_eq!(refused("06 90*8"), Refusal::Undecodable { address: AT, bytes: vec![6, 0x90, 0x90, 0x90] });
    assert_eq!(refused("90*8 c3 0f"), Refusal::Undecodable { address: AT + 9, bytes: vec![0x0f] });
    assert_eq!(refused("90*8 c3 06"), Refusal::Undecodable { address: AT + 9, bytes: vec![6] });
    // Cut off in an immediate.
    assert!(matches!(refused("90*8 b80000"), Refusal::Undecodable { .. }));
}

#[test]
fn the_last_instruction_may_end_with_the_function() {
    assert_eq!(moved("90*5"), ["nop", "nop", "nop", "nop", "nop", "jmp 0x401005"]);
    assert!(matches!(measured("90*5").usable(Form::Slot), Err(Refusal::TooShort { .. })));
    assert!(measured("90*6").usable(Form::Slot).is_ok());
}
