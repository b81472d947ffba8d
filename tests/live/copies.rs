//! One name for several functions, and several names for one.

use crate::support::fixtures::{self, Folder};
use crate::support::{emulator, patient};
use crate::{adds, target};
use midflight::{Error, Original, Transaction, replace, replace_with};

adds! {
    live_folded + 1;
    live_folded_alias + 2;
}

// Two copies of `live::copied::twice`, as two codegen units have them: the names differ in their hash.
#[cfg(target_arch = "x86_64")]
target! {
    fn _ZN4live6copied5twice17h0123456789abcdefE(u64) -> u64 { "lea rax, [rdi + rdi]", "nop", "nop", "ret" }
    fn _ZN4live6copied5twice17hfedcba9876543210E(u64) -> u64 { "lea rax, [rdi + rdi]", "nop", "nop", "ret" }
    fn _ZN4live6copied6thrice17h0123456789abcdefE(u64) -> u64 { "lea rax, [rdi + 2*rdi]", "nop", "nop", "ret" }
    fn _ZN4live6copied6thrice17hfedcba9876543210E(u64) -> u64 { "lea rax, [rdi + 2*rdi]", "nop", "nop", "ret" }
}
#[cfg(target_arch = "aarch64")]
target! {
    fn _ZN4live6copied5twice17h0123456789abcdefE(u64) -> u64 { "lsl x0, x0, 1", "ret" }
    fn _ZN4live6copied5twice17hfedcba9876543210E(u64) -> u64 { "lsl x0, x0, 1", "ret" }
    fn _ZN4live6copied6thrice17h0123456789abcdefE(u64) -> u64 { "add x0, x0, x0, lsl 1", "ret" }
    fn _ZN4live6copied6thrice17hfedcba9876543210E(u64) -> u64 { "add x0, x0, x0, lsl 1", "ret" }
}
use _ZN4live6copied5twice17h0123456789abcdefE as twice;
use _ZN4live6copied5twice17hfedcba9876543210E as twice_again;
use _ZN4live6copied6thrice17h0123456789abcdefE as thrice;
use _ZN4live6copied6thrice17hfedcba9876543210E as thrice_again;

// Second names: what folding makes of another function, and what an author gives to one.
std::arch::global_asm!(
    ".globl live_folded_with",
    ".hidden live_folded_with",
    ".type live_folded_with, @function",
    ".set live_folded_with, live_folded",
    ".size live_folded_with, 8",
    ".weak live_second_name",
    ".type live_second_name, @function",
    ".set live_second_name, live_folded_alias",
    ".size live_second_name, 8",
);

type Function = extern "C" fn(u64) -> u64;

extern "C" fn zero(_value: u64) -> u64 {
    0
}

fn is_copies(error: &Error) -> bool {
    let text = error.to_string();
    assert!(text.contains("Options::every_copy") && text.contains("17h0123456789abcdefE"), "{text}");
    matches!(error, Error::Copies { copies, .. } if copies.len() == 2)
}

#[test]
fn copies_are_refused_with_the_list_by_name_and_by_pointer() {
    let mut change = Transaction::new();
    change.replace("live::copied::twice", zero as *const ());
    assert!(is_copies(&change.check().unwrap_err()));
    // SAFETY: same types, also below.
    assert!(is_copies(&unsafe { change.commit(&patient()) }.unwrap_err()));
    // SAFETY: as above.
    assert!(is_copies(&unsafe { replace(twice as Function, zero as Function) }.map(drop).unwrap_err()));
    assert_eq!((twice(3), twice_again(3)), (6, 6));
}

