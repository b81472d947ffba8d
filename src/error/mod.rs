//! What can go wrong. Every error leaves the process as it was, names the place, and says what to do.

pub(crate) mod file;
mod runtime;
mod thread;

pub use file::PatchFault;
pub use runtime::RuntimeDifference;
pub use thread::{NotSafe, ThreadName};

use crate::arch::Refusal;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of midflight's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Nothing has been changed then, unless the variant says otherwise.
/// Addresses are run-time addresses unless called file addresses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The patch file could not be read.
    #[error("cannot read patch file {}: {source}", path.display())]
    ReadPatch {
        /// As the caller gave it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no patch library, or a damaged one.
    #[error("{} is not a usable patch library: {fault}", path.display())]
    BadPatch {
        /// As the caller gave it.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: PatchFault,
    },
    /// The file uses symbols that nothing in this process provides.
    #[error(
        "patch library {} needs {} that nothing loaded provides: {}; link what defines them, or export them from the program (-rdynamic)",
        path.display(), count(names.len(), "symbol"), names.join(", ")
    )]
    UndefinedSymbols {
        /// The patch library.
        path: PathBuf,
        /// All of them.
        names: Vec<String>,
    },
    /// The dynamic linker refused the patch library.
    #[error("the dynamic linker does not load patch library {}: {message}", path.display())]
    Load {
        /// The patch library.
        path: PathBuf,
        /// What the dynamic linker said.
        message: String,
    },
    /// The patch library could not be kept in memory for loading.
    #[error("cannot keep a private copy of patch library {}: {source}", path.display())]
    KeepCopy {
        /// The patch library.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No loaded module has that name.
    #[error("target {target}: no loaded module is called {module}; loaded are {}", loaded.join(", "))]
    NotLoaded {
        /// The target as it was asked for.
        target: String,
        /// The part before `!`.
        module: String,
        /// File names of what is loaded.
        loaded: Vec<String>,
    },
    /// No function has that name.
    #[error("target {target}: no such function{}", nearest_words(nearest))]
    NotFound {
        /// The target as it was asked for.
        target: String,
        /// Names that come near.
        nearest: Vec<String>,
    },
    /// Several functions have that name.
    #[error(
        "target {target} is ambiguous: {}; say which with module!symbol or by its raw name",
        list(candidates)
    )]
    Ambiguous {
        /// The target as it was asked for.
        target: String,
        /// All that match.
        candidates: Vec<Candidate>,
    },
    /// The target is no function that can be replaced.
    #[error("target {target} at {address:#x} is not a function: {found}")]
    NotAFunction {
        /// The target as it was asked for.
        target: String,
        /// Where it stands.
        address: u64,
        /// What was found there instead.
        found: String,
    },
    /// The symbol does not say how long the function is, so nothing can be promised about its bytes.
    #[error("target {target} at {address:#x} has no known size; its symbol says 0 bytes")]
    UnknownSize {
        /// The target as it was asked for.
        target: String,
        /// Its first byte.
        address: u64,
    },
    /// The module of a target could not be read, or is not the file it was loaded from.
    #[error("module {} cannot be used: {reason}", path.display())]
    BadModule {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The module of a target was unloaded while it was being looked at.
    #[error("target {target}: its module {} was unloaded meanwhile", path.display())]
    ModuleGone {
        /// The target as it was asked for.
        target: String,
        /// Its file.
        path: PathBuf,
    },
    /// Somebody has set a breakpoint in the target.
    #[error(
        "target {target} has a breakpoint at {address:#x}: expected {}, found {}; remove it (debugger, uprobe) and try again",
        hex(expected),
        hex(found)
    )]
    Breakpoint {
        /// The target.
        target: String,
        /// Where it is.
        address: u64,
        /// What the file or midflight put there.
        expected: Vec<u8>,
        /// What is there.
        found: Vec<u8>,
    },
    /// Somebody else has put a jump at the entry of the target: another library that replaces functions, or another
    /// copy of this one.
    #[error(
        "target {target} has somebody else's jump at {address:#x}: expected {}, found {}; let who put it there take it away",
        hex(expected),
        hex(found)
    )]
    OtherHook {
        /// The target.
        target: String,
        /// Where it is.
        address: u64,
        /// What the file or midflight put there.
        expected: Vec<u8>,
        /// What is there.
        found: Vec<u8>,
    },
    /// The bytes of the target are not what they should be, for no reason that can be told.
    #[error(
        "target {target} at {address:#x} has been changed by somebody else: expected {}, found {}",
        hex(expected),
        hex(found)
    )]
    EntryModified {
        /// The target.
        target: String,
        /// The first byte compared.
        address: u64,
        /// What the file or midflight put there.
        expected: Vec<u8>,
        /// What is there.
        found: Vec<u8>,
    },
    /// No form of site is possible at this target.
    #[error("target {target} at {address:#x} cannot be patched: {refusal}")]
    Refused {
        /// The target.
        target: String,
        /// Its first byte.
        address: u64,
        /// The instruction and the reason.
        #[source]
        refusal: Refusal,
    },
    /// The site would run over the beginning of another function, or over another site.
    #[error("the bytes to be overwritten of {target} at {address:#x} overlap {other} at {other_address:#x}")]
    Overlap {
        /// The target.
        target: String,
        /// Its site.
        address: u64,
        /// The other function or target.
        other: String,
        /// Its first byte, or that of its site.
        other_address: u64,
    },
    /// [`Options::without_hold`](crate::Options::without_hold) was asked for, and it cannot be done.
    #[error(
        "target {target} at {address:#x} cannot be switched by one store while threads run; allow a hold \
         (Options::without_hold)"
    )]
    NeedsHold {
        /// The target, or the first of several that have to switch together.
        target: String,
        /// Its first byte.
        address: u64,
    },
    /// One function is named twice in one transaction.
    #[error("target {target} at {address:#x} is replaced twice in one transaction (also as {other})")]
    DuplicateTarget {
        /// The target.
        target: String,
        /// Its first byte.
        address: u64,
        /// How it was called the other time.
        other: String,
    },
    /// The place for the original holds that of another replacement, which is on or in the same transaction.
    #[error(
        "the original of {target} is to be put where that of {other} is; give each an Original of its own"
    )]
    OriginalInUse {
        /// The target.
        target: String,
        /// The target whose original is there.
        other: String,
    },
    /// The replacement does not point to code.
    #[error("the replacement of {target}, {address:#x}, is not code: {found}")]
    ReplacementNotCode {
        /// The target.
        target: String,
        /// What was given as replacement.
        address: u64,
        /// What is there.
        found: String,
    },
    /// The Rust code of a patch library was built otherwise than that of a target's module.
    #[error(
        "target {target}{} in {}: {difference}; {}, or, if what differs never meets, use Options::allow_other_runtime",
        runtime::and_others(*others),
        module.display(),
        difference.remedy()
    )]
    OtherRuntime {
        /// The first target in that module.
        target: String,
        /// How many other targets it has there.
        others: usize,
        /// The module's file.
        module: PathBuf,
        /// In what they differ.
        difference: Box<RuntimeDifference>,
    },
    /// Several things are wrong; a check tells all of them.
    #[error("{}: {}", count(errors.len(), "problem"), list(errors))]
    Several {
        /// Each of them.
        errors: Vec<Error>,
    },
    /// The transaction has no change in it.
    #[error("nothing to do: the transaction is empty")]
    Empty,
    /// The same patch is on already.
    #[error("patch {name} is applied already; roll it back first")]
    AlreadyApplied {
        /// Its name.
        name: String,
    },
    /// The patch is not on (any more).
    #[error("patch {name} is not applied; it was rolled back before")]
    NotApplied {
        /// Its name.
        name: String,
    },
    /// Functions or variables of the patch library bear names that the program exports: wherever the library itself
    /// refers to them it would get the program's.
    #[error(
        "{}: the program's definitions would take the place of the library's own {}; make those static or hidden \
         (-fvisibility=hidden), or allow it with Options::allow_interposed",
        path.display(), names.join(", ")
    )]
    Interposed {
        /// The patch library.
        path: PathBuf,
        /// All of them.
        names: Vec<String>,
    },
    /// There are several copies of a function of Rust.
    #[error(
        "{target} has {} copies, or instances for several types: {}; replace all, if they are copies, with \
         Options::every_copy, or one by its raw name",
        copies.len(), list(copies)
    )]
    Copies {
        /// The target as it was asked for.
        target: String,
        /// All of them.
        copies: Vec<Candidate>,
    },
    /// The code is that of several functions.
    #[error(
        "{target} at {address:#x} is one with {}; if calls of all may be replaced, allow it with Options::folded_code",
        names.join(", ")
    )]
    FoldedCode {
        /// The target as it was asked for.
        target: String,
        /// Where it stands in this process.
        address: u64,
        /// Raw names of the others.
        names: Vec<String>,
    },
    /// No free memory from which the target can be reached, or to be reached from it.
    #[error("no free memory near {target} at {address:#x}, within {window}")]
    NoNearMemory {
        /// The first target of the group.
        target: String,
        /// Its site.
        address: u64,
        /// The addresses that would do.
        window: String,
    },
    /// Another commit was still going on when the deadline passed.
    #[error("another commit was still going on after {waited:?}; try again")]
    Busy {
        /// How long this call waited.
        waited: Duration,
    },
    /// Not all threads could be brought to a safe place in time; all of them run on.
    #[error(
        "{thread} {reason}; gave up after {waited:?} with nothing changed; try again, or with a longer Options::deadline"
    )]
    Deadline {
        /// The thread that was not in a safe place.
        thread: ThreadName,
        /// Why it was not.
        reason: NotSafe,
        /// How long this call tried.
        waited: Duration,
    },
    /// Every signal that could ask threads to stop is in use by the program.
    #[error("no free signal: SIGURG and 36 to 60 all have handlers or are waited for")]
    NoSignal,
    /// The kernel refused something that the commit needs.
    #[error("cannot {step}: {source}")]
    Kernel {
        /// What was to be done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another copy of midflight is in this process, of a version that shares no lock with this one.
    #[error(
        "another copy of midflight in this process keeps its commits apart in another way (version {version}, this \
         one has {ours}); link one version only"
    )]
    OtherCopy {
        /// That of the copy that was first.
        version: u64,
        /// That of this copy.
        ours: u64,
    },
    /// Others could put code into this process through a directory or file that is to be watched.
    #[error("{} is not trusted: {reason}", path.display())]
    Untrusted {
        /// The directory or file that others could change: maybe one above the directory watched.
        path: PathBuf,
        /// Who could, and what to do about it.
        reason: String,
    },
    /// A directory cannot be watched, or no longer. The patches that are on stay on.
    #[error("directory {} is not watched: {source}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The call came from where it cannot work, such as a patch library's constructor.
    #[error("this thread is in the middle of a commit already; call midflight from elsewhere")]
    Nested,
}

impl Error {
    /// Ok if there are none; one alone as it is.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => errors.pop().map_or(Ok(()), Err),
            _ => Err(Self::Several { errors }),
        }
    }
}

/// A function that matches a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Candidate {
    /// Raw name.
    pub name: String,
    /// File of its module.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
    pub module: PathBuf,
    /// Where it stands in this process.
    pub address: u64,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} at {:#x}", self.name, self.module.display(), self.address)
    }
}

/// `1 symbol`, `2 symbols`.
pub(crate) fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

fn list(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn nearest_words(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; nearest: {}", nearest.join(", ")) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
