//! Which words are displaced: those that are overwritten and, where the function loops back to them, the loop.
//!
//! The body must not come back to the entry jump: every round of the loop would be a call of the replacement. So the
//! copy has the whole loop, from the site to the last branch that goes into it, and its branches stay in the copy. What
//! stands behind the overwritten words stays as it is, and nothing runs it from then on, provided that
//!
//! * no branch from behind the loop goes into it: those that do are part of it,
//! * the function calls nothing and computes no branch. Else a return, a landing pad of an exception or a jump table
//!   could lead into the loop,
//! * a thread that stands in the loop when the jump is written goes on in the copy. At the site itself it may begin a
//!   call or a round; in the copy it does either as the old function did. [`PcMap::inside`](crate::PcMap::inside) says
//!   so of all these places.
//!
//! A loop may have a value in x16 and x17, so nothing in it may need one of them.

use super::WORD;
use super::decode::{self, IP0, Kind, Word};
use crate::{Function, Refusal};

/// Words of the longest loop that is copied. Where it ends, a field of 9 bits in the trampoline reaches its exits.
const LONGEST: u64 = 64;

/// The displaced words.
pub(crate) struct Region {
    pub(crate) end: u64,
    /// Whether branches of the function go into it.
    pub(crate) loops: bool,
    /// Whether they go to the site itself.
    pub(crate) repeats: bool,
}

/// The region that begins with the overwritten words, from `site` to `end`.
pub(crate) fn region(function: &Function<'_>, site: u64, end: u64) -> Result<Region, Refusal> {
    let entry = function.address;
    let into = |end: u64| {
        let branches = decode::words(function).filter_map(|word| Some((word, word.branches_to()?)));
        branches.filter(move |(_, to)| (entry..end).contains(to))
    };
    let Some((from, to)) = into(end).next() else {
        return Ok(Region { end, loops: false, repeats: false });
    };
    let overwritten = end;
    let mut end = end;
    while let Some(last) = into(end).map(|(word, _)| word.at + WORD).max().filter(|last| *last > end) {
        end = last;
    }
    // A landing pad before the site stays, and whether a thread there begins a call or a round is not to be told.
    let enters_pad = into(overwritten).any(|(_, to)| to < site);
    if enters_pad || end - site > LONGEST * WORD || !is_closed(function, site, end) {
        let (from, text) = (from.at, from.to_string());
        return Err(match to {
            to if to <= site => Refusal::LoopsToEntry { from, to, text },
            to => Refusal::BranchIntoSite { from, to, text },
        });
    }
    let repeats = into(end).any(|(_, to)| to == site);
    Ok(Region { end, loops: true, repeats })
}

/// Whether nothing but its own branches and a call of the function leads into the loop, and all of it can be copied.
fn is_closed(function: &Function<'_>, site: u64, end: u64) -> bool {
    let leads_elsewhere = |word: &Word| matches!(word.kind, Kind::Call | Kind::IndirectCall | Kind::Jump);
    if decode::words(function).any(|word| leads_elsewhere(&word)) {
        return false;
    }
    let (inside, outside): (Vec<Word>, Vec<Word>) =
        decode::words(function).partition(|word| (site..end).contains(&word.at));
    let borrows = |word: &Word| matches!(word.kind, Kind::Literal(literal) if literal.base == IP0);
    !inside.iter().any(borrows) && (!has_exclusive(&inside) || keeps_exclusive(&inside, &outside))
}

fn has_exclusive(words: &[Word]) -> bool {
    words.iter().any(|word| word.kind == Kind::Exclusive)
}

/// Whether exclusive loads and their stores are all inside, and get nothing between them: other accesses to memory may
/// keep them from ever succeeding (Arm ARM, "Load-Exclusive and Store-Exclusive instruction usage restrictions").
fn keeps_exclusive(inside: &[Word], outside: &[Word]) -> bool {
    let loads = |word: &Word| matches!(word.kind, Kind::Address | Kind::Page | Kind::Literal(_));
    !has_exclusive(outside) && !inside.iter().any(loads)
}
