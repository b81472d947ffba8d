//! The meeting of the committing thread and the threads that it holds: who may park, who has parked,
//! who has left. Pure: words in memory, no system call; how to wait is handed in.
//!
//! `epoch` is odd while a hold is on. A signal carries the epoch of its hold and the place of its
//! thread in one of the tables. The epoch is raised at release, so a signal that arrives late finds
//! another epoch and is harmless.
//!
//! A table may be used anew only when nobody is `inside`. A handler counts itself in, then reads the
//! epoch; the committing thread raises the epoch, then reads the count. Both orders are sequentially
//! consistent: either the handler sees that it is late, or the committing thread sees it. There are
//! several tables, so that a hold need not wait for threads that were let go and have not run yet.
#![forbid(unsafe_code)]

use std::sync::atomic::{
    AtomicI32, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// How many holds may have threads on their way out.
pub(super) const TABLES: usize = 4;
/// The kernel has at most 2^22 threads (PID_MAX_LIMIT).
const MOST_PLACES: u32 = (1 << 24) - 1;

/// What a signal carries: 64 bits, the size of a `sigval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) epoch: u32,
    pub(super) table: u8,
    pub(super) place: u32,
}

impl Ticket {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.epoch) << 32 | u64::from(self.table) << 24 | u64::from(self.place & MOST_PLACES)
    }

    pub(super) fn unpack(value: u64) -> Self {
        let place = value as u32 & MOST_PLACES;
        Self { epoch: (value >> 32) as u32, table: (value >> 24) as u8, place }
    }
}

/// One thread's place in the table.
#[derive(Debug, Default)]
pub(super) struct Place {
    tid: AtomicI32,
    /// The epoch in which the thread was asked to park; zero once it has taken the place.
    asked: AtomicU32,
    pc: AtomicU64,
    sp: AtomicU64,
    link: AtomicU64,
    new_pc: AtomicU64,
}

/// The registers that say where a thread stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stands {
    /// Where it goes on.
    pub(super) pc: u64,
    /// Its stack pointer.
    pub(super) sp: u64,
    /// Where the function that runs returns to, if a register may hold that alone.
    pub(super) link: u64,
}

impl Place {
    /// Committing thread: asks `tid` to park here in hold `epoch`.
    pub(super) fn ask(&self, tid: i32, epoch: u32) {
        self.tid.store(tid, Relaxed);
        self.new_pc.store(0, Relaxed);
        self.asked.store(epoch, Release);
    }

    /// Committing thread: has the thread taken its place? It may be on its way into the wait still.
    pub(super) fn taken(&self) -> bool {
        self.asked.load(Acquire) == 0
    }

    pub(super) fn tid(&self) -> i32 {
        self.tid.load(Relaxed)
    }

    /// Where the thread stands, once it has taken its place.
    pub(super) fn stands(&self) -> Stands {
        let [pc, sp, link] = [&self.pc, &self.sp, &self.link].map(|word| word.load(Relaxed));
        Stands { pc, sp, link }
    }

    /// Committing thread, while the thread is parked: it goes on at `pc` (published by the release).
    pub(super) fn move_to(&self, pc: u64) {
        self.new_pc.store(pc, Relaxed);
    }
}

/// The words of one hold that both sides share.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) parked: AtomicU32,
    pub(super) wanted: AtomicU32,
    inside: AtomicU32,
}

impl Table {
    const fn new() -> Self {
        Self { parked: AtomicU32::new(0), wanted: AtomicU32::new(u32::MAX), inside: AtomicU32::new(0) }
    }

    /// Committing thread: have `wanted` threads parked? If not, the last of them wakes the waiter of `parked`.
    pub(super) fn complete(&self, wanted: u32) -> Result<(), u32> {
        self.wanted.store(wanted, SeqCst);
        let parked = self.parked.load(SeqCst);
        if parked >= wanted { Ok(()) } else { Err(parked) }
    }
}

/// The one meeting place of a process.
#[derive(Debug)]
pub(super) struct Rendezvous {
    pub(super) epoch: AtomicU32,
    pub(super) tables: [Table; TABLES],
}

impl Rendezvous {
    pub(super) const fn new() -> Self {
        Self { epoch: AtomicU32::new(0), tables: [const { Table::new() }; TABLES] }
    }

    /// Committing thread, between holds: a table that everybody has left.
    pub(super) fn empty_table(&self) -> Option<usize> {
        self.tables.iter().position(|table| table.inside.load(SeqCst) == 0)
    }

    /// Committing thread: begins a hold in an empty table; the epoch for its tickets.
    pub(super) fn begin(&self, table: &Table) -> u32 {
        table.parked.store(0, SeqCst);
        table.wanted.store(u32::MAX, SeqCst);
        self.epoch.fetch_add(1, SeqCst).wrapping_add(1)
    }

    /// Committing thread: ends the hold. Waiters of `epoch` must be woken after this.
    pub(super) fn release(&self) {
        self.epoch.fetch_add(1, SeqCst);
    }

    /// After fork, in the child: the threads that were inside are not here.
    pub(super) fn reset_in_child(&self) {
        for table in &self.tables {
            table.inside.store(0, SeqCst);
        }
        // Even: no hold is on here, should one have been at the fork.
        self.epoch.fetch_and(!1, SeqCst);
    }

    /// Held thread: takes its place, waits until the release by calling `park`, and answers the address to go
    /// on at, if that is to change. None at once if the ticket is not valid (now).
    pub(super) fn attend(
        &self,
        ticket: Ticket,
        place: impl Fn(Ticket) -> Option<&'static Place>,
        tid: i32,
        stands: Stands,
        park: impl Fn(u32, &Table),
    ) -> Option<u64> {
        if ticket.epoch & 1 == 0 || self.epoch.load(SeqCst) != ticket.epoch {
            return None;
        }
        let table = self.tables.get(usize::from(ticket.table))?;
        table.inside.fetch_add(1, SeqCst);
        let new_pc = self.take_place(ticket, place, tid, stands, |epoch| park(epoch, table));
        table.inside.fetch_sub(1, SeqCst);
        new_pc.filter(|pc| *pc != 0)
    }

    fn take_place(
        &self,
        ticket: Ticket,
        place: impl Fn(Ticket) -> Option<&'static Place>,
        tid: i32,
        stands: Stands,
        park: impl Fn(u32),
    ) -> Option<u64> {
        if self.epoch.load(SeqCst) != ticket.epoch {
            return None;
        }
        let place = place(ticket)?;
        if place.tid() != tid {
            return None;
        }
        place.pc.store(stands.pc, Relaxed);
        place.sp.store(stands.sp, Relaxed);
        place.link.store(stands.link, Relaxed);
        // One thread takes a place once, also if somebody sends the same ticket twice.
        place.asked.compare_exchange(ticket.epoch, 0, SeqCst, Relaxed).ok()?;
        park(ticket.epoch);
        Some(place.new_pc.load(Relaxed))
    }
}
