//! Nor does one fit where a function pointer is.

fn old(number: u64) -> u64 {
    number
}

fn main() {
    let step = std::env::args().count() as u64;
    let _ = unsafe { midflight::replace(old as fn(u64) -> u64, move |number| number + step) };
}
