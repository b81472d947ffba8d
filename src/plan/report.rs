//! What a check tells: the targets found and the sites measured.
#![forbid(unsafe_code)]

use super::Note;
use crate::arch::{Form, Measure, Refusal};
use std::fmt;
use std::path::PathBuf;

/// The result of a dry run: every target was found and can be patched. Nothing has been changed.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Check {
    /// Name of the patch or transaction.
    pub name: String,
    /// One for each target, in the order of the patch.
    pub functions: Vec<CheckedFunction>,
    /// What else should be known. Empty for changes by hand.
    pub notes: Vec<Note>,
}

/// A target that was found and measured.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CheckedFunction {
    /// The target as it was asked for.
    pub target: String,
    /// Its symbol, as in the file.
    pub symbol: String,
    /// The file of its module.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
    pub module: PathBuf,
    /// Where it stands in this process.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The form that its site will take; a replacement that turns out to be near takes the direct form.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::text"))]
    pub form: Form,
    /// Forms whose calls cost less, and why they cannot be used.
    pub passed_over: Vec<String>,
    /// Can the site be switched while all threads run? It is, when it is all that the commit changes.
    pub without_hold: bool,
    /// The instructions that will be displaced. Empty if the target is replaced already, since
    /// then only a pointer changes.
    pub displaced: Vec<String>,
    /// How many patches are on this function now.
    pub layers: usize,
    /// Does the function jump through a table or a register, and could it not be told where to?
    pub has_indirect_jump: bool,
    /// Raw names of other functions that have the same code: their calls go to the replacement too.
    pub other_names: Vec<String>,
}

impl CheckedFunction {
    pub(crate) fn describe(&mut self, measure: &Measure, passed_over: &[(Form, Refusal)]) {
        self.passed_over = passed_over.iter().map(|(form, why)| format!("{form}: {why}")).collect();
        self.without_hold = measure.changes_at_once(self.form);
        self.has_indirect_jump = measure.has_indirect_jump();
        if let Ok(displaced) = measure.usable(self.form) {
            self.displaced = displaced.instructions.iter().map(|one| one.text.clone()).collect();
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} can be replaced",
            self.name,
            crate::error::count(self.functions.len(), "function")
        )?;
        self.functions.iter().try_for_each(|function| write!(f, "\n  {function}"))?;
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))
    }
}

impl fmt::Display for CheckedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, address, size, form, layers, .. } = self;
        write!(f, "{target} at {address:#x} ({size} bytes) in {}: ", self.module.display())?;
        if !self.other_names.is_empty() {
            write!(f, "one with {}, ", self.other_names.join(", "))?;
        }
        if *layers > 0 {
            return write!(
                f,
                "on top of {}",
                crate::error::count(*layers, "patch").replace("patchs", "patches")
            );
        }
        let hold = if self.without_hold { "no" } else { "a" };
        let (cost, displaced) = (cost(*form), self.displaced.join("; "));
        write!(f, "{form} form ({cost}), displaces {displaced}, needs {hold} hold")?;
        if self.has_indirect_jump {
            f.write_str(" (jumps through a table or register were not followed)")?;
        }
        self.passed_over.iter().try_for_each(|why| write!(f, "\n    not {why}"))
    }
}

/// What every call goes through, and what memory the form takes beside a share of a near block.
fn cost(form: Form) -> &'static str {
    match form {
        Form::Direct => "one jump",
        Form::Slot => "one jump through a pointer",
        Form::Island => "two jumps",
        Form::Punned => "two jumps; a page that islands may share",
        Form::Relay => "three jumps; padding nearby",
        Form::Absolute => "two jumps through pointers; memory anywhere",
        _ => "jumps",
    }
}
