//! Pages of islands of punned jumps, at addresses that the jumps dictate. They are shared by islands of several
//! commits, so threads may run in them while another island is added.

use super::near::NearBlock;
use super::script::Script;
use crate::sys::Errno;
use std::collections::BTreeMap;

const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// Islands to be written, by the page that their bytes lie on.
#[derive(Debug, Default)]
pub(crate) struct PunIslands {
    /// Page to pieces: address, bytes.
    pages: BTreeMap<u64, Vec<(u64, Vec<u8>)>>,
}

impl PunIslands {
    /// Adds an island; `page` is the length of a page.
    pub(crate) fn add(&mut self, address: u64, bytes: &[u8], page: u64) {
        for (place, byte) in (address..).zip(bytes) {
            let pieces = self.pages.entry(place / page * page).or_default();
            match pieces.last_mut().filter(|(start, piece)| start + piece.len() as u64 == place) {
                Some((_, piece)) => piece.push(*byte),
                None => pieces.push((place, vec![*byte])),
            }
        }
    }

    /// Writes them all, or answers why not; nothing runs into them before. Pages that are not `known` are mapped; EEXIST
    /// if there is something by now.
    pub(crate) fn write(&self, page: u64, known: impl Fn(u64) -> bool) -> Result<(), (u64, Errno)> {
        let (old, new): (Vec<_>, Vec<_>) = self.pages.iter().partition(|(start, _)| known(**start));
        let mut blocks = Vec::with_capacity(new.len());
        for (start, pieces) in new {
            let mut block = NearBlock::map(*start, page, 0).map_err(|errno| (*start, errno))?;
            for (address, bytes) in pieces {
                block.write_code(*address, bytes);
            }
            blocks.push((*start, block));
        }
        for (start, pieces) in old {
            add_to(*start, page, pieces).map_err(|errno| (*start, errno))?;
        }
        for (start, block) in blocks {
            block.seal().map_err(|errno| (start, errno))?;
        }
        Ok(())
    }
}

/// Adds bytes to a page of ours that threads may run in: it stays executable all the time.
fn add_to(start: u64, page: u64, pieces: &[(u64, Vec<u8>)]) -> Result<(), Errno> {
    let mut script = Script::default();
    script.protect(start, page, RX | libc::PROT_WRITE);
    for (address, bytes) in pieces {
        script.copy(*address, bytes.as_ptr() as u64, bytes.len() as u64);
        script.cohere(*address, bytes.len() as u64);
    }
    script.protect_or_die(start, page, RX);
    script.finish();
    // SAFETY: bytes of our own page that hold no island yet, so that no thread runs in them.
    unsafe { script.run_from(0) }.map_err(|(_, errno)| errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    const PAGE: u64 = 4096;

    fn at(address: u64) -> [u8; 3] {
        let mut bytes = [0; 3];
        assert_eq!(sys::read_memory(address, &mut bytes), Ok(3));
        bytes
    }

    #[test]
    fn islands_are_written_over_pages_and_added_later() {
        let start = 0x2355_0000_0000;
        let mut first = PunIslands::default();
        first.add(start + PAGE - 1, &[1, 2, 3], PAGE);
        first.add(start + 16, &[4, 5, 6], PAGE);
        assert_eq!(first.write(PAGE, |_| false), Ok(()));
        assert_eq!((at(start + PAGE - 1), at(start + 16)), ([1, 2, 3], [4, 5, 6]));
        let mut second = PunIslands::default();
        second.add(start + 19, &[7, 8, 9], PAGE);
        assert_eq!(second.write(PAGE, |_| false), Err((start, Errno(libc::EEXIST))));
        assert_eq!(second.write(PAGE, |page| page == start), Ok(()));
        assert_eq!((at(start + 16), at(start + 19)), ([4, 5, 6], [7, 8, 9]));
    }
}
