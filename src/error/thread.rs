//! Threads that stand in the way of a commit.

use std::fmt;
use std::io;

/// A thread, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadName {
    /// Its number, as in `/proc/self/task`.
    pub tid: i32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ThreadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} ({})", self.tid, self.name)
    }
}

/// Why a thread was not in a safe place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotSafe {
    /// It blocks the signal that asks it to stop.
    BlocksSignal {
        /// The signal's number.
        signal: i32,
    },
    /// It did not come to its signal handler.
    DidNotStop {
        /// What it was doing.
        state: &'static str,
    },
    /// It stood inside a site each time.
    InSite {
        /// Its pc.
        pc: u64,
    },
    /// Its stack held an address inside a site each time.
    ReturnsIntoSite {
        /// The address found.
        address: u64,
    },
    /// Its stack is so large that the deadline passed while it was looked through.
    LargeStack,
    /// Its stack could not be read.
    UnreadableStack {
        /// The system's error number.
        errno: i32,
    },
    /// It was still on its way out of the commit before.
    StillLeaving,
    /// The list of threads did not come to rest: threads start and end all the time.
    ListChanges,
}

impl fmt::Display for NotSafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlocksSignal { signal } => write!(f, "blocks signal {signal}, which asks it to stop"),
            Self::DidNotStop { state } => write!(f, "did not stop ({state})"),
            Self::InSite { pc } => write!(f, "stood inside a site, at {pc:#x}"),
            Self::ReturnsIntoSite { address } => write!(f, "would return into a site, to {address:#x}"),
            Self::UnreadableStack { errno } => {
                write!(f, "has a stack that cannot be read ({})", io::Error::from_raw_os_error(*errno))
            }
            Self::LargeStack => f.write_str("has a stack too large to be looked through in time"),
            Self::StillLeaving => f.write_str("was still leaving the commit before"),
            Self::ListChanges => f.write_str("sees a list of threads that keeps changing"),
        }
    }
}
