//! Pointers of two words are no function pointers. Their size is known only once code is made for them.

fn old() {}

fn main() {
    let fat: &'static (dyn Fn() + Sync) = &old;
    let _ = unsafe { midflight::replace(fat, fat) };
}
