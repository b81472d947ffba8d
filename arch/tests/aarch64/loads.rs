//! Addresses and literals.

use midflight_arch::{Form, Places, Refusal, encode};

use super::{measured, planned, refused, words};
use crate::support::{AT, PLACES};

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
fn case_074_075_vectors_and_prefetches_need_their_literal_near() {
    for word in [0x1c00_0205u32, 0x5c00_0206, 0x9c00_0207, 0xd800_0200] {
        let function = words(&[word]);
        planned(&function, Form::Island);
        let measure = measured(&function);
        let window = measure.window(Form::Island, 64).expect("a window");
        assert_eq!(*window.start(), AT + 0x40 - (0x10_0000 - 4));
        assert_eq!(*window.end(), AT + 0x40 + 0x10_0000 - 60);
        let at = |trampoline| Places { trampoline, island: trampoline + 16, slot: (trampoline + 40) & !7 };
        for (start, fits) in [
            (*window.start(), true),
            (window.start() - 4, false),
            (window.end() + 60, true),
            (window.end() + 64, false),
        ] {
            let plan = encode(&measure, Form::Island, &at(start), 0);
            assert_eq!(plan.is_ok(), fits, "{word:x} at {start:#x}: {:?}", plan.err());
        }
    }
}

#[test]
fn case_077_a_load_to_nowhere_has_no_register_for_the_address() {
    let refusal = refused(&words(&[0x5800_021f]));
    assert!(matches!(refusal, Refusal::Unmovable { .. }), "{refusal}");
    assert!(refusal.to_string().contains("ldr xzr, 0x401040"), "{refusal}");
}

#[test]
fn case_078_a_literal_behind_one_instruction_is_not_touched() {
    let plan = planned(&words(&[0xd65f_03c0, 0x1234_5678, 0x9abc_def0]), Form::Island);
    assert_eq!((plan.original.len(), plan.trampoline.len()), (4, 4));
}

#[test]
fn reading_the_own_word() {
    // ldr x0, .-4; adr of the entry is its identity, adr of the byte behind is not.
    assert!(matches!(refused(&words(&[0xd503_201f, 0x58ff_ffe0])), Refusal::ReadsOwnBytes { to: AT, .. }));
    assert!(measured(&words(&[0xd503_201f, 0x10ff_ffe0])).usable(Form::Island).is_ok());
    assert!(matches!(refused(&words(&[0xd503_201f, 0x30ff_ffe0])), Refusal::ReadsOwnBytes { .. }));
    assert!(matches!(
        refused(&words(&[0xd503_245f, 0xd503_201f, 0x10ff_ffe0])),
        Refusal::ReadsOwnBytes { .. }
    ));
}
