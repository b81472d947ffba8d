//! What kind of instruction a word is, as far as it matters for moving it.
//!
//! Masks and values are those of the Arm Architecture Reference Manual, chapter C4.

use crate::Function;
use crate::reach::Reach;

/// One instruction word at its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) value: u32,
    pub(crate) at: u64,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `b`
    Branch,
    /// `bl`
    Call,
    /// `b.cond`, `bc.cond`, `cbz`, `cbnz`, `tbz`, `tbnz`, `cb<cond>`; where the distance is.
    Conditional(Field),
    /// `adr`
    Address,
    /// `adrp`
    Page,
    /// A load or prefetch from a literal.
    Literal(Literal),
    /// `br` and its authenticated forms.
    Jump,
    /// `blr` and its authenticated forms.
    IndirectCall,
    /// `ret` and its authenticated forms.
    Return,
    /// `bti c`, `bti j`, `bti jc`
    LandingPad,
    /// `paciasp`, `pacibsp`
    Sign,
    /// Authentication that mixes in pc.
    SignWithPc,
    /// `brk`
    Breakpoint,
    /// `udf`
    Undefined,
    /// Exclusive loads and stores.
    Exclusive,
    /// One of the three words of a memory copy or set.
    Copy,
    /// `movprfx`, which is one operation with the word behind it.
    Prefix,
    /// Start, commit or cancellation of a transaction.
    Transaction,
    /// What only the system may run.
    Privileged,
    /// Everything else: does not depend on its address.
    Other,
}

/// What a load from a literal does, said without its distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Literal {
    /// The word that does the same through `base`.
    pub(crate) load: u32,
    /// A register that may hold the address: the one that is loaded if that is possible, else x16.
    pub(crate) base: u32,
    /// Bytes that are read; a prefetch reads none.
    pub(crate) size: u64,
}

/// The first intra-procedure-call scratch register.
pub(crate) const IP0: u32 = 16;

/// Where in a word a distance is, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    shift: u32,
    bits: u32,
}

pub(crate) const IMM26: Field = Field { shift: 0, bits: 26 };
pub(crate) const IMM19: Field = Field { shift: 5, bits: 19 };
const IMM14: Field = Field { shift: 5, bits: 14 };
const IMM9: Field = Field { shift: 5, bits: 9 };

impl Field {
    pub(crate) const fn reach(self) -> Reach {
        Reach::word(self.bits, 4)
    }

    /// The word with a distance in bytes that was checked to be in reach.
    pub(crate) fn put(self, word: u32, distance: i64) -> u32 {
        let mask = ((1 << self.bits) - 1) << self.shift;
        word & !mask | (((distance >> 2) as u32) << self.shift) & mask
    }

    fn get(self, word: u32) -> i64 {
        sign_extend(u64::from(word >> self.shift), self.bits) << 2
    }
}

impl Word {
    /// Whether it is `svc`.
    pub(crate) fn is_system_call(&self) -> bool {
        self.value & 0xffe0_001f == 0xd400_0001
    }

    pub(crate) fn decode(value: u32, at: u64) -> Self {
        Self { value, at, kind: kind(value) }
    }

    /// The address that the word goes to, makes, or loads from.
    pub(crate) fn target(&self) -> Option<u64> {
        let distance = match self.kind {
            Kind::Branch | Kind::Call => IMM26.get(self.value),
            Kind::Conditional(field) => field.get(self.value),
            Kind::Literal(_) => IMM19.get(self.value),
            Kind::Address => address_distance(self.value),
            Kind::Page => {
                return Some((self.at & !0xfff).wrapping_add_signed(address_distance(self.value) << 12));
            }
            _ => return None,
        };
        Some(self.at.wrapping_add_signed(distance))
    }

    /// Whether it may set pc to [`Word::target`].
    pub(crate) fn is_branch(&self) -> bool {
        matches!(self.kind, Kind::Branch | Kind::Call | Kind::Conditional(_))
    }

    /// `bti j`, `bti jc`
    pub(crate) fn is_for_jumps(&self) -> bool {
        self.kind == Kind::LandingPad && self.value & 0x80 != 0
    }

    /// Where a branch that is no call may go.
    pub(crate) fn branches_to(&self) -> Option<u64> {
        if self.kind == Kind::Call || !self.is_branch() { None } else { self.target() }
    }

    /// The register in the lowest bits.
    pub(crate) fn register(&self) -> u32 {
        self.value & 31
    }
}

/// The words of a function; bytes behind the last whole one are no code.
pub(crate) fn words<'a>(function: &Function<'a>) -> impl Iterator<Item = Word> + use<'a> {
    let address = function.address;
    let (words, _) = function.bytes.as_chunks();
    let at = move |index: usize| address.wrapping_add(index as u64 * 4);
    words.iter().enumerate().map(move |(index, word)| Word::decode(u32::from_le_bytes(*word), at(index)))
}

