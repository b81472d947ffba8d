//! Compiles the patch library with cargo, for the target that this program itself was compiled for.

use crate::Result;
use std::env::{self, consts};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Names another target than the one that is guessed from this program's own architecture.
const TARGET_VARIABLE: &str = "TIME_SERVICE_TARGET";

/// Builds the first or second version, always to the same path, and calls `meanwhile` every now and then.
///
/// Cargo's own settings apply, as of linkers (`CARGO_TARGET_<TARGET>_LINKER`).
pub(crate) fn friendly_time(version: u32, meanwhile: impl Fn()) -> Result<PathBuf> {
    let folder = env::current_exe()?.with_file_name("friendly_time");
    let target = env::var(TARGET_VARIABLE).unwrap_or_else(|_| own_target());
    let (profile, profile_folder) =
        if cfg!(debug_assertions) { ("dev", "debug") } else { ("release", "release") };

    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "friendly_time", "--profile", profile, "--target", &target]);
    cargo.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&folder);
    if version == 2 {
        cargo.args(["--features", "second"]);
    }
    cargo.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = cargo.spawn().map_err(|error| format!("cannot start {:?}: {error}", cargo.get_program()))?;
    wait(child, meanwhile)?;
    Ok(folder.join(target).join(profile_folder).join("libfriendly_time.so"))
}

fn own_target() -> String {
    let environment = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-{}-{environment}", consts::ARCH, consts::OS)
}

/// Waits for cargo; what it had to say is printed if it failed.
fn wait(mut cargo: Child, meanwhile: impl Fn()) -> Result<()> {
    let mut stderr = cargo.stderr.take().ok_or("cargo without a standard error")?;
    let said = thread::spawn(move || {
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).map(|_| said)
    });
    let status = loop {
        if let Some(status) = cargo.try_wait()? {
            break status;
        }
        meanwhile();
        thread::sleep(Duration::from_millis(50));
    };
    let said = said.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    if !status.success() {
        eprintln!("{}", String::from_utf8_lossy(&said).trim_end());
        return Err(format!("the patch library could not be compiled: cargo ended with {status}").into());
    }
    Ok(())
}