#[test]
fn every_copy_is_replaced_in_one_transaction() {
    static OLD: Original<Function> = Original::new();
    extern "C" fn more(value: u64) -> u64 {
        OLD.get()(value) + 1000
    }
    let all = patient().every_copy();
    let mut change = Transaction::new();
    change.replace_fn("live::copied::thrice", &OLD, more as Function);
    let check = change.check_with(&all).unwrap();
    assert_eq!(check.functions.len(), 2);
    assert!(is_copies(&change.check().unwrap_err()), "what was found by another policy is not remembered");
    // SAFETY: same type.
    let applied = unsafe { change.commit(&all) }.unwrap();
    assert_eq!((thrice(1), thrice_again(1)), (1003, 1003));
    assert_eq!(applied.functions().count(), 2);
    applied.rollback_with(&patient()).unwrap();
    assert_eq!((thrice(1), thrice_again(1)), (3, 3));

    // By pointer, and one of them alone by its raw name.
    // SAFETY: same type.
    let hook = unsafe { replace_with(thrice_again as Function, zero as Function, &all) }.unwrap();
    assert_eq!((thrice(1), thrice_again(1), hook.original()(1)), (0, 0, 3));
    hook.applied().rollback_with(&patient()).unwrap();
    let mut change = Transaction::new();
    change.replace("_ZN4live6copied6thrice17h0123456789abcdefE", zero as *const ());
    // SAFETY: same type.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    assert_eq!((thrice(1), thrice_again(1)), (0, 3));
    applied.rollback_with(&patient()).unwrap();
}

#[test]
fn what_rustc_makes_copies_of_is_refused_too() {
    let folder = Folder::new();
    let source = "
        #[inline] fn twice(value: u64) -> u64 { std::hint::black_box(value) * 2 }
        macro_rules! caller { ($module:ident, $name:ident) => { mod $module {
            #[unsafe(no_mangle)] pub extern \"C\" fn $name(value: u64) -> u64 {
                std::hint::black_box(super::twice as fn(u64) -> u64)(value)
            }
        } } }
        caller!(one, call_one);
        caller!(two, call_two);
    ";
    let path =
        fixtures::rustc(&folder, "copies", source, &["-Ccodegen-units=16", "-Cincremental=incremental"]);
    // SAFETY: its constructors are those of std.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    let call = |name: &str, value| {
        // SAFETY: it has this type.
        let function = unsafe { library.get::<Function>(name.as_bytes()) }.unwrap();
        function(value)
    };
    let mut change = Transaction::new();
    extern "Rust" fn thousand(value: u64) -> u64 {
        value + 1000
    }
    change.replace("libcopies.so!copies::twice", thousand as *const ());
    let error = change.check().unwrap_err();
    assert!(matches!(&error, Error::Copies { copies, .. } if copies.len() == 2), "{error}");
    // SAFETY: the same compiler, the same type.
    let applied = unsafe { change.commit(&patient().every_copy()) }.unwrap();
    assert_eq!((call("call_one", 1), call("call_two", 1)), (1001, 1001));
    applied.rollback_with(&patient()).unwrap();
    assert_eq!((call("call_one", 1), call("call_two", 1)), (2, 2));
}

#[test]
fn folded_code_is_refused_with_its_names_unless_allowed() {
    let mut change = Transaction::new();
    change.replace("live_folded", zero as *const ());
    let error = change.check().unwrap_err();
    assert!(matches!(&error, Error::FoldedCode { names, .. } if *names == ["live_folded_with"]), "{error}");
    assert!(error.to_string().contains("Options::folded_code"), "{error}");
    // SAFETY: same type.
    let error = unsafe { replace(live_folded as Function, zero as Function) }.map(drop).unwrap_err();
    assert!(matches!(error, Error::FoldedCode { .. }), "{error}");
    let allowed = patient().folded_code();
    let check = change.check_with(&allowed).unwrap();
    assert!(check.to_string().contains("one with live_folded_with"), "{check}");
    // SAFETY: same type.
    let applied = unsafe { change.commit(&allowed) }.unwrap();
    assert_eq!(live_folded(1), 0);
    applied.rollback_with(&patient()).unwrap();
}

#[test]
fn a_second_name_that_an_author_gave_is_no_other_function() {
    for name in ["live_folded_alias", "live_second_name"] {
        let mut change = Transaction::new();
        change.replace(name, zero as *const ());
        let check = change.check_with(&emulator::options()).unwrap();
        assert!(check.functions[0].other_names.is_empty());
    }
    // glibc gives many of its functions several.
    for name in ["libc.so.6!fclose", "libc.so.6!malloc", "libc.so.6!puts"] {
        let mut change = Transaction::new();
        change.replace(name, zero as *const ());
        assert!(!matches!(change.check(), Err(Error::FoldedCode { .. })), "{name}");
    }
}
