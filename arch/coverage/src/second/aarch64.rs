//! aarch64, as disarm64 reads it.

use disarm64_defn::InsnClass;
use midflight_arch::Form;

use super::reference::{self, definition, relative};
use super::{Doubt, Site, expect, goal};

/// Bytes of a word.
const WORD: u64 = 4;

/// A word at an address.
#[derive(Debug, Clone, Copy)]
struct At {
    address: u64,
    word: u32,
}

/// What a word does that depends on an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Does {
    Jump(u64),
    Call(u64),
    /// `blr`: the word of the `br` that does the same without setting x30.
    CallThrough(u32),
    /// The word without its distance, and where it goes.
    Branch(u32, u64),
    /// An address into a register.
    Set(u32, u64),
    /// A load or prefetch of an address: what an assembler calls all of it but the address.
    Load(String, u64),
    Other,
}

impl At {
    fn decode(bytes: &[u8], address: u64) -> Result<Self, String> {
        let word = bytes.get(..4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        let word = word.ok_or_else(|| format!("no word at {address:#x}"))?;
        Ok(Self { address, word })
    }

    fn next(&self) -> u64 {
        self.address.wrapping_add(WORD)
    }

    fn name(&self) -> &'static str {
        definition(self.word).map_or("no instruction", |definition| definition.mnemonic)
    }

    fn text(&self) -> String {
        reference::text(self.word, self.address).unwrap_or_else(|| format!(".inst {:#010x}", self.word))
    }

    fn register(&self) -> u32 {
        self.word & 31
    }

    fn does(&self) -> Result<Does, String> {
        // `blr`, `blraa` and so on differ from `br`, `braa` and so on by this bit.
        if self.name().starts_with("blr") {
            return Ok(Does::CallThrough(self.word & !(1 << 21)));
        }
        let Some(relative) = relative(self.word, self.address) else { return Ok(Does::Other) };
        let to = relative.target;
        Ok(match relative.name() {
            "b" if relative.field == 0x03ff_ffff => Does::Jump(to),
            "bl" => Does::Call(to),
            "adr" | "adrp" => Does::Set(self.register(), to),
            "ldr" | "ldrsw" | "prfm" => {
                let text = self.text();
                let operation = text.rsplit_once(", ").ok_or_else(|| format!("{text}: no address"))?.0;
                Does::Load(operation.to_owned(), to)
            }
            _ => Does::Branch(self.word & !relative.field, to),
        })
    }

    /// Whether nothing goes on behind it.
    fn ends(&self) -> bool {
        definition(self.word).is_none_or(|definition| {
            let is_call = definition.mnemonic.starts_with("blr");
            definition.mnemonic == "udf" || definition.class == InsnClass::BRANCH_REG && !is_call
        })
    }

    /// An address of the trampoline's constants into a register.
    fn set(&self, site: &Site<'_>) -> Option<(u32, u64)> {
        match self.does().ok()? {
            Does::Load(operation, at) if operation == format!("ldr {}", register(self.register())) => {
                Some((self.register(), site.constant(at)?))
            }
            Does::Set(register, to) => Some((register, to)),
            _ => None,
        }
    }
}

fn register(number: u32) -> String {
    if number == 31 { "xzr".into() } else { format!("x{number}") }
}

pub(super) fn verify(site: &Site<'_>) -> Result<(), Doubt> {
    entry(site)?;
    let displaced = displaced(site)?;
    for old in &displaced {
        let copy = site.copy(old.address).ok_or_else(|| format!("{:#x} has no copy", old.address))?;
        moved(site, old, copy)
            .map_err(|error| format!("{} at {:#x}, moved to {copy:#x}: {error}", old.text(), old.address))?;
    }
    Ok(body(site)?)
}

