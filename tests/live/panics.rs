//! Panics and exceptions pass the border between a patch library and the program, in both directions.

use crate::support::fixtures::{self, Folder};
use crate::support::{child, emulator};
use midflight::{Applied, ForeignPanic, Patch};
use std::any::Any;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

#[allow(dead_code, reason = "the example's service, of which not everything is needed here")]
#[path = "../../examples/time_service/service.rs"]
mod service;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[inline(never)]
fn work(task: &str, callback: &dyn Fn(&str) -> usize) -> usize {
    match task {
        "original" => panic_any(vec![1u16, 2, 3]),
        _ => callback(task),
    }
}

#[inline(never)]
fn by_path(value: u64) -> u64 {
    black_box(value) + 1
}

/// Ends the thread that calls it: pthread_exit(3) unwinds the stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C-unwind" fn live_panics_exit(value: u64) -> u64 {
    unsafe extern "C-unwind" {
        fn pthread_exit(value: *mut std::ffi::c_void) -> !;
    }
    // SAFETY: the frames above are `in_thread` and the patch, which allow it.
    unsafe { pthread_exit(black_box(value) as *mut std::ffi::c_void) }
}

/// A host in C++.
const CPP: &str = r#"
    #include <cstring>
    #include <stdexcept>
    struct Guard { int *drops; ~Guard() { ++*drops; } };
    extern "C" __attribute__((noipa)) int cpp_thrower(int value)
    {
        if (value == 13) throw std::runtime_error("thirteen");
        return value;
    }
    extern "C" __attribute__((noipa)) int cpp_target(int value) { return value * 3 + 11; }
    extern "C" int cpp_call(int (*function)(int), int value, int *drops)
    {
        try { Guard guard{drops}; return function(value); }
        catch (const std::exception &error) { return -static_cast<int>(std::strlen(error.what())); }
    }
"#;

type CppFunction = unsafe extern "C-unwind" fn(i32) -> i32;

struct Cpp {
    library: libloading::Library,
    /// It was loaded from there, and its symbols are read there.
    _folder: Folder,
}

impl Cpp {
    fn load() -> Self {
        let folder = Folder::new();
        let path = folder.library_in_cpp("libcpp_host.so", CPP, &[""; 0]);
        // SAFETY: it has no constructors of its own.
        let library = unsafe { libloading::Library::new(path) }.unwrap();
        Self { library, _folder: folder }
    }

    /// What `function` of `value` is, as C++ sees it (an exception is minus the length of its text), and
    /// how many drops of the caller ran.
    fn call(&self, function: &str, value: i32) -> (i32, i32) {
        // SAFETY: it has this type.
        let function = unsafe { self.library.get::<CppFunction>(function.as_bytes()) }.unwrap();
        // SAFETY: as above.
        let call = unsafe {
            self.library.get::<unsafe extern "C" fn(CppFunction, i32, *mut i32) -> i32>(b"cpp_call")
        };
        let mut drops = 0;
        // SAFETY: as above.
        let result = unsafe { call.unwrap()(*function, value, &raw mut drops) };
        (result, drops)
    }
}

/// Everything that the patch library needs, and the patch on.
fn apply() -> (Cpp, Applied) {
    let cpp = Cpp::load();
    let patch = Patch::open(fixtures::panics()).unwrap();
    // SAFETY: built for these targets.
    let applied = unsafe { patch.apply(&patient()) }.unwrap();
    (cpp, applied)
}

/// The tests have an allocator of their own; what crosses the border here was allocated by neither.
fn patient() -> midflight::Options {
    crate::support::patient().allow_other_runtime()
}

fn none(_: &str) -> usize {
    0
}

/// What the caller of `work` catches, having dropped what it held.
fn caught(task: &str, callback: &dyn Fn(&str) -> usize) -> Box<dyn Any + Send> {
    struct Guard<'d>(&'d AtomicUsize);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "the panic is one of this runtime");
            self.0.fetch_add(1, SeqCst);
        }
    }
    let drops = AtomicUsize::new(0);
    let call = || {
        let _guard = Guard(&drops);
        work(black_box(task), callback)
    };
    let payload = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
    assert_eq!(drops.load(SeqCst), 1);
    assert!(!std::thread::panicking());
    payload
}

fn text(payload: &(dyn Any + Send)) -> &str {
    payload.downcast_ref::<String>().unwrap()
}

#[test]
fn a_panic_of_a_replacement_is_caught_by_the_program() {
    child::run("panics::a_panic_of_a_replacement_is_caught_by_the_program", || {
        let (_cpp, applied) = apply();
        assert_eq!(text(&*caught("literal", &none)), "a literal");
        assert_eq!(text(&*caught("formatted", &none)), "in formatted, number 1");
        assert!(caught("typed", &none).is::<ForeignPanic>());
        assert_eq!(work("caught", &none), 1, "its own panics it may catch itself");
        assert_eq!(work("drops", &none), 4, "each unwound the frame of the replacement too");
        assert_eq!(by_path(1), 1001);
        let payload = catch_unwind(|| by_path(black_box(13))).unwrap_err();
        assert!(text(&*payload).contains("by path"));

        // Again and again, in several threads at once.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        assert_eq!(text(&*caught("literal", &none)), "a literal");
                    }
                });
            }
        });
        // A thread that dies of it is joined with it.
        let payload = std::thread::spawn(|| work("literal", &none)).join().unwrap_err();
        assert_eq!(text(&*payload), "a literal");
        applied.rollback_with(&patient()).unwrap();
        assert!(catch_unwind(|| work("original", &none)).is_err(), "the old code panics by itself");
        assert_eq!(work("literal", &none), 0);
    });
}

