//! Functions to be called and replaced, in assembly, so that their first bytes are known.
//!
//! The replacements compute an absolute value, as labs(3) does; the targets add one. So a call's answer tells
//! where it went. Each ends with padding, which has its section begin at such a boundary too: where code lies in a cache line
//! would be measured otherwise.

use std::arch::{global_asm, naked_asm};
use std::hint::black_box;

/// The type of all of them.
pub(crate) type Function = extern "C" fn(i64) -> i64;

/// How many functions [`many`] gives.
pub(crate) const MANY: usize = 1000;

/// A replacement in the executable itself: the instructions of labs in glibc.
#[unsafe(naked)]
pub(crate) extern "C" fn near(_: i64) -> i64 {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("mov rax, rdi", "neg rax", "cmovs rax, rdi", "ret", ".p2align 6");
    #[cfg(target_arch = "aarch64")]
    naked_asm!("cmp x0, #0", "cneg x0, x0, mi", "ret", ".p2align 6");
}

/// The replacement in a library, out of reach of a branch of the executable: labs itself, in a way that the
/// compiler does not see through.
pub(crate) fn far() -> Function {
    unsafe extern "C" {
        safe fn labs(number: std::ffi::c_long) -> std::ffi::c_long;
    }
    black_box(labs as Function)
}

/// A function as compilers begin most: a frame first.
macro_rules! ordinary {
    ($($(#[$about:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$about])*
            #[unsafe(naked)]
            pub(crate) extern "C" fn $name(_: i64) -> i64 {
                #[cfg(target_arch = "x86_64")]
                naked_asm!("push rbp", "mov rbp, rsp", "lea rax, [rdi + 1]", "pop rbp", "ret", ".p2align 6");
                #[cfg(target_arch = "aarch64")]
                naked_asm!(
                    "stp x29, x30, [sp, #-16]!",
                    "mov x29, sp",
                    "add x0, x0, #1",
                    "ldp x29, x30, [sp], #16",
                    "ret",
                    ".p2align 6",
                );
            }
        )*
    };
}

ordinary! {
    /// Never replaced.
    untouched,
    /// Replaced by midflight with a near function.
    for_near,
    /// Replaced by midflight with a far function.
    for_far,
    /// Replaced by midflight; only its original is called.
    for_original,
    /// Replaced by retour with a near function.
    for_retour_near,
    /// Replaced by retour with a far function.
    for_retour_far,
    /// Replaced by retour; only its original is called.
    for_retour_original,
}

/// Takes no more than the five bytes of a branch: the loop goes back to the sixth. (On aarch64 every far jump is of
/// this form.)
#[unsafe(naked)]
pub(crate) extern "C" fn for_island(_: i64) -> i64 {
    #[cfg(target_arch = "x86_64")]
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "2:",
        "lea rax, [rdi + 1]",
        "cmp rax, rdi",
        "je 2b",
        "pop rbx",
        "pop rbp",
        "ret",
        ".p2align 6",
    );
    #[cfg(target_arch = "aarch64")]
    naked_asm!("2:", "add x1, x0, #1", "cmp x1, x0", "b.eq 2b", "mov x0, x1", "ret", ".p2align 6");
}

/// The functions that are replaced together.
pub(crate) fn many() -> &'static [Function; MANY] {
    unsafe extern "C" {
        // SAFETY: the table below, which is filled when the program is loaded and read-only then.
        safe static midflight_bench_table: [Function; MANY];
    }
    &midflight_bench_table
}

// A thousand functions, each 256 bytes from the next: the mean length of a function in libcrypto and the like.
// The table of their addresses is read-only after relocation.
macro_rules! many {
    ($($line:literal),*) => {
        global_asm!(
            ".altmacro",
            ".macro midflight_bench_function number",
            ".pushsection .text.midflight_bench, \"ax\", %progbits",
            ".p2align 8",
            ".type midflight_bench_\\number, %function",
            "midflight_bench_\\number:",
            $($line,)*
            ".size midflight_bench_\\number, . - midflight_bench_\\number",
            ".popsection",
            ".pushsection .data.rel.ro.midflight_bench, \"aw\", %progbits",
            ".8byte midflight_bench_\\number",
            ".popsection",
            ".endm",
            ".pushsection .data.rel.ro.midflight_bench, \"aw\", %progbits",
            ".p2align 3",
            ".globl midflight_bench_table",
            ".hidden midflight_bench_table",
            "midflight_bench_table:",
            ".popsection",
            ".set midflight_bench_next, 0",
            ".rept {count}",
            "midflight_bench_function %midflight_bench_next",
            ".set midflight_bench_next, midflight_bench_next + 1",
            ".endr",
            ".noaltmacro",
            count = const MANY,
        );
    };
}

#[cfg(target_arch = "x86_64")]
many!("push rbp", "mov rbp, rsp", "sub rsp, 16", "lea rax, [rdi + 1]", "mov [rbp - 8], rax", "leave", "ret");
#[cfg(target_arch = "aarch64")]
many!("stp x29, x30, [sp, #-16]!", "mov x29, sp", "add x0, x0, #1", "ldp x29, x30, [sp], #16", "ret");
