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
}
