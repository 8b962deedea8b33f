//! The table itself: making, reading and taking down. [`map`](crate::map) and [`unmap`](crate::unmap) change it.

use crate::chain::Chain;
use crate::format::{self, Format};
use core::fmt;
use core::marker::PhantomData;
use iommu_core::addr::{Iova, IovaRange, PAGE_SIZE, PhysAddr};
use iommu_core::hw::{Gather, Geometry, HwError, PageSizes, Translation};
use iommu_hal::mem::{ENTRIES, Frame};
use iommu_hal::{FrameRequest, Hal, WalkerMemory};

/// What a table is to be, as the unit that will walk it demands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config<F: Format> {
    /// Levels from the root down to the 4 KiB leaves, one of [`Format::LEVELS`].
    pub levels: u8,
    /// Leaf sizes that the unit takes. 4 KiB must be among them; sizes that the format lacks are left out.
    pub page_sizes: PageSizes,
    /// I/O virtual addresses lie below 2^`input_bits`. More than the levels translate is cut to what they do.
    pub input_bits: u8,
    /// Memory that is mapped lies below 2^`output_bits`. More than entries hold is cut to what they do.
    pub output_bits: u8,
    /// How the unit reads the tables.
    pub memory: WalkerMemory,
    /// The frames of the tables lie below 2^`address_bits`. More than entries hold is cut to what they do.
    pub address_bits: u8,
    /// What the format leaves open.
    pub options: F::Options,
}

/// A page table: the root frame and all that hangs below it.
///
/// Dropping it gives every frame back, so it must not be dropped before hardware was cut off from it and has confirmed
/// that; where it never did, [`PageTable::leak`] is the way.
pub struct PageTable<H: Hal, F: Format> {
    pub(crate) hal: H,
    root: PhysAddr,
    levels: u8,
    geometry: Geometry,
    pub(crate) request: FrameRequest,
    pub(crate) options: F::Options,
    pub(crate) tables: usize,
    /// Frames that unmaps took out and no flush has freed.
    pub(crate) retired: Chain,
    format: PhantomData<F>,
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Makes a table that maps nothing.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where `config` demands what the format does not have: a number of levels, no 4 KiB pages,
    /// no address bits above those of a page. [`HwError::OutOfMemory`].
    pub fn new(hal: H, config: Config<F>) -> Result<Self, HwError> {
        if !F::LEVELS.contains(&config.levels) {
            return Err(HwError::Hardware("a number of page-table levels that the format does not have"));
        }
        if !config.page_sizes.contains(PAGE_SIZE) {
            return Err(HwError::Hardware("page sizes without 4 KiB"));
        }
        let input_bits = config.input_bits.min(F::input_bits(config.levels));
        let output_bits = config.output_bits.min(F::OUTPUT_BITS);
        let address_bits = config.address_bits.min(F::OUTPUT_BITS);
        if u32::from(input_bits.min(output_bits).min(address_bits)) < format::PAGE_BITS {
            return Err(HwError::Hardware("an address width below that of a page"));
        }
        let aperture = IovaRange::from_len(Iova::new(0), 1 << input_bits).unwrap_or(IovaRange::FULL);
        let known = (0..=F::TOP_LEAF_LEVEL.min(config.levels - 1)).fold(0, |mask, level| mask | format::size(level));
        let page_sizes = PageSizes::new(config.page_sizes.mask() & known);
        let request = FrameRequest::single(address_bits, config.memory);
        let root = hal.alloc_frames(request).ok_or(HwError::OutOfMemory)?;
        Ok(Self {
            hal,
            root,
            levels: config.levels,
            geometry: Geometry { aperture, page_sizes, output_bits },
            request,
            options: config.options,
            tables: 1,
            retired: Chain::default(),
            format: PhantomData,
        })
    }

    /// Physical address of the root frame, for the structure that points hardware at the table.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Levels from the root down to the 4 KiB leaves.
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// The addresses that the table takes and gives.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Frames of 4 KiB that the table consists of, its root included; [retired](PageTable::retired) ones no longer
    /// count.
    pub fn tables(&self) -> usize {
        self.tables
    }