#[test]
fn a_panic_of_the_program_passes_a_replacement() {
    child::run("panics::a_panic_of_the_program_passes_a_replacement", || {
        let (_cpp, _applied) = apply();
        // Of the original, with a payload of any type; and of a callback.
        let payload = caught("original", &none);
        assert_eq!(payload.downcast_ref::<Vec<u16>>(), Some(&vec![1, 2, 3]));
        let payload = caught("callback", &|_| panic_any(3.5f64));
        assert_eq!(payload.downcast_ref(), Some(&3.5f64));
        assert_eq!(work("drops", &none), 2, "the replacement's drops ran");
        // There and back: the replacement calls the program, which calls the replacement, which panics.
        let payload = caught("callback", &|_| work("literal", &none));
        assert_eq!(text(&*payload), "a literal");
        // What a callback catches does not trouble the replacement.
        let catches = |_: &str| catch_unwind(|| work("literal", &none)).is_err().into();
        assert_eq!(work("callback", &catches), 1);
        // A panic while another one unwinds is caught where it should be.
        struct Nested;
        impl Drop for Nested {
            fn drop(&mut self) {
                assert_eq!(text(&*catch_unwind(|| work("literal", &none)).unwrap_err()), "a literal");
            }
        }
        let payload = caught("callback", &|_| {
            let _nested = Nested;
            panic_any(1u8)
        });
        assert_eq!(payload.downcast_ref(), Some(&1u8));
    });
}

#[test]
fn exceptions_of_cpp_pass() {
    child::run("panics::exceptions_of_cpp_pass", || {
        let (cpp, applied) = apply();
        // Thrown in C++, caught in C++, through a replacement in Rust.
        assert_eq!(cpp.call("cpp_thrower", 1), (1001, 1));
        assert_eq!(cpp.call("cpp_thrower", 13), (-8, 1));
        assert_eq!(work("drops", &none), 2);
        applied.rollback_with(&patient()).unwrap();
        assert_eq!(cpp.call("cpp_thrower", 13), (-8, 1));

        // Thrown by a replacement in C++.
        let folder = Folder::new();
        let source = r#"
            #include <midflight/patch.h>
            #include <stdexcept>
            static int (*old)(int);
            static int thrower(int value)
            {
                if (value == 2) throw std::out_of_range("two");
                return old(value) + 100;
            }
            MIDFLIGHT_PATCH("throws");
            MIDFLIGHT_REPLACE_ORIGINAL("cpp_target", thrower, old);
        "#;
        let patch = Patch::open(folder.library_in_cpp("libthrows.so", source, &[""; 0])).unwrap();
        // SAFETY: same type.
        let applied = unsafe { patch.apply(&patient()) }.unwrap();
        assert_eq!(cpp.call("cpp_target", 1), (114, 1));
        assert_eq!(cpp.call("cpp_target", 2), (-3, 1));
        applied.rollback_with(&patient()).unwrap();
        assert_eq!(cpp.call("cpp_target", 2), (17, 1));
    });
}

#[test]
fn the_end_of_a_thread_passes_a_replacement() {
    child::run("panics::the_end_of_a_thread_passes_a_replacement", || {
        extern "C-unwind" fn in_thread(_: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
            live_panics_exit(black_box(5)) as *mut std::ffi::c_void
        }
        let (_cpp, _applied) = apply();
        let mut thread = 0;
        // SAFETY: the same function, but for what may leave it: unwinding ends at the thread's first frame.
        let start = unsafe {
            std::mem::transmute::<
                extern "C-unwind" fn(*mut std::ffi::c_void) -> *mut std::ffi::c_void,
                extern "C" fn(*mut std::ffi::c_void) -> *mut std::ffi::c_void,
            >(in_thread)
        };
        // SAFETY: the function takes no argument.
        let started =
            unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), start, std::ptr::null_mut()) };
        assert_eq!(started, 0);
        let mut answer = std::ptr::null_mut();
        // SAFETY: the thread runs and is joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, &raw mut answer) }, 0);
        assert_eq!(answer as usize, 5);
        assert_eq!(work("drops", &none), 1);
    });
}

#[test]
fn one_request_fails_and_the_service_goes_on() {
    child::run("panics::one_request_fails_and_the_service_goes_on", || {
        let service = service::Service::start(0).unwrap();
        let request = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(service.address())?;
            stream.write_all(b"GET /time HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        assert!(request().unwrap().starts_with("HTTP/1.1 200"));
        let (_cpp, applied) = apply();
        let replies: Vec<_> = (0..6).map(|_| request()).collect();
        for (number, reply) in replies.iter().enumerate() {
            let is_well = matches!(reply, Ok(reply) if reply.contains(&format!("call {number}, true")));
            assert_eq!(is_well, number != 2, "{replies:?}");
        }
        assert_eq!(service.served(), 7, "its state is what it was");
        applied.rollback_with(&patient()).unwrap();
        assert!(request().unwrap().starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn with_one_compiler_and_allocator_a_panic_keeps_its_type() {
    let program = fixtures::plain_host();
    let output = emulator::command(program).arg(fixtures::typed_panic()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = "notes: []\nnew thing\nSome(7) None\nNone Some(\"no quote for a text\")\nold thing\n";
    assert!(text.ends_with(expected), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
