//! A function is replaced by hand while a thread calls it.

use std::{thread, time::Duration};

midflight::patchable! {
    fn greeting(visitor: u64) -> String {
        format!("Hello, visitor {visitor}.")
    }
}

fn friendlier(visitor: u64) -> String {
    format!("Welcome, dear visitor {visitor}!")
}

fn main() -> midflight::Result<()> {
    thread::spawn(|| {
        for visitor in 1.. {
            println!("{}", greeting(visitor));
            thread::sleep(Duration::from_millis(100));
        }
    });
    thread::sleep(Duration::from_millis(250));
    // SAFETY: both take a number and give a text, and nobody relies on its wording.
    let hook = unsafe { midflight::replace(greeting as fn(u64) -> String, friendlier as fn(u64) -> String)? };
    println!("-- {}; the original still says {:?}", hook.applied(), hook.original()(0));
    thread::sleep(Duration::from_millis(250));
    println!("-- rolled back, {}", hook.rollback()?);
    thread::sleep(Duration::from_millis(250));
    Ok(())
}
