//! What `patch!` writes, read back from this test's own section in memory.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use midflight_patch::border::ATTACH;
use midflight_patch::format::{self, ALIGN, HEADER_SIZE, Header, KIND_ATTACH, KIND_NAME, KIND_REPLACE};
use midflight_patch::{FnPointer, patch};

mod elsewhere {
    pub(crate) struct Place {
        pub(crate) name: &'static str,
    }

    impl Place {
        pub(crate) fn name(&self) -> &str {
            self.name
        }
    }

    pub(crate) fn identity<T>(value: T) -> T {
        value
    }
}

use elsewhere::Place;

patch! {
    /// Documented first, with another attribute after.
    #[replaces("app::shout", original = SHOUT)]
    #[must_use]
    fn shout(text: &str) -> String {
        SHOUT.try_get().map_or_else(|| text.to_uppercase(), |shout| shout(text))
    }

    name: concat!("records of ", "midflight"),

    #[inline(never)]
    #[replaces("app::pick")]
    /// A named lifetime, and `mut`, `_` and a pattern among the arguments.
    pub(crate) fn pick<'a>(mut one: &'a str, _: &str, (a, b): (usize, usize),) -> &'a str {
        one = &one[a..b];
        one
    }

    #[replaces("app::tail")]
    fn tail(text: &[u8]) -> &[u8] { &text[1..] }

    /// No arguments, no result.
    #[replaces("nothing",)]
    pub fn nothing() {}

    #[replaces("c_add", original = pub(crate) C_ADD,)]
    extern "C" fn c_add(one: c_int, other: c_int) -> c_int { one + other },

    #[replaces("c_free")]
    unsafe extern "C" fn c_free(_at: *mut u8) {}

    #[replaces("raw")]
    unsafe fn raw(at: *const u8) -> u8 {
        // SAFETY: the caller's promise.
        unsafe { *at }
    };

    "app::Place::name" => Place::name as fn(&Place) -> &str, original = NAME,
    "app::identity" => elsewhere::identity::<u64> as fn(u64) -> u64,
    "also::c_add" => c_add as extern "C" fn(c_int, c_int) -> c_int
}

unsafe extern "C" {
    // The linker makes these for every section whose name is a C identifier.
    static __start_midflight_patch: u8;
    static __stop_midflight_patch: u8;
}

#[derive(Debug, Clone, PartialEq)]
struct Found {
    kind: u16,
    text: String,
    a: *const (),
    b: *const (),
}

fn section() -> Vec<Found> {
    let start = &raw const __start_midflight_patch;
    let len = (&raw const __stop_midflight_patch).addr() - start.addr();
    // SAFETY: the linker's symbols enclose the section, which nothing changes after it was loaded.
    let bytes = unsafe { std::slice::from_raw_parts(start, len) };
    assert_eq!(start.addr() % ALIGN, 0);

    let pointer = |at: usize| {
        // SAFETY: `at` is inside the section.
        let place = unsafe { bytes.as_ptr().add(at) };
        // SAFETY: records are aligned to a pointer's size and their pointers stand at multiples of it.
        unsafe { *place.cast::<*const ()>() }
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < len {
        if bytes[at..at + ALIGN] == [0; ALIGN] {
            at += ALIGN;
            continue;
        }
        let header = Header::read(bytes[at..at + HEADER_SIZE].try_into().expect("a whole header"));
        assert_eq!(header.magic, format::MAGIC);
        assert_eq!(header.version, format::VERSION);
        assert_eq!(header.size as usize, HEADER_SIZE + format::text_space(header.text_len as usize));
        let end = at + HEADER_SIZE + header.text_len as usize;
        let text = String::from_utf8(bytes[at + HEADER_SIZE..end].to_vec()).expect("UTF-8");
        assert!(bytes[end..at + header.size as usize].iter().all(|&byte| byte == 0));
        found.push(Found {
            kind: header.kind,
            text,
            a: pointer(at + format::POINTER_A),
            b: pointer(at + format::POINTER_B),
        });
        at += header.size as usize;
    }
    found
}

#[test]
fn every_item_has_its_record() {
    let replace = |target: &str, function: *const (), original: *const AtomicPtr<()>| Found {
        kind: KIND_REPLACE,
        text: target.to_owned(),
        a: function,
        b: original.cast(),
    };
    let none = ptr::null();
    let name =
        Found { kind: KIND_NAME, text: "records of midflight".to_owned(), a: ptr::null(), b: ptr::null() };
    let expected = [
        name,
        replace("app::shout", FnPointer::address(shout as fn(&str) -> String), SHOUT.as_slot()),
        replace("app::pick", pick as *const (), none),
        replace("app::tail", tail as *const (), none),
        replace("nothing", nothing as *const (), none),
        replace("c_add", c_add as *const (), C_ADD.as_slot()),
        replace("c_free", c_free as *const (), none),
        replace("raw", raw as *const (), none),
        Found {
            kind: KIND_ATTACH,
            text: concat!("midflight-patch ", env!("CARGO_PKG_VERSION")).to_owned(),
            a: ATTACH as *const (),
            b: none.cast(),
        },
    ];
    let mut found = section();
    let by_path = ["app::Place::name", "app::identity", "also::c_add"].map(|target| {
        let place = found.iter().position(|record| record.text == target).unwrap();
        found.swap_remove(place)
    });
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for record in expected {
        assert!(found.contains(&record), "{record:?} is not in {found:#?}");
    }

    // What is named by its path is called from a function of the same type, behind the border.
    let [name, identity, c_add] = by_path;
    assert_eq!([name.b, identity.b, c_add.b], [NAME.as_slot().cast(), none.cast(), none.cast()]);
    // SAFETY: the record is about a function of this type.
    let name = unsafe { <fn(&Place) -> &str>::from_address(name.a) };
    // SAFETY: as above.
    let identity = unsafe { <fn(u64) -> u64>::from_address(identity.a) };
    // SAFETY: as above.
    let c_add = unsafe { <extern "C" fn(c_int, c_int) -> c_int>::from_address(c_add.a) };
    assert_eq!((name(&Place { name: "Bern" }), identity(7), c_add(1, 2)), ("Bern", 7, 3));
}

#[test]
fn replacements_are_ordinary_functions() {
    assert_eq!(shout("a"), "A");
    assert_eq!(pick("abc", "", (1, 2)), "b");
    assert_eq!(tail(b"ab"), b"b");
    assert_eq!(c_add(1, 2), 3);
    nothing();
}

#[test]
fn a_filled_original_is_called() {
    fn quiet(place: &Place) -> &str {
        &place.name()[..1]
    }
    assert!(NAME.try_get().is_none());
    // SAFETY: a static's cell is valid for ever.
    let slot = unsafe { &*NAME.as_slot() };
    slot.store(FnPointer::address(quiet as fn(&Place) -> &str).cast_mut(), Ordering::Release);
    assert_eq!(NAME.get()(&Place { name: "Bern" }), "B");
}
