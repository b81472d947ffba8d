//! How many functions of real libraries can be planned, and how fast. Every plan is read again by a second decoder.

use midflight_coverage::{Class, Effort, Module, Tally, files, survey};
use std::fmt::Write;

/// What came of a file.
pub(crate) struct File {
    /// The instruction set.
    set: String,
    pub(crate) tally: Tally,
}

/// Plans all functions of the files that this machine has, in all forms; of a quick run every 50th.
pub(crate) fn measure(quick: bool) -> Vec<File> {
    let effort = if quick { Effort { stride: 50, all_forms: 1 } } else { Effort { stride: 1, all_forms: 4 } };
    let wanted = files::x86_64().into_iter().chain(files::aarch64());
    let survey_of = |file: files::Wanted| {
        let Some(path) = file.path else {
            eprintln!("coverage: this machine has no {}", file.name);
            return None;
        };
        eprintln!("coverage: {}", path.display());
        let module = Module::read(&path).map_err(|error| eprintln!("coverage: {error}")).ok()?;
        let mut tally = survey(&module, effort);
        if file.name == "this program" {
            tally.name = file.name.to_owned();
        }
        Some(File { set: module.set.to_string(), tally })
    };
    wanted.filter_map(survey_of).collect()
}

/// A plan that is wrong is no figure.
pub(crate) fn expect_none_wrong(files: &[File]) -> crate::Result<()> {
    match files.iter().flat_map(|file| &file.tally.wrong).next() {
        None => Ok(()),
        Some(wrong) => Err(format!("a plan is wrong: {wrong}").into()),
    }
}

/// The tables.
pub(crate) fn write(text: &mut String, files: &[File]) -> std::fmt::Result {
    writeln!(text, "## Coverage\n")?;
    writeln!(
        text,
        "| file | instruction set | functions | planned | refused | shorter than a jump: planned | refused | parts (only jumped to): planned | refused | a second |"
    )?;
    writeln!(text, "|---|---|---:|---:|---|---:|---|---:|---|---:|")?;
    for File { set, tally } in files {
        let Tally { name, ordinary, short, parts, .. } = tally;
        writeln!(
            text,
            "| {name} | {set} | {} | {:.3} % | {} | {} of {} | {} | {} of {} | {} | {:.0} |",
            tally.functions(),
            ordinary.share() * 100.0,
            refused(ordinary),
            short.planned(),
            short.functions(),
            refused(short),
            parts.planned(),
            parts.functions(),
            refused(parts),
            tally.per_second(),
        )?;
    }
    writeln!(text, "\n| form | planned |\n|---|---:|")?;
    for form in ["direct", "slot", "island", "punned", "relay", "absolute"] {
        let classes =
            files.iter().flat_map(|file| [&file.tally.ordinary, &file.tally.short, &file.tally.parts]);
        let count: usize = classes.filter_map(|class| class.planned.get(form)).sum();
        writeln!(text, "| {form} | {count} |")?;
    }
    writeln!(text)
}

/// The reasons, most frequent first.
fn refused(class: &Class) -> String {
    let mut reasons: Vec<(&String, usize)> =
        class.refused.iter().map(|(reason, (count, _))| (reason, *count)).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let texts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.join(", ")
}
