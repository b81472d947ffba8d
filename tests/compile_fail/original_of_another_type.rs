//! The original has the type of the replacement.

use midflight::{Original, Transaction};

static ORIGINAL: Original<fn(u32) -> u64> = Original::new();

fn new(number: u64) -> u64 {
    number
}

fn main() {
    Transaction::new().replace_fn("old", &ORIGINAL, new as fn(u64) -> u64);
}
