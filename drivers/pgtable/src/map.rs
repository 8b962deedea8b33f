//! Mapping: look first, allocate second, write last.
//!
//! Everything that can fail does so before the first store of a leaf. What one call maps is cut into [pieces](Piece),
//! and each is looked at and written by a walk of its own from the root: tables are only ever put in on the way of an
//! address by whoever has a claim on it, or by a neighbour, and taken out only by whoever has the claim on all that they
//! translate.

use crate::claim::Flush;
use crate::format::{self, Attributes, Format, Grain, MOST_LEVELS};
use crate::lines::Lines;
use crate::removal::Removal;
use crate::retired::{self, Chain};
use crate::runs::{Piece, Runs};
use crate::sizes;
use crate::table::PageTable;
use crate::walk::{Last, Spot};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent, total_len};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::mem::Frame;
use iommu_hal::{Hal, barrier};

/// What [`PageTable::map`] needs before it may write.
struct Plan {
    /// Tables to make.
    missing: usize,
    /// For each level the highest table counted as missing, by the address bits above what it translates.
    counted: [u64; MOST_LEVELS],
    /// Tables without a leaf stand where leaves go.
    in_the_way: bool,
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// See [`Claim::map`](crate::Claim::map).
    #[inline(never)]
    pub(crate) fn map(
        &self,
        claim: IovaRange,
        iova: Iova,
        extents: &[PhysExtent],
        prot: Prot,
        unit: &mut dyn Flush,
    ) -> Result<(), HwError> {
        if let [extent] = extents
            && F::can_express(prot, self.options)
            && self.is_coherent()
            && self.is_confirmed()
            && self.is_sound(claim, iova, *extent)
            && self.map_run(iova, *extent, prot)
        {
            return Ok(());
        }
        self.map_pieces(claim, iova, extents, prot, unit)
    }

    /// Whether nothing is wrong with a run, as far as can be known without a look at the tables.
    #[inline]
    fn is_sound(&self, claim: IovaRange, iova: Iova, extent: PhysExtent) -> bool {
        let geometry = self.geometry();
        let (at, phys, len) = (iova.get(), extent.start.get(), extent.len);
        let aligned = (at | phys | len) & (self.grain.page() - 1) == 0;
        // Of a length of 0 the last address lies below the first: `rest` is all ones and either sum wraps.
        let rest = len.wrapping_sub(1);
        let (Some(last), Some(phys_last)) = (at.checked_add(rest), phys.checked_add(rest)) else { return false };
        let inside = claim.start() <= iova && last <= claim.last().get();
        aligned && len != 0 && inside && phys_last >> geometry.output_bits == 0
    }

    /// Maps a sound run where it is one piece, its table is there and all of its entries are free, as they are most of
    /// the time. Otherwise nothing is done.
    #[inline]
    fn map_run(&self, iova: Iova, extent: PhysExtent, prot: Prot) -> bool {
        if extent.len >= self.second_size {
            return self.map_large(iova, extent, prot);
        }
        let at = iova.get();
        let table = self.grain.page_bits() + self.grain.index_bits();
        let count = (extent.len >> self.grain.page_bits()) as usize;
        let piece = Piece { iova, phys: extent.start, level: 0, grouped: false, count };
        at >> table == (at + (extent.len - 1)) >> table && self.map_warm(&piece, prot)
    }

    /// As [`map_run`](Self::map_run), for a run as long as a leaf that is not of the smallest size.
    #[inline(never)]
    fn map_large(&self, iova: Iova, extent: PhysExtent, prot: Prot) -> bool {
        let (at, phys, len) = (iova.get(), extent.start.get(), extent.len);
        let sizes = self.geometry().page_sizes;
        let bits = sizes::largest(sizes, at | phys, len);
        let (level, group) = sizes::split(self.grain, bits);
        let shift = self.grain.shift(level);
        let table = shift + self.grain.index_bits();
        // Sizes that a part of the run could have, in the same table.
        let larger = sizes.mask() & ((1 << table) - 1) & !((2 << bits) - 1);
        let alike = len & ((1 << bits) - 1) == 0 && (larger == 0 || len < larger & larger.wrapping_neg());
        let count = (len >> shift) as usize;
        let piece = Piece { iova, phys: extent.start, level, grouped: group != 0, count };
        alike && at >> table == (at + (len - 1)) >> table && self.map_warm(&piece, prot)
    }

