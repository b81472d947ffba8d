//! Threads that do the same work again and again, whatever happens meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// Each thread has done so many rounds.
pub struct Crowd {
    done: Arc<AtomicBool>,
    rounds: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// `count` threads; `round` gets the thread's number, and panics if something is wrong.
    pub fn start(count: usize, round: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let (done, round) = (Arc::new(AtomicBool::new(false)), Arc::new(round));
        let rounds: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        let thread = |(number, rounds): (usize, &Arc<AtomicU64>)| {
            let (done, round, rounds) = (Arc::clone(&done), Arc::clone(&round), Arc::clone(rounds));
            std::thread::spawn(move || {
                while !done.load(SeqCst) {
                    round(number);
                    rounds.fetch_add(1, SeqCst);
                }
            })
        };
        let threads = rounds.iter().enumerate().map(thread).collect();
        Self { done, rounds, threads }
    }

    /// Waits until each thread has begun and ended a round since this was called.
    pub fn a_round(&self) {
        for (rounds, thread) in self.rounds.iter().zip(&self.threads) {
            let before = rounds.load(SeqCst);
            while rounds.load(SeqCst) < before + 2 {
                assert!(!thread.is_finished(), "a thread has found something wrong");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Ends it. Answers how many rounds there were.
    pub fn end(self) -> u64 {
        self.done.store(true, SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.rounds.iter().map(|rounds| rounds.load(SeqCst)).sum()
    }
}
