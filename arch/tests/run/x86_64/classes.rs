//! The instructions of interest, by class.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, Register};
use midflight_arch::Form;

use super::catalogue::{Encoding, is_bit_string};
use super::window::Window;
use crate::run::case::Case;

pub(crate) const CONDITIONS: [&str; 16] =
    ["jo", "jno", "jb", "jae", "je", "jne", "jbe", "ja", "js", "jns", "jp", "jnp", "jl", "jge", "jle", "jg"];
pub(crate) const LOOPS: [&str; 4] = ["loopne", "loope", "loop", "jrcxz"];
pub(crate) const STRINGS: [&str; 5] = ["movs", "cmps", "stos", "lods", "scas"];

fn decode(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()
}

/// An instruction of the catalogue.
pub(crate) fn relative(mut window: Window<'_>, encodings: &[Encoding]) -> Case {
    let random = &mut *window.random;
    let encoding = &encodings[random.below(encodings.len() as u64) as usize];
    let mut class = encoding.class.as_str();
    let tail = random.bytes(12);
    let mut bytes = [&encoding.bytes, &tail[..]].concat();
    let locked = [&[0xf0], &bytes[..]].concat();
    if class.ends_with("update") && random.one_in(3) && !decode(&locked).is_invalid() {
        (bytes, class) = (locked, "rip: locked update");
    } else if random.one_in(12) {
        // The base of gs is 0, and the others have none.
        bytes.insert(0, random.pick(&[0x65, 0x2e, 0x36, 0x3e, 0x26]));
    }
    let instruction = decode(&bytes);
    let displacement = bytes.len() - tail.len();
    bytes.truncate(instruction.len());
    prepare(&mut window, &instruction);

    if window.form == Form::Absolute {
        far(&mut window, &instruction);
    }
    window.lead();
    let end = window.here() + bytes.len() as u64;
    let to = if class.ends_with("address") && window.random.one_in(2) {
        end + window.random.below(0xf000_0000) - 0x7800_0000
    } else {
        let mut operand = window.random.bytes(16);
        operand[0] |= 1; // A divisor must not be 0.
        let odd = if class.starts_with("rip: general") { window.random.below(8) } else { 0 };
        let odd = if instruction.mnemonic() == Mnemonic::Cmpxchg16b { 0 } else { odd };
        let at = window.data(end, &[vec![1; odd as usize], operand].concat());
        at + odd
    };
    bytes[displacement..displacement + 4].copy_from_slice(&to.wrapping_sub(end).to_le_bytes()[..4]);
    window.put(&bytes);
    window.keep = 0;
    window.finish(class)
}

/// A trampoline that is far away keeps a register below the red zone, where fillers must not move it. What uses the stack
/// pointer otherwise is refused.
fn far(window: &mut Window<'_>, instruction: &Instruction) {
    let mut factory = InstructionInfoFactory::new();
    let mut used = factory.info(instruction).used_registers().iter();
    let push = instruction.code() == Code::Push_rm64 && instruction.segment_prefix() != Register::GS;
    if !push && used.any(|used| used.register().full_register() == Register::RSP) {
        window.form = Form::Island;
        return;
    }
    window.stack = false;
    window.state.scratch = if push { 128 } else { 136 };
}

/// Registers that a random value would not do for.
fn prepare(window: &mut Window<'_>, instruction: &Instruction) {
    use Mnemonic as M;
    match instruction.mnemonic() {
        _ if is_bit_string(instruction) => {
            let register = instruction.op1_register().full_register().number();
            window.state.general[register] = window.random.below(0x200);
            window.keep |= 1 << register;
        }
        M::Div | M::Idiv => {
            window.state.general[0] &= 0x3f;
            window.state.general[2] = 0;
            window.keep |= 1 << 0 | 1 << 2;
        }
        _ => {}
    }
}

/// `jmp` and `jcc` with a distance of 8 or of 32 bits.
pub(crate) fn branch(mut window: Window<'_>, condition: Option<u8>) -> Option<Case> {
    let short = window.random.one_in(2);
    let mut bytes = match (condition, short) {
        (None, true) => vec![0xeb],
        (None, false) => vec![0xe9],
        (Some(condition), true) => vec![0x70 | condition],
        (Some(condition), false) => vec![0x0f, 0x80 | condition],
    };
    if window.random.one_in(4) {
        // A hint, or bnd.
        bytes.insert(0, window.random.pick(&[0x2e, 0x3e, 0xf2]));
    }
    let len = bytes.len() + if short { 1 } else { 4 };
    if condition.is_some() {
        window.lead()
    } else {
        window.lead_to_last(len)
    }
    let end = window.here() + len as u64;
    let to = if short { window.near_exit(end) } else { window.far_exit(end) }?;
    bytes.extend(&to.wrapping_sub(end).to_le_bytes()[..len - bytes.len()]);
    window.put(&bytes);
    Some(window.finish(condition.map_or("jmp", |condition| CONDITIONS[usize::from(condition)])))
}

/// `loop`, `loope`, `loopne`, `jrcxz`, also with ecx.
pub(crate) fn counted(mut window: Window<'_>, which: u8) -> Option<Case> {
    let rcx = window.random.pick(&[0, 0, 1, 1, 2, 1 << 32, (1 << 32) + 1, u64::MAX, 7]);
    window.state.general[1] = rcx;
    window.lead();
    let prefix: &[u8] = if window.random.one_in(3) { &[0x67] } else { &[] };
    let end = window.here() + prefix.len() as u64 + 2;
    let to = window.near_exit(end)?;
    window.put(&[prefix, &[0xe0 | which, to.wrapping_sub(end) as u8]].concat());
    Some(window.finish(LOOPS[usize::from(which)]))
}

