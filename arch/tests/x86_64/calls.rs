//! Calls: their return address stays what it is.

use midflight_arch::{Around, Form, Function, InstructionSet, Refusal, measure_in};

use crate::support::{AT, PLACES, hex, measured, moved, planned, refused};

/// The 8 bytes behind the code of the trampoline: the return address.
fn constant(text: &str) -> u64 {
    let bytes = planned(text, Form::Island).trampoline;
    u64::from_le_bytes(bytes[bytes.len() - 8..].try_into().expect("8 bytes"))
}

#[test]
fn case_005_call_first() {
    assert_eq!(moved("e800010000 c3"), ["push qword ptr [0x50000b]", "jmp 0x401105"]);
    assert_eq!(constant("e800010000 c3"), AT + 5);
    let refusal = refused("ffd0 90*4 c3");
    let expected = Refusal::ReturnsIntoSite { address: AT, to: AT + 2, text: "call rax".into() };
    assert_eq!(refusal, expected);
    assert_eq!(moved("90*3 ffd0 c3")[3..], ["push qword ptr [0x50000b]", "jmp rax"]);
    assert_eq!(moved("ff1500010000 c3"), ["push qword ptr [0x50000c]", "jmp qword ptr [0x401106]"]);
    assert_eq!(constant("ff1500010000 c3"), AT + 6);
}

#[test]
fn calls_through_memory_read_the_pointer_that_was_there() {
    // The operand is found before the return address is pushed.
    assert_eq!(moved("90 ff542418 c3")[1..], ["push qword ptr [0x50000b]", "jmp qword ptr [rsp+0x20]"]);
    assert_eq!(moved("90*2 ff1424 c3")[2..], ["push qword ptr [0x50000c]", "jmp qword ptr [rsp+8]"]);
    assert_eq!(moved("90*2 ff542478 c3")[2..], ["push qword ptr [0x50000f]", "jmp qword ptr [rsp+0x80]"]);
    // In what may be the place of the return address.
    let text = "90*2 ff5018 c3";
    let through = [
        "lea rsp, [rsp-8]",
        "push qword ptr [rax+0x18]",
        "lea rsp, [rsp+0x10]",
        "push qword ptr [0x500019]",
        "jmp qword ptr [rsp-8]",
    ];
    assert_eq!(moved(text)[2..], through);
    assert_eq!(constant(text), AT + 5);
    assert_eq!(moved("90*2 ff5424f8 c3")[3], "push qword ptr [rsp]");
    assert!(matches!(refused("90*3 ffd4 c3"), Refusal::Unmovable { .. }), "call rsp");
    assert_eq!(moved("90*2 41ff5018 c3")[3], "push qword ptr [r8+0x18]");
}

#[test]
fn the_prefixes_of_calls() {
    assert_eq!(moved("90*2 3effd0 c3")[3], "notrack jmp rax");
    assert_eq!(moved("90 f2e800010000 c3")[2], "bnd jmp 0x401107");
    // The padded call of a thread-local lookup.
    assert_eq!(moved("666648e800010000 c3")[1], "jmp 0x401108");
}

#[test]
fn a_shadow_stack_forbids_it() {
    let bytes = hex("e800010000 c3");
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    let around = Around { shadow_stack: true, ..Around::default() };
    let measure = measure_in(InstructionSet::X86_64, &function, &around);
    assert!(matches!(measure.usable(Form::Island), Err(Refusal::Call { address: AT, .. })));
}

#[test]
fn case_052_a_call_behind_the_site_is_no_obstacle() {
    assert!(measured("90*5 e800010000").usable(Form::Island).is_ok());
    // The last instruction of the function, and no jump back behind it.
    assert_eq!(planned("90*5 e800010000", Form::Slot).trampoline.len(), 5 + 6 + 5 + 8);
    assert_eq!(moved("50 e800010000"), ["push rax", "push qword ptr [0x50000c]", "jmp 0x401106"]);
}

#[test]
fn case_053_get_pc() {
    assert_eq!(moved("e800000000 58 c3"), ["push qword ptr [0x50000b]", "jmp 0x401005"]);
    assert_eq!(constant("e800000000 58 c3"), AT + 5);
    assert!(matches!(measured("e800000000 58 c3").usable(Form::Slot), Err(Refusal::ReturnsIntoSite { .. })));
    // A call of what is inside the site.
    assert!(matches!(refused("90*6 e8f7ffffff c3"), Refusal::BranchIntoSite { to: 0x401002, .. }));
    // The same, displaced itself: the copy.
    assert_eq!(moved("90 ffc0 e8f9ffffff c3")[3], "jmp 0x500001");
    assert!(matches!(refused("90 ffc0 e8faffffff c3"), Refusal::BranchIntoSite { to: 0x401002, .. }));
}

#[test]
fn case_054_get_pc_thunk() {
    let moved = moved("53 e800010000 5b c3");
    assert_eq!(moved, ["push rbx", "push qword ptr [0x50000c]", "jmp 0x401106"]);
    assert_eq!(constant("53 e800010000 5b c3"), AT + 6);
}

#[test]
fn where_a_thread_in_a_call_would_be() {
    let map = planned("53 e800010000 5b c3", Form::Island).pc_map;
    let trampoline = PLACES.trampoline;
    assert_eq!(map.back(trampoline + 1), Some(AT + 1), "the push");
    assert_eq!(map.back(trampoline + 7), Some(AT + 0x106), "the jump");
    let map = planned("90*2 ff5018 c3", Form::Island).pc_map;
    assert_eq!(map.back(trampoline + 2), Some(AT + 2));
    assert_eq!(map.back(trampoline + 7), None, "the stack pointer is another");
}

#[test]
fn a_recursive_call_goes_to_the_replacement() {
    assert!(measured("90*6 e8f5ffffff c3").usable(Form::Slot).is_ok());
    assert_eq!(moved("e8fbffffff c3")[1], "jmp 0x401000");
    assert!(measured("f30f1efa 90*6 e8f1ffffff c3").usable(Form::Slot).is_ok());
}

#[test]
fn far_calls_and_jumps() {
    assert!(matches!(refused("ff1d00010000 c3"), Refusal::FarTransfer { .. }));
    assert!(matches!(refused("ff2d00010000 c3"), Refusal::FarTransfer { .. }));
    assert!(matches!(refused("90*4 cb c3"), Refusal::FarTransfer { .. }));
    assert!(matches!(refused("90*4 48cf c3"), Refusal::FarTransfer { .. }));
}
