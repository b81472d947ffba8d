//! Words that do not depend on their address: what compilers put at the start of functions.
//!
//! Encodings are those of the Arm Architecture Reference Manual, chapter C4. All of them are in Armv8.0, or do nothing
//! where they are unknown.

use crate::run::random::Random;

const SP: u32 = 31;

/// Any of them, with its class.
pub(crate) fn word(random: &mut Random) -> (&'static str, u32) {
    match random.below(16) {
        0..3 => ("pair on the stack", pair(random)),
        3..5 => ("one on the stack", single(random)),
        5 => ("stack pointer", stack_pointer(random)),
        6 => ("wide immediate", wide_immediate(random)),
        7..9 => ("add and sub", add_and_sub(random)),
        9 => ("logical", logical(random)),
        10 => ("with carry or condition", conditional(random)),
        11 => ("one or two sources", sources(random)),
        12 => ("bit field", bit_field(random)),
        13 => ("vector", vector(random)),
        14 => ("system register", system_register(random)),
        _ => ("hint or barrier", hint(random)),
    }
}

fn any(random: &mut Random) -> u32 {
    random.below(32) as u32
}

/// A register as a destination for which 31 would be the stack pointer.
fn but_sp(random: &mut Random) -> u32 {
    random.below(31) as u32
}

/// Two different registers: a pair of loads must not have the same twice.
fn two(random: &mut Random) -> (u32, u32) {
    let first = any(random);
    (first, (first + 1 + random.below(31) as u32) % 32)
}

fn one_bit(random: &mut Random, bit: u32) -> u32 {
    (random.below(2) as u32) << bit
}

/// `stp` and `ldp` of x and q registers, with sp moved before, after or not.
fn pair(random: &mut Random) -> u32 {
    let (first, second) = two(random);
    let registers = second << 10 | SP << 5 | first;
    let count = (random.below(12) as u32 + 1) * 2;
    match random.below(7) {
        0..2 => 0xa980_0000 | (128 - count) << 15 | 30 << 10 | SP << 5 | 29,
        2 => 0xa980_0000 | (128 - count) << 15 | registers,
        3 => 0xad80_0000 | (128 - count / 2) << 15 | registers,
        4 => 0xa8c0_0000 | count << 15 | registers,
        5 => 0xa900_0000 | one_bit(random, 22) | count << 15 | registers,
        _ => 0xad00_0000 | one_bit(random, 22) | (count / 2) << 15 | registers,
    }
}

/// Loads and stores of one register of any size, also with release and acquire.
fn single(random: &mut Random) -> u32 {
    let (register, offset) = (SP << 5 | any(random), random.below(32) as u32);
    match random.below(6) {
        0 => 0xf800_0c00 | (512 - 16) << 12 | register, // str, sp moved before
        1 => 0xf840_0400 | 16 << 12 | register,         // ldr, sp moved after
        2 => random.pick(&[0xc8df_fc00, 0xc89f_fc00, 0x88df_fc00, 0x089f_fc00]) | register,
        3 => random.pick(&[0x3dc0_0000, 0x3d80_0000, 0xfd40_0000, 0xbd00_0000]) | offset << 10 | register,
        4 => random.pick(&[0x3980_0000, 0x39c0_0000, 0x7980_0000, 0xb980_0000]) | offset << 10 | register,
        _ => {
            0x3900_0000 | random.below(4) as u32 * 0x4000_0000 | one_bit(random, 22) | offset << 10 | register
        }
    }
}

fn stack_pointer(random: &mut Random) -> u32 {
    let amount = random.below(32) as u32 * 16;
    match random.below(4) {
        0..2 => 0xd100_0000 | amount << 10 | SP << 5 | SP,
        2 => 0x9100_0000 | amount << 10 | SP << 5 | SP,
        _ => 0x9100_0000 | amount << 10 | SP << 5 | but_sp(random),
    }
}

/// `movn`, `movz`, `movk`
fn wide_immediate(random: &mut Random) -> u32 {
    let kind = random.pick(&[0x1280_0000, 0x5280_0000, 0x7280_0000]);
    let value = (random.next() as u32 & 0xffff) << 5 | any(random);
    let wide = one_bit(random, 31);
    kind | wide | random.below(if wide == 0 { 2 } else { 4 }) as u32 * (1 << 21) | value
}

fn add_and_sub(random: &mut Random) -> u32 {
    let kind = one_bit(random, 31) | one_bit(random, 30);
    let immediate = (random.next() as u32 & 0xfff) << 10;
    let (n, m) = (any(random) << 5, any(random) << 16);
    match random.below(3) {
        0 => 0x1100_0000 | kind | one_bit(random, 22) | immediate | n | but_sp(random),
        1 => 0x3100_0000 | kind | one_bit(random, 22) | immediate | n | any(random),
        _ => {
            let amount = random.below(if kind >> 31 == 0 { 32 } else { 64 }) as u32;
            let shift = (random.below(3) as u32) << 22 | amount << 10;
            0x0b00_0000 | kind | one_bit(random, 29) | shift | m | n | any(random)
        }
    }
}

