//! The load: connections that ask for the time, over and over, as fast as they are answered.

use crate::Result;
use crate::client::{self, Tally};
use crate::phase::Phase;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// So many troubles are told in words.
const TOLD: usize = 10;

/// The load while it runs, on threads of its own.
pub(crate) struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    connections: Vec<JoinHandle<Tally>>,
}

/// What the connections share with each other and with the story.
#[derive(Default)]
pub(crate) struct Shared {
    phase: AtomicUsize,
    stop: AtomicBool,
    pub(crate) requests: AtomicU64,
    /// Requests without a reply that is allowed, and connections lost.
    troubles: AtomicU64,
    first_troubles: Mutex<Vec<String>>,
    /// A reply of each phase.
    samples: Vec<OnceLock<Sample>>,
}

/// A reply, to be shown.
pub(crate) struct Sample {
    pub(crate) body: String,
    pub(crate) number: u64,
}

impl Load {
    /// Starts with [`Phase::Plain`].
    pub(crate) fn start(address: SocketAddr, connections: usize) -> Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(2).thread_name("load").enable_all().build()?;
        let samples = Phase::ALL.iter().map(|_| OnceLock::new()).collect();
        let shared = Arc::new(Shared { samples, ..Shared::default() });
        let connect = |_| runtime.spawn(client::run(Arc::clone(&shared), address));
        let connections = (0..connections).map(connect).collect();
        Ok(Self { runtime, shared, connections })
    }

    /// A new phase begins. What a commit changes must be changed after its phase was entered, and before the
    /// next one is.
    pub(crate) fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as usize, Ordering::SeqCst);
    }

    /// A reply of the phase, if there was one.
    pub(crate) fn sample(&self, phase: Phase) -> Option<&Sample> {
        self.shared.samples[phase as usize].get()
    }

    /// `12345 requests, no trouble`
    pub(crate) fn progress(&self) -> String {
        let requests = self.shared.requests.load(Ordering::Relaxed);
        match self.shared.troubles.load(Ordering::Relaxed) {
            0 => format!("{requests} requests, no trouble"),
            troubles => format!("{requests} requests, TROUBLE with {troubles}"),
        }
    }

    /// Ends the load. What each connection counted, and the first troubles in words.
    pub(crate) fn finish(self) -> Result<(Vec<Tally>, Vec<String>)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut tallies = Vec::new();
        for connection in self.connections {
            tallies.push(self.runtime.block_on(connection)?);
        }
        let troubles = self.shared.first_troubles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((tallies, troubles))
    }
}

impl Shared {
    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[self.phase.load(Ordering::SeqCst)]
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn trouble(&self, phase: Phase, what: String) {
        self.troubles.fetch_add(1, Ordering::Relaxed);
        let mut told = self.first_troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD {
            told.push(format!("{}: {what}", phase.name()));
        }
    }

    pub(crate) fn show(&self, phase: Phase, body: &str, number: u64) {
        self.samples[phase as usize].get_or_init(|| Sample { body: body.trim_end().to_owned(), number });
    }
}
