//! Random functions, addresses and places: nothing panics, and what is planned is right.

use midflight_arch::{Form, Function, InstructionSet, Places, encode, measure};
use proptest::prelude::*;

use crate::aarch64::meaning::{verify as verify_words, word};
use crate::support::{hex, verify};

/// Instructions to make functions of; `????????` and `??` stand for any distance.
const PIECES: &[&str] = &[
    "90",
    "55",
    "31c0",
    "85ff",
    "c3",
    "cc",
    "c9",
    "f30f1efa",
    "0f1f440000",
    "4889e5",
    "4883ec20",
    "b801000000",
    "eb??",
    "74??",
    "75??",
    "e2??",
    "e1??",
    "e3??",
    "67e3??",
    "67e2??",
    "2e74??",
    "3e75??",
    "f274??",
    "e9????????",
    "0f84????????",
    "f20f85????????",
    "e8????????",
    "ff15????????",
    "ff25????????",
    "ffe0",
    "3effe0",
    "488d05????????",
    "488d3d????????",
    "678d05????????",
    "833d????????05",
    "c705????????88776655",
    "66c705????????1234",
    "f00fc105????????",
    "480fc70d????????",
    "64488b05????????",
    "c5fb1005????????",
    "c4e37d1805????????01",
    "62f3754825 05????????96",
    "db2d????????",
    "0fae15????????",
    "660f3a2205????????01",
    "f3aa",
    "f348a5",
    "f2ae",
    "c4e2719004d0",
    "0f05",
    "cd80",
    "f4",
    "0f0b",
    "f20f38f005????????",
    "69c0e8030000",
    "48a18877665544332211",
    "64488b042528000000",
    "f0480fb10f",
    "c7f8????????",
    "66e9????",
    "0f0d05????????",
];

fn piece() -> impl Strategy<Value = Vec<u8>> {
    (0..PIECES.len(), any::<[u8; 4]>(), any::<bool>()).prop_map(|(index, mut distance, near)| {
        if near {
            distance = (i32::from(distance[0] as i8) / 4).to_le_bytes();
        }
        let mut text = PIECES[index].replace(' ', "");
        for byte in distance {
            text = text.replacen("??", &format!("{byte:02x}"), 1);
        }
        hex(&text)
    })
}

fn code() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..24).prop_map(|pieces| pieces.concat())
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0x40_1000), 0x5000_0000_0000..0x7fff_ffff_0000u64, any::<u64>(), 0..0x1_0000u64]
}

fn places(around: u64) -> impl Strategy<Value = Places> {
    let place = move || {
        prop_oneof![
            (-0x10000i64..0x10000).prop_map(move |d| around.wrapping_add_signed(d)),
            (-0x8000_0100i64..0x8000_0100).prop_map(move |d| around.wrapping_add_signed(d)),
            any::<u64>(),
        ]
    };
    (place(), place(), place(), any::<bool>()).prop_map(|(trampoline, island, slot, align)| Places {
        trampoline,
        island,
        slot: if align { slot & !7 } else { slot },
    })
}

/// Plans everything that can be planned, and looks at it.
fn plan_all(set: InstructionSet, function: &Function<'_>, places: &Places, to: u64) {
    let Function { address, bytes, .. } = *function;
    let measure = measure(set, function);
    for form in [Form::Direct, Form::Slot, Form::Island] {
        match measure.usable(form) {
            Err(refusal) => {
                assert!(!refusal.to_string().is_empty());
                assert_eq!((measure.trampoline_room(form), measure.window(form, 64)), (0, None));
            }
            Ok(displaced) => {
                assert!(displaced.overwritten <= displaced.span && displaced.span <= bytes.len());
                assert!(measure.trampoline_room(form) > 0);
            }
        }
        check(function, &measure, form, places, to);
        // Anything may be wrong with the places, but nothing with the room.
        let far = encode(&measure, Form::Absolute, places, to);
        let fits = |len: usize| len <= measure.trampoline_room(Form::Absolute);
        assert!(far.is_err() || far.is_ok_and(|plan| fits(plan.trampoline.len())));
        // In the middle and at the ends of the window everything that is near can be encoded.
        if let Some(window) = measure.window(form, 0x1000) {
            let middle = window.start() + (window.end() - window.start()) / 2;
            for start in [window.start().next_multiple_of(8), middle & !7, window.end() & !7] {
                let near = Places { trampoline: start, island: start + 0x800, slot: start + 0xff8 };
                let apart = start > address.saturating_add(bytes.len() as u64) || start + 0x1000 <= address;
                if window.contains(&start) && apart {
                    let planned = check(function, &measure, form, &near, address);
                    assert!(planned, "{form} at {start:#x}: {:?}", encode(&measure, form, &near, address));
                }
            }
        }
    }
}

fn check(
    function: &Function<'_>,
    measure: &midflight_arch::Measure,
    form: Form,
    places: &Places,
    to: u64,
) -> bool {
    let plan = encode(measure, form, places, to);
    match (&plan, measure.set()) {
        (Ok(plan), InstructionSet::X86_64) => verify(function, measure, plan, places, to),
        (Ok(plan), _) => verify_words(function, plan, places.trampoline),
        (Err(_), _) => {}
    }
    plan.is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_of_code((address, places) in address().prop_flat_map(|a| (Just(a), places(a))),
                     bytes in code(), to in any::<u64>()) {
        let function = Function { address, bytes: &bytes, guarded: false };
        plan_all(InstructionSet::X86_64, &function, &places, to);
    }

    #[test]
    fn plans_of_words(
        (address, places) in address().prop_flat_map(|a| (Just(a), places(a))),
        words in prop::collection::vec(word(), 0..16), first in 0..4usize, guarded: bool, to in any::<u64>(),
    ) {
        let first = [None, Some(0xd503_233f), Some(0xd503_237f), Some(0xd503_245f)][first];
        let bytes: Vec<u8> = first.into_iter().chain(words).flat_map(u32::to_le_bytes).collect();
        let function = Function { address: address & !3, bytes: &bytes, guarded };
        plan_all(InstructionSet::Aarch64, &function, &places, to & !3);
    }

    #[test]
    fn plans_of_anything((address, places) in address().prop_flat_map(|a| (Just(a), places(a))),
                         bytes in prop::collection::vec(any::<u8>(), 0..64), to in any::<u64>()) {
        let function = Function { address, bytes: &bytes, guarded: true };
        plan_all(InstructionSet::X86_64, &function, &places, to);
        plan_all(InstructionSet::Aarch64, &function, &places, to);
    }
}

#[test]
fn enough_random_code_can_be_planned() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let usable = (0..2000).filter(|_| {
        let bytes = code().new_tree(&mut runner).expect("code").current();
        let function = Function { address: 0x40_1000, bytes: &bytes, guarded: false };
        measure(InstructionSet::X86_64, &function).usable(Form::Island).is_ok()
    });
    let usable = usable.count();
    assert!(usable > 100, "{usable} of 2000");
}
