//! Every function of a library that can be replaced is replaced, all in one transaction, each by a piece of code that
//! jumps to its original. Then the library works from its trampolines, and must do what it did: real work with known
//! answers, while several threads are in it. After the rollback every byte is as before.

mod apart;
mod c_library;
mod crowd;
mod crypto;
mod functions;
mod known;
mod math;
mod math_names;
mod sqlite;
mod thunks;
mod whole;
mod zlib;

use whole::Subject;

/// The shares of the functions, in thousandths, of which less would mean that the engine has lost a form of site.
const FLOOR: u64 = 990;

#[test]
fn zlib_works_from_its_trampolines() {
    Subject { test: "zlib_works_from_its_trampolines", library: "libz.so.1", floor: FLOOR, work: zlib::work }
        .run();
}

#[test]
fn sqlite_works_from_its_trampolines() {
    Subject {
        test: "sqlite_works_from_its_trampolines",
        library: "libsqlite3.so.0",
        floor: FLOOR,
        work: sqlite::work,
    }
    .run();
}

#[test]
fn libcrypto_works_from_its_trampolines() {
    Subject {
        test: "libcrypto_works_from_its_trampolines",
        library: "libcrypto.so.3",
        floor: FLOOR,
        work: crypto::work,
    }
    .run();
}

#[test]
fn libm_works_from_its_trampolines() {
    Subject { test: "libm_works_from_its_trampolines", library: "libm.so.6", floor: FLOOR, work: math::work }
        .run();
}
