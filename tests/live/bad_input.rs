//! Bad input gets a clear error and changes nothing. (Damaged manifests of every kind: `src/manifest/tests.rs`.)

use crate::support::fixtures::{self, Folder};
use crate::support::{bytes_at, patient};
use crate::{adds, target};
use midflight::{Error, Patch, PatchFault, Refusal, Transaction, replace};
use std::path::Path;

adds! {
    live_bad_input + 1;
    live_breakpoint + 1;
    live_breakpoint_later + 1;
}

#[cfg(target_arch = "x86_64")]
target! {
    fn live_too_short(u64) -> u64 { "endbr64" }
    fn live_privileged(u64) -> u64 { "in al, dx", "nop", "nop", "nop", "nop", "ret" }
    fn live_reads_itself(u64) -> u64 { "movzx eax, byte ptr [rip - 7]", "nop", "ret" }
}
#[cfg(target_arch = "aarch64")]
target! {
    fn live_too_short(u64) -> u64 { "bti c" }
    fn live_privileged(u64) -> u64 { "hvc 0", "ret" }
    fn live_reads_itself(u64) -> u64 { "ldr w0, live_reads_itself", "ret" }
}

#[unsafe(no_mangle)]
static LIVE_NOT_A_FUNCTION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

const GOOD: &str = r#"
    static unsigned long zero(unsigned long value) { return value * 0; }
    MIDFLIGHT_PATCH("bad-input");
    MIDFLIGHT_REPLACE("live_bad_input", zero);
"#;

extern "C" fn zero(_: u64) -> u64 {
    0
}

fn open(path: &Path) -> Error {
    Patch::open(path).map(drop).unwrap_err()
}

fn fault_of(path: &Path) -> PatchFault {
    match open(path) {
        Error::BadPatch { fault, path: told } => {
            assert_eq!(told, path);
            fault
        }
        error => panic!("{error}"),
    }
}

/// A good patch library, with `change` made to its bytes.
fn damaged(folder: &Folder, change: impl FnOnce(&mut Vec<u8>)) -> std::path::PathBuf {
    let mut bytes = std::fs::read(fixtures::patch(folder, "libgood.so", GOOD)).unwrap();
    change(&mut bytes);
    std::fs::write(folder.path("damaged.so"), bytes).unwrap();
    folder.path("damaged.so")
}

/// Where the last record begins.
fn record(bytes: &[u8]) -> usize {
    bytes.windows(4).rposition(|four| four == b"MFLT").unwrap()
}

#[test]
fn no_such_file_and_no_file_at_all() {
    let folder = Folder::new();
    let error = open(&folder.path("nowhere.so"));
    assert!(matches!(&error, Error::ReadPatch { .. }) && error.to_string().contains("nowhere.so"), "{error}");
    assert!(matches!(open(&folder.path("")), Error::ReadPatch { .. }));
    assert!(matches!(open(Path::new("/dev/zero")), Error::ReadPatch { .. }));
}

#[test]
fn files_that_are_no_patch_library() {
    let folder = Folder::new();
    std::fs::write(folder.path("text"), "not an ELF file").unwrap();
    assert_eq!(fault_of(&folder.path("text")), PatchFault::NotElf);
    assert_eq!(fault_of(&folder.library("libplain.so", "int plain;")), PatchFault::NoManifest);
    let other = damaged(&folder, |bytes| bytes[18..20].copy_from_slice(&243u16.to_le_bytes()));
    assert!(matches!(fault_of(&other), PatchFault::WrongMachine { found, .. } if found == "RISC-V"));
    assert!(matches!(fault_of(&damaged(&folder, |bytes| bytes[4] = 1)), PatchFault::WrongClass));
    assert!(matches!(
        fault_of(&damaged(&folder, |bytes| bytes.truncate(bytes.len() / 2))),
        PatchFault::Truncated { .. }
    ));
}

#[test]
fn records_that_are_damaged() {
    let folder = Folder::new();
    let unknown = damaged(&folder, |bytes| {
        let record = record(bytes);
        bytes[record + 4] = 9;
    });
    assert!(matches!(fault_of(&unknown), PatchFault::UnknownVersion { .. }));
    let outside = damaged(&folder, |bytes| {
        let record = record(bytes);
        bytes[record + 12..record + 16].copy_from_slice(&u32::MAX.to_le_bytes());
    });
    assert!(matches!(fault_of(&outside), PatchFault::BadText { .. } | PatchFault::BadRecord { .. }));
    let twice = format!("{GOOD} MIDFLIGHT_REPLACE(\"live_bad_input\", zero);");
    let twice = fixtures::patch(&folder, "libtwice.so", &twice);
    assert!(matches!(fault_of(&twice), PatchFault::TwoForOneTarget { .. }));
    let data = "static unsigned long data; MIDFLIGHT_PATCH(\"data\"); MIDFLIGHT_RECORD_(2, \"live_bad_input\", (void (*)(void))&data, 0);";
    assert!(matches!(fault_of(&fixtures::patch(&folder, "libdata.so", data)), PatchFault::NotCode { .. }));
}

#[test]
fn an_engine_in_a_patch_library() {
    let folder = Folder::new();
    let engine =
        format!("__attribute__((section(\"midflight_engine\"), used)) static char engine[] = \"0\"; {GOOD}");
    assert_eq!(fault_of(&fixtures::patch(&folder, "libengine.so", &engine)), PatchFault::ContainsEngine);
    // And this program has the mark by which it is told.
    let exe = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(exe.windows(17).any(|name| name == b"midflight_engine\0"));
}

