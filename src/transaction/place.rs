//! New sites get their memory: trampolines, islands and slots are placed, encoded and written.

use super::prepare::kernel;
use super::select::{Selected, Selector};
use super::site::Site;
use super::{Change, HOST};
use crate::arch;
use crate::error::Error;
use crate::memory::{NearBlock, PunIslands};
use crate::plan::{self, Need, Occupied, PUN_PAGE, PunPages};
use crate::process::MemoryMap;
use crate::sys::Errno;
use std::sync::Arc;

/// How often a gap may be taken by somebody else before the search for near memory is given up.
const TRIES: usize = 32;

/// A target that has no site yet.
#[derive(Debug)]
pub(super) struct NewSite<'a> {
    pub(super) change: &'a Change,
    pub(super) selected: Selected,
}

impl NewSite<'_> {
    fn need(&self) -> Need<'_> {
        let Selected { measure, form, island, .. } = &self.selected;
        Need { measure, form: *form, island: *island }
    }

    fn no_memory(&self, window: String) -> Error {
        let (target, address) = (self.change.target.target.name.clone(), self.selected.measure.site());
        Error::NoNearMemory { target, address, window }
    }
}

/// The sites, and the pages of islands as they are then. Or which page for islands could not be had, and why; then other
/// forms or places may be selected.
pub(super) type Placement = Result<(Vec<Site>, PunPages), (u64, Errno)>;

/// Maps memory for the new sites, writes trampolines and islands. A site that no free memory is near to gets the form that
/// needs none, if it can have that.
pub(super) fn place(new: Vec<NewSite<'_>>, mut selector: Selector<'_>) -> Result<Placement, Error> {
    let mut placed = Placed::default();
    let mut far = Vec::new();
    for (members, block) in blocks(new, &selector.reserved())? {
        match block {
            Ok((group, block)) => placed.fill(&members, &group, block)?,
            Err(window) => {
                for mut site in members {
                    if !selector.without_near_memory(&site.change.target.target, &mut site.selected) {
                        return Err(site.no_memory(window));
                    }
                    far.push(site);
                }
            }
        }
    }
    for (members, block) in blocks(far, &selector.reserved())? {
        match (block, members.first()) {
            (Ok((group, block)), _) => placed.fill(&members, &group, block)?,
            (Err(window), Some(site)) => return Err(site.no_memory(window)),
            (Err(_), None) => {}
        }
    }
    let is_known = |page| selector.known_puns().has_page(page);
    Ok(match placed.islands.write(PUN_PAGE, is_known) {
        Ok(()) => Ok((placed.sites, selector.into_puns())),
        Err(page) => Err(page),
    })
}

/// Sites that share a block, and the block; or the addresses at which there was no memory for one.
type Members<'a> = (Vec<NewSite<'a>>, Result<(plan::Group, NearBlock), String>);

/// Puts sites together and maps a block for each group, none of them on `reserved` memory.
fn blocks<'a>(new: Vec<NewSite<'a>>, reserved: &[(u64, u64)]) -> Result<Vec<Members<'a>>, Error> {
    let needs: Vec<Need<'_>> = new.iter().map(NewSite::need).collect();
    let (groups, unreachable) = plan::group(HOST, &needs);
    let mut mapped = Vec::with_capacity(groups.len());
    for group in groups {
        let window = format!("{:#x}..{:#x}", group.window.start(), group.window.end());
        let members = group.members.clone();
        mapped.push((members, map_block(&group, reserved)?.map(|block| (group, block)).ok_or(window)));
    }
    mapped.extend(unreachable.into_iter().map(|number| (vec![number], Err("any address".to_owned()))));
    let mut sites: Vec<Option<NewSite<'_>>> = new.into_iter().map(Some).collect();
    let mut take = |number: usize| sites.get_mut(number).and_then(Option::take);
    let mut all = Vec::with_capacity(mapped.len());
    for (members, block) in mapped {
        all.push((members.into_iter().filter_map(&mut take).collect(), block));
    }
    Ok(all)
}

/// What has its place so far.
#[derive(Debug, Default)]
struct Placed {
    sites: Vec<Site>,
    islands: PunIslands,
}

impl Placed {
    /// Fills a block for its members, which stand in the order of the group.
    fn fill(
        &mut self,
        members: &[NewSite<'_>],
        group: &plan::Group,
        mut block: NearBlock,
    ) -> Result<(), Error> {
        let needs: Vec<Need<'_>> = members.iter().map(NewSite::need).collect();
        let mut sites = Vec::with_capacity(members.len());
        for (site, places) in members.iter().zip(plan::lay_out(HOST, group, &needs, block.start())) {
            let (target, selected) = (&site.change.target.target, &site.selected);
            let plan = arch::encode(&selected.measure, selected.form, &places, site.change.replacement)
                .map_err(|refusal| {
                    let (target, address) = (target.name.clone(), target.address);
                    Error::Refused { target, address, refusal }
                })?;
            block.write_code(places.trampoline, &plan.trampoline);
            match selected.island {
                None => block.write_code(places.island, &plan.island),
                Some(island) => self.islands.add(island, &plan.island, PUN_PAGE),
            }
            sites.push(Site::new(Arc::clone(target), plan, &places, block.slot(places.slot)));
        }
        block.seal().map_err(|errno| kernel("make trampolines executable", errno))?;
        self.sites.extend(sites);
        Ok(())
    }
}

/// Maps a block where the group wants it. A gap that somebody takes meanwhile means looking again.
fn map_block(group: &plan::Group, reserved: &[(u64, u64)]) -> Result<Option<NearBlock>, Error> {
    let len = group.code + group.data;
    // What is taken without standing in the map, as an emulator's own memory, is passed over in longer and longer steps.
    let mut taken: Vec<(u64, u64)> = reserved.to_vec();
    for _ in 0..TRIES {
        let now = MemoryMap::read()?;
        let mappings = now.all()?.iter().map(|one| (one.range.start, one.range.end, one.name.as_str()));
        let occupied = Occupied::new(HOST, mappings).and(&taken);
        let Some(start) = occupied.find(&group.window, len, group.near) else {
            return Ok(None);
        };
        match NearBlock::map(start, group.code, group.data) {
            Ok(block) => return Ok(Some(block)),
            Err(Errno(libc::EEXIST)) => {
                let step = len << ((taken.len() - reserved.len()) / 2).min(8);
                taken.push((start.saturating_sub(step), start.saturating_add(step)));
            }
            Err(errno) => return Err(kernel("map near memory", errno)),
        }
    }
    Ok(None)
}
