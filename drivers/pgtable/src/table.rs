//! The table itself: making, reading and taking down. [`map`](crate::map), [`unmap`](crate::unmap) and their neighbours
//! change it.

use crate::claim::Claim;
use crate::confirm::Owed;
use crate::format::{self, Format, Grain};
use crate::retired::{Chain, Retired};
use crate::sizes;
use crate::walk::Spot;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};
use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_core::hw::{Gather, Geometry, HwError, PageSizes, Translation};
use iommu_hal::mem::Frame;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};

/// What a table is to be, as the unit that will walk it demands.
#[derive(Clone, Copy, Debug)]
pub struct Config<F: Format> {
    /// Levels from the root down to the tables of the smallest pages, one of [`Format::LEVELS`]. Where hardware
    /// [tells the root's level by the width](Format::ROOT_BY_WIDTH) of addresses, the one that goes with `input_bits`.
    pub levels: u8,
    /// Leaf sizes that the unit takes, those of contiguous groups among them. The smallest page of the format must be
    /// there; sizes that the format lacks are left out.
    pub page_sizes: PageSizes,
    /// I/O virtual addresses lie below 2^`input_bits`. More than the levels translate is cut to what they do. Where it
    /// is more than one root table translates, the format concatenates up to 16 of them.
    pub input_bits: u8,
    /// Memory that is mapped lies below 2^`output_bits`. More than entries hold is cut to what they do.
    pub output_bits: u8,
    /// How the unit reads the tables.
    pub memory: WalkerMemory,
    /// The frames of the tables lie below 2^`address_bits`. More than entries hold is cut to what they do.
    pub address_bits: u8,
    /// Leaves start clean, and the unit notes in them what is written through. Needs walkers that snoop. Where it is not
    /// set, hardware that always updates entries finds them as it would make them; where that is up to the embedder
    /// (SSADE on VT-d's second stage, HD on Arm), it stays off.
    pub track_dirty: bool,
    /// What the format leaves open.
    pub options: F::Options,
}

/// A page table: the root and all that hangs below it.
///
/// Whoever changes it holds a [`Claim`] on the addresses concerned. Reading needs none, but see [`PageTable::claim`].
///
/// Dropping it gives every frame back, so it must not be dropped before hardware was cut off from it and has confirmed
/// that; where it never did, [`PageTable::leak`] is the way.
pub struct PageTable<H: Hal, F: Format> {
    pub(crate) hal: H,
    pub(crate) root: PhysAddr,
    pub(crate) root_request: FrameRequest,
    pub(crate) root_entries: usize,
    pub(crate) levels: u8,
    pub(crate) geometry: Geometry,
    /// The second-smallest size of leaves in bytes; `u64::MAX` where there is none.
    pub(crate) second_size: u64,
    pub(crate) request: FrameRequest,
    pub(crate) grain: F::Grain,
    pub(crate) options: F::Options,
    pub(crate) tracked: bool,
    /// The walker snoops, and writes nothing that is to be kept: a plain store takes a leaf out.
    pub(crate) plain: bool,
    tables: AtomicUsize,
    /// Flushes inside of operations that failed.
    pub(crate) owed: Owed,
    pub(crate) retired: Retired,
    format: PhantomData<F>,
}

