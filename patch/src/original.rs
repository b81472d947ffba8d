//! The original of a replaced function, callable from its replacement.

use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::FnPointer;

/// Holds the original of a function once it has been replaced, as a static:
///
/// ```
/// # use midflight_patch::Original;
/// static COUNT: Original<fn(&str) -> usize> = Original::new();
///
/// fn count(text: &str) -> usize {
///     COUNT.get()(text) + 1
/// }
/// # assert!(COUNT.try_get().is_none());
/// ```
///
/// The engine fills it before the first byte of the program changes, so a replacement that runs because its
/// target was called always finds the original, which then stays callable for ever, also after a rollback.
///
/// A panic of the original is one of the program, of another Rust runtime: it passes the replacement and runs its drops,
/// but what catches it here (`catch_unwind`, or the start of a thread that this library spawned) ends the program.
///
/// A replacement that is called otherwise, as an ordinary function before the patch was applied, finds nothing.
#[repr(transparent)]
pub struct Original<F> {
    /// Null, or the address of code that may be called as an `F`: nothing but the engine writes it.
    slot: AtomicPtr<()>,
    // A function that gives an `F`: the cell is shared among threads whatever `F` is, since it holds an
    // address.
    function: PhantomData<fn() -> F>,
}

impl<F: FnPointer> Original<F> {
    /// An original that is yet to be filled.
    pub const fn new() -> Self {
        Self { slot: AtomicPtr::new(ptr::null_mut()), function: PhantomData }
    }

    /// The original.
    ///
    /// # Panics
    /// If the patch has never been applied. A panic of the replacement is as bad as any other of that
    /// function; [`try_get`](Self::try_get) is for code that also runs outside of a patch.
    #[inline]
    #[track_caller]
    pub fn get(&self) -> F {
        match self.try_get() {
            Some(function) => function,
            None => not_filled(),
        }
    }

    /// The original, or `None` if the patch has never been applied.
    #[inline]
    pub fn try_get(&self) -> Option<F> {
        let address = self.slot.load(Ordering::Acquire).cast_const();
        if address.is_null() {
            return None;
        }
        // SAFETY: what stands in the slot may be called as an `F` (see the field). It can only be written
        // through `as_slot`, by unsafe code that keeps this.
        Some(unsafe { F::from_address(address) })
    }

    /// The cell that the engine fills, for a record of the patch section and for the engine itself.
    ///
    /// Whoever stores to it must store the address of code that can be called as an `F` from then on, with
    /// release ordering.
    pub const fn as_slot(&self) -> *const AtomicPtr<()> {
        &raw const self.slot
    }
}

impl<F: FnPointer> Default for Original<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> fmt::Debug for Original<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Original").field(&self.slot.load(Ordering::Acquire)).finish()
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn not_filled() -> ! {
    panic!("the original is not known: the patch that this `Original` belongs to has not been applied")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> &str {
        &text[..1]
    }

    type First = fn(&str) -> &str;

    #[test]
    fn it_is_empty_until_filled() {
        static FIRST: Original<First> = Original::new();
        assert!(FIRST.try_get().is_none());
        // SAFETY: a static's cell is valid for ever.
        let slot = unsafe { &*FIRST.as_slot() };
        slot.store(First::address(first).cast_mut(), Ordering::Release);
        assert_eq!(FIRST.get()("abc"), "a");
    }

    #[test]
    #[should_panic(expected = "has not been applied")]
    fn an_empty_one_says_why() {
        Original::<First>::new().get();
    }

    #[test]
    fn it_is_one_pointer_and_shared_whatever_the_type() {
        fn shared<T: Send + Sync>() {}
        shared::<Original<fn(*mut u8) -> std::rc::Rc<u8>>>();
        assert_eq!(size_of::<Original<First>>(), size_of::<usize>());
    }
}
