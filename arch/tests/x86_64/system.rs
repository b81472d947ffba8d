//! System calls, transactions, privileged instructions.

use midflight_arch::{Form, Refusal};

use crate::support::{measured, moved, refused};

#[test]
fn case_058_system_calls_are_allowed() {
    assert_eq!(moved("6a27 58 0f05 c3"), ["push 0x27", "pop rax", "syscall", "jmp 0x401005"]);
    assert_eq!(measured("b827000000 0f05 c3").usable(Form::Slot).map(|d| d.span), Ok(7));
    assert_eq!(moved("90*3 cd80 c3")[3], "int 0x80");
}

#[test]
fn case_066_shadow_stack_frames_and_transactions() {
    assert_eq!(moved("f3480f1ec8 c3")[0], "rdsspq rax");
    assert_eq!(moved("c8100000 90 c3")[0], "enter 0x10, 0");
    assert_eq!(moved("c7f800010000 c3"), ["xbegin 0x401106", "jmp 0x401006"]);
    // An abort to where it began.
    assert_eq!(moved("90 c7f8f9ffffff c3")[1], "xbegin 0x500000");
    assert_eq!(moved("90 c7f8faffffff c3")[1], "xbegin 0x500001");
    assert_eq!(moved("90*3 0f01d5 c3")[3], "xend");
    assert_eq!(moved("90*3 c6f801 c3")[3], "xabort 1");
    assert!(matches!(
        refused("66c7f80001 90*4 c3"),
        Refusal::Transaction { .. } | Refusal::VendorDependent { .. }
    ));
    // The abort target counts as a branch.
    assert!(matches!(refused("90*6 c7f8f6ffffff c3"), Refusal::BranchIntoSite { .. }));
    assert!(measured("90*6 c7f800000000 c3").usable(Form::Slot).is_ok());
}

#[test]
fn privileged_instructions_and_odd_ways_into_the_system() {
    for text in ["0f34 90*4", "480f07 90*4", "fa 90*5", "0f01f8 90*4", "cd03 90*4", "f1 90*5", "0f01c1 90*4"]
    {
        let refusal = refused(text);
        let expected = matches!(refusal, Refusal::Privileged { .. } | Refusal::FarTransfer { .. });
        assert!(expected, "{text}: {refusal}");
    }
}
