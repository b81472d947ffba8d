//! The saved registers of a thread that stands in the signal handler.
//!
//! Layout: `ucontext_t` of the kernel's signal frame, which libc declares (sigaction(2)).

/// The registers that the kernel restores when the handler returns.
#[derive(Debug)]
pub(super) struct SavedContext(*mut libc::ucontext_t);

impl SavedContext {
    /// # Safety
    /// `context` is the third argument of a running SA_SIGINFO handler, and the value does not outlive it.
    pub(super) unsafe fn new(context: *mut libc::c_void) -> Self {
        Self(context.cast())
    }

    /// The address at which the thread goes on.
    pub(super) fn pc(&self) -> u64 {
        // SAFETY: `new`'s promise: the frame is there and nobody else touches it.
        unsafe { *self.pc_place() }
    }

    /// The stack pointer with which it goes on.
    pub(super) fn sp(&self) -> u64 {
        // SAFETY: as in `pc`.
        unsafe { *self.sp_place() }
    }

    /// Lets the thread go on at `pc`.
    pub(super) fn set_pc(&mut self, pc: u64) {
        // SAFETY: as in `pc`.
        unsafe { *self.pc_place() = pc };
    }

    #[cfg(target_arch = "x86_64")]
    fn pc_place(&self) -> *mut u64 {
        // SAFETY: a place inside the frame; nothing is read.
        unsafe { (&raw mut (*self.0).uc_mcontext.gregs[libc::REG_RIP as usize]).cast() }
    }

    #[cfg(target_arch = "x86_64")]
    fn sp_place(&self) -> *mut u64 {
        // SAFETY: a place inside the frame; nothing is read.
        unsafe { (&raw mut (*self.0).uc_mcontext.gregs[libc::REG_RSP as usize]).cast() }
    }

    #[cfg(target_arch = "aarch64")]
    fn pc_place(&self) -> *mut u64 {
        // SAFETY: a place inside the frame; nothing is read.
        unsafe { &raw mut (*self.0).uc_mcontext.pc }
    }

    #[cfg(target_arch = "aarch64")]
    fn sp_place(&self) -> *mut u64 {
        // SAFETY: a place inside the frame; nothing is read.
        unsafe { &raw mut (*self.0).uc_mcontext.sp }
    }

    /// The address that the function which runs returns to, where a register may hold it alone; else 0.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn link(&self) -> u64 {
        0
    }

    /// The address that the function which runs returns to, where a register may hold it alone; else 0.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn link(&self) -> u64 {
        // SAFETY: as in `pc`.
        unsafe { *(&raw const (*self.0).uc_mcontext.regs[30]) }
    }
}

/// The address that a word is if it is one of code: without its signature, where functions sign what they return to.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn code_address(word: u64) -> u64 {
    word
}

/// The address that a word is if it is one of code: without its signature, where functions sign what they return to
/// (Arm ARM, XPACLRI: which bits are the signature is the system's choice, and known to the core; one that knows no
/// signatures does nothing).
#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) fn code_address(word: u64) -> u64 {
    let address;
    // SAFETY: changes one register.
    unsafe {
        std::arch::asm!("hint #7", inout("x30") word => address, options(nomem, nostack, preserves_flags));
    }
    address
}

/// `address` as a function that signs it with some stack pointer has it on its stack.
#[cfg(all(test, target_arch = "aarch64"))]
pub(super) fn signed(address: u64) -> u64 {
    let word;
    // SAFETY: changes one register; PACIA1716, which cores without signatures take for a NOP.
    unsafe {
        std::arch::asm!("hint #8", inout("x17") address => word, in("x16") 0x7fff_0000_1230u64,
            options(nomem, nostack, preserves_flags));
    }
    word
}

/// Nobody signs.
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) fn signed(address: u64) -> u64 {
    address
}
