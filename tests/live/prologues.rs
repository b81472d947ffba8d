//! Functions as compilers begin them when they are told to prepare for tools, and calls within the first bytes. Each is
//! replaced, its original does what it did, and exceptions and panics from below it pass.

use crate::support::fixtures::Folder;
use crate::support::patient;
use libloading::os::unix::Library;
use midflight::{Original, Transaction};

type Function = extern "C-unwind" fn(i32) -> i32;

/// A static of each test's own, filled by its commits.
type Old = Original<Function>;

fn load(path: &std::path::Path) -> Library {
    // SAFETY: the constructors of these libraries do nothing.
    unsafe { Library::new(path) }.unwrap()
}

fn function(library: &Library, name: &str) -> Function {
    // SAFETY: defined with this type.
    *unsafe { library.get::<Function>(name.as_bytes()) }.unwrap()
}

/// Replaces `function` by `new`, calls `body` with what the check says is displaced, and rolls back.
fn while_replaced(function: Function, old: &'static Old, new: Function, body: impl FnOnce(&str)) {
    let mut change = Transaction::new();
    change.replace_fn(function as *const (), old, new);
    let displaced =
        change.check().unwrap_or_else(|error| panic!("{error}")).functions[0].displaced.join("; ");
    // SAFETY: same types.
    let applied = unsafe { change.commit(&patient()) }.unwrap_or_else(|error| panic!("{error}"));
    body(&displaced);
    applied.rollback_with(&patient()).unwrap();
}

/// Calls something, has a loop and a switch, so that compilers have a reason for a prologue.
const WORK: &str = "
    extern int helper(int);
    int helper(int value) { return value * 3; }
    __attribute__((noinline)) int work(int value)
    {
        volatile int sum = 0;
        for (int i = 0; i < value; i++)
            sum += helper(i);
        switch (value) { case 1: return 11; case 2: return 22; case 3: return 33; case 4: return 44; case 5: return 55; }
        return sum;
    }
    int first_calls(int value) { return helper(value) + 1; }
";

