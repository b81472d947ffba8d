//! Branches on rcx: short only, no inverse. Loops to the entry: which of them may be changed.

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

/// Loops of a function with this text and these bytes behind it, as far as one of `form` would change them; the padding
/// is elsewhere, at `padding`.
fn changed(text: &str, behind: &str, padding: (u64, &str), form: Form) -> Result<Vec<(u64, usize)>, Refusal> {
    let (bytes, behind, pad) = (hex(text), hex(behind), hex(padding.1));
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    let paddings = [(padding.0, &pad[..])];
    let around = Around { behind: &behind, paddings: &paddings, ..Around::default() };
    let measure = measure_in(InstructionSet::X86_64, &function, &around);
    measure.usable(form).map_err(Clone::clone)?;
    Ok(measure.overwrites_too(form))
}

#[test]
fn what_a_punned_jump_needs_is_no_loop_that_changes() {
    // pause; jmp to it: the distance would be a byte of the punned jump.
    for text in ["f390 ebfc", "90*2 ebfc"] {
        let refused = changed(text, "55 4889e5", (AT + 0x20, "cc*10"), Form::Punned);
        assert!(matches!(refused, Err(Refusal::LoopsToEntry { to: AT, .. })), "{refused:?}");
    }
    let beyond = changed("f390 85c0 31c0 75f8 c3", "", (AT + 0x20, "cc*5"), Form::Punned);
    assert_eq!(beyond, Ok(vec![(AT + 6, 2), (AT + 0x20, 5)]));
}

#[test]
fn data_that_looks_like_a_loop_is_not_changed() {
    // ret, then what would be a jump back to the entry.
    let data = changed("90*8 c3 ebf5", "", (AT + 0x20, "cc*5"), Form::Island);
    assert!(matches!(data, Err(Refusal::LoopsToEntry { from: 0x401009, .. })), "{data:?}");
    // jo into itself, behind which jb back to the entry has bytes of an `or`.
    let shared = changed("48ffce ffc7 70ff 0a72f6 c3", "", (AT + 0x20, "cc*5"), Form::Island);
    assert!(matches!(shared, Err(Refusal::LoopsToEntry { from: 0x401008, .. })), "{shared:?}");
    // Behind a jump over the opcode of a mov, which may be somewhere's as well.
    let hidden = changed("90*8 eb01 b8 75f3 90*2 c3", "", (AT + 0x20, "cc*5"), Form::Island);
    assert!(matches!(hidden, Err(Refusal::LoopsToEntry { from: 0x40100b, .. })), "{hidden:?}");
    let reached = changed("90*8 7401 c3 ebf3", "", (AT + 0x20, "cc*5"), Form::Island);
    assert_eq!(reached, Ok(vec![(AT + 11, 2), (AT + 0x20, 5)]));
}

#[test]
fn padding_that_the_function_runs_into_holds_no_stub() {
    let falls = changed("90*8 75f6", "90*8", (AT + 10, "90*8"), Form::Island);
    assert!(matches!(falls, Err(Refusal::LoopsToEntry { from: 0x401008, .. })), "{falls:?}");
    let returns = changed("90*8 75f6 c3", "90*8", (AT + 11, "90*8"), Form::Island);
    assert_eq!(returns, Ok(vec![(AT + 8, 2), (AT + 11, 5)]));
}
