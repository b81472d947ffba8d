//! Whole trampolines against another assembler. Each line has the displaced instruction, at 0x401000, and its
//! word; the trampoline, at 0x500000, and its bytes. The bytes are those that
//!
//! ```sh
//! printf '%s\n' "$TEXT" | llvm-mc --triple=aarch64 --mattr=+pauth,+hbc,+lse --show-encoding
//! ```
//!
//! (LLVM 14) prints for each instruction in the text.

use midflight_arch::Form;

use super::{planned, row};

const GOLDEN: &[[&str; 4]] = &[
    ["ldr x0, [x1, #8]", "200440f9", "ldr x0, [x1, #8]; b #-1044480", "200440f9 0004fc17"],
    ["b #0x1000", "00040014", "b #-1040384", "0008fc17"],
    ["b.eq #0x1000", "00800054", "b.eq #8; b #-1044480; b #-1040392", "40000054 0004fc17 fe07fc17"],
    ["b.ne #-0x1000", "0180ff54", "b.ne #8; b #-1044480; b #-1048584", "41000054 0004fc17 fefffb17"],
    ["bc.eq #0x24", "30010054", "bc.eq #8; b #-1044480; b #-1044452", "50000054 0004fc17 0704fc17"],
    ["cbz x8, #0x40", "080200b4", "cbz x8, #8; b #-1044480; b #-1044424", "480000b4 0004fc17 0e04fc17"],
    ["cbnz w9, #0x40", "09020035", "cbnz w9, #8; b #-1044480; b #-1044424", "49000035 0004fc17 0e04fc17"],
    [
        "tbz x10, #33, #0x40",
        "0a0208b6",
        "tbz x10, #33, #8; b #-1044480; b #-1044424",
        "4a0008b6 0004fc17 0e04fc17",
    ],
    [
        "tbnz w11, #5, #-0x40",
        "0bfe2f37",
        "tbnz w11, #5, #8; b #-1044480; b #-1044552",
        "4b002837 0004fc17 ee03fc17",
    ],
    [
        "adr x0, #0x100",
        "00080010",
        "ldr x0, #8; b #-1044480; .quad 0x401100",
        "40000058 0004fc17 0011400000000000",
    ],
    [
        "adr x30, #-1",
        "feffff70",
        "ldr x30, #8; b #-1044480; .quad 0x400fff",
        "5e000058 0004fc17 ff0f400000000000",
    ],
    [
        "adrp x1, #0x1000",
        "010000b0",
        "ldr x1, #8; b #-1044480; .quad 0x402000",
        "41000058 0004fc17 0020400000000000",
    ],
    [
        "adrp x1, #-0x1000",
        "e1fffff0",
        "ldr x1, #8; b #-1044480; .quad 0x400000",
        "41000058 0004fc17 0000400000000000",
    ],
    [
        "ldr x2, #0x40",
        "02020058",
        "ldr x2, #12; ldr x2, [x2]; b #-1044484; .quad 0x401040",
        "62000058 420040f9 ff03fc17 4010400000000000",
    ],
    [
        "ldr w3, #0x40",
        "03020018",
        "ldr x3, #12; ldr w3, [x3]; b #-1044484; .quad 0x401040",
        "63000058 630040b9 ff03fc17 4010400000000000",
    ],
    [
        "ldrsw x4, #0x40",
        "04020098",
        "ldr x4, #12; ldrsw x4, [x4]; b #-1044484; .quad 0x401040",
        "64000058 840080b9 ff03fc17 4010400000000000",
    ],
    [
        "ldr x30, #8",
        "5e000058",
        "ldr x30, #12; ldr x30, [x30]; b #-1044484; .quad 0x401008",
        "7e000058 de0340f9 ff03fc17 0810400000000000",
    ],
    ["ldr s5, #0x40", "0502001c", "ldr s5, #-1044416; b #-1044480", "0582801c 0004fc17"],
    ["ldr d6, #0x40", "0602005c", "ldr d6, #-1044416; b #-1044480", "0682805c 0004fc17"],
    ["ldr q7, #0x40", "0702009c", "ldr q7, #-1044416; b #-1044480", "0782809c 0004fc17"],
    ["prfm pldl1keep, #0x40", "000200d8", "prfm pldl1keep, #-1044416; b #-1044480", "008280d8 0004fc17"],
    ["ret", "c0035fd6", "ret", "c0035fd6"],
    ["retaa", "ff0b5fd6", "retaa", "ff0b5fd6"],
    ["br x16", "00021fd6", "br x16", "00021fd6"],
    ["braa x16, x17", "110a1fd7", "braa x16, x17", "110a1fd7"],
    ["udf #0", "00000000", "udf #0", "00000000"],
    ["svc #0", "010000d4", "svc #0; b #-1044480", "010000d4 0004fc17"],
    ["mov x16, x30", "f0031eaa", "mov x16, x30; b #-1044480", "f0031eaa 0004fc17"],
    ["mov x9, x30", "e9031eaa", "mov x9, x30; b #-1044480", "e9031eaa 0004fc17"],
    ["xpaclri", "ff2003d5", "xpaclri; b #-1044480", "ff2003d5 0004fc17"],
    ["pacia x30, x16", "1e02c1da", "pacia x30, x16; b #-1044480", "1e02c1da 0004fc17"],
    ["stp x29, x30, [sp, #-16]!", "fd7bbfa9", "stp x29, x30, [sp, #-16]!; b #-1044480", "fd7bbfa9 0004fc17"],
    ["swp w0, w1, [x2]", "418020b8", "swp w0, w1, [x2]; b #-1044480", "418020b8 0004fc17"],
    ["casp x0, x1, x2, x3, [x4]", "827c2048", "casp x0, x1, x2, x3, [x4]; b #-1044480", "827c2048 0004fc17"],
];

#[test]
fn trampolines_are_what_another_assembler_makes() {
    for [displaced, word, text, bytes] in GOLDEN {
        let plan = planned(&format!("{word} {}", "1f2003d5 ".repeat(16)), Form::Island);
        assert_eq!(row(&plan.trampoline), row(&crate::support::hex(bytes)), "{displaced}: {text}");
    }
}

/// `b #0xff100` at 0x401000; `adrp x16, #0; ldr x16, [x16, #0x200]; br x16` at 0x500100.
#[test]
fn entry_jumps_and_veneers() {
    let plan = planned("1f2003d5 c0035fd6", Form::Island);
    assert_eq!(row(&plan.entry), "40fc0314");
    assert_eq!(row(&plan.island), "10000090 100241f9 00021fd6");
}
