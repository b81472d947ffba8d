//! A number is no function, neither to replace nor as an original.

static NUMBER: midflight::Original<u64> = midflight::Original::new();

fn main() {
    let _ = unsafe { midflight::replace(1u64, 2u64) };
    let _ = NUMBER.get();
}
