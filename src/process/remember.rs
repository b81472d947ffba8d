//! What was found before is good as long as the same modules are loaded. So a check and the commit after it
//! look for nothing twice.

use super::copies::Policy;
use super::loaded::Loaded;
use super::resolve::{HeldTarget, Resolver, Target};
use crate::elf::Machine;
use crate::error::Error;
use parking_lot::Mutex;
use std::sync::Arc;

/// The targets of one patch or transaction, once they were found.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Option<Found>>);

/// What was found, in what, and by which policy. For each name the functions that it means.
#[derive(Debug)]
struct Found {
    loaded: Arc<Loaded>,
    policy: Policy,
    targets: Vec<Vec<Arc<Target>>>,
}

impl Remembered {
    /// The targets that `find` finds, by heart if nothing has changed since.
    pub(crate) fn resolve(
        &self,
        machine: Machine,
        policy: Policy,
        find: impl FnOnce(&Resolver) -> Result<Vec<Vec<HeldTarget>>, Error>,
    ) -> Result<Vec<Vec<HeldTarget>>, Error> {
        let loaded = Loaded::now();
        let mut known = self.0.lock();
        let same = known.as_ref().filter(|then| Arc::ptr_eq(&then.loaded, &loaded) && then.policy == policy);
        if let Some(targets) = same.and_then(Found::hold) {
            return Ok(targets);
        }
        *known = None;
        let found = find(&Resolver::of(Arc::clone(&loaded), machine, policy))?;
        let one = |held: &HeldTarget| Arc::clone(&held.target);
        let targets = found.iter().map(|all| all.iter().map(one).collect()).collect();
        *known = Some(Found { loaded, policy, targets });
        Ok(found)
    }

    /// Forgets, since other targets are wanted.
    pub(crate) fn forget(&mut self) {
        *self.0.get_mut() = None;
    }
}

impl Found {
    /// None if a module went away just now.
    fn hold(&self) -> Option<Vec<Vec<HeldTarget>>> {
        let one = |target: &Arc<Target>| {
            let module = &self.loaded.at(target.address)?.module;
            let hold = Arc::new(module.hold(&target.name).ok()?);
            Some(HeldTarget { target: Arc::clone(target), hold })
        };
        self.targets.iter().map(|all| all.iter().map(one).collect()).collect()
    }
}
