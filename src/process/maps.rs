//! The memory map, as `/proc/self/maps` tells it (proc_pid_maps(5)), which emulators know too; or
//! `/proc/thread-self/maps`, since the process's is empty once the main thread has ended.

use crate::error::Error;
use crate::sys::{Errno, Fd};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
    /// A path, or a name in brackets, or nothing.
    pub(crate) name: String,
}

impl Mapping {
    /// The protection in the notation of the map.
    pub(crate) fn protection(&self) -> String {
        let letter = |set, letter| if set { letter } else { '-' };
        [letter(self.readable, 'r'), letter(self.writable, 'w'), letter(self.executable, 'x')]
            .iter()
            .collect()
    }
}

/// The memory map at one time, sorted by address. Read as far as it is needed: a single place is asked for by
/// PROCMAP_QUERY (Linux 6.11), since the text of a large map takes longer than the rest of a commit.
#[derive(Debug)]
pub(crate) struct MemoryMap {
    source: OnceCell<Option<Fd>>,
    /// What was asked for, by its first address.
    asked: RefCell<BTreeMap<u64, Mapping>>,
    all: OnceCell<Vec<Mapping>>,
}

impl MemoryMap {
    /// The map, to be read where it is asked, when it is.
    pub(crate) fn lazy() -> Self {
        Self { source: OnceCell::new(), asked: RefCell::default(), all: OnceCell::new() }
    }

    /// The whole map.
    pub(crate) fn read() -> Result<Self, Error> {
        let map = Self::lazy();
        map.all().map(drop)?;
        Ok(map)
    }

    /// The mapping that holds `address`; its name may be missing.
    pub(crate) fn at(&self, address: u64) -> Result<Option<Mapping>, Error> {
        if self.all.get().is_some() {
            return Ok(self.named_at(address)?.cloned());
        }
        let known = self.asked.borrow().range(..=address).next_back().map(|(_, mapping)| mapping.clone());
        if let Some(known) = known.filter(|known| known.range.contains(&address)) {
            return Ok(Some(known));
        }
        match self.source()?.map_or(Err(Errno(libc::ENOTTY)), |source| query(source, address)) {
            Ok(mapping) => {
                self.asked.borrow_mut().insert(mapping.range.start, mapping.clone());
                Ok(Some(mapping))
            }
            Err(Errno(libc::ENOENT)) => Ok(None),
            Err(_) => Ok(self.named_at(address)?.cloned()),
        }
    }

    /// What answers single questions, if anything does.
    fn source(&self) -> Result<Option<&Fd>, Error> {
        if let Some(source) = self.source.get() {
            return Ok(source.as_ref());
        }
        let any = std::ptr::from_ref(self) as u64;
        let own = open(OWN).map(|source| (query(&source, any), source));
        let source = match own {
            Ok((Ok(_) | Err(Errno(libc::ENOENT)), source)) => Some(source),
            Err(Errno(libc::ENOENT | libc::ESRCH)) | Ok((Err(Errno(libc::ESRCH)), _)) => {
                Some(open(OF_THREAD).map_err(unreadable)?)
            }
            Err(errno) => return Err(unreadable(errno)),
            // An older kernel, or an emulator.
            Ok(_) => None,
        };
        Ok(self.source.get_or_init(|| source).as_ref())
    }

    /// The mapping that holds `address`, with its name.
    pub(crate) fn named_at(&self, address: u64) -> Result<Option<&Mapping>, Error> {
        let all = self.all()?;
        let after = all.partition_point(|mapping| mapping.range.start <= address);
        let before = after.checked_sub(1).and_then(|place| all.get(place));
        Ok(before.filter(|mapping| mapping.range.contains(&address)))
    }

    pub(crate) fn all(&self) -> Result<&[Mapping], Error> {
        if self.all.get().is_none() {
            let _ = self.all.set(read_all()?);
        }
        Ok(self.all.get().map_or(&[], Vec::as_slice))
    }

    /// Start and end of the mappings that `wanted` picks.
    pub(crate) fn ranges(&self, wanted: impl Fn(&Mapping) -> bool) -> Result<Vec<(u64, u64)>, Error> {
        let picked = self.all()?.iter().filter(|mapping| wanted(mapping));
        Ok(picked.map(|mapping| (mapping.range.start, mapping.range.end)).collect())
    }
}

