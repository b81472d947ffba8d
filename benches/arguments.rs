//! What was asked for.

/// `cargo bench -- [calls] [commits] [coverage] [--quick] [--write]`
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    /// Measure calls.
    pub(crate) calls: bool,
    /// Measure commits.
    pub(crate) commits: bool,
    /// Plan the functions of real libraries.
    pub(crate) coverage: bool,
    /// A short run, which shows that everything works; its figures are of no use.
    pub(crate) quick: bool,
    /// Put the figures into docs/benchmarks.md.
    pub(crate) write: bool,
}

impl Arguments {
    /// From the command line; `MIDFLIGHT_BENCH=quick` is as `--quick`.
    pub(crate) fn read() -> crate::Result<Self> {
        let quick = std::env::var_os("MIDFLIGHT_BENCH").is_some_and(|value| value == "quick");
        let mut read = Self { calls: false, commits: false, coverage: false, quick, write: false };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "calls" => read.calls = true,
                "commits" => read.commits = true,
                "coverage" => read.coverage = true,
                "--quick" => read.quick = true,
                "--write" => read.write = true,
                // Cargo adds it.
                "--bench" => {}
                other => {
                    return Err(format!("{other}: none of calls, commits, coverage, --quick, --write").into());
                }
            }
        }
        let Self { calls, commits, coverage, .. } = &mut read;
        if !*calls && !*commits && !*coverage {
            (*calls, *commits, *coverage) = (true, true, true);
        }
        if read.write && (read.quick || !read.calls || !read.commits || !read.coverage) {
            return Err("--write needs a full run".into());
        }
        Ok(read)
    }
}
