//! Errors that need a special state of the process. Each leaves everything as it was.

use crate::adds;
use crate::support::fixtures::Folder;
use crate::support::{child, emulator, error_in_time, patient};
#[cfg(target_arch = "aarch64")]
use crate::target;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use midflight::{Applied, Error, NotSafe, Options, Original, Transaction, fault};
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::AtomicI32;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

adds! {
    live_shared_one + 1;
    live_shared_two + 2;
}

// A site that has an inside, so that it matters what is on stacks.
#[cfg(target_arch = "x86_64")]
adds! {
    live_errors + 1;
}
#[cfg(target_arch = "aarch64")]
target! {
    fn live_errors(u64) -> u64 { "add x0, x0, 1", "tbnz x0, 63, live_errors", "ret" }
}

// A symbol without a size.
std::arch::global_asm!(
    ".pushsection .text.live_odd,\"axR\",@progbits",
    ".p2align 4",
    ".globl live_no_size",
    ".hidden live_no_size",
    ".type live_no_size,@function",
    "live_no_size:",
    #[cfg(target_arch = "x86_64")]
    "lea rax, [rdi + 1]",
    #[cfg(target_arch = "aarch64")]
    "add x0, x0, 1",
    "ret",
    // Another, whose unwind information has it.
    ".p2align 4",
    ".globl live_unwound_size",
    ".hidden live_unwound_size",
    ".type live_unwound_size,@function",
    "live_unwound_size:",
    ".cfi_startproc",
    #[cfg(target_arch = "x86_64")]
    "lea rax, [rdi + 1]",
    #[cfg(target_arch = "x86_64")]
    "nop",
    #[cfg(target_arch = "aarch64")]
    "add x0, x0, 1",
    "ret",
    ".cfi_endproc",
    ".popsection",
);

unsafe extern "C" {
    safe fn live_unwound_size(_: u64) -> u64;
}

// A symbol that begins inside the site of another.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.live_outer,\"axR\",@progbits",
    ".p2align 4",
    ".globl live_outer",
    ".hidden live_outer",
    ".type live_outer,@function",
    // The prefix of a nop of two bytes, so that one of one byte begins behind it.
    "live_outer: .byte 0x66",
    ".globl live_inner",
    ".hidden live_inner",
    ".type live_inner,@function",
    "live_inner: nop",
    "lea rax, [rdi + 1]",
    "nop",
    "nop",
    "nop",
    "ret",
    ".size live_outer, . - live_outer",
    ".size live_inner, . - live_inner",
    // One that begins behind the first instruction of another is no obstacle.
    ".p2align 4",
    ".globl live_around",
    ".hidden live_around",
    ".type live_around,@function",
    "live_around: nop",
    "mov eax, edi",
    ".globl live_within",
    ".hidden live_within",
    ".type live_within,@function",
    "live_within: lea rax, [rdi + 1]",
    "nop",
    "ret",
    ".size live_around, . - live_around",
    ".size live_within, . - live_within",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    safe fn live_inner(_: u64) -> u64;
    safe fn live_around(_: u64) -> u64;
    safe fn live_within(_: u64) -> u64;
}

extern "C" fn zero(_: u64) -> u64 {
    0
}

fn commit(names: &[&str], options: &Options) -> Result<Applied, Error> {
    let mut change = Transaction::new();
    for name in names {
        change.replace(*name, zero as *const ());
    }
    // SAFETY: every target here takes a number and gives one.
    unsafe { change.commit(options) }
}

fn soon() -> Options {
    emulator::options().deadline(Duration::from_millis(200))
}

#[test]
fn a_function_without_a_size() {
    let error = commit(&["live_no_size"], &patient()).unwrap_err();
    assert!(matches!(&error, Error::UnknownSize { target, .. } if target == "live_no_size"), "{error}");

    let applied = commit(&["live_unwound_size"], &patient()).unwrap();
    assert_eq!(live_unwound_size(1), 0);
    applied.rollback_with(&patient()).unwrap();
    assert_eq!(live_unwound_size(1), 2);
}

// A word has one beginning. For sites of two see `landing_pads`.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_site_over_the_beginning_of_another_function() {
    let error = commit(&["live_outer"], &patient()).unwrap_err();
    let inner = live_inner as *const () as u64;
    assert!(matches!(&error, Error::Overlap { other_address, .. } if *other_address == inner), "{error}");
    commit(&["live_inner"], &patient()).unwrap().rollback_with(&patient()).unwrap();

    let applied = commit(&["live_around"], &patient()).unwrap();
    assert_eq!((live_around(1), live_within(1)), (0, 2));
    applied.rollback_with(&patient()).unwrap();
    assert_eq!((live_around(1), live_within(1)), (2, 2));
}

