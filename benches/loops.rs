//! Loops that make calls, each with the answer of the one before. In assembly, at the boundary of a cache line, so that they
//! differ in nothing but the call.

use crate::targets::{self, Function};
use midflight::Original;
use std::arch::naked_asm;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// Makes so many calls, at least one, beginning with [`START`]; answers what the last one did.
pub(crate) type Loop = extern "C" fn(u64) -> i64;

/// The number that goes in first.
pub(crate) const START: i64 = -5;

/// A function pointer that is read from memory for each call, as that of a library's function is.
#[repr(transparent)]
pub(crate) struct Pointer(AtomicPtr<()>);

impl Pointer {
    const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    pub(crate) fn set(&self, function: Function) {
        self.0.store(function as *mut (), Relaxed);
    }
}

pub(crate) static TO_LIBRARY: Pointer = Pointer::new();
pub(crate) static TO_RIVAL_ORIGINAL: Pointer = Pointer::new();
pub(crate) static ORIGINAL: Original<Function> = Original::new();

macro_rules! loops {
    ($($name:ident: $kind:ident $callee:path;)*) => {
        $(
            #[unsafe(naked)]
            pub(crate) extern "C" fn $name(_: u64) -> i64 {
                #[cfg(target_arch = "x86_64")]
                naked_asm!(
                    "push rbx",
                    "mov rbx, rdi",
                    "mov rax, {start}",
                    ".p2align 6",
                    "2:",
                    "mov rdi, rax",
                    loops!(x86_64 $kind),
                    "dec rbx",
                    "jnz 2b",
                    "pop rbx",
                    "ret",
                    start = const START,
                    callee = sym $callee,
                );
                #[cfg(target_arch = "aarch64")]
                naked_asm!(
                    "stp x29, x30, [sp, #-32]!",
                    "stp x19, x20, [sp, #16]",
                    "mov x19, x0",
                    "mov x0, {start}",
                    ".p2align 6",
                    "2:",
                    loops!(aarch64 $kind),
                    "subs x19, x19, #1",
                    "b.ne 2b",
                    "ldp x19, x20, [sp, #16]",
                    "ldp x29, x30, [sp], #32",
                    "ret",
                    start = const START,
                    callee = sym $callee,
                );
            }
        )*
    };
    (x86_64 direct) => { "call {callee}" };
    (x86_64 pointer) => { "call qword ptr [rip + {callee}]" };
    (aarch64 direct) => { "bl {callee}" };
    (aarch64 pointer) => { "adrp x9, {callee}\nldr x9, [x9, :lo12:{callee}]\nblr x9" };
}

loops! {
    near: direct targets::near;
    library: pointer TO_LIBRARY;
    untouched: direct targets::untouched;
    for_near: direct targets::for_near;
    for_far: direct targets::for_far;
    for_island: direct targets::for_island;
    retour_near: direct targets::for_retour_near;
    retour_far: direct targets::for_retour_far;
    retour_original: pointer TO_RIVAL_ORIGINAL;
}

/// By what the library offers, as a program would.
pub(crate) extern "C" fn original(calls: u64) -> i64 {
    let mut value = START;
    for _ in 0..calls {
        value = ORIGINAL.get()(value);
    }
    value
}
