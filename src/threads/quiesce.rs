//! `Stop`: every other thread is asked by a signal to park, and the hold counts only when each of them
//! has, stands at a safe address and has no dangerous address on its stack.
//!
//! Everything is prepared by [`Crew::assemble`]; [`Crew::while_held`] allocates nothing, takes no lock and
//! cannot panic, nor can what it calls: the test `held_code` decodes it. Whatever goes wrong in it, dropping the
//! guard lets every thread go, with nothing changed.

use super::context::code_address;
use super::list::{Pass, TaskFolder};
use super::rendezvous::{Place, Table, Ticket};
use super::safe_point::{Danger, Verdict, find, judge};
use super::signal::{self, MEETING};
use super::stack::{Found, Scratch, search};
use super::task::{self, Kind, Stat};
use crate::error::{Error, NotSafe, ThreadName};
use crate::proof::Quiescent;
use crate::sys::{self, Errno, SignalsBlocked};
use std::time::Duration;

/// The longest sleep between two looks at threads that have not parked.
const SLICE: u64 = 1_000_000;
/// After this long without an answer the signal is sent again: a thread may have taken the number of an ended one.
const FIRST_REMINDER: u64 = 20_000_000;
/// The first pause after a hold that failed; doubled each time.
const FIRST_PAUSE: u64 = 50_000;
const LONGEST_PAUSE: u64 = 10_000_000;

/// The other threads as known, and all that is needed to hold them.
pub(crate) struct Crew<'a> {
    me: i32,
    signal: i32,
    /// Which table of the meeting this hold uses.
    table: usize,
    folder: TaskFolder,
    ignored: Vec<i32>,
    /// In the order of the folder; as long as the table at most.
    members: Vec<Member>,
    stat: Stat,
    scratch: Scratch,
    /// The mappings that can be stacks (start, end), sorted; and how to learn them.
    stacks: Vec<(u64, u64)>,
    list_stacks: &'a dyn Fn() -> Result<Vec<(u64, u64)>, Error>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    tid: i32,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Known, not asked yet in this hold.
    Known,
    /// Asked in this hold; parked when its place is taken.
    Asked,
    /// Need not be held.
    Passed,
    /// Ended.
    Gone,
}

/// Why a hold was given up.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Thread(i32, NotSafe),
    /// This thread did not park; what it did is looked up after the release.
    NotParked(i32),
    /// More threads than places.
    Room,
    Kernel(&'static str, Errno),
}

/// What was done while all threads were held.
#[derive(Debug)]
pub(crate) struct Done<T> {
    pub(crate) answer: T,
    /// How many threads were held.
    pub(crate) threads: usize,
    /// From the first signal to the release.
    pub(crate) time: Duration,
}

/// From the first signal on; dropping it lets all threads go.
#[derive(Debug)]
struct Hold {
    // Dropped after the release: the mask comes back last.
    _mask: SignalsBlocked,
}

impl Drop for Hold {
    fn drop(&mut self) {
        MEETING.release();
        sys::futex_wake_all(&MEETING.epoch);
        crate::fault::reached(crate::fault::Stage::Released);
    }
}

impl<'a> Crew<'a> {
    /// Lists the threads and makes ready to hold them. `list_stacks` gives the mappings that can be read and
    /// written, as (start, end), sorted; threads numbered in `ignored` are neither held nor looked at.
    pub(crate) fn assemble(
        ignored: &[i32],
        list_stacks: &'a dyn Fn() -> Result<Vec<(u64, u64)>, Error>,
    ) -> Result<Self, Error> {
        let folder = TaskFolder::open().map_err(kernel("open /proc/self/task"))?;
        let ignored = ignored.to_vec();
        let (me, stat) = (sys::gettid(), Stat::new());
        let scratch = Scratch::new().map_err(kernel("make a pipe to read stacks through"))?;
        let mut crew = Self {
            me,
            signal: 0,
            table: 0,
            folder,
            ignored,
            members: Vec::new(),
            stat,
            scratch,
            stacks: Vec::new(),
            list_stacks,
        };
        crew.list()?;
        let threads: Vec<i32> = crew.members.iter().map(|member| member.tid).collect();
        if !threads.is_empty() {
            crew.signal = signal::ready(&threads)?;
        }
        Ok(crew)
    }

