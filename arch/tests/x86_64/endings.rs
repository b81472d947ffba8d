//! How functions end, which says whether the padding behind them is run.

use crate::support::hex;
use midflight_arch::{Ending, InstructionSet, ending};

fn of(text: &str) -> Ending {
    ending(InstructionSet::X86_64, &hex(text))
}

#[test]
fn nothing_runs_behind_jumps_returns_and_traps() {
    for text in
        ["31c0c3", "f3c3", "c20800", "ebfe", "e900000000", "ff2500000000", "3effe0", "0f0b", "f4", "31c0cc"]
    {
        assert_eq!(of(text), Ending::Ends, "{text}");
    }
    assert_eq!([of("50e800000000"), of("50ffd0"), of("ff1500000000")], [Ending::Call; 3]);
}

#[test]
fn code_that_runs_on() {
    for text in ["", "31c0", "55", "c390", "74fe", "0f8400000000", "cd80", "0f05", "06", "31c0c306"] {
        assert_eq!(of(text), Ending::Continues, "{text}");
    }
}

/// A last byte, or several, that would be another instruction by themselves.
#[test]
fn what_can_be_read_in_several_ways_is_read_from_the_start() {
    // mov ebx, eax; add eax, -0x3d; mov eax, 0xcc000000; add eax and rax, with a jump and a trap as the number
    for text in ["89c3", "83c0c3", "b8000000cc", "81c00000ebfe", "480500000f0b"] {
        assert_eq!(of(text), Ending::Continues, "{text}");
    }
    // mov ebx, eax; ret: its last two bytes are no instruction of two.
    assert_eq!(of("89c3c3"), Ending::Ends);
    // add byte ptr [rax], al; ret
    assert_eq!(of("0000c3"), Ending::Ends);
    // call; its last bytes are `add [rax], al`.
    assert_eq!(of("90e800000000"), Ending::Call);
}

#[test]
fn on_aarch64_it_is_not_told() {
    assert_eq!(ending(InstructionSet::Aarch64, &hex("c0035fd6")), Ending::Continues);
}
