//! Jump tables, as GCC and LLVM write them:
//!
//! ```text
//! lea rT, [rip+table]; movsxd rX, dword ptr [rT+rI*4]; add rX, rT; jmp rX     distances from the table
//! lea rT, [rip+table]; jmp [rT+rI*8]                                          addresses
//! jmp [table+rI*8]                                                            addresses, at a fixed address
//! ```
//!
//! and the same with `mov rX, [...]; jmp rX` and with `notrack`. The instructions of one stand in this order, not always
//! next to each other; the `lea` may be anywhere in front of a loop. All that is not like that is no table.

use iced_x86::{
    Code, ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use std::collections::BTreeSet;

use super::decode;
use crate::{Function, Jumps, Table, TableKind};

/// So many instructions are looked at for what made a register.
const MOST_SEEN: usize = 512;
/// So many before a load are looked at for the comparison that tells how many entries there are.
const BACK: usize = 32;

/// The jump tables of a function.
pub(crate) fn jumps_of(function: &Function<'_>) -> Jumps {
    let mut code = Listing::read(function);
    let mut jumps = Jumps { tables: Vec::new(), matched: code.is_whole };
    for at in code.computed.clone() {
        match code.tables_of_jump(at) {
            Some(tables) => jumps.tables.extend(tables),
            None => jumps.matched = false,
        }
    }
    jumps.matched &= !code.unsure;
    // Of two comparisons the one that tells of more entries counts.
    jumps.tables.sort_unstable();
    jumps.tables.reverse();
    jumps.tables.dedup_by_key(|table| (table.address, table.kind));
    jumps.tables.reverse();
    jumps
}

/// Where the direct branches go.
pub(crate) fn branches_of(function: &Function<'_>) -> Vec<u64> {
    Listing::read(function).instructions.iter().filter_map(decode::branch_target).collect()
}

/// A function's instructions, one after the other.
struct Listing<'a> {
    function: &'a Function<'a>,
    instructions: Vec<Instruction>,
    /// Are there no other bytes?
    is_whole: bool,
    /// The jumps to computed addresses.
    computed: Vec<usize>,
    /// Was a table found of which it is not sure that it is the only one?
    unsure: bool,
    /// Where branches go, and which those are; sorted.
    branches: Vec<(u64, usize)>,
    info: InstructionInfoFactory,
}

impl<'a> Listing<'a> {
    fn read(function: &'a Function<'a>) -> Self {
        let (mut instructions, mut is_whole, mut offset) = (Vec::new(), true, 0);
        while let Some(bytes) = function.bytes.get(offset..).filter(|bytes| !bytes.is_empty()) {
            let next = decode::one(bytes, function.address.wrapping_add(offset as u64));
            is_whole &= next.is_some();
            offset += next.map_or(1, |next| next.len());
            instructions.extend(next);
        }
        let numbered = instructions.iter().enumerate();
        let branches = numbered.filter_map(|(at, branch)| Some((decode::branch_target(branch)?, at)));
        let mut branches: Vec<(u64, usize)> = branches.collect();
        branches.sort_unstable();
        let computed =
            (0..).zip(&instructions).filter(|(_, one)| is_computed_jump(one)).map(|(at, _)| at).collect();
        let (info, unsure) = (InstructionInfoFactory::new(), false);
        Self { function, instructions, is_whole, computed, unsure, branches, info }
    }

    fn get(&self, at: usize) -> Option<Instruction> {
        self.instructions.get(at).copied()
    }

    fn tables_of_jump(&mut self, at: usize) -> Option<Vec<Table>> {
        let jump = self.get(at)?;
        if jump.op0_kind() == OpKind::Memory {
            return self.tables_of_load(at, TableKind::Absolute);
        }
        let mut tables = Vec::new();
        for maker in self.makers(at, jump.op0_register())? {
            tables.extend(self.tables_of_value(maker)?);
        }
        Some(tables)
    }

