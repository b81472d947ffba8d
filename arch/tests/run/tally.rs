//! What ran, by class.

use std::collections::BTreeMap;
use std::fmt;

use super::case::Role;

/// Counts by class.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<String, Counts>);

#[derive(Default)]
struct Counts {
    through: usize,
    taken: usize,
    aside: usize,
    refused: usize,
}

impl Counts {
    fn ran(&self) -> usize {
        self.through + self.taken + self.aside
    }
}

impl Tally {
    pub(crate) fn ran(&mut self, class: &str, to: Role) {
        let counts = self.0.entry(class.to_owned()).or_default();
        *match to {
            Role::Through => &mut counts.through,
            Role::Taken => &mut counts.taken,
            Role::Aside => &mut counts.aside,
        } += 1;
    }

    pub(crate) fn refused(&mut self, class: &str) {
        self.0.entry(class.to_owned()).or_default().refused += 1;
    }

    /// How many of all classes ran.
    pub(crate) fn total(&self) -> usize {
        self.0.values().map(Counts::ran).sum()
    }

    pub(crate) fn check_ran(&self, class: &str, at_least: usize) {
        let counts = self.0.get(class).unwrap_or_else(|| panic!("no {class} at all\n{self}"));
        assert!(counts.ran() >= at_least, "too few of {class}\n{self}");
    }

    /// Both outcomes must have been seen, each so often.
    pub(crate) fn check_both(&self, class: &str, at_least: usize) {
        let counts = self.0.get(class).unwrap_or_else(|| panic!("no {class} at all\n{self}"));
        assert!(counts.through.min(counts.taken) >= at_least, "too few of one way of {class}\n{self}");
    }

    pub(crate) fn check_refused(&self, class: &str, at_least: usize) {
        let counts = self.0.get(class).unwrap_or_else(|| panic!("no {class} at all\n{self}"));
        assert!(counts.refused >= at_least, "too few of {class}\n{self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [class, through, taken, aside, refused] = ["class", "went on", "branched", "aside", "refused"];
        writeln!(f, "{class:32} {through:>8} {taken:>8} {aside:>8} {refused:>8}")?;
        for (class, Counts { through, taken, aside, refused }) in &self.0 {
            writeln!(f, "{class:32} {through:8} {taken:8} {aside:8} {refused:8}")?;
        }
        writeln!(f, "{} ran", self.total())
    }
}
