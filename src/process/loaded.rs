//! What is loaded, and the files that were read of it: kept from one commit to the next, as long as the dynamic
//! linker says that nothing came or went.

use super::image::{FileId, ModuleImage, file_id};
use super::modules::{self, Module};
use crate::elf::Machine;
use crate::error::Error;
use parking_lot::Mutex;
use std::sync::Arc;

/// A file whose tables take more bytes than this is read anew each time.
const MOST_KEPT: usize = 8 << 20;

/// The modules at one time. The same value is used as long as they are the same.
#[derive(Debug)]
pub(crate) struct Loaded {
    changes: (u64, u64),
    modules: Vec<LoadedModule>,
}

/// A module and its file, if it has been read.
#[derive(Debug)]
pub(crate) struct LoadedModule {
    pub(crate) module: Module,
    image: Mutex<Option<(Option<FileId>, Arc<ModuleImage>)>>,
}

/// Used by threads that may commit only, so no fork finds it taken.
static NOW: Mutex<Option<Arc<Loaded>>> = Mutex::new(None);

impl Loaded {
    /// What is loaded now.
    pub(crate) fn now() -> Arc<Self> {
        let mut now = NOW.lock();
        let changes = modules::changes();
        if let Some(same) = now.as_ref().filter(|now| now.changes == changes) {
            return Arc::clone(same);
        }
        let modules = modules::list().into_iter().filter(|module| !module.is_vdso);
        let new = Arc::new(Self {
            changes,
            modules: modules.map(|module| LoadedModule::new(module, now.as_deref())).collect(),
        });
        *now = Some(Arc::clone(&new));
        new
    }

    pub(crate) fn modules(&self) -> &[LoadedModule] {
        &self.modules
    }

    pub(crate) fn at(&self, address: u64) -> Option<&LoadedModule> {
        self.modules.iter().find(|one| one.module.contains(address))
    }
}

impl LoadedModule {
    /// With the file that was read of the same module before, if it is the same file still: the library at that
    /// place may be another one.
    fn new(module: Module, before: Option<&Loaded>) -> Self {
        let same = before.and_then(|before| before.modules.iter().find(|one| one.module == module));
        let image = same.and_then(|same| same.image.lock().clone());
        let image = image.filter(|(file, _)| file.is_some() && *file == file_id(&module));
        Self { module, image: Mutex::new(image) }
    }

    /// Its file, read now if it was not before.
    pub(crate) fn image(&self, machine: Machine) -> Result<Arc<ModuleImage>, Error> {
        let mut image = self.image.lock();
        if let Some((_, image)) = &*image {
            return Ok(Arc::clone(image));
        }
        let file = file_id(&self.module);
        let read = Arc::new(ModuleImage::read(&self.module, machine)?);
        if read.weight() <= MOST_KEPT {
            *image = Some((file, Arc::clone(&read)));
        }
        Ok(read)
    }
}
