//! `replace` and `Transaction`: one function, several functions, by pointer and by name.

use crate::adds;
use crate::support::patient;
use midflight::{Error, Original, Transaction, replace_with};

#[inline(never)]
fn old_text(text: &str) -> String {
    format!("old {text}")
}

fn new_text(text: &str) -> String {
    format!("new {text}")
}

#[test]
fn a_rust_function_by_pointer() {
    assert_eq!(old_text("a"), "old a");
    // SAFETY: same type; nobody relies on the text.
    let hook =
        unsafe { replace_with(old_text as fn(&str) -> String, new_text as fn(&str) -> String, &patient()) }
            .unwrap();
    assert_eq!(old_text("b"), "new b");
    assert_eq!(hook.original()("c"), "old c");
    let again = hook.clone();
    drop(hook);
    assert_eq!(old_text("d"), "new d", "dropping a handle leaves the patch on");
    again.applied().rollback_with(&patient()).unwrap();
    assert_eq!(old_text("e"), "old e");
    assert_eq!(again.original()("f"), "old f", "the original stays callable after the rollback");
    assert!(!again.applied().is_applied());
    assert!(matches!(again.applied().rollback_with(&patient()), Err(Error::NotApplied { .. })));
}

adds! {
    live_by_hand_one + 1;
    live_by_hand_two + 2;
    live_by_hand_three + 3;
}

type Number = unsafe extern "C" fn(u64) -> u64;

static ONE: Original<Number> = Original::new();

unsafe extern "C" fn one_and_a_hundred(value: u64) -> u64 {
    // SAFETY: the target takes any number.
    unsafe { ONE.get()(value) + 100 }
}

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

#[test]
fn several_at_once_by_name_and_address() {
    let mut change = Transaction::new();
    change.replace_fn("live_by_hand_one", &ONE, one_and_a_hundred);
    change.replace(live_by_hand_two as *const (), a_thousand as *const ());
    let check = change.check().unwrap();
    assert_eq!(check.functions.len(), 2);
    assert!(check.to_string().contains("live_by_hand_one at 0x"), "{check}");
    assert!(ONE.try_get().is_none(), "a check changes nothing");
    assert_eq!((live_by_hand_one(1), live_by_hand_two(1)), (2, 3));
    // SAFETY: same types.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    assert_eq!((live_by_hand_one(1), live_by_hand_two(1)), (102, 1001));
    assert_eq!(applied.functions().count(), 2);
    assert!(applied.to_string().contains("2 functions"), "{applied}");
    assert!(
        midflight::applied().iter().any(|one| one.functions().any(|(name, _)| name == "live_by_hand_one"))
    );
    applied.rollback_with(&patient()).unwrap();
    assert_eq!((live_by_hand_one(1), live_by_hand_two(1)), (2, 3));
    assert!(
        !midflight::applied().iter().any(|one| one.functions().any(|(name, _)| name == "live_by_hand_one"))
    );
}

#[test]
fn a_recursive_call_in_the_body_goes_to_the_replacement_too() {
    #[inline(never)]
    fn sum(list: &[u64]) -> u64 {
        list.split_first()
            .map_or(0, |(first, rest)| first + std::hint::black_box(sum as fn(&[u64]) -> u64)(rest))
    }
    fn zero(_: &[u64]) -> u64 {
        0
    }
    assert_eq!(sum(&[1, 2, 3]), 6);
    // SAFETY: same type.
    let hook =
        unsafe { replace_with(sum as fn(&[u64]) -> u64, zero as fn(&[u64]) -> u64, &patient()) }.unwrap();
    assert_eq!(sum(&[1, 2, 3]), 0);
    assert_eq!(hook.original()(&[1, 2, 3]), 1, "the original's own calls are calls of the function");
    hook.applied().rollback_with(&patient()).unwrap();
    assert_eq!(sum(&[1, 2, 3]), 6);
}

#[test]
fn either_all_or_none() {
    let mut change = Transaction::new();
    change.replace("live_by_hand_three", a_thousand as *const ());
    change.replace("there_is_no_such_function", a_thousand as *const ());
    // SAFETY: same types.
    let error = unsafe { change.commit(&patient()) }.unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { target, .. } if target == "there_is_no_such_function"),
        "{error}"
    );
    assert_eq!(live_by_hand_three(1), 4);
}
