//! What lies around a short function: padding is used where nothing runs it, and nothing else is.

#![cfg(target_arch = "x86_64")]

use crate::support::fixtures::Folder;
use libloading::os::unix::Library;
use midflight::Transaction;

extern "C" fn replacement() {}

/// The form that `live_around` in the library gets, or why it gets none.
fn form_in(library: &str) -> Result<String, String> {
    let mut change = Transaction::new();
    change.replace(format!("{library}!live_around").as_str(), replacement as *const ());
    let check = change.check().map_err(|error| error.to_string())?;
    Ok(check.functions[0].form.to_string())
}

/// A library with a function of two instructions in three bytes, and zeros at once behind it: for a punned jump, whose
/// distance they would be, no memory is free. Only padding between it and a neighbour in front of it is of use.
fn source(neighbour: &str, gap: &str) -> String {
    let assembly = format!(
        r#"
        .intel_syntax noprefix
        .text
        .p2align 5
        .type live_neighbour, @function
    live_neighbour:
        {neighbour}
        .size live_neighbour, . - live_neighbour
        {gap}
        .p2align 4, 0x90
        .globl live_around
        .type live_around, @function
    live_around:
        .cfi_startproc
        mov eax, edi
        ret
        .cfi_endproc
        .size live_around, . - live_around
        .globl live_behind
        .type live_behind, @function
    live_behind:
        .skip 5
        .size live_behind, . - live_behind
        .skip 0x20000
        .att_syntax
        "#
    );
    format!("__asm__({assembly:?});")
}

const RETURNS: &str = "mov eax, 1; ret";
const UNWOUND: &str = ".cfi_startproc; mov eax, 1; ret; .cfi_endproc";

#[test]
fn only_padding_that_nothing_runs_is_used() {
    let cases = [
        ("returns", RETURNS, "", "", true),
        ("jumps", "jmp live_neighbour", "", "", true),
        ("traps", "int3", "", "", true),
        // Falls into the next function, which is aligned.
        ("runs-on", "mov eax, 1", "", "", false),
        ("looks-like-a-return", "mov eax, 1; mov ebx, eax", "", "", false),
        ("branches", "test edi, edi; je live_neighbour", "", "", false),
        // The call may return; whoever writes unwind entries knows better.
        ("calls", "call live_neighbour", "", "", false),
        ("calls-for-good", ".cfi_startproc; call live_neighbour; .cfi_endproc", "", "", true),
        // Something is there.
        ("zeros", RETURNS, ".skip 10, 0", "", false),
        ("labelled", RETURNS, "live_label: .skip 10, 0x90", "", false),
        ("code", RETURNS, "xor eax, eax; ret", "", false),
        ("int3", RETURNS, ".skip 10, 0xcc", "", true),
        ("unwound-further", ".cfi_startproc; mov eax, 1; ret", "nop; .cfi_endproc", "", false),
        // The neighbour's symbol is gone.
        ("stripped", RETURNS, "", "-s", false),
        ("stripped-unwound", UNWOUND, "", "-s", true),
        ("stripped-unwound-code", UNWOUND, "xor eax, eax; ret", "-s", false),
        ("stripped-runs-on", ".cfi_startproc; mov eax, 1; .cfi_endproc", "", "-s", false),
    ];
    let folder = Folder::new();
    for (name, neighbour, gap, option, is_used) in cases {
        let name = format!("around-{name}.so");
        let library = folder.library_with(
            &name,
            &source(neighbour, gap),
            &[option; 1][usize::from(option.is_empty())..],
        );
        // SAFETY: it has no constructors.
        let _library = unsafe { Library::new(&library) }.unwrap();
        match form_in(&name) {
            Ok(form) => assert!(is_used && form == "relay", "{name}: {form}"),
            Err(why) => assert!(!is_used && why.contains("where no memory is free"), "{name}: {why}"),
        }
    }
}
