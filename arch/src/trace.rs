//! What others leave behind where they change code.

use crate::InstructionSet;

/// What bytes look like that should be others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trace {
    /// A debugger's or a uprobe's.
    Breakpoint,
    /// A jump away, as those write that redirect calls.
    Jump,
    /// Anything.
    Unknown,
}

/// What the bytes look like, from the first one on that is another than it should be.
pub fn trace(set: InstructionSet, found: &[u8]) -> Trace {
    match set {
        InstructionSet::X86_64 => match *found {
            [0xcc, ..] => Trace::Breakpoint,
            // jmp rel32, jmp rel8, jmp [rip + x], a prefix before one; mov rax, imm64; jmp rax; push imm32 ... ret
            [0xe9 | 0xeb, ..] | [0xff, 0x25, ..] | [0x40..=0x4f | 0x2e | 0x3e, 0xe9, ..] => Trace::Jump,
            [0x48, 0xb8, _, _, _, _, _, _, _, _, 0xff, 0xe0, ..]
            | [0x49, 0xbb, _, _, _, _, _, _, _, _, 0x41, 0xff, 0xe3, ..]
            | [0x68, _, _, _, _, 0xc3, ..] => Trace::Jump,
            _ => Trace::Unknown,
        },
        InstructionSet::Aarch64 => {
            let word = |bytes: &[u8]| bytes.first_chunk().map(|word| u32::from_le_bytes(*word));
            match (word(found), word(found.get(4..).unwrap_or_default())) {
                // brk
                (Some(first), _) if first & 0xffe0_001f == 0xd420_0000 => Trace::Breakpoint,
                // b
                (Some(first), _) if first & 0xfc00_0000 == 0x1400_0000 => Trace::Jump,
                // ldr x16 or x17 of a literal, adrp x16 or x17; then br, or ldr or add
                (Some(first), _) if first & 0xff00_001e == 0x5800_0010 => Trace::Jump,
                (Some(first), Some(_)) if first & 0x9f00_001e == 0x9000_0010 => Trace::Jump,
                _ => Trace::Unknown,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_and_jumps_are_told_apart() {
        let x86 = |bytes: &[u8]| trace(InstructionSet::X86_64, bytes);
        assert_eq!(x86(&[0xcc, 0x55]), Trace::Breakpoint);
        for jump in
            [&[0xe9, 1, 2, 3, 4][..], &[0xeb, 9], &[0xff, 0x25, 0, 0, 0, 0], &[0x48, 0xe9, 0, 0, 0, 0]]
        {
            assert_eq!(x86(jump), Trace::Jump);
        }
        assert_eq!(x86(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xe0]), Trace::Jump);
        assert_eq!(x86(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xd0]), Trace::Unknown);
        assert_eq!((x86(&[]), x86(&[0x90])), (Trace::Unknown, Trace::Unknown));
        let arm = |words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            trace(InstructionSet::Aarch64, &bytes)
        };
        assert_eq!(arm(&[0xd420_0000]), Trace::Breakpoint);
        for jump in [&[0x1400_0010][..], &[0x5800_0051, 0xd61f_0220], &[0x9000_0010, 0xf940_0210]] {
            assert_eq!(arm(jump), Trace::Jump);
        }
        assert_eq!((arm(&[]), arm(&[0xd503_201f])), (Trace::Unknown, Trace::Unknown));
    }
}
