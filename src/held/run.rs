//! The routine that carries out the steps of a commit, in assembly and alone on its pages.
//!
//! It makes system calls by itself, calls nothing else and touches no stack but its own few words.

use std::arch::naked_asm;

/// One step. The layout is the routine's; the meaning of the arguments stands at its code.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Step {
    pub(crate) code: u64,
    pub(crate) arguments: [u64; 4],
}

/// Ends the script.
pub(crate) const END: u64 = 0;
/// System call: number, three arguments. An error ends the script.
pub(crate) const CALL_KERNEL: u64 = 1;
/// Address, address, length (not zero). A difference ends the script (EILSEQ).
pub(crate) const COMPARE: u64 = 2;
/// To, from, length; in no particular units.
pub(crate) const COPY: u64 = 3;
/// Address, value: eight aligned bytes at once.
pub(crate) const STORE: u64 = 4;
/// Calls a function of a test.
#[cfg(feature = "fault-injection")]
pub(crate) const WITNESS: u64 = 5;
/// Ends the script with this (negative) answer.
#[cfg(feature = "fault-injection")]
pub(crate) const FAIL: u64 = 6;
/// As CALL_KERNEL; an error is tried again many times, then ends the process.
pub(crate) const CALL_KERNEL_OR_DIE: u64 = 7;
/// Makes stores to [start, end) visible to instruction fetch.
#[cfg(target_arch = "aarch64")]
pub(crate) const COHERE: u64 = 8;

/// Carries out steps until END; answers null, or the step that failed with `answer` filled.
///
/// # Safety
/// `steps` ends with END, every address in it is valid for its step, the bytes written are the caller's
/// to write, and while a page of code is not executable no thread runs in it.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(link_section = "midflight_held")]
pub(crate) unsafe extern "C" fn run(steps: *const Step, answer: *mut i64) -> *const Step {
    naked_asm!(
        "push rbx",
        "push r12",
        "push r13",
        "mov rbx, rdi",
        "mov r12, rsi",
        "cld",
        "20:", // the step's code
        "mov rax, qword ptr [rbx]",
        "cmp eax, 1",
        "je 31f",
        "cmp eax, 2",
        "je 32f",
        "cmp eax, 3",
        "je 33f",
        "cmp eax, 4",
        "je 34f",
        #[cfg(feature = "fault-injection")]
        "cmp eax, 5; je 35f; cmp eax, 6; je 36f",
        "cmp eax, 7",
        "je 37f",
        "xor eax, eax", // END
        "jmp 29f",
        "21:", // next
        "add rbx, 40",
        "jmp 20b",
        "28:", // failed, rax says why
        "mov qword ptr [r12], rax",
        "mov rax, rbx",
        "29:",
        "pop r13",
        "pop r12",
        "pop rbx",
        "ret",
        "31:", // CALL_KERNEL
        "mov rax, qword ptr [rbx + 8]",
        "mov rdi, qword ptr [rbx + 16]",
        "mov rsi, qword ptr [rbx + 24]",
        "mov rdx, qword ptr [rbx + 32]",
        "syscall",
        "test rax, rax",
        "jns 21b",
        "jmp 28b",
        "32:", // COMPARE
        "mov rdi, qword ptr [rbx + 8]",
        "mov rsi, qword ptr [rbx + 16]",
        "mov rcx, qword ptr [rbx + 24]",
        "repe cmpsb",
        "je 21b",
        "mov rax, -84", // EILSEQ
        "jmp 28b",
        "33:", // COPY
        "mov rdi, qword ptr [rbx + 8]",
        "mov rsi, qword ptr [rbx + 16]",
        "mov rcx, qword ptr [rbx + 24]",
        "rep movsb",
        "jmp 21b",
        "34:", // STORE
        "mov rdi, qword ptr [rbx + 8]",
        "mov rax, qword ptr [rbx + 16]",
        "mov qword ptr [rdi], rax",
        "jmp 21b",
        #[cfg(feature = "fault-injection")]
        "35: call qword ptr [rbx + 8]; jmp 21b", // WITNESS
        #[cfg(feature = "fault-injection")]
        "36: mov rax, qword ptr [rbx + 8]; jmp 28b", // FAIL
        "37:", // CALL_KERNEL_OR_DIE
        "mov r13d, 10000",
        "38:",
        "mov rax, qword ptr [rbx + 8]",
        "mov rdi, qword ptr [rbx + 16]",
        "mov rsi, qword ptr [rbx + 24]",
        "mov rdx, qword ptr [rbx + 32]",
        "syscall",
        "test rax, rax",
        "jns 21b",
        "mov eax, 24", // sched_yield
        "syscall",
        "dec r13d",
        "jnz 38b",
        "mov eax, 1", // write(2, message)
        "mov edi, 2",
        "lea rsi, [rip + 40f]",
        "lea rdx, [rip + 41f]",
        "sub rdx, rsi",
        "syscall",
        "ud2", // a fault kills also with every signal blocked, and leaves a core
        "40:",
        ".ascii \"midflight: code could not be made executable again; the process cannot go on\\n\"",
        "41:",
        ".p2align 12",
    )
}

