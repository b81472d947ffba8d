//! Functions written as hex text, and an independent look at what became of them.

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, OpKind};
use midflight_arch::{
    Around, Form, Function, InstructionSet, Measure, Places, Refusal, SitePlan, encode, island_room, measure,
    measure_in,
};

/// Where the function of a test is.
pub(crate) const AT: u64 = 0x40_1000;
/// Where its parts are.
pub(crate) const PLACES: Places = Places { trampoline: 0x50_0000, island: 0x50_0100, slot: 0x50_0200 };
/// A replacement that is not near.
pub(crate) const FAR: u64 = 0x7f00_0000_0000;

/// Bytes of hex text; `90*5` repeats a byte.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let unit: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex digits"))
            .collect();
        bytes.extend(unit.repeat(times.parse().expect("a count")));
    }
    bytes
}

/// As text, for comparison with a listing.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn measured(text: &str) -> Measure {
    measure(InstructionSet::X86_64, &Function { address: AT, bytes: &hex(text), guarded: false })
}

pub(crate) fn planned(text: &str, form: Form) -> SitePlan {
    let bytes = hex(text);
    let function = Function { address: AT, bytes: &bytes, guarded: false };
    planned_in(&function, &Around::default(), form)
}

/// With padding behind it.
pub(crate) fn planned_in(function: &Function<'_>, around: &Around<'_>, form: Form) -> SitePlan {
    let measure = measure_in(InstructionSet::X86_64, function, around);
    let to = if form == Form::Direct { PLACES.slot + 0x1000 } else { FAR };
    let plan = encode(&measure, form, &PLACES, to)
        .unwrap_or_else(|refusal| panic!("{}: {refusal}", to_hex(function.bytes)));
    verify(function, &measure, &plan, &PLACES, to);
    plan
}

/// The trampoline of the island form, as text.
pub(crate) fn moved(text: &str) -> Vec<String> {
    code(&planned(text, Form::Island).trampoline, PLACES.trampoline).iter().map(self::text).collect()
}

/// Why the island form is refused.
pub(crate) fn refused(text: &str) -> Refusal {
    let refusal = measured(text).usable(Form::Island).expect_err("a refusal").clone();
    assert!(refusal.to_string().contains("0x"), "no address in: {refusal}");
    refusal
}

/// What the displaced instructions are, as text.
pub(crate) fn displaced(text: &str, form: Form) -> Vec<String> {
    let measure = measured(text);
    let displaced = measure.usable(form).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
    displaced.instructions.iter().map(|i| i.text.clone()).collect()
}

pub(crate) fn listing(bytes: &[u8], address: u64) -> Vec<String> {
    decode(bytes, address).iter().map(text).collect()
}

pub(crate) fn decode(bytes: &[u8], address: u64) -> Vec<Instruction> {
    Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).into_iter().collect()
}

