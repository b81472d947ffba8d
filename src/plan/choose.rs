//! Which form a site takes, and which sites cannot stand together.
#![forbid(unsafe_code)]

use crate::arch::{Form, Measure, Refusal};
use std::collections::BTreeMap;

/// Why no form can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoForm {
    /// The shortest form was refused.
    Refused(Refusal),
    /// The function may also be entered here, inside the bytes of the shortest form.
    EnteredAt(u64),
}

/// The form for a replacement at `replacement`, cheapest call first: a direct jump where it reaches;
/// else through the slot at once; else through an island. With no address known, the far forms count.
/// `inner` are addresses behind the function's first byte at which it may be entered too.
pub(crate) fn choose(measure: &Measure, replacement: Option<u64>, inner: &[u64]) -> Result<Form, NoForm> {
    let direct = replacement.filter(|to| measure.entry_jump(Form::Direct, *to).is_ok()).map(|_| Form::Direct);
    let forms = direct.into_iter().chain([Form::Slot, Form::Island]);
    let mut refused = None;
    for form in forms {
        refused = match measure.usable(form) {
            Ok(displaced) => {
                let site = measure.site()..measure.site() + displaced.span as u64;
                match inner.iter().find(|address| site.contains(address)) {
                    None => return Ok(form),
                    Some(address) => Some(NoForm::EnteredAt(*address)),
                }
            }
            // What the shortest form meets cannot be helped.
            Err(why) => Some(NoForm::Refused(why.clone())),
        };
    }
    Err(refused.unwrap_or(NoForm::EnteredAt(measure.site())))
}

/// The first two of the sites (number, first byte, bytes overwritten) that overlap.
pub(crate) fn overlap(sites: impl Iterator<Item = (usize, u64, u64)>) -> Option<(usize, usize)> {
    let mut ends: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
    for (number, start, len) in sites {
        let end = start + len;
        let before = ends.range(..end).next_back();
        if let Some((_, (other, _))) = before.filter(|(_, (_, other_end))| *other_end > start) {
            return Some((*other, number));
        }
        ends.insert(start, (number, end));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Function, InstructionSet, measure};

    const SET: InstructionSet = InstructionSet::X86_64;

    fn form(bytes: &[u8], replacement: Option<u64>) -> Result<Form, NoForm> {
        choose(
            &measure(SET, &Function { address: 0x5500_0000_0000, bytes, guarded: false }),
            replacement,
            &[],
        )
    }

    #[test]
    fn cheapest_that_reaches_and_fits() {
        let long = [0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0xc3];
        assert_eq!(form(&long, Some(0x5500_1000_0000)), Ok(Form::Direct));
        assert_eq!(form(&long, Some(0x7f00_0000_0000)), Ok(Form::Slot));
        assert_eq!(form(&long, None), Ok(Form::Slot));
        let five = [0x31, 0xc0, 0x31, 0xc0, 0xc3];
        assert_eq!(form(&five, Some(0x7f00_0000_0000)), Ok(Form::Island));
        assert!(matches!(form(&[0x31, 0xc0, 0xc3], None), Err(NoForm::Refused(Refusal::TooShort { .. }))));
    }

    #[test]
    fn no_site_over_another_entry() {
        let long = [0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0x31, 0xc0, 0xc3];
        let measure = measure(SET, &Function { address: 0x5500_0000_0000, bytes: &long, guarded: false });
        let form = |inner: u64| choose(&measure, None, &[0x5500_0000_0000 + inner]);
        assert_eq!(form(2), Err(NoForm::EnteredAt(0x5500_0000_0002)));
        assert_eq!(form(5), Ok(Form::Island));
        assert_eq!(form(6), Ok(Form::Slot));
    }

    #[test]
    fn overlaps_are_found_in_any_order() {
        let sites = |list: &[(u64, u64)]| {
            overlap(list.iter().enumerate().map(|(number, (start, len))| (number, *start, *len)))
        };
        assert_eq!(sites(&[(10, 5), (15, 6), (0, 10)]), None);
        assert_eq!(sites(&[(10, 5), (14, 6)]), Some((0, 1)));
        assert_eq!(sites(&[(14, 6), (30, 1), (10, 5)]), Some((0, 2)));
        assert_eq!(sites(&[(10, 5), (10, 5)]), Some((0, 1)));
        assert_eq!(sites(&[(10, 50), (20, 5)]), Some((0, 1)));
    }
}
