//! Both functions have one type.

fn old(number: u64) -> u64 {
    number
}

fn wider(number: u64, _: u64) -> u64 {
    number
}

fn main() {
    let _ = unsafe { midflight::replace(old as fn(u64) -> u64, wider as fn(u64, u64) -> u64) };
}