/// The entry jump behind its landing pad, and the veneer.
fn entry(site: &Site<'_>) -> Result<(), String> {
    let (plan, places) = (site.plan, site.places);
    expect(matches!(plan.form, Form::Direct | Form::Island), || {
        format!("no form of aarch64: {}", plan.form)
    })?;
    let first = At::decode(&plan.entry, plan.site)?;
    let signs = At::decode(site.own(), plan.site)?.name();
    let jump = match plan.entry.len() {
        8 => {
            let pads =
                first.text() == "bti c" && matches!(signs, "paciasp" | "pacibsp") && site.function.guarded;
            expect(pads, || format!("{} is put in front, in place of {signs}", first.text()))?;
            At::decode(plan.entry.get(4..).unwrap_or_default(), plan.site + WORD)?
        }
        _ => first,
    };
    let to = jump.does()?;
    expect(to == Does::Jump(goal(site)), || format!("{} does not get to {:#x}", jump.text(), goal(site)))?;

    let veneer: Vec<At> = (0..3)
        .map(|index| {
            At::decode(plan.island.get(index * 4..).unwrap_or_default(), places.island + index as u64 * WORD)
        })
        .collect::<Result<_, _>>()?;
    let texts: Vec<String> = veneer.iter().map(At::text).collect();
    let offset = match places.slot & 0xfff {
        0 => "[x16]".to_owned(),
        offset => format!("[x16, #{offset:#x}]"),
    };
    let wanted =
        [format!("adrp x16, {:#x}", places.slot & !0xfff), format!("ldr x16, {offset}"), "br x16".to_owned()];
    expect(texts == wanted, || format!("the veneer is {texts:?}, not {wanted:?}"))
}

/// The words that have copies: those overwritten at least, and others right behind them.
fn displaced(site: &Site<'_>) -> Result<Vec<At>, String> {
    let count = site.plan.pc_map.entries().len();
    expect(count * 4 >= site.plan.entry.len(), || "fewer copies than overwritten words".into())?;
    let word = |index: usize| {
        At::decode(site.own().get(index * 4..).unwrap_or_default(), site.plan.site + index as u64 * WORD)
    };
    (0..count).map(word).collect()
}

/// Whether the copy at `copy` does what `old` does, and goes on where it goes on.
fn moved(site: &Site<'_>, old: &At, copy: u64) -> Result<(), String> {
    let decode = |address| At::decode(site.trampoline(address).unwrap_or_default(), address);
    let jump = |address| match decode(address).ok()?.does().ok()? {
        Does::Jump(to) => Some(to),
        _ => None,
    };
    // What is copied without being overwritten may be run here or there.
    let reaches = |from, old: u64, place: u64| {
        let there = site.reaches(from, place, jump);
        let copy = site.copy(old).filter(|_| there.is_err());
        copy.map_or(there, |copy| site.reaches(from, copy, jump))
    };
    let goes_on = |from| reaches(from, old.next(), site.place_of(old.next())?);
    let new = decode(copy)?;
    let differs = || Err(format!("it became {}", new.text()));
    match old.does()? {
        Does::Jump(to) => match new.does()? {
            Does::Jump(first) => reaches(first, to, site.place_of(to)?),
            _ => differs(),
        },
        Does::Branch(word, to) => match new.does()? {
            Does::Branch(copied, taken) if copied == word => {
                reaches(taken, to, site.place_of(to)?).and_then(|()| goes_on(new.next()))
            }
            _ => differs(),
        },
        Does::Call(to) => {
            returns_to(site, old, &new)?;
            let Some(first) = jump(new.next()) else { return differs() };
            reaches(first, to, site.place_of_callee(to)?)
        }
        Does::CallThrough(branch) => {
            // x30 is set before the jump: if that needs its old value, another register has it.
            let (kept, set) = match new.word {
                0xaa1e_03f0 => (16, decode(new.next())?),
                0xaa1e_03f1 => (17, decode(new.next())?),
                _ => (30, new),
            };
            returns_to(site, old, &set)?;
            let jump = decode(set.next())?;
            let wanted = with_register(branch, kept)?;
            expect(jump.word == wanted, || format!("{} follows, not {wanted:#010x}", jump.text()))
        }
        Does::Set(into, to) => {
            expect(new.set(site) == Some((into, to)), || format!("it became {}", new.text()))?;
            goes_on(new.next())
        }
        Does::Load(operation, from) => {
            load(site, &new, &decode(new.next())?, &operation, from).and_then(|()| goes_on(new.next() + WORD))
        }
        Does::Other => {
            expect(new.word == old.word, || format!("it became {}", new.text()))?;
            expect(!mixes_in_pc(old), || "it depends on its own address".into())?;
            if old.ends() { Ok(()) } else { goes_on(new.next()) }
        }
    }
}

