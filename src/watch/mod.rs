//! A directory whose patch libraries are on: what stands in it is applied, what leaves it is rolled back.
//!
//! A thread of its own waits for inotify(7) and commits; the handle fetches what it tells and stops it.

mod event;
mod follow;
mod on;
mod trust;

pub use event::WatchEvent;

use crate::error::Error;
use crate::options::Options;
use crate::sys::SignalsBlocked;
use crate::threads;
use event::Queue;
use follow::Follower;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};
use trust::Directory;

/// How much longer than its commits a stop waits, for the loading and measuring around them.
const PATIENCE: Duration = Duration::from_secs(30);

/// The patches of a directory, kept on while the directory is watched. Needs the feature `watch`.
///
/// Patch libraries are the files whose names end in `.so` and do not begin with a dot. One that is renamed into the
/// directory, or closed after it was written there, is applied. One that is removed or renamed away is rolled back.
/// A new version under an old name goes on top of the old one, which is then rolled back below it: every call meets
/// one of them. A new version that is refused leaves the old one on. A patch that the program itself rolls back stays
/// off until its file is removed or has other content. What stands in the directory at the start is
/// applied in the order of the names, compared byte by byte; so are files that come together.
///
/// Whoever copies a library there does best to write it under another name and then rename it: a file that is
/// written over while it is read is refused until it is closed. What was read is what is loaded.
///
/// A thread called `midflight-watch` does all that, and constructors of libraries run on it. It leaves the
/// process's signals to the other threads: it blocks the standard ones, except those of faults and `SIGURG`, and else
/// those that the thread which began the watch blocks. It can be held by other commits like any other thread, unless
/// that mask forbids it.
///
/// # Trust
/// A directory is refused ([`Error::Untrusted`]) if anybody but root and the effective user of this process owns it
/// or may write to it, or to a directory above it, except sticky ones such as `/tmp`; symbolic links on the way
/// must belong to the same users. The rights of a group count as those of others, and so do those of a POSIX access
/// list; other kinds of access lists are not seen. Files in the directory must be regular files of these users that
/// nobody else may write to; a symbolic link is refused. A file that was refused for that stays so whatever becomes of
/// its rights, since whoever has it open can still write to it: a copy must take its place. What others did before the
/// watch first saw a file, it cannot know. The rights of the directory are looked at anew before every
/// change; while others may write to it, nothing is applied or rolled back.
///
/// # Ends
/// Dropping the handle ends the watch without waiting for it. Patches stay on then, as after [`Self::stop`];
/// [`applied`](crate::applied()) lists them. In a child of `fork` there is no thread that watches: the
/// handle there gives no events and stops nothing, patches stay on, and a new watch may be begun.
///
/// ```no_run
/// use midflight::{Options, Watch};
///
/// # fn main() -> midflight::Result<()> {
/// // SAFETY: only libraries that were built for this program are put into that directory.
/// let watch = unsafe { Watch::directory("/etc/my-service/patches", &Options::new())? };
/// for event in watch.events() {
///     println!("{event}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    id: ThreadId,
    patience: Duration,
    /// How often the process had been forked when the watch began.
    forks: u64,
}

/// What the handle and the thread share.
#[derive(Debug)]
struct Shared {
    events: Queue,
    stopping: AtomicBool,
    /// Readable when the watch is to end (eventfd(2)).
    wake: OwnedFd,
}

