//! A function is replaced by hand while a thread calls it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{thread, time::Duration};

#[inline(never)]
fn greeting(visitor: u64) -> String {
    format!("Hello, visitor {visitor}.")
}

fn friendlier(visitor: u64) -> String {
    format!("Welcome, dear visitor {visitor}!")
}

static DONE: AtomicBool = AtomicBool::new(false);

fn main() -> midflight::Result<()> {
    let caller = thread::spawn(|| {
        for visitor in (1..).take_while(|_| !DONE.load(Relaxed)) {
            println!("{}", greeting(visitor));
            thread::sleep(Duration::from_millis(100));
        }
    });
    thread::sleep(Duration::from_millis(250));
    // SAFETY: both take a number and give a text, and nobody relies on its wording.
    let hook = unsafe { midflight::replace(greeting as fn(u64) -> String, friendlier as fn(u64) -> String)? };
    println!("-- {}; the original still says {:?}", hook.applied(), hook.original()(0));
    thread::sleep(Duration::from_millis(250));
    hook.rollback()?;
    println!("-- rolled back");
    thread::sleep(Duration::from_millis(250));
    DONE.store(true, Relaxed);
    caller.join().expect("the caller does not panic");
    Ok(())
}
