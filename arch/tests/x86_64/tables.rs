//! Jump tables: which they are, and where they lead.

use crate::support::{AT, hex};
use midflight_arch::{Function, InstructionSet, Jumps, Table, TableKind, branches_into, jumps};

fn of(text: &str) -> Jumps {
    jumps(InstructionSet::X86_64, &Function { address: AT, bytes: &hex(text), guarded: false })
}

fn relative(address: u64, bound: Option<usize>) -> Table {
    Table { address, kind: TableKind::Relative, bound }
}

fn absolute(address: u64, bound: Option<usize>) -> Table {
    Table { address, kind: TableKind::Absolute, bound }
}

fn found(text: &str, tables: &[Table]) {
    assert_eq!(of(text), Jumps { tables: tables.to_vec(), matched: true }, "{text}");
}

fn not_matched(text: &str) {
    assert_eq!(of(text), Jumps { tables: Vec::new(), matched: false }, "{text}");
}

// cmp edi, 6; ja +0x20; lea rcx, [rip+0xef1]; mov edi, edi
const PIC: &str = "83ff06 7720 488d0df10e0000 89ff";
const PIC_TABLE: u64 = AT + 12 + 0xef1;

#[test]
fn case_044_distances_from_the_table() {
    // movsxd rax, [rcx+rdi*4]; add rax, rcx; jmp rax, and notrack jmp rax
    found(&format!("{PIC} 486304b9 4801c8 ffe0"), &[relative(PIC_TABLE, Some(7))]);
    found(&format!("{PIC} 486304b9 4801c8 3effe0"), &[relative(PIC_TABLE, Some(7))]);
    // The sum in the other register: add rcx, rax; jmp rcx
    found(&format!("{PIC} 486304b9 4801c1 ffe1"), &[relative(PIC_TABLE, Some(7))]);
    // Others between: mov edx, esi
    found(&format!("{PIC} 89f2 486304b9 89f2 4801c8 89f2 ffe0"), &[relative(PIC_TABLE, Some(7))]);
}

#[test]
fn addresses_by_a_register_or_a_fixed_place() {
    // jmp [rdi*8+0x402000]; mov rax, [rdi*8+0x402000]; jmp rax
    found("83ff06 7720 ff24fd00204000", &[absolute(0x40_2000, Some(7))]);
    found("83ff06 7320 488b04fd00204000 ffe0", &[absolute(0x40_2000, Some(6))]);
    // mov rax, [rcx+rdi*8]; jmp rax; jmp [rcx+rdi*8]
    found(&format!("{PIC} 488b04f9 ffe0"), &[absolute(PIC_TABLE, Some(7))]);
    found(&format!("{PIC} ff24f9"), &[absolute(PIC_TABLE, Some(7))]);
}

#[test]
fn the_table_of_a_loop_is_loaded_before_it() {
    // lea rcx, [rip+0x100]; 7: movzx edx, byte [rdi]; and edx, 3; jmp [rcx+rdx*8]; jmp 7
    found("488d0d00010000 0fb617 83e203 ff24d1 ebf5", &[absolute(AT + 0x107, Some(4))]);
    // Without the mask.
    found("488d0d00010000 0fb617 ff24d1 ebf8", &[absolute(AT + 0x107, Some(256))]);
    // lea rbx; call: it is kept. jmp [rbx+rdx*8]
    found("488d1d00010000 e800000000 ff24d3", &[absolute(AT + 0x107, None)]);
}

#[test]
fn several_ways_may_lead_to_one_jump() {
    // and edi, 3; test esi, esi; je 0x13; mov rdx, [rdi*8+0x402000]; jmp 0x1b; 13: mov rdx, [rdi*8+0x403000]; 1b: jmp rdx
    let ways = |other: &str| format!("83e703 85f6 740a 488b14fd00204000 eb08 {other} ffe2");
    let (one, other) = (absolute(0x40_2000, Some(4)), absolute(0x40_3000, Some(4)));
    found(&ways("488b14fd00304000"), &[one, other]);
    // The other way is no table: mov rdx, [rsi]; nops.
    not_matched(&ways("488b16 90*5"));
    // It makes nothing, so the entry does: nops.
    not_matched(&ways("90*8"));
}

/// What is found is told, since no site may be put there.
#[test]
fn tables_that_need_not_be_the_only_ones() {
    let unsure = |text: &str, tables: &[Table]| {
        assert_eq!(of(text), Jumps { tables: tables.to_vec(), matched: false }, "{text}");
    };
    // Two, and a jump that seems to be reached from nowhere.
    let (one, other) = (absolute(AT + 0x107, None), absolute(AT + 0x20e, None));
    unsure("488d0d00010000 488d0d00020000 c3 ff24d1", &[one, other]);
    // test rcx, rcx; jne 0xc; lea rcx, [rip+0x100]; jmp [rcx+rdx*8]: else the caller's.
    unsure("4885c9 7507 488d0d00010000 ff24d1", &[absolute(AT + 0x10c, None)]);
    // lea rcx; call: it is not kept.
    unsure("488d0d00010000 e800000000 ff24d1", &[absolute(AT + 0x107, None)]);
}

