//! An original is read for ever: it must be a static.

use midflight::{Original, Transaction};

fn new(number: u64) -> u64 {
    number
}

fn main() {
    let original = Original::new();
    Transaction::new().replace_fn("old", &original, new as fn(u64) -> u64);
}
