//! Words that depend on their address, and those that go elsewhere.

use midflight_arch::Form;

use super::site::Site;
use crate::run::case::Case;

pub(crate) const CONDITIONS: [&str; 16] = [
    "b.eq", "b.ne", "b.hs", "b.lo", "b.mi", "b.pl", "b.vs", "b.vc", "b.hi", "b.ls", "b.ge", "b.lt", "b.gt",
    "b.le", "b.al", "b.nv",
];
/// Of compare-and-branch and of test-and-branch: name, opcode.
pub(crate) const REGISTERS: [(&str, u32); 6] = [
    ("cbz w", 0x3400_0000),
    ("cbz x", 0xb400_0000),
    ("cbnz w", 0x3500_0000),
    ("cbnz x", 0xb500_0000),
    ("tbz", 0x3600_0000),
    ("tbnz", 0x3700_0000),
];
/// Loads of literals: name, opcode, whether a register that is loaded may not hold an address.
pub(crate) const LITERALS: [(&str, u32, bool); 7] = [
    ("ldr w", 0x1800_0000, false),
    ("ldr x", 0x5800_0000, false),
    ("ldrsw", 0x9800_0000, false),
    ("prfm", 0xd800_0000, true),
    ("ldr s", 0x1c00_0000, true),
    ("ldr d", 0x5c00_0000, true),
    ("ldr q", 0x9c00_0000, true),
];
/// A general load that only touches memory.
pub(crate) const TO_ZERO: &str = "load into xzr";

/// A call through x30.
pub(crate) const THROUGH_LINK: &str = "blr x30";
/// Loops from the entry.
pub(crate) const LOOP: &str = "loop";
pub(crate) const LEFT_LOOP: &str = "loop with an exit";
/// The link register.
const LINK: u32 = 30;

/// A distance in words.
pub(crate) fn field(site: &Site<'_>, to: u64, bits: u32) -> u32 {
    (to.wrapping_sub(site.here()).cast_signed() >> 2) as u32 & ((1 << bits) - 1)
}

pub(crate) fn branch(mut site: Site<'_>) -> Case {
    let to = site.exit(26);
    let word = 0x1400_0000 | field(&site, to, 26);
    site.finish("b", word)
}

pub(crate) fn conditional(mut site: Site<'_>, condition: usize) -> Case {
    let to = site.exit(19);
    let word = 0x5400_0000 | field(&site, to, 19) << 5 | condition as u32;
    site.finish(CONDITIONS[condition], word)
}

/// `cbz`, `cbnz`, `tbz`, `tbnz`
pub(crate) fn on_register(mut site: Site<'_>, which: usize) -> Case {
    let (class, opcode) = REGISTERS[which];
    let register = site.random.below(32) as u32;
    if register < 31 && site.random.one_in(2) {
        let zero = [0, 0xdead_beef_0000_0000][site.random.below(2) as usize];
        site.state.x[register as usize] = zero;
    }
    if which < 4 {
        let to = site.exit(19);
        let word = opcode | field(&site, to, 19) << 5 | register;
        return site.finish(class, word);
    }
    let bit = site.random.below(64) as u32;
    let to = site.exit(14);
    let word = opcode | (bit >> 5) << 31 | (bit & 31) << 19 | field(&site, to, 14) << 5 | register;
    site.finish(class, word)
}

/// `adr`, `adrp`
pub(crate) fn address(site: Site<'_>, page: bool) -> Case {
    let mut distance = site.random.below(1 << 21) as u32;
    if !page && (distance < 4 || distance >= (1 << 21) - 4) {
        distance = 4; // A byte of the displaced words is refused.
    }
    let register = site.random.below(32) as u32;
    let word = 0x1000_0000 | u32::from(page) << 31 | (distance & 3) << 29 | (distance >> 2) << 5 | register;
    site.finish(if page { "adrp" } else { "adr" }, word)
}