#[test]
fn of_two_comparisons_the_larger_counts() {
    // cmp edi, 6; ja; jmp [rdi*8+0x402000]; cmp edi, 9; ja; jmp the same
    let text = "83ff06 7720 ff24fd00204000 83ff09 7710 ff24fd00204000";
    found(text, &[absolute(0x40_2000, Some(10))]);
}

#[test]
fn what_is_no_table() {
    // jmp rax; jmp [rax+0x10]; jmp [rax+rdx*8], of an unknown array; jmp fs:[rdi*8+0x402000]
    not_matched("ffe0");
    not_matched("ff6010");
    not_matched("ff24d0");
    not_matched("64ff24fd00204000");
    // The register is another one by then: xor ecx, ecx; lea rax, [rcx+1]; call +0.
    for between in ["31c9", "488d4101", "e800000000"] {
        not_matched(&format!("{PIC} 486304b9 {between} 4801c8 ffe0"));
    }
    // The scale, the size or the displacement is another: [rcx+rdi*8], mov eax, [rcx+rdi*4+4].
    not_matched(&format!("{PIC} 486304f9 4801c8 ffe0"));
    not_matched(&format!("{PIC} 8b04b9 4801c8 ffe0"));
    not_matched(&format!("{PIC} 486344b904 4801c8 ffe0"));
    // The sum can be reached from elsewhere: jmp to the add.
    not_matched(&format!("{PIC} 486304b9 4801c8 ffe0 ebf9"));
    // Through a pointer, and none at all.
    found("ff2500010000", &[]);
    found("31c0c3", &[]);
    // Bytes that are no instruction may hide a jump.
    not_matched("31c0c306");
}

#[test]
fn targets_of_distances() {
    let function = AT..AT + 0x100;
    let table = |bound| relative(AT + 0x1000, bound);
    let data = |distances: &[i32]| distances.iter().flat_map(|d| d.to_le_bytes()).collect::<Vec<u8>>();
    let entries = data(&[-0x1000 + 0x30, -0x1000 + 2, -0x1000 + 0x30, 0x50, -0x1000 + 0x40]);
    // The fourth leaves the function.
    assert_eq!(table(None).targets(&entries, &function), [AT + 2, AT + 0x30]);
    // Unless there are more for sure.
    assert_eq!(table(Some(5)).targets(&entries, &function), [AT + 2, AT + 0x30, AT + 0x40]);
    assert_eq!(table(Some(4)).targets(&entries, &function), [AT + 2, AT + 0x30, AT + 0x40]);
    assert_eq!(table(Some(3)).targets(&entries, &function), [AT + 2, AT + 0x30]);
    // There are no more bytes.
    assert_eq!(table(Some(5)).targets(&entries[..7], &function), [AT + 0x30]);
    assert_eq!(table(Some(5)).targets(&[], &function), []);
    assert!(table(Some(usize::MAX)).len() < 1 << 20);
}

#[test]
fn targets_of_addresses() {
    let function = AT..AT + 0x100;
    let data: Vec<u8> = [AT + 8, AT, AT + 0x100, AT + 9].iter().flat_map(|a| a.to_le_bytes()).collect();
    assert_eq!(absolute(0, None).targets(&data, &function), [AT, AT + 8]);
    assert_eq!(absolute(0, Some(4)).targets(&data, &function), [AT, AT + 8, AT + 9]);
}

#[test]
fn case_042_branches_from_a_part_elsewhere() {
    // test edi, edi; je -0x7e; jmp -0x7f..; call; ret
    let code = hex("85ff 7480 e97fffffff e800000000 c3");
    let part = Function { address: AT + 0x80, bytes: &code, guarded: false };
    let into = |range| branches_into(InstructionSet::X86_64, &part, &range);
    assert_eq!(into(AT..AT + 0x80), [AT + 4, AT + 8]);
    assert_eq!(into(AT + 5..AT + 0x80), [AT + 8]);
    assert_eq!(into(0..AT), []);
    // cbz w0, -0x40; b -0x44
    let code = hex("00feff34 efffff17");
    let part = Function { address: AT + 0x80, bytes: &code, guarded: false };
    assert_eq!(branches_into(InstructionSet::Aarch64, &part, &(AT..AT + 0x80)), [AT + 0x40]);
}

/// Whatever the bytes are.
#[test]
fn any_bytes_are_read_to_their_end() {
    let mut state = 1_u32;
    let mut matched = 0;
    for _ in 0..20_000 {
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let bytes: Vec<u8> = (0..byte() % 64).map(|_| byte()).chain([0xff, 0xe0]).collect();
        for address in [AT, u64::MAX - 20] {
            let function = Function { address, bytes: &bytes, guarded: false };
            matched += usize::from(jumps(InstructionSet::X86_64, &function).matched);
            branches_into(InstructionSet::X86_64, &function, &(0..u64::MAX));
        }
    }
    assert!(matched < 40_000, "{matched}");
}
