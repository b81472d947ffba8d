use super::forge::{CODE, CODE_LEN, DATA, DATA_OFFSET, Forge, RELATIVE_AARCH64, RELATIVE_X86_64, words};
use super::*;

const GLOBAL_FUNCTION: u8 = 0x12;
const WEAK_FUNCTION: u8 = 0x22;
const GLOBAL_IFUNC: u8 = 0x1a;
const ABS64_X86_64: u64 = 1;
const ABS64_AARCH64: u64 = 257;

fn parse(file: &[u8]) -> Image {
    Image::parse(file, Machine::X86_64).unwrap()
}

/// What each cell of the forged section refers to.
fn pointers(forge: &Forge) -> Vec<Pointer> {
    let file = forge.build();
    let image = Image::parse(&file[..], forge.machine).unwrap();
    let dynamic = image.dynamic(&file[..]).unwrap().unwrap();
    let len = forge.section.len() as u64;
    let relocations = image.relocations(&file[..], &dynamic, DATA..DATA + len).unwrap();
    let cells = (DATA..DATA + len).step_by(8);
    cells.map(|cell| image.pointer_at(&file[..], &dynamic, &relocations, cell).unwrap()).collect()
}

#[test]
fn segments_say_what_stands_where() {
    let forge = Forge { relro: (DATA + 8, 8), ..Forge::new(vec![7; 24]) };
    let file = forge.build();
    let image = parse(&file);
    assert_eq!(image.kind(), FileKind::Dynamic);
    assert_eq!(image.loads().len(), 2);
    assert!(image.loads().iter().all(|load| !load.readable || load.memory.start != 0));

    assert_eq!(*image.bytes_at(&file[..], DATA, 3).unwrap(), [7; 3]);
    assert_eq!(image.offset_of(DATA + 5), Some(DATA_OFFSET + 5));
    assert_eq!(image.offset_of(forge.bss()), None);
    for (address, len) in
        [(forge.bss(), 1), (forge.bss() - 1, 2), (0, 1), (CODE, CODE_LEN + 1), (u64::MAX, 2)]
    {
        let fault = Fault::Unmapped { what: "data", address, len };
        assert_eq!(image.bytes_at(&file[..], address, len), Err(fault));
    }

    assert!(image.is_executable(CODE) && image.is_executable(CODE + CODE_LEN - 1));
    assert!(!image.is_executable(CODE + CODE_LEN) && !image.is_executable(DATA));
    assert!(image.is_writable(forge.bss(), 8), "zeros are writable, too");
    assert!(image.is_writable(DATA, 8));
    assert!(!image.is_writable(DATA + 8, 8), "made read-only after relocation");
    assert!(!image.is_writable(DATA + 4, 8), "partly");
    assert!(!image.is_writable(CODE, 8) && !image.is_writable(u64::MAX, 8));
}

#[test]
fn sections_are_found_by_their_whole_name() {
    let file = Forge::new(vec![0; 8]).build();
    let image = parse(&file);
    let section = image.section("midflight_patch").unwrap();
    assert_eq!((section.address, section.offset, section.size), (DATA, DATA_OFFSET, 8));
    assert!(section.is_allocated() && section.has_bytes());
    for name in ["midflight_patc", "midflight_patch2", "idflight_patch\0.rest\0\0"] {
        assert!(image.section(name).is_none(), "{name:?}");
    }
    assert_eq!(image.sections_named(".rest").count(), 3);
}

#[test]
fn sections_counted_in_the_first_header_are_read() {
    let mut file = Forge::new(vec![0; 8]).build();
    let first = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
    file[60..62].fill(0);
    file[first + 32..first + 40].copy_from_slice(&5_u64.to_le_bytes());
    file[62..64].fill(0xff);
    file[first + 40..first + 44].copy_from_slice(&2_u32.to_le_bytes());
    file[56..58].fill(0xff);
    file[first + 44..first + 48].copy_from_slice(&4_u32.to_le_bytes());
    let image = parse(&file);
    assert!(image.section("midflight_patch").is_some());
    assert_eq!(image.loads().len(), 2);
}

