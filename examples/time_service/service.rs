//! The service: `/time` answers with the current time.

use super::Result;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// The header that numbers the replies.
pub(crate) const SERVED: &str = "served";

midflight::patchable! {
    /// The function to be replaced: the time in a plain form, as seconds since 1970.
    pub(crate) fn format_time(now: SystemTime) -> String {
        now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string()
    }
}

/// The service while it runs, on threads of its own; it ends when this is dropped.
pub(crate) struct Service {
    address: SocketAddr,
    served: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Service {
    /// Starts it on a port of the loopback interface; 0 is any free one.
    pub(crate) fn start(port: u16) -> Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(4).thread_name("service").enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?;
        let address = listener.local_addr()?;
        let served = Arc::new(AtomicU64::new(0));
        let router = Router::new().route("/time", get(time)).with_state(Arc::clone(&served));
        runtime.spawn(axum::serve(listener, router).into_future());
        Ok(Self { address, served, _runtime: runtime })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has answered: its state, which has to outlive every patch.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

async fn time(State(served): State<Arc<AtomicU64>>) -> impl IntoResponse {
    let number = served.fetch_add(1, Ordering::Relaxed) + 1;
    ([(SERVED, number.to_string())], format_time(SystemTime::now()) + "\n")
}
