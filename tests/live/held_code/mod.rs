//! While threads are held nothing may allocate, lock or panic. Shown in the code itself: that of a program which
//! was built as users build theirs is decoded, from the places where held code begins, along every branch and call.

mod program;
mod step;
mod walk;

use crate::support::fixtures;
use program::{Function, Program};
use std::sync::OnceLock;
use walk::{Finding, Kind, walk};

/// What code on the way may do all the same: the function, what it does, and why.
const ALLOWED: &[(&str, Kind, &str)] = &[(
    "midflight::held::run::run",
    Kind::Trap,
    "ends the process where code can neither be made executable again nor be left as it is",
)];

/// Where held code begins, and what is met on the way from there, or else the way was not followed.
const ROOTS: &[(&str, &str)] = &[
    // Held threads stand in it.
    ("midflight::threads::signal::handler", "midflight::held::park::park"),
    // All that the committing thread does from the first signal to the release.
    ("midflight::threads::quiesce::Crew::while_held", "midflight::held::run::run"),
];

fn plain_host() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| Program::read(fixtures::plain_host()))
}

fn root<'a>(program: &'a Program, name: &str) -> Vec<&'a Function> {
    let found = program.named(name);
    assert!(!found.is_empty(), "no function is called {name}");
    found
}

fn stories<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let story = |one: &Finding| format!("\n{:?}: {} -> {} (at {:#x})", one.kind, one.chain, one.what, one.at);
    findings.into_iter().map(story).collect()
}

#[test]
fn it_neither_panics_nor_allocates_nor_locks() {
    let program = plain_host();
    let mut roots = program.of_section("midflight_held");
    for (name, must_be_met) in ROOTS {
        let root = root(program, name);
        let followed = walk(program, &["midflight"], &root).followed;
        assert!(followed.contains(*must_be_met), "{name} reaches only {followed:#?}");
        roots.extend(root);
    }
    let walk = walk(program, &["midflight"], &roots);
    let allows = |(function, kind, _): &&(&str, Kind, &str), finding: &Finding| {
        finding.function == *function && finding.kind == *kind
    };
    let unexpected = walk.findings.iter().filter(|one| !ALLOWED.iter().any(|entry| allows(&entry, one)));
    let unexpected = stories(unexpected);
    assert!(unexpected.is_empty(), "held code may not:{unexpected}");
    for entry in ALLOWED {
        assert!(walk.findings.iter().any(|one| allows(&entry, one)), "{} is not needed", entry.0);
    }
}

/// The pages of `held/` hold nothing else.
#[test]
fn the_held_section_is_two_functions_on_pages_of_their_own() {
    let program = plain_host();
    let functions = program.of_section("midflight_held");
    let section = program.section("midflight_held");
    // The largest that Linux has on the machine.
    let (mut end, page) = (section.start, if cfg!(target_arch = "x86_64") { 0x1000 } else { 0x1_0000 });
    for function in &functions {
        assert_eq!((function.range.start, function.range.start % page), (end, 0), "{}", function.name);
        end = function.range.end;
    }
    assert_eq!((end, functions.len()), (section.end, 2));
}

/// Each sin of the host's module `sins` is found, or the walk could not be believed.
#[test]
fn what_held_code_may_not_do_is_found() {
    let program = plain_host();
    // How a program calls its standard library and libc is the linker's choice: straight, through the PLT (where
    // the name is not told), or through the GOT.
    let call = [Kind::Leaves, Kind::Indirect].as_slice();
    let sins = [
        ("asserts", call, "core::panicking::panic"),
        ("indexes", call, "core::panicking::panic_bounds_check"),
        ("indexes_two_calls_away", call, "core::panicking::panic_bounds_check"),
        ("unwraps", call, "core::option::unwrap_failed"),
        ("divides", call, "core::panicking::panic_const"),
        ("allocates", call, "alloc"),
        ("frees", call, "alloc"),
        ("locks", call, "lock"),
        ("copies", call, "mem|.plt"),
        ("fills", call, "memset|.plt"),
        ("calls_libc", call, "getppid|.plt"),
        ("calls_a_pointer", &[Kind::Indirect], ""),
        ("jumps_to_a_pointer", &[Kind::Indirect], ""),
        ("has_thread_locals", &[Kind::ThreadLocal], ""),
        ("traps", &[Kind::Trap], ""),
    ];
    for (name, kinds, words) in sins {
        let walk = walk(program, &["plain_host"], &root(program, &format!("plain_host::sins::{name}")));
        let is_it = |what: &str| words.split('|').any(|word| what.contains(word));
        let found = walk.findings.iter().any(|one| kinds.contains(&one.kind) && is_it(&one.what));
        assert!(found, "{name}: {}", stories(&walk.findings));
    }
    let innocent = walk(program, &["plain_host"], &root(program, "plain_host::sins::adds_up"));
    assert!(innocent.findings.is_empty(), "{}", stories(&innocent.findings));
}
