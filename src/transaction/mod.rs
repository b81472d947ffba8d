//! Changes that switch together: prepared, committed, remembered, rolled back.

mod commit;
mod common;
mod fork;
mod list;
mod lock;
mod place;
mod prepare;
mod registry;
mod running;
mod select;
mod site;

pub(crate) use commit::Session;
pub use registry::Held;
pub(crate) use registry::{Entry, applied};
pub(crate) use site::OriginalCell;

use crate::arch::{Form, InstructionSet};
use crate::elf::Machine;
use crate::error::Error;
use crate::plan::{Check, CheckedFunction};
use crate::process::{HeldTarget, MemoryMap, Target};
use registry::Registry;
use select::Selector;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// The instruction set of this process: the one choice of backend.
pub(crate) const HOST: InstructionSet =
    if cfg!(target_arch = "x86_64") { InstructionSet::X86_64 } else { InstructionSet::Aarch64 };

/// The same, as ELF files name it.
pub(crate) const MACHINE: Machine = match HOST {
    InstructionSet::X86_64 => Machine::X86_64,
    _ => Machine::Aarch64,
};

/// One function to be replaced.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) target: HeldTarget,
    /// Run-time address.
    pub(crate) replacement: u64,
    pub(crate) original: OriginalCell,
}

impl Change {
    /// Replaces a function and its copies. The original of one is that of all.
    pub(crate) fn of_copies(
        targets: Vec<HeldTarget>,
        replacement: u64,
        original: OriginalCell,
    ) -> impl Iterator<Item = Self> {
        let originals = std::iter::once(original).chain(std::iter::repeat(OriginalCell::None));
        let pairs = targets.into_iter().zip(originals);
        pairs.map(move |(target, original)| Self { target, replacement, original })
    }

    fn name_and_address(&self) -> (String, u64) {
        (self.target.target.name.clone(), self.target.target.address)
    }
}

/// Changes that are to switch together.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) path: Option<PathBuf>,
    pub(crate) image: Option<Arc<[u8]>>,
    pub(crate) changes: Vec<Change>,
}

impl Session {
    /// Measures `targets` without changing anything. The replacement's address is known for some.
    pub(crate) fn check(&self, name: &str, targets: &[(HeldTarget, Option<u64>)]) -> Result<Check, Error> {
        let map = MemoryMap::lazy();
        let mut functions = Vec::with_capacity(targets.len());
        let mut errors = Vec::new();
        let changes = targets.iter().map(|(target, replacement)| (&*target.target, *replacement));
        errors.extend(prepare::check_changes(changes, &map).err());
        let mut selector = Selector::new(&self.registry, self.options.hold, &[]);
        let mut seen = BTreeSet::new();
        // What is named twice has been told.
        for (target, replacement) in targets.iter().filter(|(held, _)| seen.insert(held.target.address)) {
            match check_one(&target.target, *replacement, &self.registry, &mut selector, &map) {
                Ok(function) => functions.push(function),
                Err(error) => errors.push(error),
            }
        }
        Error::all(errors)?;
        Ok(Check { name: name.to_owned(), functions, notes: Vec::new() })
    }
}

fn check_one(
    target: &Target,
    replacement: Option<u64>,
    registry: &Registry,
    selector: &mut Selector<'_>,
    map: &MemoryMap,
) -> Result<CheckedFunction, Error> {
    running::check(std::iter::once(target), registry, map)?;
    let mut function = CheckedFunction {
        target: target.name.clone(),
        symbol: target.symbol.clone(),
        module: target.module.clone(),
        address: target.address,
        size: target.bytes.len() as u64,
        form: Form::Direct,
        passed_over: Vec::new(),
        without_hold: false,
        displaced: Vec::new(),
        layers: 0,
        other_names: target.other_names.clone(),
        has_indirect_jump: false,
    };
    match registry.sites.get(&target.address).filter(|site| site.is_on()) {
        Some(site) => (function.form, function.layers) = (site.form(), site.layers.len()),
        None => {
            let selected = selector.select(target, replacement)?;
            function.form = selected.form;
            function.describe(&selected.measure, &selected.passed_over);
            function.has_indirect_jump &= !target.jumps_told;
        }
    }
    Ok(function)
}
