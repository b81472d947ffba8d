//! A lock that a forked child can have again, and that is waited for with a deadline.
//!
//! The word holds the number of the thread that owns it, so that a thread notices when it meets itself,
//! and a fork handler can tell whether the forking thread is in the middle of a commit. A lock of a
//! library keeps queues that are in an unknown state in the child (`std`, `parking_lot`).

use crate::sys;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// How long a thread that had the lock last lets others go first.
const COURTESY: u64 = 10_000_000;
/// A sleep ends after this long at the latest; wake-ups normally come first.
const SLICE: u64 = 1_000_000;

/// A value that one thread at a time may use. All zeros are a free lock.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Lock<T> {
    /// Zero, or the owner's thread number.
    owner: AtomicU32,
    /// Who had it last, and how many wait.
    last: AtomicU32,
    waiting: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard only, and there is one guard at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// Why a lock was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotLocked {
    /// The deadline passed.
    Late,
    /// This thread has it.
    Mine,
}

/// Gives the lock back on drop.
#[derive(Debug)]
pub(super) struct Guard<'lock, T> {
    lock: &'lock Lock<T>,
    /// Not `Send`: the owner's number stands in the lock.
    _here: std::marker::PhantomData<*mut ()>,
}

impl<T> Lock<T> {
    #[cfg(test)]
    pub(super) const fn new(value: T) -> Self {
        Self {
            owner: AtomicU32::new(0),
            last: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lock, waiting until `deadline` (nanoseconds of [`sys::now`]).
    pub(super) fn acquire(&self, deadline: u64) -> Result<Guard<'_, T>, NotLocked> {
        let me = sys::gettid() as u32;
        if self.owner.load(Relaxed) == me {
            return Err(NotLocked::Mine);
        }
        self.let_others_first(me, deadline);
        let mut taken = self.try_take(me);
        if taken.is_err() {
            // Before the owner is looked at again, so that one who lets go sees it, or is seen to have let go.
            self.waiting.fetch_add(1, SeqCst);
            taken = self.wait(me, deadline);
            self.waiting.fetch_sub(1, Relaxed);
        }
        taken.map(|()| Guard { lock: self, _here: std::marker::PhantomData })
    }

    fn wait(&self, me: u32, deadline: u64) -> Result<(), NotLocked> {
        loop {
            if self.try_take(me).is_ok() {
                return Ok(());
            }
            let owner = self.owner.load(SeqCst);
            if owner == 0 {
                continue;
            }
            let now = sys::now();
            if now >= deadline {
                return Err(NotLocked::Late);
            }
            sys::futex_wait(&self.owner, owner, SLICE.min(deadline - now));
        }
    }

    fn try_take(&self, me: u32) -> Result<(), NotLocked> {
        let taken = self.owner.compare_exchange(0, me, Acquire, Relaxed);
        taken.map(|_| self.last.store(me, Relaxed)).map_err(|_| NotLocked::Late)
    }

    /// A thread that commits again and again must not keep others out, a forking one above all.
    fn let_others_first(&self, me: u32, deadline: u64) {
        if self.last.load(Relaxed) != me || self.waiting.load(Relaxed) == 0 {
            return;
        }
        let end = sys::now().saturating_add(COURTESY).min(deadline);
        while self.last.load(Relaxed) == me && self.waiting.load(Relaxed) > 0 && sys::now() < end {
            sys::sleep(50_000);
        }
    }

    /// In a forked child: the lock is free, if the forking thread had it (`keep` false), or it belongs
    /// to this thread, which has a new number.
    ///
    /// # Safety
    /// Called by the only thread of a child, whose parent's thread owned the lock when it forked.
    pub(super) unsafe fn reset_in_child(&self, keep: bool) {
        self.waiting.store(0, Relaxed);
        self.owner.store(if keep { sys::gettid() as u32 } else { 0 }, Release);
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the only one, and borrowed for this.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.owner.store(0, SeqCst);
        if self.lock.waiting.load(SeqCst) > 0 {
            sys::futex_wake_all(&self.lock.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        static COUNT: Lock<u64> = Lock::new(0);
        let add = || {
            for _ in 0..1000 {
                *COUNT.acquire(u64::MAX).unwrap() += 1;
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(add))));
        assert_eq!(*COUNT.acquire(u64::MAX).unwrap(), 4000);
    }

    #[test]
    fn the_deadline_and_the_owner_are_known() {
        let lock = Lock::new(());
        let guard = lock.acquire(0).unwrap();
        assert_eq!(lock.acquire(u64::MAX).err(), Some(NotLocked::Mine));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| lock.acquire(sys::now() + 2_000_000).err());
            assert_eq!(other.join().unwrap(), Some(NotLocked::Late));
        });
        drop(guard);
        assert!(lock.acquire(0).is_ok());
    }
}
