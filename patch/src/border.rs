//! The border between a patch library and the program: a panic of a replacement goes on in the program.
//!
//! A patch library has a Rust runtime of its own, and one runtime cannot catch the panics of another: a
//! panic that leaves the library would end the program. So every replacement that `patch!` defines catches at
//! its border, and a function of the engine, handed over before the commit, resumes the panic in the runtime of
//! the program. There it runs the drops of the callers and is caught as any other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::format::{Attach, Resume, Thrown};
use crate::shield::{learn, shield};

/// The engine's function, once it has been handed over; a [`Resume`].
static RESUME: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Runs the body of a replacement. What `patch!` writes calls it; nobody else should.
#[doc(hidden)]
#[inline]
pub fn cross<R>(body: impl FnOnce() -> R) -> R {
    let resume = RESUME.load(Ordering::Acquire);
    // Without an engine it is a function like others. With panic=abort there is nothing to catch.
    if cfg!(panic = "abort") || resume.is_null() {
        return body();
    }
    match catch_unwind(AssertUnwindSafe(|| shield(body))) {
        Ok(Ok(result)) => result,
        Ok(Err(foreign)) => foreign.resume(),
        Err(payload) => hand_over(resume, payload),
    }
}

/// What the section tells the engine.
#[doc(hidden)]
pub const ATTACH: Attach = attach;

/// The text of the library's record.
#[doc(hidden)]
pub const WRITTEN_WITH: &str = concat!("midflight-patch ", env!("CARGO_PKG_VERSION"));

unsafe extern "C" fn attach(resume: Resume) {
    if cfg!(panic = "unwind") {
        learn();
        RESUME.store(resume as *mut (), Ordering::Release);
    }
}

#[cold]
fn hand_over(resume: *mut (), payload: Box<dyn Any + Send>) -> ! {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => Some(*text),
        (_, Some(text)) => Some(text.as_str()),
        _ => None,
    };
    let (text, text_len) = text.map_or((ptr::null(), 0), |text| (text.as_ptr(), text.len()));
    let payload = Box::into_raw(Box::new(payload)).cast();
    let thrown = Thrown { text, text_len, payload, discard };
    // SAFETY: the engine's function, by `attach`, has this type and stays for ever.
    let resume = unsafe { std::mem::transmute::<*mut (), Resume>(resume) };
    // SAFETY: the text lives as long as the payload, which nobody else has.
    unsafe { resume(&thrown) }
}

/// # Safety
/// `payload` is that of a [`Thrown`] of this library, and is not used any more.
unsafe extern "C" fn discard(payload: *mut ()) {
    // SAFETY: `hand_over` made it of a box of this type; the caller gives it back.
    let payload = unsafe { Box::from_raw(payload.cast::<Box<dyn Any + Send>>()) };
    // A payload that panics when it is dropped has nowhere to go.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}

/// For the engine: makes a box of the payload again.
///
/// # Safety
/// `payload` is that of a [`Thrown`] whose library has the same runtime and allocator, and is not used any more.
#[doc(hidden)]
pub unsafe fn payload(payload: *mut ()) -> Box<dyn Any + Send> {
    // SAFETY: the caller's promise.
    *unsafe { Box::from_raw(payload.cast::<Box<dyn Any + Send>>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This crate's tests are one runtime, so a panic is resumed in the same one.
    unsafe extern "C-unwind" fn resume_here(thrown: *const Thrown) -> ! {
        // SAFETY: `hand_over` gives a valid one.
        let thrown = unsafe { &*thrown };
        // SAFETY: the same runtime.
        std::panic::resume_unwind(unsafe { payload(thrown.payload) })
    }

    #[test]
    fn results_and_panics_cross() {
        assert_eq!(cross(|| 1), 1, "without an engine");
        // SAFETY: the function resumes.
        unsafe { ATTACH(resume_here) };
        let text = String::from("moved in");
        assert_eq!(cross(move || text), "moved in");
        let caught =
            catch_unwind(|| cross(|| -> u8 { panic!("number {}", std::hint::black_box(7)) })).unwrap_err();
        assert_eq!(caught.downcast_ref::<String>().unwrap(), "number 7");
        let caught = catch_unwind(|| cross(|| -> u8 { std::panic::panic_any(7u64) })).unwrap_err();
        assert_eq!(caught.downcast_ref::<u64>(), Some(&7));
        let caught = catch_unwind(|| cross(|| cross(|| -> u8 { panic!("deep") }))).unwrap_err();
        assert_eq!(caught.downcast_ref::<&str>(), Some(&"deep"));
    }
}
