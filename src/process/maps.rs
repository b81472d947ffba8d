//! The memory map, as `/proc/thread-self/maps` tells it (proc_pid_maps(5)).

use crate::error::Error;
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

/// The whole map, sorted by address.
#[derive(Debug)]
pub(crate) struct MemoryMap(Vec<Mapping>);

impl MemoryMap {
    pub(crate) fn read() -> Result<Self, Error> {
        let text = std::fs::read("/proc/thread-self/maps")
            .map_err(|source| Error::Kernel { step: "read /proc/thread-self/maps", source })?;
        Ok(Self(parse(&String::from_utf8_lossy(&text))))
    }

    /// The mapping that holds `address`.
    pub(crate) fn at(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|mapping| mapping.range.start <= address);
        self.0.get(after.checked_sub(1)?).filter(|mapping| mapping.range.contains(&address))
    }

    pub(crate) fn all(&self) -> &[Mapping] {
        &self.0
    }

    /// Start and end of the mappings that `wanted` picks.
    pub(crate) fn ranges(&self, wanted: impl Fn(&Mapping) -> bool) -> Vec<(u64, u64)> {
        self.0.iter().filter(|mapping| wanted(mapping)).map(|m| (m.range.start, m.range.end)).collect()
    }
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
        let map = MemoryMap(parse(TEXT));
        assert_eq!(map.all().len(), 5);
        let text = map.at(0x55d0_c8a0_1fff).unwrap();
        assert_eq!((text.name.as_str(), text.protection().as_str()), ("/usr/bin/a b", "r-x"));
        assert_eq!(map.at(0x55d0_c8a0_2000), None);
        assert_eq!(map.at(0), None);
        assert_eq!(map.at(0x7ffd_0010_0000).unwrap().name, "");
        assert_eq!(map.ranges(|mapping| mapping.writable), [(0x7ffd_0000_0000, 0x7ffd_0002_1000)]);
    }

    #[test]
    fn own_map_holds_this_function() {
        let map = MemoryMap::read().unwrap();
        assert!(map.at(own_map_holds_this_function as *const () as u64).unwrap().executable);
    }
}
