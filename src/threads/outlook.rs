//! What a hold would meet, found out without holding anybody.

use super::list::TaskFolder;
use super::rendezvous::Ticket;
use super::signal::{self, Survey};
use super::task;
use crate::error::Error;
use crate::sys::{self, Errno};

/// The signal that the next hold would use.
#[derive(Debug)]
pub(crate) struct SignalOutlook {
    pub(crate) signal: i32,
    /// Chosen by a commit before.
    pub(crate) in_use: bool,
    /// How many threads that a hold would stop block it, and not only for a moment.
    pub(crate) blocking: usize,
    /// Why it is not SIGURG.
    pub(crate) why_not_urg: Option<String>,
}

/// Threads numbered in `ignored` are not looked at.
pub(crate) fn signal_outlook(ignored: &[i32]) -> Result<SignalOutlook, Error> {
    let kernel = |step| move |errno: Errno| Error::Kernel { step, source: errno.into() };
    // Signal 0 is sent to nobody, but the kernel answers as for any other.
    let nothing = Ticket { epoch: 0, table: 0, place: 0 };
    signal::send(0, sys::gettid(), nothing).map_err(kernel("signal a thread"))?;
    let (me, mut others) = (sys::gettid(), Vec::new());
    let mut folder = TaskFolder::open().map_err(kernel("open /proc/self/task"))?;
    folder
        .pass(|tid| others.extend((tid != me && !ignored.contains(&tid)).then_some(tid)))
        .map_err(kernel("list the threads"))?;
    let survey = Survey::of(&others);
    let current = signal::current();
    let signal = current.map_or_else(|| survey.choose(), Ok)?;
    let why_not_urg = (signal != libc::SIGURG).then(|| match survey.obstacle(libc::SIGURG) {
        Some(reason) => reason.to_owned(),
        None if current.is_some() => "it was not free when the signal was chosen".to_owned(),
        None => format!("{} of its threads block it", survey.blocking(libc::SIGURG)),
    });
    let (in_use, blocking) = (current.is_some(), blocking(signal, others));
    Ok(SignalOutlook { signal, in_use, blocking, why_not_urg })
}

/// How many of `threads` block `signal` and keep doing so: the C library blocks all signals for a moment where it
/// starts a thread.
fn blocking(signal: i32, mut threads: Vec<i32>) -> usize {
    for look in 0..10 {
        if look > 0 {
            sys::sleep(2_000_000);
        }
        threads.retain(|tid| task::blocked(*tid).is_some_and(|mask| mask >> (signal - 1) & 1 == 1));
        if threads.is_empty() {
            break;
        }
    }
    threads.len()
}

/// The parts of `/proc/self` that a hold reads, whether it cannot do without, and whether they can be read.
pub(crate) fn proc_files() -> [(&'static str, bool, Result<(), Errno>); 4] {
    let me = sys::gettid();
    let list = TaskFolder::open().and_then(|mut folder| folder.pass(|_| {})).map(drop);
    [
        ("task", true, list),
        ("task/TID/stat", false, task::probe(me, task::STAT)),
        ("task/TID/status", false, task::probe(me, task::STATUS)),
        ("task/TID/syscall", false, task::probe(me, task::SYSCALL)),
    ]
}
