//! What a test must know of the emulator that it may run under.

#[path = "../../../examples/shared/emulator.rs"]
mod shared;

use std::path::Path;
use std::process::Command;

/// The defaults, with the emulator's threads left alone.
pub fn options() -> midflight::Options {
    shared::options()
}

/// The emulator's threads, in this process.
pub fn threads() -> &'static [i32] {
    shared::threads()
}

/// Is there an emulator around this process?
pub fn is_there() -> bool {
    !threads().is_empty()
}

/// Runs `program`, which was built for this process's machine: as cargo runs it, if cargo was told how.
pub fn command(program: impl AsRef<Path>) -> Command {
    let runner = setting("RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else { return Command::new(program.as_ref()) };
    let mut command = Command::new(first);
    command.args(words).arg(program.as_ref());
    command
}

/// The machine to build for, in the words of rustc, if cargo was told how to run programs for another one.
pub fn target() -> Option<&'static str> {
    setting("RUNNER").map(|_| TARGET)
}

/// What cargo was told of this process's machine.
pub fn setting(name: &str) -> Option<String> {
    let machine = TARGET.to_uppercase().replace('-', "_");
    std::env::var(format!("CARGO_TARGET_{machine}_{name}")).ok()
}

const TARGET: &str =
    if cfg!(target_arch = "x86_64") { "x86_64-unknown-linux-gnu" } else { "aarch64-unknown-linux-gnu" };