/// As above.
///
/// # Safety
/// `steps` ends with END, every address in it is valid for its step, the bytes written are the caller's
/// to write, and while a page of code is not executable no thread runs in it.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(link_section = "midflight_held")]
pub(crate) unsafe extern "C" fn run(steps: *const Step, answer: *mut i64) -> *const Step {
    naked_asm!(
        "stp x29, x30, [sp, #-48]!",
        "mov x29, sp",
        "stp x19, x20, [sp, #16]",
        "str x21, [sp, #32]",
        "mov x19, x0",
        "mov x20, x1",
        "20:", // the step's code
        "ldr x9, [x19]",
        "cmp x9, #1",
        "b.eq 31f",
        "cmp x9, #2",
        "b.eq 32f",
        "cmp x9, #3",
        "b.eq 33f",
        "cmp x9, #4",
        "b.eq 34f",
        #[cfg(feature = "fault-injection")]
        "cmp x9, #5; b.eq 35f; cmp x9, #6; b.eq 36f",
        "cmp x9, #7",
        "b.eq 37f",
        "cmp x9, #8",
        "b.eq 51f",
        "mov x0, #0", // END
        "b 29f",
        "21:", // next
        "add x19, x19, #40",
        "b 20b",
        "28:", // failed, x0 says why
        "str x0, [x20]",
        "mov x0, x19",
        "29:",
        "ldr x21, [sp, #32]",
        "ldp x19, x20, [sp, #16]",
        "ldp x29, x30, [sp], #48",
        "ret",
        "31:", // CALL_KERNEL
        "ldp x8, x0, [x19, #8]",
        "ldp x1, x2, [x19, #24]",
        "svc #0",
        "tbz x0, #63, 21b",
        "b 28b",
        "32:", // COMPARE
        "ldp x0, x1, [x19, #8]",
        "ldr x2, [x19, #24]",
        "42:",
        "ldrb w3, [x0], #1",
        "ldrb w4, [x1], #1",
        "cmp w3, w4",
        "b.ne 43f",
        "subs x2, x2, #1",
        "b.ne 42b",
        "b 21b",
        "43:",
        "mov x0, #-84", // EILSEQ
        "b 28b",
        "33:", // COPY
        "ldp x0, x1, [x19, #8]",
        "ldr x2, [x19, #24]",
        "44:",
        "ldrb w3, [x1], #1",
        "strb w3, [x0], #1",
        "subs x2, x2, #1",
        "b.ne 44b",
        "b 21b",
        "34:", // STORE
        "ldp x0, x1, [x19, #8]",
        "str x1, [x0]",
        "b 21b",
        #[cfg(feature = "fault-injection")]
        "35: ldr x9, [x19, #8]; blr x9; b 21b", // WITNESS
        #[cfg(feature = "fault-injection")]
        "36: ldr x0, [x19, #8]; b 28b", // FAIL
        "37:", // CALL_KERNEL_OR_DIE
        "mov w21, #10000",
        "38:",
        "ldp x8, x0, [x19, #8]",
        "ldp x1, x2, [x19, #24]",
        "svc #0",
        "tbz x0, #63, 21b",
        "mov x8, #124", // sched_yield
        "svc #0",
        "subs w21, w21, #1",
        "b.ne 38b",
        "mov x8, #64", // write(2, message)
        "mov x0, #2",
        "adr x1, 40f",
        "adr x2, 41f",
        "sub x2, x2, x1",
        "svc #0",
        "brk #1", // a fault kills also with every signal blocked, and leaves a core
        "51:",    // COHERE: Arm ARM, B2.4.4; line sizes from CTR_EL0
        "ldp x0, x1, [x19, #8]",
        "mrs x2, ctr_el0",
        "ubfx x3, x2, #16, #4",
        "mov x4, #4",
        "lsl x3, x4, x3",
        "sub x5, x3, #1",
        "bic x5, x0, x5",
        "52:",
        "dc cvau, x5",
        "add x5, x5, x3",
        "cmp x5, x1",
        "b.lo 52b",
        "dsb ish",
        "and x3, x2, #15",
        "lsl x3, x4, x3",
        "sub x5, x3, #1",
        "bic x5, x0, x5",
        "53:",
        "ic ivau, x5",
        "add x5, x5, x3",
        "cmp x5, x1",
        "b.lo 53b",
        "dsb ish",
        "isb",
        "b 21b",
        "40:",
        ".ascii \"midflight: code could not be made executable again; the process cannot go on\\n\"",
        "41:",
        ".p2align 16",
    )
}