/// `call __fentry__` comes first; it must keep every register.
#[cfg(target_arch = "x86_64")]
const FENTRY: &str = "
    int entered;
    __attribute__((naked, no_instrument_function)) void __fentry__(void)
    { __asm__(\"push %rax; mov entered@GOTPCREL(%rip), %rax; incl (%rax); pop %rax; ret\"); }
";

#[test]
fn what_compilers_put_first() {
    static OLD: Old = Old::new();
    extern "C-unwind" fn new(value: i32) -> i32 {
        OLD.get()(value) + 1000
    }
    #[cfg(target_arch = "x86_64")]
    let settings = [
        &["-fpatchable-function-entry=5"][..],
        &["-fpatchable-function-entry=2"],
        &["-fpatchable-function-entry=16,8"],
        &["-fcf-protection=full"],
        &["-fcf-protection=full", "-fpatchable-function-entry=5"],
        &["-fcf-protection=none", "-O2"],
        &["-pg", "-mfentry", "-DFENTRY"],
        &["-fsplit-stack", "-O2"],
        &["-fstack-protector-all"],
        &["-fstack-clash-protection", "-O2"],
        &["-O0", "-fno-omit-frame-pointer"],
        &["-Os"],
        &["-O3", "-mavx2"],
    ];
    #[cfg(target_arch = "aarch64")]
    let settings = [
        &["-fpatchable-function-entry=2"][..],
        &["-fpatchable-function-entry=4,2"],
        &["-mbranch-protection=standard"],
        &["-mbranch-protection=pac-ret+leaf"],
        &["-mbranch-protection=bti"],
        &["-mbranch-protection=none", "-O2"],
        &["-fstack-protector-all"],
        &["-O0", "-fno-omit-frame-pointer"],
        &["-Os"],
    ];
    let folder = Folder::new();
    for (number, settings) in settings.iter().enumerate() {
        #[cfg(target_arch = "x86_64")]
        let source = if settings.contains(&"-DFENTRY") { [FENTRY, WORK].concat() } else { WORK.to_owned() };
        #[cfg(target_arch = "aarch64")]
        let source = WORK;
        let library = load(&folder.library_with(&format!("first{number}.so"), &source, settings));
        for (name, answers) in
            [("work", [0, 11, 22, 33, 44, 55, 45]), ("first_calls", [1, 4, 7, 10, 13, 16, 19])]
        {
            let function = function(&library, name);
            let values = || (0..7).map(|value| function(value)).collect::<Vec<_>>();
            assert_eq!(values(), answers, "{name} {settings:?}");
            while_replaced(function, &OLD, new, |displaced| {
                let expected: Vec<_> = answers.iter().map(|answer| answer + 1000).collect();
                assert_eq!(values(), expected, "{name} {settings:?} {displaced}");
            });
            assert_eq!(values(), answers, "{name} {settings:?}");
        }
    }
}

/// The call is displaced, so the exception comes from below a trampoline.
#[test]
fn exceptions_of_cpp_pass_a_displaced_call() {
    static OLD: [Old; 2] = [const { Old::new() }; 2];
    extern "C-unwind" fn new<const N: usize>(value: i32) -> i32 {
        OLD[N].get()(value) + 1000
    }
    let source = "
        extern \"C\" int thrower(int value) { if (value > 9) throw value; return value; }
        extern \"C\" int through(int value) { return thrower(value) + 1; }
        extern \"C\" int catches(int value)
        { try { return thrower(value) + 1; } catch (int thrown) { return thrown + 100; } }
        extern \"C\" int above(int value)
        { try { return through(value); } catch (int thrown) { return thrown + 200; } }
    ";
    let folder = Folder::new();
    let library = load(&folder.library_in_cpp("exceptions.so", source, &["-O2"]));
    let [through, catches, above] = ["through", "catches", "above"].map(|name| function(&library, name));
    assert_eq!((above(5), above(50), catches(5), catches(50)), (6, 250, 6, 150));
    for _ in 0..3 {
        while_replaced(through, &OLD[0], new::<0>, |displaced| {
            assert!(cfg!(target_arch = "aarch64") || displaced.contains("call"), "{displaced}");
            assert_eq!((above(5), above(50)), (1006, 250));
        });
        // Its landing pad stands in the function whose call was displaced.
        while_replaced(catches, &OLD[1], new::<1>, |displaced| {
            assert!(cfg!(target_arch = "aarch64") || displaced.contains("call"), "{displaced}");
            assert_eq!((catches(5), catches(50)), (1006, 1150));
        });
    }
}

// A function whose second instruction is a call (its first on aarch64, behind the frame record), with unwind information.
std::arch::global_asm!(
    ".pushsection .text.live_prologues,\"ax\"",
    ".p2align 4",
    ".globl live_calls_early",
    ".hidden live_calls_early",
    ".type live_calls_early,@function",
    "live_calls_early:",
    ".cfi_startproc",
    #[cfg(target_arch = "x86_64")]
    "sub rsp, 8; .cfi_adjust_cfa_offset 8; call {panics}; add rsp, 8; .cfi_adjust_cfa_offset -8; inc eax",
    #[cfg(target_arch = "aarch64")]
    "str x30, [sp, #-16]!; .cfi_adjust_cfa_offset 16; .cfi_offset 30, -16; bl {panics}; ldr x30, [sp], #16",
    #[cfg(target_arch = "aarch64")]
    ".cfi_adjust_cfa_offset -16; .cfi_restore 30; add w0, w0, 1",
    "ret",
    ".cfi_endproc",
    ".size live_calls_early, . - live_calls_early",
    ".popsection",
    panics = sym panics,
);

unsafe extern "C-unwind" {
    safe fn live_calls_early(_: i32) -> i32;
}

extern "C-unwind" fn panics(value: i32) -> i32 {
    assert!(value < 10, "a value of {value}");
    value
}

#[test]
fn a_panic_passes_a_displaced_call() {
    static OLD: Old = Old::new();
    extern "C-unwind" fn new(value: i32) -> i32 {
        OLD.get()(value) + 1000
    }
    let caught = |value| {
        let text = |panic: Box<dyn std::any::Any + Send>| panic.downcast_ref::<String>().unwrap().clone();
        std::panic::catch_unwind(|| live_calls_early(value)).map_err(text)
    };
    assert_eq!((caught(5), caught(50)), (Ok(6), Err("a value of 50".to_owned())));
    while_replaced(live_calls_early, &OLD, new, |displaced| {
        assert!(cfg!(target_arch = "aarch64") || displaced.contains("call"), "{displaced}");
        assert_eq!((caught(5), caught(50)), (Ok(1006), Err("a value of 50".to_owned())));
    });
    assert_eq!((caught(5), caught(50)), (Ok(6), Err("a value of 50".to_owned())));
}
