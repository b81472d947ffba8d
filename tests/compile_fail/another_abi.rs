//! The calling convention is part of the type.

fn old(number: u64) -> u64 {
    number
}

extern "C" fn foreign(number: u64) -> u64 {
    number
}

fn main() {
    let _ = unsafe { midflight::replace(old as fn(u64) -> u64, foreign as extern "C" fn(u64) -> u64) };
}
