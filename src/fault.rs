//! Faults and observers for midflight's own tests (feature `fault-injection`): a system call of the
//! commit path can be made to fail, and the stages of a commit can be watched from inside.
//!
//! Process-wide. A test that arms a fault runs in a process of its own.

#[cfg(feature = "fault-injection")]
pub use armed::*;

/// Where a commit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Everything that can fail or allocate has been done; signals are about to be sent.
    Prepared,
    /// All other threads are parked; nothing has been written.
    Quiesced,
    /// All threads run again.
    Released,
}

/// Tells the observer, if there is one, where the commit stands.
#[inline]
pub(crate) fn reached(stage: Stage) {
    #[cfg(feature = "fault-injection")]
    armed::tell(stage);
    #[cfg(not(feature = "fault-injection"))]
    let _ = stage;
}

#[cfg(feature = "fault-injection")]
mod armed {
    use super::Stage;
    use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, Ordering::SeqCst};

    static NUMBER: AtomicI64 = AtomicI64::new(-1);
    static ERRNO: AtomicI32 = AtomicI32::new(0);
    static SKIP: AtomicU32 = AtomicU32::new(0);
    static TIMES: AtomicU32 = AtomicU32::new(0);
    static OBSERVER: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
    static SEPARATE: AtomicBool = AtomicBool::new(false);
    static SHADOW_STACK: AtomicBool = AtomicBool::new(false);
    static WITNESS: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

    /// Makes system call `number` fail with `errno`: `skip` calls of it still work, the next `times` fail.
    pub fn fail(number: i64, skip: u32, times: u32, errno: i32) {
        NUMBER.store(-1, SeqCst);
        SKIP.store(skip, SeqCst);
        TIMES.store(times, SeqCst);
        ERRNO.store(errno, SeqCst);
        NUMBER.store(number, SeqCst);
    }

    /// Lets every system call work again; tells how many calls should still have failed.
    pub fn heal() -> u32 {
        NUMBER.store(-1, SeqCst);
        TIMES.swap(0, SeqCst)
    }

    /// Has `observer` called at each stage, on the committing thread. It must keep to the rules of
    /// held code: no allocation, no lock, no panic.
    pub fn observe(observer: Option<fn(Stage)>) {
        OBSERVER.store(observer.map_or(std::ptr::null_mut(), |f| f as *mut ()), SeqCst);
    }

    /// Has `witness` called by commits prepared from now on while the first of their pages is writable.
    /// The page is not executable then: the witness must not lie in it, nor anything that it calls.
    pub fn witness(witness: Option<extern "C" fn()>) {
        WITNESS.store(witness.map_or(std::ptr::null_mut(), |f| f as *mut ()), SeqCst);
    }

    /// Has commits prepared from now on change each page by itself, also where pages lie near each other.
    pub fn separate_pages(separate: bool) {
        SEPARATE.store(separate, SeqCst);
    }

    /// Has commits prepared from now on believe that returns are compared with a shadow stack.
    pub fn shadow_stack(is_on: bool) {
        SHADOW_STACK.store(is_on, SeqCst);
    }

    pub(crate) fn has_shadow_stack() -> bool {
        SHADOW_STACK.load(SeqCst)
    }

    pub(crate) fn pages_are_separate() -> bool {
        SEPARATE.load(SeqCst)
    }

    pub(crate) fn current_witness() -> Option<usize> {
        let witness = WITNESS.load(SeqCst);
        (!witness.is_null()).then_some(witness as usize)
    }

    pub(crate) fn take(number: libc::c_long) -> Option<i32> {
        if NUMBER.load(SeqCst) != number {
            return None;
        }
        if SKIP.fetch_update(SeqCst, SeqCst, |skip| skip.checked_sub(1)).is_ok() {
            return None;
        }
        TIMES.fetch_update(SeqCst, SeqCst, |times| times.checked_sub(1)).ok()?;
        Some(ERRNO.load(SeqCst))
    }

    pub(super) fn tell(stage: Stage) {
        let observer = OBSERVER.load(SeqCst);
        if !observer.is_null() {
            // SAFETY: only `observe` stores here, and it stores null or a `fn(Stage)`.
            let observer: fn(Stage) = unsafe { std::mem::transmute(observer) };
            observer(stage);
        }
    }
}
