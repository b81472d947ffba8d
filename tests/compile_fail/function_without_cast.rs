//! A function has a type of its own, in which there is no address.

fn old(number: u64) -> u64 {
    number
}

fn main() {
    let _ = unsafe { midflight::replace(old, old) };
}
