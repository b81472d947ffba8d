//! A web service under load gets a function replaced, twice, and rolled back, without losing a request.
//!
//! `cargo run --release --example time_service` tells the whole story and ends with a table;
//! `-- --serve --watch DIR` leaves the service to you; `-- --help` says more.
//!
//! The service is `service`, the function that is replaced `service::format_time`, the patch library the
//! package `friendly_time` beside this file. All else here drives load and counts.

mod arguments;
mod client;
mod compile;
#[path = "../shared/emulator.rs"]
mod emulator;
mod load;
mod phase;
mod reply;
mod service;
mod story;
mod table;

use arguments::Arguments;
use midflight::Watch;
use service::Service;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let done = Arguments::read().and_then(|arguments| match arguments {
        Arguments::Help => {
            println!("{}", arguments::USAGE);
            Ok(())
        }
        Arguments::Story => story::tell(),
        Arguments::Serve { port, watch } => serve(port, watch.as_deref()),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("time_service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the process is killed.
fn serve(port: u16, directory: Option<&Path>) -> Result<()> {
    // SAFETY: whoever can put a library into the directory answers for it, as `--help` says: nobody else can.
    let watch = |directory| unsafe { Watch::directory(directory, &emulator::options()) };
    let watch = directory.map(watch).transpose()?;
    let service = Service::start(port)?;
    println!("http://{}/time", service.address());
    if let Some(watch) = watch {
        watch.events().for_each(|event| println!("{event}"));
    }
    loop {
        thread::park();
    }
}