fn kind(word: u32) -> Kind {
    let is = |mask: u32, value: u32| word & mask == value;
    match word {
        _ if is(0xfc00_0000, 0x1400_0000) => Kind::Branch,
        _ if is(0xfc00_0000, 0x9400_0000) => Kind::Call,
        _ if is(0xff00_0000, 0x5400_0000) => Kind::Conditional(IMM19),
        _ if is(0x7e00_0000, 0x3400_0000) => Kind::Conditional(IMM19),
        _ if is(0x7e00_0000, 0x3600_0000) => Kind::Conditional(IMM14),
        _ if is(0x7e00_0000, 0x7400_0000) => compare_and_branch(word),
        _ if is(0x9f00_0000, 0x1000_0000) => Kind::Address,
        _ if is(0x9f00_0000, 0x9000_0000) => Kind::Page,
        _ if is(0x3b00_0000, 0x1800_0000) => literal(word),
        _ if is(0xfe00_0000, 0xd600_0000) => through_register(word),
        _ if is(0xff00_0000, 0xd400_0000) => exception(word),
        _ if is(0xffff_ff3f, 0xd503_241f) && word != 0xd503_241f => Kind::LandingPad,
        0xd503_233f | 0xd503_237f => Kind::Sign,
        _ if with_pc(word) => Kind::SignWithPc,
        _ if is(0xffff_0000, 0) => Kind::Undefined,
        _ if is(0x3e80_0000, 0x0800_0000) && !is(0xbfa0_0000, 0x0820_0000) => Kind::Exclusive,
        _ if is(0xfb20_0c00, 0x1900_0400) => Kind::Copy,
        _ if is(0x3fff_0c00, 0x1ddf_0000) => Kind::Copy, // `setgop` and its kin
        _ if is(0xffff_fc00, 0x0420_bc00) || is(0xff3e_e000, 0x0410_2000) => Kind::Prefix,
        0xd503_307f => Kind::Transaction,
        _ if is(0xffff_ffe0, 0xd523_3060) => Kind::Transaction,
        _ => Kind::Other,
    }
}

/// `cb<cond>` (FEAT_CMPBR) with a register or a number. Two of the conditions are not allocated, nor are bytes and
/// halfwords of x registers.
fn compare_and_branch(word: u32) -> Kind {
    let condition = word >> 21 & 7;
    let operands = match (word >> 24 & 1, word >> 14 & 3) {
        (0, 0) => true,
        (0, size) => size != 1 && word >> 31 == 0,
        (_, low) => low & 1 == 0,
    };
    if operands && !matches!(condition, 4 | 5) { Kind::Conditional(IMM9) } else { Kind::Other }
}

fn literal(word: u32) -> Kind {
    let register = word & 31;
    // The same with an address in a register: C6.2 `LDR (immediate)`, `LDRSW (immediate)`, `PRFM (immediate)`, C7.2
    // `LDR (immediate, SIMD&FP)`, each with unsigned offset 0.
    let (load, size) = match (word >> 30, word >> 26 & 1) {
        (0, 0) => (0xb940_0000, 4),
        (1, 0) => (0xf940_0000, 8),
        (2, 0) => (0xb980_0000, 4),
        (_, 0) => (0xf980_0000, 0),
        (0, _) => (0xbd40_0000, 4),
        (1, _) => (0xfd40_0000, 8),
        (2, _) => (0x3dc0_0000, 16),
        _ => return Kind::Other, // Not allocated.
    };
    let is_general = word >> 26 & 1 == 0 && word >> 30 != 3;
    let base = if is_general && register != 31 { register } else { IP0 };
    Kind::Literal(Literal { load: load | base << 5 | register, base, size })
}

fn through_register(word: u32) -> Kind {
    match word >> 21 & 0xf {
        0b0000 | 0b1000 => Kind::Jump,
        0b0001 | 0b1001 => Kind::IndirectCall,
        // Beside lr, an authenticated return names the register that pc is checked against.
        0b0010 if word & 0xffff_fbff == 0xd65f_0bff || word & 0x0000_fc1f == 0 => Kind::Return,
        0b0010 => Kind::SignWithPc,
        _ => Kind::Privileged,
    }
}

fn exception(word: u32) -> Kind {
    match (word >> 21 & 7, word & 3) {
        (0, 1) => Kind::Other, // svc
        (1, 0) => Kind::Breakpoint,
        (3, 0) => Kind::Transaction,
        _ => Kind::Privileged,
    }
}

/// `paciasppc` and its kin (also as register forms), `autiasppc`, `retaasppc`, `pacm`.
fn with_pc(word: u32) -> bool {
    word & 0xffff_c000 == 0xdac1_8000
        || word & 0xff80_001f == 0xf380_001f
        || word & 0xff00_0000 == 0x5500_0000
        || word == 0xd503_24ff
}

/// The distance of `adr` in bytes, of `adrp` in pages.
fn address_distance(word: u32) -> i64 {
    sign_extend(u64::from(word >> 5 << 2 & 0x1f_fffc | word >> 29 & 3), 21)
}

fn sign_extend(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}
