//! A program's file: its code, the functions in it, and the words through which it reaches other libraries.

use super::step::Machine;
use goblin::elf::{Elf, header, program_header, sym};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

pub struct Program {
    pub machine: Machine,
    file: Vec<u8>,
    /// Addresses of executable segments, and where in the file they begin.
    code: Vec<(Range<u64>, usize)>,
    sections: HashMap<String, Range<u64>>,
    /// Sorted by address.
    functions: Vec<Function>,
    /// What the dynamic linker stores where.
    slots: HashMap<u64, String>,
}

#[derive(Debug, Clone)]
pub struct Function {
    pub range: Range<u64>,
    /// Demangled, without a hash.
    pub name: String,
}

impl Program {
    pub fn read(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap();
        let elf = Elf::parse(&file).unwrap();
        let machine = match elf.header.e_machine {
            header::EM_X86_64 => Machine::X86_64,
            header::EM_AARCH64 => Machine::Aarch64,
            other => panic!("{}: machine {other}", path.display()),
        };
        let code = elf
            .program_headers
            .iter()
            .filter(|segment| segment.p_type == program_header::PT_LOAD && segment.is_executable());
        let code = code
            .map(|segment| (segment.p_vaddr..segment.p_vaddr + segment.p_filesz, segment.p_offset as usize));
        let code = code.collect();
        let sections = elf.section_headers.iter().filter(|section| section.is_alloc()).map(|section| {
            let name = elf.shdr_strtab.get_at(section.sh_name).unwrap_or("");
            (name.to_owned(), section.sh_addr..section.sh_addr + section.sh_size)
        });
        let sections = sections.collect();
        let functions = functions(&elf);
        let slots = slots(&elf, &functions);
        assert!(!functions.is_empty(), "{} has no symbols", path.display());
        Self { machine, code, sections, functions, slots, file }
    }

    /// The bytes of code from `address` on.
    pub fn code(&self, address: u64) -> &[u8] {
        let Some((segment, offset)) = self.code.iter().find(|(segment, _)| segment.contains(&address)) else {
            return &[];
        };
        let place = |address: u64| offset + (address - segment.start) as usize;
        &self.file[place(address)..place(segment.end)]
    }

    /// The function that `address` lies in.
    pub fn function(&self, address: u64) -> Option<&Function> {
        let after = self.functions.partition_point(|function| function.range.start <= address);
        // Several names of one place come behind each other.
        self.functions[..after].iter().rev().take(8).find(|function| function.range.contains(&address))
    }

    /// All functions that are called `name`, whatever types they were made for.
    pub fn named(&self, name: &str) -> Vec<&Function> {
        self.functions.iter().filter(|function| plain(&function.name) == name).collect()
    }

    /// The functions that begin in section `name`.
    pub fn of_section(&self, name: &str) -> Vec<&Function> {
        let section = &self.sections[name];
        self.functions.iter().filter(|function| section.contains(&function.range.start)).collect()
    }

    pub fn section(&self, name: &str) -> Range<u64> {
        self.sections[name].clone()
    }

    /// The section that `address` lies in.
    pub fn section_of(&self, address: u64) -> Option<&str> {
        let found = self.sections.iter().find(|(_, range)| range.contains(&address));
        found.map(|(name, _)| name.as_str())
    }

    /// The function whose address the dynamic linker stores at `slot`.
    pub fn stored_at(&self, slot: u64) -> Option<&str> {
        self.slots.get(&slot).map(String::as_str)
    }
}

/// `<a::B<C>>::d::<E>`, as the newer mangling has it, and `a::B<C>::d`, as the older, become `a::B::d`.
fn plain(name: &str) -> String {
    let name = name.strip_prefix('<').unwrap_or(name);
    let (mut depth, mut plain) = (0usize, String::new());
    for character in name.chars() {
        match character {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(character),
            _ => {}
        }
    }
    plain.strip_suffix("::").unwrap_or(&plain).replace("::::", "::")
}

fn functions(elf: &Elf<'_>) -> Vec<Function> {
    let symbols = elf.syms.iter().filter(|symbol| symbol.st_type() == sym::STT_FUNC && symbol.st_size > 0);
    let functions = symbols.map(|symbol| Function {
        range: symbol.st_value..symbol.st_value + symbol.st_size,
        name: format!("{:#}", rustc_demangle::demangle(elf.strtab.get_at(symbol.st_name).unwrap_or("?"))),
    });
    let mut functions: Vec<Function> = functions.collect();
    functions.sort_by_key(|function| function.range.start);
    functions
}

fn slots(elf: &Elf<'_>, functions: &[Function]) -> HashMap<u64, String> {
    let relocations = elf.dynrelas.iter().chain(elf.pltrelocs.iter());
    let named = relocations.filter_map(|one| {
        let name = match elf.dynsyms.get(one.r_sym).filter(|_| one.r_sym != 0) {
            Some(symbol) => elf.dynstrtab.get_at(symbol.st_name)?.to_owned(),
            // An address within the program itself.
            None => {
                let address = u64::try_from(one.r_addend?).ok()?;
                functions.iter().find(|function| function.range.start == address)?.name.clone()
            }
        };
        Some((one.r_offset, name))
    });
    named.collect()
}

#[test]
fn names_of_both_manglings_are_read_alike() {
    assert_eq!(plain("app::threads::Crew::hold"), "app::threads::Crew::hold");
    assert_eq!(plain("<app::threads::Crew>::hold::<app::work::{closure#0}>"), "app::threads::Crew::hold");
    assert_eq!(plain("app::Lock<T>::acquire"), "app::Lock::acquire");
}
