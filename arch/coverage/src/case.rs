//! A function of any bytes at any place, with anything around it: for fuzzing and property tests.

use midflight_arch::{Around, Function, InstructionSet, Places, encode, measure_in};

use crate::places::{Home, places};
use crate::second::{self, Doubt};
use crate::survey::FORMS;

/// What is behind a function at most.
const BEHIND: usize = 32;

/// A function, what is around it, and where its parts are to be.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is written in.
    pub set: InstructionSet,
    /// Of the first byte.
    pub address: u64,
    /// All of its bytes.
    pub code: Vec<u8>,
    /// As in [`Function`].
    pub guarded: bool,
    /// As in [`Around`].
    pub shadow_stack: bool,
    /// Bytes behind the function; those of one byte at their start are padding.
    pub behind: Vec<u8>,
    /// Where more padding of 8 bytes starts.
    pub padding: Option<u64>,
    /// Where the parts are asked to be.
    pub places: Places,
    /// Where the site is to go.
    pub replacement: u64,
}

impl Case {
    /// Takes a case from a fuzzer's bytes: 48 for what is around the function, then its own.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, code) = bytes.split_first_chunk::<48>()?;
        let word = |index: usize| {
            words.get(index * 8..index * 8 + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes)
        };
        let flags = word(0)?;
        let address = word(1)? & if flags & 32 == 0 { 0x7fff_ffff_ffff } else { u64::MAX };
        // Small numbers are what a fuzzer finds first: distances, unless they are meant as addresses.
        let near = |value: u64| {
            if flags & 8 == 0 { address.wrapping_add_signed(value.cast_signed() >> 32) } else { value }
        };
        let split = (flags >> 8 & 0x1f) as usize;
        let (code, behind) = code.split_at(code.len().saturating_sub(split));
        let set = if flags & 1 == 0 { InstructionSet::X86_64 } else { InstructionSet::Aarch64 };
        let case = Self {
            set,
            address,
            code: code.to_vec(),
            guarded: flags & 2 != 0,
            shadow_stack: flags & 4 != 0,
            behind: behind.get(..behind.len().min(BEHIND)).unwrap_or_default().to_vec(),
            padding: (flags & 16 != 0).then(|| address.wrapping_add_signed(i64::from((flags >> 16) as i8))),
            places: Places { trampoline: near(word(2)?), island: near(word(3)?), slot: near(word(4)?) & !7 },
            replacement: near(word(5)?),
        };
        Some(case)
    }

    /// Plans every form, where it was asked for and where there is room for it, and reads each plan again. Gives how many
    /// there were. What the second decoder does not know cannot be told, and counts for nothing.
    pub fn check(&self) -> Result<usize, Doubt> {
        let function = Function { address: self.address, bytes: &self.code, guarded: self.guarded };
        let last = address_behind(self.address, self.code.len() + self.behind.len());
        let first = self.behind.first().copied().filter(|byte| matches!(byte, 0x90 | 0xcc));
        let padding = self.behind.iter().take_while(|byte| Some(**byte) == first).count();
        let more = [0x90; 8];
        // It is apart from the function.
        let apart =
            |start: &u64| start.checked_add(8).is_some_and(|end| end <= self.address || *start >= last);
        let paddings: Vec<(u64, &[u8])> =
            self.padding.filter(apart).map(|start| (start, &more[..])).into_iter().collect();
        let mut around = Around { behind: &self.behind, padding, paddings: &paddings, ..Around::default() };
        around.shadow_stack = self.shadow_stack;

        let measure = measure_in(self.set, &function, &around);
        let home = Home {
            image: self.address.saturating_sub(0x1000)..last.saturating_add(0x1000),
            salt: self.replacement,
        };
        let mut plans = 0;
        for form in FORMS {
            let found = places(&measure, form, &home);
            for places in [Some(self.places), found].into_iter().flatten() {
                let Ok(plan) = encode(&measure, form, &places, self.replacement) else { continue };
                match second::verify(self.set, &function, &around, &plan, &places, self.replacement) {
                    Ok(()) => plans += 1,
                    Err(Doubt::Unread(_)) => {}
                    Err(wrong) => return Err(wrong),
                }
            }
        }
        Ok(plans)
    }
}

fn address_behind(address: u64, bytes: usize) -> u64 {
    address.saturating_add(bytes as u64)
}