    /// Maps one piece where its table is there and all of its entries are free. Otherwise nothing is done.
    #[inline(always)]
    fn map_warm(&self, piece: &Piece, prot: Prot) -> bool {
        let Spot { table, level, index, .. } = self.walk(piece.iova, piece.level);
        if level != piece.level || Self::any_present(&table, index, piece.count) {
            return false;
        }
        self.write(&table, index, piece, prot);
        barrier::before_device_store();
        true
    }

    /// Stores the leaves of a piece.
    #[inline]
    fn write(&self, table: &Frame<'_, H>, index: usize, piece: &Piece, prot: Prot) {
        let attributes = Attributes { prot, grouped: piece.grouped, tracked: self.tracked };
        let leaf = F::leaf(piece.phys, piece.level, attributes, self.options);
        self.store_leaves(table, piece.level, index, piece.count, leaf);
    }

    /// Everything that can be known without a look at the tables.
    fn check_map(&self, claim: IovaRange, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        let len = total_len(extents).unwrap_or(u64::MAX);
        if len == 0 {
            return Ok(());
        }
        if !F::can_express(prot, self.options) {
            return Err(HwError::Protection(prot));
        }
        check_aligned(self.grain, iova.get())?;
        let bits = self.geometry().output_bits;
        for extent in extents.iter().filter(|extent| extent.len != 0) {
            check_aligned(self.grain, extent.start.get())?;
            check_aligned(self.grain, extent.len)?;
            let last = extent.last().unwrap_or(PhysAddr::new(u64::MAX));
            if last.get() >> bits != 0 {
                return Err(HwError::OutputTooWide { phys: last, bits });
            }
        }
        match IovaRange::from_len(iova, len) {
            Some(range) if claim.covers(range) => Ok(()),
            _ => Err(HwError::OutOfRange { iova, len }),
        }
    }

    /// Maps whatever there is, whatever stands in the tables.
    #[inline(never)]
    fn map_pieces(
        &self,
        claim: IovaRange,
        iova: Iova,
        extents: &[PhysExtent],
        prot: Prot,
        unit: &mut dyn Flush,
    ) -> Result<(), HwError> {
        self.check_map(claim, iova, extents, prot)?;
        self.make_up(unit)?;
        let runs = &Runs::new(iova, extents, self.geometry().page_sizes);
        let mut plan = Plan { missing: 0, counted: [u64::MAX; MOST_LEVELS], in_the_way: false };
        self.for_each_piece(runs, |piece, spot| self.plan_piece(&mut plan, piece, spot))?;
        let spare = self.alloc_chain(plan.missing)?;
        if plan.in_the_way
            && let Err(error) = self.clear_the_way(runs, unit)
        {
            self.free_chain(spare);
            return Err(error);
        }
        let mut writer = Writer { table: self, spare, lines: Lines::new() };
        let mut rest = runs.clone();
        let mut last: Option<Last<'_, H>> = None;
        while let Some(piece) = rest.next(self.grain) {
            let table = match &last {
                Some(last) if last.holds(self.grain, piece.iova, piece.level) => last.table,
                _ => writer.table_for(piece.iova, piece.level)?,
            };
            let index = self.index(&table, piece.iova, piece.level);
            self.write(&table, index, &piece, prot);
            writer.lines.add(table, piece.level, index, piece.count);
            last = Some(Last { table, iova: piece.iova, level: piece.level });
        }
        writer.lines.finish();
        // Neighbours may have put in what was missing.
        self.free_chain(writer.spare);
        barrier::before_device_store();
        Ok(())
    }

    /// Calls `visit` with each piece and where the walk to it ends.
    fn for_each_piece<'t>(
        &'t self,
        runs: &Runs<'_>,
        mut visit: impl FnMut(&Piece, Spot<'t, H>) -> Result<(), HwError>,
    ) -> Result<(), HwError> {
        let mut rest = runs.clone();
        let mut last: Option<Last<'_, H>> = None;
        while let Some(piece) = rest.next(self.grain) {
            let spot = match &last {
                Some(last) if last.holds(self.grain, piece.iova, piece.level) => self.spot(last, piece.iova),
                _ => self.walk(piece.iova, piece.level),
            };
            let Spot { table, level, .. } = spot;
            visit(&piece, spot)?;
            last = (level == piece.level).then_some(Last { table, iova: piece.iova, level });
        }
        Ok(())
    }

