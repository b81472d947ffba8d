//! Limits of reach, alignment and the address space.

use midflight_arch::{
    Form, Function, InstructionSet, Places, Refusal, encode, island_room, measure, slot_room,
};

use super::{measured, words};
use crate::support::{AT, PLACES};

const SET: InstructionSet = InstructionSet::Aarch64;
const HIGH: u64 = 0xaaaa_5555_0000;
const MIB128: u64 = 128 << 20;

#[test]
fn case_100_branches_reach_128_mib() {
    let bytes = 0xd503_201fu32.to_le_bytes();
    let measure = measure(SET, &Function { address: HIGH, bytes: &bytes, guarded: false });
    let jump = |to| measure.entry_jump(Form::Island, to);
    // `b #-134217728` and `b #134217724`
    assert_eq!(jump(HIGH - MIB128), Ok(vec![0x00, 0x00, 0x00, 0x16]));
    assert_eq!(jump(HIGH + MIB128 - 4), Ok(vec![0xff, 0xff, 0xff, 0x15]));
    assert!(matches!(jump(HIGH + MIB128), Err(Refusal::OutOfReach { .. })));
    assert!(matches!(jump(HIGH - MIB128 - 4), Err(Refusal::OutOfReach { .. })));
    assert!(matches!(jump(HIGH + 2), Err(Refusal::Misaligned { .. })));
}

#[test]
fn case_100_everything_is_in_reach_at_the_edges_of_the_window() {
    const LEN: u64 = 0x1000;
    for word in [0xd503_201fu32, 0x5400_8000, 0xb400_0208, 0x1000_0800, 0x9000_0001, 0x1800_0203, 0x1400_0400]
    {
        let bytes = word.to_le_bytes();
        let measure = measure(SET, &Function { address: HIGH, bytes: &bytes, guarded: false });
        let room = measure.trampoline_room(Form::Island) as u64;
        let window = measure.window(Form::Island, LEN).expect("a window");
        for start in [(window.start() + 7) & !7, window.end() & !7] {
            let slot_last = Places { trampoline: start, island: start + 64, slot: start + LEN - 8 };
            let slot_first = Places { trampoline: start + LEN - room, island: start + 8, slot: start };
            for places in [slot_last, slot_first] {
                let plan = encode(&measure, Form::Island, &places, 0);
                assert!(plan.is_ok(), "{word:x}: {:?}", plan.err());
            }
        }
    }
}

#[test]
fn the_window_is_128_mib_around() {
    let bytes = 0xd503_201fu32.to_le_bytes();
    let window =
        measure(SET, &Function { address: HIGH, bytes: &bytes, guarded: false }).window(Form::Island, 64);
    // Down: the entry branch reaches the first byte, and the branch back is behind the first instruction.
    // Up: the branch back may be the last word of the block.
    assert_eq!(window, Some(HIGH + 4 - (MIB128 - 4)..=HIGH + MIB128 - 64));
}

#[test]
fn case_100_veneers_reach_4_gib() {
    let measure = measured(&words(&[0xd503_201f]));
    let with = |slot| encode(&measure, Form::Island, &Places { slot, ..PLACES }, 0).map(|_| ());
    let page = PLACES.island & !0xfff;
    assert_eq!(with(page + (1 << 32) - 8), Ok(()));
    assert!(matches!(with(page + (1 << 32)), Err(Refusal::OutOfReach { .. })));
}

#[test]
fn case_099_the_page_of_the_old_place_counts() {
    // adrp x1, #0 in the last word of a page.
    let bytes = 0x9000_0001u32.to_le_bytes();
    let measure = measure(SET, &Function { address: AT + 0xffc, bytes: &bytes, guarded: false });
    let plan = encode(&measure, Form::Island, &PLACES, 0).expect("a plan");
    assert_eq!(plan.trampoline[8..], AT.to_le_bytes());
}

#[test]
fn alignment_and_ends() {
    let nop = 0xd503_201fu32.to_le_bytes();
    let at = |address, bytes| {
        measure(SET, &Function { address, bytes, guarded: false })
            .usable(Form::Direct)
            .cloned()
            .map_err(Refusal::clone)
    };
    assert!(matches!(at(AT + 2, &nop), Err(Refusal::Misaligned { .. })));
    assert!(matches!(at(AT, &nop[..3]), Err(Refusal::TooShort { size: 3, needed: 4, .. })));
    assert!(matches!(at(AT, &[]), Err(Refusal::TooShort { .. })));
    assert!(matches!(at(u64::MAX - 3, &nop), Err(Refusal::AddressSpace { .. })));
    assert!(at(0, &nop).is_ok());
    let measure = measured(&words(&[0xd503_201f]));
    for places in [Places { trampoline: 0x50_0002, ..PLACES }, Places { island: 0x50_0102, ..PLACES }] {
        let plan = encode(&measure, Form::Direct, &places, AT + 64).map(|_| ());
        assert!(matches!(plan, Err(Refusal::Misaligned { .. })), "{plan:?}");
    }
    assert_eq!((island_room(SET), slot_room()), (12, 8));
}
