//! Where the parts of a site may be, in an address space that is otherwise empty.

use std::ops::{Range, RangeInclusive};

use midflight_arch::{Form, InstructionSet, Measure, Places, island_window};

/// Bytes of a block that holds trampoline, island and slot.
const BLOCK: u64 = 0x1000;
/// Where the lowest mapping may be.
const LOWEST: u64 = 0x1_0000;

/// What is taken of the address space.
#[derive(Debug, Clone)]
pub struct Home {
    /// The addresses of the module.
    pub image: Range<u64>,
    /// Which places are tried first, so that many functions together try them all.
    pub salt: u64,
}

impl Home {
    fn is_free(&self, set: InstructionSet, start: u64, length: u64) -> bool {
        let highest = match set {
            InstructionSet::X86_64 => 0x7fff_ffff_f000,
            _ => 0xffff_ffff_f000,
        };
        let Some(end) = start.checked_add(length) else { return false };
        start >= LOWEST && end <= highest && (end <= self.image.start || start >= self.image.end)
    }

    /// Addresses in a window at which `length` bytes are free: its ends, its middle, beside the module, and others.
    fn candidates(
        &self,
        set: InstructionSet,
        window: &RangeInclusive<u64>,
        length: u64,
        unit: u64,
    ) -> Vec<u64> {
        let (low, high) = window.clone().into_inner();
        let spread = high - low;
        let any = low + self.salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) % spread.max(1);
        let beside = [self.image.end, self.image.start.saturating_sub(length), LOWEST, 0x7fff_fff0_0000];
        let mut found: Vec<u64> = [any, low, high, low + spread / 2].into_iter().chain(beside).collect();
        let turn = self.salt as usize % found.len();
        found.rotate_left(turn);
        let down = |address: u64| address - address % unit;
        found
            .into_iter()
            .flat_map(|address| [down(address), down(address).saturating_add(unit)])
            .filter(|start| window.contains(start) && self.is_free(set, *start, length))
            .collect()
    }
}

/// Places for the parts of a site, if there are any.
pub fn places(measure: &Measure, form: Form, home: &Home) -> Option<Places> {
    let set = measure.set();
    let window = measure.window(form, BLOCK)?;
    let Some(island) = measure.pun_places().filter(|_| form == Form::Punned) else {
        let start = *home.candidates(set, &window, BLOCK, 8).first()?;
        return Some(in_block(measure, form, start, home.salt));
    };
    let room = midflight_arch::island_room(set) as u64;
    home.candidates(set, &island, room, 1).into_iter().find_map(|island| {
        let (low, high) = island_window(set, island, BLOCK)?.into_inner();
        let both = low.max(*window.start())..=high.min(*window.end());
        if both.is_empty() {
            return None;
        }
        let apart = |start: &u64| start + BLOCK <= island || island + room <= *start;
        let start = home.candidates(set, &both, BLOCK, 8).into_iter().find(apart)?;
        Some(Places { island, ..in_block(measure, form, start, home.salt) })
    })
}

/// The parts in a block at `start`: close together, or at its ends.
fn in_block(measure: &Measure, form: Form, start: u64, salt: u64) -> Places {
    let room = (measure.trampoline_room(form) as u64).next_multiple_of(16);
    if salt.is_multiple_of(2) {
        Places { trampoline: start, island: start + room, slot: start + BLOCK - 8 }
    } else {
        Places { slot: start, island: start + 16, trampoline: start + BLOCK - room }
    }
}
