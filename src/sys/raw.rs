//! The two instructions of the seam: the system call, and the one that synchronises a core.
//!
//! Sources: x86-64 psABI, appendix A.2.1; `Documentation/arch/arm64` and syscall(2) for aarch64.

use std::arch::asm;

/// The system call and its first argument that tell, by bit 0 of the number at the second, whether there is a shadow stack:
/// ARCH_SHSTK_STATUS (Linux 6.6).
#[cfg(target_arch = "x86_64")]
pub(super) const SHADOW_STACK_STATUS: (libc::c_long, usize) = (libc::SYS_arch_prctl, 0x5005);

/// As above: PR_GET_SHADOW_STACK_STATUS (Linux 6.13).
#[cfg(target_arch = "aarch64")]
pub(super) const SHADOW_STACK_STATUS: (libc::c_long, usize) = (libc::SYS_prctl, 74);

/// Makes system call `number`; the answer is the kernel's own, negative for an error.
///
/// # Safety
/// As of [`super::call`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn syscall(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    answer
}

/// Makes system call `number`; the answer is the kernel's own, negative for an error.
///
/// # Safety
/// As of [`super::call`].
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) unsafe fn syscall(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    // SAFETY: the kernel keeps every register but x0; memory is the caller's promise.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a as isize => answer,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    answer
}

/// Makes the core that runs this thread forget instructions that it fetched before.
#[inline(always)]
pub(crate) fn synchronise_this_core() {
    #[cfg(target_arch = "x86_64")]
    let _ = std::arch::x86_64::__cpuid(0);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: changes no register and no memory.
    unsafe {
        std::arch::asm!("isb", options(nostack, nomem, preserves_flags))
    };
}
