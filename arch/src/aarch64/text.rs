//! Words as an assembler would write them; those that depend on no address stay numbers.

use std::fmt;

use super::decode::{Kind, Word};

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, register) = (self.value, self.register());
        let to = self.target().unwrap_or_default();
        let wide = if value >> 31 == 1 { 'x' } else { 'w' };
        match self.kind {
            Kind::Branch => write!(f, "b {to:#x}"),
            Kind::Call => write!(f, "bl {to:#x}"),
            Kind::Conditional(_) => conditional(self, wide, to, f),
            Kind::Address => write!(f, "adr {}, {to:#x}", Register('x', register)),
            Kind::Page => write!(f, "adrp {}, {to:#x}", Register('x', register)),
            Kind::Literal(_) => {
                let (name, class) = match (value >> 30, value >> 26 & 1) {
                    (3, _) => return write!(f, "prfm #{register}, {to:#x}"),
                    (2, 0) => ("ldrsw", 'x'),
                    (size, 0) => ("ldr", if size == 1 { 'x' } else { 'w' }),
                    (size, _) => ("ldr", ['s', 'd', 'q'][size as usize]),
                };
                write!(f, "{name} {}, {to:#x}", Register(class, register))
            }
            Kind::Sign => f.write_str(if value & 0x40 == 0 { "paciasp" } else { "pacibsp" }),
            Kind::Breakpoint => write!(f, "brk #{:#x}", value >> 5 & 0xffff),
            Kind::Undefined => write!(f, "udf #{value}"),
            Kind::IndirectCall if value & 0xffff_fc1f == 0xd63f_0000 => write!(f, "blr x{}", value >> 5 & 31),
            Kind::Jump if value & 0xffff_fc1f == 0xd61f_0000 => write!(f, "br x{}", value >> 5 & 31),
            Kind::Return if value == 0xd65f_03c0 => f.write_str("ret"),
            _ if value == 0xd503_201f => f.write_str("nop"),
            _ => write!(f, ".inst {value:#010x}"),
        }
    }
}

fn conditional(word: &Word, wide: char, to: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const CONDITIONS: [&str; 16] =
        ["eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al", "nv"];
    let value = word.value;
    let (register, not) = (Register(wide, word.register()), if value >> 24 & 1 == 1 { "nz" } else { "z" });
    match value >> 25 & 0x3f {
        0b11_1010 => compare(value, register, wide, to, f),
        0b01_1010 => write!(f, "cb{not} {register}, {to:#x}"),
        0b01_1011 => write!(f, "tb{not} {register}, #{}, {to:#x}", value >> 31 << 5 | value >> 19 & 31),
        _ => {
            let name = if value & 0x10 == 0 { "b" } else { "bc" };
            write!(f, "{name}.{} {to:#x}", CONDITIONS[value as usize & 15])
        }
    }
}

/// `cb<cond>`
fn compare(value: u32, register: Register, wide: char, to: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Conditions 4 and 5 are not allocated.
    const REGISTER: [&str; 8] = ["gt", "ge", "hi", "hs", "", "", "eq", "ne"];
    const NUMBER: [&str; 8] = ["gt", "lt", "hi", "lo", "", "", "eq", "ne"];
    let condition = value as usize >> 21 & 7;
    if value >> 24 & 1 == 1 {
        return write!(f, "cb{} {register}, #{}, {to:#x}", NUMBER[condition], value >> 15 & 0x3f);
    }
    let size = ["", "", "b", "h"][value as usize >> 14 & 3];
    write!(f, "cb{size}{} {register}, {}, {to:#x}", REGISTER[condition], Register(wide, value >> 16 & 31))
}

/// A register where 31 is zero.
struct Register(char, u32);

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            ('w' | 'x', 31) => write!(f, "{}zr", self.0),
            (class, number) => write!(f, "{class}{number}"),
        }
    }
}