/// With a shifted register; also `mov` and `tst`.
fn logical(random: &mut Random) -> u32 {
    let m = any(random) << 16;
    if random.one_in(3) {
        return 0x2a00_03e0 | one_bit(random, 31) | m | any(random);
    }
    let wide = one_bit(random, 31);
    let amount = random.below(if wide == 0 { 32 } else { 64 }) as u32;
    let kind = (random.below(4) as u32) << 29 | (random.below(4) as u32) << 22 | one_bit(random, 21);
    0x0a00_0000 | wide | kind | amount << 10 | m | any(random) << 5 | any(random)
}

/// `adc`, `sbc`, `csel` and its kin, `ccmp`, `ccmn`
fn conditional(random: &mut Random) -> u32 {
    let registers = any(random) << 16 | any(random) << 5;
    let (wide, not, condition) = (one_bit(random, 31), one_bit(random, 30), (random.below(16) as u32) << 12);
    match random.below(3) {
        0 => 0x1a00_0000 | wide | not | one_bit(random, 29) | registers | any(random),
        1 => 0x1a80_0000 | wide | not | condition | one_bit(random, 10) | registers | any(random),
        _ => 0x3a40_0000 | wide | not | condition | one_bit(random, 11) | registers | random.below(16) as u32,
    }
}

fn sources(random: &mut Random) -> u32 {
    let registers = any(random) << 16 | any(random) << 5 | any(random);
    match random.below(4) {
        0 => 0x1b00_0000 | one_bit(random, 31) | one_bit(random, 15) | any(random) << 10 | registers,
        1 => random.pick(&[0x9b40_7c00, 0x9bc0_7c00]) | registers, // smulh, umulh
        2 => {
            let kind = random.pick(&[0x0800, 0x0c00, 0x2000, 0x2400, 0x2800, 0x2c00]);
            0x1ac0_0000 | one_bit(random, 31) | kind | registers
        }
        // rbit, rev16, rev, clz, cls
        _ => {
            let kind = random.pick(&[0x0000, 0x0400, 0x0800, 0x1000, 0x1400]);
            0x5ac0_0000 | one_bit(random, 31) | kind | registers & 0x3ff
        }
    }
}

/// `sbfm`, `bfm`, `ubfm`, `extr`
fn bit_field(random: &mut Random) -> u32 {
    let registers = any(random) << 5 | any(random);
    let wide = random.one_in(2);
    let (size, limit) = if wide { (1 << 31 | 1 << 22, 64) } else { (0, 32) };
    let last = (random.below(limit) as u32) << 10;
    if random.one_in(4) {
        return 0x1380_0000 | size | any(random) << 16 | last | registers;
    }
    let kind = random.pick(&[0x1300_0000, 0x3300_0000, 0x5300_0000]);
    kind | size | (random.below(limit) as u32) << 16 | last | registers
}

fn vector(random: &mut Random) -> u32 {
    let (d, n, m) = (any(random), any(random) << 5, any(random) << 16);
    match random.below(10) {
        0 => 0x9e67_0000 | n | d,                                           // fmov d, x
        1 => 0x9e66_0000 | n | d,                                           // fmov x, d
        2 => 0x4ea0_8400 | m | n | d,                                       // add .4s
        3 => 0x6e20_1c00 | m | n | d,                                       // eor .16b
        4 => 0x4f00_e400 | (random.below(32) as u32) << 5 | d,              // movi .16b
        5 => 0x1e60_2800 | m | n | d,                                       // fadd d
        6 => 0x1e60_2000 | m | n,                                           // fcmp d
        7 => 0x9e62_0000 | n | d,                                           // scvtf d, x
        8 => 0x4e08_0c00 | n | d,                                           // dup .2d, x
        _ => random.pick(&[0x1e60_4000, 0x1e22_c000, 0x1e60_c000]) | n | d, // fmov, fcvt d, s, fabs
    }
}

/// `mrs` of the thread pointer and of flags, `msr` of flags.
fn system_register(random: &mut Random) -> u32 {
    let register = any(random);
    random.pick(&[0xd53b_d040, 0xd53b_d040, 0xd53b_4200, 0xd51b_4200, 0xd53b_4400, 0xd53b_4420, 0xd53b_00e0])
        | register
}

fn hint(random: &mut Random) -> u32 {
    random.pick(&[
        0xd503_201f, // nop
        0xd503_203f, // yield
        0xd503_233f, // paciasp
        0xd503_237f, // pacibsp
        0xd503_23bf, // autiasp
        0xd503_231f, // paciaz
        0xd503_211f, // pacia1716
        0xd503_20ff, // xpaclri
        0xd503_3bbf, // dmb ish
        0xd503_39bf, // dmb ishld
        0xd503_3fdf, // isb
    ])
}
