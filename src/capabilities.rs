//! What this process permits, and so how commits will be made. Nothing is held, loaded or changed to find out.

use crate::error::Error;
use crate::loader;
use crate::memory;
use crate::options::Options;
use crate::plan;
use crate::process::{self, Mapping, MemoryMap};
use crate::sys::{self, Errno};
use crate::threads;
use crate::transaction::HOST;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::ops::Range;

/// How well something is supported here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Support {
    /// No commit, or no patch library, without it.
    Missing,
    /// There is something better, or a part of it is missing.
    Reduced,
    /// As well as midflight can.
    Full,
}

/// One thing that commits depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Capability {
    /// How well it is supported.
    pub support: Support,
    /// What there is, or what will be used; in words.
    pub used: String,
    /// Why it is not something better, or what follows; in words.
    pub why: Option<String>,
}

/// What this process permits at this moment, and what commits will use. `Display` gives a line for each entry, those
/// that are not [`Support::Full`] marked.
///
/// An entry tells what was found now; another thread may change that before a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Capabilities {
    /// The kernel's release.
    pub kernel: Capability,
    /// The size of memory pages.
    pub page_size: Capability,
    /// How threads are kept from code that is being changed.
    pub strategy: Capability,
    /// The signal that asks threads to stop.
    pub signal: Capability,
    /// How the cores learn that code has changed.
    pub barrier: Capability,
    /// What can be read below `/proc/self`.
    pub proc: Capability,
    /// Whether memory can be read without the danger of a fault (process_vm_readv(2)).
    pub memory_reads: Capability,
    /// Whether code that was changed may become executable again.
    pub code_writes: Capability,
    /// Free memory for trampolines in reach of the executable's code.
    pub near_executable: Capability,
    /// Free memory for trampolines in reach of the C library's code.
    pub near_libc: Capability,
    /// How patch libraries are kept for the dynamic linker.
    pub loading: Capability,
    /// What the host program does when it panics.
    pub panic: Capability,
}

impl Capabilities {
    /// All entries with their names, in the order of the fields.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &Capability)> {
        [
            ("kernel", &self.kernel),
            ("page_size", &self.page_size),
            ("strategy", &self.strategy),
            ("signal", &self.signal),
            ("barrier", &self.barrier),
            ("proc", &self.proc),
            ("memory_reads", &self.memory_reads),
            ("code_writes", &self.code_writes),
            ("near_executable", &self.near_executable),
            ("near_libc", &self.near_libc),
            ("loading", &self.loading),
            ("panic", &self.panic),
        ]
        .into_iter()
    }

    /// The worst support of all entries.
    pub fn worst(&self) -> Support {
        self.entries().map(|(_, entry)| entry.support).min().unwrap_or(Support::Full)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, entry)) in self.entries().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{:<16} {entry}", name.replace('_', " "))?;
        }
        Ok(())
    }
}

/// `reduced: what will be used (why)`
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.support {
            Support::Missing => f.write_str("MISSING: ")?,
            Support::Reduced => f.write_str("reduced: ")?,
            Support::Full => {}
        }
        f.write_str(&self.used)?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, " ({why})"))
    }
}

impl Capability {
    fn new(support: Support, used: impl Into<String>, why: Option<String>) -> Self {
        Self { support, used: used.into(), why }
    }

    fn full(used: impl Into<String>) -> Self {
        Self::new(Support::Full, used, None)
    }

    fn reduced(used: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Support::Reduced, used, Some(why.to_string()))
    }

    fn missing(used: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Support::Missing, used, Some(why.to_string()))
    }
}

/// Finds out what this process permits. May be called at any time, also before the first commit: no thread is held,
/// none of the program's code runs, and nothing stays but a page of memory, which
/// commits ask the same by (a file without a name is made and removed). Takes some
/// milliseconds, and 20 more if a thread blocks the signal.
///
/// ```
/// let here = midflight::capabilities();
/// println!("{here}");
/// ```
pub fn capabilities() -> Capabilities {
    capabilities_with(&Options::new())
}

