//! Addresses and literals.

use midflight_arch::{Form, Function, InstructionSet, Measure, Places, Refusal, encode, measure};

use super::{measured, planned, refused, words};
use crate::support::{AT, PLACES, hex};

const HIGH: u64 = 0xaaaa_5555_0000;

fn measured_at(address: u64, text: &str) -> Measure {
    measure(InstructionSet::Aarch64, &Function { address, bytes: &hex(text), guarded: false })
}

#[test]
fn case_070_071_076_addresses_are_loaded_from_behind() {
    for (word, address) in [
        (0x1000_0800u32, AT + 0x100),          // adr x0
        (0x1000_005e, AT + 8),                 // adr x30
        (0x9000_0001, AT & !0xfff),            // adrp x1
        (0xf0ff_ffe1, (AT & !0xfff) - 0x1000), // adrp x1, the page before
    ] {
        let trampoline = planned(&words(&[word]), Form::Island).trampoline;
        assert_eq!(trampoline[8..], address.to_le_bytes(), "{word:x}");
        assert_eq!(trampoline[0] & 31, (word & 31) as u8, "only its own register is written");
    }
}

#[test]
fn case_072_073_076_loads_go_through_their_own_register() {
    for word in [0x5800_0202u32, 0x1800_0203, 0x9800_0204, 0x5800_005e] {
        let plan = planned(&words(&[word]), Form::Island);
        let registers = [plan.trampoline[0] & 31, plan.trampoline[4] & 31];
        assert_eq!(registers, [(word & 31) as u8; 2], "{word:x}");
        assert_eq!(plan.pc_map.back(PLACES.trampoline + 4), Some(AT), "the load is begun again");
        assert_eq!(plan.pc_map.back(PLACES.trampoline + 8), Some(AT + 4));
    }
}

#[test]
fn case_074_075_077_loads_without_a_register_for_the_address_go_through_x16() {
    // ldr s5, ldr d6, ldr q7, prfm, ldr xzr, ldr wzr, ldrsw xzr
    for word in [0x1c00_0205u32, 0x5c00_0206, 0x9c00_0207, 0xd800_0200, 0x5800_021f, 0x1800_021f, 0x9800_021f]
    {
        let plan = planned(&words(&[word]), Form::Island);
        let [address, load] = [0, 4].map(|at| {
            let word = plan.trampoline[at..].first_chunk().expect("a word");
            u32::from_le_bytes(*word)
        });
        assert_eq!((address & 0x1f, load >> 5 & 0x1f, load & 0x1f), (16, 16, word & 0x1f), "{word:x}");
        assert_eq!(plan.trampoline[12..], (AT + 0x40).to_le_bytes(), "{word:x}");
        assert_eq!(plan.pc_map.back(PLACES.trampoline + 4), Some(AT), "the load is begun again");
        assert_eq!(plan.pc_map.back(PLACES.trampoline + 8), Some(AT + 4));
    }
}

#[test]
fn case_074_075_literals_may_be_beyond_their_reach() {
    for word in [0x1c00_0205u32, 0x5c00_0206, 0x9c00_0207, 0xd800_0200] {
        let measure = measured_at(HIGH, &words(&[word]));
        // Nothing but the branches to the trampoline and back limits it.
        assert_eq!(
            measure.window(Form::Island, 64),
            measured_at(HIGH, &words(&[0xd503_201f])).window(Form::Island, 64)
        );
        let window = measure.window(Form::Island, 64).expect("a window");
        for start in [*window.start(), window.end() & !7] {
            let places =
                Places { trampoline: start, island: start + 24, slot: (start + 36).next_multiple_of(8) };
            let plan = encode(&measure, Form::Island, &places, 0).expect("a plan");
            assert_eq!(plan.trampoline[12..], (HIGH + 0x40).to_le_bytes(), "{word:x}");
        }
    }
}

#[test]
fn case_078_a_literal_behind_one_instruction_is_not_touched() {
    let plan = planned(&words(&[0xd65f_03c0, 0x1234_5678, 0x9abc_def0]), Form::Island);
    assert_eq!((plan.original.len(), plan.trampoline.len()), (4, 4));
}

#[test]
fn reading_the_own_word() {
    // How much is read depends on the load: ldr w0, .-4 and ldr q0, .-16 of the word behind one of them; a prefetch
    // reads nothing.
    let behind = |load: u32| words(&[0xd503_245f, 0xd503_201f, load]);
    assert!(measured(&behind(0x18ff_ffc0)).usable(Form::Island).is_ok());
    assert!(matches!(refused(&behind(0x58ff_ffc0)), Refusal::ReadsOwnBytes { .. }));
    assert!(matches!(refused(&behind(0x9cff_ff80)), Refusal::ReadsOwnBytes { .. }));
    assert!(measured(&behind(0xd8ff_ffe0)).usable(Form::Island).is_ok());
    // ldr x0, .-4; adr of the entry is its identity, adr of the byte behind is not.
    assert!(matches!(refused(&words(&[0xd503_201f, 0x58ff_ffe0])), Refusal::ReadsOwnBytes { to: AT, .. }));
    assert!(measured(&words(&[0xd503_201f, 0x10ff_ffe0])).usable(Form::Island).is_ok());
    assert!(matches!(refused(&words(&[0xd503_201f, 0x30ff_ffe0])), Refusal::ReadsOwnBytes { .. }));
    assert!(matches!(
        refused(&words(&[0xd503_245f, 0xd503_201f, 0x10ff_ffe0])),
        Refusal::ReadsOwnBytes { .. }
    ));
}
