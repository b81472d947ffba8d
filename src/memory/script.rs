//! What is done to code while every other thread is parked, as a list of steps for `held::run`.

use crate::held::{self, Step};
use crate::sys::Errno;

/// Steps in order. Addresses in it are kept valid by whoever builds it.
#[derive(Debug, Default)]
pub(super) struct Script(Vec<Step>);

impl Script {
    /// The number of the next step.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// mprotect(2); a failure ends the script.
    pub(super) fn protect(&mut self, start: u64, len: u64, protection: i32) {
        self.kernel(libc::SYS_mprotect, [start, len, protection as u64]);
    }

    /// mprotect(2); a failure is tried again many times, and then ends the process: what must not be
    /// left as it is cannot be left.
    pub(super) fn protect_or_die(&mut self, start: u64, len: u64, protection: i32) {
        let number = libc::SYS_mprotect as u64;
        self.push(held::CALL_KERNEL_OR_DIE, [number, start, len, protection as u64]);
    }

    /// Makes every core forget instructions that it fetched before (membarrier(2), SYNC_CORE).
    pub(super) fn barrier(&mut self) {
        self.kernel(libc::SYS_membarrier, [libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE as u64, 0, 0]);
    }

    /// Ends the script if the bytes at `address` are not those at `expected`; `len` is not zero.
    pub(super) fn compare(&mut self, address: u64, expected: u64, len: u64) {
        self.push(held::COMPARE, [address, expected, len, 0]);
    }

    /// Copies bytes, in no particular units.
    pub(super) fn copy(&mut self, address: u64, from: u64, len: u64) {
        self.push(held::COPY, [address, from, len, 0]);
    }

    /// Stores eight aligned bytes at once.
    pub(super) fn store(&mut self, address: u64, value: u64) {
        self.push(held::STORE, [address, value, 0, 0]);
    }

    /// Makes data stores to code visible to instruction fetch.
    pub(super) fn cohere(&mut self, start: u64, len: u64) {
        #[cfg(target_arch = "aarch64")]
        self.push(held::COHERE, [start, start + len, 0, 0]);
        #[cfg(target_arch = "x86_64")]
        let _ = (start, len); // Coherent in hardware: Intel SDM volume 3, 12.6.
    }

    /// Calls the observer of a test.
    #[cfg(feature = "fault-injection")]
    pub(super) fn witness(&mut self, function: usize) {
        self.push(held::WITNESS, [function as u64, 0, 0, 0]);
    }

    /// Adds the end. A script is run only after this.
    pub(super) fn finish(&mut self) {
        self.push(held::END, [0; 4]);
    }

    /// Runs the steps from number `first` on; the number of the step that failed, and why.
    ///
    /// # Safety
    /// Every address in the script is valid for its step, the bytes written are the caller's to write,
    /// and while a page of code is not executable no thread runs in it.
    pub(super) unsafe fn run_from(&self, first: usize) -> Result<(), (usize, Errno)> {
        let mut answer = 0i64;
        let Some(steps) =
            self.0.get(first..).filter(|_| self.0.last().is_some_and(|step| step.code == held::END))
        else {
            return Ok(());
        };
        // SAFETY: the steps end with END, and the caller vouches for what they do.
        let failed = unsafe { held::run(steps.as_ptr(), &raw mut answer) };
        if failed.is_null() {
            return Ok(());
        }
        let number = (failed as usize).wrapping_sub(self.0.as_ptr() as usize) / size_of::<Step>();
        Err((number, Errno(answer.unsigned_abs() as i32)))
    }

    fn kernel(&mut self, number: libc::c_long, [a, b, c]: [u64; 3]) {
        #[cfg(feature = "fault-injection")]
        if let Some(errno) = crate::fault::take(number) {
            self.push(held::FAIL, [(-i64::from(errno)) as u64, 0, 0, 0]);
            return;
        }
        self.push(held::CALL_KERNEL, [number as u64, a, b, c]);
    }

    fn push(&mut self, code: u64, arguments: [u64; 4]) {
        self.0.push(Step { code, arguments });
    }
}

/// Makes code that this thread has just written visible to instruction fetch, outside a hold.
pub(super) fn cohere_now(start: u64, len: u64) {
    let mut script = Script::default();
    script.cohere(start, len);
    script.finish();
    // SAFETY: cache maintenance of mapped memory changes nothing that a program could see.
    let _ = unsafe { script.run_from(0) };
}
