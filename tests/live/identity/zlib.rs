//! Work for zlib: compress at all levels and strategies, expand again, in one piece and in small ones, and to files.

use super::functions::Loaded;
use std::ffi::{CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `z_stream` (zlib.h).
#[repr(C)]
struct Stream {
    next_in: *const u8,
    avail_in: c_uint,
    total_in: c_ulong,
    next_out: *mut u8,
    avail_out: c_uint,
    total_out: c_ulong,
    msg: *const c_char,
    state: *mut c_void,
    zalloc: *mut c_void,
    zfree: *mut c_void,
    opaque: *mut c_void,
    data_type: c_int,
    adler: c_ulong,
    reserved: c_ulong,
}

type Step = unsafe extern "C" fn(*mut Stream, c_int) -> c_int;
type End = unsafe extern "C" fn(*mut Stream) -> c_int;
type Check = unsafe extern "C" fn(c_ulong, *const u8, c_uint) -> c_ulong;
type Combine = unsafe extern "C" fn(c_ulong, c_ulong, libc::off_t) -> c_ulong;
type DeflateInit =
    unsafe extern "C" fn(*mut Stream, c_int, c_int, c_int, c_int, c_int, *const c_char, c_int) -> c_int;
type InflateInit = unsafe extern "C" fn(*mut Stream, c_int, *const c_char, c_int) -> c_int;
type Whole = unsafe extern "C" fn(*mut u8, *mut c_ulong, *const u8, c_ulong) -> c_int;

const NO_FLUSH: c_int = 0;
const FINISH: c_int = 4;
const STREAM_END: c_int = 1;

/// Text that compresses, then bytes that do not.
fn data() -> Vec<u8> {
    let mut data = Vec::new();
    for number in 0..600u32 {
        data.extend_from_slice(
            format!("{number} times {} is {}\n", number % 17, number * (number % 17)).as_bytes(),
        );
    }
    let mut state = 1u32;
    data.extend((0..8000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    data
}

pub fn work(z: &Loaded, path: &Path) -> String {
    let (mut text, data) = (String::new(), data());
    checks(z, &data);
    whole(z, &data);
    for (level, strategy) in [(0, 0), (1, 0), (3, 0), (6, 0), (9, 0), (6, 1), (6, 2), (6, 3), (6, 4)] {
        // Of zlib, of gzip, and bare.
        for window in [15, 15 + 16, -15] {
            let packed = deflate(z, &data, level, strategy, window);
            assert!(inflate(z, &packed, window, data.len()) == data, "level {level}, window {window}");
            writeln!(text, "{level} {strategy} {window}: {} {:08x}", packed.len(), crc(z, &packed)).unwrap();
        }
    }
    let size = files(z, &data, path);
    writeln!(text, "gz: {size}").unwrap();
    text
}

/// The checksums of "123456789" are in every catalogue of them, that of "Wikipedia" is in the article on Adler-32.
fn checks(z: &Loaded, data: &[u8]) {
    // SAFETY: their types (zlib.h).
    let (crc32, adler32, combine): (Check, Check, Combine) =
        unsafe { (z.symbol("crc32"), z.symbol("adler32"), z.symbol("crc32_combine")) };
    let of = |check: Check, start, data: &[u8]| {
        // SAFETY: the bytes of a slice.
        unsafe { check(start, data.as_ptr(), data.len() as c_uint) }
    };
    assert_eq!(of(crc32, 0, b"123456789"), 0xcbf4_3926);
    assert_eq!(of(adler32, 1, b"123456789"), 0x091e_01de);
    assert_eq!(of(adler32, 1, b"Wikipedia"), 0x11e6_0398);
    let (one, other) = data.split_at(data.len() / 3);
    let whole = of(crc32, 0, data);
    assert_eq!(of(crc32, of(crc32, 0, one), other), whole);
    // SAFETY: numbers.
    let combined = unsafe { combine(of(crc32, 0, one), of(crc32, 0, other), other.len() as libc::off_t) };
    assert_eq!(combined, whole);
}

fn crc(z: &Loaded, data: &[u8]) -> c_ulong {
    // SAFETY: its type, and the bytes of a slice.
    unsafe { z.symbol::<Check>("crc32")(0, data.as_ptr(), data.len() as c_uint) }
}

/// By the functions that do it in one call.
fn whole(z: &Loaded, data: &[u8]) {
    // SAFETY: their types.
    let (compress, uncompress, bound): (Whole, Whole, unsafe extern "C" fn(c_ulong) -> c_ulong) =
        unsafe { (z.symbol("compress"), z.symbol("uncompress"), z.symbol("compressBound")) };
    // SAFETY: a number.
    let mut packed = vec![0; unsafe { bound(data.len() as c_ulong) } as usize];
    let mut len = packed.len() as c_ulong;
    // SAFETY: the slices and their lengths.
    let answer = unsafe { compress(packed.as_mut_ptr(), &raw mut len, data.as_ptr(), data.len() as c_ulong) };
    assert_eq!(answer, 0);
    let (mut plain, mut plain_len) = (vec![0; data.len()], data.len() as c_ulong);
    // SAFETY: as before.
    assert_eq!(unsafe { uncompress(plain.as_mut_ptr(), &raw mut plain_len, packed.as_ptr(), len) }, 0);
    assert!(plain == data && plain_len as usize == data.len());
    let last = len as usize - 1;
    packed[last] ^= 1;
    // SAFETY: as before.
    let broken = unsafe { uncompress(plain.as_mut_ptr(), &raw mut plain_len, packed.as_ptr(), len) };
    assert_eq!(broken, -3, "a wrong checksum is a data error");
}

fn stream() -> Stream {
    // SAFETY: numbers and pointers, which may be null.
    unsafe { std::mem::zeroed() }
}

fn version(z: &Loaded) -> *const c_char {
    // SAFETY: its type.
    unsafe { z.symbol::<unsafe extern "C" fn() -> *const c_char>("zlibVersion")() }
}

fn deflate(z: &Loaded, data: &[u8], level: c_int, strategy: c_int, window: c_int) -> Vec<u8> {
    let mut stream = stream();
    // SAFETY: their types.
    let (init, step, end): (DeflateInit, Step, End) =
        unsafe { (z.symbol("deflateInit2_"), z.symbol("deflate"), z.symbol("deflateEnd")) };
    let size = size_of::<Stream>() as c_int;
    // SAFETY: an empty stream.
    assert_eq!(unsafe { init(&raw mut stream, level, 8, window, 8, strategy, version(z), size) }, 0);
    let packed = pump(&mut stream, step, data, 1000, data.len() + 1000);
    // SAFETY: a stream that was begun.
    assert_eq!(unsafe { end(&raw mut stream) }, 0);
    packed
}

fn inflate(z: &Loaded, packed: &[u8], window: c_int, len: usize) -> Vec<u8> {
    let mut stream = stream();
    // SAFETY: their types.
    let (init, step, end): (InflateInit, Step, End) =
        unsafe { (z.symbol("inflateInit2_"), z.symbol("inflate"), z.symbol("inflateEnd")) };
    // SAFETY: an empty stream.
    assert_eq!(unsafe { init(&raw mut stream, window, version(z), size_of::<Stream>() as c_int) }, 0);
    let plain = pump(&mut stream, step, packed, 777, len);
    // SAFETY: a stream that was begun.
    assert_eq!(unsafe { end(&raw mut stream) }, 0);
    plain
}

/// Feeds `input` in pieces.
fn pump(stream: &mut Stream, step: Step, input: &[u8], piece: usize, room: usize) -> Vec<u8> {
    let mut output = vec![0; room];
    (stream.next_out, stream.avail_out) = (output.as_mut_ptr(), room as c_uint);
    let pieces = input.chunks(piece);
    let last = pieces.len() - 1;
    for (number, piece) in pieces.enumerate() {
        (stream.next_in, stream.avail_in) = (piece.as_ptr(), piece.len() as c_uint);
        // SAFETY: the stream points to slices and their lengths.
        let answer = unsafe { step(stream, if number == last { FINISH } else { NO_FLUSH }) };
        assert_eq!(answer, if number == last { STREAM_END } else { 0 });
    }
    output.truncate(stream.total_out as usize);
    output
}

/// Through a file: lines written, read again, sought.
fn files(z: &Loaded, data: &[u8], path: &Path) -> u64 {
    type Open = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut c_void;
    type Transfer = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> c_int;
    type Seek = unsafe extern "C" fn(*mut c_void, libc::off_t, c_int) -> libc::off_t;
    type Close = unsafe extern "C" fn(*mut c_void) -> c_int;
    let path = path.with_extension("gz");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: their types.
    let (open, write, read, seek, close): (Open, Transfer, Transfer, Seek, Close) = unsafe {
        (z.symbol("gzopen"), z.symbol("gzwrite"), z.symbol("gzread"), z.symbol("gzseek"), z.symbol("gzclose"))
    };
    // SAFETY: strings.
    let file = unsafe { open(name.as_ptr(), c"wb7".as_ptr()) };
    assert!(!file.is_null());
    for piece in data.chunks(3000) {
        // SAFETY: an open file and a slice.
        let written = unsafe { write(file, piece.as_ptr().cast_mut().cast(), piece.len() as c_uint) };
        assert_eq!(written as usize, piece.len());
    }
    // SAFETY: an open file.
    assert_eq!(unsafe { close(file) }, 0);
    // SAFETY: strings.
    let file = unsafe { open(name.as_ptr(), c"rb".as_ptr()) };
    let mut plain = vec![0u8; data.len()];
    for from in [0, data.len() / 2, 100] {
        // SAFETY: an open file.
        assert_eq!(unsafe { seek(file, from as libc::off_t, libc::SEEK_SET) }, from as libc::off_t);
        let rest = &mut plain[from..];
        // SAFETY: an open file and a slice.
        let got = unsafe { read(file, rest.as_mut_ptr().cast(), rest.len() as c_uint) };
        assert_eq!(got as usize, rest.len());
        assert!(plain == data);
    }
    // SAFETY: an open file.
    assert_eq!(unsafe { close(file) }, 0);
    std::fs::metadata(path).unwrap().len()
}