/// Loads and prefetches of literals.
pub(crate) fn literal(mut site: Site<'_>, which: usize) -> Case {
    let (mut class, opcode, mut through_x16) = LITERALS[which];
    let register = if site.random.one_in(5) { 31 } else { site.random.below(32) as u32 };
    if which < 3 && register == 31 {
        (class, through_x16) = (TO_ZERO, true);
    }
    // x16 is free at an entry (AAPCS64, "Use of IP0 and IP1 by the linker").
    if through_x16 {
        site.free = 1 << 16;
    }
    let to = site.data(19);
    let word = opcode | field(&site, to, 19) << 5 | register;
    site.finish(class, word)
}

/// `br` and `ret` to an exit.
pub(crate) fn indirect(mut site: Site<'_>) -> Case {
    let ret = site.random.one_in(2);
    let register = if ret && site.random.one_in(2) { 30 } else { site.random.below(31) as u32 };
    if register == 30 {
        site.must_not_sign();
    }
    site.state.x[register as usize] = site.exit(26);
    if register == 16 {
        site.form = Form::Direct; // An island has another value in it.
    }
    let opcode = if ret { 0xd65f_0000 } else { 0xd61f_0000 };
    site.finish(if ret { "ret" } else { "br" }, opcode | register << 5)
}

/// `bl` to an exit, which finds the return address in x30.
pub(crate) fn call(mut site: Site<'_>) -> Case {
    let to = site.exit(26);
    let word = 0x9400_0000 | field(&site, to, 26);
    site.finish("bl", word)
}

/// `blr` to an exit.
pub(crate) fn indirect_call(mut site: Site<'_>) -> Case {
    let register = if site.random.one_in(4) { LINK } else { site.random.below(31) as u32 };
    site.state.x[register as usize] = site.exit(26);
    let mut class = "blr";
    if register == LINK {
        // It must not have been signed, and goes by way of x16.
        site.must_not_sign();
        (class, site.free) = (THROUGH_LINK, 1 << 16);
    }
    if register == 16 {
        site.form = Form::Direct; // An island has another value in it.
    }
    site.finish(class, 0xd63f_0000 | register << 5)
}

/// A word that may depend on its address, and a branch back to it until a counter is zero.
pub(crate) fn counted_loop(mut site: Site<'_>) -> Case {
    let counter = site.random.below(16) as u32;
    site.state.x[counter as usize] = 1 + site.random.below(100);
    let other = 17 + site.random.below(14) as u32;
    let word = match site.random.below(4) {
        // adr, behind the loop; adrp; ldr x of a literal; add #5 to itself
        0 => 0x1000_0200 | other,
        1 => 0x9000_0000 | (site.random.below(1 << 19) as u32) << 5 | other,
        2 => {
            let to = site.data(19);
            0x5800_0000 | field(&site, to, 19) << 5 | other
        }
        _ => 0x9100_1400 | other << 5 | other,
    };
    // sub x<counter>, x<counter>, #1; cbnz x<counter>, .-8
    site.finish_loop(LOOP, &[word, 0xd100_0400 | counter << 5 | counter, 0xb5ff_ffc0 | counter])
}

/// A loop that is left early, behind its first word, or at its end.
pub(crate) fn left_loop(mut site: Site<'_>) -> Case {
    let counter = site.random.below(16) as u32;
    site.state.x[counter as usize] = 1 + site.random.below(64);
    let other = 16 + site.random.below(14) as u32;
    let bit = site.random.below(7) as u32;
    // add x<other>, x<other>, #3
    site.push(0x9100_0c00 | other << 5 | other);
    // tbnz x<counter>, #bit, an exit
    let to = site.exit(14);
    site.push(0x3700_0000 | bit << 19 | field(&site, to, 14) << 5 | counter);
    // sub x<counter>, x<counter>, #1; cbnz x<counter>, .-12
    site.finish_loop(LEFT_LOOP, &[0xd100_0400 | counter << 5 | counter, 0xb5ff_ffa0 | counter])
}

/// `getpid()`: changes x0 only.
pub(crate) fn system_call(mut site: Site<'_>) -> Case {
    site.state.x[8] = libc::SYS_getpid as u64;
    site.finish("svc", 0xd400_0001)
}
