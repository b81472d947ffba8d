//! Short functions, and code that ends within the site.

use midflight_arch::{Around, Form, Function, InstructionSet, Refusal, measure_in};

use crate::support::{AT, PLACES, code, hex, measured, moved, planned_in, refused};

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
    for padding in ["90*2", "662e0f1f840000000000", "cc*2", "0f0b"] {
        let moved = moved(&format!("31c0 c3 {padding} 90*4"));
        assert_eq!(moved[..2], ["xor eax, eax", "ret"], "{padding}");
        assert!(moved[2..].iter().all(|text| !text.starts_with("jmp")), "{moved:?}");
    }
    for data in ["00*4", "ffc7 c3", "06 90*4", "90 ffc7"] {
        let text = format!("31c0 c3 {data} 90*4");
        assert!(matches!(refused(&text), Refusal::EndsEarly { needed: 5, .. }), "{text}");
    }
}

/// The function, the bytes behind it, and how many of those are padding.
fn with_padding(text: &str, behind: &str, padding: usize, form: Form) -> Result<Vec<String>, Refusal> {
    let (bytes, behind) = (hex(text), hex(behind));
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    let around = Around { behind: &behind, padding, ..Around::default() };
    let measure = measure_in(InstructionSet::X86_64, &function, &around);
    measure.usable(form).map_err(Clone::clone)?;
    let plan = planned_in(&function, &around, form);
    let all = [bytes, behind].concat();
    assert_eq!(plan.original, all[(plan.site - AT) as usize..][..plan.entry.len()]);
    let code = code(&plan.trampoline, PLACES.trampoline);
    Ok(code.iter().map(crate::support::text).collect())
}

#[test]
fn case_045_padding_behind_a_short_function() {
    let both = ["xor eax, eax", "ret"].map(str::to_owned).to_vec();
    assert_eq!(with_padding("31c0 c3", "90*2", 2, Form::Island), Ok(both.clone()));
    let refused = with_padding("31c0 c3", "90*2", 2, Form::Slot);
    assert!(matches!(refused, Err(Refusal::TooShort { size: 3, needed: 6, .. })), "{refused:?}");
    assert_eq!(with_padding("31c0 c3", "90*3", 3, Form::Slot), Ok(both));
    assert!(with_padding("31c0 c3", "90*3", 1, Form::Island).is_err(), "one byte only");
    assert!(with_padding("31c0 c3", "90", 2, Form::Island).is_err(), "what is not known");
}

#[test]
fn case_046_padding_of_several_bytes() {
    let padding = "662e0f1f840000000000 0f1f00";
    assert!(with_padding("31c0 c3", padding, 13, Form::Island).is_ok());
    assert!(with_padding("c3", padding, 13, Form::Absolute).is_ok());
    assert!(with_padding("", padding, 13, Form::Island).is_err(), "nothing to displace");
}

#[test]
fn case_047_padding_of_breakpoints() {
    assert!(with_padding("31c0 c3", "cc*2", 2, Form::Island).is_ok());
    assert!(with_padding("f30f1efa c3", "cc*4", 4, Form::Island).is_ok());
}

#[test]
fn case_048_a_constant_is_no_padding() {
    assert!(with_padding("31c0 c3", "00*4", 0, Form::Island).is_err());
    assert!(with_padding("31c0 c3", "00*4", 4, Form::Island).is_err(), "also if somebody says so");
}

#[test]
fn case_052_what_runs_on_behind_the_function() {
    // Padding is run over, or traps.
    let text = |listing: &[&str]| Ok(listing.iter().map(|&text| text.to_owned()).collect());
    let runs_on = with_padding("6a27 58", "0f1f4000 90*2", 6, Form::Island);
    assert_eq!(runs_on, text(&["push 0x27", "pop rax", "jmp 0x401007"]));
    let traps = with_padding("6a27 58", "90 cc", 2, Form::Island);
    assert_eq!(traps, text(&["push 0x27", "pop rax", "int3"]));
    // A call that does not return.
    assert!(with_padding("e800010000", "cc*4", 4, Form::Island).is_ok());
    let returns = with_padding("e800010000", "cc*4", 4, Form::Slot);
    assert!(matches!(returns, Err(Refusal::ReturnsIntoSite { .. })), "{returns:?}");
}

