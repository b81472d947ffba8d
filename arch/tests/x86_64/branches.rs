//! Jumps and conditional jumps, in the displaced instructions and in the body.

use midflight_arch::{Form, Refusal};

use crate::support::{AT, PLACES, displaced, measured, moved, planned, refused};

#[test]
fn case_001_short_jcc_is_widened() {
    assert_eq!(moved("85ff 7414 31c0 c3"), ["test edi, edi", "je 0x401018", "xor eax, eax", "jmp 0x401006"]);
}

#[test]
fn case_002_near_jcc_keeps_its_target() {
    assert_eq!(moved("85ff 0f8400010000 c3"), ["test edi, edi", "je 0x401108", "jmp 0x401008"]);
}

#[test]
fn every_condition_is_kept() {
    for condition in 0..16u8 {
        let short = moved(&format!("{:02x}20 90*3 c3", 0x70 | condition));
        let near = moved(&format!("0f{:02x}1c000000 c3", 0x80 | condition));
        assert_eq!(short[0], near[0], "condition {condition:x}");
    }
}

#[test]
fn case_003_short_jmp_ends_the_code() {
    assert_eq!(moved("eb0c 90*12 c3"), ["jmp 0x40100e", "nop", "nop", "nop"]);
    let refusal = refused("eb0c ffc0 90*10 c3");
    assert!(matches!(refusal, Refusal::EndsEarly { address: AT, covered: 2, needed: 5, .. }), "{refusal}");
}

#[test]
fn case_004_tail_jump_thunk() {
    assert_eq!(moved("e900010000"), ["jmp 0x401105"]);
    let slot = measured("e900010000").usable(Form::Slot).map(|_| ()).map_err(Clone::clone);
    assert!(matches!(slot, Err(Refusal::TooShort { size: 5, needed: 6, .. })), "{slot:?}");
}

#[test]
fn case_006_jump_through_memory_ends_the_trampoline() {
    assert_eq!(moved("ff2500010000"), ["jmp qword ptr [0x401106]"]);
    assert!(!measured("ff2500010000").has_indirect_jump());
}

#[test]
fn case_032_branches_within_the_displaced_instructions() {
    // To just behind the overwritten bytes: on in the function.
    let listing = ["test edi, edi", "je 0x401005", "nop", "jmp 0x401005"];
    assert_eq!(moved("85ff 7401 90 c3"), listing);
    let listing = ["test edi, edi", "je 0x401006", "jb 0x401006", "jmp 0x401006"];
    assert_eq!(moved("85ff 7402 7200 c3"), listing);
    // Into them: to the copy.
    assert_eq!(moved("85ff 7400 90 c3"), ["test edi, edi", "je 0x500008", "nop", "jmp 0x401005"]);

    let slot = planned("85ff 7401 90 c3", Form::Slot);
    assert_eq!(
        crate::support::listing(&slot.trampoline, PLACES.trampoline)[1..],
        ["je 0x500009", "nop", "ret"]
    );
    assert_eq!(slot.pc_map.forward(AT + 5), Some(PLACES.trampoline + 9));
    // A jump over what is between.
    assert_eq!(moved("eb02 90*2 ffc0 c3")[..1], ["jmp 0x500007"]);
    // Into the middle of one.
    let refusal = refused("85ff 74ff 90 c3");
    assert!(matches!(refusal, Refusal::BranchIntoSite { from: 0x401002, to: 0x401003, .. }), "{refusal}");
}

#[test]
fn case_033_branch_hints_stay() {
    assert_eq!(moved("85ff 3e7405 c3")[1], "hint-taken je 0x40100a");
}

#[test]
fn case_034_bnd_prefixes_stay() {
    assert_eq!(moved("f20f8410000000 c3"), ["bnd je 0x401017", "jmp 0x401007"]);
    assert_eq!(moved("f2e910000000"), ["bnd jmp 0x401016"]);
}

#[test]
fn case_035_redundant_rex_and_66() {
    assert_eq!(moved("40e910000000"), ["jmp 0x401016"]);
    let refusal = refused("66e9 1000 0000 c3");
    assert!(matches!(refusal, Refusal::VendorDependent { address: AT, .. }), "{refusal}");
    // Behind the site it is only not sure what follows.
    assert!(measured("85ff 90*8 660f8410000000 c3").usable(Form::Slot).is_ok());
    let refusal = refused("85ff 90*8 660f84f2ffffff c3");
    assert!(matches!(refusal, Refusal::PerhapsIntoSite { .. } | Refusal::BranchIntoSite { .. }), "{refusal}");
    // REX.W wins over 66: the padded call of a thread-local lookup.
    assert!(measured("90*8 666648e810000000 c3").usable(Form::Slot).is_ok());
}

