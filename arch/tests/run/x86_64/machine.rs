//! Sets all registers, runs code, and catches all registers at the exit that it leaves through.
//!
//! A general register is free neither on the way in nor on the way out. So the last step in, and the first of each
//! exit, are *thunks*: a few instructions made at run time next to the values that they load or store, which they
//! find relative to rip.

use std::arch::naked_asm;
use std::fmt;
use std::mem::offset_of;

use crate::run::memory::Arena;
use crate::run::random::Random;

/// Everything that an instruction of a user can change, except memory.
#[derive(Clone)]
#[repr(C, align(16))]
pub(crate) struct State {
    /// In the order of their numbers: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 ...
    pub(crate) general: [u64; 16],
    pub(crate) flags: u64,
    /// Whether `upper` is used.
    has_avx: u64,
    /// What `fxsave64` stores: x87, mxcsr, xmm.
    fx: [u8; 512],
    /// The upper halves of the ymm registers.
    upper: [[u64; 2]; 16],
    /// What is left behind by a trampoline and belongs to nobody: bytes below the stack pointer at the exit where 8 such
    /// start, if any.
    pub(crate) scratch: u64,
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Carry, parity, adjust, zero, sign, direction, overflow.
const FLAGS: u64 = 0xcd5;
const DIRECTION: u64 = 0x400;

impl State {
    /// Random in everything; the direction flag is clear, and no exception is unmasked.
    pub(crate) fn random(random: &mut Random) -> Self {
        let mut fx = [0; 512];
        fx[32..416].copy_from_slice(&random.bytes(384));
        fx[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        fx[4] = random.pick(&[0, 0xff]);
        fx[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        Self {
            general: std::array::from_fn(|_| random.value()),
            flags: random.next() & FLAGS & !DIRECTION | 2,
            has_avx: u64::from(is_x86_feature_detected!("avx")),
            fx,
            upper: std::array::from_fn(|_| [random.next(), random.next()]),
            scratch: 0,
        }
    }

    pub(crate) fn set_backward(&mut self) {
        self.flags |= DIRECTION;
    }

    /// Where the two are not the same.
    pub(crate) fn differences(&self, other: &Self, free: u32) -> Vec<String> {
        let mut found = Vec::new();
        for (number, name) in NAMES.iter().enumerate().filter(|(number, _)| free >> number & 1 == 0) {
            let (old, new) = (self.general[number], other.general[number]);
            if old != new {
                found.push(format!("{name}: {old:#x} became {new:#x}"));
            }
        }
        if self.flags != other.flags {
            found.push(format!("flags: {:#x} became {:#x}", self.flags, other.flags));
        }
        // Bytes 8 to 15 are the address of the last x87 instruction, which is another one.
        let differ = |at: &usize| !(8..16).contains(at) && self.fx[*at] != other.fx[*at];
        if let Some(at) = (0..512).find(differ) {
            let part = match at {
                24..28 => "mxcsr".to_owned(),
                0..32 => "x87 control".to_owned(),
                32..160 => format!("st{}", (at - 32) / 16),
                _ => format!("xmm{}", (at - 160) / 16),
            };
            let (row, end) = (at & !15, (at & !15) + 16);
            found.push(format!("{part}: {:02x?} became {:02x?}", &self.fx[row..end], &other.fx[row..end]));
        }
        for (number, (old, new)) in self.upper.iter().zip(&other.upper).enumerate() {
            if old != new {
                found.push(format!("ymm{number}, upper half: {old:x?} became {new:x?}"));
            }
        }
        found
    }

    /// What is in memory for which nobody has a use.
    pub(crate) fn forget_scratch(&self, at: u64, bytes: &mut [u8]) {
        let start = self.general[4].wrapping_sub(self.scratch).wrapping_sub(at);
        let own = start.checked_add(8).and_then(|end| bytes.get_mut(start as usize..end as usize));
        if let Some(own) = own.filter(|_| self.scratch != 0) {
            own.fill(0);
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in NAMES.iter().zip(&self.general) {
            write!(f, "  {name}={value:#x}")?;
        }
        write!(f, "  flags={:#x}", self.flags)
    }
}

/// What the way in, the thunks and the way out share.
#[repr(C, align(16))]
struct Exchange {
    state: State,
    target: u64,
    /// Of the exit that was taken.
    number: u64,
    /// Address of the thunk that loads the last register.
    way_in: u64,
    way_out: u64,
    host_sp: u64,
    host_mxcsr: u32,
}

/// Runs code, one piece at a time.
pub(crate) struct Machine(Arena);

const PAGE: u64 = 0x1000;
const THUNK: u64 = 32;
/// As many exits as there may be.
const EXITS: u64 = 4096;

impl Machine {
    pub(crate) fn new() -> Self {
        // The exchange has a page of its own: data next to code is slow.
        let arena = Arena::anywhere(PAGE + (EXITS + 1) * THUNK);
        let machine = Self(arena);
        machine.0.write(machine.thunk(0), &machine.thunk_in());
        for number in 1..=EXITS {
            machine.0.write(machine.thunk(number), &machine.thunk_out(number));
        }
        machine.0.publish(machine.thunk(0), ((EXITS + 1) * THUNK) as usize);
        machine
    }

    fn thunk(&self, number: u64) -> u64 {
        self.0.start() + PAGE + number * THUNK
    }

    /// The displacement, for an instruction that ends at `end`, of a field of the exchange.
    fn displacement(&self, field: usize, end: u64) -> [u8; 4] {
        let distance = (self.0.start() + field as u64).wrapping_sub(end).cast_signed();
        i32::try_from(distance).expect("the arena is small").to_le_bytes()
    }

    /// `mov rdi, [rip+rdi]; jmp [rip+target]`
    fn thunk_in(&self) -> Vec<u8> {
        let at = self.thunk(0);
        let rdi = offset_of!(Exchange, state.general) + 7 * 8;
        let load = [&[0x48, 0x8b, 0x3d][..], &self.displacement(rdi, at + 7)].concat();
        let target = self.displacement(offset_of!(Exchange, target), at + 13);
        [&load[..], &[0xff, 0x25], &target].concat()
    }

    /// `mov [rip+rax], rax; lea rax, [rip+exchange]; mov dword ptr [rax+number], number; jmp [rax+way_out]`
    fn thunk_out(&self, number: u64) -> Vec<u8> {
        let at = self.thunk(number);
        let field = |offset: usize| (offset as u32).to_le_bytes();
        let mut bytes = [&[0x48, 0x89, 0x05][..], &self.displacement(0, at + 7)].concat();
        bytes.extend([&[0x48, 0x8d, 0x05][..], &self.displacement(0, at + 14)].concat());
        bytes.extend([&[0xc7, 0x80][..], &field(offset_of!(Exchange, number))].concat());
        bytes.extend((number as u32).to_le_bytes());
        bytes.extend([&[0xff, 0xa0][..], &field(offset_of!(Exchange, way_out))].concat());
        bytes
    }

    /// The code of an exit, which may stand anywhere, and how many of its bytes are instructions.
    pub(crate) fn exit(&self, number: u64) -> (Vec<u8>, usize) {
        assert!((1..=EXITS).contains(&number));
        // jmp [rip]; and the pointer
        let jump = [0xff, 0x25, 0, 0, 0, 0];
        ([&jump[..], &self.thunk(number).to_le_bytes()].concat(), jump.len())
    }

    /// Runs the code at `target` in this state; gives the exit that it left through, and the state there.
    ///
    /// # Safety
    ///
    /// The code must leave through an exit of this machine, and may change only memory of its world.
    pub(crate) unsafe fn run(&mut self, target: u64, state: &State) -> (u64, State) {
        let exchange = self.0.start() as *mut Exchange;
        let new = Exchange {
            state: state.clone(),
            target,
            number: 0,
            way_in: self.thunk(0),
            way_out: leave as *const () as u64,
            host_sp: 0,
            host_mxcsr: 0,
        };
        // SAFETY: the first page of the arena is an exchange's, and `self` is borrowed exclusively.
        unsafe { exchange.write(new) };
        // SAFETY: the caller promises that the code comes back by way of `leave`.
        unsafe { enter(exchange) };
        // SAFETY: as above; nothing runs there any more.
        let after = unsafe { exchange.read() };
        (after.number, after.state)
    }
}

/// Saves what a function has to keep, loads the state, and goes to the target.
#[unsafe(naked)]
unsafe extern "C" fn enter(exchange: *mut Exchange) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "stmxcsr [rdi + {mxcsr}]",
        "mov [rdi + {sp}], rsp",
        "fxrstor64 [rdi + {fx}]",
        "cmp qword ptr [rdi + {avx}], 0",
        "je 2f",
        "vinsertf128 ymm0, ymm0, [rdi + {upper}], 1",
        "vinsertf128 ymm1, ymm1, [rdi + {upper} + 0x10], 1",
        "vinsertf128 ymm2, ymm2, [rdi + {upper} + 0x20], 1",
        "vinsertf128 ymm3, ymm3, [rdi + {upper} + 0x30], 1",
        "vinsertf128 ymm4, ymm4, [rdi + {upper} + 0x40], 1",
        "vinsertf128 ymm5, ymm5, [rdi + {upper} + 0x50], 1",
        "vinsertf128 ymm6, ymm6, [rdi + {upper} + 0x60], 1",
        "vinsertf128 ymm7, ymm7, [rdi + {upper} + 0x70], 1",
        "vinsertf128 ymm8, ymm8, [rdi + {upper} + 0x80], 1",
        "vinsertf128 ymm9, ymm9, [rdi + {upper} + 0x90], 1",
        "vinsertf128 ymm10, ymm10, [rdi + {upper} + 0xa0], 1",
        "vinsertf128 ymm11, ymm11, [rdi + {upper} + 0xb0], 1",
        "vinsertf128 ymm12, ymm12, [rdi + {upper} + 0xc0], 1",
        "vinsertf128 ymm13, ymm13, [rdi + {upper} + 0xd0], 1",
        "vinsertf128 ymm14, ymm14, [rdi + {upper} + 0xe0], 1",
        "vinsertf128 ymm15, ymm15, [rdi + {upper} + 0xf0], 1",
        "2:",
        "push qword ptr [rdi + {flags}]",
        "popfq",
        "mov rax, [rdi]", "mov rcx, [rdi + 0x8]", "mov rdx, [rdi + 0x10]", "mov rbx, [rdi + 0x18]",
        "mov rsp, [rdi + 0x20]", "mov rbp, [rdi + 0x28]", "mov rsi, [rdi + 0x30]",
        "mov r8, [rdi + 0x40]", "mov r9, [rdi + 0x48]", "mov r10, [rdi + 0x50]", "mov r11, [rdi + 0x58]",
        "mov r12, [rdi + 0x60]", "mov r13, [rdi + 0x68]", "mov r14, [rdi + 0x70]", "mov r15, [rdi + 0x78]",
        "jmp [rdi + {way_in}]",
        mxcsr = const offset_of!(Exchange, host_mxcsr),
        sp = const offset_of!(Exchange, host_sp),
        fx = const offset_of!(Exchange, state.fx),
        avx = const offset_of!(Exchange, state.has_avx),
        upper = const offset_of!(Exchange, state.upper),
        flags = const offset_of!(Exchange, state.flags),
        way_in = const offset_of!(Exchange, way_in),
    )
}

/// Reached from the thunk of an exit with rax already saved, and the exchange in it. Returns from [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "mov [rax + 0x8], rcx", "mov [rax + 0x10], rdx", "mov [rax + 0x18], rbx", "mov [rax + 0x20], rsp",
        "mov [rax + 0x28], rbp", "mov [rax + 0x30], rsi", "mov [rax + 0x38], rdi",
        "mov [rax + 0x40], r8", "mov [rax + 0x48], r9", "mov [rax + 0x50], r10", "mov [rax + 0x58], r11",
        "mov [rax + 0x60], r12", "mov [rax + 0x68], r13", "mov [rax + 0x70], r14", "mov [rax + 0x78], r15",
        "mov rsp, [rax + {sp}]",
        "pushfq",
        "pop [rax + {flags}]",
        "cld",
        "fxsave64 [rax + {fx}]",
        "cmp qword ptr [rax + {avx}], 0",
        "je 2f",
        "vextractf128 [rax + {upper}], ymm0, 1",
        "vextractf128 [rax + {upper} + 0x10], ymm1, 1",
        "vextractf128 [rax + {upper} + 0x20], ymm2, 1",
        "vextractf128 [rax + {upper} + 0x30], ymm3, 1",
        "vextractf128 [rax + {upper} + 0x40], ymm4, 1",
        "vextractf128 [rax + {upper} + 0x50], ymm5, 1",
        "vextractf128 [rax + {upper} + 0x60], ymm6, 1",
        "vextractf128 [rax + {upper} + 0x70], ymm7, 1",
        "vextractf128 [rax + {upper} + 0x80], ymm8, 1",
        "vextractf128 [rax + {upper} + 0x90], ymm9, 1",
        "vextractf128 [rax + {upper} + 0xa0], ymm10, 1",
        "vextractf128 [rax + {upper} + 0xb0], ymm11, 1",
        "vextractf128 [rax + {upper} + 0xc0], ymm12, 1",
        "vextractf128 [rax + {upper} + 0xd0], ymm13, 1",
        "vextractf128 [rax + {upper} + 0xe0], ymm14, 1",
        "vextractf128 [rax + {upper} + 0xf0], ymm15, 1",
        "vzeroupper",
        "2:",
        "fninit",
        "ldmxcsr [rax + {mxcsr}]",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        mxcsr = const offset_of!(Exchange, host_mxcsr),
        sp = const offset_of!(Exchange, host_sp),
        fx = const offset_of!(Exchange, state.fx),
        avx = const offset_of!(Exchange, state.has_avx),
        upper = const offset_of!(Exchange, state.upper),
        flags = const offset_of!(Exchange, state.flags),
    )
}