#[test]
fn case_049_the_next_function_follows_at_once() {
    let refused = with_padding("31c0 c3", "b801000000 c3", 0, Form::Island);
    assert!(matches!(refused, Err(Refusal::TooShort { size: 3, needed: 5, .. })), "{refused:?}");
    // But the first instruction alone can be overwritten.
    let (bytes, behind) = (hex("31c0 c3"), hex("b801000000 c3"));
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    let around = Around { behind: &behind, ..Around::default() };
    let measure = measure_in(InstructionSet::X86_64, &function, &around);
    assert_eq!(measure.usable(Form::Punned).map(|displaced| displaced.overwritten), Ok(2));
}

#[test]
fn a_branch_into_the_padding_is_one_into_the_site() {
    let refused = with_padding("7202 c3", "90*9", 9, Form::Island);
    assert!(matches!(refused, Err(Refusal::BranchIntoSite { .. })), "{refused:?}");
}

#[test]
fn case_050_functions_of_one_to_three_bytes() {
    for text in ["c3", "f3c3", "c20800", ""] {
        too_short(text);
    }
    for text in ["c3", "f3c3", "c20800"] {
        assert_eq!(with_padding(text, "90*4", 4, Form::Island).map(|moved| moved.len()), Ok(1));
    }
    assert_eq!(moved("c3 90*8")[0], "ret");
    assert_eq!(moved("90*3 c20800"), ["nop", "nop", "nop", "ret 8"]);
}

#[test]
fn case_051_traps_first() {
    assert_eq!(moved("0f0b 90*8")[0], "ud2");
    assert_eq!(moved("f4 90*8")[0], "hlt");
    assert!(matches!(refused("cc 90*8"), Refusal::Breakpoint { .. }));
    // One that is jumped to is none that fills a gap.
    assert!(matches!(refused("7401 c3 cc 90 90*4"), Refusal::Breakpoint { address: 0x401003, .. }));
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
    assert!(matches!(refused("90*3 0f"), Refusal::TooShort { .. }));
    assert!(matches!(refused("90*4 0f"), Refusal::Undecodable { address: 0x401004, .. }));
    // Cut off in an immediate.
    assert!(matches!(refused("90*3 b80000"), Refusal::Undecodable { .. }));
    // Behind the site it may be data.
    for text in ["90*8 c3 0f", "90*8 c3 06", "90*8 b80000"] {
        assert!(measured(text).usable(Form::Slot).is_ok(), "{text}");
    }
}

#[test]
fn what_follows_undecodable_bytes_may_be_branches() {
    // jb, loop, jmp, je, jmp, call, xbegin; the first of each goes to site+2, the second to site+8.
    for (inside, behind) in [
        ("06 72f7", "06 72fd"),
        ("06 e2f7", "06 e2fd"),
        ("06 ebf7", "06 ebfd"),
        ("06 0f84f3ffffff", "06 0f84f9ffffff"),
        ("06 e9f4ffffff", "06 e9faffffff"),
        ("06 e8f4ffffff", "06 e8faffffff"),
        ("06 c7f8f3ffffff", "06 c7f8f9ffffff"),
        // Hidden in an immediate.
        ("06 b8 72f6 0000", "06 b8 72fc 0000"),
    ] {
        let refusal = refused(&format!("90*8 {inside} 90*8"));
        let expected =
            matches!(refusal, Refusal::PerhapsIntoSite { to: 0x401002, .. } | Refusal::BranchIntoSite { .. });
        assert!(expected, "{inside}: {refusal}");
        assert!(measured(&format!("90*8 {behind} 90*8")).usable(Form::Slot).is_ok(), "{behind}");
    }
    // To the entry, which a call may.
    assert!(measured("90*8 06 e8f2ffffff").usable(Form::Slot).is_ok());
    assert!(matches!(refused("90*8 06 b8 ebf4 90*4"), Refusal::PerhapsIntoSite { to: AT, .. }));
    // Cut off by the end of the function, which the bytes behind it complete.
    let (bytes, behind) = (hex("90*8 06 e9f4"), hex("ffffff"));
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    let around = Around { behind: &behind, ..Around::default() };
    let measure = measure_in(InstructionSet::X86_64, &function, &around);
    assert!(matches!(measure.usable(Form::Island), Err(Refusal::PerhapsIntoSite { .. })));
    // What refers to the site there.
    assert!(matches!(refused("90*8 06 8a05f2ffffff 90*4"), Refusal::ReadsOwnBytes { .. }));
}

#[test]
fn the_last_instruction_may_end_with_the_function() {
    assert_eq!(moved("90*5"), ["nop", "nop", "nop", "nop", "nop", "jmp 0x401005"]);
    assert!(matches!(measured("90*5").usable(Form::Slot), Err(Refusal::TooShort { .. })));
    assert!(measured("90*6").usable(Form::Slot).is_ok());
}
