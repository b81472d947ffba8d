//! A frame that lets the panics of this runtime through and takes every other exception out of the air.
//!
//! A patch library has a Rust runtime of its own, and `catch_unwind` aborts on an exception that another
//! runtime threw: a panic of the host that passes the library on its way up, from an original or a callback,
//! or a C++ exception, or the unwinding of a cancelled thread. So below each `catch_unwind` of the library
//! stands this frame, whose personality routine (Itanium C++ ABI: Exception Handling, 1.6; System V ABI for
//! x86-64, 6.2; C++ ABI for the Arm 64-bit Architecture) stops what is not ours. It comes out as a value,
//! is carried past the `catch_unwind`, and goes on behind it as it was.

use std::arch::naked_asm;
use std::ffi::{c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// `_Unwind_Exception`, as far as its layout is public.
#[repr(C)]
struct Exception {
    _class: u64,
    /// A function of the runtime that threw it: tells one runtime from another, where all of Rust have one class.
    cleanup: usize,
}

/// An exception of another runtime, in flight. It has to go on.
#[must_use]
pub(crate) struct Foreign(*mut Exception);

impl Foreign {
    /// Goes on with the unwinding, from this frame upwards.
    pub(crate) fn resume(self) -> ! {
        // SAFETY: the exception was stopped by `personality`, and nobody else has it.
        unsafe { _Unwind_Resume_or_Rethrow(self.0) };
        // Nobody above catches it (or the unwinder found a frame it cannot read).
        std::process::abort()
    }
}

/// What the exceptions of this runtime have for `cleanup`; 0 until it is known.
static OURS: AtomicUsize = AtomicUsize::new(0);

/// Finds out how the panics of this runtime can be told from others. Until then [`shield`] lets everything
/// through. Throws and catches one exception, without a message.
pub(crate) fn learn() {
    if OURS.load(Relaxed) == 0 {
        let throw = || shield(|| std::panic::resume_unwind(Box::new(())));
        let _: std::thread::Result<Result<(), Foreign>> = std::panic::catch_unwind(throw);
    }
}

/// Calls `function`. A panic of this runtime unwinds through; any other exception is the error.
pub(crate) fn shield<R>(function: impl FnOnce() -> R) -> Result<R, Foreign> {
    let mut call = Call { function: ManuallyDrop::new(function), result: MaybeUninit::uninit() };
    // SAFETY: `enter` fits `call`, which lives through the call.
    let foreign = unsafe { frame(enter_for(&call), (&raw mut call).cast()) };
    if foreign.is_null() {
        // SAFETY: nothing was thrown, so `enter` has come to its end and stored the result.
        Ok(unsafe { call.result.assume_init() })
    } else {
        Err(Foreign(foreign))
    }
}

struct Call<F, R> {
    function: ManuallyDrop<F>,
    result: MaybeUninit<R>,
}

type Enter = unsafe extern "C-unwind" fn(*mut c_void) -> *mut Exception;

fn enter_for<F: FnOnce() -> R, R>(_: &Call<F, R>) -> Enter {
    enter::<F, R>
}

/// # Safety
/// `call` is a `Call<F, R>` that has not been entered yet.
unsafe extern "C-unwind" fn enter<F: FnOnce() -> R, R>(call: *mut c_void) -> *mut Exception {
    // SAFETY: the caller's promise.
    let call = unsafe { &mut *call.cast::<Call<F, R>>() };
    // SAFETY: it is entered once.
    let function = unsafe { ManuallyDrop::take(&mut call.function) };
    call.result.write(function());
    ptr::null_mut()
}

/// Calls `enter(call)`. It returns what that returns, or the exception that `personality` has stopped here:
/// the place to go on is the same, right after the call, and the register of the result is the first one that
/// a landing pad is given data in.
///
/// # Safety
/// `enter` may be called with `call`.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C-unwind" fn frame(enter: Enter, call: *mut c_void) -> *mut Exception {
    naked_asm!(
        ".cfi_startproc",
        // DW_EH_PE_pcrel | DW_EH_PE_sdata4, so what it names has to be near: a stub with a name that nobody else has.
        ".cfi_personality 0x1b, .Lmidflight_{personality}",
        "endbr64",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "endbr64", // The unwinder jumps here.
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        ".Lmidflight_{personality}:",
        "endbr64",
        "jmp {personality}",
        personality = sym personality,
    )
}

