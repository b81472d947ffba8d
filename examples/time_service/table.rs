//! The table at the end, and the verdict.

use crate::client::{Counts, Tally};
use crate::phase::Phase;
use crate::reply::Form;
use midflight::Held;
use std::time::Duration;

/// A commit, to be told at the end.
pub(crate) struct Commit {
    pub(crate) phase: Phase,
    pub(crate) held: Held,
    /// How long the whole call took.
    pub(crate) took: Duration,
}

/// Prints what the connections counted, phase by phase. All counts together.
pub(crate) fn print_phases(tallies: &[Tally]) -> Counts {
    println!(
        "{:<24} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8}  replies",
        "phase", "requests", "failed", "dropped", "p50", "p99", "max"
    );
    let mut all = Counts::default();
    for &phase in Phase::ALL {
        let counts = sum(tallies.iter().map(|tally| &tally[phase as usize]));
        println!("{}", row(phase.name(), &counts));
        all = sum([&all, &counts].into_iter());
    }
    println!("{}", row("all", &all));
    all
}

/// Prints how long threads were held.
pub(crate) fn print_commits(commits: &[Commit]) {
    println!("{:<24} {:>12} {:>10} {:>12}", "commit", "threads held", "held for", "whole call");
    for Commit { phase, held, took } in commits {
        let (threads, time) = (held.threads, micros(held.time.as_micros()));
        println!("{:<24} {threads:>12} {time:>10} {:>12}", phase.name(), micros(took.as_micros()));
    }
}

/// How many requests were made.
pub(crate) fn requests(counts: &Counts) -> u64 {
    counts.latencies.len() as u64 + counts.failed
}

fn row(name: &str, counts: &Counts) -> String {
    let (failed, dropped) = (counts.failed, counts.dropped);
    let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(&counts.latencies, percent));
    let replies = replies(counts);
    let requests = requests(counts);
    format!("{name:<24} {requests:>9} {failed:>7} {dropped:>8} {p50:>8} {p99:>8} {max:>8}  {replies}")
}

/// `12 plain, 34 friendly`
fn replies(counts: &Counts) -> String {
    let forms = Form::ALL.iter().zip(counts.forms).filter(|&(_, count)| count > 0);
    let mut parts: Vec<_> = forms.map(|(form, count)| format!("{count} {form}")).collect();
    if counts.wrong > 0 {
        parts.push(format!("{} NOT ALLOWED", counts.wrong));
    }
    parts.join(", ")
}

/// With the latencies sorted.
fn sum<'a>(parts: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    for part in parts {
        sum.latencies.extend(&part.latencies);
        sum.failed += part.failed;
        sum.dropped += part.dropped;
        sum.wrong += part.wrong;
        sum.forms.iter_mut().zip(part.forms).for_each(|(sum, part)| *sum += part);
    }
    sum.latencies.sort_unstable();
    sum
}

/// The least of the sorted latencies that no more than so many percent are below.
fn percentile(sorted: &[u32], percent: usize) -> String {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or("-".to_owned(), |&latency| micros(latency.into()))
}

/// `870 µs`, `12.3 ms`
fn micros(micros: u128) -> String {
    match micros {
        ..1_000 => format!("{micros} µs"),
        _ => format!("{}.{} ms", micros / 1_000, micros / 100 % 10),
    }
}
