//! What a watch tells, and the queue that it is told through.

use crate::applied::Applied;
use crate::error::Error;
use crate::transaction::Held;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// What happened in a directory that is watched. `Display` says it in one line.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "event", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum WatchEvent {
    /// What stood in the directory when the watch began has been gone through: each patch library is on, or was
    /// refused by an event before this one.
    Ready {
        /// The directory, without links.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
        /// How many patches are on.
        on: usize,
    },
    /// A patch library was applied.
    Applied {
        /// Its file.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
        /// The patch.
        applied: Applied,
    },
    /// A patch was rolled back, since its file is gone, or a newer version of it is on.
    RolledBack {
        /// Where its file stood.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
        /// The patch.
        applied: Applied,
        /// What the rollback cost the other threads.
        held: Held,
    },
    /// The file of a patch that is on has another name now; nothing else has changed.
    Renamed {
        /// Where it stood.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        from: PathBuf,
        /// Where it stands.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
        /// The patch.
        applied: Applied,
    },
    /// A patch library was not applied; what was on stays on. It is tried again when the file or its rights
    /// change; where it could not be read, or a thread or another commit was in the way, also by itself after a
    /// while.
    Refused {
        /// Its file, or the directory if that is no longer trusted or cannot be read.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
        /// Why not.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::text"))]
        error: Error,
    },
    /// A patch that should have been rolled back is still on. That is tried again after a while.
    StaysOn {
        /// Where its file stood.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
        /// The patch.
        applied: Applied,
        /// Why the rollback failed.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::text"))]
        error: Error,
    },
    /// The kernel lost changes of the directory, so all of it was read anew.
    ReadAgain {
        /// The directory.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
    },
    /// Nobody fetched events for so long that the oldest were dropped.
    Missed {
        /// How many.
        count: u64,
    },
    /// The last event: the directory is watched no longer. The patches that are on stay on.
    Ended {
        /// The directory.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
        path: PathBuf,
        /// Why; none if the watch was stopped.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::optional_text"))]
        error: Option<Error>,
    },
}

impl fmt::Display for WatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { path, on } => {
                let patches = if *on == 1 { "patch is" } else { "patches are" };
                write!(f, "watching {}: {on} {patches} on", path.display())
            }
            Self::Applied { path, applied } => write!(f, "{}: applied {applied}", path.display()),
            Self::RolledBack { path, applied, held } => {
                write!(f, "{}: rolled back {}, {held}", path.display(), applied.name())
            }
            Self::Renamed { from, path, applied } => {
                write!(f, "{}: {} stays on, was {}", path.display(), applied.name(), from.display())
            }
            Self::Refused { path, error } => write!(f, "{}: not applied: {error}", path.display()),
            Self::StaysOn { path, applied, error } => {
                write!(f, "{}: {} is not rolled back: {error}", path.display(), applied.name())
            }
            Self::ReadAgain { path } => write!(f, "{}: too many changes, read again", path.display()),
            Self::Missed { count } => write!(f, "{count} events were dropped, since nobody fetched them"),
            Self::Ended { path, error: None } => write!(f, "{}: no longer watched", path.display()),
            Self::Ended { error: Some(error), .. } => write!(f, "{error}; the patches that are on stay on"),
        }
    }
}

/// So many events wait at most: a program that never fetches them must not grow.
pub(super) const ROOM: usize = 1024;

/// Events on their way to the user, the oldest first. The oldest go when there are too many.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<WatchEvent>,
    missed: u64,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, event: WatchEvent) {
        let mut state = self.state.lock();
        if state.events.len() >= ROOM {
            state.events.pop_front();
            state.missed += 1;
        }
        state.events.push_back(event);
        drop(state);
        self.news.notify_all();
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.news.notify_all();
    }

    /// The next event, waited for until `deadline`, or for ever. None if there will be none, or none came.
    pub(super) fn pop(&self, deadline: Option<Instant>) -> Option<WatchEvent> {
        let mut state = self.state.lock();
        let mut is_late = false;
        loop {
            if state.missed > 0 {
                return Some(WatchEvent::Missed { count: std::mem::take(&mut state.missed) });
            }
            if let Some(event) = state.events.pop_front() {
                return Some(event);
            }
            if state.closed || is_late {
                return None;
            }
            // Also when that was in vain all is looked at once more: what is missed comes first.
            match deadline {
                None => self.news.wait(&mut state),
                Some(deadline) => is_late = self.news.wait_until(&mut state, deadline).timed_out(),
            }
        }
    }

    /// Waits until the queue is closed; false if it is still open at `deadline`.
    pub(super) fn wait_closed(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        !self.news.wait_while_until(&mut state, |state| !state.closed, deadline).timed_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event(on: usize) -> WatchEvent {
        WatchEvent::Ready { path: "/x".into(), on }
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let queue = Queue::default();
        (0..ROOM + 3).for_each(|number| queue.push(event(number)));
        assert!(matches!(queue.pop(None), Some(WatchEvent::Missed { count: 3 })));
        for number in 3..ROOM + 3 {
            assert!(matches!(queue.pop(None), Some(WatchEvent::Ready { on, .. }) if on == number));
        }
        assert!(queue.pop(Some(Instant::now())).is_none());
    }

    #[test]
    fn what_came_before_the_end_can_still_be_fetched() {
        let queue = Queue::default();
        assert!(!queue.wait_closed(Instant::now() + Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let fetched = scope.spawn(|| std::iter::from_fn(|| queue.pop(None)).count());
            queue.push(event(1));
            queue.close();
            assert_eq!(fetched.join().unwrap(), 1);
        });
        assert!(queue.wait_closed(Instant::now() + Duration::from_secs(60)));
        queue.push(event(2));
        assert!(queue.pop(None).is_some() && queue.pop(None).is_none());
    }
}
