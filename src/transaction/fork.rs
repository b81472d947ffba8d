//! fork(2): a commit under way is waited for, so the child finds either all of it or nothing; in the
//! child the locks are free and the threads of the parent are forgotten. What is applied stays applied.
//!
//! A raw clone(2) bypasses this.

use super::common::commit_lock;
use super::lock::{Guard, NotLocked};
use super::registry::{REGISTRY, Registry};
use crate::sys;
use std::cell::RefCell;
use std::sync::OnceLock;

/// Longer than any commit whose deadline is sensible; then fork goes on, and the child may find the lock taken.
const PATIENCE: u64 = 30_000_000_000;

type Held = (Option<Guard<'static, ()>>, Option<Guard<'static, Registry>>);

thread_local! {
    /// What the forking thread took in `before`; None where the thread has it from a commit of its own.
    static TAKEN: RefCell<Option<Held>> = const { RefCell::new(None) };
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
    let commit = lock.acquire(deadline);
    // In the middle of a commit of its own; or another copy of this library was here before, in which case none of
    // this one's commits is under way.
    if commit.as_ref().err() == Some(&NotLocked::Mine) {
        return;
    }
    let registry = REGISTRY.acquire(deadline).ok();
    // A thread that ends has no place for it any more; then the locks are free again at once.
    let _ = TAKEN.try_with(|taken| *taken.borrow_mut() = Some((commit.ok(), registry)));
}

extern "C" fn in_parent() {
    let _ = TAKEN.try_with(|taken| drop(taken.borrow_mut().take()));
}

extern "C" fn in_child() {
    let taken = TAKEN.try_with(|taken| taken.borrow_mut().take());
    let in_own_commit = matches!(taken, Ok(None));
    // Forgotten rather than dropped: their waiters are not here.
    std::mem::forget(taken);
    if let Ok(lock) = commit_lock() {
        // SAFETY: the child has one thread, whose original took both locks in `before` or has them still.
        unsafe { lock.reset_in_child(in_own_commit) };
    }
    // SAFETY: the registry is changed by threads that may commit only, and not held across calls that could fork.
    unsafe { REGISTRY.reset_in_child(false) };
    crate::threads::reset_in_child();
}