impl Watch {
    /// Begins to watch `path`. What stands there already is applied from now on; [`WatchEvent::Ready`] tells when
    /// that is done. Commits are made with `options`.
    ///
    /// # Errors
    /// [`Error::Untrusted`] if others could put libraries there, [`Error::Watch`] if it cannot be watched. What is
    /// wrong with a single library is an event.
    ///
    /// # Safety
    /// Of each patch library that comes to stand in the directory while it is watched, the contract of
    /// [`Patch::apply`](crate::Patch::apply) holds: it was built for this program, and so were the types that
    /// replacements throw with `panic_any`; its constructors may run on the watching thread at any time. Whoever can
    /// write to the directory is trusted with that; these are root, the users that the process may run as meanwhile,
    /// and whoever got the directory from them.
    pub unsafe fn directory(path: impl AsRef<Path>, options: &Options) -> Result<Self, Error> {
        count_forks();
        let directory = Directory::open(path.as_ref())?;
        let path = directory.path().to_owned();
        let failed = |source: io::Error| Error::Watch { path: path.clone(), source };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let (events, stopping) = (Queue::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { events, stopping, wake });
        let follower = Follower::new(directory, options.clone(), Arc::clone(&shared))?;
        let thread = spawn(follower).map_err(failed)?;
        let patience = PATIENCE.saturating_add(options.deadline.saturating_mul(4));
        let id = thread.thread().id();
        let (thread, forks) = (Mutex::new(Some(thread)), FORKS.load(SeqCst));
        Ok(Self { path, shared, thread, id, patience, forks })
    }

    /// The directory, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next event, waited for as long as `wait` says. None if none came, or if none will come. 1024 events are
    /// kept until they are fetched.
    pub fn next_event(&self, wait: Duration) -> Option<WatchEvent> {
        if self.is_forked() {
            return None;
        }
        self.shared.events.pop(Instant::now().checked_add(wait))
    }

    /// All events, each waited for, until the watch has ended.
    pub fn events(&self) -> impl Iterator<Item = WatchEvent> + '_ {
        std::iter::from_fn(|| self.next_event(Duration::MAX))
    }

    /// Ends the watch, once the commit that may be under way is done, and waits for its thread. Patches stay on, and
    /// events can still be fetched. Does nothing if the watch has ended before.
    ///
    /// # Errors
    /// [`Error::Watch`] if the thread did not end within four times [`Options::deadline`] and 30 seconds; it will
    /// end when it can. [`Error::Nested`] on the watching thread itself, where a constructor may run.
    pub fn stop(&self) -> Result<(), Error> {
        if self.is_forked() {
            return Ok(());
        }
        if thread::current().id() == self.id {
            return Err(Error::Nested);
        }
        self.shared.stop();
        let failed = |source| Error::Watch { path: self.path.clone(), source };
        if !self.shared.events.wait_closed(Instant::now() + self.patience) {
            return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "its thread does not end")));
        }
        // A panic was told as the last event.
        let _ = self.thread.lock().take().map(JoinHandle::join);
        Ok(())
    }

    /// The thread stayed in the parent, and so did whoever held the locks.
    fn is_forked(&self) -> bool {
        FORKS.load(SeqCst) != self.forks
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_forked() {
            // Dropping it detaches a thread that is not there; a new thread of the child may have its place.
            std::mem::forget(self.thread.get_mut().take());
        } else {
            // The parent's watch and that of a child have one wake-up.
            self.shared.stop();
        }
    }
}

impl Shared {
    fn stop(&self) {
        self.stopping.store(true, SeqCst);
        // Fails only when it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}

/// Starts the thread with the mask that it keeps: handlers of the program's for standard signals do not run on it, but
/// for faults and `SIGURG`. Those for real-time signals may, unless the thread that begins the watch blocks them.
fn spawn(follower: Follower) -> io::Result<JoinHandle<()>> {
    let bit = |signal: i32| 1u64 << (signal - 1);
    let faults =
        [libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS, libc::SIGABRT];
    // Beyond the 31 standard signals are those of the C library, which must not be blocked.
    let standard = (1 << 31) - 1;
    let kept = faults.into_iter().fold(threads::stop_signals(), |set, signal| set | bit(signal));
    let _inherited = SignalsBlocked::these(standard & !kept)?;
    thread::Builder::new().name("midflight-watch".into()).spawn(|| follower.run())
}

/// How often this process is the child of a fork(2).
static FORKS: AtomicU64 = AtomicU64::new(0);

/// From now on forks are counted. A raw clone(2) is not.
fn count_forks() {
    extern "C" fn in_child() {
        FORKS.fetch_add(1, SeqCst);
    }
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler is a function of this library, which outlives every watch.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}
