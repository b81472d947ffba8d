//! Who else could put code into this process through the watched directory?

use crate::Result;
use rustix::process::geteuid;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const OTHERS_MAY_WRITE: u32 = 0o022;
/// In such a directory everybody can rename and remove only what is their own.
const STICKY: u32 = 0o1000;

/// Refuses a directory that others can write to, or that others can put another one in the place of. The
/// path has to be canonical.
pub(crate) fn directory(path: &Path) -> Result<()> {
    only_ours(path, &fs::metadata(path)?)?;
    for above in path.ancestors().skip(1) {
        let metadata = fs::metadata(above)?;
        if metadata.mode() & STICKY == 0 {
            only_ours(above, &metadata)?;
        }
    }
    Ok(())
}

/// Refuses a file that others can write to, wherever it came from.
pub(crate) fn file(path: &Path) -> Result<()> {
    only_ours(path, &fs::metadata(path)?)
}

fn only_ours(path: &Path, metadata: &Metadata) -> Result<()> {
    let owner = metadata.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(format!("refused: {} belongs to another user ({owner})", path.display()).into());
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(format!("refused: others can write to {} (mode {mode:o})", path.display()).into());
    }
    Ok(())
}
