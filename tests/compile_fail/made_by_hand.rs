//! Handles come from a commit only.

fn main() {
    let _ = midflight::Applied {};
    let _ = midflight::Hook::<fn()> {};
}
