//! Function pointers as addresses: the only place that converts between the two.

use std::fmt;
use std::mem::transmute_copy;

/// Every thin function pointer type: `fn(u64) -> u64`, `fn(&str) -> &str`, `unsafe extern "C" fn(*const
/// c_char)`, variadic ones, of any ABI and any number of arguments.
///
/// It is a blanket bound, because implementations by arity reject references in the signature. References
/// such as `&'static T` and raw pointers in wrappers fulfil it as well. They compile, and are refused when
/// the program runs: what they point at is no code.
///
/// A function item has a type of its own without a pointer in it, so it is cast:
///
/// ```
/// # use midflight_patch::FnPointer;
/// fn first(list: &[u8]) -> &u8 { &list[0] }
///
/// assert!(!FnPointer::address(first as fn(&[u8]) -> &u8).is_null());
/// ```
///
/// ```compile_fail
/// # use midflight_patch::FnPointer;
/// # fn first(list: &[u8]) -> &u8 { &list[0] }
/// FnPointer::address(first); // "cast it"
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a function pointer",
    label = "a thin function pointer is needed here",
    note = "cast a function to its pointer type: `f as fn(A) -> R`"
)]
pub trait FnPointer: Copy + fmt::Pointer + Send + Sync + 'static {
    /// The address that the pointer holds.
    ///
    /// Not a method: `f.address()` on a function item would take the address of a reference to it.
    fn address(pointer: Self) -> *const ();

    /// The pointer that holds `address`.
    ///
    /// # Safety
    /// At `address` there is, for as long as the result is used, a function of exactly the signature and the
    /// ABI that `Self` says.
    unsafe fn from_address(address: *const ()) -> Self;
}

// Without this the compiler would explain what a blanket bound lacks instead of showing the note above.
#[diagnostic::do_not_recommend]
impl<F: Copy + fmt::Pointer + Send + Sync + 'static> FnPointer for F {
    #[inline]
    fn address(pointer: Self) -> *const () {
        const { assert_thin::<F>() };
        // SAFETY: both are one pointer wide, as just checked. The bound leaves function pointers, references,
        // and the like, whose bytes are an initialized address, which every raw pointer may hold.
        unsafe { transmute_copy(&pointer) }
    }

    #[inline]
    unsafe fn from_address(address: *const ()) -> F {
        const { assert_thin::<F>() };
        // SAFETY: both are one pointer wide, as just checked; the caller promises that a function of type `F`
        // is at the address, which also means that it is not null.
        unsafe { transmute_copy(&address) }
    }
}

/// Where code is made for an `F` of another size, the compiler shows who calls this and why not.
#[track_caller]
const fn assert_thin<F>() {
    assert!(size_of::<F>() == size_of::<*const ()>(), "not a thin function pointer");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twice(value: u64) -> u64 {
        value * 2
    }

    fn longer<'a>(one: &'a str, _other: &str) -> &'a str {
        one
    }

    unsafe extern "C" fn add(one: u32, other: u32) -> u32 {
        one + other
    }

    #[test]
    fn address_and_pointer_are_inverse() {
        let address = FnPointer::address(twice as fn(u64) -> u64);
        assert_eq!(address, twice as *const ());
        // SAFETY: the address was made from a pointer of this type.
        let again = unsafe { <fn(u64) -> u64>::from_address(address) };
        assert_eq!(again(21), 42);
    }

    #[test]
    fn references_abis_and_arities_are_accepted() {
        fn accept<F: FnPointer>(pointer: F) {
            assert!(!F::address(pointer).is_null());
        }
        accept(longer as for<'a> fn(&'a str, &str) -> &'a str);
        accept(add as unsafe extern "C" fn(u32, u32) -> u32);
        fn wide(_: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: [u64; 9]) {}
        accept(wide as fn(u8, u8, u8, u8, u8, u8, [u64; 9]));
    }
}
