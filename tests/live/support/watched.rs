//! A directory for watches, and patch libraries to put there.

use super::fixtures::{self, Folder};
use super::patient;
use midflight::{Options, Watch, WatchEvent};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A directory that only we can write to, whatever the umask and whoever owns the checkout: below the temporary
/// one, which is sticky. Removed when it is dropped.
pub struct Watched(PathBuf);

impl Watched {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("midflight-live-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    /// A path in it; the directory itself for an empty name.
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.0.clone() } else { self.0.join(name) }
    }

    pub fn begin(&self) -> Watch {
        self.begin_with(&patient())
    }

    pub fn begin_with(&self, options: &Options) -> Watch {
        // SAFETY: the tests put libraries there that fit their targets.
        unsafe { Watch::directory(&self.0, options) }.unwrap()
    }

    /// Copies `library` there and renames it to `name`, so that it comes complete.
    pub fn put(&self, library: &Path, name: &str) {
        let copy = self.path(".copy");
        fs::copy(library, &copy).unwrap();
        self.own(&copy);
        fs::rename(copy, self.path(name)).unwrap();
    }

    /// Takes the right to write from others.
    pub fn own(&self, path: impl AsRef<Path>) {
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    }

    /// The next event that is `wanted`.
    pub fn next(&self, watch: &Watch, wanted: impl Fn(&WatchEvent) -> bool) -> WatchEvent {
        let (start, mut passed) = (Instant::now(), Vec::new());
        while start.elapsed() < Duration::from_secs(200) {
            match watch.next_event(Duration::from_secs(200)) {
                Some(event) if wanted(&event) => return event,
                Some(event) => passed.push(event.to_string()),
                None => break,
            }
        }
        panic!("no such event in {}; there were {passed:#?}", self.0.display())
    }

    /// The next event but that of the start.
    pub fn change(&self, watch: &Watch) -> WatchEvent {
        self.next(watch, |event| !matches!(event, WatchEvent::Ready { .. }))
    }

    /// Rolls back the newest patch called `name` whose file stood here.
    pub fn roll_back(&self, name: &str) {
        let here = self.0.canonicalize().unwrap();
        let applied = midflight::applied().into_iter().rev();
        let mut ours = applied.filter(|one| one.path().is_some_and(|path| path.starts_with(&here)));
        ours.find(|one| one.name() == name).unwrap().rollback_with(&patient()).unwrap();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A patch library called `number-VALUE` that makes `target` answer with `value`.
pub fn number(folder: &Folder, target: &str, value: u64) -> PathBuf {
    let source = format!(
        "static unsigned long number(unsigned long value) {{ return value * 0 + {value}; }}
         MIDFLIGHT_PATCH(\"number-{value}\");
         MIDFLIGHT_REPLACE(\"{target}\", number);"
    );
    fixtures::patch(folder, &format!("lib{target}-{value}.so"), &source)
}