    /// Looks at what stands where a piece goes.
    fn plan_piece(&self, plan: &mut Plan, piece: &Piece, spot: Spot<'_, H>) -> Result<(), HwError> {
        let Spot { table, level, index, entry } = spot;
        if level != piece.level {
            if format::is_present::<F>(entry) {
                return Err(HwError::AlreadyMapped { iova: piece.iova });
            }
            for level in piece.level..level {
                let above = piece.iova.get() >> (self.grain.shift(level) + self.grain.index_bits());
                if let Some(counted) = plan.counted.get_mut(usize::from(level)).filter(|counted| **counted != above) {
                    *counted = above;
                    plan.missing += 1;
                }
            }
        } else if Self::any_present(&table, index, piece.count) {
            let range = IovaRange::from_len(piece.iova, piece.len(self.grain));
            if let Some(leaf) = range.and_then(|range| self.leaves(range).next()) {
                return Err(HwError::AlreadyMapped { iova: leaf.iova.max(piece.iova) });
            }
            plan.in_the_way = true;
        }
        Ok(())
    }

    /// Takes out the tables without a leaf that stand where leaves go, and waits until hardware has forgotten them: a
    /// live entry that leads to a table does not become a leaf in one step in every format, and a walk that goes on in
    /// the old table would refuse what is mapped.
    #[cold]
    fn clear_the_way(&self, runs: &Runs<'_>, unit: &mut dyn Flush) -> Result<(), HwError> {
        let mut gather = Gather::new();
        let mut lines = Lines::<H, F>::new();
        self.for_each_piece(runs, |piece, Spot { table, level, index: first, .. }| {
            if level != piece.level {
                return Ok(());
            }
            for index in first..first + piece.count {
                if format::is_present::<F>(table.load(index)) {
                    let iova = piece.iova.wrapping_add((index - first) as u64 * self.grain.size(level));
                    self.take_out(&table, index, level, iova, &mut Removal::new(&mut gather, &mut |_| ()));
                    lines.add(table, level, index, 1);
                }
            }
            Ok(())
        })?;
        lines.finish();
        self.confirm(unit, &gather)?;
        // SAFETY: hardware has just confirmed it.
        unsafe { self.free_gathered(&mut gather) };
        Ok(())
    }
}

/// Puts in tables and leaves.
struct Writer<'t, H: Hal, F: Format> {
    table: &'t PageTable<H, F>,
    /// Frames for what is missing.
    spare: Chain,
    lines: Lines<'t, H, F>,
}

impl<'t, H: Hal, F: Format> Writer<'t, H, F> {
    /// The table of `level` that translates `iova`. What is missing on the way is put in, empty.
    fn table_for(&mut self, iova: Iova, level: u8) -> Result<Frame<'t, H>, HwError> {
        let mut table = self.table.root_frame();
        for at in (level + 1..=self.table.top()).rev() {
            let index = self.table.index(&table, iova, at);
            let mut entry = table.follow(index);
            if !format::is_present::<F>(entry) {
                entry = self.put_in(&table, index, entry)?;
            }
            if entry & F::VISIBLE == 0 {
                // This call's, or that of a neighbour who may not have come to clean it.
                self.lines.add(table, at, index, 1);
            }
            table = self.table.frame(F::table_address(entry));
        }
        Ok(table)
    }

    /// Puts an empty table in where `old`, not present, stands, unless a neighbour comes first; returns what leads to
    /// the one or the other.
    fn put_in(&mut self, table: &Frame<'t, H>, index: usize, old: u64) -> Result<u64, HwError> {
        // The plan counted every table that was missing, and none goes while the claim is held.
        let head = self.spare.head().ok_or(HwError::OutOfMemory)?;
        let frame = self.table.frame(head);
        self.spare.pop(&frame);
        retired::wipe(&frame);
        let link = F::table(head, self.table.tracked, self.table.options);
        match table.replace(index, old, link) {
            Ok(()) => {
                self.table.count_in();
                Ok(link)
            }
            Err(other) => {
                self.spare.push(&frame);
                Ok(other)
            }
        }
    }
}

/// Checks that an address or length is a multiple of the smallest page.
#[inline]
pub(crate) fn check_aligned<G: Grain>(grain: G, value: u64) -> Result<(), HwError> {
    let align = grain.page();
    if value & (align - 1) == 0 { Ok(()) } else { Err(HwError::Misaligned { value, align }) }
}
