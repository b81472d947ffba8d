//! Trampolines that are farther than 2 GiB away. That they do the same is shown by running them.

use midflight_arch::{Around, Form, Function, InstructionSet, Places, Refusal, encode, measure_in};

use crate::support::{AT, FAR, PLACES, code, hex, text};

const AWAY: u64 = 0x7f00_0000_0000;

fn placed(function: &str, trampoline: u64, around: &Around<'_>) -> Result<Vec<String>, Refusal> {
    let bytes = hex(function);
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    let measure = measure_in(InstructionSet::X86_64, &function, around);
    let places = Places { trampoline, island: trampoline + 0x200, slot: trampoline + 0x208 };
    let plan = encode(&measure, Form::Absolute, &places, FAR)?;
    assert!(plan.trampoline.len() <= measure.trampoline_room(Form::Absolute));
    let old: Vec<u64> = plan.pc_map.entries().iter().map(|&(old, _)| old).collect();
    assert!(old.iter().all(|&pc| plan.pc_map.back(plan.pc_map.forward(pc).expect("a copy")) == Some(pc)));
    Ok(code(&plan.trampoline, trampoline).iter().map(text).collect())
}

/// Without the jump back.
fn away(function: &str) -> Vec<String> {
    let mut moved = placed(function, AWAY, &Around::default()).expect("a plan");
    let back = moved.pop().expect("a jump back");
    assert!(back.starts_with("jmp qword ptr [0x7f00000000"), "{back}");
    moved
}

/// As many as the entry jump needs, behind the instruction of interest.
fn first(function: &str) -> Vec<String> {
    let mut moved = away(&format!("{function} 90*14 c3"));
    while moved.last().is_some_and(|last| last == "nop") {
        moved.pop();
    }
    moved
}

#[test]
fn what_is_in_reach_is_reached_as_usual() {
    let near = placed("488d0500010000 90*7 c3", PLACES.trampoline, &Around::default());
    let near = near.expect("a plan");
    assert_eq!((near[0].as_str(), near[8].as_str()), ("lea rax, [0x401107]", "jmp 0x40100e"));
}

#[test]
fn case_007_addresses_are_numbers() {
    assert_eq!(first("488d0500010000"), ["mov rax, 0x401107"]);
    assert_eq!(first("8d0500010000"), ["mov eax, 0x401106"]);
    assert_eq!(first("66448d0d00010000"), ["mov r9w, 0x1108"]);
    assert_eq!(first("488d2500010000"), ["mov rsp, 0x401107"]);
}

#[test]
fn loads_of_a_whole_register_need_no_other() {
    assert_eq!(first("488b0500010000"), ["mov rax, 0x401107", "mov rax, [rax]"]);
    assert_eq!(first("440fb62d00010000"), ["mov r13, 0x401108", "movzx r13d, byte ptr [r13]"]);
    // Of part of one.
    assert_eq!(first("8a0500010000")[2], "mov rcx, 0x401106");
    // Which is read as well, or perhaps not written.
    assert_eq!(first("48030500010000")[2..4], ["mov rcx, 0x401107", "add rax, [rcx]"]);
    assert_eq!(first("0f440500010000")[2], "mov rcx, 0x401107");
}

#[test]
fn others_keep_a_register_below_the_red_zone() {
    let expected = [
        "lea rsp, [rsp-0x80]",
        "push rax",
        "mov rax, 0x401107",
        "cmp dword ptr [rax], 5",
        "pop rax",
        "lea rsp, [rsp+0x80]",
    ];
    assert_eq!(first("833d0001000005"), expected);
    // All that it uses stays: rax, rbx, rcx, rdx.
    assert_eq!(first("480fc70d00010000")[1..4], ["push rsi", "mov rsi, 0x401108", "cmpxchg16b [rsi]"]);
    assert_eq!(first("f0480fc10500010000")[3], "lock xadd [rcx], rax");
    // ah and a register that has none such.
    assert_eq!(first("883d00010000")[1..4], ["push rax", "mov rax, 0x401106", "mov [rax], bh"]);
    assert_eq!(first("64488b0500010000")[1], "mov rax, fs:[rax]");
}

#[test]
fn case_019_the_stack_pointer_is_somewhere_else_meanwhile() {
    let expected = [
        "lea rsp, [rsp-0x80]",
        "push rax",
        "mov rax, 0x401106",
        "mov rax, [rax]",
        "mov [rsp+0x80], rax",
        "pop rax",
        "lea rsp, [rsp+0x78]",
    ];
    assert_eq!(first("ff3500010000"), expected);
    for function in ["48892500010000", "8f0500010000", "48392500010000", "66ff3500010000"] {
        let refused = placed(&format!("{function} 90*14 c3"), PLACES.trampoline, &Around::default());
        assert!(matches!(refused, Err(Refusal::Unmovable { address: AT, .. })), "{function}: {refused:?}");
    }
}

#[test]
fn branches_go_through_constants() {
    assert_eq!(first("7410")[..2], ["je short 0x7f0000000004", "jmp short 0x7f000000000a"]);
    assert!(first("7410")[2].starts_with("jmp qword ptr [0x7f00000000"));
    assert!(first("c7f800010000")[2].starts_with("jmp qword ptr"));
    assert_eq!(first("e202 90")[0], "loop 0x7f0000000004");
    // Among the displaced.
    assert_eq!(first("7402 ffc0")[0], "je 0x7f0000000008");
}

#[test]
fn case_005_and_006_calls_and_jumps() {
    let call = placed("90*9 e800010000 c3", AWAY, &Around::default()).expect("a plan");
    assert_eq!(call[9..], ["push qword ptr [0x7f0000000015]", "jmp qword ptr [0x7f000000001d]"]);
    let through = placed("90*8 ff1500010000 c3", AWAY, &Around::default()).expect("a plan");
    let expected = [
        "push rax",
        "mov rax, 0x40110e",
        "mov rax, [rax]",
        "xchg [rsp], rax",
        "lea rsp, [rsp+8]",
        "jmp qword ptr [rsp-8]",
    ];
    assert_eq!(through[9..], expected);
    let jump = "90*8 ff2500010000";
    let moved = placed(jump, AWAY, &Around::default()).expect("a plan");
    let expected = [
        "lea rsp, [rsp-0x80]",
        "push rax",
        "mov rax, 0x40110e",
        "mov rax, [rax]",
        "xchg [rsp], rax",
        "ret 0x80",
    ];
    assert_eq!(moved[8..], expected);
    let guarded = Around { shadow_stack: true, ..Around::default() };
    assert!(matches!(placed(jump, AWAY, &guarded), Err(Refusal::Unmovable { .. })));
}
