//! Cutting leaves: tables of smaller ones are built where nobody sees them, and put in the place of the leaf.

use crate::claim::Flush;
use crate::format::{self, Format, Grain};
use crate::lines::Lines;
use crate::retired::{self, Chain};
use crate::rows::Group;
use crate::table::PageTable;
use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_core::hw::{Gather, HwError, PageSizes, Prot, Transition};
use iommu_hal::{Hal, barrier};

/// Most entries of a contiguous group of any format.
const MOST_IN_GROUP: usize = 128;

/// Into what leaves are cut.
#[derive(Clone, Copy)]
struct Shape {
    sizes: PageSizes,
    /// No leaf that holds an address of this
    range: IovaRange,
    /// is larger than this.
    largest: u64,
}

/// What an entry becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Leaf { grouped: bool },
    Table,
}

impl Shape {
    /// Whether there may be a leaf of `size` that holds the address `iova`.
    fn allows(&self, iova: Iova, size: u64) -> bool {
        let start = Iova::new(iova.get() & !(size - 1));
        let beside = start.wrapping_add(size - 1) < self.range.start() || self.range.last() < start;
        self.sizes.contains(size) && (size <= self.largest || beside)
    }

    /// What the entry of `level` that translates what follows `iova` becomes: as large as may be.
    fn piece<G: Grain>(&self, grain: G, level: u8, iova: Iova) -> Piece {
        let size = grain.size(level);
        let group_bits = grain.group_bits(level);
        if group_bits != 0 && self.allows(iova, size << group_bits) {
            Piece::Leaf { grouped: true }
        } else if level == 0 || self.allows(iova, size) {
            Piece::Leaf { grouped: false }
        } else {
            Piece::Table
        }
    }

    /// The tables that stand in the place of the entry of `level` that translates what follows `iova`.
    fn tables<G: Grain>(&self, grain: G, level: u8, iova: Iova) -> usize {
        let size = grain.size(level);
        match self.piece(grain, level, iova) {
            Piece::Leaf { .. } => 0,
            // Nothing hangs below the tables of the smallest pages.
            Piece::Table if level == 1 => 1,
            Piece::Table => {
                let below = size >> grain.index_bits();
                let each = |index: u64| self.tables(grain, level - 1, iova.wrapping_add(index * below));
                1 + (0..1 << grain.index_bits()).map(each).sum::<usize>()
            }
        }
    }
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// See [`Claim::cut`](crate::Claim::cut).
    pub(crate) fn cut(
        &self,
        claim: IovaRange,
        range: IovaRange,
        largest: u64,
        unit: &mut dyn Flush,
    ) -> Result<Transition, HwError> {
        let sizes = self.geometry().page_sizes;
        if !sizes.contains(largest) {
            return Err(HwError::Unsupported("leaves of a size that the table does not have"));
        }
        let shape = Shape { sizes, range, largest };
        let missing = self.plan_cut(&shape, claim)?;
        self.make_up(unit)?;
        let live = F::resizes_live(self.options);
        let spare = self.alloc_chain(missing)?;
        let mut cutter = Cutter { table: self, shape, spare, built: 0, lines: Lines::new(), gather: Gather::new() };
        let mut transition = Transition::Hitless;
        let done = self.for_each_larger(&shape, |group| {
            if live {
                return cutter.cut_live(group);
            }
            transition = Transition::ThroughBlocked;
            cutter.cut_blocked(group, unit)
        });
        let Cutter { spare, lines, gather, .. } = cutter;
        lines.finish();
        self.free_chain(spare);
        if !gather.is_empty() {
            self.confirm(unit, &gather)?;
        }
        done.map(|()| transition)
    }

    /// Calls `visit` with each leaf and contiguous group that is to be cut.
    fn for_each_larger<'t>(
        &'t self,
        shape: &Shape,
        mut visit: impl FnMut(&Group<'t, H>) -> Result<(), HwError>,
    ) -> Result<(), HwError> {
        self.for_each_row(shape.range, |row| {
            if self.grain.size(row.level) << self.grain.group_bits(row.level) <= shape.largest {
                return Ok(());
            }
            row.groups::<F>(self.grain)
                .filter(|group| group.size(self.grain) > shape.largest)
                .try_for_each(|group| visit(&group))
        })
    }

    /// Checks that all that is to be cut lies in `claim`, and returns how many tables that takes.
    fn plan_cut(&self, shape: &Shape, claim: IovaRange) -> Result<usize, HwError> {
        let mut missing = 0;
        self.for_each_larger(shape, |group| {
            let &Group { level, count, iova, .. } = group;
            if !group.is_in(self.grain, claim) {
                return Err(HwError::OutOfRange { iova, len: group.size(self.grain) });
            }
            let each = |index: usize| iova.wrapping_add(index as u64 * self.grain.size(level));
            missing += (0..count).map(|index| shape.tables(self.grain, level, each(index))).sum::<usize>();
            Ok(())
        })?;
        Ok(missing)
    }
}

/// What all entries that a leaf is cut into have in common.
#[derive(Clone, Copy)]
struct Whole {
    /// What is added to an address to get that of the memory behind.
    offset: u64,
    prot: Prot,
    dirty: bool,
}