/// As [`capabilities`], for commits with these options: threads that they leave alone
/// ([`Options::ignore_thread`]) are not counted among those that block the signal, and have no say in which it is.
///
/// ```
/// // The emulator's own thread, which was there before `main`.
/// # let emulator = i32::MAX;
/// // SAFETY: it runs the emulator's code only.
/// let options = unsafe { midflight::Options::new().ignore_thread(emulator) };
/// println!("{}", midflight::capabilities_with(&options));
/// ```
pub fn capabilities_with(options: &Options) -> Capabilities {
    let map = MemoryMap::read();
    // SAFETY: asks for a number that the kernel gave the process.
    let entry = unsafe { libc::getauxval(libc::AT_ENTRY) };
    Capabilities {
        kernel: kernel(),
        page_size: page_size(),
        strategy: Capability::full("stop: all other threads are held while code changes"),
        signal: signal(options),
        barrier: barrier(),
        proc: proc(&map),
        memory_reads: memory_reads(),
        code_writes: code_writes(),
        near_executable: near(&map, entry),
        near_libc: near(&map, libc::getpid as *const () as u64),
        loading: loading(),
        panic: Capability::full(if cfg!(panic = "abort") { "abort" } else { "unwind" }),
    }
}

fn kernel() -> Capability {
    let mut names = std::mem::MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: libc fills the structure.
    let answer = unsafe { libc::uname(names.as_mut_ptr()) };
    // SAFETY: zeroed, then filled; every bit pattern is a `utsname`.
    let names = unsafe { names.assume_init() };
    if answer != 0 {
        return Capability::reduced("Linux of an unknown release", io::Error::last_os_error());
    }
    // SAFETY: the kernel's string ends in NUL.
    let release = unsafe { CStr::from_ptr(names.release.as_ptr()) };
    Capability::full(format!("Linux {}", release.to_string_lossy()))
}

fn page_size() -> Capability {
    Capability::full(format!("{} bytes", sys::page_size()))
}

fn signal(options: &Options) -> Capability {
    let outlook = match threads::signal_outlook(&options.ignored_threads) {
        Ok(outlook) => outlook,
        Err(error) => return Capability::missing("no signal can ask threads to stop", error),
    };
    let threads::SignalOutlook { signal, in_use, blocking, why_not_urg } = outlook;
    let name = if signal == libc::SIGURG { "SIGURG".to_owned() } else { format!("signal {signal}") };
    let used = if in_use { format!("{name}, in use") } else { name };
    let mut why = Vec::new();
    why.extend(why_not_urg.map(|reason| {
        format!("not SIGURG, since {reason}; one that is pending when the program calls exec ends the next program")
    }));
    if blocking > 0 {
        let threads = crate::error::count(blocking, "thread");
        why.push(format!("{threads} blocking it now would make a commit wait, and fail at its deadline"));
    }
    match why.is_empty() {
        true => Capability::full(used),
        false => Capability::reduced(used, why.join("; ")),
    }
}

fn barrier() -> Capability {
    let name = "membarrier(PRIVATE_EXPEDITED_SYNC_CORE)";
    match memory::barrier_outlook() {
        Ok(true) => Capability::full(format!("{name}, registered")),
        Ok(false) => Capability::full(format!("{name}, to be registered by the first commit")),
        Err(errno) => Capability::reduced(
            "each thread synchronises its core when it is let go",
            format!("no {name}: {}", words(errno)),
        ),
    }
}

