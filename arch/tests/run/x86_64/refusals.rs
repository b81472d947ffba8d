//! What is refused, and must be wherever it stands.

use midflight_arch::{Form, Refusal};

use super::fillers::filler;
use crate::run::case::Refused;
use crate::run::random::Random;

type IsRight = fn(&Refusal) -> bool;

/// Bytes that are to be displaced, and why they cannot be.
const UNMOVABLE: [(&str, &[u8], IsRight); 10] = [
    ("call of the stack", &[0xff, 0xd4], |why| {
        matches!(why, Refusal::Unmovable { .. } | Refusal::ReturnsIntoSite { .. })
    }),
    ("66 prefix on a branch", &[0x66, 0xe9, 0x10, 0x20, 0x30, 0x01], |why| {
        matches!(why, Refusal::VendorDependent { .. })
    }),
    ("breakpoint", &[0xcc], |why| matches!(why, Refusal::Breakpoint { .. })),
    ("interrupt", &[0xcd, 0x21], is_privileged),
    ("privileged", &[0xfa], is_privileged),
    ("port", &[0xec], is_privileged),
    ("far jump", &[0xff, 0x2d, 0x10, 0x20, 0x30, 0x01], is_far),
    ("far call", &[0xff, 0x1d, 0x10, 0x20, 0x30, 0x01], is_far),
    ("far return", &[0xcb], is_far),
    ("no instruction", &[0x06], |why| matches!(why, Refusal::Undecodable { .. })),
];

fn is_privileged(why: &Refusal) -> bool {
    matches!(why, Refusal::Privileged { .. })
}

fn is_far(why: &Refusal) -> bool {
    matches!(why, Refusal::FarTransfer { .. })
}

/// One of each.
pub(crate) fn refusals(random: &mut Random) -> Vec<Refused> {
    let mut all = Vec::new();
    for (class, bytes, is_right) in UNMOVABLE {
        let mut part = Part::new(random);
        part.lead(random, 4);
        part.bytes.extend(bytes);
        all.push(part.finish(random, class, is_right));
    }
    all.push(ends_early(random));
    all.push(returns_into_site(random));
    all.push(refers_to_site(random, "branch into the site", 1..=4, &[0x74], |why| {
        matches!(why, Refusal::BranchIntoSite { .. })
    }));
    all.push(refers_to_site(random, "branch to the entry", 0..=0, &[0x74], |why| {
        matches!(why, Refusal::LoopsToEntry { .. })
    }));
    all.push(refers_to_site(random, "reads the site", 1..=4, &[0x8a, 0x05], |why| {
        matches!(why, Refusal::ReadsOwnBytes { .. })
    }));
    let mut short = Part::new(random);
    short.lead(random, 3);
    short.bytes.push(0xc3);
    all.push(Refused {
        is_right: |why| matches!(why, Refusal::TooShort { .. }),
        ..short.into_refused("too short")
    });
    all
}

/// A function that is to be refused.
struct Part {
    form: Form,
    address: u64,
    bytes: Vec<u8>,
}

impl Part {
    fn new(random: &mut Random) -> Self {
        let form = random.pick(&[Form::Direct, Form::Slot, Form::Island]);
        Self { form, address: random.within(1 << 32..=1 << 46), bytes: Vec::new() }
    }

    /// At most `room` bytes of fillers.
    fn lead(&mut self, random: &mut Random, room: usize) {
        while self.bytes.len() < room && !random.one_in(3) {
            self.bytes.extend(filler(random, 0, true, room - self.bytes.len()));
        }
    }

    fn into_refused(self, class: &'static str) -> Refused {
        Refused { class, form: self.form, address: self.address, bytes: self.bytes, is_right: |_| true }
    }

    fn finish(mut self, random: &mut Random, class: &'static str, is_right: IsRight) -> Refused {
        for _ in 0..6 {
            self.bytes.extend(filler(random, 0, true, 8));
        }
        Refused { is_right, ..self.into_refused(class) }
    }
}

/// Before what nothing comes to.
fn ends_early(random: &mut Random) -> Refused {
    let mut part = Part::new(random);
    part.lead(random, 2);
    let end: &[u8] = random.pick(&[&[0xc3], &[0xeb, 0x40], &[0xff, 0xe0], &[0x0f, 0x0b]]);
    part.bytes.extend(end);
    part.bytes.extend(random.pick::<&[u8]>(&[&[0x00, 0x00], &[0xff, 0xc0], &[0x06, 0x90]]));
    part.finish(random, "ends early", |why| matches!(why, Refusal::EndsEarly { .. }))
}

fn returns_into_site(random: &mut Random) -> Refused {
    let mut part = Part::new(random);
    part.lead(random, 2);
    part.bytes.extend(random.pick::<&[u8]>(&[&[0xff, 0xd0], &[0xff, 0x13]]));
    part.finish(random, "returns into the site", |why| matches!(why, Refusal::ReturnsIntoSite { .. }))
}

/// An instruction behind the site that names a byte of it.
fn refers_to_site(
    random: &mut Random,
    class: &'static str,
    offsets: std::ops::RangeInclusive<u64>,
    opcode: &[u8],
    is_right: IsRight,
) -> Refused {
    let mut part = Part::new(random);
    while part.bytes.len() < 6 {
        part.bytes.extend(filler(random, 0, true, 8));
    }
    part.bytes.extend(opcode);
    let width = if opcode.len() == 1 { 1 } else { 4 };
    let distance = random.within(offsets).wrapping_sub((part.bytes.len() + width) as u64);
    part.bytes.extend(&distance.to_le_bytes()[..width]);
    part.finish(random, class, is_right)
}
