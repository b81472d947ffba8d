//! The C library, replaced by itself: what a commit needs is replaced as well, so a commit that could not bear that would
//! hang or fall over its own feet.

use super::crowd::Crowd;
use super::functions::Loaded;
use super::thunks::{self, Place, Thunks};
use super::whole::{self, folder};
use super::{FLOOR, apart};
use crate::adds;
use crate::support::{fixtures::Folder, patient};
use midflight::{Error, Transaction};
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;
use std::time::{Duration, Instant};

adds! {
    live_identity_within + 1;
}

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

const LIBRARY: &str = "libc.so.6";
const THREADS: usize = 3;

#[test]
fn commits_go_on_while_the_whole_c_library_is_replaced() {
    const TEST: &str = "c_library::commits_go_on_while_the_whole_c_library_is_replaced";
    let loaded = Loaded::open(LIBRARY).unwrap();
    if apart::part(TEST).is_none() {
        let folder = Folder::new();
        print!("{}", apart::run_replaced(TEST, &folder.path(""), loaded.functions.len()));
    } else {
        the_whole(&loaded);
    }
}

fn the_whole(loaded: &Loaded) {
    let before = loaded.content();
    let crowd = Crowd::start(THREADS, round);
    for place in thunks::places() {
        crowd.a_round();
        let on = whole::replace(&loaded.functions, *place, FLOOR, loaded.indirect);
        crowd.a_round();
        another_commit();
        other_processes();
        crowd.a_round();
        on.report();
        let needed = NEEDED.iter().map(|name| (name, on.was_called(address(loaded, name))));
        let of = |wanted| needed.clone().filter(|one| one.1 == wanted).map(|one| *one.0).collect::<Vec<_>>();
        println!("    called: {:?}; replaced, but not called: {:?}", of(Some(true)), of(Some(false)));
        let enough = of(Some(true)).len() * 2 > NEEDED.len() || apart::is_chosen();
        assert!(enough, "what commits need was not called");
        let held = on.applied.rollback_with(&patient()).unwrap();
        println!("rolled back: {held}");
        crowd.a_round();
        assert!(before == loaded.content(), "some byte is not as before");
        another_commit();
    }
    println!("{} rounds", crowd.end());
}

/// What a commit calls, and what whoever stands in its way calls.
const NEEDED: &[&str] = &[
    "memcpy",
    "mmap",
    "munmap",
    "mprotect",
    "malloc",
    "free",
    "pthread_create",
    "sigaction",
    "close",
    "read",
    "syscall",
    "pthread_mutex_lock",
    "sched_yield",
    "dl_iterate_phdr",
    "pthread_sigmask",
];

#[test]
fn commits_go_on_while_a_function_that_they_need_is_replaced() {
    const TEST: &str = "c_library::commits_go_on_while_a_function_that_they_need_is_replaced";
    if apart::part(TEST).is_none() {
        let folder = Folder::new();
        print!("{}", apart::run(TEST, "replaced", &folder.path("")));
    } else {
        one_by_one();
    }
}

fn one_by_one() {
    let loaded = Loaded::open(LIBRARY).unwrap();
    let thunks = Thunks::new(NEEDED.len(), Place::Anywhere);
    let crowd = Crowd::start(THREADS, round);
    let mut replaced = 0;
    for (number, name) in NEEDED.iter().enumerate() {
        let mut change = Transaction::new();
        change.replace_fn(address(&loaded, name), thunks.original(number), thunks.replacement(number));
        // SAFETY: the replacement is the function, a few instructions later.
        match unsafe { change.commit(&patient().folded_code()) } {
            Ok(applied) => {
                another_commit();
                crowd.a_round();
                applied.rollback_with(&patient()).unwrap();
                replaced += 1;
                println!("{name}: {}", if thunks.was_called(number) { "called" } else { "not called" });
            }
            Err(error @ (Error::Refused { .. } | Error::NotAFunction { .. })) => {
                println!("{name}: {error}")
            }
            Err(error) => panic!("{name}: {error}"),
        }
        crowd.a_round();
    }
    assert!(replaced * 2 > NEEDED.len(), "only {replaced}");
    println!("{} rounds", crowd.end());
}

