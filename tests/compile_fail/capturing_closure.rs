//! A closure that captures has no address to jump to.

fn main() {
    let step = std::env::args().count() as u64;
    let new = move |number: u64| number + step;
    let _ = unsafe { midflight::replace(new, new) };
}
