//! Telling the other cores that code has changed.
//!
//! x86-64: a core that may have fetched the old bytes must run a serialising instruction before it runs
//! the new ones (Intel SDM volume 3, 10.3). aarch64: data and instruction caches are made coherent by
//! the writer, then each core needs an `isb` (Arm ARM, B2.4.4). membarrier(2) makes every core that runs
//! this process do so: PRIVATE_EXPEDITED_SYNC_CORE, Linux 4.16 on x86-64, 4.18 on aarch64.

use crate::sys::{self, Errno};
use std::sync::OnceLock;

/// Whether the process could be registered, once that was tried.
static REGISTERED: OnceLock<Result<(), Errno>> = OnceLock::new();

/// Registers the process for SYNC_CORE barriers, once. False if the kernel has none: threads then
/// synchronise themselves when they are released.
pub(crate) fn has_barrier() -> bool {
    let answer = REGISTERED.get_or_init(|| {
        let register = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE as usize;
        // SAFETY: changes nothing but the process's registration.
        unsafe { sys::call(libc::SYS_membarrier, [register, 0, 0, 0, 0, 0]) }.map(drop)
    });
    answer.is_ok()
}

/// Every thread sees what this one has stored so far before it sees what this one stores next, also where a processor
/// reads ahead of a branch. False if there is no such barrier.
///
/// A thread that takes a new pointer from a slot and jumps there reads the new code's data next, and nothing in an entry
/// jump keeps those reads behind that of the pointer: on aarch64 a branch does not (Arm ARM, B2.3.6). With the barrier a
/// thread that sees the pointer has met the barrier before, and what it had read ahead was discarded there.
pub(crate) fn order_everywhere() -> bool {
    let barrier = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE as usize;
    // SAFETY: changes nothing.
    has_barrier() && unsafe { sys::call(libc::SYS_membarrier, [barrier, 0, 0, 0, 0, 0]) }.is_ok()
}

/// As [`has_barrier`], without registering: is the process registered already, or would it be? Else why not.
pub(crate) fn barrier_outlook() -> Result<bool, Errno> {
    if let Some(answer) = REGISTERED.get() {
        return answer.map(|()| true);
    }
    let needed = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
        | libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE;
    // SAFETY: only asks which commands there are.
    let offered =
        unsafe { sys::call(libc::SYS_membarrier, [libc::MEMBARRIER_CMD_QUERY as usize, 0, 0, 0, 0, 0])? };
    if offered & needed as usize == needed as usize { Ok(false) } else { Err(Errno(libc::EINVAL)) }
}
