//! What was found before is good as long as the same modules are loaded from the same files. So a check
//! and the commit after it read no symbol table twice.

use super::modules::{self, Module};
use super::resolve::{HeldTarget, Resolver, Target};
use crate::elf::Machine;
use crate::error::Error;
use parking_lot::Mutex;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// The targets of one patch or transaction, once they were found.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Option<Found>>);

/// What was found, and in which modules.
type Found = (Vec<ModuleId>, Vec<Arc<Target>>);

/// A module, and which file it is: device, inode, length, time of the last change.
#[derive(Debug, PartialEq, Eq)]
struct ModuleId(Module, Option<(u64, u64, u64, i64, i64)>);

impl Remembered {
    /// The targets that `find` finds, by heart if nothing has changed since.
    pub(crate) fn resolve(
        &self,
        machine: Machine,
        find: impl FnOnce(&Resolver) -> Result<Vec<HeldTarget>, Error>,
    ) -> Result<Vec<HeldTarget>, Error> {
        let now = fingerprint();
        let mut known = self.0.lock();
        if let Some(targets) =
            known.as_ref().filter(|(then, _)| *then == now).and_then(|(_, targets)| hold(&now, targets))
        {
            return Ok(targets);
        }
        *known = None;
        let found = find(&Resolver::new(machine))?;
        *known = Some((now, found.iter().map(|found| Arc::clone(&found.target)).collect()));
        Ok(found)
    }

    /// Forgets, since other targets are wanted.
    pub(crate) fn forget(&mut self) {
        *self.0.get_mut() = None;
    }
}

/// None if a module went away just now.
fn hold(modules: &[ModuleId], targets: &[Arc<Target>]) -> Option<Vec<HeldTarget>> {
    let one = |target: &Arc<Target>| {
        let ModuleId(module, _) =
            modules.iter().find(|ModuleId(module, _)| module.contains(target.address))?;
        let hold = Arc::new(module.hold(&target.name).ok()?);
        Some(HeldTarget { target: Arc::clone(target), hold })
    };
    targets.iter().map(one).collect()
}

fn fingerprint() -> Vec<ModuleId> {
    let id = |module: Module| {
        let data = std::fs::metadata(module.file()).ok();
        let file = data.map(|data| (data.dev(), data.ino(), data.size(), data.ctime(), data.ctime_nsec()));
        ModuleId(module, file)
    };
    modules::list().into_iter().map(id).collect()
}
