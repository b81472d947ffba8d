//! The rule by which a site gets its form.

use crate::{Form, InstructionSet, Measure, Refusal};

/// The forms that a site can have, best first, and why it cannot have the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// In the order in which they are to be tried: the next one is for when there is no memory in reach for one, or it
    /// would meet another site.
    pub forms: Vec<Form>,
    /// Those that cannot be used, in the same order.
    pub refused: Vec<(Form, Refusal)>,
}

impl Choice {
    /// Why no form can be used: what the shortest of the plain forms met, which another compiler option might help.
    pub fn refusal(&self) -> Option<&Refusal> {
        let of = |wanted| self.refused.iter().find(|(form, _)| *form == wanted).map(|(_, why)| why);
        of(Form::Island).filter(|_| self.forms.is_empty())
    }
}

/// All forms, best first. What counts is what every call costs, then what the site takes:
///
/// | form | bytes | a call goes through | memory |
/// |---|---|---|---|
/// | direct | 5 (aarch64: 4) | one jump; only where the replacement is in reach | |
/// | slot | 6 | a jump through a pointer | |
/// | island | 5 (aarch64: 4) | two jumps, one through a pointer | |
/// | punned | those of the first instruction, 1 to 4 | the same | mostly a page for the island |
/// | relay | 2, and 5 of padding nearby | three jumps | |
/// | absolute | 14 | two jumps, both through pointers | needs none near the function |
const ORDER: [Form; 6] = [Form::Direct, Form::Slot, Form::Island, Form::Punned, Form::Relay, Form::Absolute];

/// Says which forms a site can have. With no address known for the replacement, it counts as out of reach.
/// `entrances` are addresses behind the function's first byte at which it may be entered too, by whatever means.
pub fn choose(measure: &Measure, replacement: Option<u64>, entrances: &[u64]) -> Choice {
    let mut choice = Choice { forms: Vec::new(), refused: Vec::new() };
    for form in ORDER {
        match usable(measure, form, replacement, entrances) {
            Ok(()) => choice.forms.push(form),
            // There is no such form, or nothing is known of the replacement: not worth a word.
            Err(None) => {}
            Err(Some(refusal)) => choice.refused.push((form, refusal)),
        }
    }
    choice
}

fn usable(
    measure: &Measure,
    form: Form,
    replacement: Option<u64>,
    entrances: &[u64],
) -> Result<(), Option<Refusal>> {
    if form == Form::Direct {
        let to = replacement.ok_or(None)?;
        measure.entry_jump(form, to).map_err(Some)?;
    }
    let displaced = measure.usable(form).map_err(|refusal| match refusal {
        Refusal::NoSuchForm { .. } => None,
        refusal => Some(refusal.clone()),
    })?;
    let site = measure.site();
    let inside = match measure.set() {
        InstructionSet::X86_64 => site..site + displaced.overwritten as u64,
        // All that is displaced, which may be a loop.
        InstructionSet::Aarch64 => site..site + displaced.span as u64,
    };
    let changed = measure.overwrites_too(form);
    let in_changed = |to: &u64| changed.iter().any(|(at, len)| *to > *at && *to < at + *len as u64);
    match entrances.iter().find(|address| inside.contains(address) || in_changed(address)) {
        Some(&address) => Err(Some(Refusal::EnteredAt { site, address })),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Function, measure};

    const AT: u64 = 0x5500_0000_0000;

    fn forms(bytes: &[u8], replacement: Option<u64>, entrances: &[u64]) -> Vec<Form> {
        let function = Function { address: AT, bytes, guarded: false };
        choose(&measure(InstructionSet::X86_64, &function), replacement, entrances).forms
    }

    #[test]
    fn the_cheapest_call_comes_first() {
        let long = [0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0xc3];
        let far = [Form::Slot, Form::Island, Form::Punned];
        assert_eq!(forms(&long, Some(AT + 0x1000_0000), &[]), [&[Form::Direct][..], &far].concat());
        assert_eq!(forms(&long, Some(0x7f00_0000_0000), &[]), far);
        assert_eq!(forms(&long, None, &[]), far);
        assert_eq!(forms(&[0x31, 0xc0, 0x31, 0xc0, 0xc3], None, &[]), [Form::Island, Form::Punned]);
        assert_eq!(forms(&[0x31; 14], None, &[]), [Form::Slot, Form::Island, Form::Punned, Form::Absolute]);
    }

    #[test]
    fn no_site_over_another_entrance() {
        let long = [0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0xc3];
        assert_eq!(forms(&long, None, &[AT + 2]), [Form::Punned]);
        assert_eq!(forms(&long, None, &[AT + 5]), [Form::Island, Form::Punned]);
        assert_eq!(forms(&long, None, &[AT + 6]), [Form::Slot, Form::Island, Form::Punned]);
        assert_eq!(forms(&long, None, &[AT + 1]), []);
    }

    #[test]
    fn what_is_told_is_what_the_island_form_met() {
        let function = Function { address: AT, bytes: &[0x31, 0xc0, 0xc3], guarded: false };
        let choice = choose(&measure(InstructionSet::X86_64, &function), None, &[]);
        assert!(matches!(choice.refusal(), Some(Refusal::TooShort { needed: 5, .. })), "{choice:?}");
    }
}