/// The jump with another register in place of x30; none of its registers may be the new one before.
fn with_register(jump: u32, kept: u32) -> Result<u32, String> {
    let has_modifier = jump >> 24 & 1 == 1;
    let fields = [Some(5), has_modifier.then_some(0)].into_iter().flatten();
    let uses = |register: u32| fields.clone().any(|shift| jump >> shift & 31 == register);
    if !uses(30) {
        return Ok(jump);
    }
    expect(kept != 30 && !uses(kept), || format!("the value of x30 in {jump:#010x} is lost"))?;
    let replace = |word: u32, shift: u32| {
        if word >> shift & 31 == 30 { word & !(31 << shift) | kept << shift } else { word }
    };
    Ok(fields.clone().fold(jump, replace))
}

/// x30 is set to what the call would have set it to.
fn returns_to(site: &Site<'_>, old: &At, new: &At) -> Result<(), String> {
    expect(!site.is_inside(old.next()), || "it would return into the entry jump".into())?;
    expect(new.set(site) == Some((30, old.next())), || format!("{} does not set x30", new.text()))
}

/// A load of a literal: its address into a register that may be lost, then the load through it.
fn load(site: &Site<'_>, set: &At, load: &At, operation: &str, from: u64) -> Result<(), String> {
    let (base, address) = set.set(site).ok_or_else(|| format!("{} sets no address", set.text()))?;
    expect(address == from, || format!("{} sets {address:#x}, not {from:#x}", set.text()))?;
    let text = load.text();
    expect(text == format!("{operation}, [x{base}]"), || format!("{operation} became {text}"))?;
    let loaded = operation.split_once(' ').and_then(|(name, register)| {
        register.strip_prefix(['x', 'w']).filter(|_| name != "prfm")?.parse::<u32>().ok()
    });
    expect(base == 16 || loaded == Some(base), || format!("x{base} is lost"))
}

/// Authentication with the address of the instruction.
fn mixes_in_pc(word: &At) -> bool {
    let name = word.name();
    name.ends_with("ppc")
        || name.ends_with("ppcr")
        || name.starts_with("pacnb")
        || matches!(name, "retaasppc" | "retabsppc")
}

/// Nothing that stays comes to the displaced words, or refers to those that are overwritten.
fn body(site: &Site<'_>) -> Result<(), String> {
    let words = site.own().chunks_exact(4).zip((0..).map(|index| site.plan.site + index * WORD));
    let has_loop = site.plan.pc_map.entries().len() * 4 > site.plan.entry.len();
    for (bytes, address) in words {
        let at = At::decode(bytes, address)?;
        let shown = || format!("{} at {address:#x}", at.text());
        let does = at.does()?;
        let comes_back = matches!(does, Does::Call(_) | Does::CallThrough(_))
            || does == Does::Other && at.ends() && at.name().starts_with("br");
        expect(!(has_loop && comes_back), || format!("{} may come back into the loop", shown()))?;
        let (to, is_call) = match does {
            Does::Jump(to) | Does::Branch(_, to) if site.copy(address).is_none() => (to, false),
            Does::Call(to) => (to, true),
            // A page is no byte.
            Does::Set(_, to) if at.name() == "adr" && to != site.function.address => {
                expect(!site.overwritten().contains(&to), || {
                    format!("{} refers to the entry jump", shown())
                })?;
                continue;
            }
            Does::Load(_, to) => {
                expect(!site.overwritten().contains(&to), || format!("{} reads the entry jump", shown()))?;
                continue;
            }
            _ => continue,
        };
        if is_call && (site.is_entry(to) || site.copy(address).is_some()) {
            continue;
        }
        let is_gone = site.is_entry(to) || site.is_inside(to) || site.copy(to).is_some();
        expect(!is_gone, || format!("{} goes to what is displaced", shown()))?;
    }
    Ok(())
}
