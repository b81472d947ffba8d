//! Follows code from its roots: every branch, every direct call. What it may not do is a finding.

use super::program::{Function, Program};
use super::step::{Flow, Step, decode};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Something that held code may not do.
#[derive(Debug)]
pub struct Finding {
    /// The function that does it.
    pub function: String,
    pub kind: Kind,
    /// The instruction, or the function that it calls.
    pub what: String,
    pub at: u64,
    /// From the root to the function.
    pub chain: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes where a register or a word of memory says: also how calls of libc and of the PLT are made.
    Indirect,
    /// It calls code of somebody else, code that panics, allocates or locks, or code that has no name.
    Leaves,
    /// It raises a fault.
    Trap,
    /// It uses thread-local storage.
    ThreadLocal,
    /// It cannot be decoded, or runs over the end of its function.
    Lost,
}

/// All that was found, and the names of all functions that were followed.
pub struct Walk {
    pub findings: Vec<Finding>,
    pub followed: BTreeSet<String>,
}

/// Follows `roots` and all that they call of the crates `ours` and of `core`.
pub fn walk(program: &Program, ours: &[&str], roots: &[&Function]) -> Walk {
    let mut walker = Walker {
        program,
        ours,
        reached: BTreeMap::new(),
        to_do: Vec::new(),
        walk: Walk { findings: Vec::new(), followed: BTreeSet::new() },
    };
    for root in roots {
        walker.reached.insert(root.range.start, None);
        walker.to_do.push(root.range.start);
    }
    while let Some(start) = walker.to_do.pop() {
        walker.function(start);
    }
    walker.walk
}

struct Walker<'a> {
    program: &'a Program,
    ours: &'a [&'a str],
    /// Where code begins that was reached, and from where: roots from nowhere.
    reached: BTreeMap<u64, Option<u64>>,
    to_do: Vec<u64>,
    walk: Walk,
}

impl Walker<'_> {
    /// Follows the code that begins at `start`, within its function.
    fn function(&mut self, start: u64) {
        let Some(function) = self.program.function(start).cloned() else { return };
        self.walk.followed.insert(function.name.clone());
        let (mut seen, mut to_do) = (HashSet::new(), vec![start]);
        while let Some(address) = to_do.pop() {
            if !seen.insert(address) {
                continue;
            }
            if !function.range.contains(&address) {
                self.find(start, address, Kind::Lost, "runs over the end");
                continue;
            }
            let step = decode(self.program.machine, self.program.code(address), address);
            if step.thread_local {
                self.find(start, address, Kind::ThreadLocal, &step.text);
            }
            let next = address + step.length;
            match step.flow {
                Flow::Next => to_do.push(next),
                Flow::Jump(target) if function.range.contains(&target) => to_do.push(target),
                Flow::Branch(target) if function.range.contains(&target) => to_do.extend([next, target]),
                Flow::Jump(target) => self.goes_to(target, start, address),
                Flow::Branch(target) | Flow::Call(target) => {
                    self.goes_to(target, start, address);
                    to_do.push(next);
                }
                Flow::IndirectCall(slot) => {
                    self.indirect(start, address, slot, &step);
                    to_do.push(next);
                }
                Flow::IndirectJump(slot) => self.indirect(start, address, slot, &step),
                Flow::Return => {}
                Flow::Trap => self.find(start, address, Kind::Trap, &step.text),
                Flow::Unknown => self.find(start, address, Kind::Lost, "no instruction"),
            }
        }
    }

    /// The code at `start` calls `target` by the instruction at `address`, or jumps there.
    fn goes_to(&mut self, target: u64, start: u64, address: u64) {
        match self.program.function(target) {
            Some(function) if self.may_call(&function.name) => {
                self.reached.entry(target).or_insert_with(|| {
                    self.to_do.push(target);
                    Some(start)
                });
            }
            Some(function) => {
                let name = function.name.clone();
                self.find(start, address, Kind::Leaves, &name);
            }
            None => {
                let section = self.program.section_of(target).unwrap_or("nowhere").to_owned();
                self.find(start, address, Kind::Leaves, &format!("{target:#x} in {section}"));
            }
        }
    }

    fn indirect(&mut self, start: u64, address: u64, slot: Option<u64>, step: &Step) {
        let name = slot.and_then(|slot| self.program.stored_at(slot)).unwrap_or("an unknown place");
        let what = format!("{} ({name})", step.text);
        self.find(start, address, Kind::Indirect, &what);
    }

    fn find(&mut self, start: u64, address: u64, kind: Kind, what: &str) {
        let name = |at| self.program.function(at).map_or("?", |function| function.name.as_str());
        let (mut chain, mut place) = (vec![name(start)], start);
        while let Some(Some(caller)) = self.reached.get(&place) {
            chain.push(name(*caller));
            place = *caller;
        }
        chain.reverse();
        let (function, chain) = (name(start).to_owned(), chain.join(" -> "));
        self.walk.findings.push(Finding { function, kind, what: what.to_owned(), at: address, chain });
    }

    /// Code of our own, of `core` but for what panics, and the helpers for atomic operations that the compiler
    /// calls on aarch64. Not memcpy and its kin, which have no crate: they may be somebody's target.
    fn may_call(&self, name: &str) -> bool {
        let bad = ["panic", "_fail", "alloc::", "alloc_", "::lock", "Lock", "Mutex", "Once"];
        let of = name.trim_start_matches(['<', '&', '[', '(', '*']).split("::").next().unwrap_or("");
        let known = self.ours.contains(&of) || of == "core" || name.starts_with("__aarch64_");
        known && !bad.iter().any(|word| name.contains(word))
    }
}
