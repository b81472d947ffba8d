//! The signal that asks a thread to park: which one, and its handler.
//!
//! The handler runs with every signal blocked (a mask of all ones, which sigfillset(3) would not give),
//! on the thread's alternate stack if it has one. It uses no TLS, no errno and no libc.

use super::context::SavedContext;
use super::rendezvous::{Place, Rendezvous, Stands, TABLES, Table, Ticket};
use super::task;
use crate::error::Error;
use crate::held::park;
use crate::sys;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// The one meeting place of the process.
pub(super) static MEETING: Rendezvous = Rendezvous::new();
/// Set when no membarrier is to be had: a released thread then synchronises itself.
pub(super) static SERIALIZE: AtomicBool = AtomicBool::new(false);

/// The places of each table. Written only while nobody is inside the table; never freed, since a handler may
/// look at them at any time.
static PLACES: [(AtomicPtr<Place>, AtomicU32); TABLES] =
    [const { (AtomicPtr::new(std::ptr::null_mut()), AtomicU32::new(0)) }; TABLES];
/// The signal in use, zero before the first hold.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// SIGURG first: one that is pending when the program calls exec(2) does no harm to the next program, since
/// its default is to be ignored. A real-time signal would end it. Those from 36 to 60 glibc, musl and debugging
/// tools leave to applications.
const CANDIDATES: [i32; 26] = {
    let mut candidates = [libc::SIGURG; 26];
    let mut place = 1;
    while place < candidates.len() {
        candidates[place] = 61 - place as i32;
        place += 1;
    }
    candidates
};

/// The signals that may be chosen, bit n-1 for signal n. A thread that is to be held blocks none of them.
#[cfg(feature = "watch")]
pub(crate) fn candidates() -> u64 {
    CANDIDATES.iter().fold(0, |set, signal| set | 1 << (signal - 1))
}

/// Makes room for `count` threads in a table. Only between holds, while nobody is inside it.
pub(super) fn make_room(table: usize, count: usize) {
    let Some((first, room)) = PLACES.get(table).filter(|_| places(table).len() < count) else { return };
    let mut places = Vec::new();
    places.resize_with(count.next_power_of_two().max(64), Place::default);
    let places: &'static mut [Place] = Box::leak(places.into_boxed_slice());
    // Room shrinks to nothing while the pointer changes, so that no reader pairs the wrong two.
    room.store(0, Release);
    first.store(places.as_mut_ptr(), Release);
    room.store(places.len() as u32, Release);
}

/// The places of a table.
pub(super) fn places(table: usize) -> &'static [Place] {
    let Some((first, room)) = PLACES.get(table) else { return &[] };
    let room = room.load(Acquire);
    if room == 0 {
        return &[];
    }
    // SAFETY: `make_room` stored a leaked slice of `room` places; places are shared words.
    unsafe { std::slice::from_raw_parts(first.load(Acquire), room as usize) }
}

/// The signal to use in this hold: one whose disposition was the default when it was chosen, which is
/// still ours, and which as few threads as possible blocked and none waited for then.
pub(super) fn ready(threads: &[i32]) -> Result<i32, Error> {
    if let Some(current) = current() {
        return Ok(current);
    }
    let chosen = Survey::of(threads).choose()?;
    install(chosen)?;
    SIGNAL.store(chosen, Relaxed);
    Ok(chosen)
}

/// The signal in use, if its handler is still ours.
pub(super) fn current() -> Option<i32> {
    let current = SIGNAL.load(Relaxed);
    (current != 0 && disposition(current) == Some(handler as *const () as usize)).then_some(current)
}

/// What threads do with signals.
pub(super) struct Survey {
    /// How many block each.
    blocked: [u32; 64],
    /// Those that one waits for.
    awaited: u64,
}

impl Survey {
    pub(super) fn of(threads: &[i32]) -> Self {
        let (mut blocked, mut awaited) = ([0u32; 64], 0u64);
        for tid in threads {
            let mask = task::blocked(*tid).unwrap_or(0);
            for (bit, count) in blocked.iter_mut().enumerate() {
                *count += (mask >> bit & 1) as u32;
            }
            awaited |= task::awaited(*tid);
        }
        Self { blocked, awaited }
    }