pub(crate) fn text(instruction: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// Checks a plan without the help of the code that made it.
pub(crate) fn verify(function: &Function<'_>, measure: &Measure, plan: &SitePlan, places: &Places, to: u64) {
    let displaced = measure.usable(plan.form).expect("a usable form");
    let start = usize::try_from(plan.site - function.address).expect("a site in the function");
    assert!(start + displaced.span <= function.bytes.len());
    assert_eq!(plan.entry.len(), displaced.overwritten);
    let own = displaced.overwritten.min(displaced.span);
    assert_eq!(plan.original.len(), displaced.overwritten);
    assert_eq!(plan.original[..own], function.bytes[start..start + own]);
    assert!(plan.trampoline.len() <= measure.trampoline_room(plan.form));
    assert!(plan.island.len() <= island_room(measure.set()));

    let goal = match plan.form {
        Form::Direct => to,
        Form::Slot => places.slot,
        _ => places.island,
    };
    assert_eq!(plan.entry_jump(plan.form, goal).as_ref(), Ok(&plan.entry));
    assert_eq!(plan.pc_map.inside_jump(), None);
    let entry = decode(&plan.entry, plan.site)[0];
    let reached = match plan.form {
        Form::Slot => entry.ip_rel_memory_address(),
        Form::Absolute => u64::from_le_bytes(plan.entry[6..].try_into().expect("an address")),
        _ => entry.near_branch_target(),
    };
    assert_eq!(reached, goal);
    let island = decode(&plan.island, places.island);
    assert_eq!((island.len(), island[0].ip_rel_memory_address()), (1, places.slot));

    let own = &function.bytes[start..start + displaced.span];
    let old: Vec<Instruction> = decode(own, plan.site);
    assert_eq!(old.len(), displaced.instructions.len());
    verify_pc_map(plan, displaced.overwritten as u64, &old);
    let new = code(&plan.trampoline, places.trampoline);
    let mut rest = new.as_slice();
    for old in &old {
        let used = verify_moved(old, rest, function, plan, places.trampoline);
        rest = &rest[used..];
    }
    let last = old.last().expect("an instruction");
    match rest {
        [] => assert!(old.iter().any(|old| !falls_through(old)), "{}", text(last)),
        [end] if end.mnemonic() == iced_x86::Mnemonic::Int3 => {
            assert!(displaced.overwritten > displaced.span && falls_through(last));
        }
        [back] => {
            let to = back.near_branch_target();
            assert!(falls_through(last));
            assert!(to >= plan.site + displaced.span.max(displaced.overwritten) as u64, "{to:#x}");
            assert!(displaced.overwritten > displaced.span || to == plan.site + displaced.span as u64);
            assert_eq!(plan.pc_map.back(back.ip()), Some(to));
        }
        _ => panic!("too much in the trampoline: {:?}", listing(&plan.trampoline, places.trampoline)),
    }
    let length = new.iter().map(Instruction::len).sum::<usize>();
    let constants = old.iter().filter(|old| is_call(old)).count();
    assert_eq!(plan.trampoline.len(), length + 8 * constants);
}

/// The instructions of a trampoline, without the constants behind them.
pub(crate) fn code(bytes: &[u8], address: u64) -> Vec<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let (mut code, mut end) = (Vec::new(), address.wrapping_add(bytes.len() as u64));
    while decoder.ip() != end {
        let instruction = decoder.decode();
        let to = instruction.ip_rel_memory_address();
        let own = instruction.ip_rel_memory_address().wrapping_sub(address) < bytes.len() as u64;
        if instruction.is_ip_rel_memory_operand() && own && to >= instruction.next_ip() {
            end = end.min(to);
        }
        code.push(instruction);
    }
    code
}

fn is_call(instruction: &Instruction) -> bool {
    instruction.is_call_near() || instruction.is_call_near_indirect()
}

fn falls_through(instruction: &Instruction) -> bool {
    use iced_x86::FlowControl as F;
    let ends = [F::UnconditionalBranch, F::IndirectBranch, F::Return, F::Exception];
    !ends.contains(&instruction.flow_control())
        && instruction.mnemonic() != iced_x86::Mnemonic::Hlt
        && !is_call(instruction)
}

/// Where a displaced branch to there has to go.
fn moved_target(function: &Function<'_>, plan: &SitePlan, start: u64, to: u64, call: bool) -> u64 {
    let inside = to > plan.site && to < plan.site + plan.entry.len() as u64;
    match plan.pc_map.forward(to) {
        Some(copy) if inside => copy,
        None if inside => panic!("a branch to {to:#x}, in the middle of an instruction"),
        _ if !call && (to == function.address || to == plan.site) => start,
        _ => to,
    }
}

fn verify_pc_map(plan: &SitePlan, overwritten: u64, old: &[Instruction]) {
    let map = &plan.pc_map;
    assert_eq!(map.entries().len(), old.len());
    assert!(map.entries().is_sorted());
    for (&(from, to), old) in map.entries().iter().zip(old) {
        assert_eq!(from, old.ip());
        assert_eq!((map.forward(from), map.back(to)), (Some(to), Some(from)));
    }
    for pc in plan.site.saturating_sub(1)..plan.site + overwritten + 16 {
        assert_eq!(map.forward(pc).is_some(), old.iter().any(|i| i.ip() == pc));
        if pc != plan.site {
            assert_eq!(map.inside(pc), pc > plan.site && pc < plan.site + overwritten, "{pc:#x}");
        }
    }
}

