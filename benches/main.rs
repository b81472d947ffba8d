//! What midflight costs, beside retour and plain calls: `cargo bench`.

mod arguments;
mod calls;
mod commits;
mod coverage;
mod crowd;
mod loops;
mod numbers;
mod report;
mod rival;
mod targets;

use arguments::Arguments;

/// Whatever goes wrong ends the run.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let first = commits::first()?;
    let calls = match arguments.calls {
        true => calls::measure(if arguments.quick { 100 } else { 20_000 })?,
        false => Vec::new(),
    };
    let commits = if arguments.commits { commits::measure(arguments.quick)? } else { Vec::new() };
    let coverage = if arguments.coverage { coverage::measure(arguments.quick) } else { Vec::new() };
    coverage.iter().for_each(|file| eprint!("{}", file.tally));
    let report = report::markdown(first, &calls, &commits, &coverage)?;
    print!("{report}");
    coverage::expect_none_wrong(&coverage)?;
    if arguments.write { report::write(&report) } else { Ok(()) }
}
