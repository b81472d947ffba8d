//! Every function of real libraries is planned, and a second decoder agrees with each plan.
//!
//! The files are those that the machine has. What it lacks is said and skipped, but on a CI machine (`CI=true`) the
//! toolchain, the C and C++ libraries and this program must be there.

mod any;
mod noticed;

use midflight_arch::InstructionSet;
use midflight_coverage::files::{self, Wanted};
use midflight_coverage::{Effort, Module, Tally, survey};

/// What is wanted of every file, in percent of the functions that are as long as an entry jump. Shorter ones are
/// counted apart, and so are parts of functions that are only jumped to.
const WANTED: [(InstructionSet, f64); 2] = [(InstructionSet::X86_64, 99.9), (InstructionSet::Aarch64, 99.99)];

/// All functions, and of every eighth all forms.
const EFFORT: Effort = Effort { stride: 1, all_forms: 8 };

#[test]
fn functions_of_x86_64_libraries() {
    if cfg!(target_arch = "aarch64") {
        return; // Such a machine has none of them; a machine that emulates it has, and looks at them itself.
    }
    let must = ["libc", "libm", "libcrypto", "libstdc++", "librustc_driver", "this program"];
    all(InstructionSet::X86_64, &files::x86_64(), &must);
}

#[test]
fn functions_of_aarch64_libraries() {
    all(InstructionSet::Aarch64, &files::aarch64(), &["libc", "libcrypto", "libstdc++"]);
}

fn all(set: InstructionSet, wanted: &[Wanted], must: &[&str]) {
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true") && cfg!(target_arch = "x86_64");
    let (mut missing, mut failures) = (Vec::new(), Vec::new());
    for Wanted { name, path } in wanted {
        let Some(path) = path else {
            println!("{name} for {set}: this machine has none, not looked at");
            missing.extend(must.contains(name).then_some(*name));
            continue;
        };
        let module = Module::read(path).expect("a library that can be read");
        if module.set != set {
            println!("{name} for {set}: {} is for {}, not looked at", path.display(), module.set);
            continue;
        }
        let tally = survey(&module, EFFORT);
        println!("{tally}");
        failures.extend(failure(set, name, &tally));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(!is_ci || missing.is_empty(), "{missing:?} must be there on a CI machine");
}

fn failure(set: InstructionSet, name: &str, tally: &Tally) -> Option<String> {
    if let Some(wrong) = tally.wrong.first() {
        return Some(format!("{name}: {} plans are wrong; the first: {wrong}", tally.wrong.len()));
    }
    let wanted = WANTED.iter().find(|wanted| wanted.0 == set).map(|wanted| wanted.1);
    let least = wanted.expect("a share for each instruction set");
    let share = tally.ordinary.share() * 100.0;
    if tally.ordinary.functions() < 100 {
        return Some(format!("{name}: only {} functions were found", tally.ordinary.functions()));
    }
    (share < least)
        .then(|| format!("{name}: {share:.4} % of the functions can be planned, {least} % are wanted"))
}
