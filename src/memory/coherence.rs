//! Telling the other cores that code has changed.
//!
//! x86-64: a core that may have fetched the old bytes must run a serialising instruction before it runs
//! the new ones (Intel SDM volume 3, 10.3). aarch64: data and instruction caches are made coherent by
//! the writer, then each core needs an `isb` (Arm ARM, B2.4.4). membarrier(2) makes every core that runs
//! this process do so: PRIVATE_EXPEDITED_SYNC_CORE, Linux 4.16 on x86-64, 4.18 on aarch64.

use crate::sys;
use std::sync::OnceLock;

/// Registers the process for SYNC_CORE barriers, once. False if the kernel has none: threads then
/// synchronise themselves when they are released.
pub(crate) fn has_barrier() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| {
        let register = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE as usize;
        // SAFETY: changes nothing but the process's registration.
        unsafe { sys::call(libc::SYS_membarrier, [register, 0, 0, 0, 0, 0]) }.is_ok()
    })
}
