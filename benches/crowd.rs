//! The other threads of the process.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread::JoinHandle;
use std::time::Duration;

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There are none.
    None,
    /// So many wait for a futex.
    Sleeping(usize),
    /// So many count as fast as they can.
    Busy(usize),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Sleeping(count) => write!(f, "{count} sleeping"),
            Self::Busy(count) => write!(f, "{count} busy"),
        }
    }
}

/// The threads; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts them, and waits until each of them has begun.
    pub(crate) fn start(kind: Kind) -> std::io::Result<Self> {
        let (count, body): (usize, fn(&AtomicBool)) = match kind {
            Kind::None => (0, sleep),
            Kind::Sleeping(count) => (count, sleep),
            Kind::Busy(count) => (count, count_up),
        };
        let begun = Arc::new(AtomicUsize::new(0));
        let mut crowd = Self { done: Arc::new(AtomicBool::new(false)), threads: Vec::with_capacity(count) };
        for _ in 0..count {
            let (begun, done) = (Arc::clone(&begun), Arc::clone(&crowd.done));
            crowd.threads.push(std::thread::Builder::new().spawn(move || {
                begun.fetch_add(1, Release);
                body(&done);
            })?);
        }
        while begun.load(Acquire) < count {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The sleeping ones are still on their way to the futex.
        std::thread::sleep(Duration::from_millis(20));
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.done.store(true, Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn sleep(done: &AtomicBool) {
    while !done.load(Acquire) {
        std::thread::park();
    }
}

fn count_up(done: &AtomicBool) {
    let mut number = 0u64;
    while !done.load(Relaxed) {
        number = black_box(number.wrapping_add(1));
    }
}
