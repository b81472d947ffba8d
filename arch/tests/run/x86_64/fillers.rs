//! What compilers put at the start of functions: instructions that stand around those of interest.

use crate::run::random::Random;

/// Registers that a filler may change: all but rcx, rsp, rbp, rsi and rdi, which others need.
const CHANGED: [u8; 11] = [0, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15];

/// Instructions that do nothing, of 1 to 10 bytes.
const NOTHING: [&[u8]; 8] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// An instruction of at most `room` bytes that changes none of the registers in `keep`, and neither reads nor moves the
/// stack unless it may.
pub(crate) fn filler(random: &mut Random, keep: u32, stack: bool, room: usize) -> Vec<u8> {
    for _ in 0..40 {
        let bytes = if stack && random.one_in(3) { on_stack(random, keep) } else { plain(random, keep) };
        if bytes.len() <= room {
            return bytes;
        }
    }
    vec![0x90]
}

fn changed(random: &mut Random, keep: u32) -> u8 {
    loop {
        let register = random.pick(&CHANGED);
        if keep >> register & 1 == 0 {
            return register;
        }
    }
}

/// With a register as the second operand.
fn registers(wide: bool, opcode: &[u8], reg: u8, rm: u8) -> Vec<u8> {
    let rex = 0x40 | u8::from(wide) << 3 | reg >> 3 << 2 | rm >> 3;
    [&[rex], opcode, &[0xc0 | (reg & 7) << 3 | rm & 7]].concat()
}

/// With `[rsp+d8]` as the second operand.
fn stack(wide: bool, opcode: &[u8], reg: u8, displacement: u8) -> Vec<u8> {
    let rex = 0x40 | u8::from(wide) << 3 | reg >> 3 << 2;
    [&[rex], opcode, &[0x44 | (reg & 7) << 3, 0x24, displacement]].concat()
}

fn plain(random: &mut Random, keep: u32) -> Vec<u8> {
    let (to, from) = (changed(random, keep), random.below(16) as u8);
    let (wide, byte) = (random.one_in(2), random.next() as u8);
    let small = |register: u8, opcode: u8| -> Vec<u8> {
        if register > 7 { vec![0x41, opcode + register - 8] } else { vec![opcode + register] }
    };
    match random.below(25) {
        0 => registers(wide, &[0x89], from, to),
        1 => registers(false, &[0x31], to, to),
        2 | 3 => registers(wide, &[random.pick(&[0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31])], from, to),
        4 => registers(wide, &[random.pick(&[0x39, 0x85])], from, random.below(16) as u8),
        5 => [registers(wide, &[0x83], random.below(8) as u8, to), vec![byte]].concat(),
        6 => registers(wide, &[0x0f, 0x40 + (byte & 15)], to, from), // cmovcc
        7 => registers(false, &[0x0f, 0x90 + (byte & 15)], 0, to),   // setcc
        8 => [small(to, 0xb8), random.bytes(4)].concat(),
        9 => [vec![0x48 | to >> 3, 0xb8 | to & 7], random.bytes(8)].concat(),
        10 => [registers(true, &[0xc7], 0, to), random.bytes(4)].concat(),
        11 => registers(wide, &[0x0f, random.pick(&[0xb6, 0xb7, 0xbe, 0xbf])], to, from),
        12 => [registers(wide, &[0x6b], to, from), vec![byte]].concat(),
        13 => [registers(wide, &[0xc1], random.pick(&[0, 1, 4, 5, 7]), to), vec![byte]].concat(),
        14 => registers(wide, &[0xff], u8::from(random.one_in(2)), to), // inc, dec
        15 => registers(wide, &[0xf7], random.pick(&[2, 3]), to),       // not, neg
        16 | 17 => random.pick(&NOTHING).to_vec(),
        18 => vec![random.pick(&[0xf5, 0xf8, 0xf9, 0x9e])], // cmc, clc, stc, sahf
        19 => {
            registers(wide, &[0x0f, 0xba], random.pick(&[4, 5, 6, 7]), to).into_iter().chain([byte]).collect()
        }
        20 => registers(true, &[0x0f, 0xc8 | to & 7], 0, to)[..3].to_vec(), // bswap
        21 => registers(false, &[0x0f, random.pick(&[0x28, 0x57, 0x54, 0xef])], from, to),
        // mov to, fs:[0x28]
        22 => vec![0x64, 0x48 | to >> 3 << 2, 0x8b, 0x04 | (to & 7) << 3, 0x25, 0x28, 0, 0, 0],
        // lea to, [rbp+rbx*4+byte]
        23 => vec![0x48 | to >> 3 << 2, 0x8d, 0x44 | (to & 7) << 3, 0x9d, byte],
        _ => registers(true, &[0x87], to, changed(random, keep)), // xchg
    }
}

fn on_stack(random: &mut Random, keep: u32) -> Vec<u8> {
    let (to, from) = (changed(random, keep), random.below(16) as u8);
    let (wide, near) = (random.one_in(2), random.next() as u8 & 0x78);
    match random.below(12) {
        0 | 1 if from > 7 => vec![0x41, 0x48 + from],
        0 | 1 => vec![0x50 + from],
        2 if to > 7 => vec![0x41, 0x50 + to],
        2 => vec![0x58 + to],
        3 => vec![0x6a, random.next() as u8],
        4 => [vec![0x68], random.bytes(4)].concat(),
        5 => vec![0x48, 0x83, 0xec, near],
        6 => vec![0x48, 0x81, 0xec, near, random.below(2) as u8, 0, 0],
        7 => vec![0x48, 0x83, 0xc4, near],
        8 => stack(wide, &[0x89], from, random.next() as u8),
        9 => stack(wide, &[0x8b], to, random.next() as u8),
        10 => stack(false, &[0x0f, random.pick(&[0x10, 0x11])], from, random.next() as u8),
        _ => vec![0x9c],
    }
}
