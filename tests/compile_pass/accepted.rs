//! What `tests/compile_fail` changes a little, as it should be: this must compile, and run.

use midflight::{Options, Original, Transaction};

static ORIGINAL: Original<fn(u64) -> u64> = Original::new();

#[inline(never)]
fn old(number: u64) -> u64 {
    std::hint::black_box(number) + 1
}

fn new(number: u64) -> u64 {
    number + 2
}

fn shorten(text: &str) -> &str {
    text
}

midflight_patch::patch! {
    name: "mine",

    #[replaces("app::old", original = OLD)]
    fn from_a_patch(number: u64) -> u64 {
        OLD.get()(number)
    }

    "app::shorten" => shorten as fn(&str) -> &str,
}

fn main() -> midflight::Result<()> {
    let hook = unsafe { midflight::replace(old as fn(u64) -> u64, |number| number + 3)? };
    assert_eq!((old(1), hook.original()(1)), (4, 2));
    hook.rollback()?;

    let mut change = Transaction::new();
    change.replace_fn(old as *const (), &ORIGINAL, new as fn(u64) -> u64);
    let applied = unsafe { change.commit(&Options::new())? };
    assert_eq!((old(1), ORIGINAL.get()(1)), (3, 2));
    applied.rollback()?;
    assert_eq!((old(1), from_a_patch as fn(u64) -> u64 == new), (2, false));
    Ok(())
}
