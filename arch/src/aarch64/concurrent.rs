//! What may be written while other processors run it.

/// Whether the word `old` may be changed to `new` by one store while other processors execute it, so that each of them
/// runs the one or the other and nothing else.
///
/// Arm Architecture Reference Manual, B2.2.5 "Concurrent modification and execution of instructions": both must be one
/// of `b`, `bl`, `brk`, `hvc`, `isb`, `nop`, `smc` and `svc`. For any other the effect is CONSTRAINED UNPREDICTABLE, also
/// for `b.<cond>`, and for hints that do nothing but are not `nop`, as `bti`.
pub(crate) fn may_change_running(old: u32, new: u32) -> bool {
    is_listed(old) && is_listed(new)
}

fn is_listed(word: u32) -> bool {
    /// Mask and value: C4.1 "Unconditional branch (immediate)", "Exception generation", "Hints", "Barriers".
    const LISTED: [(u32, u32); 8] = [
        (0xfc00_0000, 0x1400_0000), // b
        (0xfc00_0000, 0x9400_0000), // bl
        (0xffe0_001f, 0xd420_0000), // brk
        (0xffe0_001f, 0xd400_0001), // svc
        (0xffe0_001f, 0xd400_0002), // hvc
        (0xffe0_001f, 0xd400_0003), // smc
        (0xffff_ffff, 0xd503_201f), // nop
        (0xffff_ffff, 0xd503_3fdf), // isb sy
    ];
    LISTED.iter().any(|&(mask, value)| word & mask == value)
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    const LISTED: [u32; 12] = [
        0x1400_0000,
        0x17ff_ffff,
        0x9400_0001,
        0x97ff_ffff,
        0xd420_0000,
        0xd43f_ffe0,
        0xd400_0001,
        0xd41f_ffe1,
        0xd400_0002,
        0xd400_0003,
        0xd503_201f,
        0xd503_3fdf,
    ];
    /// b.eq, bc.eq, cbz, tbz, bti c, paciasp, yield, ret, br, blr, hlt, udf, stp, movz
    const OTHERS: [u32; 14] = [
        0x5400_0000,
        0x5400_0010,
        0xb400_0000,
        0x3600_0000,
        0xd503_245f,
        0xd503_233f,
        0xd503_203f,
        0xd65f_03c0,
        0xd61f_0200,
        0xd63f_0200,
        0xd440_0000,
        0,
        0xa9bf_7bfd,
        0xd280_0000,
    ];

    #[test]
    fn both_words_must_be_of_the_list() {
        for old in LISTED {
            LISTED.iter().for_each(|new| assert!(may_change_running(old, *new), "{old:x} {new:x}"));
            for other in OTHERS {
                assert!(!may_change_running(old, other), "{old:x} {other:x}");
                assert!(!may_change_running(other, old), "{other:x} {old:x}");
                assert!(!may_change_running(other, other), "{other:x}");
            }
        }
    }

    /// Of all words with any upper bits, by the names of another decoder.
    #[test]
    fn the_list_is_that_of_the_manual() {
        const NAMES: [&str; 8] = ["b", "bl", "brk", "hvc", "isb", "nop", "smc", "svc"];
        let mut seen = std::collections::BTreeSet::new();
        for upper in 0..1u32 << 22 {
            for lower in [upper.wrapping_mul(0x9e37_79b9) >> 22, 0, 1, 2, 3, 0x1f, 0x3df] {
                let word = upper << 10 | lower;
                let name = reference::definition(word).map_or("", |definition| definition.mnemonic);
                let expected = match name {
                    // Hints are told apart by number, and the other options of `isb` are reserved.
                    "hint" | "nop" => word == 0xd503_201f,
                    "isb" => word == 0xd503_3fdf,
                    name => NAMES.contains(&name),
                };
                assert_eq!(is_listed(word), expected, "{word:#010x} {name}");
                if expected {
                    seen.insert(name.to_owned());
                }
            }
        }
        assert_eq!(seen.len(), NAMES.len(), "{seen:?}");
    }
}
