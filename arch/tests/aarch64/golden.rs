//! Whole trampolines against another assembler. Each line has the displaced instruction, at 0x401000, and its
//! word; the trampoline, at 0x500000, and its bytes. The bytes are those that
//!
//! ```sh
//! printf '%s\n' "$TEXT" | llvm-mc --triple=aarch64 --mattr=+pauth,+hbc,+lse,+bti --show-encoding
//! ```
//!
//! (LLVM 14) prints for each instruction in the text.

use midflight_arch::Form;

use super::{measured_guarded, plan_of, planned, row};
use crate::support::hex;

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
    [
        "ldr s5, #0x40",
        "0502001c",
        "ldr x16, #12; ldr s5, [x16]; b #-1044484; .quad 0x401040",
        "70000058 050240bd ff03fc17 40104000 00000000",
    ],
    [
        "ldr d6, #0x40",
        "0602005c",
        "ldr x16, #12; ldr d6, [x16]; b #-1044484; .quad 0x401040",
        "70000058 060240fd ff03fc17 40104000 00000000",
    ],
    [
        "ldr q7, #0x40",
        "0702009c",
        "ldr x16, #12; ldr q7, [x16]; b #-1044484; .quad 0x401040",
        "70000058 0702c03d ff03fc17 40104000 00000000",
    ],
    [
        "prfm pldl1keep, #0x40",
        "000200d8",
        "ldr x16, #12; prfm pldl1keep, [x16]; b #-1044484; .quad 0x401040",
        "70000058 000280f9 ff03fc17 40104000 00000000",
    ],
    [
        "ldr xzr, #0x40",
        "1f020058",
        "ldr x16, #12; ldr xzr, [x16]; b #-1044484; .quad 0x401040",
        "70000058 1f0240f9 ff03fc17 40104000 00000000",
    ],
    [
        "ldr wzr, #0x40",
        "1f020018",
        "ldr x16, #12; ldr wzr, [x16]; b #-1044484; .quad 0x401040",
        "70000058 1f0240b9 ff03fc17 40104000 00000000",
    ],
    [
        "ldrsw xzr, #0x40",
        "1f020098",
        "ldr x16, #12; ldrsw xzr, [x16]; b #-1044484; .quad 0x401040",
        "70000058 1f0280b9 ff03fc17 40104000 00000000",
    ],
    [
        "bl #0x1000",
        "00040094",
        "ldr x30, #8; b #-1040388; .quad 0x401004",
        "5e000058 ff07fc17 04104000 00000000",
    ],
    ["bl #4", "01000094", "ldr x30, #8; b #-1044480; .quad 0x401004", "5e000058 0004fc17 04104000 00000000"],
    ["blr x9", "20013fd6", "ldr x30, #8; br x9; .quad 0x401004", "5e000058 20011fd6 04104000 00000000"],
    [
        "blr x30",
        "c0033fd6",
        "mov x16, x30; ldr x30, #8; br x16; .quad 0x401004",
        "f0031eaa 5e000058 00021fd6 04104000 00000000",
    ],
    [
        "blraa x30, x16",
        "d00b3fd7",
        "mov x17, x30; ldr x30, #8; braa x17, x16; .quad 0x401004",
        "f1031eaa 5e000058 300a1fd7 04104000 00000000",
    ],
    ["brk #1", "200020d4", "brk #1; b #-1044480", "200020d4 0004fc17"],
    ["brk #1000", "007d20d4", "brk #1000; b #-1044480", "007d20d4 0004fc17"],
    ["paciasp", "3f2303d5", "paciasp; b #-1044480", "3f2303d5 0004fc17"],
    ["pacibsp", "7f2303d5", "pacibsp; b #-1044480", "7f2303d5 0004fc17"],
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

/// The same for functions on guarded pages.
const GUARDED: &[[&str; 4]] = &[
    [
        "paciasp; stp x29, x30, [sp, #-16]!",
        "3f2303d5 fd7bbfa9",
        "paciasp; stp x29, x30, [sp, #-16]!; b #-1044480",
        "3f2303d5 fd7bbfa9 0004fc17",
    ],
    [
        "pacibsp; cbz x0, #0x40",
        "7f2303d5 000200b4",
        "pacibsp; cbz x0, #8; b #-1044480; b #-1044424",
        "7f2303d5 400000b4 0004fc17 0e04fc17",
    ],
    [
        "paciasp; adr x0, #0x100",
        "3f2303d5 00080010",
        "paciasp; ldr x0, #8; b #-1044480; .quad 0x401104",
        "3f2303d5 40000058 0004fc17 04114000 00000000",
    ],
    [
        "paciasp; ldr x2, #0x40",
        "3f2303d5 02020058",
        "paciasp; ldr x2, #12; ldr x2, [x2]; b #-1044484; .quad 0x401044",
        "3f2303d5 62000058 420040f9 ff03fc17 44104000 00000000",
    ],
    [
        "paciasp; ldr q7, #0x40",
        "3f2303d5 0702009c",
        "paciasp; ldr x16, #12; ldr q7, [x16]; b #-1044484; .quad 0x401044",
        "3f2303d5 70000058 0702c03d ff03fc17 44104000 00000000",
    ],
    [
        "paciasp; bl #0x1000",
        "3f2303d5 00040094",
        "paciasp; ldr x30, #8; b #-1040388; .quad 0x401008",
        "3f2303d5 5e000058 ff07fc17 08104000 00000000",
    ],
    ["paciasp; b #0x1000", "3f2303d5 00040014", "paciasp; b #-1040384", "3f2303d5 0008fc17"],
    ["paciasp; ret", "3f2303d5 c0035fd6", "paciasp; ret", "3f2303d5 c0035fd6"],
];

#[test]
fn trampolines_are_what_another_assembler_makes() {
    for [displaced, word, text, bytes] in GOLDEN {
        let plan = planned(&format!("{word} {}", "1f2003d5 ".repeat(16)), Form::Island);
        assert_eq!(row(&plan.trampoline), row(&hex(bytes)), "{displaced}: {text}");
    }
}

#[test]
fn trampolines_of_guarded_functions_are_what_another_assembler_makes() {
    for [displaced, words, text, bytes] in GUARDED {
        let text_of = format!("{words} {}", "1f2003d5 ".repeat(16));
        let plan = plan_of(&measured_guarded(&text_of), displaced, Form::Island);
        assert_eq!(row(&plan.trampoline), row(&hex(bytes)), "{displaced}: {text}");
        // `bti c; b #0xff0fc`
        assert_eq!(row(&plan.entry), "5f2403d5 3ffc0314", "{displaced}");
    }
}

/// `b #0xff100` at 0x401000; `adrp x16, #0; ldr x16, [x16, #0x200]; br x16` at 0x500100.
#[test]
fn entry_jumps_and_veneers() {
    let plan = planned("1f2003d5 c0035fd6", Form::Island);
    assert_eq!(row(&plan.entry), "40fc0314");
    assert_eq!(row(&plan.island), "10000090 100241f9 00021fd6");
}