/// Builds tables and puts them in.
struct Cutter<'t, H: Hal, F: Format> {
    table: &'t PageTable<H, F>,
    shape: Shape,
    /// Frames for them.
    spare: Chain,
    /// Tables that were made and do not hang in the tree yet.
    built: usize,
    lines: Lines<'t, H, F>,
    gather: Gather,
}

impl<'t, H: Hal, F: Format> Cutter<'t, H, F> {
    /// Cuts a group whose entries may be replaced while hardware uses them.
    fn cut_live(&mut self, group: &Group<'t, H>) -> Result<(), HwError> {
        let mut pieces = [0; MOST_IN_GROUP];
        let (pieces, dirty) = self.pieces(group, &mut pieces)?;
        barrier::before_device_store();
        let mut late = false;
        for (index, piece) in group.entries().zip(pieces) {
            // In one step: hardware notes a write before, or in the piece.
            late |= self.table.is_dirty(group.table.swap(index, *piece));
        }
        self.put_in();
        self.lines.add(group.table, group.level, group.index, group.count);
        group.note(self.table.grain, &mut self.gather);
        self.dirty_late(group, late && !dirty)
    }

    /// Cuts a group that has to be taken out first.
    fn cut_blocked(&mut self, group: &Group<'t, H>, unit: &mut dyn Flush) -> Result<(), HwError> {
        let mut pieces = [0; MOST_IN_GROUP];
        let (pieces, dirty) = self.pieces(group, &mut pieces)?;
        let old = self.table.take_group(group);
        let mut gather = Gather::new();
        group.note(self.table.grain, &mut gather);
        if let Err(error) = self.table.confirm(unit, &gather) {
            self.table.put_group(group, old);
            self.take_apart(group.level, pieces);
            return Err(error);
        }
        barrier::before_device_store();
        for (index, piece) in group.entries().zip(pieces) {
            group.table.store(index, *piece);
        }
        self.put_in();
        group.table.clean(group.index, group.count);
        self.dirty_late(group, self.table.is_dirty(old) && !dirty)
    }

    /// Makes the pieces dirty that stand in the place of a group, where a write to that was noted while they were made.
    /// Nobody has asked for their state yet.
    fn dirty_late(&self, group: &Group<'t, H>, late: bool) -> Result<(), HwError> {
        if late { self.table.dirty_all(&group.table, group.level, group.entries()) } else { Ok(()) }
    }

    /// Makes, in the first of `pieces`, what the entries of a group become. Returns them, and whether they are dirty.
    fn pieces<'p>(&mut self, group: &Group<'t, H>, pieces: &'p mut [u64]) -> Result<(&'p [u64], bool), HwError> {
        let &Group { table, level, count, iova, entry, .. } = group;
        let Some(pieces) = pieces.get_mut(..count) else {
            return Err(HwError::Unsupported("contiguous groups that large"));
        };
        let whole = Whole {
            offset: F::leaf_address(entry, level).get().wrapping_sub(iova.get()),
            prot: F::prot(entry),
            dirty: self.table.any_dirty(&table, group.entries()),
        };
        let mut at = iova;
        let mut made = Ok(());
        for piece in pieces.iter_mut() {
            made = self.make(level, at, whole).map(|entry| *piece = entry);
            if made.is_err() {
                break;
            }
            at = at.wrapping_add(self.table.grain.size(level));
        }
        if let Err(error) = made {
            self.take_apart(level, pieces);
            return Err(error);
        }
        Ok((pieces, whole.dirty))
    }

    /// Makes the entry of `level` that translates what follows `iova`, with all that hangs below it.
    fn make(&mut self, level: u8, iova: Iova, whole: Whole) -> Result<u64, HwError> {
        if let Piece::Leaf { grouped } = self.shape.piece(self.table.grain, level, iova) {
            let phys = PhysAddr::new(iova.get().wrapping_add(whole.offset));
            return Ok(self.table.leaf(phys, level, whole.prot, grouped, whole.dirty));
        }
        // The plan counted every table, and nobody else has changed what it looked at.
        let head = self.spare.head().ok_or(HwError::OutOfMemory)?;
        let frame = self.table.frame(head);
        self.spare.pop(&frame);
        retired::wipe(&frame);
        self.built += 1;
        let link = F::table(head, self.table.tracked, self.table.options);
        let size = self.table.grain.size(level - 1);
        for index in 0..frame.entries() {
            match self.make(level - 1, iova.wrapping_add(index as u64 * size), whole) {
                Ok(entry) => frame.store(index, entry),
                Err(error) => {
                    self.take_apart(level, &[link]);
                    return Err(error);
                }
            }
        }
        if self.table.is_coherent() {
            return Ok(link);
        }
        frame.clean(0, frame.entries());
        // Nobody comes past the link before it is visible itself: all that it translates is in the claim.
        Ok(link | F::VISIBLE)
    }

    /// The tables that were made hang in the tree now.
    fn put_in(&mut self) {
        for _ in 0..core::mem::take(&mut self.built) {
            self.table.count_in();
        }
    }

    /// Gives back the tables that hang below entries of `level` that were made and not put in.
    fn take_apart(&mut self, level: u8, entries: &[u64]) {
        for entry in entries.iter().copied().filter(|entry| format::is_link::<F>(*entry, level)) {
            let frame = self.table.frame(F::table_address(entry));
            for index in 0..frame.entries() {
                self.take_apart(level - 1, &[frame.load(index)]);
            }
            self.spare.push(&frame);
            self.built -= 1;
        }
    }
}
