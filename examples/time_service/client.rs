//! One keep-alive connection of the load.

use crate::load::Shared;
use crate::phase::Phase;
use crate::reply::Form;
use crate::service::SERVED;
use crate::{Error, Result};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A request without a reply for so long has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one connection counted, phase by phase.
pub(crate) type Tally = Vec<Counts>;

/// The counts of a phase.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    /// Requests that were answered with status 200, in microseconds.
    pub(crate) latencies: Vec<u32>,
    /// Requests that were not.
    pub(crate) failed: u64,
    /// Connections that ended before the client wanted.
    pub(crate) dropped: u64,
    /// Replies of each form.
    pub(crate) forms: [u64; Form::ALL.len()],
    /// Replies that the phase does not allow.
    pub(crate) wrong: u64,
}

/// Asks until the load is stopped, over one connection. Opens another only when that one is lost.
pub(crate) async fn run(shared: Arc<Shared>, address: SocketAddr) -> Tally {
    let mut tally = vec![Counts::default(); Phase::ALL.len()];
    let mut last_number = 0;
    while !shared.stopped() {
        if let Err(lost) = converse(&shared, address, &mut tally, &mut last_number).await {
            let phase = shared.phase();
            tally[phase as usize].dropped += 1;
            shared.trouble(phase, format!("connection lost: {lost}"));
            sleep(Duration::from_millis(10)).await;
        }
    }
    tally
}

/// One connection, from its start until it is lost or the load is stopped.
async fn converse(
    shared: &Shared,
    address: SocketAddr,
    tally: &mut Tally,
    last_number: &mut u64,
) -> Result<()> {
    let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    tokio::spawn(connection);
    while !shared.stopped() {
        sender.ready().await?;
        let (began, sent, clock) = (shared.phase(), Instant::now(), seconds_now());
        let reply = timeout(PATIENCE, ask(&mut sender, address)).await;
        let (latency, ended) = (sent.elapsed(), shared.phase());
        // The clock may be set a little while the story runs.
        let clock = clock.saturating_sub(1)..=seconds_now() + 1;

        shared.requests.fetch_add(1, Ordering::Relaxed);
        let phases = began.until(ended);
        // A request that met a commit is counted there.
        let phase = phases.iter().rfind(|phase| phase.is_switch()).copied().unwrap_or(began);
        let counts = &mut tally[phase as usize];
        match reply.map_err(Error::from).flatten() {
            Ok((body, number)) => {
                counts.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
                let form = Form::of(&body, &clock);
                if let Some(form) = form {
                    counts.forms[form as usize] += 1;
                }
                let allowed = |form| phases.iter().any(|phase| phase.allowed().contains(&form));
                if !form.is_some_and(allowed) || number <= *last_number {
                    counts.wrong += 1;
                    shared.trouble(phase, format!("reply {number} after {last_number} was {body:?}"));
                }
                *last_number = number;
                shared.show(phase, &body, number);
            }
            Err(error) => {
                counts.failed += 1;
                shared.trouble(phase, format!("request failed: {error}"));
            }
        }
    }
    Ok(())
}

/// One request: the body of the reply, and its number.
async fn ask(sender: &mut SendRequest<Empty<Bytes>>, address: SocketAddr) -> Result<(String, u64)> {
    let request =
        Request::get("/time").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let reply = sender.send_request(request).await?;
    if reply.status() != 200 {
        return Err(format!("status {}", reply.status()).into());
    }
    let number = reply.headers().get(SERVED).ok_or("a reply without a number")?.to_str()?.parse()?;
    let body = reply.into_body().collect().await?.to_bytes();
    Ok((String::from_utf8(body.to_vec())?, number))
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
