//! A panic that leaves a replacement of a patch library goes on in the program's runtime.

use midflight_patch::border;
use midflight_patch::format::{Attach, Resume, Thrown};
use std::any::Any;
use std::fmt;

/// What a patch library threw that was neither `&str` nor `String`: the payload of a panic that went on in the
/// program, when it is not certain that the library was built by the compiler that built the program and has the
/// same allocator, so that its types mean nothing here.
pub struct ForeignPanic {
    payload: *mut (),
    discard: unsafe extern "C" fn(*mut ()),
}

// SAFETY: the payload is a `Box<dyn Any + Send>` of the library's runtime, which is touched only to be dropped,
// once, on whatever thread.
unsafe impl Send for ForeignPanic {}

impl Drop for ForeignPanic {
    fn drop(&mut self) {
        // SAFETY: the payload came with this function, and goes with it, once. The library stays mapped.
        unsafe { (self.discard)(self.payload) }
    }
}

impl fmt::Debug for ForeignPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignPanic").finish_non_exhaustive()
    }
}

/// Tells a patch library what to do with a panic that leaves one of its replacements.
///
/// # Safety
/// `attach` is the run-time address of the library's [`Attach`]. `same_runtime` only if compiler and allocator are
/// those of the program.
pub(super) unsafe fn attach(attach: u64, same_runtime: bool) {
    let resume: Resume = if same_runtime { resume_as_it_is } else { resume_text };
    // SAFETY: the caller's promise.
    let attach = unsafe { std::mem::transmute::<*const (), Attach>(attach as *const ()) };
    // SAFETY: `resume` may be called at any time.
    unsafe { attach(resume) }
}

/// # Safety
/// As of [`Resume`], by a library with the program's compiler and allocator.
unsafe extern "C-unwind" fn resume_as_it_is(thrown: *const Thrown) -> ! {
    // SAFETY: the caller's promise.
    let thrown = unsafe { &*thrown };
    // SAFETY: the same runtime, and the payload is handed over.
    std::panic::resume_unwind(unsafe { border::payload(thrown.payload) })
}

/// # Safety
/// As of [`Resume`].
unsafe extern "C-unwind" fn resume_text(thrown: *const Thrown) -> ! {
    // SAFETY: the caller's promise.
    let Thrown { text, text_len, payload, discard } = unsafe { *thrown };
    let opaque = ForeignPanic { payload, discard };
    let payload: Box<dyn Any + Send> = if text.is_null() {
        Box::new(opaque)
    } else {
        // SAFETY: a text of this length, which is part of the payload.
        let text = unsafe { std::slice::from_raw_parts(text, text_len) };
        Box::new(String::from_utf8_lossy(text).into_owned())
    };
    std::panic::resume_unwind(payload)
}
