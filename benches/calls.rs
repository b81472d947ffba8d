//! What a call costs: plain, replaced, and of an original.
//!
//! All calls are measured in turn, a few microseconds each, over and over; a ratio is the median over the
//! rounds, so what slows the machine down for a while slows both sides of it.

use crate::numbers::Samples;
use crate::rival::{self, Detour};
use crate::targets::{self, Function};
use midflight::{Applied, Form, Options, Original, Transaction};
use std::hint::black_box;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use std::time::Instant;

/// Calls between two looks at the clock.
const CALLS: u64 = 10_000;
/// The number that goes in. Twice through a replacement it stays the same, so loops can be checked.
const START: i64 = -5;

/// One way to call.
pub(crate) struct Call {
    /// What it is.
    pub(crate) name: String,
    /// What it is compared with: the number of a plain call.
    pub(crate) plain: usize,
    run: fn(u64) -> i64,
    /// What one call must answer.
    answer: i64,
    /// Seconds for one call, one sample a round.
    pub(crate) samples: Samples,
}

/// A direct call of a function in the executable.
pub(crate) const DIRECT: usize = 0;
/// A call of a function in a library, through a pointer in memory.
pub(crate) const LIBRARY: usize = 1;
/// A direct call of a function that is like the targets.
const UNTOUCHED: usize = 2;

/// A function pointer that is read from memory for each call, as that of a library is.
struct Pointer(AtomicPtr<()>);

impl Pointer {
    const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    fn set(&self, function: Function) {
        self.0.store(function as *mut (), Relaxed);
    }

    fn get(&self) -> Function {
        // SAFETY: `set` was called before, with a function of that type.
        unsafe { std::mem::transmute::<*mut (), Function>(self.0.load(Relaxed)) }
    }
}

static TO_LIBRARY: Pointer = Pointer::new();
static TO_RIVAL_ORIGINAL: Pointer = Pointer::new();
static ORIGINAL: Original<Function> = Original::new();

/// Functions that make so many calls, each with the answer of the one before.
macro_rules! loops {
    ($($name:ident: $call:expr;)*) => {
        $(
            #[inline(never)]
            fn $name(calls: u64) -> i64 {
                let mut value = START;
                for _ in 0..calls {
                    value = ($call)(value);
                }
                value
            }
        )*
    };
}

loops! {
    near: targets::near;
    library: TO_LIBRARY.get();
    untouched: targets::untouched;
    for_near: targets::for_near;
    for_far: targets::for_far;
    for_island: targets::for_island;
    original: ORIGINAL.get();
    retour_near: targets::for_retour_near;
    retour_far: targets::for_retour_far;
    retour_original: TO_RIVAL_ORIGINAL.get();
}

/// Measures all calls in `rounds` rounds.
pub(crate) fn measure(rounds: usize) -> crate::Result<Vec<Call>> {
    TO_LIBRARY.set(targets::far());
    let applied = apply()?;
    let detours = apply_rival()?;
    let mut calls = list();
    for call in &calls {
        let answer = (call.run)(1);
        if answer != call.answer {
            return Err(format!("{}: answers {answer}, not {}", call.name, call.answer).into());
        }
    }
    // The first rounds warm caches and clocks up.
    for round in 0..rounds + rounds / 10 {
        for call in &mut calls {
            let start = Instant::now();
            black_box((call.run)(black_box(CALLS)));
            let took = start.elapsed();
            if round >= rounds / 10 {
                call.samples.push(took.as_secs_f64() / CALLS as f64);
            }
        }
    }
    for detour in detours {
        // SAFETY: this is the only thread, and it calls no original any more.
        unsafe { detour.roll_back()? };
    }
    applied.rollback()?;
    Ok(calls)
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
    let (absolute, one_more) = (-START, START + 1);
    let call = |name: &str, run, answer, plain| Call {
        name: name.to_owned(),
        plain,
        run,
        answer,
        samples: Samples::default(),
    };
    let mut calls = vec![
        call("direct call", near as fn(u64) -> i64, absolute, DIRECT),
        call("call into a library, through a pointer in memory", library, absolute, LIBRARY),
        call("direct call of a function with a frame", untouched, one_more, UNTOUCHED),
        call("midflight: replaced by a near function, direct form", for_near, absolute, DIRECT),
        call("midflight: replaced by a far function, island form", for_island, absolute, LIBRARY),
        call("midflight: the original, by `Original::get`", original, one_more, UNTOUCHED),
    ];
    if cfg!(target_arch = "x86_64") {
        let name = "midflight: replaced by a far function, slot form";
        calls.insert(4, call(name, for_far, absolute, LIBRARY));
    }
    if Detour::IS_AVAILABLE {
        calls.extend([
            call("retour: replaced by a near function", retour_near, absolute, DIRECT),
            call("retour: replaced by a far function", retour_far, absolute, LIBRARY),
            call("retour: the original, through a pointer in memory", retour_original, one_more, UNTOUCHED),
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
    change.replace_fn(targets::for_original as *const (), &ORIGINAL, targets::near as Function);
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
        TO_RIVAL_ORIGINAL.set(last.original());
    }
    Ok(detours)
}
