//! Landing pads, patchable entries, long instructions, what others have written.

use midflight_arch::{Around, Form, Function, Refusal};

use crate::support::{AT, displaced, hex, measured, moved, planned, planned_in, refused};

#[test]
fn case_059_the_site_is_behind_the_landing_pad() {
    let plan = planned("f30f1efa 31c0 90*5 c3", Form::Island).site;
    assert_eq!(plan, AT + 4);
}

#[test]
fn case_060_patchable_entries() {
    assert_eq!(displaced("0f1f440000 c3", Form::Island), ["nop [rax+rax]"]);
    assert_eq!(displaced("0f1f440008 c3", Form::Island), ["nop [rax+rax+8]"]);
    assert_eq!(displaced("90*5 c3", Form::Island).len(), 5);
    assert_eq!(displaced("f30f1efa 0f1f440000 c3", Form::Island).len(), 1);
    assert_eq!(planned("90*5 c3", Form::Slot).pc_map.entries().len(), 6);
}

#[test]
fn case_061_the_longest_instructions() {
    assert_eq!(displaced("6666662e0f1f840000000000 c3", Form::Slot).len(), 1);
    let longest = "2e2e2e2e2e2e2e 48b80102030405060708"; // 17 bytes: too long for a processor
    assert!(matches!(refused(longest), Refusal::Undecodable { .. }));
    let measure = measured("2e2e2e2e2e 48b80102030405060708 c3");
    assert_eq!(measure.usable(Form::Slot).map(|d| d.span), Ok(15));
}

#[test]
fn case_062_what_others_have_written() {
    assert!(matches!(refused("cc 8bec 90*8"), Refusal::Breakpoint { address: AT, .. }));
    // A foreign hook is a jump like any other: kept by the trampoline, if it fills the site.
    assert_eq!(moved("e900010000 90*3"), ["jmp 0x401105"]);
    assert_eq!(moved("ff2500010000 90*3"), ["jmp qword ptr [0x401106]"]);
}

#[test]
fn case_064_an_entry_at_the_end_of_a_page() {
    for before in 1..=15 {
        let bytes = hex("55 4889e5 488d0500010000 c3");
        let function = Function { address: 0x40_2000 - before, bytes: &bytes, guarded: false };
        let plan = planned_in(&function, &Around::default(), Form::Slot);
        assert_eq!((plan.site, &plan.original[..]), (function.address, &bytes[..6]));
        assert!(plan.has_inside && !plan.changes_at_once);
    }
}

#[test]
fn case_067_to_069_the_trampoline_needs_no_register_and_no_stack() {
    // The red zone, al of a variadic call, r10 and r11.
    assert_eq!(moved("48897c24f8 84c0 c3"), ["mov [rsp-8], rdi", "jmp 0x401005"]);
    assert_eq!(moved("84c0 7410 90 c3"), ["test al, al", "je 0x401014", "nop", "jmp 0x401005"]);
    assert_eq!(moved("4d8b1a 4d85db c3"), ["mov r11, [r10]", "test r11, r11", "jmp 0x401006"]);
}
