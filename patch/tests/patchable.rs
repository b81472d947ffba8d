//! What `patchable!` takes, and that it stays an ordinary function.

use midflight_patch::patchable;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[forbid(unsafe_code, reason = "the macro's own does not count")]
mod elsewhere {
    #[derive(Clone, Copy)]
    pub(crate) struct Place {
        pub(crate) name: &'static str,
    }

    midflight_patch::patchable! {
        pub(crate) fn body(number: u64) -> u64 { number * 2 }
    }
}

use elsewhere::Place;

patchable! {
    /// Documented first, with another attribute after.
    #[must_use]
    fn shout(text: &str) -> String {
        text.to_uppercase()
    }

    /// A named lifetime, and `mut`, `_` and patterns among the arguments.
    pub(crate) fn pick<'a>(mut one: &'a str, _: &str, (a, b): (usize, usize), [_, _]: [u8; 2],) -> &'a str {
        one = &one[a..b];
        one
    }

    /// An argument of the function's own name, and a call of a function with the name of the macro's pointer.
    fn place(place: Place) -> u64 { elsewhere::body(place.name.len() as u64) }

    /// No arguments, no result.
    pub fn nothing() {}

    extern "C" fn c_add(one: i32, other: i32) -> i32 { one + other }

    extern "C-unwind" fn c_unwinds(number: i32) { panic!("number {number}") }

    fn diverges(text: String) -> ! { panic!("{text}") }

    #[cfg(any())]
    fn not_there(_: NoSuchType) {}

    #[deprecated]
    #[allow(clippy::too_many_arguments, reason = "arguments on the stack")]
    fn many(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64, h: String) -> (u64, String) {
        (a + b + c + d + e + f + g, h)
    }

    fn factorial(number: u64) -> u64 {
        if number == 0 { 1 } else { number * factorial(number - 1) }
    }

    fn drops(_: Dropped, fails: bool) { assert!(!fails) }

    fn r#match(large: [u64; 32]) -> [u64; 32] { large.map(|number| number + 1) }
}

patchable! {}

struct Dropped(Rc<Cell<u32>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn they_do_what_their_bodies_say() {
    assert_eq!(shout("you"), "YOU");
    assert_eq!(pick("abcdef", "", (1, 3), [0; 2]), "bc");
    assert_eq!(place(Place { name: "abc" }), 6);
    nothing();
    assert_eq!(c_add(2, 3), 5);
    #[allow(deprecated, reason = "that it stays so is the test")]
    let many = many(1, 2, 3, 4, 5, 6, 7, "eight".to_owned());
    assert_eq!(many, (28, "eight".to_owned()));
    assert_eq!(factorial(10), 3_628_800);
    assert_eq!(r#match([1; 32]), [2; 32]);
}

#[test]
fn panics_pass_through() {
    let diverged = catch_unwind(|| diverges("diverges".to_owned())).unwrap_err();
    assert_eq!(*diverged.downcast::<String>().unwrap(), "diverges");
    let unwound = catch_unwind(|| c_unwinds(7)).unwrap_err();
    assert_eq!(*unwound.downcast::<String>().unwrap(), "number 7");
}

#[test]
fn arguments_are_dropped_once() {
    for fails in [false, true] {
        let dropped = Rc::new(Cell::new(0));
        let argument = Dropped(Rc::clone(&dropped));
        let result = catch_unwind(AssertUnwindSafe(|| drops(argument, fails)));
        assert_eq!((result.is_err(), dropped.get()), (fails, 1));
    }
}

/// In a block, and of the same name as one of the module.
#[test]
fn one_may_stand_in_a_function() {
    patchable! {
        fn shout(text: &str) -> String { text.to_lowercase() }
    }
    assert_eq!(shout("You"), "you");
}

mod raw {
    midflight_patch::patchable! {
        pub(super) unsafe fn first(at: *const u8) -> u8 {
            // SAFETY: the caller's promise.
            unsafe { *at }
        }
        pub(super) unsafe extern "C" fn length<'a>(text: *const std::ffi::c_char, len: &'a mut usize) -> &'a usize {
            // SAFETY: the caller's promise.
            let text = unsafe { std::ffi::CStr::from_ptr(text) };
            *len = text.count_bytes();
            len
        }
    }
}

#[test]
fn unsafe_ones_do_what_their_bodies_say() {
    // SAFETY: the address of a byte.
    assert_eq!(unsafe { raw::first(&raw const b"a"[0]) }, b'a');
    let mut len = 0;
    // SAFETY: a text that ends in a zero byte.
    assert_eq!(unsafe { raw::length(c"abc".as_ptr(), &mut len) }, &3);
}
