//! Merging leaves: into contiguous groups where they stand, and into a larger leaf in the place of their table.

use crate::claim::Flush;
use crate::format::{self, Format, Grain};
use crate::lines::Lines;
use crate::rows::{Group, window};
use crate::table::PageTable;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{Gather, HwError, Transition};
use iommu_hal::mem::Frame;
use iommu_hal::{Hal, barrier};

/// Tables that one flush is for, at most.
const BATCH: usize = 16;

/// A table in whose place a leaf goes, and that hardware may still walk.
struct Folded<'t, H: Hal> {
    /// The table that led to it, and the level of that.
    above: Frame<'t, H>,
    level: u8,
    index: usize,
    /// What stood there.
    link: u64,
    /// What goes there, clean.
    leaf: u64,
}

struct Merger<'t, 'u, H: Hal, F: Format> {
    table: &'t PageTable<H, F>,
    range: IovaRange,
    unit: &'u mut dyn Flush,
    /// Entries may be replaced while hardware uses them.
    live: bool,
    transition: Transition,
    /// What the next flush is for.
    gather: Gather,
    lines: Lines<'t, H, F>,
    folded: [Option<Folded<'t, H>>; BATCH],
    waiting: usize,
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// See [`Claim::merge`](crate::Claim::merge).
    pub(crate) fn merge(&self, range: IovaRange, unit: &mut dyn Flush) -> Result<Transition, HwError> {
        self.make_up(unit)?;
        let mut merger = Merger {
            table: self,
            range,
            unit,
            live: F::resizes_live(self.options),
            transition: Transition::Hitless,
            gather: Gather::new(),
            lines: Lines::new(),
            folded: [const { None }; BATCH],
            waiting: 0,
        };
        let (root, top) = (self.root_frame(), self.top());
        let merged = merger.merge_below(&root, top, Iova::new(0)).and_then(|()| merger.group(root, top, Iova::new(0)));
        let settled = merger.settle();
        merged.and(settled).map(|()| merger.transition)
    }

    /// The leaf that maps what all entries of `table`, of `level`, map, if there is one; clean.
    fn as_one_leaf(&self, table: &Frame<'_, H>, level: u8) -> Option<u64> {
        let larger = self.grain.size(level + 1);
        let first = table.load(0);
        if !self.geometry().page_sizes.contains(larger) || !self.maps_aligned(first, level, larger) {
            return None;
        }
        let phys = F::leaf_address(first, level);
        let leaf = |grouped| self.leaf(phys, level, F::prot(first), grouped, false);
        let ignored = leaf(true) ^ leaf(false) | if self.tracked { F::DIRTY } else { 0 };
        let alike = table.matching_run(0, table.entries(), first, format::step::<F>(self.grain, level), ignored);
        (alike == table.entries()).then(|| self.leaf(phys, level + 1, F::prot(first), false, false))
    }

    /// Whether `entry` of `level` is a leaf that maps memory aligned to `size`.
    fn maps_aligned(&self, entry: u64, level: u8, size: u64) -> bool {
        format::is_leaf::<F>(entry, level) && F::leaf_address(entry, level).is_aligned(size)
    }
}

impl<'t, H: Hal, F: Format> Merger<'t, '_, H, F> {
    /// Merges what hangs below `table`, of `level`, which translates what follows `base`: from the bottom up.
    fn merge_below(&mut self, table: &Frame<'t, H>, level: u8, base: Iova) -> Result<(), HwError> {
        if level == 0 {
            return Ok(());
        }
        let size = self.table.grain.size(level);
        for index in window(self.table.grain, table.entries(), level, base, self.range) {
            let entry = table.follow(index);
            if !format::is_link::<F>(entry, level) {
                continue;
            }
            let iova = base.wrapping_add(index as u64 * size);
            let below = self.table.frame(F::table_address(entry));
            self.merge_below(&below, level - 1, iova)?;
            let all = IovaRange::from_len(iova, size).filter(|all| self.range.covers(*all));
            match all.zip(self.table.as_one_leaf(&below, level - 1)) {
                Some((all, leaf)) => self.fold(table, level, index, all, leaf)?,
                None => self.group(below, level - 1, iova)?,
            }
        }
        Ok(())
    }

    /// Makes contiguous groups in `table`, as far as they lie in the range.
    fn group(&mut self, table: Frame<'t, H>, level: u8, base: Iova) -> Result<(), HwError> {
        let count = 1 << self.table.grain.group_bits(level);
        let size = self.table.grain.size(level) << self.table.grain.group_bits(level);
        if count == 1 || !self.table.geometry().page_sizes.contains(size) {
            return Ok(());
        }
        let entries = window(self.table.grain, table.entries(), level, base, self.range);
        for index in (entries.start & !(count - 1)..entries.end).step_by(count) {
            let entry = table.load(index);
            let iova = base.wrapping_add(index as u64 * self.table.grain.size(level));
            let group = Group { table, level, index, count, iova, entry };
            if group.is_in(self.table.grain, self.range)
                && self.table.maps_aligned(entry, level, size)
                && !F::is_grouped(entry)
                && self.table.alike(&table, level, index, count, entry) == count
            {
                self.make_group(&group)?;
            }
        }
        Ok(())
    }

