//! Operands relative to rip: the absolute address stays, and so does everything around the displacement.

use iced_x86::Register;
use midflight_arch::{Form, Function, InstructionSet, Places, Refusal, encode, measure};

use crate::support::{AT, FAR, PLACES, decode, hex, measured, moved, planned, refused, to_hex};

/// The first instruction of the trampoline: bytes and text.
fn first(text: &str) -> (String, String) {
    let plan = planned(text, Form::Island);
    let length = measured(text).usable(Form::Island).expect("usable").instructions[0].len;
    (to_hex(&plan.trampoline[..length]), moved(text).swap_remove(0))
}

macro_rules! cases {
    ($($name:ident: $bytes:literal => $moved:literal, $text:literal;)*) => {$(
        #[test]
        fn $name() {
            assert_eq!(first(concat!($bytes, " c3")), ($moved.to_owned(), $text.to_owned()));
        }
    )*};
}

// The moved bytes: `llvm-mc --disassemble --triple=x86_64 --output-asm-variant=1` gives the text with the
// distance from 0x500000 in place of the address.
cases! {
    case_007_lea: "488d0500010000" => "48 8d 05 00 11 f0 ff", "lea rax, [0x401107]";
    case_008_cmp_imm8: "833d0001000005" => "83 3d 00 11 f0 ff 05", "cmp dword ptr [0x401107], 5";
    case_009_mov_imm32: "c7050001000088776655" => "c7 05 00 11 f0 ff 88 77 66 55", "mov dword ptr [0x40110a], 0x55667788";
    case_010_add_imm16: "66810500010000 3412" => "66 81 05 00 11 f0 ff 34 12", "add word ptr [0x401109], 0x1234";
    case_011_imul: "690500010000e8030000" => "69 05 00 11 f0 ff e8 03 00 00", "imul eax, [0x40110a], 0x3e8";
    case_012_test_imm8: "f6050001000001" => "f6 05 00 11 f0 ff 01", "test byte ptr [0x401107], 1";
    case_012_not_has_none: "f61500010000" => "f6 15 00 11 f0 ff", "not byte ptr [0x401106]";
    case_013_shld: "0fa4050001000003" => "0f a4 05 00 11 f0 ff 03", "shld [0x401108], eax, 3";
    case_014_pinsrd: "660f3a22050001000001" => "66 0f 3a 22 05 00 11 f0 ff 01", "pinsrd xmm0, [0x40110a], 1";
    case_015_vex2: "c5fb100500010000" => "c5 fb 10 05 00 11 f0 ff", "vmovsd xmm0, [0x401108]";
    case_016_vex3: "c4e37d18050001000001" => "c4 e3 7d 18 05 00 11 f0 ff 01", "vinsertf128 ymm0, ymm0, [0x40110a], 1";
    case_017_evex: "62f3754825050001000096" => "62 f3 75 48 25 05 00 11 f0 ff 96", "vpternlogd zmm0, zmm1, [0x40110b], 0x96";
    case_018_crc32: "f20f38f00500010000" => "f2 0f 38 f0 05 00 11 f0 ff", "crc32 eax, byte ptr [0x401109]";
    case_019_push: "ff3500010000" => "ff 35 00 11 f0 ff", "push qword ptr [0x401106]";
    case_020_lock_xadd: "f00fc10500010000" => "f0 0f c1 05 00 11 f0 ff", "lock xadd [0x401108], eax";
    case_021_cmpxchg16b: "480fc70d00010000" => "48 0f c7 0d 00 11 f0 ff", "cmpxchg16b [0x401108]";
    case_022_xchg: "48870500010000" => "48 87 05 00 11 f0 ff", "xchg [0x401107], rax";
    case_022_cmov: "0f420500010000" => "0f 42 05 00 11 f0 ff", "cmovb eax, [0x401107]";
    case_024_segment: "64488b0500010000" => "64 48 8b 05 00 11 f0 ff", "mov rax, fs:[0x401108]";
    case_025_fld: "db2d00010000" => "db 2d 00 11 f0 ff", "fld st, tbyte ptr [0x401106]";
    case_025_ldmxcsr: "0fae1500010000" => "0f ae 15 00 11 f0 ff", "ldmxcsr [0x401107]";
    case_026_moffs: "48a18877665544332211" => "48 a1 88 77 66 55 44 33 22 11", "mov rax, [0x1122334455667788]";
    case_027_stack_protector: "64488b042528000000" => "64 48 8b 04 25 28 00 00 00", "mov rax, fs:[0x28]";
}

