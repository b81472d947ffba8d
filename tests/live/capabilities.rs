//! What a process permits is found out without a commit, and a commit then does what was said.

use crate::adds;
use crate::support::{child, emulator, patient};
use midflight::{Capabilities, Capability, Support, Transaction, capabilities_with, fault};
use std::fs;
use std::time::{Duration, Instant};

adds! {
    live_capabilities + 1;
}

extern "C" fn nine(_: u64) -> u64 {
    9
}

/// Puts a replacement on and off again.
fn commit() -> midflight::Result<()> {
    let mut change = Transaction::new();
    change.replace("live_capabilities", nine as *const ());
    // SAFETY: same type.
    let applied = unsafe { change.commit(&patient()) }?;
    assert_eq!(live_capabilities(1), 9);
    applied.rollback_with(&patient()).map(drop)
}

/// What commits of these tests would meet.
fn capabilities_here() -> Capabilities {
    capabilities_with(&emulator::options())
}

/// As that, once no thread of the test harness is in the middle of starting another: the C library blocks all
/// signals there.
fn settled() -> Capabilities {
    let start = Instant::now();
    loop {
        let here = capabilities_here();
        let blocks = here.signal.why.as_ref().is_some_and(|why| why.contains("blocking"));
        if !blocks || start.elapsed() > Duration::from_secs(60) {
            return here;
        }
    }
}

fn disposition(signal: i32) -> usize {
    // SAFETY: only asks; all zeroes is a `sigaction`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action);
        action.sa_sigaction
    }
}

fn is(entry: &Capability, support: Support, used: &str, why: &str) -> bool {
    entry.support == support && entry.used.contains(used) && entry.why.as_deref().unwrap_or("").contains(why)
}

/// A test of its own process: `name` is the test's.
macro_rules! in_child {
    ($(fn $name:ident() $body:block)*) => {
        $(
            #[test]
            fn $name() {
                child::run(concat!("capabilities::", stringify!($name)), || $body);
            }
        )*
    };
}

in_child! {
    fn a_commit_uses_what_was_said() {
        let before = settled();
        assert!(before.worst() > Support::Missing, "{before}");
        assert_eq!((before.signal.used.as_str(), before.signal.why.as_ref()), ("SIGURG", None));
        // Some sandboxes have no membarrier.
        let has_barrier = before.barrier.support == Support::Full;
        assert_eq!(before.barrier.used.contains("to be registered"), has_barrier, "{before}");
        assert!(is(&before.near_executable, Support::Full, "MiB free in reach", "code at 0x"), "{before}");
        assert_eq!(disposition(libc::SIGURG), libc::SIG_DFL);
        commit().unwrap();
        assert_ne!(disposition(libc::SIGURG), libc::SIG_DFL);
        let after = settled();
        assert!(is(&after.signal, Support::Full, "SIGURG, in use", ""), "{after}");
        assert_eq!(after.barrier.used.contains("SYNC_CORE), registered"), has_barrier, "{after}");
    }

    fn nothing_stays() {
        let state = || {
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            let code: Vec<_> = maps.lines().filter(|line| line.contains("x")).filter(|line| {
                line.split(' ').nth(1).unwrap().contains('x') || line.contains("memfd")
            }).map(str::to_owned).collect();
            let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
            let dispositions: Vec<usize> = (1..=64).map(disposition).collect();
            // MEMBARRIER_CMD_GET_REGISTRATIONS, Linux 6.3; an error before.
            // SAFETY: only asks.
            let barriers = unsafe { libc::syscall(libc::SYS_membarrier, 1 << 9, 0, 0) };
            (code, descriptors, dispositions, barriers)
        };
        let before = state();
        let here = capabilities_here();
        assert_eq!(state(), before, "{here}");
        assert!(before.3 <= 0, "nobody else has registered this process: {}", before.3);
    }

    fn a_signal_that_the_program_uses_is_not_taken() {
        extern "C" fn handler(_: i32) {}
        let handle = |signal| {
            // SAFETY: a handler that does nothing.
            unsafe { libc::signal(signal, handler as *const () as usize) };
        };
        handle(libc::SIGURG);
        let here = capabilities_here();
        assert!(is(&here.signal, Support::Reduced, "signal 60", "not SIGURG, since the program handles"), "{here}");
        (36..=60).for_each(handle);
        let here = capabilities_here();
        assert!(is(&here.signal, Support::Missing, "no signal", "36 to 60"), "{here}");
        assert!(matches!(commit(), Err(midflight::Error::NoSignal)));
        // SAFETY: the default again.
        unsafe { libc::signal(40, libc::SIG_DFL) };
        assert!(is(&capabilities_here().signal, Support::Reduced, "signal 40", ""));
        commit().unwrap();
        assert!(is(&capabilities_here().signal, Support::Reduced, "signal 40, in use", "not SIGURG"));
    }

    fn threads_that_block_the_signal_are_counted() {
        commit().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // SAFETY: blocks a signal on this thread.
                unsafe {
                    let mut set: libc::sigset_t = std::mem::zeroed();
                    libc::sigaddset(&raw mut set, libc::SIGURG);
                    libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                }
                tell.send(()).unwrap();
                let _ = ended.recv();
            });
            told.recv().unwrap();
            let start = Instant::now();
            let mut here = capabilities_here();
            // Others may be starting.
            while !here.to_string().contains("1 thread blocking it") && start.elapsed() < Duration::from_secs(60) {
                here = capabilities_here();
            }
            assert!(is(&here.signal, Support::Reduced, "SIGURG, in use", "1 thread blocking it"), "{here}");
            drop(end);
        });
    }

    fn where_memory_may_not_become_executable_that_is_said() {
        assert_eq!(capabilities_here().code_writes.support, Support::Full);
        // PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: Linux 6.3. Where the kernel has none, the seam refuses.
        // SAFETY: takes a right from this process.
        if unsafe { libc::prctl(65, 1, 0, 0, 0) } != 0 {
            fault::fail(libc::SYS_mprotect, 0, u32::MAX, libc::EACCES);
        }
        let here = capabilities_here();
        assert!(is(&here.code_writes, Support::Missing, "could not become executable", "PR_SET_MDWE"), "{here}");
        assert_eq!(here.worst(), Support::Missing);
        assert!(here.to_string().contains("\ncode writes      MISSING: "), "{here}");
        commit().unwrap_err();
    }

    fn what_the_kernel_refuses_is_said() {
        let before = settled();
        let with = |call, errno| {
            fault::fail(call, 0, u32::MAX, errno);
            let here = capabilities_here();
            fault::heal();
            here
        };
        let here = with(libc::SYS_membarrier, libc::ENOSYS);
        assert!(is(&here.barrier, Support::Reduced, "each thread synchronises", "Function not implemented"), "{here}");
        let here = with(libc::SYS_process_vm_readv, libc::EPERM);
        assert!(is(&here.memory_reads, Support::Full, "into a pipe", ""), "{here}");
        let here = with(libc::SYS_process_vm_readv, libc::EIO);
        assert!(is(&here.memory_reads, Support::Missing, "cannot be read", "Input/output"), "{here}");
        let here = with(libc::SYS_rt_tgsigqueueinfo, libc::EPERM);
        assert!(is(&here.signal, Support::Missing, "no signal", "cannot signal a thread"), "{here}");
        let here = with(libc::SYS_memfd_create, libc::EACCES);
        assert!(is(&here.loading, Support::Reduced, "a file without a name", "no memfd: Permission"), "{here}");
        let here = with(libc::SYS_mmap, libc::EPERM);
        assert!(is(&here.loading, Support::Missing, "cannot be kept", "Operation not permitted"), "{here}");
        let here = with(libc::SYS_getdents64, libc::EACCES);
        assert!(is(&here.proc, Support::Missing, "not all", "task: Permission denied"), "{here}");
        assert_eq!(settled().worst(), before.worst());
    }

    fn without_proc_that_is_said() {
        if emulator::is_there() {
            return; // It knows no seccomp filters.
        }
        // On a thread of its own, where opening anything fails as if nothing were there.
        let here = std::thread::spawn(|| {
            nothing_can_be_opened();
            assert!(fs::File::open("/proc/self/maps").is_err());
            capabilities_here()
        });
        let here = here.join().unwrap();
        let why = "maps: No such file";
        assert!(is(&here.proc, Support::Missing, "not all that is needed can be read", why), "{here}");
        for word in ["exe: No such", "task: No such", "task/TID/status: No such", "task/TID/syscall: No such"] {
            assert!(here.proc.why.as_ref().unwrap().contains(word), "{here}");
        }
        assert!(is(&here.signal, Support::Missing, "no signal", "/proc/self/task"), "{here}");
        assert!(is(&here.near_executable, Support::Missing, "not known", "maps"), "{here}");
        assert!(is(&here.loading, Support::Missing, "cannot be kept", "No such file"), "{here}");
        assert_eq!(here.code_writes.support, Support::Full);
        assert_eq!(capabilities_here().proc.support, Support::Full, "other threads can");
    }
}