    /// Makes a contiguous group of leaves side by side.
    fn make_group(&mut self, group: &Group<'t, H>) -> Result<(), HwError> {
        let grouped = |leaf| self.table.remade(leaf, group.level, F::prot(leaf), true);
        if self.live {
            // A table that may still be put back must not come to stand inside of a group.
            let waits = |folded: &Folded<'_, H>| {
                folded.above.phys() == group.table.phys() && group.entries().contains(&folded.index)
            };
            if self.folded.iter().flatten().any(waits) {
                self.settle()?;
            }
            group.note(self.table.grain, &mut self.gather);
            self.lines.add(group.table, group.level, group.index, group.count);
            return group.entries().try_for_each(|index| self.table.update(&group.table, index, grouped));
        }
        self.transition = Transition::ThroughBlocked;
        let old = self.table.take_group(group);
        let mut gather = Gather::new();
        group.note(self.table.grain, &mut gather);
        let flushed = self.table.confirm(self.unit, &gather);
        self.table.put_group(group, if flushed.is_ok() { grouped(old) } else { old });
        flushed
    }

    /// Puts `leaf` in the place of the link at `index` of `table` to a table that maps the same, `all` that the link
    /// translates; or makes place for it, where the link has to be forgotten first.
    fn fold(
        &mut self,
        table: &Frame<'t, H>,
        level: u8,
        index: usize,
        all: IovaRange,
        leaf: u64,
    ) -> Result<(), HwError> {
        // The entries of a table that goes are final.
        if level > 1 || self.waiting == BATCH {
            self.settle()?;
        }
        barrier::before_device_store();
        let link = table.swap(index, if self.live { leaf } else { 0 });
        self.gather.add_table(all, level - 1);
        self.gather.add_leaves(all, level - 1);
        self.lines.add(*table, level, index, 1);
        if let Some(place) = self.folded.get_mut(self.waiting) {
            *place = Some(Folded { above: *table, level, index, link, leaf });
            self.waiting += 1;
        }
        if self.live {
            return Ok(());
        }
        self.transition = Transition::ThroughBlocked;
        self.settle()
    }

    /// Has the unit forget what was changed, and gives the tables back that are no longer in use; or puts them in again
    /// where the unit fails.
    fn settle(&mut self) -> Result<(), HwError> {
        core::mem::replace(&mut self.lines, Lines::new()).finish();
        if self.gather.is_empty() {
            return Ok(());
        }
        let flushed = self.table.confirm(self.unit, &self.gather);
        let mut settled = flushed;
        let folded = core::mem::take(&mut self.waiting);
        for folded in self.folded.iter_mut().filter_map(Option::take) {
            let done = match flushed {
                Ok(()) => self.table.let_go(&folded, self.live, self.gather.ticket()),
                Err(_) => self.table.put_back(&folded),
            };
            settled = settled.and(done);
        }
        if flushed.is_ok() && folded != 0 {
            // SAFETY: hardware has just confirmed it.
            unsafe { self.table.free_gathered(&mut self.gather) };
        }
        self.gather.clear();
        settled
    }
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Gives up a table that hardware has forgotten. Up to then it may have noted writes there.
    fn let_go(&self, folded: &Folded<'_, H>, live: bool, ticket: u64) -> Result<(), HwError> {
        let Folded { above, index, link, leaf, .. } = folded;
        let below = self.frame(F::table_address(*link));
        let dirty = self.any_dirty(&below, 0..below.entries());
        let done = if !live {
            above.publish(*index, if dirty { F::dirtied(*leaf) } else { *leaf });
            Ok(())
        } else if dirty {
            self.update(above, *index, F::dirtied)
        } else {
            Ok(())
        };
        self.retire(&below, ticket);
        done
    }

    /// Leads to the table again.
    fn put_back(&self, folded: &Folded<'_, H>) -> Result<(), HwError> {
        let Folded { above, level, index, link, .. } = folded;
        let leaf = above.swap(*index, *link);
        above.clean(*index, 1);
        if format::is_present::<F>(leaf) && self.is_dirty(leaf) {
            let below = self.frame(F::table_address(*link));
            return self.dirty_all(&below, level - 1, 0..below.entries());
        }
        Ok(())
    }
}