fn commit(target: impl Into<midflight::Target>, replacement: *const ()) -> Error {
    let mut change = Transaction::new();
    change.replace(target, replacement);
    // SAFETY: refused.
    unsafe { change.commit(&patient()) }.map(drop).unwrap_err()
}

#[test]
fn targets_that_are_no_functions() {
    let error = commit("LIVE_NOT_A_FUNCTION", zero as *const ());
    assert!(matches!(&error, Error::NotAFunction { found, .. } if found.contains("variable")), "{error}");
    let inside = (live_bad_input as *const () as usize + 1) as *const ();
    let error = commit(inside, zero as *const ());
    assert!(
        matches!(&error, Error::NotAFunction { found, .. } if found == "the inside of live_bad_input"),
        "{error}"
    );
    let error = commit(std::ptr::null::<()>(), zero as *const ());
    assert!(
        matches!(&error, Error::NotAFunction { found, .. } if found.contains("no loaded module")),
        "{error}"
    );
    let error = commit((&raw const LIVE_NOT_A_FUNCTION).cast::<()>(), zero as *const ());
    assert!(matches!(&error, Error::NotAFunction { .. }), "{error}");
}

#[test]
fn replacements_that_are_no_code() {
    let local = 5u64;
    for address in [std::ptr::null(), (&raw const local).cast::<()>(), live_bad_input as *const ()] {
        let error = commit("live_bad_input", address);
        assert!(matches!(&error, Error::ReplacementNotCode { .. }), "{error}");
    }
    static TEXT: &str = "references are thin pointers too, but what they point to is no code";
    // SAFETY: refused.
    let error = unsafe { replace(&TEXT, &TEXT) }.map(drop).unwrap_err();
    assert!(matches!(&error, Error::NotAFunction { .. }), "{error}");
    assert_eq!(live_bad_input(1), 2);
}

#[test]
fn functions_that_cannot_be_patched_say_why() {
    let refusal = |target: &str| match commit(target, zero as *const ()) {
        Error::Refused { refusal, target: told, .. } => {
            assert_eq!(told, target);
            refusal
        }
        error => panic!("{error}"),
    };
    assert!(matches!(refusal("live_too_short"), Refusal::TooShort { .. }));
    assert!(matches!(refusal("live_privileged"), Refusal::Privileged { .. }));
    assert!(matches!(refusal("live_reads_itself"), Refusal::ReadsOwnBytes { .. }));
}

/// The first bytes of a breakpoint, of a jump, and of something else.
#[cfg(target_arch = "x86_64")]
const MARKS: [&[u8]; 3] = [&[0xcc], &[0xe9], &[0x90]];
#[cfg(target_arch = "aarch64")]
const MARKS: [&[u8]; 3] = [&[0, 0, 0x20, 0xd4], &[0x10, 0, 0, 0x14], &[0x1f, 0x20, 3, 0xd5]];

/// Writes to the code of a function as a debugger does.
fn poke(address: usize, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::options().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(bytes, address as u64).unwrap();
}

#[test]
fn a_target_that_somebody_else_has_changed() {
    let entry = live_breakpoint as *const () as usize;
    let [breakpoint, jump, other] = MARKS;
    // SAFETY: the first bytes of a function.
    let before = unsafe { bytes_at(entry, breakpoint.len()) };
    poke(entry, breakpoint);
    let error = commit("live_breakpoint", zero as *const ());
    let Error::Breakpoint { address, expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!((*address, expected.starts_with(&before)), (entry as u64, true));
    assert!(found.starts_with(breakpoint));
    poke(entry, jump);
    let error = commit("live_breakpoint", zero as *const ());
    let Error::OtherHook { address, found, .. } = &error else { panic!("{error}") };
    assert_eq!((*address, found.starts_with(jump)), (entry as u64, true));
    poke(entry, other);
    let error = commit("live_breakpoint", zero as *const ());
    assert!(matches!(error, Error::EntryModified { .. }), "{error}");
    poke(entry, &before);
    assert_eq!(live_breakpoint(1), 2);
}

/// A debugger's, or a uprobe's, that comes after the patch.
#[test]
fn case_104_a_breakpoint_on_a_patched_entry() {
    let entry = live_breakpoint_later as *const () as usize;
    let breakpoint = MARKS[0];
    let mut change = Transaction::new();
    change.replace("live_breakpoint_later", zero as *const ());
    // SAFETY: both take a number and give one.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    // SAFETY: the first bytes of a function.
    let now = || unsafe { bytes_at(entry, breakpoint.len()) };
    let jump = now();
    poke(entry, breakpoint);
    let errors =
        [commit("live_breakpoint_later", zero as *const ()), applied.rollback_with(&patient()).unwrap_err()];
    assert_eq!(now(), breakpoint, "it is never overwritten silently");
    poke(entry, &jump);
    for error in errors {
        let Error::Breakpoint { address, expected, found, .. } = &error else { panic!("{error}") };
        assert_eq!(*address, entry as u64);
        assert!(expected.starts_with(&jump) && found.starts_with(breakpoint), "{error}");
    }
    applied.rollback_with(&patient()).unwrap();
    assert_eq!(live_breakpoint_later(1), 2);
}

#[test]
fn several_problems_are_told_at_once() {
    let mut change = Transaction::new();
    change.replace("live_too_short", zero as *const ());
    change.replace("live_privileged", zero as *const ());
    let error = change.check().unwrap_err();
    assert!(matches!(&error, Error::Several { errors } if errors.len() == 2), "{error}");
    assert!(matches!(Transaction::new().check(), Ok(check) if check.functions.is_empty()));
    // SAFETY: refused.
    assert!(matches!(unsafe { Transaction::new().commit(&patient()) }, Err(Error::Empty)));
}