/// A seccomp filter on this thread (seccomp(2)): openat(2) and openat2(2) answer ENOENT.
fn nothing_can_be_opened() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |k: i64, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt,
        jf,
        k: k as u32,
    };
    // `struct seccomp_data` begins with the number of the call.
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        jump(libc::SYS_openat, 1, 0),
        jump(libc::SYS_openat2, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOENT as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes rights from this thread; the program lives through the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn as_text_and_as_json() {
    let here = capabilities_here();
    let text = here.to_string();
    let names: Vec<_> = here.entries().map(|(name, _)| name).collect();
    let expected = [
        "kernel",
        "page_size",
        "strategy",
        "signal",
        "barrier",
        "proc",
        "memory_reads",
        "code_writes",
        "near_executable",
        "near_libc",
        "loading",
        "panic",
    ];
    assert_eq!(names, expected);
    for (line, (name, entry)) in text.lines().zip(here.entries()) {
        assert!(line.starts_with(&name.replace('_', " ")) && line.contains(&entry.used), "{line}");
    }
    assert_eq!(text.lines().count(), expected.len());
    let json = serde_json::to_value(&here).unwrap();
    assert_eq!(json.as_object().unwrap().len(), expected.len());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let kernel =
        serde_json::json!({"support": "full", "used": format!("Linux {}", release.trim()), "why": null});
    assert_eq!(json["kernel"], kernel);
    let strategy = "stop: all other threads are held while code changes";
    assert_eq!(json["strategy"], serde_json::json!({"support": "full", "used": strategy, "why": null}));
    for (name, entry) in here.entries() {
        assert_eq!(
            (&json[name]["used"], &json[name]["why"]),
            (&entry.used.clone().into(), &entry.why.clone().into())
        );
    }
    assert_eq!(
        serde_json::to_value([Support::Full, Support::Reduced, Support::Missing]).unwrap(),
        serde_json::json!(["full", "reduced", "missing"])
    );
    let panic = if cfg!(panic = "abort") { "abort" } else { "unwind" };
    // SAFETY: asks for a number.
    let page = format!("{} bytes", unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
    assert_eq!((here.page_size.used.as_str(), here.panic.used.as_str()), (page.as_str(), panic));
}