#[test]
fn case_036_notrack_jump() {
    assert_eq!(moved("90*2 3effe0"), ["nop", "nop", "notrack jmp rax"]);
    assert_eq!(moved("3effe0 90*4"), ["notrack jmp rax", "nop", "nop"]);
    assert!(measured("90*2 3effe0").has_indirect_jump());
}

#[test]
fn case_037_computed_jump_into_the_own_body() {
    assert_eq!(moved("488d3502000000 ffe6 31c0 c3"), ["lea rsi, [0x401009]", "jmp 0x401007"]);
    assert!(measured("488d3502000000 ffe6 31c0 c3").has_indirect_jump());
}

#[test]
fn case_038_back_branch_into_the_site() {
    let refusal = refused("31c0 ffc0 83f803 72f9 c3");
    let expected = Refusal::BranchIntoSite { from: AT + 7, to: AT + 2, text: "jb short 0x401002".into() };
    assert_eq!(refusal, expected);
}

#[test]
fn case_039_back_branch_to_the_entry() {
    let refusal = refused("48ffce ffc7 83ff0a 72f6 c3");
    assert!(matches!(refusal, Refusal::LoopsToEntry { to: AT, .. }), "{refusal}");
    // Displaced itself: the trampoline goes round.
    assert_eq!(moved("ebfe 90*8")[0], "jmp 0x500000");
    assert_eq!(moved("90 ffc8 75fb c3")[2], "jne 0x500000");
    assert_eq!(moved("f30f1efa 90 ffc8 75fb c3")[2], "jne 0x500000");
    assert_eq!(moved("f30f1efa 90 ffc8 75f7 c3")[2], "jne 0x500000");
    assert!(matches!(refused("f30f1efa 90 ffc8 75f9 c3"), Refusal::LoopsToEntry { .. }), "inside the pad");
    assert!(matches!(refused("90*5 ebf9"), Refusal::LoopsToEntry { to: AT, .. }));
    // Behind a landing pad both the pad and the site are entries.
    assert!(matches!(refused("f30f1efa 90*6 ebf4"), Refusal::LoopsToEntry { to: AT, .. }));
    assert!(matches!(refused("f30f1efa 90*6 ebf8"), Refusal::LoopsToEntry { .. }));
}

#[test]
fn case_040_loop_to_just_behind_the_site() {
    assert_eq!(moved("b803000000 ffc8 75fc c3"), ["mov eax, 3", "jmp 0x401005"]);
    // Six bytes would have it inside.
    assert!(matches!(
        measured("b803000000 ffc8 75fc c3").usable(Form::Slot),
        Err(Refusal::BranchIntoSite { .. })
    ));
}

#[test]
fn a_target_behind_the_overwritten_bytes_stays_as_it_is() {
    // A jump to site+6, inside the 7-byte mov: a nop that the entry jump leaves alone.
    let text = "48c7c0 90909090 90 ebfc c3";
    assert_eq!(displaced(text, Form::Island).len(), 1);
    assert!(matches!(refused("48c7c0 90909090 ebfb c3"), Refusal::BranchIntoSite { .. }));
}

#[test]
fn case_041_far_back_branch_into_the_site() {
    let refusal = refused("90*400 e96efeffff c3");
    assert!(matches!(refusal, Refusal::BranchIntoSite { to: 0x401003, .. }), "{refusal}");
}

#[test]
fn case_043_return_in_the_site() {
    assert_eq!(moved("85d2 7508 c3 90*8 31c0 c3")[2], "ret");
    let refusal = refused("85d2 7508 c3 90*7 75f6 c3");
    assert!(matches!(refusal, Refusal::BranchIntoSite { to: 0x401004, .. }), "{refusal}");
}

#[test]
fn case_044_jump_table_is_told() {
    // jmp [rax*8+0x402000]
    assert!(measured("90*6 ff24c500204000").has_indirect_jump());
    assert!(!measured("90*6 c3").has_indirect_jump());
}

#[test]
fn code_hidden_behind_a_jump_over_a_prefix_is_seen() {
    // je +1; lock cmpxchg [rdi], esi: what is jumped to is the instruction without its prefix.
    assert!(measured("90*6 7401 f00fb137 c3").usable(Form::Slot).is_ok());
    // A jump over the opcode of a mov, into an immediate that begins with a jump into the site.
    let hidden = "90*8 eb01 b8 ebf690 90 c3";
    assert!(matches!(refused(hidden), Refusal::BranchIntoSite { .. }), "{:?}", measured(hidden));
}
