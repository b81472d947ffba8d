//! After a rollback every byte of the text is what it was.

use crate::support::{bytes_at, child, patient};
use crate::{adds, target};
use midflight::Transaction;

adds! {
    live_bytes_one + 1;
}

#[cfg(target_arch = "x86_64")]
target! {
    fn live_bytes_two(u64) -> u64 { "endbr64", "push rbp", "mov rbp, rsp", "lea rax, [rdi + 2]", "pop rbp", "ret" }
}
#[cfg(target_arch = "aarch64")]
target! {
    fn live_bytes_two(u64) -> u64 { "bti c", "add x0, x0, 2", "ret" }
}

extern "C" fn zero(_: u64) -> u64 {
    0
}

/// Start and end of every mapping of this executable's text.
fn text() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let exe = std::env::current_exe().unwrap();
    let lines = maps.lines().filter(|line| line.ends_with(exe.to_str().unwrap()) && line.contains(" r-xp "));
    lines
        .map(|line| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            (usize::from_str_radix(start, 16).unwrap(), usize::from_str_radix(end, 16).unwrap())
        })
        .collect()
}

fn content() -> Vec<(usize, Vec<u8>)> {
    // SAFETY: the map says that they are readable.
    text().into_iter().map(|(start, end)| (start, unsafe { bytes_at(start, end - start) })).collect()
}

fn joined(parts: &[(usize, Vec<u8>)]) -> (usize, Vec<u8>) {
    // A change splits a mapping into several; together they are the same range.
    (parts[0].0, parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect())
}

#[test]
fn the_whole_text_is_as_before() {
    child::run("bytes::the_whole_text_is_as_before", || {
        let before = joined(&content());
        assert!(before.1.len() > 100_000);
        let mut change = Transaction::new();
        change.replace("live_bytes_one", zero as *const ());
        change.replace("live_bytes_two", zero as *const ());
        change.replace("live::targets::greet", zero as *const ());
        // SAFETY: `greet` is not called meanwhile; the others have this type.
        let applied = unsafe { change.commit(&patient()) }.unwrap();
        let changed = joined(&content());
        let different: Vec<usize> =
            (0..before.1.len()).filter(|place| before.1[*place] != changed.1[*place]).collect();
        assert_eq!((live_bytes_one(1), live_bytes_two(1)), (0, 0));
        assert!((3..=18).contains(&different.len()), "{different:x?}");
        // The landing pad stays: calls through pointers land on it where the processor insists.
        let pad: [u8; 4] =
            if cfg!(target_arch = "x86_64") { [0xf3, 0x0f, 0x1e, 0xfa] } else { [0x5f, 0x24, 0x03, 0xd5] };
        let landing = live_bytes_two as *const () as usize - before.0;
        assert_eq!(changed.1[landing..landing + 4], pad);
        applied.rollback_with(&patient()).unwrap();
        let after = joined(&content());
        assert_eq!(before.0, after.0);
        assert!(before.1 == after.1, "some byte is not as before");
        assert_eq!((live_bytes_one(1), live_bytes_two(1)), (2, 3));
    });
}