fn read_all() -> Result<Vec<Mapping>, Error> {
    let read = |path| {
        // Read in few steps: the kernel walks the map anew for each.
        let mut text = Vec::with_capacity(1 << 16);
        std::fs::File::open(path)?.read_to_end(&mut text).map(|_| text)
    };
    let own = read(OWN).ok().filter(|text| !text.is_empty());
    let text = own.map_or_else(|| read(OF_THREAD), Ok).map_err(unreadable)?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

const OWN: &str = "/proc/self/maps";
const OF_THREAD: &str = "/proc/thread-self/maps";

fn open(path: &str) -> Result<Fd, Errno> {
    Fd::open(format!("{path}\0").as_bytes(), 0)
}

fn unreadable(source: impl Into<std::io::Error>) -> Error {
    Error::Kernel { step: "read /proc/self/maps", source: source.into() }
}

/// `struct procmap_query` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// `_IOWR('f', 17, struct procmap_query)`
const PROCMAP_QUERY: usize = 0xc068_6611;
const _: () = assert!(size_of::<Query>() == 0x68);

/// The mapping that holds `address`, without its name; ENOENT if there is none.
fn query(maps: &Fd, address: u64) -> Result<Mapping, Errno> {
    let mut query = Query { size: size_of::<Query>() as u64, address, ..Query::default() };
    // SAFETY: the kernel reads and writes one `procmap_query`, whose length stands in it.
    unsafe { maps.ioctl(PROCMAP_QUERY, (&raw mut query) as usize)? };
    let has = |flag| query.vma_flags & flag != 0;
    Ok(Mapping {
        range: query.start..query.end,
        readable: has(1),
        writable: has(2),
        executable: has(4),
        name: String::new(),
    })
}

/// Lines that are not understood are left out.
fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(parse_line).collect()
}

/// `start-end perms offset device inode   name`
fn parse_line(line: &str) -> Option<Mapping> {
    let (addresses, rest) = line.split_once(' ')?;
    let (start, end) = addresses.split_once('-')?;
    let (permissions, rest) = rest.split_once(' ')?;
    let name = rest.splitn(4, ' ').nth(3).unwrap_or("").trim_start();
    let has = |letter| permissions.contains(letter);
    Some(Mapping {
        range: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
        readable: has('r'),
        writable: has('w'),
        executable: has('x'),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
55d0c8a00000-55d0c8a01000 r--p 00000000 fd:00 1234                       /usr/bin/a b
55d0c8a01000-55d0c8a02000 r-xp 00001000 fd:00 1234                       /usr/bin/a b
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
7ffd00100000-7ffd00101000 ---p 00000000 00:00 0 
nonsense
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn lines_are_read() {
        let all = OnceCell::from(parse(TEXT));
        let map = MemoryMap { all, ..MemoryMap::lazy() };
        assert_eq!(map.all().unwrap().len(), 5);
        let text = map.at(0x55d0_c8a0_1fff).unwrap().unwrap();
        assert_eq!((text.name.as_str(), text.protection().as_str()), ("/usr/bin/a b", "r-x"));
        assert_eq!(map.at(0x55d0_c8a0_2000).unwrap(), None);
        assert_eq!(map.at(0).unwrap(), None);
        assert_eq!(map.at(0x7ffd_0010_0000).unwrap().unwrap().name, "");
        assert_eq!(map.ranges(|mapping| mapping.writable).unwrap(), [(0x7ffd_0000_0000, 0x7ffd_0002_1000)]);
    }

    #[test]
    fn a_place_is_the_same_asked_for_and_read() {
        let code = own_code as *const () as u64;
        let stack = (&raw const code) as u64;
        let (asked, read) = (MemoryMap::lazy(), MemoryMap::read().unwrap());
        for address in [code, stack, code] {
            let (asked, read) = (asked.at(address).unwrap().unwrap(), read.at(address).unwrap().unwrap());
            assert!(asked.range.contains(&address));
            assert_eq!(asked.protection(), read.protection());
        }
        assert!(asked.at(code).unwrap().unwrap().executable);
        assert!(asked.named_at(code).unwrap().unwrap().name.contains('/'));
        assert_eq!(MemoryMap::lazy().at(4096).unwrap(), None);
    }

    fn own_code() {}
}
