//! Branches on rcx: short only, no inverse.

use midflight_arch::{Around, Form, Function, InstructionSet, Refusal, measure_in};

use crate::support::{AT, hex, moved, refused};

#[test]
fn case_028_loops_to_the_outside() {
    assert_eq!(
        moved("e209 90*3 c3"),
        ["loop 0x500004", "jmp short 0x500009", "jmp 0x40100b", "nop", "nop", "nop", "jmp 0x401005"]
    );
    assert_eq!(moved("e009 90*3 c3")[0], "loopne 0x500004");
    assert_eq!(moved("e109 90*3 c3")[0], "loope 0x500004");
}

#[test]
fn case_029_jrcxz() {
    assert_eq!(moved("e309 90*3 c3")[..3], ["jrcxz 0x500004", "jmp short 0x500009", "jmp 0x40100b"]);
}

#[test]
fn case_030_jecxz_keeps_its_width() {
    assert_eq!(moved("67e307 90*2 c3")[..3], ["jecxz 0x500005", "jmp short 0x50000a", "jmp 0x40100a"]);
    assert_eq!(moved("67e207 90*2 c3")[0], "addr32 loop 0x500005");
}

#[test]
fn case_031_jrcxz_into_site() {
    let expected = ["jrcxz 0x500004", "jmp short 0x500009", "jmp 0x50000b", "inc edi", "nop", "jmp 0x401005"];
    assert_eq!(moved("e302 ffc7 90 c3"), expected);
    let refusal = refused("e301 ffc7 90 c3");
    assert_eq!(refusal, Refusal::BranchIntoSite { from: AT, to: AT + 3, text: "jrcxz 0x401003".into() });
}

/// The branch would be changed, and its bytes are a part of the jump.
#[test]
fn a_punned_jump_uses_no_bytes_of_a_loop() {
    // Distances lead as far down as up.
    const HIGH: u64 = 0x5500_0000_1000;
    let bytes = hex("f390 ebfc c3 90*20");
    let (function, padding) = bytes.split_at(5);
    let function = Function { address: HIGH, bytes: function, guarded: false };
    let paddings = [(HIGH + 5, padding)];
    let around = Around { behind: padding, padding: 20, paddings: &paddings, shadow_stack: false };
    let measure = measure_in(InstructionSet::X86_64, &function, &around);
    assert_eq!(
        measure.usable(Form::Punned).unwrap_err(),
        &Refusal::UsesBranch { site: HIGH, from: HIGH + 2 }
    );
}

/// What looks like a loop and is reached by nothing may be data, and is not changed.
#[test]
fn what_is_not_reached_is_no_loop() {
    let bytes = hex("31c0 31c0 31c0 c3 ebf7 90*20");
    let (function, padding) = bytes.split_at(9);
    let function = Function { address: AT, bytes: function, guarded: false };
    let paddings = [(AT + 9, padding)];
    let around = Around { behind: padding, padding: 20, paddings: &paddings, shadow_stack: false };
    let measure = measure_in(InstructionSet::X86_64, &function, &around);
    assert!(matches!(measure.usable(Form::Island), Err(Refusal::LoopsToEntry { .. })));
}
