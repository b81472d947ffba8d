//! fork(2): a commit under way is waited for, so the child finds either all of it or nothing; in the
//! child the locks are free and the threads of the parent are forgotten. What is applied stays applied.
//!
//! A raw clone(2) bypasses this.

use super::common::commit_lock;
use super::lock::{Guard, NotLocked};
use super::registry;
use crate::sys;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

/// Longer than any commit whose deadline is sensible; then fork goes on, and the child finds the lock taken.
const PATIENCE: u64 = 30_000_000_000;

/// What `before` did.
enum Taken {
    /// The thread has the lock from a commit of its own.
    Nothing,
    Lock(ManuallyDrop<Guard<'static, ()>>),
    /// Somebody else has it still.
    Late,
}

thread_local! {
    /// By the forking thread. Without a destructor, so a thread that is about to end can fork too.
    static TAKEN: Cell<Taken> = const { Cell::new(Taken::Nothing) };
}

/// Registers the handlers, once; the lock of all commits is known by then.
pub(super) fn prepare() {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // SAFETY: the handlers are functions of this library, which is never unloaded while patches are on.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
}

extern "C" fn before() {
    let deadline = sys::now().saturating_add(PATIENCE);
    // Registered by what has found the lock.
    let Ok(lock) = commit_lock() else { return };
    TAKEN.set(match lock.acquire(deadline) {
        Ok(commit) => Taken::Lock(ManuallyDrop::new(commit)),
        // In the middle of a commit of its own; or another copy of this library was here before, in which case none of
        // this one's commits is under way.
        Err(NotLocked::Mine) => Taken::Nothing,
        Err(NotLocked::Late) => Taken::Late,
    });
}

extern "C" fn in_parent() {
    if let Taken::Lock(commit) = TAKEN.replace(Taken::Nothing) {
        drop(ManuallyDrop::into_inner(commit));
    }
}

extern "C" fn in_child() {
    let taken = TAKEN.replace(Taken::Nothing);
    // Who was late leaves the lock to a thread that is not here: what that one was in the middle of stays unfinished.
    if let (Ok(lock), Taken::Nothing | Taken::Lock(_)) = (commit_lock(), &taken) {
        // The guard is not dropped, since its waiters are not here.
        let in_own_commit = matches!(taken, Taken::Nothing);
        // SAFETY: the child has one thread, whose original took the lock in `before` or has it still.
        unsafe { lock.reset_in_child(in_own_commit) };
    }
    registry::reset_in_child();
    crate::threads::reset_in_child();
}
