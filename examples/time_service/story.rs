//! The story. All of it runs on the main thread, so that neither cargo nor a commit ever keeps a thread of
//! the service busy.

use crate::Result;
use crate::client::Counts;
use crate::compile;
use crate::emulator;
use crate::load::Load;
use crate::phase::Phase;
use crate::service::Service;
use crate::table::{self, Commit};
use midflight::{Applied, Patch};
use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 8;

/// How long the load runs in a phase.
const WHILE: Duration = Duration::from_secs(2);
/// How long at least it runs while the library is compiled, which may be done already.
const COMPILING: Duration = Duration::from_secs(1);

/// Tells it from its start to its end. An error if anything was lost.
pub(crate) fn tell() -> Result<()> {
    let service = Service::start(0)?;
    println!("The service answers at http://{}/time, {CONNECTIONS} connections ask.", service.address());
    let mut story = Story::new(Load::start(service.address(), CONNECTIONS)?);
    story.drive(Phase::Plain);

    story.says("Version 1 of the patch library is compiled.");
    let first = story.compile(Phase::CompileFirst, 1)?;
    let first = story.apply(Phase::ApplyFirst, &first)?;
    story.drive(Phase::First);

    story.says("Version 2 is compiled to the same path, and goes on top of version 1, which it calls.");
    let second = story.compile(Phase::CompileSecond, 2)?;
    let second = story.apply(Phase::ApplySecond, &second)?;
    story.drive(Phase::Both);

    story.says("Version 1 is rolled back, below version 2.");
    story.roll_back(Phase::RollBackFirst, &first)?;
    story.drive(Phase::Second);

    story.says("Version 2 is rolled back.");
    story.roll_back(Phase::RollBackSecond, &second)?;
    story.drive(Phase::PlainAgain);

    story.end(&service)
}

struct Story {
    load: Load,
    commits: Vec<Commit>,
    began: Instant,
    last_line: Cell<Instant>,
}

impl Story {
    fn new(load: Load) -> Self {
        let began = Instant::now();
        Self { load, commits: Vec::new(), began, last_line: Cell::new(began) }
    }

    fn says(&self, line: &str) {
        println!("\n{line}");
    }

    /// Lets the load run for a while, and shows a reply.
    fn drive(&self, phase: Phase) {
        let began = Instant::now();
        self.load.enter(phase);
        let mut shown = false;
        while began.elapsed() < WHILE {
            if let (false, Some(sample)) = (shown, self.load.sample(phase)) {
                println!("  reply {}: {}", sample.number, sample.body);
                shown = true;
            }
            self.wait(phase);
        }
    }

    fn wait(&self, phase: Phase) {
        self.progress(phase);
        thread::sleep(Duration::from_millis(20));
    }

    /// A line a second.
    fn progress(&self, phase: Phase) {
        if self.last_line.get().elapsed() >= Duration::from_secs(1) {
            self.last_line.set(Instant::now());
            let elapsed = self.began.elapsed().as_secs();
            println!("  {elapsed:>2} s  {}: {}", phase.name(), self.load.progress());
        }
    }

    /// Compiles the patch library while the load goes on, opens it and checks it.
    fn compile(&self, phase: Phase, version: u32) -> Result<Patch> {
        self.load.enter(phase);
        let began = Instant::now();
        let path = compile::friendly_time(version, || self.progress(phase))?;
        println!("  compiled in {:.1} s", began.elapsed().as_secs_f64());
        let patch = Patch::open(path)?;
        println!("  check: {}", patch.check()?);
        while began.elapsed() < COMPILING {
            self.wait(phase);
        }
        Ok(patch)
    }

    fn apply(&mut self, phase: Phase, patch: &Patch) -> Result<Applied> {
        self.load.enter(phase);
        let began = Instant::now();
        // SAFETY: cargo has just built the library from this program's workspace with the same compiler. Its
        // replacement has the type of `format_time`, and any text is right for the callers of that, which the
        // optimiser must keep as it is (`service::KEPT`). The library has no constructors of its own.
        let applied = unsafe { patch.apply(&emulator::options())? };
        let took = began.elapsed();
        println!("  applied {applied}");
        self.commits.push(Commit { phase, held: applied.held(), took });
        Ok(applied)
    }

    fn roll_back(&mut self, phase: Phase, applied: &Applied) -> Result<()> {
        self.load.enter(phase);
        let began = Instant::now();
        let held = applied.rollback_with(&emulator::options())?;
        let took = began.elapsed();
        println!("  rolled back {}: {held}", applied.name());
        self.commits.push(Commit { phase, held, took });
        Ok(())
    }

    /// The tables, and whether anything was lost.
    fn end(self, service: &Service) -> Result<()> {
        let (tallies, troubles) = self.load.finish()?;
        println!();
        let all = table::print_phases(&tallies);
        println!();
        table::print_commits(&self.commits);
        println!();
        if !troubles.is_empty() {
            eprintln!("the first troubles:\n  {}", troubles.join("\n  "));
        }
        let (requests, served) = (table::requests(&all), service.served());
        verdict(&all, requests, served)?;
        println!("All {requests} requests were answered as they should be; the service counted {served}.");
        println!("The story took {:.1} s.", self.began.elapsed().as_secs_f64());
        Ok(())
    }
}

fn verdict(all: &Counts, requests: u64, served: u64) -> Result<()> {
    let Counts { failed, dropped, wrong, .. } = all;
    if failed + dropped + wrong > 0 {
        let lost =
            format!("{failed} requests failed, {dropped} connections dropped, {wrong} replies were wrong");
        return Err(lost.into());
    }
    if requests != served {
        return Err(format!("{requests} requests were made, but the service counted {served}").into());
    }
    Ok(())
}
