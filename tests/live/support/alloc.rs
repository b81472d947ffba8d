//! An allocator that aborts when it is used by a thread that holds others.

use midflight::fault::Stage;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};

thread_local! {
    static HOLDING: Cell<bool> = const { Cell::new(false) };
}

/// How many holds were watched.
pub static WATCHED: AtomicU64 = AtomicU64::new(0);

pub struct Guarded;

// SAFETY: the system's allocator, or the end of the process.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn check() {
    if HOLDING.try_with(Cell::get) == Ok(true) {
        let message = b"allocation while threads are held\n";
        // SAFETY: a static text.
        unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
        std::process::abort();
    }
}

/// From now on every commit of this process is watched. Called by the tests' `watchdog` and by `fixtures`.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| midflight::fault::observe(Some(note)));
}

/// Has `observer` called as well.
pub fn then(observer: fn(Stage)) {
    NEXT.store(observer as *mut (), SeqCst);
}

static NEXT: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

fn note(stage: Stage) {
    HOLDING.with(|holding| holding.set(stage != Stage::Released));
    if stage == Stage::Quiesced {
        WATCHED.fetch_add(1, SeqCst);
    }
    let next = NEXT.load(SeqCst);
    if !next.is_null() {
        // SAFETY: only `then` stores here.
        let next: fn(Stage) = unsafe { std::mem::transmute(next) };
        next(stage);
    }
}
