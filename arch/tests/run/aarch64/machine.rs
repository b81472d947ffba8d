//! Sets all registers, runs code, and catches all registers at the exit that it leaves through.
//!
//! A general register is free neither on the way in nor on the way out. The way in ends with a few words near the
//! target that load x17 from behind themselves. An exit first puts x16 and x17 into memory below the stack pointer.

use std::arch::naked_asm;
use std::fmt;
use std::mem::offset_of;

use crate::run::memory::Arena;
use crate::run::random::Random;

/// Everything that an instruction of a user can change, except memory.
#[derive(Clone)]
#[repr(C, align(16))]
pub(crate) struct State {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    pub(crate) sp: u64,
    nzcv: u64,
    fpsr: u64,
    v: [[u64; 2]; 32],
}

/// From the stack pointer to what an exit writes.
const SCRATCH: u64 = 512;

impl State {
    pub(crate) fn random(random: &mut Random) -> Self {
        Self {
            x: std::array::from_fn(|_| random.value()),
            sp: 0,
            nzcv: random.next() & 0xf000_0000,
            fpsr: 0,
            v: std::array::from_fn(|_| [random.next(), random.next()]),
        }
    }

    /// Where the two are not the same.
    pub(crate) fn differences(&self, other: &Self, free: u32) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |name: &str, old: u64, new: u64| {
            if old != new {
                found.push(format!("{name}: {old:#x} became {new:#x}"));
            }
        };
        for number in (0..31).filter(|number| free >> number & 1 == 0) {
            compare(&format!("x{number}"), self.x[number], other.x[number]);
        }
        compare("sp", self.sp, other.sp);
        compare("nzcv", self.nzcv, other.nzcv);
        compare("fpsr", self.fpsr, other.fpsr);
        for (number, (old, new)) in self.v.iter().zip(&other.v).enumerate() {
            compare(&format!("v{number}, lower half"), old[0], new[0]);
            compare(&format!("v{number}, upper half"), old[1], new[1]);
        }
        found
    }

    /// Clears what an exit wrote into the memory at `at`.
    pub(crate) fn forget_scratch(&self, at: u64, bytes: &mut [u8]) {
        let scratch = self.sp.wrapping_sub(SCRATCH)..self.sp.wrapping_sub(SCRATCH - 16);
        for (address, byte) in (at..).zip(bytes) {
            if scratch.contains(&address) {
                *byte = 0;
            }
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, value) in self.x.iter().enumerate() {
            write!(f, "  x{number}={value:#x}")?;
        }
        write!(f, "  sp={:#x}  nzcv={:#x}", self.sp, self.nzcv)
    }
}

/// What the way in, the exits and the way out share.
#[repr(C, align(16))]
struct Exchange {
    state: State,
    target: u64,
    /// Of the exit that was taken.
    number: u64,
    way_out: u64,
    host_sp: u64,
}

/// Runs code, one piece at a time.
pub(crate) struct Machine(Arena);

impl Machine {
    pub(crate) fn new() -> Self {
        Self(Arena::anywhere(0x1000))
    }

    /// The code of an exit, which may stand at any word, and how many of its bytes are instructions.
    pub(crate) fn exit(&self, number: u64) -> (Vec<u8>, usize) {
        let field = |offset: usize| (offset as u32 / 8) << 10;
        let words = [
            0xa920_47f0,                                        // stp x16, x17, [sp, #-512]
            0x5800_00b1,                                        // ldr x17, the exchange
            0x5800_00d0,                                        // ldr x16, the number
            0xf900_0230 | field(offset_of!(Exchange, number)),  // str x16, [x17, number]
            0xf940_0230 | field(offset_of!(Exchange, way_out)), // ldr x16, [x17, way_out]
            0xd61f_0200_u32,                                    // br x16
        ];
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let instructions = bytes.len();
        bytes.extend([self.0.start(), number].into_iter().flat_map(u64::to_le_bytes));
        (bytes, instructions)
    }

    /// Code to stand at `at`, which sets x17 and goes to `target`.
    pub(crate) fn way_in(at: u64, target: u64, state: &State) -> Vec<u8> {
        let distance = target.wrapping_sub(at + 4).cast_signed();
        assert!((-(1 << 27)..1 << 27).contains(&distance));
        // ldr x17, the value; b target
        let words = [0x5800_0051, 0x1400_0000 | (distance >> 2) as u32 & 0x3ff_ffff];
        let words = words.into_iter().flat_map(u32::to_le_bytes);
        words.chain(state.x[17].to_le_bytes()).collect()
    }

    /// Runs the code at `target`, a way in, in this state; gives the exit that it left through, and the state there.
    ///
    /// # Safety
    ///
    /// The code must leave through an exit of this machine, and may change only memory of its world.
    pub(crate) unsafe fn run(&mut self, target: u64, state: &State) -> (u64, State) {
        let exchange = self.0.start() as *mut Exchange;
        let way_out = leave as *const () as u64;
        let new = Exchange { state: state.clone(), target, number: 0, way_out, host_sp: 0 };
        // SAFETY: the arena is an exchange's, and `self` is borrowed exclusively.
        unsafe { exchange.write(new) };
        // SAFETY: the caller promises that the code comes back by way of `leave`.
        unsafe { enter(exchange) };
        // SAFETY: as above; nothing runs there any more.
        let after = unsafe { exchange.read() };
        (after.number, after.state)
    }
}

