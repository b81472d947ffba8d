//! Where else a function may be entered: no site covers a target of a jump table, nor of a branch from a part of the
//! function that stands elsewhere.

#![cfg(target_arch = "x86_64")]

use crate::support::fixtures::Folder;
use libloading::os::unix::Library;
use midflight::{CheckedFunction, Transaction};

extern "C" fn replacement() {}

/// What a check says of a function.
fn checked(target: &str) -> Result<CheckedFunction, String> {
    let mut change = Transaction::new();
    change.replace(target, replacement as *const ());
    let check = change.check().map_err(|error| error.to_string())?;
    Ok(check.functions.into_iter().next().unwrap())
}

fn loaded(library: &std::path::Path) -> Library {
    // SAFETY: the constructors of these libraries do nothing.
    unsafe { Library::new(library) }.unwrap()
}

/// A `switch`, one in a loop, computed jumps, and such through an array that may be the caller's.
const SWITCHES: &str = r"
int live_switch(int n, int x) {
    switch (n) {
        case 0: return x * 3; case 1: return x ^ 77; case 2: return x - 9; case 3: return x / 5;
        case 4: return x << 4; case 5: return ~x; case 6: return x % 11; default: return 0;
    }
}
int live_switch_in_loop(const unsigned char *p, int x) {
    for (;;) switch (*p++) {
        case 0: return x; case 1: x += 3; break; case 2: x *= 7; break; case 3: x ^= 5; break;
        case 4: x -= 2; break; case 5: x <<= 1; break; case 6: x = ~x; break; default: x /= 3;
    }
}
int live_computed(const unsigned char *p, int x) {
    static const void *const where[] = { &&a, &&b, &&c, &&d };
    goto *where[*p++ & 3];
    a: x += 3; goto *where[*p++ & 3];
    b: x *= 5; goto *where[*p++ & 3];
    c: x ^= 9; goto *where[*p++ & 3];
    d: return x;
}
int live_through_array(const void *const *where, int n) {
    static const void *const own[] = { &&a, &&b };
    if (!where) where = own;
    goto *where[n];
    a: return 1;
    b: return 2;
}
int live_plain(int x) { return x * 77 + 5; }
";

#[test]
fn jumps_through_tables_are_followed() {
    let folder = Folder::new();
    for options in
        [["-O2", "-fcf-protection=none"], ["-O2", "-fcf-protection=full"], ["-O1", "-s"], ["-Os", "-g"]]
    {
        let name = format!("switches{}.so", options.concat());
        let library =
            loaded(&folder.library_with(&name, SWITCHES, &[&options[..], &["-Wno-pedantic"]].concat()));
        for function in ["live_switch", "live_switch_in_loop", "live_computed", "live_plain"] {
            let check = checked(&format!("{name}!{function}")).unwrap();
            assert!(!check.has_indirect_jump, "{options:?}: {check}");
            assert!(!check.to_string().contains("not followed"), "{check}");
        }
        let check = checked(&format!("{name}!live_through_array")).unwrap();
        assert!(check.has_indirect_jump, "{options:?}: {check}");
        drop(library);
    }
}

/// Functions with an entrance two bytes behind the entry, that only the name of the function tells of: of a table of
/// distances, of one of addresses, from a part elsewhere. Each is long enough for any site otherwise.
const ENTRANCES: &str = r#"
    .intel_syntax noprefix
    .macro FUNCTION name
    .globl \name
    .type \name, @function
    .p2align 5
    \name:
    .endm
    .text
    FUNCTION live_by_distance
    xor eax, eax
1:  add eax, edi
    xor edi, 1
    cmp edi, 2
    ja 3f
    lea rcx, [rip + 2f]
    mov edi, edi
    movsxd rdx, dword ptr [rcx + rdi*4]
    add rdx, rcx
    jmp rdx
3:  ret
    .size live_by_distance, . - live_by_distance
    .section .rodata
    .p2align 2
2:  .long 3b - 2b
    .long 1b - 2b
    .long 3b - 2b
    .text
    FUNCTION live_by_address
    xor eax, eax
1:  add eax, edi
    xor edi, 1
    and edi, 1
    lea rcx, [rip + 2f]
    jmp [rcx + rdi*8]
3:  ret
    .size live_by_address, . - live_by_address
    .section .data.rel.ro, "aw"
    .p2align 3
2:  .quad 3b
    .quad 1b
    .text
    FUNCTION live_from_part
    xor eax, eax
live_from_part_1:
    add eax, edi
    cmp edi, 7
    ja live_from_part.cold
    ret
    .p2align 4, 0x90
    .size live_from_part, . - live_from_part
    FUNCTION live_without_part
    xor eax, eax
    add eax, edi
    cmp edi, 7
    ja live_elsewhere
    ret
    .p2align 4, 0x90
    .size live_without_part, . - live_without_part
    .section .text.unlikely, "ax"
    .type live_from_part.cold, @function
live_from_part.cold:
    xor edi, edi
    jmp .Lback
    .size live_from_part.cold, . - live_from_part.cold
    .type live_elsewhere, @function
live_elsewhere:
    ret
    .size live_elsewhere, . - live_elsewhere
    .section .note.GNU-stack, "", @progbits
"#;

#[test]
fn no_site_covers_an_entrance_that_no_branch_of_the_function_shows() {
    let folder = Folder::new();
    // A label that is no symbol.
    let source = ENTRANCES.replace("live_from_part_1:", ".Lback:");
    let _library = loaded(&folder.assembled("entrances.so", &source));
    for function in ["live_by_distance", "live_by_address", "live_from_part"] {
        let check = checked(&format!("entrances.so!{function}")).unwrap();
        // Nothing longer than the first instruction.
        assert_eq!((check.form.to_string().as_str(), check.displaced.len()), ("punned", 1), "{check}");
        assert!(!check.has_indirect_jump, "{check}");
        let why: Vec<String> = check.passed_over.iter().map(ToString::to_string).collect();
        assert!(why.iter().any(|why| why.contains("entered")), "{why:?}");
    }
    let check = checked("entrances.so!live_without_part").unwrap();
    assert_eq!((check.form.to_string().as_str(), check.displaced.len()), ("slot", 3), "{check}");
}