#[test]
fn one_original_for_two() {
    static SHARED: Original<extern "C" fn(u64) -> u64> = Original::new();
    let mut change = Transaction::new();
    change.replace_fn("live_shared_one", &SHARED, zero as extern "C" fn(u64) -> u64);
    // SAFETY: same types.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    // The same transaction again, which would make its own replacement the original.
    // SAFETY: as above.
    let error = unsafe { change.commit(&patient()) }.unwrap_err();
    assert!(matches!(&error, Error::OriginalInUse { other, .. } if other == "live_shared_one"), "{error}");
    assert_eq!(SHARED.get()(1), 2, "the original is as it was");
    applied.rollback_with(&patient()).unwrap();
    change.replace_fn("live_shared_two", &SHARED, zero as extern "C" fn(u64) -> u64);
    // SAFETY: as above.
    let error = unsafe { change.commit(&patient()) }.unwrap_err();
    assert!(matches!(&error, Error::OriginalInUse { .. }), "{error}");
    assert_eq!((live_shared_one(1), live_shared_two(1)), (2, 3));
}

#[test]
fn a_check_tells_what_only_the_changes_show() {
    let mut change = Transaction::new();
    change.replace("live_shared_one", std::ptr::null());
    assert!(matches!(change.check(), Err(Error::ReplacementNotCode { .. })));
    let mut change = Transaction::new();
    change.replace("live_shared_one", zero as *const ());
    change.replace(live_shared_one as *const (), zero as *const ());
    assert!(matches!(change.check(), Err(Error::DuplicateTarget { .. })));
}

#[test]
fn a_stack_too_large_to_be_looked_through() {
    child::run("errors::a_stack_too_large_to_be_looked_through", || {
        static READY: AtomicBool = AtomicBool::new(false);
        static DONE: AtomicBool = AtomicBool::new(false);
        // A thread whose stack is the lower end of 16 GiB that are reserved only.
        const SIZE: usize = 16 << 30;
        extern "C" fn wait(_: *mut libc::c_void) -> *mut libc::c_void {
            READY.store(true, SeqCst);
            while !DONE.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::ptr::null_mut()
        }
        // SAFETY: memory of its own, which outlives the thread.
        let thread = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let memory = libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, -1, 0);
            assert_ne!(memory, libc::MAP_FAILED);
            let mut attributes = std::mem::zeroed();
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setstack(&raw mut attributes, memory, 1 << 20);
            let mut thread = std::mem::zeroed();
            let created =
                libc::pthread_create(&raw mut thread, &raw const attributes, wait, std::ptr::null_mut());
            assert_eq!(created, 0);
            thread
        };
        while !READY.load(SeqCst) {
            std::thread::yield_now();
        }
        let start = std::time::Instant::now();
        let large = |error: &Error| matches!(error, Error::Deadline { reason: NotSafe::LargeStack, .. });
        let error = error_in_time(|options| commit(&["live_errors"], options), large);
        assert!(large(&error), "{error}");
        println!("gave up after {:?}", start.elapsed());
        assert_eq!(live_errors(1), 2);
        DONE.store(true, SeqCst);
        // SAFETY: the thread created above.
        unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
    });
}

#[test]
fn after_the_main_thread_has_ended() {
    if emulator::is_there() {
        return; // The map that is left then, that of a thread, is the emulator's own.
    }
    child::run("errors::after_the_main_thread_has_ended", || {
        // A process whose first thread ends before the others: forked, so that the test's own goes on.
        // SAFETY: the child uses nothing that other threads could have locked: there is only this one.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let options = patient();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                let result = commit(&["live_errors"], &options).and_then(|on| on.rollback_with(&options));
                if let Err(error) = &result {
                    eprintln!("{error}");
                }
                // SAFETY: ends the process.
                unsafe { libc::_exit(i32::from(result.is_err())) };
            });
            // SAFETY: a system call that ends this thread alone.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        let mut status = 0;
        // SAFETY: a child of ours.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(status, 0);
    });
}

