//! The command line.

use crate::Result;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
A web service gets a function replaced under load.

usage: time_service                                   tells the story and ends
       time_service --serve [--port N] [--watch DIR]  serves until it is killed

  --serve      answers at /time, on the loopback interface
  --port N     on this port; any free one unless given
  --watch DIR  applies the patch libraries (*.so) in DIR: one that is renamed into it or closed after
               writing is applied, a newer file of its name takes its place, one that is removed is
               rolled back. Nobody else may be able to write to DIR: its patches run in this process.
  --help       this";

/// What is to be done.
pub(crate) enum Arguments {
    Story,
    Serve { port: u16, watch: Option<PathBuf> },
    Help,
}

impl Arguments {
    /// From the command line of this process.
    pub(crate) fn read() -> Result<Self> {
        Self::parse(env::args_os().skip(1))
    }

    fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self> {
        let (mut serve, mut port, mut watch) = (false, None, None);
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("--help" | "-h") => return Ok(Self::Help),
                Some("--serve") => serve = true,
                Some("--port") => {
                    let number = words.next().unwrap_or_default();
                    let number = number.to_str().and_then(|number| number.parse().ok());
                    port = Some(number.ok_or("--port needs a number up to 65535")?);
                }
                Some("--watch") => watch = Some(words.next().ok_or("--watch needs a directory")?.into()),
                _ => return Err(format!("{word:?} is no option; --help lists them").into()),
            }
        }
        match serve {
            true => Ok(Self::Serve { port: port.unwrap_or(0), watch }),
            false if port.is_none() && watch.is_none() => Ok(Self::Story),
            false => Err("--port and --watch go with --serve".into()),
        }
    }
}