    /// Holds all threads, none of them inside `dangers` (sorted, apart), does `work`, and lets them go; tries
    /// until `deadline` (nanoseconds of [`sys::now`]), `waited` being what the whole wait is called in an error.
    /// `work` must neither allocate nor lock nor panic.
    pub(crate) fn hold<T>(
        &mut self,
        dangers: &[Danger],
        deadline: u64,
        waited: Duration,
        work: impl Fn(&Quiescent<'_>) -> T,
    ) -> Result<Done<T>, Error> {
        let (mut pause, mut telling) = (FIRST_PAUSE, None);
        loop {
            let trouble = match self.try_hold(dangers, deadline, &work) {
                Ok(done) => return Ok(done),
                Err(trouble) => trouble,
            };
            let late = sys::now() >= deadline;
            match trouble {
                Trouble::Kernel(step, errno) => return Err(kernel(step)(errno)),
                // The last attempt is cut short by the deadline; what failed before tells more.
                Trouble::Thread(_, NotSafe::ListChanges | NotSafe::StillLeaving) if telling.is_some() => {}
                Trouble::Thread(tid, reason) => telling = Some((tid, reason)),
                Trouble::NotParked(tid) if telling.is_none() => telling = Some((tid, why_not_parked(tid))),
                Trouble::NotParked(_) | Trouble::Room => {}
            }
            if late {
                let (tid, reason) = telling.unwrap_or((self.me, NotSafe::ListChanges));
                return Err(Error::Deadline {
                    thread: ThreadName { tid, name: task::name(tid) },
                    reason,
                    waited,
                });
            }
            sys::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.list()?;
            if self.signal == 0 && !self.members.is_empty() {
                let threads: Vec<i32> = self.members.iter().map(|member| member.tid).collect();
                self.signal = signal::ready(&threads)?;
            }
        }
    }

    /// Makes the list anew, with room for as many again as there are now. Between holds only.
    fn list(&mut self) -> Result<(), Error> {
        let cannot_list = kernel("list the threads in /proc/self/task");
        let mut tids = Vec::new();
        if !self.folder.is_alone().map_err(&cannot_list)? {
            self.folder.pass(|tid| tids.push(tid)).map_err(cannot_list)?;
        }
        let others = tids.into_iter().filter(|tid| *tid != self.me && !self.ignored.contains(tid));
        let stat = &mut self.stat;
        self.members = others
            .map(|tid| match stat.kind(tid) {
                Kind::Ordinary => Member { tid, standing: Standing::Known },
                Kind::Passed => Member { tid, standing: Standing::Passed },
                Kind::Gone => Member { tid, standing: Standing::Gone },
            })
            .collect();
        self.members.reserve(self.members.len() + 64);
        if self.members.is_empty() {
            // Whoever turns up is asked after a list that knows his stack, and with a signal chosen for him.
            self.signal = 0;
        } else {
            self.stacks = (self.list_stacks)()?;
        }
        Ok(())
    }

    /// One attempt. The threads are free again when it fails.
    fn try_hold<T>(
        &mut self,
        dangers: &[Danger],
        deadline: u64,
        work: &impl Fn(&Quiescent<'_>) -> T,
    ) -> Result<Done<T>, Trouble> {
        self.table = empty_table(deadline).ok_or(Trouble::Thread(self.me, NotSafe::StillLeaving))?;
        signal::make_room(self.table, self.members.capacity());
        let mask = SignalsBlocked::new()
            .map_err(|errno| Trouble::Kernel("block the signals of this thread", errno))?;
        crate::fault::reached(crate::fault::Stage::Prepared);
        self.while_held(mask, dangers, deadline, work)
    }

    /// All that is done from the first signal to the release. A function of its own, so that the test `held_code`
    /// finds it in a program and can follow it.
    #[inline(never)]
    fn while_held<T>(
        &mut self,
        mask: SignalsBlocked,
        dangers: &[Danger],
        deadline: u64,
        work: &impl Fn(&Quiescent<'_>) -> T,
    ) -> Result<Done<T>, Trouble> {
        let epoch = MEETING.begin(self.words());
        let hold = Hold { _mask: mask };
        let since = sys::now();
        self.gather(epoch, deadline)?;
        self.examine(dangers, deadline)?;
        let threads = self.asked().count();
        crate::fault::reached(crate::fault::Stage::Quiesced);
        let answer = work(&Quiescent::while_held(&hold));
        let time = Duration::from_nanos(sys::now().saturating_sub(since));
        drop(hold);
        Ok(Done { answer, threads, time })
    }

    /// Asks until everybody has parked: the last pass starts after all known threads have, sees
    /// nobody new and nobody less, equals the one before and agrees with the link count.
    fn gather(&mut self, epoch: u32, deadline: u64) -> Result<(), Trouble> {
        let alone = self.members.is_empty().then(|| self.folder.is_alone());
        if alone == Some(Ok(true)) {
            return Ok(());
        }
        for place in 0..self.members.len() {
            self.ask(place, epoch)?;
        }
        self.wait_until_parked(epoch, deadline)?;
        let mut before: Option<Pass> = None;
        loop {
            let (pass, new) = self.pass(epoch)?;
            if new == 0 && pass.complete && before == Some(pass) && self.passed_are_the_same(epoch)? {
                return Ok(());
            }
            self.wait_until_parked(epoch, deadline)?;
            if sys::now() >= deadline {
                return Err(Trouble::Thread(self.me, NotSafe::ListChanges));
            }
            before = (new == 0).then_some(pass);
        }
    }

    /// One pass over the folder; asks whoever is new and tells how many.
    fn pass(&mut self, epoch: u32) -> Result<(Pass, usize), Trouble> {
        let (members, ignored, me) = (&mut self.members, &self.ignored, self.me);
        let first_new = members.len();
        let (mut next, mut full) = (0, false);
        let pass = self.folder.pass(|tid| {
            if tid == me || ignored.contains(&tid) || is_known(members, &mut next, tid) {
                return;
            }
            // Never beyond what was reserved: no allocation here.
            if members.len() < members.capacity() {
                members.push(Member { tid, standing: Standing::Known });
            } else {
                full = true;
            }
        });
        let pass = pass.map_err(|errno| Trouble::Kernel("list the threads in /proc/self/task", errno))?;
        if full {
            return Err(Trouble::Room);
        }
        for place in first_new..self.members.len() {
            self.classify(place);
            self.ask(place, epoch)?;
        }
        Ok((pass, self.members.len() - first_new))
    }

    /// The number of an ended thread may have been given to a new one, which is asked then.
    fn passed_are_the_same(&mut self, epoch: u32) -> Result<bool, Trouble> {
        let mut same = true;
        for number in 0..self.members.len() {
            let Some(member) = self.members.get_mut(number) else { break };
            if member.standing == Standing::Passed && self.stat.kind(member.tid) == Kind::Ordinary {
                member.standing = Standing::Known;
                self.ask(number, epoch)?;
                same = false;
            }
        }
        Ok(same)
    }

    fn classify(&mut self, place: usize) {
        if let Some(member) = self.members.get_mut(place) {
            match self.stat.kind(member.tid) {
                Kind::Ordinary => {}
                Kind::Passed => member.standing = Standing::Passed,
                Kind::Gone => member.standing = Standing::Gone,
            }
        }
    }

    fn ask(&mut self, number: usize, epoch: u32) -> Result<(), Trouble> {
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        if member.standing != Standing::Known {
            return Ok(());
        }
        // No signal was chosen when there was nobody to send one to: list again.
        let Some(place) = signal::places(self.table).get(number).filter(|_| self.signal != 0) else {
            return Err(Trouble::Room);
        };
        place.ask(member.tid, epoch);
        match signal::send(
            self.signal,
            member.tid,
            Ticket { epoch, table: self.table as u8, place: number as u32 },
        ) {
            Ok(()) => member.standing = Standing::Asked,
            Err(Errno(libc::ESRCH)) => member.standing = Standing::Gone,
            // The queue of signals is full for a moment (RLIMIT_SIGPENDING): a reminder will follow.
            Err(Errno(libc::EAGAIN)) => member.standing = Standing::Asked,
            Err(errno) => return Err(Trouble::Kernel("signal a thread", errno)),
        }
        Ok(())
    }

    /// The shared words of this hold.
    fn words(&self) -> &'static Table {
        MEETING.tables.get(self.table).unwrap_or(&MEETING.tables[0])
    }

    /// The asked members with their places.
    fn asked(&self) -> impl Iterator<Item = (&Member, &'static Place)> {
        let members = self.members.iter().zip(signal::places(self.table));
        members.filter(|(member, _)| member.standing == Standing::Asked)
    }

    fn wait_until_parked(&mut self, epoch: u32, deadline: u64) -> Result<(), Trouble> {
        let (start, mut reminder) = (sys::now(), FIRST_REMINDER);
        loop {
            let wanted = self.asked().count() as u32;
            let Err(parked) = self.words().complete(wanted) else { return Ok(()) };
            let now = sys::now();
            if now >= deadline {
                let late = self.asked().find(|(_, place)| !place.taken()).or_else(|| self.asked().next());
                return Err(Trouble::NotParked(late.map_or(self.me, |(member, _)| member.tid)));
            }
            sys::futex_wait(&self.words().parked, parked, SLICE.min(deadline - now));
            if sys::now().saturating_sub(now) < SLICE {
                continue;
            }
            self.strike_out_the_ended();
            if now.saturating_sub(start) >= reminder {
                self.remind(epoch)?;
                reminder *= 2;
            }
        }
    }

    fn strike_out_the_ended(&mut self) {
        for (member, place) in self.members.iter_mut().zip(signal::places(self.table)) {
            if member.standing == Standing::Asked && !place.taken() {
                match self.stat.kind(member.tid) {
                    Kind::Ordinary => {}
                    // The order matters: it may have parked before it was looked at, never after it ended.
                    _ if place.taken() => {}
                    Kind::Passed => member.standing = Standing::Passed,
                    Kind::Gone => member.standing = Standing::Gone,
                }
            }
        }
    }

    fn remind(&mut self, epoch: u32) -> Result<(), Trouble> {
        for (number, (member, place)) in self.members.iter().zip(signal::places(self.table)).enumerate() {
            if member.standing == Standing::Asked && !place.taken() {
                match signal::send(
                    self.signal,
                    member.tid,
                    Ticket { epoch, table: self.table as u8, place: number as u32 },
                ) {
                    Ok(()) | Err(Errno(libc::ESRCH | libc::EAGAIN)) => {}
                    Err(errno) => return Err(Trouble::Kernel("signal a thread", errno)),
                }
            }
        }
        Ok(())
    }

    /// All are parked: is each of them at a safe place? Whoever can be moved is moved, once all are judged.
    fn examine(&mut self, dangers: &[Danger], deadline: u64) -> Result<(), Trouble> {
        for number in 0..self.members.len() {
            let (Some(member), Some(place)) =
                (self.members.get(number), signal::places(self.table).get(number))
            else {
                break;
            };
            if member.standing != Standing::Asked {
                continue;
            }
            let stands = place.stands();
            if judge(stands.pc, dangers) == Verdict::Unsafe {
                return Err(Trouble::Thread(member.tid, NotSafe::InSite { pc: stands.pc }));
            }
            let link = code_address(stands.link);
            if find(link, dangers).is_some() {
                return Err(Trouble::Thread(member.tid, NotSafe::ReturnsIntoSite { address: link }));
            }
            let reason = match search(stands.sp, &self.stacks, dangers, &mut self.scratch, deadline) {
                Found::Nothing => continue,
                Found::Late => NotSafe::LargeStack,
                Found::Address(address) => NotSafe::ReturnsIntoSite { address },
                Found::Unreadable(Errno(errno)) => NotSafe::UnreadableStack { errno },
            };
            return Err(Trouble::Thread(member.tid, reason));
        }
        for (_, place) in self.asked() {
            if let Verdict::Move(pc) = judge(place.stands().pc, dangers) {
                place.move_to(pc);
            }
        }
        Ok(())
    }
}

/// Is `tid` among the members, not as an ended one? The folder's order is stable, so the search begins
/// behind the last hit.
fn is_known(members: &[Member], next: &mut usize, tid: i32) -> bool {
    let (front, back) = members.split_at(members.len().min(*next));
    let is_it = |member: &Member| member.tid == tid && member.standing != Standing::Gone;
    let found = match back.iter().position(is_it) {
        Some(place) => Some(front.len() + place),
        None => front.iter().position(is_it),
    };
    if let Some(place) = found {
        *next = place + 1;
    }
    found.is_some()
}

/// A table that everybody has left, waited for if there is none.
fn empty_table(deadline: u64) -> Option<usize> {
    let mut pause = 20_000;
    loop {
        if let Some(table) = MEETING.empty_table() {
            return Some(table);
        }
        if sys::now() >= deadline {
            return None;
        }
        sys::sleep(pause);
        pause = (pause * 2).min(SLICE);
    }
}

fn why_not_parked(tid: i32) -> NotSafe {
    match signal::blocked_by(tid) {
        Some(signal) => NotSafe::BlocksSignal { signal },
        None => NotSafe::DidNotStop { state: task::state(tid) },
    }
}

fn kernel(step: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Kernel { step, source: errno.into() }
}