#[test]
fn a_module_whose_file_was_replaced() {
    let folder = Folder::new();
    let source = |body: &str| {
        format!("unsigned long odd(unsigned long v) {{ static volatile long o; {body} return v + o; }}")
    };
    let library = folder.library("libodd.so", &source(""));
    // SAFETY: a library of plain functions.
    let _opened = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_LOCAL) }.unwrap();
    commit(&["libodd.so!odd"], &patient()).unwrap().rollback_with(&patient()).unwrap();
    // Another build under the same name, with the same segments but other code; then something else.
    std::fs::remove_file(&library).unwrap();
    folder.library("libodd.so", &source("o++;"));
    let error = commit(&["libodd.so!odd"], &patient()).unwrap_err();
    assert!(matches!(&error, Error::EntryModified { .. } | Error::BadModule { .. }), "{error}");
    std::fs::remove_file(&library).unwrap();
    folder.library("libodd.so", "char large[99999] = {1}; int odd(void) { return 1; }");
    let error = commit(&["libodd.so!odd"], &patient()).unwrap_err();
    assert!(matches!(&error, Error::BadModule { reason, .. } if reason.contains("replaced")), "{error}");
    std::fs::write(&library, "short").unwrap();
    let error = commit(&["libodd.so!odd"], &patient()).unwrap_err();
    assert!(matches!(&error, Error::BadModule { .. }), "{error}");
}

#[test]
fn every_signal_is_in_use() {
    child::run("errors::every_signal_is_in_use", || {
        extern "C" fn mine(_: i32) {}
        for signal in (36..=60).chain([libc::SIGURG]) {
            // SAFETY: a handler that does nothing.
            unsafe { libc::signal(signal, mine as *const () as usize) };
        }
        let error = commit(&["live_errors"], &patient()).unwrap_err();
        assert!(matches!(error, Error::NoSignal), "{error}");
        // SAFETY: the default again.
        unsafe { libc::signal(40, libc::SIG_DFL) };
        commit(&["live_errors"], &patient()).unwrap().rollback_with(&patient()).unwrap();
    });
}

// One word has no inside. For sites of two see `landing_pads`.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_address_inside_the_site_on_a_stack() {
    child::run("errors::an_address_inside_the_site_on_a_stack", || {
        static READY: AtomicBool = AtomicBool::new(false);
        static DONE: AtomicBool = AtomicBool::new(false);
        static TID: AtomicI32 = AtomicI32::new(0);
        let thread = std::thread::spawn(|| {
            // As if a signal handler had interrupted the target there.
            let word = live_errors as *const () as u64 + 4;
            let place = std::hint::black_box(&word);
            // SAFETY: asks for its own number.
            TID.store(unsafe { libc::gettid() }, SeqCst);
            READY.store(true, SeqCst);
            while !DONE.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::hint::black_box(place);
        });
        while !READY.load(SeqCst) {
            std::thread::yield_now();
        }
        let inside = live_errors as *const () as u64 + 4;
        let told = |error: &Error| {
            matches!(error, Error::Deadline { thread, reason: NotSafe::ReturnsIntoSite { address }, .. }
                if thread.tid == TID.load(SeqCst) && *address == inside)
        };
        // Where one way to read memory is refused there is another.
        for refused in [false, true] {
            if refused {
                fault::fail(libc::SYS_process_vm_readv, 0, u32::MAX, libc::EPERM);
            }
            let error = error_in_time(|options| commit(&["live_errors"], options), told);
            assert!(told(&error), "{error}");
            assert_eq!(live_errors(1), 2);
        }
        fault::heal();
        DONE.store(true, SeqCst);
        thread.join().unwrap();
        commit(&["live_errors"], &patient()).unwrap().rollback_with(&patient()).unwrap();
    });
}

#[test]
fn a_stack_that_cannot_be_read() {
    child::run("errors::a_stack_that_cannot_be_read", || {
        // The lock of all commits is looked for once; then the target is read first, then stacks.
        assert!(matches!(commit(&[], &patient()), Err(Error::Empty)));
        let unreadable = |error: &Error| {
            matches!(error, Error::Deadline { reason: NotSafe::UnreadableStack { errno }, .. }
                if *errno == libc::EIO)
        };
        let error = error_in_time(
            |options| {
                fault::fail(libc::SYS_process_vm_readv, 1, u32::MAX, libc::EIO);
                commit(&["live_errors"], options)
            },
            unreadable,
        );
        assert!(unreadable(&error), "{error}");
        fault::heal();
        assert_eq!(live_errors(1), 2);
    });
}

