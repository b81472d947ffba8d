//! One function while it is put together: perhaps a landing pad, the displaced word, an exit. On a guarded page the
//! word may stand behind one that signs the return address, which is displaced with it.

use std::ops::RangeInclusive;

use midflight_arch::Form;

use super::machine::{Machine, State};
use crate::run::case::{Block, Case, Role};
use crate::run::memory::World;
use crate::run::random::Random;

/// Bytes that a function has at most.
const ROOM: u64 = 64;
/// The stack of a case, and where its pointer is in it: exits write 512 bytes below.
const STACK: (u64, u64) = (2048, 1280);
/// `bti c`. Those for jumps are refused of a function that computes jumps, as all of these do at their exits.
const PAD: u32 = 0xd503_245f;

/// `paciasp`, `pacibsp`
const SIGNS: [u32; 2] = [0xd503_233f, 0xd503_237f];

/// A function whose displaced word is still missing.
pub(crate) struct Site<'a> {
    world: &'a mut World,
    machine: &'a Machine,
    pub(crate) random: &'a mut Random,
    pub(crate) form: Form,
    address: u64,
    bytes: Vec<u8>,
    guarded: bool,
    pub(crate) state: State,
    /// General registers that need not be the same afterwards.
    pub(crate) free: u32,
    blocks: Vec<Block>,
    exits: Vec<(u64, Role)>,
}

impl<'a> Site<'a> {
    pub(crate) fn new(world: &'a mut World, machine: &'a Machine, random: &'a mut Random) -> Self {
        // In the middle of the first arena.
        let middle = world.base + 0x1a_0000..=world.base + 0x26_0000;
        let address = world.claim(random, &middle, ROOM, 4).expect("room for a function");
        let mut state = State::random(random);
        let stack = world.claim_anywhere(random, STACK.0, 16);
        state.sp = stack + STACK.1;
        let blocks = vec![Block { at: stack, bytes: random.bytes(STACK.0 as usize) }];
        let (guarded, first) = match random.below(8) {
            0 | 1 => (random.one_in(2), Some(PAD)),
            2 | 3 => (true, Some(random.pick(&SIGNS))),
            _ => (false, None),
        };
        let bytes = first.map_or(Vec::new(), |word| word.to_le_bytes().to_vec());
        let form = random.pick(&[Form::Direct, Form::Island]);
        Self {
            world,
            machine,
            random,
            form,
            address,
            bytes,
            guarded,
            state,
            free: 0,
            blocks,
            exits: Vec::new(),
        }
    }

    /// Where the word will be.
    pub(crate) fn here(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }

    /// For a word that needs the return address as it is.
    pub(crate) fn must_not_sign(&mut self) {
        self.bytes.clear();
        self.guarded = false;
    }

    /// An exit that a distance in words of so many bits reaches.
    pub(crate) fn exit(&mut self, bits: u32) -> u64 {
        let number = self.world.next_exit();
        let (bytes, _) = self.machine.exit(number);
        let window = self.reached(bits, 0);
        let at = self.world.claim(self.random, &window, bytes.len() as u64, 4).expect("room for an exit");
        self.world.write_code(at, &bytes);
        self.exits.push((number, Role::Taken));
        at
    }

    /// Random memory that a distance in words of so many bits reaches.
    pub(crate) fn data(&mut self, bits: u32) -> u64 {
        let window = self.reached(bits, 32);
        // Literals are aligned to words, not to their size.
        let at = self.world.claim(self.random, &window, 48, 4).expect("room for data");
        self.blocks.push(Block { at, bytes: self.random.bytes(48) });
        at + 16
    }

    /// Where something may start of which the byte after `lead` is to be in reach.
    fn reached(&self, bits: u32, lead: u64) -> RangeInclusive<u64> {
        let half = 4 << (bits - 1);
        self.here() - half..=self.here() + half - 4 - lead
    }

    /// Puts a word in its place; more are to follow.
    pub(crate) fn push(&mut self, word: u32) {
        self.bytes.extend(word.to_le_bytes());
    }

    /// Puts the word in its place and an exit behind it.
    pub(crate) fn finish(self, class: &str, word: u32) -> Case {
        self.put_exit(class, &[word], true)
    }

    /// Puts the words in their place and an exit behind them, which is none of the function's: with the jump at its end
    /// something else might come into a loop.
    pub(crate) fn finish_loop(self, class: &str, words: &[u32]) -> Case {
        self.put_exit(class, words, false)
    }

    fn put_exit(mut self, class: &str, words: &[u32], is_own: bool) -> Case {
        words.iter().for_each(|word| self.push(*word));
        let end = self.bytes.len();
        let number = self.world.next_exit();
        let (exit, instructions) = self.machine.exit(number);
        self.bytes.extend(exit);
        assert!(self.bytes.len() <= ROOM as usize);
        self.world.write_code(self.address, &self.bytes);
        // The data of the exit is no code.
        self.bytes.truncate(if is_own { end + instructions } else { end });
        self.exits.push((number, Role::Through));
        Case {
            class: class.to_owned(),
            form: self.form,
            address: self.address,
            guarded: self.guarded,
            bytes: self.bytes,
            end,
            state: self.state,
            free: self.free,
            blocks: self.blocks,
            exits: self.exits,
        }
    }
}
