//! What it costs to apply and to roll back, and how long other threads are held for it.

use crate::crowd::{Crowd, Kind};
use crate::numbers::Samples;
use crate::rival::Detour;
use crate::targets::{self, Function};
use midflight::{Held, Options, Transaction};
use std::time::{Duration, Instant};

/// Commits of one kind.
pub(crate) struct Series {
    pub(crate) who: Who,
    /// How many functions at once.
    pub(crate) functions: usize,
    pub(crate) others: Kind,
    pub(crate) apply: Samples,
    pub(crate) rollback: Samples,
    /// How long the others were held for the apply; empty where nobody is.
    pub(crate) held_apply: Samples,
    pub(crate) held_rollback: Samples,
}

/// Whose commits they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Midflight,
    /// One function after the other, since it knows no transactions; nobody is held.
    Retour,
}

/// How often each is done.
struct Rounds {
    others: Kind,
    one: usize,
    many: usize,
    /// Of retour's thousands.
    rival_many: usize,
}

const FULL: [Rounds; 3] = [
    Rounds { others: Kind::None, one: 1000, many: 100, rival_many: 30 },
    Rounds { others: Kind::Sleeping(16), one: 1000, many: 300, rival_many: 30 },
    Rounds { others: Kind::Busy(64), one: 150, many: 10, rival_many: 3 },
];

const QUICK: [Rounds; 3] = [
    Rounds { others: Kind::None, one: 10, many: 2, rival_many: 1 },
    Rounds { others: Kind::Sleeping(16), one: 10, many: 2, rival_many: 1 },
    Rounds { others: Kind::Busy(64), one: 2, many: 1, rival_many: 0 },
];

/// The very first commit of the process: its apply and its rollback. Some things are done once.
pub(crate) fn first() -> crate::Result<(Duration, Duration)> {
    let once = midflight(targets::many().get(..1).unwrap_or_default())?;
    Ok((once.apply, once.rollback))
}

/// All series.
pub(crate) fn measure(quick: bool) -> crate::Result<Vec<Series>> {
    let mut all = Vec::new();
    for rounds in if quick { QUICK } else { FULL } {
        eprintln!("commits, other threads: {}", rounds.others);
        let crowd = Crowd::start(rounds.others)?;
        all.extend(beside_each_other(&rounds)?);
        drop(crowd);
    }
    Ok(all)
}

/// Both libraries and both sizes in turn.
fn beside_each_other(rounds: &Rounds) -> crate::Result<Vec<Series>> {
    let series = |who, functions| Series {
        who,
        functions,
        others: rounds.others,
        apply: Samples::default(),
        rollback: Samples::default(),
        held_apply: Samples::default(),
        held_rollback: Samples::default(),
    };
    let many = targets::MANY;
    let mut all = vec![(series(Who::Midflight, 1), rounds.one), (series(Who::Midflight, many), rounds.many)];
    if Detour::IS_AVAILABLE {
        all.push((series(Who::Retour, 1), rounds.one));
        all.push((series(Who::Retour, many), rounds.rival_many));
    }
    let most = all.iter().map(|(_, wanted)| *wanted).max().unwrap_or(0);
    for round in 0..most {
        for (series, wanted) in &mut all {
            // Spread over the whole run, so that all see the same machine.
            if round * *wanted / most != (round + 1) * *wanted / most {
                series.add()?;
            }
        }
    }
    Ok(all.into_iter().map(|(series, _)| series).filter(|series| !series.apply.values().is_empty()).collect())
}

impl Series {
    fn add(&mut self) -> crate::Result<()> {
        let functions = targets::many().get(..self.functions).unwrap_or_default();
        let once = match self.who {
            Who::Midflight => midflight(functions)?,
            Who::Retour => retour(functions)?,
        };
        self.apply.push_time(once.apply);
        self.rollback.push_time(once.rollback);
        if let Some([apply, rollback]) = once.held.filter(|held| held.iter().all(|held| held.threads > 0)) {
            self.held_apply.push_time(apply.time);
            self.held_rollback.push_time(rollback.time);
        }
        Ok(())
    }
}

/// One apply and one rollback.
struct Once {
    apply: Duration,
    rollback: Duration,
    held: Option<[Held; 2]>,
}

fn midflight(functions: &[Function]) -> crate::Result<Once> {
    // Among 64 busy threads this one may be away for long.
    let options = Options::new().deadline(Duration::from_secs(60));
    let start = Instant::now();
    let mut change = Transaction::new();
    for target in functions {
        change.replace(*target as *const (), targets::near as *const ());
    }
    // SAFETY: all have one type, and no other thread calls them.
    let applied = unsafe { change.commit(&options)? };
    let apply = start.elapsed();
    expect(functions, 5)?;
    let start = Instant::now();
    let held_for_rollback = applied.rollback_with(&options)?;
    let rollback = start.elapsed();
    expect(functions, -4)?;
    Ok(Once { apply, rollback, held: Some([applied.held(), held_for_rollback]) })
}

fn retour(functions: &[Function]) -> crate::Result<Once> {
    let start = Instant::now();
    let mut detours = Vec::with_capacity(functions.len());
    for target in functions {
        // SAFETY: no other thread calls them.
        detours.push(unsafe { Detour::apply(*target, targets::near)? });
    }
    let apply = start.elapsed();
    expect(functions, 5)?;
    let start = Instant::now();
    for detour in detours {
        // SAFETY: as above.
        unsafe { detour.roll_back()? };
    }
    let rollback = start.elapsed();
    expect(functions, -4)?;
    Ok(Once { apply, rollback, held: None })
}

/// All functions must give `answer` for -5 now.
fn expect(functions: &[Function], answer: i64) -> crate::Result<()> {
    match functions.iter().position(|function| function(-5) != answer) {
        None => Ok(()),
        Some(number) => Err(format!("function {number} does not give {answer}").into()),
    }
}
