//! How far a near block may be away: at the edge everything can be encoded, one byte beyond it cannot.

use midflight_arch::{
    Form, Function, InstructionSet, Measure, Places, Refusal, encode, island_room, measure,
};

use crate::support::{AT, hex};

const HIGH: u64 = 0x5555_5555_0000;
const GIB2: u64 = 1 << 31;
const FAR: u64 = 0x7f00_0000_0000;

fn measured(text: &str, address: u64) -> Measure {
    measure(InstructionSet::X86_64, &Function { address, bytes: &hex(text), guarded: false })
}

/// Trampoline first, slot last in a block at `start`.
fn first(start: u64, len: u64) -> Places {
    Places { trampoline: start, island: start + 64, slot: (start + len - 8) & !7 }
}

/// Trampoline last, slot first.
fn last(start: u64, len: u64, room: usize) -> Places {
    let slot = (start + 7) & !7;
    Places { trampoline: start + len - room as u64, island: slot + 8, slot }
}

fn edges(text: &str, form: Form) {
    const LEN: u64 = 0x1000;
    let measure = measured(text, HIGH);
    let window = measure.window(form, LEN).expect("a window");
    let room = measure.trampoline_room(form);
    // The slot is aligned, so the blocks are as well.
    for start in [(window.start() + 7) & !7, window.end() & !7] {
        for places in [first(start, LEN), last(start, LEN, room)] {
            let plan = encode(&measure, form, &places, HIGH + 0x100);
            assert!(plan.is_ok(), "{text} {form}: {:?}", plan.err());
        }
    }
}

#[test]
fn everything_is_in_reach_at_the_edges() {
    for text in [
        "90*6 c3",
        "85ff 7420 31c0 c3",
        "e210 90*4 c3",
        "488d05f0ffff0f c3",
        "488b05000000e0 c3",
        "0f84ffffff3f c3",
        "833d00000040 05 c3",
    ] {
        for form in [Form::Direct, Form::Slot, Form::Island] {
            edges(text, form);
        }
    }
}

#[test]
fn the_window_is_no_smaller_than_it_has_to_be() {
    // Only the entry jump and the jump back matter here: both at 2 GiB.
    let measure = measured("90*5 c3", HIGH);
    let room = measure.trampoline_room(Form::Island);
    assert_eq!(room, 10);
    let window = measure.window(Form::Island, 0x1000).expect("a window");
    // Down: the entry jump ends at +5 and reaches the first byte; the jump back is at the start of the block.
    assert_eq!(*window.start(), HIGH + 5 - GIB2);
    let island = |to| measure.entry_jump(Form::Island, to);
    assert!(island(*window.start()).is_ok() && island(window.start() - 1).is_err());
    // Up: the jump back may end with the block.
    assert_eq!(*window.end(), HIGH + 5 + GIB2 - 0x1000);
    let places = last(*window.end(), 0x1000, room);
    assert!(encode(&measure, Form::Island, &Places { slot: places.slot, ..places }, FAR).is_ok());
    let beyond = Places { trampoline: places.trampoline + 1, ..places };
    let refusal = encode(&measure, Form::Island, &beyond, FAR).expect_err("too far");
    assert!(matches!(refusal, Refusal::OutOfReach { .. }), "{refusal}");
}

#[test]
fn far_targets_on_both_sides_leave_nothing() {
    // lea at +2^31-1 as first, and nothing but its own place left: the window is what is between.
    let up = measured("488d05ffffff7f c3", HIGH).window(Form::Island, 64).expect("a window");
    assert_eq!(*up.start(), HIGH);
    let down = measured("488d0500000080 c3", HIGH).window(Form::Island, 64).expect("a window");
    assert_eq!(*down.end(), HIGH + 7 - 64);
    // push [+2^31-1]; and a jcc to -2^31 behind it.
    let both = measured("90 0f80fdffff7f c3", HIGH);
    assert!(both.window(Form::Island, 64).is_some());
    assert_eq!(both.window(Form::Island, GIB2 + 64), None);
}

#[test]
fn windows_end_with_the_address_space() {
    let low = measured("90*6 c3", 0x1000).window(Form::Slot, 0x1000).expect("a window");
    assert_eq!(low, 0..=(0x1000 + 5 + GIB2 - 0x1000));
    let top = u64::MAX - 0x1000;
    let high = measured("90*6 c3", top).window(Form::Slot, 0x1000).expect("a window");
    assert_eq!(high, (top + 6 - GIB2)..=(u64::MAX - 0xfff));
    assert_eq!(measured("90*6 c3", top).window(Form::Slot, u64::MAX), None);
    assert_eq!(measured("90*6 c3", AT).window(Form::Slot, GIB2 * 2), None);
    assert!(measured("90*6 c3", AT).window(Form::Slot, 0).is_some());
    let wrapped = measured("90*6 c3", u64::MAX - 3);
    assert!(matches!(wrapped.usable(Form::Slot), Err(Refusal::AddressSpace { .. })));
}

#[test]
fn entry_jumps_reach_exactly_as_far_as_they_can() {
    let measure = measured("90*6 c3", HIGH);
    for (form, length) in [(Form::Direct, 5), (Form::Slot, 6), (Form::Island, 5)] {
        let base = HIGH + length;
        let jump = |to| measure.entry_jump(form, to);
        assert_eq!(jump(base - GIB2).expect("in reach")[length as usize - 4..], [0, 0, 0, 0x80]);
        assert_eq!(jump(base + GIB2 - 1).expect("in reach")[length as usize - 4..], [0xff, 0xff, 0xff, 0x7f]);
        assert!(matches!(jump(base - GIB2 - 1), Err(Refusal::OutOfReach { .. })));
        let refusal = jump(base + GIB2).expect_err("out of reach");
        assert!(refusal.to_string().contains("+0x80000000"), "{refusal}");
        assert!(jump(u64::MAX).is_err() && jump(0).is_err());
    }
    assert!(measured("90", u64::MAX - 2).entry_jump(Form::Direct, 0x10).is_err(), "no wrapping around");
}

#[test]
fn places_must_not_overlap_and_slots_are_aligned() {
    let measure = measured("90*6 c3", AT);
    let good = Places { trampoline: 0x50_0000, island: 0x50_0040, slot: 0x50_0080 };
    let with = |places: Places| encode(&measure, Form::Slot, &places, FAR).map(|_| ());
    assert_eq!(with(good), Ok(()));
    let bad = [
        Places { slot: 0x50_0084, ..good },
        Places { slot: 0x50_0008, ..good },
        Places { island: 0x50_0084, ..good },
        Places { trampoline: AT + 4, ..good },
        Places { trampoline: u64::MAX - 4, ..good },
    ];
    for places in bad {
        assert!(with(places).is_err(), "{places:x?}");
    }
    assert_eq!(island_room(InstructionSet::X86_64), 6);
}