    /// The tables from which the instruction makes an address.
    fn tables_of_value(&mut self, at: usize) -> Option<Vec<Table>> {
        let made = self.get(at)?;
        match made.code() {
            Code::Mov_r64_rm64 if made.op1_kind() == OpKind::Memory => {
                self.tables_of_load(at, TableKind::Absolute)
            }
            Code::Add_r64_rm64 | Code::Add_rm64_r64 if made.op1_kind() == OpKind::Register => {
                self.tables_of_sum(at, made.op0_register(), made.op1_register())
            }
            _ => None,
        }
    }

    /// One of the two registers is the table, the other an entry of it.
    fn tables_of_sum(&mut self, at: usize, one: Register, other: Register) -> Option<Vec<Table>> {
        [(one, other), (other, one)].into_iter().find_map(|(entry, table)| {
            let (load, loaded) = self.maker(at, entry)?;
            let is_entry = loaded.code() == Code::Movsxd_r64_rm32
                && loaded.op1_kind() == OpKind::Memory
                && loaded.memory_base() == table
                && loaded.memory_displacement64() == 0;
            // The register must be the same still.
            let is_same = (load + 1..at).all(|between| !self.writes(between, table)) && entry != table;
            (is_entry && is_same).then(|| self.tables_of_load(load, TableKind::Relative))?
        })
    }

    /// The tables from which the instruction may load.
    fn tables_of_load(&mut self, at: usize, kind: TableKind) -> Option<Vec<Table>> {
        let load = self.get(at)?;
        let size = if kind == TableKind::Relative { 4 } else { 8 };
        let has_index = load.memory_index() != Register::None && load.memory_index_scale() == size;
        let is_plain = !matches!(load.segment_prefix(), Register::FS | Register::GS);
        if !has_index || !is_plain {
            return None;
        }
        let displacement = load.memory_displacement64();
        let bases = match load.memory_base() {
            Register::None if displacement == 0 => return None,
            Register::None => vec![0],
            base => self.bases(at, base)?,
        };
        let bound = self.bound(at);
        let table = |base: u64| Table { address: base.wrapping_add(displacement), kind, bound };
        Some(bases.into_iter().map(table).collect())
    }

    /// What a register that holds a table's address may be at an instruction: what was put there last or, where that
    /// cannot be seen, all that the function ever puts there.
    fn bases(&mut self, at: usize, register: Register) -> Option<Vec<u64>> {
        if let Some(makers) = self.makers(at, register) {
            let bases = makers.into_iter().map(|maker| lea(&self.get(maker)?).map(|(_, address)| address));
            return bases.collect();
        }
        self.unsure = true;
        let own = self.function.address..self.function.address.wrapping_add(self.function.bytes.len() as u64);
        let all = self.instructions.iter().filter_map(lea);
        let all = all.filter(|(into, address)| *into == register && !own.contains(address));
        let mut all: Vec<u64> = all.map(|(_, address)| address).collect();
        all.sort_unstable();
        all.dedup();
        (!all.is_empty()).then_some(all)
    }

    /// The instruction that a register was made by, if there is one, and no way in between.
    fn maker(&mut self, at: usize, register: Register) -> Option<(usize, Instruction)> {
        let maker = *self.makers(at, register)?.first_chunk::<1>()?.first()?;
        let is_straight = (maker + 1..=at)
            .all(|place| self.get(place).is_some_and(|one| self.branches_to(one.ip()).next().is_none()));
        is_straight.then(|| Some((maker, self.get(maker)?)))?
    }