#[test]
fn relative_pointers() {
    for (machine, relative) in [(Machine::X86_64, RELATIVE_X86_64), (Machine::Aarch64, RELATIVE_AARCH64)] {
        let mut section = Vec::new();
        words(&mut section, &[0, 0x1234, 0xdead, 0]);
        let rela = vec![(DATA + 16, relative, 0x77), (DATA + 24, relative, 1), (DATA + 24, relative, 2)];
        let forge = Forge { machine, rela, ..Forge::new(section) };
        let expected = [
            Pointer::Null,
            Pointer::Address(0x1234),
            Pointer::Address(0x77),
            // As in the dynamic linker, the last one counts.
            Pointer::Address(2),
        ];
        assert_eq!(pointers(&forge), expected);
    }
}

#[test]
fn symbolic_pointers() {
    for (machine, absolute) in [(Machine::X86_64, ABS64_X86_64), (Machine::Aarch64, ABS64_AARCH64)] {
        let symbols = vec![
            ("own", GLOBAL_FUNCTION, 1, CODE),
            ("other", GLOBAL_FUNCTION, 0, 0),
            ("chosen", GLOBAL_IFUNC, 1, CODE),
            ("fixed", GLOBAL_FUNCTION, 0xfff1, CODE),
        ];
        let rela = (0..4).map(|index| (DATA + 8 * index, (index + 1) << 32 | absolute, 8)).collect();
        let forge = Forge { machine, symbols, rela, ..Forge::new(vec![0xff; 32]) };
        let expected = [
            Pointer::Address(CODE + 8),
            Pointer::Undefined("other".to_owned()),
            Pointer::Unsupported(absolute as u32),
            Pointer::Unsupported(absolute as u32),
        ];
        assert_eq!(pointers(&forge), expected);
    }
}

#[test]
fn relocations_of_other_kinds_are_not_guessed() {
    let forge = Forge { rela: vec![(DATA, 37, 0x1000)], ..Forge::new(vec![0; 8]) };
    assert_eq!(pointers(&forge), [Pointer::Unsupported(37)]);
}

#[test]
fn a_symbol_outside_of_the_table_is_a_fault() {
    let rela = vec![(DATA, 0xffff_ffff << 32 | ABS64_X86_64, 0)];
    let file = Forge { rela, ..Forge::new(vec![0; 8]) }.build();
    let image = parse(&file);
    let dynamic = image.dynamic(&file[..]).unwrap().unwrap();
    let fault = image.relocations(&file[..], &dynamic, DATA..DATA + 8).unwrap_err();
    assert!(matches!(fault, Fault::Unmapped { what: "a relocation's symbol", .. }), "{fault}");
    // One that is not asked for does no harm.
    image.relocations(&file[..], &dynamic, DATA + 8..DATA + 16).unwrap();
}

#[test]
fn packed_relocations() {
    // Cells 0, then by bitmap 1 and 3, then by the next bitmap 64 (the first that it speaks of) and 66.
    let relr = vec![DATA, 0b101 << 1 | 1, 0b101 << 1 | 1];
    let mut section = Vec::new();
    words(&mut section, &(0..70).map(|cell| 0x1_0000 + cell).collect::<Vec<_>>());
    let forge = Forge { relr, ..Forge::new(section) };
    let file = forge.build();
    let image = parse(&file);
    let dynamic = image.dynamic(&file[..]).unwrap().unwrap();
    let relocations = image.relocations(&file[..], &dynamic, DATA..DATA + 70 * 8).unwrap();
    let cells: Vec<u64> = relocations.addresses().map(|address| (address - DATA) / 8).collect();
    assert_eq!(cells, [0, 1, 3, 64, 66]);
    assert_eq!(pointers(&forge)[3], Pointer::Address(0x1_0003));

    let few = image.relocations(&file[..], &dynamic, DATA + 8..DATA + 16).unwrap();
    assert_eq!(few.addresses().collect::<Vec<_>>(), [DATA + 8], "only what was asked for is kept");
}

#[test]
fn packed_relocations_at_the_end_of_memory_do_not_overflow() {
    let forge = Forge { relr: vec![u64::MAX - 7, u64::MAX, u64::MAX, u64::MAX], ..Forge::new(vec![0; 8]) };
    assert_eq!(pointers(&forge), [Pointer::Null]);
}