/// Through a pointer or a register, to an exit.
pub(crate) fn indirect(mut window: Window<'_>) -> Option<Case> {
    window.stack = false;
    let start = window.here();
    if window.form == Form::Absolute {
        window.state.scratch = 136;
    }
    match window.random.below(5) {
        0 => {
            window.lead_to_last(6);
            let end = window.here() + 6;
            let to = window.far_exit(start)?;
            let slot = window.data(end, &to.to_le_bytes());
            window.put(&[&[0xff, 0x25], &slot.wrapping_sub(end).to_le_bytes()[..4]].concat());
            Some(window.finish("jmp through a pointer"))
        }
        1 => {
            let register = window.random.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 15]);
            window.keep = 1 << register;
            window.state.general[register as usize] = window.far_exit(start)?;
            window.lead_to_last(3);
            window.put(&[0x40 | register >> 3, 0xff, 0xe0 | register & 7]);
            Some(window.finish("jmp through a register"))
        }
        2 => {
            let to = window.far_exit(start)?;
            window.set_stack(0x20, to);
            window.lead_to_last(4);
            window.put(&[0xff, 0x64, 0x24, 0x20]);
            Some(window.finish("jmp through the stack"))
        }
        which => {
            let to = window.far_exit(start)?;
            window.set_stack(0, to);
            let ret: &[u8] = if which == 3 { &[0xc3] } else { &[0xc2, 0x18, 0x00] };
            window.lead_to_last(ret.len());
            window.put(ret);
            Some(window.finish("ret"))
        }
    }
}

/// With a 32-bit address: a load where there is memory, or the address itself.
pub(crate) fn eip_relative(mut window: Window<'_>) -> Case {
    window.lead();
    let end = window.here() + 7;
    let data = window.data(end, &[]);
    let (opcode, to) = if data >> 32 == 0 { (0x8b, data) } else { (0x8d, window.random.next()) };
    let distance = (to as u32).wrapping_sub(end as u32);
    window.put(&[&[0x67, opcode, 0x05], &distance.to_le_bytes()[..]].concat());
    window.finish("relative to eip")
}

/// Between displaced instructions, or back to the entry.
pub(crate) fn internal(mut window: Window<'_>) -> Case {
    window.state.general[1] = window.random.within(1..=4);
    let condition = 0x70 | window.random.below(16) as u8;
    let bytes: &[u8] = match window.random.below(7) {
        // jcc over an instruction
        0 => &[condition, 0x02, 0xff, 0xc0, 0x90],
        1 => &[0xe3, 0x02, 0xff, 0xc0, 0x90],
        2 => &[0xeb, 0x02, 0x90, 0x90, 0x90],
        // dec ecx; jnz: to the dec
        3 => &[0x90, 0xff, 0xc9, 0x75, 0xfc],
        // loop: to the inc before it
        4 => &[0x90, 0xff, 0xc0, 0xe2, 0xfc],
        // To the entry.
        5 => &[0xff, 0xc9, 0x75, 0xfc, 0x90],
        _ => &[0xff, 0xc0, 0x90, 0xe2, 0xfb],
    };
    window.put(bytes);
    window.finish("branch among the displaced")
}

/// A transaction that is given up at once.
pub(crate) fn transaction(mut window: Window<'_>) -> Option<Case> {
    window.form = Form::Absolute;
    let end = window.here() + 6;
    let to = window.far_exit(end)?;
    window.put(&[&[0xc7, 0xf8], &to.wrapping_sub(end).to_le_bytes()[..4]].concat());
    window.put(&[0xc6, 0xf8, 0x01]);
    let mut case = window.finish("transaction");
    // The reason; there may be others.
    case.free |= 1;
    Some(case)
}

/// String instructions, repeated or not, in both directions.
pub(crate) fn string(mut window: Window<'_>, which: usize) -> Case {
    let here = window.here();
    for register in [6, 7] {
        let same: Vec<u8> = window.random.bytes(0xa0).iter().map(|byte| byte & 1).collect();
        window.state.general[register] = window.data(here, &same) + 0x40;
    }
    window.state.general[0] &= 0x0101;
    window.state.general[1] = window.random.below(16);
    window.keep = 1;
    if window.random.one_in(2) {
        window.state.set_backward();
    }
    window.lead();
    let prefix: &[u8] = window.random.pick(&[&[], &[0xf3], &[0xf3], &[0xf2]]);
    let size: &[u8] = window.random.pick(&[&[], &[0x66], &[0x48]]);
    let opcode = [0xa4, 0xa6, 0xaa, 0xac, 0xae][which] | window.random.below(2) as u8;
    window.put(&[prefix, size, &[opcode]].concat());
    window.keep = 0;
    window.finish(STRINGS[which])
}

/// `enter`, `leave`, and nothing but the usual.
pub(crate) fn prologue(mut window: Window<'_>) -> Case {
    let which = window.random.below(6);
    if which > 1 {
        return window.finish("prologue");
    }
    window.lead();
    let levels = window.random.below(4) as u8;
    window.put(if which == 0 { vec![0xc8, 0x40, 0, levels] } else { vec![0xc9] }.as_slice());
    window.finish(if which == 0 { "enter" } else { "leave" })
}
