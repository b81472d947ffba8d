//! Instructions that refer to what is too far away from the trampoline, each made of several.

use yaxpeax_x86::long_mode::{Opcode, Operand, RegSpec};

use super::at::{At, relative};
use crate::second::{Site, expect};

/// The longest sequence.
const LONGEST: usize = 8;

/// The instructions from `from` on, as many as there can be in one sequence.
pub(super) fn sequence(site: &Site<'_>, from: u64) -> Vec<At> {
    let mut at = from;
    let mut found = Vec::new();
    while let Some(next) = site.trampoline(at).and_then(|bytes| At::decode(bytes, at).ok()) {
        at = next.next();
        found.push(next);
        if found.len() == LONGEST {
            break;
        }
    }
    found
}

/// Whether instructions are these, as text.
pub(super) fn are(found: &[At], wanted: &[&str]) -> Result<(), String> {
    let texts: Vec<String> = found.iter().map(At::text).collect();
    expect(texts == wanted, || format!("{texts:?} is not {wanted:?}"))
}

/// Whether `old` became a sequence that does the same by the full address of its operand. Gives the address behind.
pub(super) fn operand(site: &Site<'_>, old: &At, copy: u64) -> Result<u64, String> {
    let sequence = sequence(site, copy);
    let to = old.memory().ok_or("it refers to no address")?;
    let is_wide = old.operands().all(|operand| relative(&operand).is_none_or(|(is_wide, _)| is_wide));
    expect(is_wide, || "an address of 32 bits is never far".into())?;
    let length = match old.opcode() {
        Opcode::LEA => lea(old, &sequence, to)?,
        Opcode::JMP => {
            expect(!site.around.shadow_stack, || "a shadow stack forbids that return".into())?;
            let load = load(to);
            let wanted = [
                "lea rsp, qword [rsp - 0x80]",
                "push rax",
                &load,
                "mov rax, qword [rax]",
                "xchg qword [rsp], rax",
                "ret 0x80",
            ];
            are_first(&sequence, &wanted)?
        }
        Opcode::PUSH => {
            let load = load(to);
            let wanted = [
                "lea rsp, qword [rsp - 0x80]",
                "push rax",
                &load,
                "mov rax, qword [rax]",
                "mov qword [rsp + 0x80], rax",
                "pop rax",
                "lea rsp, qword [rsp + 0x78]",
            ];
            are_first(&sequence, &wanted)?
        }
        _ => match &sequence[..] {
            [down, push, set, does, pop, up, ..] if down.opcode() == Opcode::LEA => {
                let register = scratch(old, set, to)?;
                let name = register.name();
                let wanted = [
                    "lea rsp, qword [rsp - 0x80]",
                    &format!("push {name}"),
                    &format!("pop {name}"),
                    "lea rsp, qword [rsp + 0x80]",
                ];
                are(&[*down, *push, *pop, *up], &wanted)?;
                expect(!uses(old, register), || format!("{name} is used by the instruction"))?;
                through(old, does, register)?;
                6
            }
            [set, does, ..] => {
                let register = scratch(old, set, to)?;
                let whole = match old.instruction.operand(0) {
                    Operand::Register { reg } => full(reg) == Some(register),
                    _ => false,
                };
                let reads = old.operands().skip(1).filter(|operand| relative(operand).is_none());
                let is_read = reads.into_iter().any(|operand| mentions(&operand, register));
                expect(whole && !is_read, || format!("{} is lost", register.name()))?;
                through(old, does, register)?;
                2
            }
            _ => return Err("operation, operands or address differ".into()),
        },
    };
    sequence.get(length - 1).map(At::next).ok_or_else(|| "too short".into())
}

/// The jump of a call through a far pointer, whose return address is pushed already.
pub(super) fn call_through(old: &At, sequence: &[At]) -> Result<(), String> {
    let load = load(old.memory().ok_or("it goes through no address")?);
    let wanted = [
        "push rax",
        &load,
        "mov rax, qword [rax]",
        "xchg qword [rsp], rax",
        "lea rsp, qword [rsp + 0x8]",
        "jmp qword [rsp - 0x8]",
    ];
    are_first(sequence, &wanted).map(|_| ())
}

fn are_first(sequence: &[At], wanted: &[&str]) -> Result<usize, String> {
    are(sequence.get(..wanted.len()).unwrap_or(sequence), wanted).map(|()| wanted.len())
}

fn load(address: u64) -> String {
    let number = address.cast_signed();
    let sign = if number < 0 { "-" } else { "" };
    format!("mov rax, {sign}{:#x}", number.unsigned_abs())
}

