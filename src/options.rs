//! How a commit is to be made.
#![forbid(unsafe_code)]

use std::time::Duration;

/// How a commit is to be made. The defaults are right for a service under load.
///
/// ```
/// use midflight::Options;
/// use std::time::Duration;
///
/// let patient = Options::new().deadline(Duration::from_secs(5));
/// # let _ = patient;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long another commit is waited for, and then how long the commit tries to bring all threads to a
    /// safe place. When it passes, nothing has changed. One second unless set.
    pub deadline: Duration,
    /// Threads that are neither held nor looked at, by their number in `/proc/self/task`.
    pub ignored_threads: Vec<i32>,
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self { deadline: Duration::from_secs(1), ignored_threads: Vec::new() }
    }

    /// How long to wait.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Leaves thread `tid` alone: one of which is known that it never runs a target, such as an emulator's
    /// own. If it does run one, it may run a half-written instruction.
    #[must_use]
    pub fn ignore_thread(mut self, tid: i32) -> Self {
        self.ignored_threads.push(tid);
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
