//! Whoever changes code makes a promise that nothing can check.

use midflight::{Options, Patch, Transaction};

fn old(number: u64) -> u64 {
    number
}

fn main() -> midflight::Result<()> {
    midflight::replace(old as fn(u64) -> u64, old as fn(u64) -> u64)?;
    Transaction::new().commit(&Options::new())?;
    Patch::open("lib.so")?.apply(&Options::new())?;
    Ok(())
}
