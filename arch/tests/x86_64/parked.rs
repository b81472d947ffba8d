//! Where a thread may be when the site changes.

use midflight_arch::Form;

use crate::support::{AT, PLACES, measured, planned};

#[test]
fn inside_is_strictly_between() {
    let map = planned("31c0 83ff05 90 c3", Form::Slot).pc_map;
    assert!(!map.inside(AT - 1) && !map.inside(AT));
    assert!((1..6).all(|i| map.inside(AT + i)));
    assert!(!map.inside(AT + 6));
    let trampoline = PLACES.trampoline;
    assert_eq!(map.entries(), [(AT, trampoline), (AT + 2, trampoline + 2), (AT + 5, trampoline + 5)]);
    assert_eq!((map.forward(AT + 1), map.forward(AT + 6)), (None, None));
    assert_eq!(map.back(trampoline + 6), Some(AT + 6), "the jump back");
}

#[test]
fn case_103_a_repeatable_first_instruction_makes_the_entry_an_inside() {
    for text in [
        "f3aa 90*4 c3",       // rep stosb
        "f3a4 90*4 c3",       // rep movsb
        "f348ab 90*4 c3",     // rep stosq
        "f2ae 90*4 c3",       // repne scasb
        "c4e2719004d0 90 c3", // vpgatherdd xmm0, [rax+xmm2*8], xmm1
        "62f27d49a004d0 c3",  // vpscatterdd [rax+zmm2*8]{k1}, zmm0
        "c4e27b4b0408 c3",    // tileloadd tmm0, [rax+rcx]
    ] {
        let map = planned(text, Form::Island).pc_map;
        assert!(map.inside(AT), "{text}");
        assert_eq!(map.forward(AT), Some(PLACES.trampoline));
    }
    for text in ["aa 90*4 c3", "90 f3aa 90*4 c3", "f390 90*4 c3", "f30f10c1 90*4 c3", "f20f8410000000 c3"] {
        assert!(!planned(text, Form::Island).pc_map.inside(AT), "{text}");
    }
}

#[test]
fn a_loop_made_of_three_leads_back_to_where_it_would_go() {
    let map = planned("e209 90*3 c3", Form::Island).pc_map;
    let trampoline = PLACES.trampoline;
    assert_eq!(map.back(trampoline), Some(AT));
    assert_eq!(map.back(trampoline + 2), Some(AT + 2), "not taken");
    assert_eq!(map.back(trampoline + 4), Some(AT + 11), "taken");
    assert_eq!(map.back(trampoline + 1), None);
}

/// The kernel makes an interrupted system call again, with pc at the instruction: it may not find the jump there.
#[test]
fn a_system_call_that_comes_first_has_an_inside() {
    for first in ["0f05", "cd80"] {
        let measure = measured(&format!("{first} 31c0 31c0 c3"));
        for form in [Form::Island, Form::Punned] {
            assert!(measure.has_inside(form) && !measure.changes_at_once(form), "{first} {form}");
        }
        assert!(planned(&format!("{first} 31c0 31c0 c3"), Form::Island).pc_map.inside(AT));
    }
    let measure = measured("31c0 31c0 31c0 c3");
    assert!(!measure.has_inside(Form::Punned) && measure.changes_at_once(Form::Punned));
}
