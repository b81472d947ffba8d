//! The tables, in Markdown.

use crate::calls::Call;
use crate::commits::{Series, Who};
use crate::coverage::{self, File};
use crate::crowd::Kind;
use crate::numbers::{Samples, time};
use crate::rival;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the report stands for good.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");
const BEGIN: &str = "<!-- From here on: cargo bench -- --write -->\n";
const END: &str = "<!-- To here. -->\n";

/// What was measured, as text.
pub(crate) fn markdown(
    first: (Duration, Duration),
    calls: &[Call],
    commits: &[Series],
    files: &[File],
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "\n{}\n", machine())?;
    if !calls.is_empty() {
        write_calls(&mut text, calls)?;
    }
    if !commits.is_empty() {
        write_commits(&mut text, commits)?;
        let (apply, rollback) = (time(first.0.as_secs_f64()), time(first.1.as_secs_f64()));
        writeln!(text, "The very first commit of the process: {apply} to apply, {rollback} to roll back.\n")?;
        write_held(&mut text, commits)?;
    }
    if !files.is_empty() {
        coverage::write(&mut text, files)?;
    }
    write_aims(&mut text, calls, commits)?;
    Ok(text)
}

/// Puts the report between its marks in docs/benchmarks.md.
pub(crate) fn write(report: &str) -> crate::Result<()> {
    let old = std::fs::read_to_string(FILE)?;
    let (before, rest) = old.split_once(BEGIN).ok_or("docs/benchmarks.md has no mark of the beginning")?;
    let (_, after) = rest.split_once(END).ok_or("docs/benchmarks.md has no mark of the end")?;
    Ok(std::fs::write(FILE, format!("{before}{BEGIN}{report}{END}{after}"))?)
}

fn write_calls(text: &mut String, calls: &[Call]) -> std::fmt::Result {
    writeln!(text, "## Calls\n\n| call | median | times the plain call |\n|---|---:|---|")?;
    for (number, call) in calls.iter().enumerate() {
        let (name, median) = (&call.name, time(call.samples.median()));
        match calls.get(call.plain).filter(|_| call.plain != number) {
            None => writeln!(text, "| {name} | {median} | |")?,
            Some(plain) => {
                writeln!(text, "| {name} | {median} | {:.2} × {} |", call.ratio(calls), plain.name)?
            }
        }
    }
    writeln!(text)
}

fn write_commits(text: &mut String, commits: &[Series]) -> std::fmt::Result {
    writeln!(text, "## Commits\n")?;
    writeln!(
        text,
        "| functions | other threads | library | rounds | apply: median | p99 | rollback: median | p99 |"
    )?;
    writeln!(text, "|---:|---|---|---:|---:|---:|---:|---:|")?;
    for series in in_order(commits) {
        let (functions, others, who) = (series.functions, series.others, name(series.who));
        let rounds = series.apply.values().len();
        let [apply, rollback] = [&series.apply, &series.rollback]
            .map(|samples| format!("{} | {}", time(samples.median()), time(samples.p99())));
        writeln!(text, "| {functions} | {others} | {who} | {rounds} | {apply} | {rollback} |")?;
    }
    writeln!(text)
}

fn write_held(text: &mut String, commits: &[Series]) -> std::fmt::Result {
    writeln!(text, "## How long the other threads were held (midflight)\n")?;
    writeln!(
        text,
        "| functions | other threads | apply: median | p99 | max | rollback: median | p99 | max |"
    )?;
    writeln!(text, "|---:|---|---:|---:|---:|---:|---:|---:|")?;
    for series in in_order(commits).into_iter().filter(|series| !series.held_apply.values().is_empty()) {
        let [apply, rollback] = [&series.held_apply, &series.held_rollback].map(|samples| {
            format!("{} | {} | {}", time(samples.median()), time(samples.p99()), time(samples.max()))
        });
        writeln!(text, "| {} | {} | {apply} | {rollback} |", series.functions, series.others)?;
    }
    writeln!(text)
}

fn write_aims(text: &mut String, calls: &[Call], commits: &[Series]) -> std::fmt::Result {
    writeln!(text, "## Aims\n\n| aim | measured (median) | |\n|---|---:|---|")?;
    let mut aim = |what: &str, measured: String, is_met: bool| {
        let verdict = if is_met { "met" } else { "missed" };
        writeln!(text, "| {what} | {measured} | {verdict} |")
    };
    let call = |form: &str| {
        calls.iter().find(|call| call.name.starts_with("midflight") && call.name.ends_with(form))
    };
    let calls_aims = [
        ("slot form", 1.15, "a far call, slot form: at most 1.15 times a call into a library"),
        ("direct form", 1.25, "a near call, direct form: at most 1.25 times a direct call"),
    ];
    for (form, most, what) in calls_aims {
        if let Some(ratio) = call(form).map(|call| call.ratio(calls)) {
            aim(what, format!("{ratio:.2}"), ratio <= most)?;
        }
    }
    let find = |functions: usize, others: Kind| {
        let mine = commits.iter().filter(|series| series.who == Who::Midflight);
        mine.into_iter().find(|series| series.functions == functions && series.others == others)
    };
    if let Some(one) = find(1, Kind::None) {
        let both: f64 = one.apply.median() + one.rollback.median();
        aim("1 function applied and rolled back, no other threads: under 60 µs", time(both), both < 60e-6)?;
    }
    if let Some(many) = find(1000, Kind::Sleeping(16)) {
        let (apply, held) = (many.apply.median(), worse(&many.held_apply, &many.held_rollback));
        aim("1,000 functions applied, 16 sleeping threads: under 3 ms", time(apply), apply < 3e-3)?;
        aim("these held for it: under 0.5 ms", time(held), held < 0.5e-3)?;
    }
    writeln!(text)
}

/// The larger of two medians.
fn worse(one: &Samples, other: &Samples) -> f64 {
    one.median().max(other.median())
}

/// By functions, then other threads, then library.
fn in_order(commits: &[Series]) -> Vec<&Series> {
    let mut sorted: Vec<&Series> = commits.iter().collect();
    sorted.sort_by_key(|series| series.functions);
    sorted
}

fn name(who: Who) -> &'static str {
    match who {
        Who::Midflight => "midflight",
        Who::Retour => rival::NAME,
    }
}

/// `AMD EPYC, 2 cores, x86_64, Linux 6.1.0; 2026-11-23; midflight 0.1.0, retour 0.4.0-alpha.4`
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let (arch, kernel) = (std::env::consts::ARCH, read("/proc/sys/kernel/osrelease"));
    let versions = format!("midflight {}, {}", env!("CARGO_PKG_VERSION"), rival::NAME);
    format!("{model}, {cores} cores, {arch}, Linux {}; {}; {versions}.", kernel.trim(), today())
}

/// The date in UTC.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut year, mut day) = (1970, seconds / 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}
