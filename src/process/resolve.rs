//! From a name or an address to a target: which function of which loaded module.

use super::image::{FunctionSymbol, ModuleImage};
use super::modules::{self, Module, ModuleHold};
use super::names::{Matcher, TargetName, nearest, readable};
use crate::elf::{Build, Machine, is_rust_name};
use crate::error::{Candidate, Error};
use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::Arc;

/// A function of the running program, found.
#[derive(Debug)]
pub(crate) struct Target {
    /// As it was asked for.
    pub(crate) name: String,
    /// Raw.
    pub(crate) symbol: String,
    /// The file of its module.
    pub(crate) module: PathBuf,
    /// Run-time address of its first byte.
    pub(crate) address: u64,
    /// All its bytes, as they stand in the file.
    pub(crate) bytes: Vec<u8>,
    /// Run-time addresses of other symbols inside it, which may be called too; sorted.
    pub(crate) inner: Vec<u64>,
    /// How its module was built, if it is a function of Rust's.
    pub(crate) build: Option<Arc<Build>>,
}

impl Target {
    /// Does `address` lie in it?
    pub(crate) fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.bytes.len() as u64
    }
}

/// A target, and what keeps its module loaded.
#[derive(Debug, Clone)]
pub(crate) struct HeldTarget {
    pub(crate) target: Arc<Target>,
    pub(crate) hold: Arc<ModuleHold>,
}

/// The modules as they are now; files are read when they are needed, once.
#[derive(Debug)]
pub(crate) struct Resolver {
    machine: Machine,
    modules: Vec<(Module, OnceCell<ModuleImage>)>,
}

impl Resolver {
    pub(crate) fn new(machine: Machine) -> Self {
        let modules = modules::list().into_iter().filter(|module| !module.is_vdso);
        Self { machine, modules: modules.map(|module| (module, OnceCell::new())).collect() }
    }

