//! aarch64, one module an instruction class. Functions are words in the order of their bytes.

mod branches;
mod calls;
mod edges;
mod golden;
mod loads;
mod loops;
pub(crate) mod meaning;
mod pads;
mod reads_back;
mod reference;

use midflight_arch::{Form, Function, InstructionSet, Measure, Refusal, SitePlan, encode, measure};

use crate::support::{AT, PLACES, hex, to_hex};

const NOP: &str = "1f2003d5";

fn measured(text: &str) -> Measure {
    measure(InstructionSet::Aarch64, &Function { address: AT, bytes: &hex(text), guarded: false })
}

/// The same on a page mapped with `PROT_BTI`.
fn measured_guarded(text: &str) -> Measure {
    measure(InstructionSet::Aarch64, &Function { address: AT, bytes: &hex(text), guarded: true })
}

/// A function of words as a manual writes them.
fn words(words: &[u32]) -> String {
    words.iter().map(|word| to_hex(&word.to_le_bytes()).replace(' ', "") + " ").collect()
}

fn planned(text: &str, form: Form) -> SitePlan {
    let plan = plan_of(&measured(text), text, form);
    assert_eq!((plan.original.len(), plan.entry.len()), (4, 4));
    assert_eq!(plan.pc_map.entries(), [(plan.site, PLACES.trampoline)]);
    let svc = u32::from_le_bytes(*plan.original.first_chunk().expect("a word")) & 0xffe0_001f == 0xd400_0001;
    assert!(plan.pc_map.inside(plan.site) == svc && !plan.pc_map.inside(plan.site + 4));
    assert_eq!(plan.pc_map.inside_jump(), None);
    plan
}

fn plan_of(measure: &Measure, text: &str, form: Form) -> SitePlan {
    let plan = encode(measure, form, &PLACES, PLACES.slot + 0x1000)
        .unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
    let displaced = measure.usable(form).expect("a usable form");
    assert_eq!((displaced.overwritten, plan.original.len()), (plan.entry.len(), plan.entry.len()));
    assert_eq!(plan.trampoline.len(), measure.trampoline_room(form), "{text}");
    assert_eq!(plan.pc_map.back(PLACES.trampoline), Some(plan.site));
    plan
}

fn refused(text: &str) -> Refusal {
    refusal_of(&measured(text))
}

fn refusal_of(measure: &Measure) -> Refusal {
    let refusal = measure.usable(Form::Island).expect_err("a refusal").clone();
    assert_eq!(measure.usable(Form::Direct).err(), Some(&refusal));
    assert!(refusal.to_string().contains("0x"), "no address in: {refusal}");
    refusal
}

/// Bytes in words.
fn row(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.chunks(4).map(|word| to_hex(word).replace(' ', "")).collect();
    words.join(" ")
}