/// `lea` of a far address: a number.
fn lea(old: &At, sequence: &[At], to: u64) -> Result<usize, String> {
    let [new, ..] = sequence else { return Err("nothing is there".into()) };
    let Operand::Register { reg } = old.instruction.operand(0) else { return Err("no register".into()) };
    let number = match reg.width() {
        2 => to & 0xffff,
        4 => to & 0xffff_ffff,
        _ => to,
    };
    let is_same = new.opcode() == Opcode::MOV
        && new.instruction.operand(0) == Operand::Register { reg }
        && immediate(&new.instruction.operand(1), reg.width()) == Some(number);
    expect(is_same, || format!("{} is no {number:#x} for {}", new.text(), reg.name())).map(|()| 1)
}

/// The number in an operand, as far as a register of so many bytes has room for it.
fn immediate(operand: &Operand, width: u8) -> Option<u64> {
    let value = match *operand {
        Operand::ImmediateI16 { imm } => i64::from(imm).cast_unsigned(),
        Operand::ImmediateU16 { imm } => imm.into(),
        Operand::ImmediateI32 { imm } => i64::from(imm).cast_unsigned(),
        Operand::ImmediateU32 { imm } => imm.into(),
        Operand::ImmediateI64 { imm } => imm.cast_unsigned(),
        Operand::ImmediateU64 { imm } => imm,
        _ => return None,
    };
    Some(if width >= 8 { value } else { value & ((1 << (8 * width)) - 1) })
}

/// The register that gets the address.
fn scratch(old: &At, set: &At, to: u64) -> Result<RegSpec, String> {
    let differs = || format!("{} is neither {} nor the address {to:#x}", set.text(), old.text());
    let Operand::Register { reg } = set.instruction.operand(0) else { return Err(differs()) };
    let is_address = set.opcode() == Opcode::MOV
        && reg.width() == 8
        && immediate(&set.instruction.operand(1), 8) == Some(to);
    expect(is_address, differs).map(|()| reg)
}

/// Whether `new` is `old` with the memory at `[register]` in place of that at the address.
fn through(old: &At, new: &At, register: RegSpec) -> Result<(), String> {
    let (this, that) = (&old.instruction, &new.instruction);
    let is_same = |(a, b): (Operand, Operand)| match (relative(&a), b) {
        (None, b) => a == b,
        (Some(_), Operand::MemDeref { base } | Operand::Disp { base, disp: 0 }) => base == register,
        (Some(_), Operand::MemDerefMasked { base, mask } | Operand::DispMasked { base, mask, disp: 0 }) => {
            base == register && super::at::mask(&a) == Some(mask)
        }
        _ => false,
    };
    let size = |instruction: &yaxpeax_x86::long_mode::Instruction| {
        instruction.mem_size().and_then(|size| size.bytes_size())
    };
    let (before, after) = (this.prefixes, that.prefixes);
    let same = this.opcode() == that.opcode()
        && size(this) == size(that)
        && this.operand_count() == that.operand_count()
        && (before.lock(), before.rep(), before.repnz()) == (after.lock(), after.rep(), after.repnz())
        && before.segment() == after.segment()
        && old.operands().zip(new.operands()).all(is_same);
    expect(same, || format!("it became {}", new.text()))
}

/// The whole register of which this one is a part that, when written, leaves nothing of it.
fn full(register: RegSpec) -> Option<RegSpec> {
    match register.width() {
        8 if register.class() == RegSpec::rax().class() => Some(register),
        4 if register.class() == RegSpec::eax().class() => Some(RegSpec::q(register.num())),
        _ => None,
    }
}

/// Whether an instruction uses a register, as far as it says so, or in ways that it does not say.
fn uses(old: &At, register: RegSpec) -> bool {
    let silent: &[RegSpec] = match old.opcode() {
        Opcode::CMPXCHG => &[RegSpec::rax()],
        Opcode::MUL | Opcode::IMUL | Opcode::DIV | Opcode::IDIV => &[RegSpec::rax(), RegSpec::rdx()],
        Opcode::CMPXCHG8B | Opcode::CMPXCHG16B => {
            &[RegSpec::rax(), RegSpec::rbx(), RegSpec::rcx(), RegSpec::rdx()]
        }
        Opcode::MULX => &[RegSpec::rdx()],
        _ => &[],
    };
    silent.contains(&register) || old.operands().any(|operand| mentions(&operand, register))
}

/// Whether an operand is a general register that shares bits with this one, or an address made with it.
fn mentions(operand: &Operand, register: RegSpec) -> bool {
    let text = operand.to_string();
    let number = register.num();
    let parts =
        [Some(register), Some(RegSpec::d(number)), Some(RegSpec::w(number)), Some(RegSpec::rb(number))];
    let high = ["ah", "ch", "dh", "bh"].get(usize::from(number)).copied();
    let names = parts.into_iter().flatten().map(|part| part.name()).chain(high);
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    names.into_iter().any(|name| words.contains(&name))
}