    /// The function called `name`: in the module it names, else in the first module that has one.
    pub(crate) fn by_name(&self, name: &str) -> Result<HeldTarget, Error> {
        let wanted = TargetName::parse(name);
        let searched = self.searched(name, wanted.module)?;
        for (module, image) in &searched {
            let image = match self.image(module, image) {
                Ok(image) => image,
                // Only what was asked for by name has to be readable.
                Err(error) if wanted.module.is_some() || module.is_main => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "module passed over");
                    continue;
                }
            };
            let mut found = matching(image, wanted.symbol);
            found.sort_by_key(|function| (function.value, std::cmp::Reverse(function.size)));
            found.dedup_by_key(|function| function.value);
            match found.as_slice() {
                [] => {}
                [one] => return self.target(name, module, image, one),
                several => return Err(ambiguous(name, module, several)),
            }
        }
        Err(self.not_found(name, wanted.symbol, &searched))
    }

    /// The function that begins at `address`.
    pub(crate) fn by_address(&self, address: u64) -> Result<HeldTarget, Error> {
        let name = format!("{address:#x}");
        let not_a_function = |found: String| Error::NotAFunction { target: name.clone(), address, found };
        let Some((module, image)) = self.modules.iter().find(|(module, _)| module.contains(address)) else {
            return Err(not_a_function("no loaded module is there".into()));
        };
        let image = self.image(module, image)?;
        let value = address.wrapping_sub(module.bias);
        let best = image
            .functions()
            .filter(|function| function.value == value)
            .max_by_key(|function| (function.size > 0, function.is_global, std::cmp::Reverse(function.size)));
        match best {
            Some(function) => self.target(&readable(function.name()), module, image, &function),
            None => {
                let inside = image
                    .functions()
                    .find(|function| function.value < value && value - function.value < function.size);
                Err(not_a_function(match inside {
                    Some(function) => format!("the inside of {}", readable(function.name())),
                    None => format!("no function symbol of {} begins there", module.path.display()),
                }))
            }
        }
    }

    fn searched(
        &self,
        name: &str,
        module: Option<&str>,
    ) -> Result<Vec<(&Module, &OnceCell<ModuleImage>)>, Error> {
        let all = self.modules.iter().map(|(module, image)| (module, image));
        let Some(wanted) = module else { return Ok(all.collect()) };
        let named: Vec<_> = all.filter(|(module, _)| module.is_called(wanted)).collect();
        if named.is_empty() {
            let loaded = self.modules.iter().map(|(module, _)| module.file_name()).collect();
            return Err(Error::NotLoaded { target: name.to_owned(), module: wanted.to_owned(), loaded });
        }
        Ok(named)
    }

    fn image<'a>(&self, module: &Module, cell: &'a OnceCell<ModuleImage>) -> Result<&'a ModuleImage, Error> {
        if cell.get().is_none() {
            let _ = cell.set(ModuleImage::read(module, self.machine)?);
        }
        cell.get().ok_or_else(|| Error::BadModule { path: module.path.clone(), reason: "not read".into() })
    }

    fn target(
        &self,
        name: &str,
        module: &Module,
        image: &ModuleImage,
        function: &FunctionSymbol<'_>,
    ) -> Result<HeldTarget, Error> {
        let address = module.bias.wrapping_add(function.value);
        let not_a_function =
            |found: &str| Error::NotAFunction { target: name.to_owned(), address, found: found.to_owned() };
        if function.is_ifunc {
            return Err(not_a_function(
                "an indirect function (IFUNC); name the implementation in use instead",
            ));
        }
        if !image.is_executable(function.value) {
            return Err(not_a_function("its segment is not executable"));
        }
        if function.size == 0 {
            return Err(Error::UnknownSize { target: name.to_owned(), address });
        }
        let bytes = image
            .bytes_at(function.value, function.size)
            .map_err(|fault| Error::BadModule { path: module.path.clone(), reason: fault.to_string() })?;
        let hold = Arc::new(module.hold(name)?);
        let symbol = String::from_utf8_lossy(function.name()).into_owned();
        let inner = image.labels_inside(function.value, function.size);
        let inner = inner.into_iter().map(|label| module.bias.wrapping_add(label)).collect();
        let build = is_rust_name(function.name()).then(|| Arc::clone(image.build()));
        let (name, module) = (name.to_owned(), module.path.clone());
        let target = Target { name, symbol, module, address, bytes, inner, build };
        Ok(HeldTarget { target: Arc::new(target), hold })
    }

    fn not_found(&self, name: &str, wanted: &str, searched: &[(&Module, &OnceCell<ModuleImage>)]) -> Error {
        let images = || searched.iter().filter_map(|(module, image)| Some((*module, image.get()?)));
        let others =
            images().filter_map(|(module, image)| Some((module, image.other_named(wanted.as_bytes())?)));
        if let Some((module, (value, what))) = others.into_iter().next() {
            let (target, address) = (name.to_owned(), module.bias.wrapping_add(value));
            return Error::NotAFunction { target, address, found: what.to_owned() };
        }
        let names =
            images().flat_map(|(_, image)| image.functions().map(|function| readable(function.name())));
        Error::NotFound { target: name.to_owned(), nearest: nearest(wanted, names) }
    }
}

fn matching<'i>(image: &'i ModuleImage, wanted: &str) -> Vec<FunctionSymbol<'i>> {
    let raw = image.named(wanted.as_bytes());
    if !raw.is_empty() {
        return raw;
    }
    let matcher = Matcher::new(wanted);
    image.functions().filter(|function| matcher.matches(function.name())).collect()
}

fn ambiguous(name: &str, module: &Module, several: &[FunctionSymbol<'_>]) -> Error {
    let candidates = several.iter().map(|function| Candidate {
        name: String::from_utf8_lossy(function.name()).into_owned(),
        module: module.path.clone(),
        address: module.bias.wrapping_add(function.value),
    });
    Error::Ambiguous { target: name.to_owned(), candidates: candidates.collect() }
}