/// As above.
///
/// # Safety
/// `enter` may be called with `call`.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C-unwind" fn frame(enter: Enter, call: *mut c_void) -> *mut Exception {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, .Lmidflight_{personality}",
        "hint #34", // bti c
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset w29, -16",
        ".cfi_offset w30, -8",
        "mov x29, sp",
        ".cfi_def_cfa w29, 16",
        "mov x9, x0",
        "mov x0, x1",
        "blr x9",
        "hint #36", // bti j: the unwinder jumps here.
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore w29",
        ".cfi_restore w30",
        "ret",
        ".cfi_endproc",
        ".Lmidflight_{personality}:",
        "hint #34", // bti c
        "b {personality}",
        personality = sym personality,
    )
}

/// Where the call of `frame` returns to, in bytes from its start.
const AFTER_CALL: usize = if cfg!(target_arch = "x86_64") { 4 + 1 + 3 + 3 + 3 + 2 } else { 6 * 4 };

/// The personality routine of `frame`.
///
/// # Safety
/// The unwinder calls it for a frame of `frame`.
unsafe extern "C" fn personality(
    version: c_int,
    actions: c_int,
    _class: u64,
    exception: *mut Exception,
    context: *mut c_void,
) -> c_int {
    if version != 1 {
        return FATAL_ERROR;
    }
    // SAFETY: the unwinder gives the exception that it is about.
    let cleanup = unsafe { (*exception).cleanup };
    // `learn` throws the first one: nobody else calls this frame before.
    let ours = OURS.compare_exchange(0, cleanup, Relaxed, Relaxed).map_or_else(|ours| ours, |_| cleanup);
    if ours == cleanup {
        return CONTINUE_UNWIND;
    }
    // Only what comes out of the call can go on behind it, not what arises in the frame itself (a cancelled thread).
    // SAFETY: the context is that of this frame.
    let ip = unsafe { _Unwind_GetIP(context) };
    // SAFETY: as above.
    if ip.wrapping_sub(unsafe { _Unwind_GetRegionStart(context) }) != AFTER_CALL {
        return CONTINUE_UNWIND;
    }
    if actions & SEARCH_PHASE != 0 {
        return HANDLER_FOUND;
    }
    if actions & (HANDLER_FRAME | FORCE_UNWIND) == 0 {
        return CONTINUE_UNWIND;
    }
    // Registers are numbered as in DWARF: rax and x0 are both 0. The pc stays.
    // SAFETY: the context is that of this frame.
    unsafe { _Unwind_SetGR(context, 0, exception as usize) };
    INSTALL_CONTEXT
}

// _Unwind_Action and _Unwind_Reason_Code of the Itanium C++ ABI, 1.1 and 1.6.
const SEARCH_PHASE: c_int = 1;
const HANDLER_FRAME: c_int = 4;
const FORCE_UNWIND: c_int = 8;
const FATAL_ERROR: c_int = 3;
const HANDLER_FOUND: c_int = 6;
const INSTALL_CONTEXT: c_int = 7;
const CONTINUE_UNWIND: c_int = 8;

// Of the unwinder that std links.
unsafe extern "C-unwind" {
    /// Starts or goes on with the unwinding for an exception that was stopped. Returns if nobody catches it.
    fn _Unwind_Resume_or_Rethrow(exception: *mut Exception) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetRegionStart(context: *mut c_void) -> usize;
    fn _Unwind_SetGR(context: *mut c_void, register: c_int, value: usize);
}
