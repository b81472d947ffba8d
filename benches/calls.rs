//! What a call costs: plain, replaced, and of an original.
//!
//! All calls are measured in turn, some microseconds each, over and over; a ratio is the median over the
//! rounds, so what slows the machine down for a while slows both sides of it. Only the fastest quarter of the rounds counts:
//! where two processors are one core's threads, work on the other one slows jumps down more than anything.

use crate::loops;
use crate::numbers::Samples;
use crate::rival::{self, Detour};
use crate::targets::{self, Function};
use midflight::{Applied, Form, Options, Transaction};
use std::hint::black_box;
use std::time::Instant;

/// Calls between two looks at the clock.
const CALLS: u64 = 10_000;
/// One way to call.
pub(crate) struct Call {
    /// What it is.
    pub(crate) name: String,
    /// What it is compared with: the number of a plain call.
    pub(crate) plain: usize,
    run: loops::Loop,
    /// What one call must answer.
    answer: i64,
    /// Seconds for one call, one sample for each round that counts.
    pub(crate) samples: Samples,
}

/// A direct call of a function in the executable.
pub(crate) const DIRECT: usize = 0;
/// A call of a function in a library, through a pointer in memory.
pub(crate) const LIBRARY: usize = 1;
/// A direct call of a function that is like the targets.
const UNTOUCHED: usize = 2;

/// Measures all calls in `rounds` rounds.
pub(crate) fn measure(rounds: usize) -> crate::Result<Vec<Call>> {
    loops::TO_LIBRARY.set(targets::far());
    let applied = apply()?;
    let detours = apply_rival()?;
    let mut calls = list();
    for call in &calls {
        let answer = (call.run)(1);
        if answer != call.answer {
            return Err(format!("{}: answers {answer}, not {}", call.name, call.answer).into());
        }
    }
    let mut rounds: Vec<Vec<f64>> =
        (0..rounds).map(|_| calls.iter().map(|call| seconds_a_call(call.run)).collect()).collect();
    let length = |round: &Vec<f64>| round.iter().sum::<f64>();
    rounds.sort_by(|a, b| length(a).total_cmp(&length(b)));
    rounds.truncate(rounds.len().div_ceil(4));
    for round in rounds {
        for (call, seconds) in calls.iter_mut().zip(round) {
            call.samples.push(seconds);
        }
    }
    for detour in detours {
        // SAFETY: this is the only thread, and it calls no original any more.
        unsafe { detour.roll_back()? };
    }
    applied.rollback()?;
    Ok(calls)
}

fn seconds_a_call(run: loops::Loop) -> f64 {
    let start = Instant::now();
    black_box(run(black_box(CALLS)));
    start.elapsed().as_secs_f64() / CALLS as f64
}

impl Call {
    /// How many times the plain call's time this one takes.
    pub(crate) fn ratio(&self, calls: &[Self]) -> f64 {
        let mut ratios = Samples::default();
        let plain = calls.get(self.plain).map_or(&[][..], |plain| plain.samples.values());
        for (this, plain) in self.samples.values().iter().zip(plain) {
            ratios.push(this / plain);
        }
        ratios.median()
    }
}

fn list() -> Vec<Call> {
    let (absolute, one_more) = (-loops::START, loops::START + 1);
    let call = |name: &str, run, answer, plain| Call {
        name: name.to_owned(),
        plain,
        run,
        answer,
        samples: Samples::default(),
    };
    let mut calls = vec![
        call("direct call", loops::near as loops::Loop, absolute, DIRECT),
        call("call into a library, through a pointer in memory", loops::library, absolute, LIBRARY),
        call("direct call of a function with a frame", loops::untouched, one_more, UNTOUCHED),
        call("midflight: replaced by a near function, direct form", loops::for_near, absolute, DIRECT),
        call("midflight: replaced by a far function, island form", loops::for_island, absolute, LIBRARY),
        call("midflight: the original, by `Original::get`", loops::original, one_more, UNTOUCHED),
    ];
    if cfg!(target_arch = "x86_64") {
        let name = "midflight: replaced by a far function, slot form";
        calls.insert(4, call(name, loops::for_far, absolute, LIBRARY));
    }
    if Detour::IS_AVAILABLE {
        calls.extend([
            call("retour: replaced by a near function", loops::retour_near, absolute, DIRECT),
            call("retour: replaced by a far function", loops::retour_far, absolute, LIBRARY),
            call(
                "retour: the original, through a pointer in memory",
                loops::retour_original,
                one_more,
                UNTOUCHED,
            ),
        ]);
    }
    calls
}

/// Replaces the targets of midflight's calls, each in the form that its call is named after.
fn apply() -> crate::Result<Applied> {
    let far = targets::far();
    let mut change = Transaction::new();
    change.replace(targets::for_near as *const (), targets::near as *const ());
    change.replace(targets::for_far as *const (), far as *const ());
    change.replace(targets::for_island as *const (), far as *const ());
    change.replace_fn(targets::for_original as *const (), &loops::ORIGINAL, targets::near as Function);
    let far_form = if cfg!(target_arch = "x86_64") { Form::Slot } else { Form::Island };
    for (function, wanted) in
        change.check()?.functions.iter().zip([Form::Direct, far_form, Form::Island, Form::Direct])
    {
        if function.form != wanted {
            return Err(format!("{function}: not the form to be measured, {wanted}").into());
        }
    }
    // SAFETY: all have one type, and nobody but this file calls them.
    Ok(unsafe { change.commit(&Options::new())? })
}

fn apply_rival() -> crate::Result<Vec<Detour>> {
    if !Detour::IS_AVAILABLE {
        return Ok(Vec::new());
    }
    let pairs = [
        (targets::for_retour_near as Function, targets::near as Function),
        (targets::for_retour_far, targets::far()),
        (targets::for_retour_original, targets::near),
    ];
    let mut detours = Vec::new();
    for (target, replacement) in pairs {
        // SAFETY: this is the only thread, and it runs none of them now.
        let detour = unsafe { Detour::apply(target, replacement) };
        detours.push(detour.map_err(|error| format!("{}: {error}", rival::NAME))?);
    }
    if let Some(last) = detours.last() {
        loops::TO_RIVAL_ORIGINAL.set(last.original());
    }
    Ok(detours)
}
