//! What a hook and an original give is called as what was replaced.

static ORIGINAL: midflight::Original<fn(&str) -> usize> = midflight::Original::new();

fn old(number: u64) -> u64 {
    number
}

fn main() {
    let hook = unsafe { midflight::replace(old as fn(u64) -> u64, old as fn(u64) -> u64) };
    let hook = hook.unwrap();
    hook.original()("seven");
    ORIGINAL.get()(7);
}
