//! What is loaded, and the files that were read of it: kept from one commit to the next, as long as the dynamic
//! linker says that nothing came or went.

use super::guard;
use super::image::{FileId, ModuleFile, ModuleImage};
use super::modules::{self, Module};
use crate::elf::{Build, Machine};
use crate::error::Error;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

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
    /// Found out once.
    guarded: OnceLock<bool>,
    image: Mutex<Option<(FileId, Arc<ModuleImage>)>>,
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

/// How the module that `address` lies in was built, if its file can be read.
pub(crate) fn build_at(address: u64, machine: Machine) -> Option<Arc<Build>> {
    let open = Loaded::now().at(address)?.open(machine).ok()?;
    Some(Arc::clone(open.image.build(&open.file)))
}

impl LoadedModule {
    /// With what was read of the same module before.
    fn new(module: Module, before: Option<&Loaded>) -> Self {
        let same = before.and_then(|before| before.modules.iter().find(|one| one.module == module));
        let image = same.and_then(|same| same.image.lock().clone());
        let guarded = same.map(|same| same.guarded.clone()).unwrap_or_default();
        Self { module, guarded, image: Mutex::new(image) }
    }

    /// Its file. Read now, unless it was before and is the same file still.
    pub(crate) fn open(&self, machine: Machine) -> Result<OpenModule, Error> {
        let file = ModuleFile::open(&self.module)?;
        let mut known = self.image.lock();
        if let Some((_, image)) = known.as_ref().filter(|(id, _)| *id == file.id) {
            return Ok(self.opened(Arc::clone(image), file));
        }
        *known = None;
        let image = Arc::new(ModuleImage::read(&self.module, &file, machine)?);
        if image.weight() <= MOST_KEPT {
            *known = Some((file.id, Arc::clone(&image)));
        }
        Ok(self.opened(image, file))
    }

    fn opened(&self, image: Arc<ModuleImage>, file: ModuleFile) -> OpenModule {
        let guarded = *self.guarded.get_or_init(|| guard::is_guarded(&self.module, &image, &file));
        OpenModule { image, file, guarded }
    }
}

/// The file of a module, open for as long as targets are looked for.
#[derive(Debug)]
pub(crate) struct OpenModule {
    pub(crate) image: Arc<ModuleImage>,
    pub(crate) file: ModuleFile,
    /// May its functions be entered by indirect calls at landing pads only?
    pub(crate) guarded: bool,
}
