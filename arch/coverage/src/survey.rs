//! Plans the functions of a module, and has them read again.

use std::time::Instant;

use midflight_arch::{
    Around, Form, Function, InstructionSet, Measure, Places, Refusal, SitePlan, choose, encode, measure_in,
};

use crate::places::{Home, places};
use crate::second::Doubt;
use crate::tally::{Example, Tally, reason};
use crate::{Module, Symbol, second};

pub(crate) const FORMS: [Form; 6] =
    [Form::Direct, Form::Slot, Form::Island, Form::Punned, Form::Relay, Form::Absolute];

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Every how many-th function is planned: 1 for all.
    pub stride: usize,
    /// Of every how many-th function all forms that it can have are planned and read again, beside the one it gets.
    pub all_forms: usize,
}

/// Plans the functions of a module, on all processors.
pub fn survey(module: &Module, effort: Effort) -> Tally {
    let chosen: Vec<(usize, &Symbol)> = module.functions.iter().enumerate().step_by(effort.stride).collect();
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = chosen.len().div_ceil(workers).max(1);
    let mut all = Tally { name: module.name.clone(), ..Tally::default() };
    std::thread::scope(|scope| {
        let parts: Vec<_> = chosen
            .chunks(share)
            .map(|part| {
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    for (index, symbol) in part {
                        look_at(module, symbol, *index as u64, effort, &mut tally);
                    }
                    tally
                })
            })
            .collect();
        for part in parts {
            match part.join() {
                Ok(tally) => all.add(tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    all
}

/// A function and what is known about it.
struct Subject<'a> {
    function: Function<'a>,
    around: Around<'a>,
    measure: Measure,
    home: Home,
}

fn look_at(module: &Module, symbol: &Symbol, salt: u64, effort: Effort, tally: &mut Tally) {
    let Some(function) = module.function(symbol) else { return };
    let neighbourhood = module.neighbourhood(symbol);
    let around = neighbourhood.around();
    let start = Instant::now();
    let measure = measure_in(module.set, &function, &around);
    let home = Home { image: module.image(), salt };
    let subject = Subject { function, around, measure, home };
    let outcome = subject.plan();
    tally.time += start.elapsed();

    let jump = if module.set == InstructionSet::X86_64 { 5 } else { 4 };
    let class = if symbol.is_part() {
        &mut tally.parts
    } else if symbol.size < jump {
        &mut tally.short
    } else {
        &mut tally.ordinary
    };
    let mut wrong = Vec::new();
    match outcome {
        Ok((plan, places)) => match subject.read_again(&plan, &places) {
            Ok(()) => class.plan(plan.form),
            Err(error) => wrong.push(error),
        },
        Err(refusal) => class.refuse(refusal.as_ref().map_or_else(|| "NoPlace".into(), reason), || Example {
            name: symbol.name.clone(),
            address: symbol.address,
            bytes: function.bytes.iter().copied().take(16).collect(),
            why: refusal.as_ref().map_or_else(String::new, Refusal::to_string),
        }),
    }
    if salt.is_multiple_of(effort.all_forms as u64) {
        let others = FORMS.into_iter().filter_map(|form| subject.plan_form(form));
        wrong.extend(others.filter_map(|(plan, places)| subject.read_again(&plan, &places).err()));
    }
    let name = |error: Doubt| format!("{} at {:#x}: {error}", symbol.name, symbol.address);
    tally.wrong.extend(wrong.into_iter().map(name));
}

impl Subject<'_> {
    /// The plan in the form that the function gets, with the replacement in another module.
    fn plan(&self) -> Result<(SitePlan, Places), Option<Refusal>> {
        let choice = choose(&self.measure, None, &[]);
        let first = choice.forms.iter().find_map(|form| self.plan_form(*form));
        first.ok_or_else(|| choice.refusal().or_else(|| choice.refused.first().map(|(_, why)| why)).cloned())
    }

    /// The plan in a form, if it can be used and there is memory for it.
    fn plan_form(&self, form: Form) -> Option<(SitePlan, Places)> {
        let places = places(&self.measure, form, &self.home)?;
        let plan = encode(&self.measure, form, &places, self.replacement(&places)).ok()?;
        Some((plan, places))
    }

    /// Only a direct jump depends on it.
    fn replacement(&self, places: &Places) -> u64 {
        places.island + 64
    }

    fn read_again(&self, plan: &SitePlan, places: &Places) -> Result<(), Doubt> {
        let to = self.replacement(places);
        second::verify(self.measure.set(), &self.function, &self.around, plan, places, to)
    }
}
