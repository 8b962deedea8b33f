//! Accesses through a guest's own stage 1 and the stage 2 beneath.
//!
//! In such a run every look-up without an ASID is of stage 2 alone: of an access that goes around the guest's stage 1, or of
//! the unit's own to the guest's context descriptor and tables. The latter are part of what is looked up for an access: they
//! come before its own look-up, or between this and the leaf of stage 1 (which the trace calls one of stage 3). Behind that
//! leaf comes the one of stage 2. What is cached is both as one, of the smaller size, tagged with the guest's ASID and the
//! VMID; where it is used, the permissions shown are those of stage 1.

use super::tlb::{Entry, Tag, block};
use super::trace::{Lookup, Open, Reader, Walked, translation};
use crate::dialect::Regime;
use crate::event::{Access, Span, What};

/// The granule of the demo's guests, as the trace numbers them.
const GRANULE: u64 = 1;

/// What stage 2 alone did for one access.
#[derive(Default)]
pub struct Fetch {
    /// A context descriptor was needed.
    pub context: bool,
    /// The newest look-up.
    lookup: Option<Lookup>,
    /// The leaf that its walk came to.
    walked: Option<Walked>,
    /// The leaf that the guest's leads to.
    beyond: Option<Walked>,
}

impl Fetch {
    /// What was looked up of stage 2, where nothing was of the guest's stage 1.
    pub fn refused(&self, open: &Open) -> Option<Lookup> {
        self.lookup.filter(|_| open.lookup.is_none())
    }

    /// What both stages let through, as far as stage 2 was reached.
    pub fn permits(&self, Walked { readable, writable, .. }: Walked) -> (bool, bool) {
        let beyond = |permits: fn(&Walked) -> bool| self.beyond.as_ref().is_none_or(permits);
        (readable && beyond(|leaf| leaf.readable), writable && beyond(|leaf| leaf.writable))
    }
}

impl Reader {
    /// A look-up of stage 2 alone.
    pub(super) fn fetches(&mut self, lookup: Lookup) -> Option<()> {
        let open = self.open.as_mut().filter(|open| open.walked.is_none())?;
        open.fetch.lookup = Some(lookup);
        open.fetch.walked = None;
        Some(())
    }

    /// A walk of stage 2 came to a leaf.
    pub(super) fn walked_by_stage_2(&mut self, iova: u64, leaf: Walked) -> Option<()> {
        let open = self.open.as_mut()?;
        match (&open.lookup, &open.walked) {
            (Some(lookup), Some(first)) => {
                let fits = open.fetch.beyond.is_none() && behind(first, lookup.iova)? == iova;
                fits.then(|| open.fetch.beyond = Some(leaf))
            }
            _ => {
                let fits = open.fetch.walked.is_none() && open.fetch.lookup.is_some_and(|lookup| lookup.iova == iova);
                fits.then(|| open.fetch.walked = Some(leaf))
            }
        }
    }

    /// An entry was taken in: of stage 2, which is complete with that, or of both.
    pub(super) fn inserted_of_guest(&mut self, tag: Tag, held: Span, level: u64) -> Option<()> {
        let open = self.open.as_mut().filter(|open| open.inserted.is_none())?;
        let stage_2 = tag.is_stage_2();
        let lookup = if stage_2 { open.fetch.lookup? } else { open.lookup? };
        let fits = !lookup.hit && lookup.tag == tag && (held.first..=held.last).contains(&lookup.iova);
        fits.then_some(())?;
        if stage_2 {
            let Walked { level: due, phys, readable, writable } = open.fetch.walked?;
            let entry = Entry { tag, block: held, phys, readable, writable, shown: (readable, writable) };
            return (due == level).then(|| self.tlb.insert(entry));
        }
        let (first, second) = (open.walked?, open.fetch.beyond?);
        (first.level.max(second.level) == level).then(|| open.inserted = Some((tag, held)))
    }

    /// An access has found where it leads: `to`, by what is shown as one of `stage`.
    pub(super) fn reached_memory(
        &mut self,
        line: usize,
        open: &Open,
        (iova, to): (u64, u64),
        shown: (bool, bool),
        stage: u64,
    ) -> Option<()> {
        let (lookup, entry) = match (stage, open.lookup) {
            (2, None) if !open.fetch.context => {
                let lookup = open.fetch.lookup?;
                (lookup, self.tlb.find(lookup.tag, iova, Some(to))?)
            }
            (3, Some(lookup)) if lookup.hit => (lookup, self.tlb.find(lookup.tag, iova, Some(to))?),
            (3, Some(lookup)) => {
                let ((tag, block), first, second) = (open.inserted?, open.walked?, open.fetch.beyond?);
                (behind(&second, behind(&first, iova)?)? == to).then_some(())?;
                let (readable, writable) = open.fetch.permits(first);
                let phys = to.wrapping_sub(iova - block.first);
                let entry = Entry { tag, block, phys, readable, writable, shown: (first.readable, first.writable) };
                self.tlb.insert(entry);
                (lookup, entry)
            }
            _ => return None,
        };
        (lookup.iova == iova && entry.shown == shown).then_some(())?;
        let found = translation(open.source, iova, entry, entry.tag.domain(Regime::Nested)?, lookup.hit);
        self.push(line, What::Access(Access::Translated(found)));
        Some(())
    }
}

/// Where a leaf leads from `address`.
fn behind(leaf: &Walked, address: u64) -> Option<u64> {
    Some(leaf.phys.wrapping_add(address.wrapping_sub(block(address, GRANULE, leaf.level)?.first)))
}
