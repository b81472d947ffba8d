//! What is refused, and must be wherever it stands.

use midflight_arch::{Form, Refusal};

use crate::run::case::Refused;
use crate::run::random::Random;

type IsRight = fn(&Refusal) -> bool;

const WORDS: [(&str, u32, IsRight); 9] = [
    ("blr of no register", 0xd63f_0921, is_call),
    ("brk", 0xd420_0000, |why| matches!(why, Refusal::Breakpoint { .. })),
    ("hvc", 0xd400_0002, |why| matches!(why, Refusal::Privileged { .. })),
    ("eret", 0xd69f_03e0, |why| matches!(why, Refusal::Privileged { .. })),
    ("ldxr", 0xc85f_7c20, is_unmovable),
    ("stxr", 0xc802_7c20, is_unmovable),
    ("tstart", 0xd523_3060, |why| matches!(why, Refusal::Transaction { .. })),
    ("adr of itself", 0x3000_0005, |why| matches!(why, Refusal::ReadsOwnBytes { .. })),
    ("literal in itself", 0x5800_0006, |why| matches!(why, Refusal::ReadsOwnBytes { .. })),
];

fn is_call(why: &Refusal) -> bool {
    matches!(why, Refusal::Call { .. })
}

fn is_unmovable(why: &Refusal) -> bool {
    matches!(why, Refusal::Unmovable { .. })
}

/// One of each.
pub(crate) fn refusals(random: &mut Random) -> Vec<Refused> {
    let mut refused = |class, form, offset, words: &[u32], is_right| Refused {
        class,
        form,
        address: (random.within(1 << 32..=1 << 46) & !3) + offset,
        bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        is_right,
    };
    // nop, ret
    let rest = [0xd503_201f, 0xd65f_03c0];
    let mut all: Vec<Refused> = Vec::new();
    for (class, word, is_right) in WORDS {
        all.push(refused(class, Form::Island, 0, &[word, rest[0], rest[1]], is_right));
        all.push(refused(class, Form::Direct, 0, &[word, rest[1]], is_right));
    }
    // A call in a loop from the entry, before and behind cbnz x0; x16 in one.
    let calls = [rest[0], 0x9400_1234, 0xb5ff_ffc0, rest[1]];
    let behind = [rest[0], 0xb5ff_ffe0, 0x9400_1234, rest[1]];
    let borrows = [0x5c00_0060, 0xb5ff_ffe0, rest[1]];
    for (class, words) in [
        ("loop with a call", &calls[..]),
        ("loop and a call", &behind[..]),
        ("loop that needs x16", &borrows[..]),
    ] {
        all.push(refused(class, Form::Island, 0, words, |why| matches!(why, Refusal::LoopsToEntry { .. })));
    }
    // bti c; bti j
    let pads = [0xd503_245f, 0xd503_249f, rest[1]];
    all.push(refused("second landing pad", Form::Island, 0, &pads, is_unmovable));
    all.push(refused("slot form", Form::Slot, 0, &rest, |why| matches!(why, Refusal::NoSuchForm { .. })));
    all.push(refused("misaligned", Form::Direct, 2, &rest, |why| matches!(why, Refusal::Misaligned { .. })));
    all.push(refused("too short", Form::Direct, 0, &[], |why| matches!(why, Refusal::TooShort { .. })));
    all
}
