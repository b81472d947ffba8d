//! What came of the functions of a file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use midflight_arch::{Form, Refusal};

/// How many examples are kept for a reason.
const EXAMPLES: usize = 3;

/// A function that was refused.
#[derive(Debug, Clone)]
pub struct Example {
    /// The symbol.
    pub name: String,
    /// Its address in the file.
    pub address: u64,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// In full.
    pub why: String,
}

/// Functions of one kind.
#[derive(Debug, Clone, Default)]
pub struct Class {
    /// How many were planned, by form.
    pub planned: BTreeMap<String, usize>,
    /// How many were refused, by reason, and some of them.
    pub refused: BTreeMap<String, (usize, Vec<Example>)>,
}

impl Class {
    /// Those that were planned.
    pub fn planned(&self) -> usize {
        self.planned.values().sum()
    }

    /// All of them.
    pub fn functions(&self) -> usize {
        self.planned() + self.refused.values().map(|(count, _)| count).sum::<usize>()
    }

    /// The planned ones of all, between 0 and 1; 1 if there are none.
    pub fn share(&self) -> f64 {
        if self.functions() == 0 { 1.0 } else { self.planned() as f64 / self.functions() as f64 }
    }

    pub(crate) fn plan(&mut self, form: Form) {
        *self.planned.entry(form.to_string()).or_default() += 1;
    }

    pub(crate) fn refuse(&mut self, reason: String, example: impl FnOnce() -> Example) {
        let (count, examples) = self.refused.entry(reason).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example());
        }
    }

    fn add(&mut self, other: Self) {
        for (form, count) in other.planned {
            *self.planned.entry(form).or_default() += count;
        }
        for (reason, (count, examples)) in other.refused {
            let (all, kept) = self.refused.entry(reason).or_default();
            *all += count;
            let room = EXAMPLES - kept.len();
            kept.extend(examples.into_iter().take(room));
        }
    }
}

/// The functions of a file.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// The file.
    pub name: String,
    /// Those as long as a plain entry jump or longer: 5 bytes on x86-64, 4 on aarch64.
    pub ordinary: Class,
    /// Those that are shorter.
    pub short: Class,
    /// Parts of functions, with symbols of their own, that compilers and BOLT put elsewhere. They are entered by jumps of
    /// their function, some of them in the middle of a loop; nobody calls them.
    pub parts: Class,
    /// Plans with which the second decoder does not agree, in full. There must be none.
    pub wrong: Vec<String>,
    /// How long one processor took to measure and to encode, without the second decoder.
    pub time: Duration,
}

impl Tally {
    /// Symbols of all kinds.
    pub fn functions(&self) -> usize {
        self.ordinary.functions() + self.short.functions() + self.parts.functions()
    }

    /// Functions planned or refused each second, by one processor.
    pub fn per_second(&self) -> f64 {
        self.functions() as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.ordinary.add(other.ordinary);
        self.short.add(other.short);
        self.parts.add(other.parts);
        self.wrong.extend(other.wrong);
        self.time += other.time;
    }
}

/// The name of a refusal, which is the same for all addresses.
pub(crate) fn reason(refusal: &Refusal) -> String {
    if let Refusal::Unmovable { reason, .. } = refusal {
        return format!("Unmovable: {reason}");
    }
    let text = format!("{refusal:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ({:.3} %)", self.planned(), self.functions(), self.share() * 100.0)?;
        for (form, count) in &self.planned {
            write!(f, ", {count} {form}")?;
        }
        let mut refused: Vec<_> = self.refused.iter().collect();
        refused.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (reason, (count, examples)) in refused {
            write!(f, "\n    {count} {reason}")?;
            for Example { name, address, bytes, why } in examples {
                write!(f, "\n        {address:#x} {name}:")?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                write!(f, "\n            {why}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} functions, {:.0} a second", self.name, self.functions(), self.per_second())?;
        writeln!(f, "  planned: {}", self.ordinary)?;
        writeln!(f, "  shorter than an entry jump: {}", self.short)?;
        writeln!(f, "  parts of functions: {}", self.parts)?;
        self.wrong.iter().take(20).try_for_each(|wrong| writeln!(f, "  WRONG: {wrong}"))
    }
}