    /// Frames of 4 KiB that unmaps took out and that wait for the flush of their gather.
    pub fn retired(&self) -> usize {
        self.retired.count
    }

    /// Where the table sends `iova`, if anywhere.
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        if !self.geometry.aperture.contains(iova) {
            return None;
        }
        let mut phys = self.root;
        for level in (0..self.levels).rev() {
            let entry = self.frame(phys).load(format::index(iova.get(), level));
            if !F::is_present(entry) {
                return None;
            }
            phys = F::address(entry, level);
            if F::is_leaf(entry, level) {
                let page_size = format::size(level);
                let phys = phys.wrapping_add(iova.get() & (page_size - 1));
                return Some(Translation { phys, prot: F::prot(entry), page_size });
            }
        }
        None
    }

    /// Gives back the frames of the tables that the unmaps in `gather` took out of this table.
    ///
    /// # Safety
    ///
    /// Hardware has confirmed the invalidation of all that the gather holds.
    pub unsafe fn free_gathered(&mut self, gather: &mut Gather) {
        let ticket = gather.ticket();
        let mut left = core::mem::take(&mut self.retired);
        while let Some(head) = left.head {
            let frame = self.frame(head);
            let held = left.pop(&frame);
            if held == ticket {
                self.free_frame(head);
            } else {
                // Another gather's: back, with the order of the chain reversed.
                let mut kept = self.retired;
                kept.push(&frame, held);
                self.retired = kept;
            }
        }
    }

    /// Keeps every frame allocated for ever: for a table that hardware, out of control, may still walk.
    pub fn leak(self) {
        core::mem::forget(self);
    }

    /// Level of the root.
    pub(crate) fn top(&self) -> u8 {
        self.levels - 1
    }

    /// Whether leaves of `level` may be made.
    pub(crate) fn has_leaves(&self, level: u8) -> bool {
        self.geometry.page_sizes.contains(format::size(level))
    }

    /// The view of a frame of this table.
    pub(crate) fn frame(&self, phys: PhysAddr) -> Frame<'_, H> {
        // SAFETY: `phys` is the root, or was read out of an entry that leads to a table or out of a chain. All of these
        // were written by this table only, with frames that it allocated with this request and has not freed: entries
        // that lead to a table are cleared when it is put on a chain, and a chain is followed once. Nothing else makes
        // a reference to them.
        unsafe { Frame::new(&self.hal, phys, self.request.memory) }
    }

    /// Frees every frame of a chain that hardware cannot reach.
    pub(crate) fn free_chain(&self, mut frames: Chain) {
        while let Some(head) = frames.head {
            frames.pop(&self.frame(head));
            self.free_frame(head);
        }
    }

    /// Frees one frame of this table, which nothing leads to any more and hardware cannot reach.
    fn free_frame(&self, phys: PhysAddr) {
        // SAFETY: the frame came from this `hal` with this request, see `frame`. It was never shown to hardware, or its
        // owner has promised (`free_gathered`, or by dropping the table) that hardware is cut off from it.
        unsafe { self.hal.free_frames(phys, self.request) };
    }

    /// Frees the table in the frame `phys` and all below it; as deep as `level`.
    fn free_tree(&self, phys: PhysAddr, level: u8) {
        if level != 0 {
            let frame = self.frame(phys);
            for entry in (0..ENTRIES).map(|index| frame.load(index)) {
                if F::is_present(entry) && !F::is_leaf(entry, level) {
                    self.free_tree(F::address(entry, level), level - 1);
                }
            }
        }
        self.free_frame(phys);
    }
}

impl<H: Hal, F: Format> Drop for PageTable<H, F> {
    fn drop(&mut self) {
        self.free_chain(self.retired);
        self.free_tree(self.root, self.top());
    }
}

impl<H: Hal, F: Format> fmt::Debug for PageTable<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTable")
            .field("root", &self.root)
            .field("levels", &self.levels)
            .field("geometry", &self.geometry)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}
