//! Layers: a patch over a patch, taken off in any order.

use crate::adds;
use crate::support::patient;
use midflight::{Applied, Original, Transaction};

type Number = unsafe extern "C" fn(u64) -> u64;

/// Each layer adds a digit to what is below it, so the result spells out the stack.
macro_rules! layer {
    ($original:ident, $name:ident, $digit:literal) => {
        static $original: Original<Number> = Original::new();
        unsafe extern "C" fn $name(value: u64) -> u64 {
            // SAFETY: the target takes any number.
            unsafe { $original.get()(value) * 10 + $digit }
        }
    };
}

adds! {
    live_stack + 0;
    live_stack_again + 0;
}
layer!(FIRST, first, 1);
layer!(SECOND, second, 2);
layer!(THIRD, third, 3);
layer!(AGAIN, again, 7);

fn put_on(target: &str, original: &'static Original<Number>, replacement: Number) -> Applied {
    let mut change = Transaction::new();
    change.replace_fn(target, original, replacement);
    // SAFETY: same types.
    unsafe { change.commit(&patient()) }.unwrap()
}

#[test]
fn all_orders_of_three_layers() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let layers = [
            put_on("live_stack", &FIRST, first),
            put_on("live_stack", &SECOND, second),
            put_on("live_stack", &THIRD, third),
        ];
        assert_eq!(live_stack(9), 9123);
        let mut digits = vec![1, 2, 3];
        for number in order {
            layers[number].rollback_with(&patient()).unwrap();
            digits.retain(|digit| *digit != number as u64 + 1);
            let expected = digits.iter().fold(9, |value, digit| value * 10 + digit);
            assert_eq!(live_stack(9), expected, "order {order:?}, after layer {number}");
        }
        assert_eq!(live_stack(9), 9);
    }
}

#[test]
fn on_again_after_the_rollback() {
    for _ in 0..50 {
        let applied = put_on("live_stack_again", &AGAIN, again);
        assert_eq!(live_stack_again(4), 47);
        applied.rollback_with(&patient()).unwrap();
        assert_eq!(live_stack_again(4), 4);
        assert!(!applied.is_applied());
    }
}