/// Saves what a function has to keep (and x18, which is the system's elsewhere), loads the state, and goes to the target.
#[unsafe(naked)]
unsafe extern "C" fn enter(exchange: *mut Exchange) {
    naked_asm!(
        "stp x29, x30, [sp, #-176]!",
        "stp x18, x19, [sp, #16]", "stp x20, x21, [sp, #32]", "stp x22, x23, [sp, #48]",
        "stp x24, x25, [sp, #64]", "stp x26, x27, [sp, #80]", "str x28, [sp, #96]",
        "stp d8, d9, [sp, #112]", "stp d10, d11, [sp, #128]", "stp d12, d13, [sp, #144]", "stp d14, d15, [sp, #160]",
        "mov x9, sp",
        "str x9, [x0, {host_sp}]",
        "add x9, x0, {v}",
        "ldp q0, q1, [x9]", "ldp q2, q3, [x9, #32]", "ldp q4, q5, [x9, #64]", "ldp q6, q7, [x9, #96]",
        "ldp q8, q9, [x9, #128]", "ldp q10, q11, [x9, #160]", "ldp q12, q13, [x9, #192]", "ldp q14, q15, [x9, #224]",
        "ldp q16, q17, [x9, #256]", "ldp q18, q19, [x9, #288]", "ldp q20, q21, [x9, #320]", "ldp q22, q23, [x9, #352]",
        "ldp q24, q25, [x9, #384]", "ldp q26, q27, [x9, #416]", "ldp q28, q29, [x9, #448]", "ldp q30, q31, [x9, #480]",
        "ldr x9, [x0, {nzcv}]",
        "msr nzcv, x9",
        "ldr x9, [x0, {fpsr}]",
        "msr fpsr, x9",
        "ldr x9, [x0, {sp}]",
        "mov sp, x9",
        "ldr x17, [x0, {target}]",
        "ldp x2, x3, [x0, #16]", "ldp x4, x5, [x0, #32]", "ldp x6, x7, [x0, #48]", "ldp x8, x9, [x0, #64]",
        "ldp x10, x11, [x0, #80]", "ldp x12, x13, [x0, #96]", "ldp x14, x15, [x0, #112]", "ldr x16, [x0, #128]",
        "ldp x18, x19, [x0, #144]", "ldp x20, x21, [x0, #160]", "ldp x22, x23, [x0, #176]", "ldp x24, x25, [x0, #192]",
        "ldp x26, x27, [x0, #208]", "ldp x28, x29, [x0, #224]", "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "br x17",
        host_sp = const offset_of!(Exchange, host_sp),
        target = const offset_of!(Exchange, target),
        v = const offset_of!(Exchange, state.v),
        nzcv = const offset_of!(Exchange, state.nzcv),
        fpsr = const offset_of!(Exchange, state.fpsr),
        sp = const offset_of!(Exchange, state.sp),
    )
}

/// Reached from an exit with x16 and x17 below the stack pointer, and the exchange in x17. Returns from [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "stp x0, x1, [x17]", "stp x2, x3, [x17, #16]", "stp x4, x5, [x17, #32]", "stp x6, x7, [x17, #48]",
        "stp x8, x9, [x17, #64]", "stp x10, x11, [x17, #80]", "stp x12, x13, [x17, #96]", "stp x14, x15, [x17, #112]",
        "stp x18, x19, [x17, #144]", "stp x20, x21, [x17, #160]", "stp x22, x23, [x17, #176]",
        "stp x24, x25, [x17, #192]", "stp x26, x27, [x17, #208]", "stp x28, x29, [x17, #224]", "str x30, [x17, #240]",
        "mov x0, sp",
        "str x0, [x17, {sp}]",
        "ldp x1, x2, [x0, #-512]",
        "stp x1, x2, [x17, #128]",
        "mrs x1, nzcv",
        "str x1, [x17, {nzcv}]",
        "mrs x1, fpsr",
        "str x1, [x17, {fpsr}]",
        "add x9, x17, {v}",
        "stp q0, q1, [x9]", "stp q2, q3, [x9, #32]", "stp q4, q5, [x9, #64]", "stp q6, q7, [x9, #96]",
        "stp q8, q9, [x9, #128]", "stp q10, q11, [x9, #160]", "stp q12, q13, [x9, #192]", "stp q14, q15, [x9, #224]",
        "stp q16, q17, [x9, #256]", "stp q18, q19, [x9, #288]", "stp q20, q21, [x9, #320]", "stp q22, q23, [x9, #352]",
        "stp q24, q25, [x9, #384]", "stp q26, q27, [x9, #416]", "stp q28, q29, [x9, #448]", "stp q30, q31, [x9, #480]",
        "ldr x0, [x17, {host_sp}]",
        "mov sp, x0",
        "ldp d8, d9, [sp, #112]", "ldp d10, d11, [sp, #128]", "ldp d12, d13, [sp, #144]", "ldp d14, d15, [sp, #160]",
        "ldp x18, x19, [sp, #16]", "ldp x20, x21, [sp, #32]", "ldp x22, x23, [sp, #48]",
        "ldp x24, x25, [sp, #64]", "ldp x26, x27, [sp, #80]", "ldr x28, [sp, #96]",
        "ldp x29, x30, [sp], #176",
        "ret",
        host_sp = const offset_of!(Exchange, host_sp),
        v = const offset_of!(Exchange, state.v),
        nzcv = const offset_of!(Exchange, state.nzcv),
        fpsr = const offset_of!(Exchange, state.fpsr),
        sp = const offset_of!(Exchange, state.sp),
    )
}
