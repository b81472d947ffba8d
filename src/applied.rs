//! Handles on what is on.

use crate::error::{Error, count};
use crate::options::Options;
use crate::transaction::{self, Entry, Held, Session};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// A patch or transaction that was committed. A handle: clones are the same patch, and dropping it leaves
/// the patch on.
#[derive(Debug, Clone)]
pub struct Applied {
    entry: Arc<Entry>,
}

impl Applied {
    pub(crate) fn new(entry: Arc<Entry>) -> Self {
        Self { entry }
    }

    /// Is it of the patch library with these bytes?
    pub(crate) fn is_of(&self, image: &[u8]) -> bool {
        self.entry.image.as_deref() == Some(image)
    }

    /// Undoes all changes of this patch, or none: what was below them is called again, or, where nothing
    /// was, the original bytes come back. Patches that lie above stay on; their originals lead to what was
    /// below this patch. With the default [`Options`].
    ///
    /// # Errors
    /// [`Error::NotApplied`] if it was rolled back before; else those of a commit, with nothing changed.
    pub fn rollback(&self) -> Result<Held, Error> {
        self.rollback_with(&Options::new())
    }

    /// As [`Self::rollback`], with other options.
    ///
    /// # Errors
    /// As of [`Self::rollback`].
    pub fn rollback_with(&self, options: &Options) -> Result<Held, Error> {
        Session::begin(options)?.roll_back(&self.entry)
    }

    /// Is it on still?
    pub fn is_applied(&self) -> bool {
        self.entry.is_on()
    }

    /// The name that the patch gave itself.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// The patch file as it was named when it was opened; none for what was replaced by hand.
    pub fn path(&self) -> Option<&Path> {
        self.entry.path.as_deref()
    }

    /// The targets as they were asked for, with the run-time addresses of their first bytes.
    pub fn functions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entry.functions.iter().map(|(name, address)| (name.as_str(), *address))
    }

    /// What applying it cost the other threads.
    pub fn held(&self) -> Held {
        self.entry.held
    }

    /// When it was applied.
    pub fn since(&self) -> SystemTime {
        self.entry.since
    }
}

/// `friendly-time: 1 function, 9 threads held 41 µs`
impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {}", self.name(), count(self.entry.functions.len(), "function"), self.held())?;
        if self.is_applied() { Ok(()) } else { f.write_str(" (rolled back)") }
    }
}

/// As it stands now: name, path, functions with their addresses, what applying it cost, when that was in milliseconds
/// since 1970, and whether it is on still.
#[cfg(feature = "serde")]
impl serde::Serialize for Applied {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Function<'a> {
            target: &'a str,
            address: u64,
        }

        #[derive(serde::Serialize)]
        struct Status<'a> {
            name: &'a str,
            path: Option<String>,
            functions: Vec<Function<'a>>,
            held: Held,
            since_unix_ms: u64,
            is_applied: bool,
        }

        let since = self.since().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let functions = self.functions().map(|(target, address)| Function { target, address });
        let status = Status {
            name: self.name(),
            path: self.path().map(|path| path.display().to_string()),
            functions: functions.collect(),
            held: self.held(),
            since_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            is_applied: self.is_applied(),
        };
        status.serialize(serializer)
    }
}

/// Everything that is on, newest last. May be called from anywhere where memory may be allocated, also during a commit and
/// by the committing thread (an allocator, a constructor of a patch library): it takes no lock and waits for nobody.
pub fn applied() -> Vec<Applied> {
    transaction::applied().into_iter().map(Applied::new).collect()
}
