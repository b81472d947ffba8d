//! Functions to be replaced. Each test has its own.

use std::arch::global_asm;

/// Defines functions in assembly, each on a page of its own, and declares them.
/// `name(arguments) -> result { "assembly", ... }`
#[macro_export]
macro_rules! target {
    ($(fn $name:ident($($argument:ty),*) -> $result:ty { $($line:expr),* $(,)? })*) => {
        $(
            ::std::arch::global_asm!(
                concat!(".pushsection .text.", stringify!($name), ",\"axR\",@progbits"),
                ".p2align 12",
                concat!(".globl ", stringify!($name)),
                concat!(".hidden ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                $($line,)*
                concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
                ".popsection",
            );
            unsafe extern "C" {
                #[allow(dead_code, reason = "some are only named")]
                pub safe fn $name($(_: $argument),*) -> $result;
            }
        )*
    };
}

/// Defines functions, each on a page of its own, that answer a little more than they are given: `name + number;`
#[macro_export]
macro_rules! adds {
    ($($name:ident + $number:literal;)*) => {
        $(
            // A far function takes a slot, so six bytes: three instructions.
            #[cfg(target_arch = "x86_64")]
            $crate::target! {
                fn $name(u64) -> u64 { concat!("lea rax, [rdi + ", $number, "]"), "nop", "nop", "nop", "ret" }
            }
            #[cfg(target_arch = "aarch64")]
            $crate::target! {
                fn $name(u64) -> u64 { concat!("add x0, x0, ", $number), "ret" }
            }
        )*
    };
}

adds! {
    live_rust_target + 1;
}

/// The target that the Rust patch library of the fixtures names by its demangled name.
#[inline(never)]
pub fn greet(name: &str) -> String {
    format!("Hello, {name}.")
}

// So that the assembler's section is writable by nobody and executable stacks are not asked for.
global_asm!(".section .note.GNU-stack,\"\",@progbits");