    pub(super) fn choose(&self) -> Result<i32, Error> {
        let free = CANDIDATES.into_iter().filter(|signal| self.obstacle(*signal).is_none());
        free.min_by_key(|signal| self.blocking(*signal)).ok_or(Error::NoSignal)
    }

    /// How many threads block `signal`.
    pub(super) fn blocking(&self, signal: i32) -> u32 {
        self.blocked.get(signal as usize - 1).copied().unwrap_or(u32::MAX)
    }

    /// Why `signal` cannot be used.
    pub(super) fn obstacle(&self, signal: i32) -> Option<&'static str> {
        if disposition(signal) != Some(libc::SIG_DFL) {
            return Some("the program handles or ignores it");
        }
        (self.awaited >> (signal - 1) & 1 == 1).then_some("a thread waits for it")
    }
}

/// Sends thread `tid` the signal with a ticket (rt_tgsigqueueinfo(2)).
pub(super) fn send(signal: i32, tid: i32, ticket: Ticket) -> Result<(), sys::Errno> {
    let pid = sys::getpid();
    let mut info =
        SignalInfo { signal, code: libc::SI_QUEUE, pid, value: ticket.pack(), ..SignalInfo::default() };
    let place = (&raw mut info) as usize;
    let arguments = [pid as usize, tid as usize, signal as usize, place, 0, 0];
    // SAFETY: the kernel reads 128 bytes from `info`, whose size that is.
    unsafe { sys::call(libc::SYS_rt_tgsigqueueinfo, arguments) }.map(drop)
}

/// Does thread `tid` block the signal in use? For reports.
pub(super) fn blocked_by(tid: i32) -> Option<i32> {
    let signal = SIGNAL.load(Relaxed);
    (signal > 0 && task::blocked(tid)? >> (signal - 1) & 1 == 1).then_some(signal)
}

/// `siginfo_t` for a queued signal as the kernel lays it out on 64-bit machines
/// (include/uapi/asm-generic/siginfo.h).
#[repr(C)]
#[derive(Debug, Default)]
struct SignalInfo {
    signal: i32,
    errno: i32,
    code: i32,
    _gap: i32,
    pid: i32,
    uid: u32,
    value: u64,
    _rest: [u64; 12],
}

const _: () = assert!(size_of::<SignalInfo>() == 128);

fn disposition(signal: i32) -> Option<usize> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; libc fills the structure.
    let answer = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed, then filled; every bit pattern is a `sigaction`.
    (answer == 0).then(|| unsafe { action.assume_init() }.sa_sigaction)
}

fn install(signal: i32) -> Result<(), Error> {
    // SAFETY: all zeroes is a `sigaction` with the default disposition and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: a signal set is plain bits.
    unsafe { std::ptr::write_bytes(&raw mut action.sa_mask, 0xff, 1) };
    // SAFETY: the handler keeps the rules of signal handlers (signal-safety(7)); it is never uninstalled.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(Error::Kernel {
            step: "install the signal handler",
            source: std::io::Error::last_os_error(),
        });
    }
    Ok(())
}

/// Parks the thread if the signal is ours and not late; else does nothing.
extern "C" fn handler(_signal: i32, info: *mut SignalInfo, context: *mut libc::c_void) {
    // SAFETY: the kernel hands an SA_SIGINFO handler the information of the signal.
    let info = unsafe { &*info };
    if info.code != libc::SI_QUEUE || info.pid != sys::getpid() {
        return;
    }
    // SAFETY: the third argument of this very handler, used within it.
    let mut context = unsafe { SavedContext::new(context) };
    let place = |ticket: Ticket| places(usize::from(ticket.table)).get(ticket.place as usize);
    // SAFETY: the words are statics.
    let wait = |epoch, table: &Table| unsafe {
        park(&raw const MEETING.epoch, epoch, &raw const table.parked, &raw const table.wanted)
    };
    let stands = Stands { pc: context.pc(), sp: context.sp(), link: context.link() };
    let new_pc = MEETING.attend(Ticket::unpack(info.value), place, sys::gettid(), stands, wait);
    if SERIALIZE.load(Relaxed) {
        crate::sys::synchronise_this_core();
    }
    if let Some(pc) = new_pc {
        context.set_pc(pc);
    }
}