#[test]
fn a_thread_that_does_not_stop() {
    if emulator::is_there() {
        return; // It makes an ordinary fork of it, whose parent can be stopped.
    }
    child::run("errors::a_thread_that_does_not_stop", || {
        static DONE: AtomicBool = AtomicBool::new(false);
        // Its child runs in our memory until it ends; the kernel delivers no signal to the parent meanwhile.
        let parent = std::thread::Builder::new().name("vforks".into()).spawn(|| {
            vfork_and_sleep();
            DONE.store(true, SeqCst);
        });
        let parent = parent.unwrap();
        // In uninterruptible sleep: it waits for its child.
        let waits = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            tasks.into_iter().any(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.contains("(vforks) D")
            })
        };
        while !waits() && !DONE.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = commit(&["live_errors"], &soon());
        // On a machine so slow that the child had ended, there is nothing to be seen.
        if let Err(error) = error {
            let stuck = matches!(&error, Error::Deadline { thread, reason: NotSafe::DidNotStop { .. }, .. }
                if thread.name == "vforks");
            assert!(stuck, "{error}");
            assert_eq!(live_errors(1), 2);
        } else {
            assert!(DONE.load(SeqCst), "a thread that cannot be stopped was not waited for");
            error.unwrap().rollback_with(&patient()).unwrap();
        }
        parent.join().unwrap();
        commit(&["live_errors"], &patient()).unwrap().rollback_with(&patient()).unwrap();
    });
}

/// vfork(2) and three seconds of sleep in the child, which touches no memory.
#[cfg(target_arch = "x86_64")]
fn vfork_and_sleep() {
    let time = libc::timespec { tv_sec: 3, tv_nsec: 0 };
    // SAFETY: the child makes two system calls and changes no memory and no register that the parent needs.
    unsafe {
        std::arch::asm!(
            "mov eax, 58", // vfork
            "syscall",
            "test eax, eax",
            "jnz 2f",
            "mov eax, 35", // nanosleep
            "xor esi, esi",
            "syscall",
            "mov eax, 60", // exit
            "xor edi, edi",
            "syscall",
            "2:",
            in("rdi") &raw const time,
            out("rax") _, out("rsi") _, out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
}

/// As above, by clone(2).
#[cfg(target_arch = "aarch64")]
fn vfork_and_sleep() {
    let time = libc::timespec { tv_sec: 3, tv_nsec: 0 };
    // SAFETY: the child makes two system calls and changes no memory and no register that the parent needs.
    unsafe {
        std::arch::asm!(
            "mov x8, 220", // clone(CLONE_VFORK | CLONE_VM | SIGCHLD, the same stack)
            "svc 0",
            "cbnz x0, 2f",
            "mov x8, 101", // nanosleep
            "mov x0, x9",
            "mov x1, 0",
            "svc 0",
            "mov x8, 93", // exit
            "mov x0, 0",
            "svc 0",
            "2:",
            in("x9") &raw const time,
            inout("x0") 0x4111u64 => _, inout("x1") 0u64 => _, in("x2") 0, in("x3") 0, in("x4") 0, out("x8") _,
            options(nostack),
        );
    }
}

#[test]
fn another_commit_is_waited_for_until_the_deadline() {
    child::run("errors::another_commit_is_waited_for_until_the_deadline", || {
        static INSIDE: AtomicBool = AtomicBool::new(false);
        static GO_ON: AtomicBool = AtomicBool::new(false);
        fn stay(stage: fault::Stage) {
            if stage == fault::Stage::Prepared {
                INSIDE.store(true, SeqCst);
                while !GO_ON.load(SeqCst) {
                    std::hint::spin_loop();
                }
            }
        }
        fault::observe(Some(stay));
        let first = std::thread::spawn(|| commit(&["live_errors"], &patient()).unwrap());
        while !INSIDE.load(SeqCst) {
            std::thread::yield_now();
        }
        let error = commit(&["live_inner"], &soon()).unwrap_err();
        assert!(matches!(error, Error::Busy { waited } if waited == Duration::from_millis(200)), "{error}");
        GO_ON.store(true, SeqCst);
        first.join().unwrap().rollback_with(&patient()).unwrap();
    });
}

#[test]
fn a_commit_inside_a_commit() {
    child::run("errors::a_commit_inside_a_commit", || {
        static NESTED: AtomicBool = AtomicBool::new(false);
        fn commit_again(stage: fault::Stage) {
            if stage == fault::Stage::Prepared {
                let nested = commit(&["live_inner"], &patient());
                NESTED.store(matches!(nested, Err(Error::Nested)), SeqCst);
            }
        }
        fault::observe(Some(commit_again));
        commit(&["live_errors"], &patient()).unwrap().rollback_with(&patient()).unwrap();
        assert!(NESTED.load(SeqCst));
    });
}
