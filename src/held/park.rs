//! Where a held thread stands, in assembly and alone on its pages.

use std::arch::naked_asm;
use std::sync::atomic::AtomicU32;

/// Counts this thread as parked, wakes the committing thread if it was the last that is `wanted`,
/// and returns when `epoch` is no longer `current`, after waking two more: the committing thread is often
/// preempted by the first thread that it wakes, and the others shall not wait until it runs again.
///
/// Orderings: the count is a sequentially consistent read-modify-write, then `wanted` is read; the
/// committing thread writes `wanted`, then reads the count. So one of the two sees that the number is
/// complete. `epoch` is read with acquire.
///
/// # Safety
/// The three words live for ever.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(link_section = "midflight_held")]
pub(crate) unsafe extern "C" fn park(
    epoch: *const AtomicU32,
    current: u32,
    parked: *const AtomicU32,
    wanted: *const AtomicU32,
) {
    naked_asm!(
        "push r12",
        "push r13",
        "mov r12, rdi",
        "mov r13d, esi",
        "mov eax, 1",
        "lock xadd dword ptr [rdx], eax",
        "inc eax",
        "cmp eax, dword ptr [rcx]",
        "jb 2f",
        "mov rdi, rdx", // futex(parked, WAKE | PRIVATE, 1)
        "mov esi, 129",
        "mov edx, 1",
        "mov eax, 202",
        "syscall",
        "2:",
        "cmp dword ptr [r12], r13d",
        "jne 3f",
        "mov rdi, r12", // futex(epoch, WAIT | PRIVATE, current, no time limit)
        "mov esi, 128",
        "mov edx, r13d",
        "xor r10d, r10d",
        "mov eax, 202",
        "syscall",
        "jmp 2b",
        "3:",
        "mov rdi, r12", // futex(epoch, WAKE | PRIVATE, 2)
        "mov esi, 129",
        "mov edx, 2",
        "mov eax, 202",
        "syscall",
        "pop r13",
        "pop r12",
        "ret",
        ".p2align 12",
    )
}

/// As above.
///
/// # Safety
/// The three words live for ever.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(link_section = "midflight_held")]
pub(crate) unsafe extern "C" fn park(
    epoch: *const AtomicU32,
    current: u32,
    parked: *const AtomicU32,
    wanted: *const AtomicU32,
) {
    naked_asm!(
        "mov x9, x0",
        "mov w10, w1",
        "2:",
        "ldaxr w11, [x2]",
        "add w11, w11, #1",
        "stlxr w12, w11, [x2]",
        "cbnz w12, 2b",
        "dmb ish",
        "ldar w12, [x3]",
        "cmp w11, w12",
        "b.lo 3f",
        "mov x0, x2", // futex(parked, WAKE | PRIVATE, 1)
        "mov x1, #129",
        "mov x2, #1",
        "mov x8, #98",
        "svc #0",
        "3:",
        "ldar w11, [x9]",
        "cmp w11, w10",
        "b.ne 4f",
        "mov x0, x9", // futex(epoch, WAIT | PRIVATE, current, no time limit)
        "mov x1, #128",
        "mov w2, w10",
        "mov x3, #0",
        "mov x8, #98",
        "svc #0",
        "b 3b",
        "4:",
        "mov x0, x9", // futex(epoch, WAKE | PRIVATE, 2)
        "mov x1, #129",
        "mov x2, #2",
        "mov x8, #98",
        "svc #0",
        "ret",
        ".p2align 16",
    )
}