    /// The instructions that a register may have been made by, on all ways that lead here; `None` if there is one that
    /// cannot be seen, as from the entry. Where branches go, and where nothing else does, computed jumps may go, too.
    fn makers(&mut self, at: usize, register: Register) -> Option<Vec<usize>> {
        let (mut makers, mut seen, mut left) = (Vec::new(), BTreeSet::new(), vec![at]);
        while let Some(place) = left.pop() {
            if !seen.insert(place) {
                continue;
            }
            let ip = self.get(place)?.ip();
            let mut before: Vec<usize> = self.branches_to(ip).collect();
            let is_label = !before.is_empty();
            let previous = place.checked_sub(1).and_then(|previous| Some((previous, self.get(previous)?)));
            if let Some((previous, one)) = previous.filter(|(_, one)| one.next_ip() == ip) {
                match one.flow_control() {
                    FlowControl::Call | FlowControl::IndirectCall if !is_kept_by_calls(register) => {
                        return None;
                    }
                    FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Return
                    | FlowControl::Exception => {}
                    _ => before.push(previous),
                }
            }
            // Callers come to the entry.
            if place == 0 || seen.len() > MOST_SEEN {
                return None;
            }
            if is_label || before.is_empty() {
                before.extend(&self.computed);
            }
            for one in before {
                if self.writes(one, register) { makers.push(one) } else { left.push(one) }
            }
        }
        makers.sort_unstable();
        makers.dedup();
        (!makers.is_empty()).then_some(makers)
    }

    fn branches_to(&self, ip: u64) -> impl Iterator<Item = usize> {
        let start = self.branches.partition_point(|(to, _)| *to < ip);
        let rest = self.branches.get(start..).unwrap_or_default().iter();
        rest.take_while(move |(to, _)| *to == ip).map(|(_, at)| *at)
    }

    fn writes(&mut self, at: usize, register: Register) -> bool {
        let Some(instruction) = self.instructions.get(at) else { return true };
        let used = self.info.info(instruction).used_registers().iter();
        used.filter(|used| used.register().full_register() == register.full_register()).any(|used| {
            !matches!(
                used.access(),
                OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            )
        })
    }

    /// How many entries the last comparison in front of a load allows, or the last mask of its index. A byte that is
    /// compared with nothing may have any value.
    fn bound(&self, at: usize) -> Option<usize> {
        let index = self.get(at)?.memory_index();
        let before = || (at.saturating_sub(BACK)..at).rev();
        let compared = before().find_map(|before| self.bound_by(before, index));
        let is_byte = |before| {
            let made = self.get(before);
            made.filter(|made| made.op0_register().full_register() == index.full_register())
                .map(|made| made.code())
        };
        let byte = || before().find_map(is_byte).filter(|made| *made == Code::Movzx_r32_rm8);
        compared.or_else(|| byte().map(|_| 1 << 8))
    }

    fn bound_by(&self, at: usize, index: Register) -> Option<usize> {
        let one = self.get(at)?;
        let number = match one.op1_kind() {
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => usize::try_from(one.immediate(1)).ok()?,
            _ => return None,
        };
        match one.mnemonic() {
            Mnemonic::And if one.op0_register().full_register() == index.full_register() => {
                number.checked_add(1).filter(|bound| bound.is_power_of_two())
            }
            Mnemonic::Cmp => match self.get(at + 1)?.condition_code() {
                ConditionCode::a | ConditionCode::be => number.checked_add(1),
                ConditionCode::ae | ConditionCode::b => Some(number),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Is it a jump to an address that is computed? One through a pointer at a fixed place is not.
fn is_computed_jump(jump: &Instruction) -> bool {
    let fixed =
        jump.is_ip_rel_memory_operand() && !matches!(jump.segment_prefix(), Register::FS | Register::GS);
    jump.flow_control() == FlowControl::IndirectBranch && !fixed
}

/// Must a function leave this register as it was (x86-64 psABI, 3.2.1)?
fn is_kept_by_calls(register: Register) -> bool {
    use Register::{R12, R13, R14, R15, RBP, RBX};
    matches!(register.full_register(), RBX | RBP | R12 | R13 | R14 | R15)
}

/// Which register gets which address.
fn lea(instruction: &Instruction) -> Option<(Register, u64)> {
    let is_lea = instruction.code() == Code::Lea_r64_m && instruction.is_ip_rel_memory_operand();
    is_lea.then(|| (instruction.op0_register(), instruction.ip_rel_memory_address()))
}