/// log2 of the 4 KiB frames that `bytes` take.
fn order(bytes: u64) -> u8 {
    bytes.div_ceil(4096).next_power_of_two().trailing_zeros() as u8
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Makes a table that maps nothing.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where `config` demands what the format does not have: a number of levels, one that does not
    /// go with the width, no smallest pages, no address bits above those of a page. [`HwError::Unsupported`] for dirty
    /// tracking by walkers that do not snoop. [`HwError::OutOfMemory`].
    pub fn new(hal: H, config: Config<F>) -> Result<Self, HwError> {
        let Config { levels, .. } = config;
        let grain = F::grain(config.options);
        if !F::LEVELS.contains(&levels) {
            return Err(HwError::Hardware("a number of page-table levels that the format does not have"));
        }
        if !config.page_sizes.contains(grain.page()) {
            return Err(HwError::Hardware("page sizes without the format's smallest"));
        }
        if config.track_dirty && config.memory == WalkerMemory::NonCoherent {
            return Err(HwError::Unsupported("dirty tracking by walkers that do not snoop"));
        }
        let input_bits = config.input_bits.min(F::input_bits(levels, config.options));
        let output_bits = config.output_bits.min(F::OUTPUT_BITS);
        let address_bits = config.address_bits.min(F::OUTPUT_BITS);
        if u32::from(input_bits.min(output_bits).min(address_bits)) < grain.page_bits() {
            return Err(HwError::Hardware("an address width below that of a page"));
        }
        let aperture = IovaRange::from_len(Iova::new(0), 1 << input_bits).unwrap_or(IovaRange::FULL);
        let page_sizes = PageSizes::new(config.page_sizes.mask() & sizes::known(grain, levels));
        if F::ROOT_BY_WIDTH && u32::from(input_bits) <= grain.shift(levels - 1) {
            return Err(HwError::Hardware("more page-table levels than the address width asks for"));
        }
        let root_bits = u32::from(input_bits).saturating_sub(grain.shift(levels - 1));
        let single = FrameRequest::single(address_bits, config.memory);
        let request = FrameRequest { order: order(8 << grain.index_bits()), ..single };
        let root_request = FrameRequest { order: order(8 << root_bits), ..single };
        let root = hal.alloc_frames(root_request).ok_or(HwError::OutOfMemory)?;
        Ok(Self {
            hal,
            root,
            root_request,
            root_entries: root_request.len() / 8,
            levels,
            geometry: Geometry { aperture, page_sizes, output_bits },
            second_size: sizes::next_larger(page_sizes, grain.page_bits()).map_or(u64::MAX, |bits| 1 << bits),
            request,
            grain,
            options: config.options,
            tracked: config.track_dirty,
            plain: config.memory == WalkerMemory::Coherent && !config.track_dirty,
            tables: AtomicUsize::new(0),
            owed: Owed::default(),
            retired: Retired::default(),
            format: PhantomData,
        })
    }

    /// Physical address of the root, for the structure that points hardware at the table.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Levels from the root down to the tables of the smallest pages.
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// The addresses that the table takes and gives.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Tables that hang in the tree, the root (however many are concatenated there) counted as one;
    /// [retired](PageTable::retired) ones no longer count.
    pub fn tables(&self) -> usize {
        self.tables.load(Ordering::Relaxed) + 1
    }

    /// Bytes of memory that the tables take, retired ones included.
    pub fn bytes(&self) -> usize {
        let below_root = self.tables.load(Ordering::Relaxed) + self.retired();
        self.root_request.len() + below_root * self.request.len()
    }

    /// Tables that were taken out and that wait for the flush of their gather.
    pub fn retired(&self) -> usize {
        self.retired.count()
    }

    /// The right to change all of it.
    #[inline]
    pub fn exclusive(&mut self) -> Claim<'_, H, F> {
        Claim::new(self, self.geometry.aperture)
    }

    /// The right to change what of `range` lies in the aperture, while others change other ranges. `None` where that is
    /// nothing.
    ///
    /// # Safety
    ///
    /// While the claim exists no other one overlaps its range, and nobody reads addresses in the range (translates them,
    /// iterates over them, or asks for their dirty state) but through the claim.
    #[inline]
    pub unsafe fn claim(&self, range: IovaRange) -> Option<Claim<'_, H, F>> {
        let last = range.last().min(self.geometry.aperture.last());
        Some(Claim::new(self, IovaRange::new(range.start(), last)?))
    }

    /// As [`PageTable::claim`], for a range that lies in the aperture.
    ///
    /// # Safety
    ///
    /// As there.
    #[inline]
    pub(crate) unsafe fn claim_inside(&self, range: IovaRange) -> Claim<'_, H, F> {
        Claim::new(self, range)
    }

    /// Where the table sends `iova`, if anywhere.
    #[inline]
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        if !self.geometry.aperture.contains(iova) {
            return None;
        }
        let Spot { level, entry, .. } = self.walk(iova, 0);
        if !format::is_present::<F>(entry) {
            return None;
        }
        let page_size = 1 << format::leaf_bits::<F>(self.grain, entry, level);
        let inside = iova.get() & (self.grain.size(level) - 1);
        let phys = F::leaf_address(entry, level).wrapping_add(inside);
        Some(Translation { phys, prot: F::prot(entry), page_size })
    }

    /// Gives back the frames of the tables that operations with `gather` took out of this table. Looks at every frame
    /// that waits, whichever gather it waits for, and waits for another CPU that does the same: not for an interrupt
    /// handler that may have come in between.
    ///
    /// # Safety
    ///
    /// Hardware has confirmed the invalidation of all that the gather holds.
    pub unsafe fn free_gathered(&self, gather: &mut Gather) {
        if self.retired() != 0 {
            let view = |phys| self.frame(phys);
            // SAFETY: nothing leads to a retired frame, and the caller promises that hardware has forgotten it.
            let free = |phys| unsafe { self.free_frame(phys) };
            self.retired.take(&self.hal, gather.ticket(), view, free);
        }
    }

    /// Keeps every frame allocated for ever: for a table that hardware, out of control, may still walk.
    pub fn leak(self) {
        core::mem::forget(self);
    }

    /// Whether the walker snoops.
    #[inline]
    pub(crate) fn is_coherent(&self) -> bool {
        self.request.memory == WalkerMemory::Coherent
    }

    /// Allocates `count` tables as a chain, or none at all.
    pub(crate) fn alloc_chain(&self, count: usize) -> Result<Chain, HwError> {
        let mut spare = Chain::default();
        for _ in 0..count {
            let Some(phys) = self.hal.alloc_frames(self.request) else {
                self.free_chain(spare);
                return Err(HwError::OutOfMemory);
            };
            spare.push(&self.frame(phys));
        }
        Ok(spare)
    }

    /// Frees every frame of a chain that hardware cannot reach.
    pub(crate) fn free_chain(&self, mut frames: Chain) {
        while let Some(head) = frames.head() {
            frames.pop(&self.frame(head));
            // SAFETY: whoever has the chain knows that hardware never reached the frames, or has forgotten them.
            unsafe { self.free_frame(head) };
        }
    }

    /// Notes that a table was put in.
    pub(crate) fn count_in(&self) {
        self.tables.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts a table that nothing leads to any more with those that wait for a flush.
    pub(crate) fn retire(&self, table: &Frame<'_, H>, ticket: u64) {
        self.tables.fetch_sub(1, Ordering::Relaxed);
        self.retired.push(table, ticket);
    }

    /// Frees one table below the root.
    ///
    /// # Safety
    ///
    /// Nothing leads to it any more, nobody has a view of it, and hardware cannot reach it.
    unsafe fn free_frame(&self, phys: PhysAddr) {
        // SAFETY: the frame came from this `hal` with this request, see `frame`; the rest is the caller's promise.
        unsafe { self.hal.free_frames(phys, self.request) };
    }

    /// Frees all that hangs below a table of `level`, as deep as `level`.
    fn free_below(&self, table: &Frame<'_, H>, level: u8) {
        if level == 0 {
            return;
        }
        for entry in (0..table.entries()).map(|index| table.load(index)) {
            if format::is_link::<F>(entry, level) {
                let below = F::table_address(entry);
                self.free_below(&self.frame(below), level - 1);
                // SAFETY: the table is being dropped, which its owner does once hardware is cut off.
                unsafe { self.free_frame(below) };
            }
        }
    }
}

impl<H: Hal, F: Format> Drop for PageTable<H, F> {
    fn drop(&mut self) {
        let retired = self.retired.take_all();
        self.free_chain(retired);
        self.free_below(&self.root_frame(), self.top());
        // SAFETY: the root came from this `hal` with this request, and the table's owner drops it once hardware is cut
        // off.
        unsafe { self.hal.free_frames(self.root, self.root_request) };
    }
}

impl<H: Hal, F: Format> fmt::Debug for PageTable<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTable")
            .field("root", &self.root)
            .field("levels", &self.levels)
            .field("geometry", &self.geometry)
            .field("tables", &self.tables())
            .finish_non_exhaustive()
    }
}