fn proc(map: &Result<MemoryMap, Error>) -> Capability {
    let mut broken = Vec::new();
    let mut support = Support::Full;
    if let Err(Error::Kernel { source, .. }) = map {
        (support, broken) = (Support::Missing, vec![format!("maps: {source}")]);
    }
    if let Err(error) = std::fs::File::open(process::executable()) {
        broken.push(format!("exe: {error}, so no function of the executable can be found"));
        support = support.min(Support::Reduced);
    }
    for (file, is_needed, answer) in threads::proc_files() {
        if let Err(errno) = answer {
            broken.push(format!("{file}: {}", words(errno)));
            support = support.min(if is_needed { Support::Missing } else { Support::Reduced });
        }
    }
    match support {
        Support::Full => Capability::full("all that is needed can be read"),
        _ => Capability::new(support, "not all that is needed can be read", Some(broken.join("; "))),
    }
}

fn memory_reads() -> Capability {
    let known = [0x6d; 16];
    let mut found = [0; 16];
    let reader = sys::MemoryReader::new();
    let answer =
        reader.and_then(|reader| Ok((reader.name(), reader.read(known.as_ptr() as u64, &mut found)?)));
    match answer {
        Ok((name, 16)) if found == known => Capability::full(name),
        Ok((name, _)) => {
            Capability::missing("targets and stacks cannot be read", format!("{name} gave other bytes"))
        }
        Err(errno) => Capability::missing("targets and stacks cannot be read", words(errno)),
    }
}

fn code_writes() -> Capability {
    match memory::may_become_executable() {
        Ok(()) => Capability::full("mprotect: pages of code become writable, then executable again"),
        Err(errno) => Capability::missing(
            "changed code could not become executable again",
            format!("{}; PR_SET_MDWE, seccomp and SELinux execmem are policies that forbid it", words(errno)),
        ),
    }
}

/// Free memory in reach of the module that `address` lies in.
fn near(map: &Result<MemoryMap, Error>, address: u64) -> Capability {
    let unknown = "it is not known what is free";
    let map = match map {
        Ok(map) => map,
        Err(error) => return Capability::missing(unknown, error),
    };
    let text = match text_around(map, address) {
        Ok(Some(text)) => text,
        Ok(None) => return Capability::missing(unknown, format!("nothing is mapped at {address:#x}")),
        Err(error) => return Capability::missing(unknown, error),
    };
    let place = format!("code at {:#x}..{:#x}", text.start, text.end);
    let Some(window) = plan::reachable(HOST, &text) else {
        return Capability::reduced("no one place reaches all of it", place);
    };
    let all = map.all().unwrap_or_default();
    let mappings = all.iter().map(|one| (one.range.start, one.range.end, one.name.as_str()));
    let (free, largest) = plan::Occupied::new(HOST, mappings).free(&window);
    // A site takes a page of code and one of slots.
    if largest < 8192 {
        return Capability::missing(format!("{free} bytes in pieces that are too small"), place);
    }
    let mebibytes = |bytes: u64| bytes >> 20;
    let used = format!("{} MiB free in reach, {} in one piece", mebibytes(free), mebibytes(largest));
    Capability::new(Support::Full, used, Some(place))
}

/// From the first to the last executable mapping of the file that `address` is mapped from.
fn text_around(map: &MemoryMap, address: u64) -> Result<Option<Range<u64>>, Error> {
    let Some(here) = map.named_at(address)? else { return Ok(None) };
    let is_same = |one: &&Mapping| one.executable && one.name == here.name && !one.name.is_empty();
    let all = map.all()?.iter().filter(is_same).map(|one| one.range.clone());
    let text = all.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end));
    Ok(Some(text.unwrap_or_else(|| here.range.clone())))
}

fn loading() -> Capability {
    match loader::probe() {
        Ok(None) => Capability::full("a sealed memfd"),
        Ok(Some(error)) => {
            Capability::reduced("a file without a name in the temporary folder", format!("no memfd: {error}"))
        }
        Err(error) => Capability::missing("patch libraries cannot be kept and mapped as code", error),
    }
}

fn words(errno: Errno) -> String {
    io::Error::from(errno).to_string()
}
