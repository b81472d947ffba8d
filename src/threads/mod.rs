//! Bringing every other thread to where changing code cannot hurt it. Told address ranges, knows
//! nothing of sites.

mod context;
mod list;
mod outlook;
mod quiesce;
mod rendezvous;
mod safe_point;
mod signal;
mod stack;
mod task;

pub(crate) use outlook::{SignalOutlook, proc_files, signal_outlook};
pub(crate) use quiesce::Crew;
pub(crate) use safe_point::Danger;
#[cfg(feature = "watch")]
pub(crate) use signal::candidates as stop_signals;

/// Tells the threads that they must synchronise their instruction stream themselves after a hold,
/// since the kernel has no membarrier for that.
pub(crate) fn serialize_on_release() {
    signal::SERIALIZE.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// After fork, in the child: forgets the threads of the parent.
pub(crate) fn reset_in_child() {
    signal::MEETING.reset_in_child();
}
