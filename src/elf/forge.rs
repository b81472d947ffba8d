//! Makes small shared libraries for tests, byte by byte.
#![forbid(unsafe_code)]

use super::Machine;

/// Where the forged segments are: code, then data, which starts with the section.
pub(crate) const CODE: u64 = 0x1000;
pub(crate) const CODE_LEN: u64 = 0x100;
pub(crate) const DATA: u64 = 0x2000;
pub(crate) const DATA_OFFSET: u64 = 0x200;
/// Zeros after the data that are not in the file.
pub(crate) const BSS_LEN: u64 = 0x100;

/// Offset in the data and length.
type Part = (u64, u64);

pub(crate) const RELATIVE_X86_64: u64 = 8;
pub(crate) const RELATIVE_AARCH64: u64 = 1027;

/// A shared library with one named section at the start of its writable data.
pub(crate) struct Forge {
    pub(crate) machine: Machine,
    pub(crate) kind: u16,
    pub(crate) flags_1: u64,
    pub(crate) section_name: &'static str,
    pub(crate) section: Vec<u8>,
    pub(crate) section_flags: u64,
    /// Type of the section with the symbols: SHT_DYNSYM, or SHT_SYMTAB.
    pub(crate) symbols_kind: u32,
    /// Offset, symbol and type, addend.
    pub(crate) rela: Vec<(u64, u64, i64)>,
    pub(crate) relr: Vec<u64>,
    /// Name, info, section index, value.
    pub(crate) symbols: Vec<(&'static str, u8, u16, u64)>,
    pub(crate) needed: Vec<&'static str>,
    /// Address and length.
    pub(crate) relro: (u64, u64),
}

impl Forge {
    pub(crate) fn new(section: Vec<u8>) -> Self {
        Self {
            machine: Machine::X86_64,
            kind: 3,
            flags_1: 0,
            section_name: "midflight_patch",
            section,
            section_flags: 3,
            symbols_kind: 11,
            rela: Vec::new(),
            relr: Vec::new(),
            symbols: Vec::new(),
            needed: Vec::new(),
            relro: (0, 0),
        }
    }

    /// The address of the zeros that are not in the file.
    pub(crate) fn bss(&self) -> u64 {
        DATA + self.data().0.len() as u64
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let (data, dynamic, symbols, strings) = self.data();
        let names = [b"\0", self.section_name.as_bytes(), b"\0.rest\0"].concat();
        let rest = self.section_name.len() as u32 + 2;
        let data_len = data.len() as u64;

        let mut file = Vec::new();
        let sections_at = DATA_OFFSET + data_len + names.len().next_multiple_of(8) as u64;
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(&mut file, &[self.kind, self.machine.number()]);
        file.extend(1_u32.to_le_bytes());
        words(&mut file, &[0, 64, sections_at]);
        file.extend(0_u32.to_le_bytes());
        put(&mut file, &[64, 56, 4, 64, 5, 2]);

        let segment = |file: &mut Vec<u8>, kind: u32, flags: u32, rest: [u64; 6]| {
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            words(file, &rest);
        };
        let dynamic_at = |base: u64| base + dynamic.0;
        segment(&mut file, 1, 5, [0, CODE, CODE, CODE_LEN, CODE_LEN, 0x1000]);
        segment(&mut file, 1, 6, [DATA_OFFSET, DATA, DATA, data_len, data_len + BSS_LEN, 0x1000]);
        let address = dynamic_at(DATA);
        segment(&mut file, 2, 6, [dynamic_at(DATA_OFFSET), address, address, dynamic.1, dynamic.1, 8]);
        segment(&mut file, 0x6474_e552, 4, [0, self.relro.0, 0, 0, self.relro.1, 1]);

        file.resize(DATA_OFFSET as usize, 0);
        file.extend(&data);
        file.extend(&names);
        file.resize(sections_at as usize, 0);

        let section = |file: &mut Vec<u8>, name: u32, kind: u32, rest: [u64; 4], link: u32, entry: u64| {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            words(file, &rest);
            file.extend(link.to_le_bytes());
            file.extend(0_u32.to_le_bytes());
            words(file, &[8, entry]);
        };
        section(&mut file, 0, 0, [0; 4], 0, 0);
        let flags = self.section_flags;
        section(&mut file, 1, 1, [flags, DATA, DATA_OFFSET, self.section.len() as u64], 0, 0);
        section(&mut file, rest, 3, [0, 0, DATA_OFFSET + data_len, names.len() as u64], 0, 0);
        let table = [2, DATA + symbols.0, DATA_OFFSET + symbols.0, symbols.1];
        section(&mut file, rest, self.symbols_kind, table, 4, 24);
        section(&mut file, rest, 3, [2, DATA + strings.0, DATA_OFFSET + strings.0, strings.1], 0, 0);
        file
    }

    /// The data segment, with offsets and lengths in it: the dynamic table, the symbols, the strings.
    fn data(&self) -> (Vec<u8>, Part, Part, Part) {
        let mut data = self.section.clone();
        let place = |data: &mut Vec<u8>, part: &[u8]| {
            data.resize(data.len().next_multiple_of(8), 0);
            let at = data.len() as u64;
            data.extend(part);
            (at, part.len() as u64)
        };
        let mut strings = vec![0];
        let mut symbols = vec![0; 24];
        for &(name, info, section, value) in &self.symbols {
            symbols.extend((strings.len() as u32).to_le_bytes());
            symbols.extend([info, 0]);
            symbols.extend(section.to_le_bytes());
            words(&mut symbols, &[value, 0]);
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        let mut entries = Vec::new();
        for name in &self.needed {
            words(&mut entries, &[1, strings.len() as u64]);
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        let mut rela = Vec::new();
        for &(offset, info, addend) in &self.rela {
            words(&mut rela, &[offset, info, addend.cast_unsigned()]);
        }
        let mut relr = Vec::new();
        words(&mut relr, &self.relr);

        let (symbols, strings) = (place(&mut data, &symbols), place(&mut data, &strings));
        let (rela, relr) = (place(&mut data, &rela), place(&mut data, &relr));
        words(&mut entries, &[5, DATA + strings.0, 10, strings.1, 6, DATA + symbols.0]);
        words(&mut entries, &[7, DATA + rela.0, 8, rela.1, 36, DATA + relr.0, 35, relr.1]);
        words(&mut entries, &[0x6fff_fffb, self.flags_1, 0, 0]);
        let dynamic = place(&mut data, &entries);
        (data, dynamic, symbols, strings)
    }
}

pub(crate) fn words(bytes: &mut Vec<u8>, words: &[u64]) {
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn put(bytes: &mut Vec<u8>, halves: &[u16]) {
    bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}