#[test]
fn symbols_and_names() {
    let symbols = vec![
        ("own", GLOBAL_FUNCTION, 1, CODE),
        ("missing", GLOBAL_FUNCTION, 0, 0),
        ("optional", WEAK_FUNCTION, 0, 0),
        ("also_missing", 0x10, 0, 0),
    ];
    let needed = vec!["libc.so.6", "libm.so.6"];
    let file = Forge { symbols, needed, ..Forge::new(vec![0; 8]) }.build();
    let image = parse(&file);
    assert_eq!(image.undefined(&file[..]).unwrap(), ["missing", "also_missing"]);
    let dynamic = image.dynamic(&file[..]).unwrap().unwrap();
    assert_eq!(dynamic.needed, ["libc.so.6", "libm.so.6"]);
    assert_eq!((dynamic.soname, dynamic.is_executable), (None, false));
    assert!(image.symbols(&file[..], SymbolTable::Full).unwrap().is_none());
    assert_eq!(image.build_id(&file[..]), None);

    let table = image.symbols(&file[..], SymbolTable::Dynamic).unwrap().unwrap();
    let own = table.iter().next().unwrap();
    assert_eq!((own.name(), own.value, own.kind), (&b"own"[..], CODE, SymbolKind::Function));
    assert!(own.is_named(b"own") && !own.is_named(b"ow") && !own.is_named(b"own\0missing"));
    assert_eq!(table.iter().map(|symbol| symbol.defined).collect::<Vec<_>>(), [true, false, false, false]);
}

#[test]
fn many_names_out_of_one_long_string_are_refused() {
    const COUNT: usize = 4000;
    let long: &'static str = Box::leak("x".repeat(1 << 12).into_boxed_str());
    let mut needed = vec!["y"; COUNT];
    needed[0] = long;
    let mut file = Forge { needed, ..Forge::new(vec![0; 8]) }.build();
    let image = parse(&file);
    assert_eq!(image.dynamic(&file[..]).unwrap().unwrap().needed.len(), COUNT);

    let (table, _) = image.dynamic.unwrap();
    for entry in 0..COUNT {
        let at = table as usize + entry * 16 + 8;
        file[at..at + 8].copy_from_slice(&1_u64.to_le_bytes());
    }
    assert!(matches!(image.dynamic(&file[..]), Err(Fault::Malformed { .. })));
}

#[test]
fn the_file_of_this_test_is_understood() {
    let machine = match std::env::consts::ARCH {
        "x86_64" => Machine::X86_64,
        "aarch64" => Machine::Aarch64,
        other => panic!("no such machine: {other}"),
    };
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let file = &file[..];
    let image = Image::parse(file, machine).unwrap();
    let symbols = image.symbols(file, SymbolTable::Full).unwrap().unwrap();
    let function =
        |symbol: &Symbol<'_>| symbol.defined && symbol.kind == SymbolKind::Function && symbol.size > 0;
    let functions: Vec<Symbol<'_>> = symbols.iter().filter(function).collect();
    assert!(functions.len() > 100);
    assert!(
        functions.iter().all(|function| image.is_executable(function.value) && !function.name().is_empty())
    );
    assert!(functions.iter().any(|function| function.is_named(b"main")));
    assert!(symbols.iter().any(|symbol| symbol.kind == SymbolKind::File));
    let dynamic = image.dynamic(file).unwrap().unwrap();
    assert!(dynamic.needed.iter().any(|name| name.starts_with("libc.")));
    assert!(!image.undefined(file).unwrap().is_empty());

    let other = if machine == Machine::X86_64 { Machine::Aarch64 } else { Machine::X86_64 };
    let fault = Image::parse(file, other).unwrap_err();
    assert_eq!(fault, Fault::Machine { expected: other, found: machine.number() });
}

#[test]
fn build_ids() {
    let note = |kind: u32, name: &[u8], desc: &[u8]| {
        let mut note = Vec::new();
        for number in [name.len() as u32, desc.len() as u32, kind] {
            note.extend(number.to_le_bytes());
        }
        for part in [name, desc] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    };
    let other = note(1, b"GNU\0", &[9; 5]);
    let id = note(3, b"GNU\0", b"abcde");
    let notes = [&other[..], &id].concat();
    assert_eq!(names::build_id(&notes), Some(&b"abcde"[..]));
    assert_eq!(
        names::build_id(&notes[..notes.len() - 3]),
        Some(&b"abcde"[..]),
        "the last padding may be missing"
    );
    assert_eq!(names::build_id(&notes[..notes.len() - 4]), None);
    assert_eq!(names::build_id(&note(3, b"Go\0\0", b"abcde")), None);
    assert_eq!(names::build_id(&[0xff; 64]), None);
}
