//! The displaced bytes of one function while they are put together.

use std::ops::RangeInclusive;

use midflight_arch::Form;

use super::fillers::filler;
use super::machine::{Machine, State};
use crate::run::case::{Block, Case, Role};
use crate::run::memory::World;
use crate::run::random::Random;

/// Bytes that a function has at most.
const ROOM: u64 = 96;
/// The stack of a case, and where its pointer is in it.
const STACK: (u64, u64) = (2048, 1280);

const RSP: usize = 4;
const RBP: usize = 5;

/// A function up to its exit.
pub(crate) struct Window<'a> {
    world: &'a mut World,
    machine: &'a Machine,
    pub(crate) random: &'a mut Random,
    pub(crate) form: Form,
    address: u64,
    bytes: Vec<u8>,
    /// Offset of the first byte to be overwritten.
    site: usize,
    pub(crate) state: State,
    /// Registers that must keep their value up to the instruction of interest.
    pub(crate) keep: u32,
    /// Whether fillers may use the stack.
    pub(crate) stack: bool,
    blocks: Vec<Block>,
    exits: Vec<(u64, Role)>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(world: &'a mut World, machine: &'a Machine, random: &'a mut Random) -> Self {
        // In the middle of the first arena.
        let middle = world.base + 0xe_0000..=world.base + 0x12_0000;
        let address = world.claim(random, &middle, ROOM, 1).expect("room for a function");
        let mut state = State::random(random);
        let stack = world.claim_anywhere(random, STACK.0, 16);
        state.general[RSP] = stack + STACK.1;
        state.general[RBP] = stack + STACK.1 + 0x100;
        let blocks = vec![Block { at: stack, bytes: random.bytes(STACK.0 as usize) }];
        let pad: &[u8] = if random.one_in(6) { &[0xf3, 0x0f, 0x1e, 0xfa] } else { &[] };
        let form = random.pick(&[Form::Direct, Form::Slot, Form::Island, Form::Absolute]);
        Self {
            world,
            machine,
            random,
            form,
            address,
            bytes: pad.to_vec(),
            site: pad.len(),
            state,
            keep: 0,
            stack: true,
            blocks,
            exits: Vec::new(),
        }
    }

    /// Where the next instruction will be.
    pub(crate) fn here(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Bytes that the entry jump still overwrites.
    fn missing(&self) -> usize {
        let needed = match self.form {
            Form::Slot => 6,
            Form::Absolute => 14,
            _ => 5,
        };
        (self.site + needed).saturating_sub(self.bytes.len())
    }

    /// Fillers, so that an instruction put next is displaced.
    pub(crate) fn lead(&mut self) {
        while self.missing() > 1 && !self.random.one_in(2) {
            self.fill(self.missing() - 1);
        }
    }

    /// Fillers, so that an instruction of `len` bytes put next is the last displaced one.
    pub(crate) fn lead_to_last(&mut self, len: usize) {
        while self.missing() > len || self.missing() > 1 && self.random.one_in(2) {
            self.fill(self.missing() - 1);
        }
    }

    /// One instruction of at most `room` bytes: mostly a filler.
    fn fill(&mut self, room: usize) {
        let condition = self.random.below(16) as u8;
        let bytes = match self.random.below(16) {
            0 if room >= 2 => self.side_exit(&[0x70 | condition], 2),
            1 if room >= 6 => self.side_exit(&[0x0f, 0x80 | condition], 6),
            _ => None,
        };
        let bytes = bytes.unwrap_or_else(|| filler(self.random, self.keep, self.stack, room));
        self.put(&bytes);
    }

    /// A conditional branch of `len` bytes.
    fn side_exit(&mut self, opcode: &[u8], len: usize) -> Option<Vec<u8>> {
        let end = self.here() + len as u64;
        let to = self.exit(if len == 2 { near(end) } else { far(end) }, Role::Aside)?;
        let distance = to.wrapping_sub(end).to_le_bytes();
        Some([opcode, &distance[..len - opcode.len()]].concat())
    }

    /// An exit that a distance of 8 bits reaches.
    pub(crate) fn near_exit(&mut self, end: u64) -> Option<u64> {
        self.exit(near(end), Role::Taken)
    }

    /// An exit that a distance of 32 bits reaches.
    pub(crate) fn far_exit(&mut self, end: u64) -> Option<u64> {
        self.exit(far(end), Role::Taken)
    }

    fn exit(&mut self, window: RangeInclusive<u64>, role: Role) -> Option<u64> {
        let number = self.world.next_exit();
        let (bytes, _) = self.machine.exit(number);
        let at = self.world.claim(self.random, &window, bytes.len() as u64, 1)?;
        self.world.write_code(at, &bytes);
        self.exits.push((number, role));
        Some(at)
    }

    /// Memory that starts with `bytes`, goes on with others, and is less than 2 GiB away from `end`.
    pub(crate) fn data(&mut self, end: u64, bytes: &[u8]) -> u64 {
        let window = end - (1 << 31)..=end + (1 << 31) - 0x100;
        let at = self.world.claim(self.random, &window, 0x100, 64).expect("room for data");
        let mut all = self.random.bytes(0x100);
        // There is as much before the address that is given.
        all[0x40..0x40 + bytes.len()].copy_from_slice(bytes);
        self.blocks.push(Block { at, bytes: all });
        at + 0x40
    }

    /// Sets what the stack pointer points to, `offset` bytes above.
    pub(crate) fn set_stack(&mut self, offset: i64, value: u64) {
        let at = (STACK.1 as i64 + offset) as usize;
        self.blocks[0].bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Fills up what is still missing, and puts the exit behind it.
    pub(crate) fn finish(mut self, class: &str) -> Case {
        while self.missing() > 0 {
            self.fill(usize::MAX);
        }
        let end = self.bytes.len();
        let number = self.world.next_exit();
        let (exit, instructions) = self.machine.exit(number);
        self.put(&exit);
        assert!(self.bytes.len() <= ROOM as usize);
        self.world.write_code(self.address, &self.bytes);
        // The pointer of the exit is no code.
        self.bytes.truncate(end + instructions);
        self.exits.push((number, Role::Through));
        Case {
            class: class.to_owned(),
            form: self.form,
            address: self.address,
            guarded: false,
            bytes: self.bytes,
            end,
            state: self.state,
            free: 0,
            blocks: self.blocks,
            exits: self.exits,
        }
    }
}

/// What a distance of 8 bits from `end` reaches.
fn near(end: u64) -> RangeInclusive<u64> {
    end - 0x80..=end + 0x7f
}

/// What a distance of 32 bits from `end` reaches.
fn far(end: u64) -> RangeInclusive<u64> {
    end - (1 << 31)..=end + (1 << 31) - 1
}