#[test]
fn case_007_lea_of_the_own_site_is_refused() {
    // lea rax, [rip-4]: site+3
    let refusal = refused("488d05fcffffff c3");
    assert_eq!(
        refusal,
        Refusal::ReadsOwnBytes { address: AT, to: AT + 3, text: "lea rax, [0x401003]".into() }
    );
}

#[test]
fn case_023_eip_relative_comes_around() {
    assert_eq!(first("678d0500010000 c3"), ("67 8d 05 00 11 f0 ff".into(), "lea eax, [0x401107]".into()));
    // The trampoline may be anywhere: only the low 32 bits count.
    let bytes = hex("678d0500010000 c3");
    let function = Function { address: 0x5555_5555_5000, bytes: &bytes, guarded: false };
    let measure = measure(InstructionSet::X86_64, &function);
    for trampoline in [0x5555_1555_5000, 0x5555_d555_0000] {
        let places = Places { trampoline, island: trampoline + 0x100, slot: trampoline + 0x200 };
        let plan = encode(&measure, Form::Island, &places, FAR).expect("a plan");
        let moved = decode(&plan.trampoline[..7], trampoline)[0];
        assert_eq!((moved.memory_base(), moved.ip_rel_memory_address()), (Register::EIP, 0x5555_5107));
        let distance = u32::from_le_bytes(plan.trampoline[3..7].try_into().expect("4 bytes"));
        assert_eq!((trampoline as u32 + 7).wrapping_add(distance), 0x5555_5107);
    }
}

#[test]
fn case_055_lea_of_the_own_entry_is_its_identity() {
    assert_eq!(moved("488d05f9ffffff c3"), ["lea rax, [0x401000]", "jmp 0x401007"]);
    assert_eq!(moved("f30f1efa 488d05f5ffffff c3")[0], "lea rax, [0x401000]");
    // The site behind a landing pad is nobody's identity.
    assert!(matches!(refused("f30f1efa 488d05f9ffffff c3"), Refusal::ReadsOwnBytes { .. }));
}

#[test]
fn case_056_reading_the_own_bytes() {
    assert!(matches!(refused("90*6 8a05f4ffffff c3"), Refusal::ReadsOwnBytes { to: AT, .. }));
    // The last byte of a wide operand counts, one byte less does not.
    assert!(matches!(refused("90*8 0f2805f2ffffff c3"), Refusal::ReadsOwnBytes { .. }));
    assert!(measured("90*8 8a05f6ffffff c3").usable(Form::Island).is_err());
    assert!(measured("90*8 8a05f7ffffff c3").usable(Form::Island).is_ok());
}

#[test]
fn an_operand_that_ends_where_the_site_begins_is_fine() {
    // mov eax, [rip-x] of the 4 bytes before the function.
    assert!(measured("90*6 8b05f0ffffff c3").usable(Form::Slot).is_ok());
    assert!(measured("90*6 8b05f1ffffff c3").usable(Form::Slot).is_err());
}

#[test]
fn case_057_flags_live_across_a_lea() {
    assert_eq!(moved("39f7 488d0500010000 c3"), ["cmp edi, esi", "lea rax, [0x401109]", "jmp 0x401009"]);
}

#[test]
fn case_065_out_of_reach_after_the_move() {
    let text = "488d05ffffff7f c3"; // +2^31-1 from 0x401007
    let to = AT + 7 + 0x7fff_ffff;
    let at = |trampoline| Places { trampoline, ..PLACES };
    // Exactly as far as from the old place, then one byte further.
    let measure = measured(text);
    let plan = encode(&measure, Form::Island, &at(AT + 0x100), FAR);
    assert!(plan.is_ok(), "{plan:?}");
    match encode(&measure, Form::Island, &at(AT - 0x100), FAR) {
        Err(Refusal::OutOfReach { to: found, distance, .. }) => {
            assert_eq!((found, distance), (to, 0x8000_00ff));
        }
        other => panic!("{other:?}"),
    }
}