/// Compares one displaced instruction with its copy; gives the number of instructions of the copy.
fn verify_moved(
    old: &Instruction,
    new: &[Instruction],
    function: &Function<'_>,
    plan: &SitePlan,
    trampoline: u64,
) -> usize {
    let first = &new[0];
    assert_eq!(plan.pc_map.forward(old.ip()), Some(first.ip()));
    if is_call(old) {
        return verify_call(old, new, function, plan, trampoline);
    }
    let bytes_of = |i: &Instruction, all: &[u8], base: u64| {
        let at = usize::try_from(i.ip() - base).expect("an offset");
        all[at..at + i.len()].to_vec()
    };
    let old_bytes = bytes_of(old, function.bytes, function.address);
    let new_bytes = bytes_of(first, &plan.trampoline, trampoline);
    // Not by its target: that may be 0.
    let branch = matches!(old.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    let to = moved_target(function, plan, trampoline, old.near_branch_target(), false);
    if old.is_ip_rel_memory_operand() {
        assert_eq!(old, first);
        assert_eq!(old.ip_rel_memory_address(), first.ip_rel_memory_address());
        assert_eq!(old_bytes.len(), new_bytes.len());
        assert!(old_bytes.iter().zip(&new_bytes).filter(|(a, b)| a != b).count() <= 4);
        1
    } else if !branch {
        assert_eq!(old_bytes, new_bytes);
        1
    } else if old.is_jcc_short_or_near()
        || old.is_jmp_short_or_near()
        || old.mnemonic() == iced_x86::Mnemonic::Xbegin
    {
        assert_eq!(old.mnemonic(), first.mnemonic());
        assert_eq!(first.near_branch_target(), to);
        assert_eq!(old.has_repne_prefix(), first.has_repne_prefix());
        assert_eq!(old.segment_prefix(), first.segment_prefix());
        1
    } else {
        let [_, over, out, ..] = new else { panic!("a loop made of {} instructions", new.len()) };
        assert_eq!(old.code(), first.code());
        assert_eq!(first.near_branch_target(), out.ip());
        assert_eq!(over.near_branch_target(), out.next_ip());
        assert_eq!(out.near_branch_target(), to);
        assert_eq!(plan.pc_map.back(over.ip()), Some(old.next_ip()));
        assert_eq!(plan.pc_map.back(out.ip()), Some(old.near_branch_target()));
        3
    }
}

/// The original return address is pushed, and the callee jumped to.
fn verify_call(
    old: &Instruction,
    new: &[Instruction],
    function: &Function<'_>,
    plan: &SitePlan,
    trampoline: u64,
) -> usize {
    use iced_x86::{Code, Register};
    assert!(old.next_ip() >= plan.site + plan.entry.len() as u64, "returns into the site");
    let pushes = |i: &Instruction| {
        let own = i.ip_rel_memory_address().wrapping_sub(trampoline) as usize;
        let constant = i.is_ip_rel_memory_operand().then(|| plan.trampoline.get(own..own + 8)).flatten();
        i.code() == Code::Push_rm64 && constant == Some(&old.next_ip().to_le_bytes()[..])
    };
    if pushes(&new[0]) {
        let jump = &new[1];
        if old.is_call_near() {
            assert_eq!(jump.code(), Code::Jmp_rel32_64);
            let to = moved_target(function, plan, trampoline, old.near_branch_target(), true);
            assert_eq!(jump.near_branch_target(), to);
            assert_eq!(plan.pc_map.back(jump.ip()), Some(old.near_branch_target()));
            return 2;
        }
        assert_eq!((jump.code(), jump.op0_kind()), (Code::Jmp_rm64, old.op0_kind()));
        assert_eq!(plan.pc_map.back(jump.ip()), None);
        let lower = if old.memory_base() == Register::RSP { 8 } else { 0 };
        assert_eq!(jump.op0_register(), old.op0_register());
        assert_eq!(jump.memory_base(), old.memory_base());
        assert_eq!(jump.memory_index(), old.memory_index());
        assert_eq!(jump.memory_displacement64(), old.memory_displacement64().wrapping_add(lower));
        return 2;
    }
    let [down, load, up, push, jump, ..] = new else { panic!("a call made of {} instructions", new.len()) };
    assert!(pushes(push));
    let texts = [down, up, jump].map(text);
    assert_eq!(
        texts,
        ["lea rsp, [rsp-8]", "lea rsp, [rsp+0x10]", "jmp qword ptr [rsp-8]"].map(|text| {
            if old.segment_prefix() == Register::DS {
                text.replace("jmp", "notrack jmp")
            } else {
                text.into()
            }
        })
    );
    assert_eq!(load.code(), Code::Push_rm64);
    assert_eq!((load.memory_base(), load.memory_index()), (old.memory_base(), old.memory_index()));
    5
}
