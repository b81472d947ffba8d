//! Loops that begin at the site are displaced as a whole.

use midflight_arch::{Form, Function, InstructionSet, Measure, Places, Refusal, SitePlan, encode, measure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::meaning::verify;
use super::reference::text;
use super::{measured, measured_guarded, plan_of, refusal_of, words};
use crate::support::{AT, PLACES};

const NOP: u32 = 0xd503_201f;
const RET: u32 = 0xd65f_03c0;
const PACIASP: u32 = 0xd503_233f;

fn planned(measure: &Measure, function: &str) -> SitePlan {
    plan_of(measure, function, Form::Island)
}

fn listing(plan: &SitePlan) -> Vec<String> {
    let places = (PLACES.trampoline..).step_by(4);
    let words = plan.trampoline.as_chunks().0.iter().zip(places);
    words.map(|(word, at)| text(u32::from_le_bytes(*word), at).expect("a known word")).collect()
}

#[test]
fn case_087_a_loop_from_the_entry() {
    // wcschr of glibc 2.36: ldr w2, [x0]; cmp w2, w1; b.eq .+20; add x0, x0, #4; cbnz w2, .-16; mov x0, #0; ret
    let function =
        words(&[0xb940_0002, 0x6b01_005f, 0x5400_00a0, 0x9100_1000, 0x35ff_ff82, 0xd280_0000, RET, RET]);
    for measure in [measured(&function), measured_guarded(&function)] {
        let displaced = measure.usable(Form::Island).expect("a usable form");
        assert_eq!((displaced.overwritten, displaced.span, displaced.instructions.len()), (4, 20, 5));
        let plan = planned(&measure, &function);
        let at = |index: u64| format!("{:#x}", PLACES.trampoline + index * 4);
        let expected = [
            "ldr w2, [x0]".to_owned(),
            "subs wzr, w2, w1".to_owned(),
            format!("b.eq {}", at(6)),
            "add x0, x0, #0x4".to_owned(),
            format!("cbnz w2, {}", at(0)),
            format!("b {:#x}", AT + 20),
            format!("b {:#x}", AT + 28),
        ];
        assert_eq!(listing(&plan), expected);
        // Only the first word is written, but a thread anywhere in the loop goes on in the copy, and also one at its
        // first word, which may have come back.
        assert_eq!((plan.original.len(), plan.entry.len()), (4, 4));
        for index in 0..5 {
            let (old, new) = (AT + index * 4, PLACES.trampoline + index * 4);
            assert!(plan.pc_map.inside(old), "{index}");
            assert_eq!((plan.pc_map.forward(old), plan.pc_map.back(new)), (Some(new), Some(old)));
        }
        assert!(!plan.pc_map.inside(AT + 20) && plan.pc_map.forward(AT + 20).is_none());
    }
}

#[test]
fn case_087_every_kind_of_branch_comes_back_to_the_copy() {
    for back in [0x17ff_ffffu32, 0x54ff_ffe1, 0x54ff_fff0, 0xb4ff_ffe0, 0x37ff_ffe0, 0x7400_3fe0] {
        let function = words(&[NOP, back, RET]);
        let plan = planned(&measured(&function), &function);
        let found = &listing(&plan)[1];
        assert!(found.ends_with(&format!(" {:#x}", PLACES.trampoline)), "{back:x}: {found}");
        // To the second word it may go: that is not overwritten.
        let function = words(&[NOP, NOP, back, RET]);
        assert_eq!(
            measured(&function).usable(Form::Island).map(|d| (d.span, d.instructions.len())),
            Ok((4, 1))
        );
    }
}

#[test]
fn case_082_086_branches_to_themselves() {
    // b .; cbz x0, .
    for (word, expected) in [(0x1400_0000u32, 1), (0xb400_0000, 2)] {
        let function = words(&[word]);
        let plan = planned(&measured(&function), &function);
        assert_eq!((plan.trampoline.len(), &plan.trampoline[..4]), (expected * 4, &word.to_le_bytes()[..]));
        assert!(plan.pc_map.inside(AT), "a thread spins there");
    }
}

#[test]
fn case_086_branches_within_a_loop() {
    // cbz x0, .+8; add x0, x0, #1; tbnz w0, #0, .-8; b .-8; ret: both go back, the first goes over one word.
    let function = words(&[0xb400_0040, 0x9100_0400, 0x3707_ffc0, 0x17ff_fffe, RET]);
    let plan = planned(&measured(&function), &function);
    let at = |index: u64| format!("{:#x}", PLACES.trampoline + index * 4);
    let expected = [
        format!("cbz x0, {}", at(2)),
        "add x0, x0, #0x1".to_owned(),
        format!("tbnz w0, #0, {}", at(0)),
        format!("b {}", at(1)),
    ];
    assert_eq!(listing(&plan), expected, "nothing goes on behind it");
}

#[test]
fn a_branch_into_the_loop_from_behind_makes_it_longer() {
    // cbnz w0, .-4 at 4 makes two words of it; b .-8 at 12 goes to its second word.
    let function = words(&[NOP, 0x35ff_ffe0, NOP, 0x17ff_fffe, RET]);
    assert_eq!(measured(&function).usable(Form::Island).map(|d| d.span), Ok(16));
    let plan = planned(&measured(&function), &function);
    assert_eq!(listing(&plan)[3], format!("b {:#x}", PLACES.trampoline + 4));
}

#[test]
fn case_089_loops_behind_signing() {
    // cbnz x0, . as the second word; cbnz x0, .-4 to it; cbnz x0, .-8 to the entry
    for (body, span, repeats) in
        [(&[0xb500_0000u32][..], 8, false), (&[NOP, 0xb5ff_ffe0], 12, false), (&[NOP, 0xb5ff_ffc0], 12, true)]
    {
        let function = words(&[&[PACIASP], body, &[RET]].concat());
        let measure = measured_guarded(&function);
        assert_eq!(measure.usable(Form::Island).map(|d| (d.overwritten, d.span)), Ok((8, span)));
        let plan = planned(&measure, &function);
        assert_eq!((plan.original.len(), plan.entry.len()), (8, 8));
        let inside = [0, 4, span as u64 - 4, span as u64].map(|offset| plan.pc_map.inside(AT + offset));
        assert_eq!(inside, [repeats, true, true, false]);
    }
}

#[test]
fn case_095_exclusive_accesses_move_with_their_loop() {
    // ldaxr w1, [x0]; add w1, w1, #1; stlxr w2, w1, [x0]; cbnz w2, .-12; ret
    let (load, add, store, back) = (0x885f_fc01u32, 0x1100_0421, 0x8802_fc01, 0x35ff_ffa2);
    let function = words(&[load, add, store, back, RET]);
    let plan = planned(&measured(&function), &function);
    assert_eq!(listing(&plan)[3], format!("cbnz w2, {:#x}", PLACES.trampoline));
    // Not if one of them is outside, or if an address would be loaded between them.
    let address = 0x1000_0801;
    let outside = &words(&[load, add, store, back, store, RET]);
    for function in [outside, &words(&[load, address, store, back, RET])] {
        let refusal = refusal_of(&measured(function));
        assert!(matches!(refusal, Refusal::LoopsToEntry { .. }), "{refusal}");
    }
}

#[test]
fn loops_that_others_may_come_into_are_refused() {
    let back = 0xb5ff_ffe0;
    // bl, blr x1, br x1: a return, a landing pad or a table may lead into the loop.
    for word in [0x9400_0400u32, 0xd63f_0020, 0xd61f_0020] {
        for function in [[NOP, back, word, RET], [NOP, word, 0xb5ff_ffc0, RET]] {
            let refusal = refusal_of(&measured(&words(&function)));
            assert!(matches!(refusal, Refusal::LoopsToEntry { to: AT, .. }), "{refusal}");
        }
        let refusal = refusal_of(&measured_guarded(&words(&[PACIASP, NOP, back, word])));
        assert!(matches!(refusal, Refusal::BranchIntoSite { to, .. } if to == AT + 4), "{refusal}");
    }
    // To a landing pad that stays: bti c; nop; cbnz x0, .-8
    let pad = 0xd503_245f;
    let refusal = refusal_of(&measured(&words(&[pad, NOP, 0xb5ff_ffc0, RET])));
    assert!(matches!(refusal, Refusal::LoopsToEntry { to: AT, .. }), "{refusal}");
    // Behind it, it may.
    let function = words(&[pad, NOP, back, RET]);
    assert_eq!(planned(&measured(&function), &function).site, AT + 4);
}

#[test]
fn loops_that_cannot_be_copied_are_refused() {
    let refused = |function: &[u32]| refusal_of(&measured(&words(function)));
    // x16 may be in use in a loop: ldr x16, ldr d0, prfm of a literal behind.
    for literal in [0x5800_0050u32, 0x5c00_0040, 0xd800_0040] {
        let refusal = refused(&[literal, 0xb5ff_ffe0, RET, RET]);
        assert!(matches!(refusal, Refusal::LoopsToEntry { .. }), "{literal:x}: {refusal}");
    }
    // Words that cannot be moved: brk #0, hvc, bti j
    assert!(matches!(refused(&[NOP, 0xd420_0000, 0xb5ff_ffc0]), Refusal::Breakpoint { .. }));
    assert!(matches!(refused(&[NOP, 0xd400_0002, 0xb5ff_ffc0]), Refusal::Privileged { .. }));
    assert!(matches!(refused(&[NOP, 0xd503_249f, 0xb5ff_ffc0]), Refusal::Unmovable { .. }));
    // Data that the loop has in it: ldr w1, .+8
    assert!(matches!(refused(&[0x1800_0041, NOP, NOP, 0xb5ff_ffa0]), Refusal::ReadsOwnBytes { .. }));
    // 64 words are the most.
    for (len, is_usable) in [(64u32, true), (65, false)] {
        let mut function = vec![NOP; len as usize - 1];
        function.push(0xb500_0000 | (len - 1).wrapping_neg() << 5 & 0xff_ffe0);
        assert_eq!(measured(&words(&function)).usable(Form::Island).is_ok(), is_usable, "{len}");
    }
}

#[test]
fn the_longest_loop_keeps_its_shortest_branches_in_reach() {
    // cbgt x5, x3 reaches 1 KiB: 63 of them to words far behind, the last one back, each with an exit.
    let mut function: Vec<u32> = vec![0x7403_0005 | 1 << 31 | 200 << 5; 63];
    function.push(0x7403_0005 | 1 << 31 | (63u32.wrapping_neg() & 0x1ff) << 5);
    let function = words(&function);
    let displaced = measured(&function).usable(Form::Island).expect("a usable form").span;
    let plan = planned_apart(&function);
    assert_eq!((displaced, plan.trampoline.len()), (256, (64 + 1 + 63) * 4));
}

/// With an island and a slot that are behind the longest trampoline.
fn planned_apart(function: &str) -> SitePlan {
    let places = Places { island: PLACES.trampoline + 0x1000, slot: PLACES.trampoline + 0x1100, ..PLACES };
    encode(&measured(function), Form::Island, &places, AT).expect("a plan")
}

/// Functions of a few words, most of them branches to each other.
fn function() -> impl Strategy<Value = Vec<u32>> {
    let branch = |at: usize, len: usize| {
        // To any word of the function, or just before or behind it.
        (0..len + 2, 0..6usize).prop_map(move |(to, kind)| {
            let distance = (to as u32).wrapping_sub(at as u32 + 1);
            match kind {
                0 => 0x1400_0000 | distance & 0x3ff_ffff,
                1 => 0x5400_0001 | (distance & 0x7_ffff) << 5,
                2 => 0x3500_0002 | (distance & 0x7_ffff) << 5,
                3 => 0x3718_0003 | (distance & 0x3fff) << 5,
                4 => 0x1000_0004 | (distance & 0x7_ffff) << 5,
                _ => 0x5800_0005 | (distance & 0x7_ffff) << 5,
            }
        })
    };
    let other = || {
        prop::sample::select(vec![NOP, NOP, 0x9100_0400, RET, PACIASP, 0xd503_245f, 0x885f_fc01, 0x9400_0400])
    };
    (1..12usize).prop_flat_map(move |len| {
        (0..len).map(|at| prop_oneof![branch(at, len), other()].boxed()).collect::<Vec<_>>()
    })
}

/// What was planned does what the function did; gives how many bytes are displaced and overwritten.
fn verified(function: &[u32], guarded: bool) -> Option<(usize, usize)> {
    let bytes: Vec<u8> = function.iter().flat_map(|word| word.to_le_bytes()).collect();
    let function = Function { address: AT, bytes: &bytes, guarded };
    let measure = measure(InstructionSet::Aarch64, &function);
    let displaced = measure.usable(Form::Island).ok()?;
    let places = Places { island: PLACES.trampoline + 0x1000, slot: PLACES.trampoline + 0x1100, ..PLACES };
    let plan = encode(&measure, Form::Island, &places, AT).expect("a plan");
    verify(&function, &plan, places.trampoline);
    Some((displaced.span, displaced.overwritten))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_planned_of_branches_to_each_other_does_the_same(function in function(), guarded: bool) {
        verified(&function, guarded);
    }
}

#[test]
fn enough_loops_can_be_planned() {
    let mut runner = TestRunner::deterministic();
    let mut loops = 0;
    for _ in 0..4000 {
        let function = function().new_tree(&mut runner).expect("a function").current();
        let planned = verified(&function, true);
        loops += usize::from(planned.is_some_and(|(span, overwritten)| span > overwritten));
    }
    assert!(loops > 100, "{loops} of 4000");
}
