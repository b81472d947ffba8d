//! The second decoder agrees with a plan, and with no other: without this, one that checks nothing would pass.

use midflight_arch::{Around, Form, Function, InstructionSet, Places, SitePlan, encode, measure_in};
use midflight_coverage::second::verify;

use crate::support::{AT, FAR, PLACES, hex, listing};

const X86_64: InstructionSet = InstructionSet::X86_64;
const AARCH64: InstructionSet = InstructionSet::Aarch64;

/// Where the parts of an absolute site are.
const FAR_PLACES: Places =
    Places { trampoline: 0x7e00_0000_0000, island: 0x7e00_0000_0400, slot: 0x7e00_0000_0800 };

/// Functions, and the forms that each of them has. The last bytes of each belong to it.
const CASES: &[(InstructionSet, &[Form], &str)] = &[
    (X86_64, &[Form::Slot, Form::Island, Form::Absolute], "55 4889e5 4157 4156 4155 4154 53 90*8 c3"),
    (X86_64, &[Form::Slot, Form::Island, Form::Relay], "f30f1efa 833d00100000 05 7410 c3 90*40"),
    (X86_64, &[Form::Slot, Form::Island, Form::Punned], "85ff 0f84 00010000 c3"),
    (X86_64, &[Form::Slot, Form::Island], "e210 488d0500200000 c3 90*20"),
    (X86_64, &[Form::Slot, Form::Island], "67e310 c705001000008877 6655 c3 90*20"),
    (X86_64, &[Form::Slot, Form::Island], "ff2500100000"),
    (X86_64, &[Form::Island], "e900100000"),
    (X86_64, &[Form::Punned], "31c0 c3"),
    (X86_64, &[Form::Slot, Form::Island], "53 e800100000 5b c3 90*8"),
    (X86_64, &[Form::Slot, Form::Island], "90*4 ff5008 5b c3 90*4"),
    (X86_64, &[Form::Slot, Form::Island], "55 4889e5 4157 85ff 75f6 c3 90*20"),
    (X86_64, &[Form::Slot, Form::Island], "55 4889e5 4157 85ff 0f85f2ffffff c3"),
    (X86_64, &[Form::Absolute], "8b0500100000 833d0010000005 488d0500100000 c3"),
    (X86_64, &[Form::Absolute], "ff3500100000 90*7 ff2500100000"),
    (X86_64, &[Form::Slot, Form::Island], "85ff 7402 31c0 31f6 c3 90*4"),
    (AARCH64, &[Form::Island], "1f2003d5 c0035fd6"),
    (AARCH64, &[Form::Island], "40000054 1f2003d5 c0035fd6"),
    (AARCH64, &[Form::Island], "00100058 c0035fd6"),
    (AARCH64, &[Form::Island], "0010001c c0035fd6"),
    (AARCH64, &[Form::Island], "00000090 c0035fd6"),
    (AARCH64, &[Form::Island], "00100014"),
];

fn each(look: impl Fn(InstructionSet, &Function<'_>, &Around<'_>, &SitePlan, &Places)) -> usize {
    let mut plans = 0;
    for (set, forms, text) in CASES {
        let bytes = hex(text);
        let function = Function { address: AT, bytes: &bytes, guarded: false };
        let padding = [0xcc; 16];
        let paddings = [(AT + bytes.len() as u64 + 4, &padding[..])];
        // `31c0 c3` has to lead behind the function: not to where the bits of 0x90 would.
        let around = Around { behind: &[0x10, 0x00, 0x00, 0x05], paddings: &paddings, ..Around::default() };
        let measure = measure_in(*set, &function, &around);
        for form in *forms {
            let mut places = if *form == Form::Absolute { FAR_PLACES } else { PLACES };
            if let Some(island) = measure.pun_places().filter(|_| *form == Form::Punned) {
                places.island = *island.start();
            }
            let plan = encode(&measure, *form, &places, FAR);
            let plan = plan.unwrap_or_else(|refusal| panic!("{text}, {form}: {refusal}"));
            let agreed = verify(*set, &function, &around, &plan, &places, FAR);
            agreed.unwrap_or_else(|doubt| panic!("{text}: {doubt}"));
            look(*set, &function, &around, &plan, &places);
            plans += 1;
        }
    }
    plans
}

#[test]
fn every_wrong_bit_is_noticed() {
    let plans = each(|set, function, around, plan, places| {
        let parts: [fn(&mut SitePlan) -> &mut [u8]; 5] = [
            |plan| &mut plan.entry,
            |plan| &mut plan.trampoline,
            |plan| &mut plan.island,
            |plan| plan.others.first_mut().map_or(&mut [], |other| &mut other.bytes),
            |plan| plan.others.get_mut(1).map_or(&mut [], |other| &mut other.bytes),
        ];
        for part in parts {
            for bit in 0..part(&mut plan.clone()).len() * 8 {
                let mut wrong = plan.clone();
                part(&mut wrong)[bit / 8] ^= 1 << (bit % 8);
                // A scale without an index means nothing.
                let texts = |plan: &SitePlan| listing(part(&mut plan.clone()), AT);
                if set == X86_64 && texts(&wrong) == texts(plan) {
                    continue;
                }
                let agreed = verify(set, function, around, &wrong, places, FAR);
                assert!(agreed.is_err(), "not noticed, bit {bit}: {plan:x?}\nbecame {wrong:x?}");
            }
        }
    });
    assert!(plans > 15, "{plans}");
}

/// A plan that is right but for what stays of the function.
#[test]
fn what_stays_is_looked_at() {
    let tails = [
        (
            X86_64,
            Form::Slot,
            "55 4889e5 4157 90 c3 90*8",
            ["55 4889e5 4157 90 ebf8 90*7", "55 4889e5 4157 90 ebf7 90*7"],
        ),
        (X86_64, Form::Slot, "90*6 c3 90*7", ["90*6 ebf9 90*6", "90*6 8b05f6ffffff 90 90"]),
        (AARCH64, Form::Island, "1f2003d5 c0035fd6", ["1f2003d5 ffffff17", "1f2003d5 e0ffff18"]),
    ];
    for (set, form, text, others) in tails {
        let bytes = hex(text);
        let function = Function { address: AT, bytes: &bytes, guarded: false };
        let around = Around::default();
        let measure = measure_in(set, &function, &around);
        let plan = encode(&measure, form, &PLACES, FAR).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        assert_eq!(verify(set, &function, &around, &plan, &PLACES, FAR), Ok(()), "{text}");
        for text in others {
            let bytes = hex(text);
            let other = Function { bytes: &bytes, ..function };
            assert!(verify(set, &other, &around, &plan, &PLACES, FAR).is_err(), "{text}");
        }
    }
}
