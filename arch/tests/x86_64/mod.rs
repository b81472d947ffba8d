//! x86-64, one module an instruction class. Addresses in the listings: the function is at 0x401000, its
//! trampoline at 0x500000.

mod branches;
mod calls;
mod endings;
mod ends;
mod far;
mod golden;
mod loops;
mod memory;
mod pads;
mod parked;
mod prefixes;
mod system;
mod tables;
