//! Whole trampolines against another assembler. Each line has the function at 0x401000, the trampoline at
//! 0x500000 as GNU as 2.40 takes it, and the bytes that came out of
//!
//! ```sh
//! # x = A is not for as but for ld
//! printf '.intel_syntax noprefix\n%s\n' "$TEXT" | as --64 -o golden.o -
//! ld --defsym x=A -Ttext=0x500000 -e 0 --oformat binary -o golden.bin golden.o && od -An -tx1 -v golden.bin
//! ```

use midflight_arch::Form;

use crate::support::{planned, to_hex};

const GOLDEN: &[(&str, &str, &str)] = &[
    (
        "85ff 7414 31c0 c3",
        "test edi, edi; {disp32} je 0x401018; xor eax, eax; {disp32} jmp 0x401006",
        "85 ff 0f 84 10 10 f0 ff 31 c0 e9 f7 0f f0 ff",
    ),
    (
        "e209 90*3 c3",
        "loop 1f; jmp 2f; 1: {disp32} jmp 0x40100b; 2: nop; nop; nop; {disp32} jmp 0x401005",
        "e2 02 eb 05 e9 02 10 f0 ff 90 90 90 e9 f4 0f f0 ff",
    ),
    (
        "e109 90*3 c3",
        "loope 1f; jmp 2f; 1: {disp32} jmp 0x40100b; 2: nop; nop; nop; {disp32} jmp 0x401005",
        "e1 02 eb 05 e9 02 10 f0 ff 90 90 90 e9 f4 0f f0 ff",
    ),
    (
        "90*2 e309 90*2 c3",
        "nop; nop; jrcxz 1f; jmp 2f; 1: {disp32} jmp 0x40100d; 2: nop; {disp32} jmp 0x401005",
        "90 90 e3 02 eb 05 e9 02 10 f0 ff 90 e9 f4 0f f0 ff",
    ),
    (
        "67e307 90*2 c3",
        "jecxz 1f; jmp 2f; 1: {disp32} jmp 0x40100a; 2: nop; nop; {disp32} jmp 0x401005",
        "67 e3 02 eb 05 e9 00 10 f0 ff 90 90 e9 f4 0f f0 ff",
    ),
    (
        "488d0500010000 c3",
        "x = 0x401107; lea rax, x[rip]; {disp32} jmp 0x401007",
        "48 8d 05 00 11 f0 ff e9 fb 0f f0 ff",
    ),
    (
        "833d0001000005 c3",
        "x = 0x401107; cmp dword ptr x[rip], 5; {disp32} jmp 0x401007",
        "83 3d 00 11 f0 ff 05 e9 fb 0f f0 ff",
    ),
    (
        "c7050001000088776655 c3",
        "x = 0x40110a; mov dword ptr x[rip], 0x55667788; {disp32} jmp 0x40100a",
        "c7 05 00 11 f0 ff 88 77 66 55 e9 fb 0f f0 ff",
    ),
    (
        "668105000100003412 c3",
        "x = 0x401109; add word ptr x[rip], 0x1234; {disp32} jmp 0x401009",
        "66 81 05 00 11 f0 ff 34 12 e9 fb 0f f0 ff",
    ),
    (
        "62f3754825050001000096 c3",
        "x = 0x40110b; vpternlogd zmm0, zmm1, zmmword ptr x[rip], 0x96; {disp32} jmp 0x40100b",
        "62 f3 75 48 25 05 00 11 f0 ff 96 e9 fb 0f f0 ff",
    ),
    (
        "c4e37d18050001000001 c3",
        "x = 0x40110a; vinsertf128 ymm0, ymm0, xmmword ptr x[rip], 1; {disp32} jmp 0x40100a",
        "c4 e3 7d 18 05 00 11 f0 ff 01 e9 fb 0f f0 ff",
    ),
    (
        "f00fc10500010000 c3",
        "x = 0x401108; lock xadd dword ptr x[rip], eax; {disp32} jmp 0x401008",
        "f0 0f c1 05 00 11 f0 ff e9 fb 0f f0 ff",
    ),
    (
        "64488b0500010000 c3",
        "x = 0x401108; mov rax, qword ptr fs:x[rip]; {disp32} jmp 0x401008",
        "64 48 8b 05 00 11 f0 ff e9 fb 0f f0 ff",
    ),
    (
        "f20f8410000000 c3",
        "{disp32} bnd je 0x401017; {disp32} jmp 0x401007",
        "f2 0f 84 10 10 f0 ff e9 fb 0f f0 ff",
    ),
    ("e900010000", "{disp32} jmp 0x401105", "e9 00 11 f0 ff"),
    ("ff2500010000", "x = 0x401106; jmp qword ptr x[rip]", "ff 25 00 11 f0 ff"),
    (
        "6a27 58 0f05 c3",
        "push 0x27; pop rax; syscall; {disp32} jmp 0x401005",
        "6a 27 58 0f 05 e9 fb 0f f0 ff",
    ),
    (
        "f30f1efa 55 4889e5 4883ec10 c9 c3",
        "push rbp; mov rbp, rsp; sub rsp, 0x10; {disp32} jmp 0x40100c",
        "55 48 89 e5 48 83 ec 10 e9 ff 0f f0 ff",
    ),
];

#[test]
fn trampolines_are_what_another_assembler_makes() {
    for (function, text, bytes) in GOLDEN {
        assert_eq!(to_hex(&planned(function, Form::Island).trampoline), *bytes, "{function}: {text}");
    }
}

/// As above: `{disp32} jmp 0x500100` and `x = 0x500200; jmp qword ptr x[rip]` at 0x401000, the latter at 0x500100.
#[test]
fn entry_jumps_and_islands() {
    let island = planned("90*6 c3", Form::Island);
    assert_eq!(to_hex(&island.entry), "e9 fb f0 0f 00");
    assert_eq!(to_hex(&island.island), "ff 25 fa 00 00 00");
    let slot = planned("90*6 c3", Form::Slot);
    assert_eq!(to_hex(&slot.entry), "ff 25 fa f1 0f 00");
    assert_eq!(slot.island, island.island);
    let direct = planned("90*6 c3", Form::Direct);
    assert_eq!(to_hex(&direct.entry), "e9 fb 01 10 00");
}
