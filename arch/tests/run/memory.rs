//! A world: memory at random addresses for functions, for what they refer to, and for their parts.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::random::Random;

/// The largest pages that Linux has on one of the processors.
pub(crate) const PAGE: u64 = 0x1_0000;

/// Memory that can be written and executed.
pub(crate) struct Arena {
    start: u64,
    len: u64,
}

impl Arena {
    /// Maps memory at this address, if nothing else is there.
    fn map(start: u64, len: u64) -> Option<Self> {
        // Emulators that do not know the flag take the address for a hint.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: a new private mapping; nothing that exists is replaced.
        let at = unsafe { libc::mmap(start as *mut libc::c_void, len as usize, all, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return None;
        }
        let arena = Self { start: at as u64, len };
        (arena.start == start).then_some(arena)
    }

    /// Maps memory wherever there is some.
    pub(crate) fn anywhere(len: u64) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: a new private mapping at an address that the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len as usize, all, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { start: at as u64, len }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    fn contains(&self, at: u64, len: usize) -> bool {
        at >= self.start && at + len as u64 <= self.start + self.len
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        assert!(self.contains(at, bytes.len()), "{at:#x} is not in the arena at {:#x}", self.start);
        // SAFETY: the destination is in the mapping, which is writable and which no Rust reference points into.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) }
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        assert!(self.contains(at, len), "{at:#x} is not in the arena at {:#x}", self.start);
        let mut bytes = vec![0; len];
        // SAFETY: the source is in the mapping, which is readable; the destination has the same length.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, bytes.as_mut_ptr(), len) }
        bytes
    }

    /// Makes instructions that were written visible to their execution.
    pub(crate) fn publish(&self, at: u64, len: usize) {
        assert!(self.contains(at, len));
        #[cfg(target_arch = "aarch64")]
        {
            unsafe extern "C" {
                fn __clear_cache(start: *mut u8, end: *mut u8);
            }
            // SAFETY: the range is in the mapping, which is readable.
            unsafe { __clear_cache(at as *mut u8, (at + len as u64) as *mut u8) }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is this arena's own, and nothing runs in it any more.
        let done = unsafe { libc::munmap(self.start as *mut libc::c_void, self.len as usize) };
        assert_eq!(done, 0);
    }
}

/// Arenas at fixed distances from each other, and which parts of them are taken.
pub(crate) struct World {
    pub(crate) base: u64,
    arenas: Vec<Arena>,
    taken: BTreeMap<u64, u64>,
    exits: u64,
}

impl World {
    /// Maps arenas, given by offset and size, around some address among `bases`.
    pub(crate) fn new(random: &mut Random, bases: &[RangeInclusive<u64>], arenas: &[(i64, u64)]) -> Self {
        for _ in 0..1000 {
            let among = bases[random.below(bases.len() as u64) as usize].clone();
            let base = random.within(among) & !(PAGE - 1);
            let map = |&(offset, len): &(i64, u64)| Arena::map(base.wrapping_add_signed(offset), len);
            if let Some(arenas) = arenas.iter().map(map).collect() {
                return Self { base, arenas, taken: BTreeMap::new(), exits: 0 };
            }
        }
        panic!("no room in the address space");
    }

    /// Takes `len` bytes that start somewhere in `window`, if there are some.
    pub(crate) fn claim(
        &mut self,
        random: &mut Random,
        window: &RangeInclusive<u64>,
        len: u64,
        align: u64,
    ) -> Option<u64> {
        let starts = |arena: &Arena| {
            let low = arena.start.max(*window.start()).next_multiple_of(align);
            let high = (arena.start + arena.len - len).min(*window.end()) / align * align;
            (low <= high).then_some((low, high))
        };
        let places: Vec<(u64, u64)> = self.arenas.iter().filter_map(starts).collect();
        if places.is_empty() {
            return None;
        }
        for _ in 0..200 {
            let (low, high) = random.pick(&places);
            let at = low + random.below((high - low) / align + 1) * align;
            // A few bytes stay between neighbours.
            let before = self.taken.range(..at + len + 8).next_back();
            if before.is_none_or(|(_, &end)| end + 8 <= at) {
                self.taken.insert(at, at + len);
                return Some(at);
            }
        }
        None
    }

    /// Takes `len` bytes anywhere.
    pub(crate) fn claim_anywhere(&mut self, random: &mut Random, len: u64, align: u64) -> u64 {
        self.claim(random, &(0..=u64::MAX), len, align).expect("a free place")
    }

    /// The number of an exit that does not exist yet.
    pub(crate) fn next_exit(&mut self) -> u64 {
        self.exits += 1;
        self.exits
    }

    fn arena(&self, at: u64) -> &Arena {
        self.arenas.iter().find(|arena| arena.contains(at, 1)).expect("an address in an arena")
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.arena(at).write(at, bytes);
    }

    pub(crate) fn write_code(&self, at: u64, bytes: &[u8]) {
        self.write(at, bytes);
        self.arena(at).publish(at, bytes.len());
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        self.arena(at).read(at, len)
    }
}