/// Where callers of `name` come to: of an indirect function, the implementation.
fn address(loaded: &Loaded, name: &str) -> *const () {
    // SAFETY: only its address is used.
    unsafe { loaded.symbol(name) }
}

/// A replacement goes on, works, and comes off.
fn another_commit() {
    let start = Instant::now();
    let mut change = Transaction::new();
    change.replace("live_identity_within", a_thousand as *const ());
    // SAFETY: same types.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    assert_eq!(live_identity_within(1), 1001);
    applied.rollback_with(&patient()).unwrap();
    assert_eq!(live_identity_within(1), 2);
    println!("    a commit and a rollback within: {:?}", start.elapsed());
}

/// One that is another program, and one that is a copy of this one and commits by itself.
fn other_processes() {
    assert!(Command::new("true").status().unwrap().success());
    // SAFETY: the child allocates, which the C library allows after fork(2), commits, and ends without more.
    let child = unsafe { libc::fork() };
    if child == 0 {
        another_commit();
        // SAFETY: ends this process.
        unsafe { libc::_exit(7) };
    }
    let mut status = 0;
    // SAFETY: a child of ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 7, "{status:x}");
}

/// Memory, threads, files, time, text: what programs ask the C library for.
fn round(number: usize) {
    let blocks: Vec<Vec<u8>> = (1..60).map(|size| vec![size as u8; size * size * 7]).collect();
    assert!(blocks.iter().all(|block| block.iter().all(|byte| usize::from(*byte).pow(2) * 7 == block.len())));
    let mut large = vec![1u8; 3 << 20];
    large.resize(7 << 20, 2);
    assert_eq!(large[(3 << 20) - 1..][..2], [1, 2]);
    let threads: Vec<_> = (0..3u64).map(|thread| std::thread::spawn(move || thread * 2)).collect();
    let results: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(results, [0, 2, 4]);
    let path = folder().join(format!("file{number}"));
    let mut file =
        std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
    file.write_all(&blocks[50]).unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    let mut back = Vec::new();
    file.read_to_end(&mut back).unwrap();
    assert!(back == blocks[50][5..]);
    drop(file);
    std::fs::remove_file(&path).unwrap();
    std::thread::sleep(Duration::from_micros(50));
    text();
    sorted();
    // Goes by libgcc to what tells of loaded libraries.
    let caught = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(number)));
    assert_eq!(*caught.unwrap_err().downcast::<usize>().unwrap(), number);
}

fn text() {
    let mut buffer = [0u8; 100];
    // SAFETY: within the buffer.
    let len = unsafe {
        libc::snprintf(
            buffer.as_mut_ptr().cast(),
            100,
            c"%d %s %.3f %x".as_ptr(),
            -5,
            c"and".as_ptr(),
            1.5f64,
            255,
        )
    };
    assert_eq!(&buffer[..len as usize], b"-5 and 1.500 ff");
    // SAFETY: strings.
    unsafe {
        assert_eq!(libc::strtol(c"-77x".as_ptr(), std::ptr::null_mut(), 10), -77);
        assert_eq!(libc::strtod(c"2.5e3".as_ptr(), std::ptr::null_mut()), 2500.0);
        assert_eq!(libc::strlen(libc::strchr(c"one two".as_ptr(), i32::from(b't'))), 3);
        let (mut time, seconds) = (std::mem::zeroed::<libc::tm>(), 86_400i64 * 365);
        libc::gmtime_r(&raw const seconds, &raw mut time);
        assert_eq!((time.tm_year, time.tm_yday), (71, 0));
    }
}

fn sorted() {
    unsafe extern "C" fn compare(one: *const libc::c_void, other: *const libc::c_void) -> i32 {
        // SAFETY: places in the array.
        let (one, other) = unsafe { (*one.cast::<u32>(), *other.cast::<u32>()) };
        one.cmp(&other) as i32
    }
    let mut numbers: Vec<u32> = (0..500u32).map(|number| number.wrapping_mul(2_654_435_761)).collect();
    let mut wanted = numbers.clone();
    wanted.sort_unstable();
    // SAFETY: the array, its length, and the size of each.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 500, 4, Some(compare)) };
    assert_eq!(numbers, wanted);
}
