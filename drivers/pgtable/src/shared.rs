//! A table that several CPUs change at once, whatever ranges they come with.

use crate::claim::{Claim, Flush};
use crate::claims::{Claims, part_of};
use crate::format::Format;
use crate::map::check_aligned;
use crate::removed::Removed;
use crate::sizes;
use crate::table::PageTable;
use core::fmt;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent, total_len};
use iommu_core::hw::{Gather, Geometry, HwError, Prot, Transition, Translation};
use iommu_hal::Hal;

/// A table, and the ranges of it that are being worked on. Operations on ranges that share no address run side by side;
/// of those that do, the second waits until the first is done.
///
/// A CPU that waits calls [`Hal::relax`] again and again. Whoever has a claim must not ask for a second one on the same
/// table, and no interrupt handler may use a table that the code it interrupted may be working on.
///
/// ```
/// use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
/// use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
/// use iommu_hal::WalkerMemory;
/// use iommu_models::memory::TestMemory;
/// use iommu_pgtable::{Config, Flush, PageTable, SecondStageOptions, SharedTable, VtdSecondStage};
///
/// struct Unused;
/// // SAFETY: hardware that does not know a table uses nothing of it.
/// unsafe impl Flush for Unused {
///     fn flush(&mut self, _: &Gather) -> Result<(), HwError> {
///         Ok(())
///     }
/// }
///
/// let memory = TestMemory::new(PhysAddr::new(0x10_0000), 64);
/// let config = Config {
///     levels: 4,
///     page_sizes: PageSizes::new(0x1000 | 0x20_0000),
///     input_bits: 48,
///     output_bits: 46,
///     memory: WalkerMemory::Coherent,
///     address_bits: 46,
///     track_dirty: false,
///     options: SecondStageOptions { snoop: false },
/// };
/// let table = SharedTable::new(PageTable::<_, VtdSecondStage>::new(&memory, config)?);
/// std::thread::scope(|scope| {
///     for cpu in 0..4 {
///         let table = &table;
///         scope.spawn(move || {
///             let page = PhysExtent::new(PhysAddr::new(0x4000_0000), 0x1000);
///             table.map(Iova::new(cpu * 0x1000), &[page], Prot::READ, &mut Unused)
///         });
///     }
/// });
/// assert!((0..4).all(|cpu| table.translate(Iova::new(cpu * 0x1000)).is_some()));
/// # Ok::<(), HwError>(())
/// ```
pub struct SharedTable<H: Hal, F: Format> {
    table: PageTable<H, F>,
    claims: Claims,
}

impl<H: Hal, F: Format> SharedTable<H, F> {
    /// Shares `table`.
    pub fn new(table: PageTable<H, F>) -> Self {
        Self { table, claims: Claims::new() }
    }

    /// The table, for its only user again.
    pub fn into_inner(self) -> PageTable<H, F> {
        self.table
    }

    /// What is shared, for whoever holds a claim on what they look at.
    pub(crate) fn table(&self) -> &PageTable<H, F> {
        &self.table
    }

    /// Physical address of the root, for the structure that points hardware at the table.
    pub fn root(&self) -> PhysAddr {
        self.table.root()
    }

    /// The addresses that the table takes and gives.
    pub fn geometry(&self) -> Geometry {
        self.table.geometry()
    }

    /// Does `work` with the claim on what of `range` lies in the aperture, once nobody else works on any of that. Where
    /// nothing lies there the claim is on the first address of the aperture: what is done with `range` is refused.
    #[inline]
    pub fn with_claim<T>(&self, range: IovaRange, work: impl FnOnce(Claim<'_, H, F>) -> T) -> T {
        self.with_part(Some(range), work)
    }

    /// As [`Claim::map`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot, unit: &mut dyn Flush) -> Result<(), HwError> {
        let len = if let [extent] = extents { Some(extent.len) } else { total_len(extents) };
        let range = len.and_then(|len| IovaRange::from_len(iova, len));
        self.with_part(range, |mut claim| claim.map(iova, extents, prot, unit))
    }

    /// As [`Claim::unmap`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn unmap(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        removed: &mut dyn FnMut(&Removed),
    ) -> Result<(), HwError> {
        self.with_claim(range, |mut claim| claim.unmap(range, gather, removed))
    }

    /// [Cuts](Claim::cut) the leaf or contiguous group that reaches across `at`, if one does: into pieces as large as can
    /// be, none of which reaches across. Waits for all who work on the block of the largest size of leaves around `at`.
    ///
    /// # Errors
    ///
    /// [`HwError::Misaligned`] where `at` is no multiple of the smallest page; [`HwError::OutOfRange`]; and as for
    /// [`Claim::cut`].
    pub fn split(&self, at: Iova, unit: &mut dyn Flush) -> Result<Transition, HwError> {
        check_aligned(self.table.grain, at.get())?;
        let Geometry { aperture, page_sizes, .. } = self.geometry();
        let Some(here) = IovaRange::new(at, at).filter(|here| aperture.covers(*here)) else {
            return Err(HwError::OutOfRange { iova: at, len: 1 });
        };
        if self.translate(at).is_none_or(|to| at.is_aligned(to.page_size)) {
            return Ok(Transition::Hitless);
        }
        // Leaves are aligned to their size: one that reaches across is larger than all that `at` is aligned to, and lies
        // in one block of the largest size that there is.
        let largest = 1 << (63 ^ (page_sizes.mask() | 1).leading_zeros());
        let block = IovaRange::from_len(Iova::new(at.get() & !(largest - 1)), largest);
        let aligned = 1 << sizes::largest(page_sizes, at.get(), u64::MAX);
        self.with_part(block, |mut claim| claim.cut(here, aligned, unit))
    }

    /// As [`PageTable::read_dirty`], of a range that may begin and end inside of leaves: what lies in the range is handed
    /// out of those.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`], [`HwError::Misaligned`], [`HwError::OutOfRange`] as there.
    pub fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.with_claim(range, |_| self.table.scan_cut(range, dirty, None))
    }

    /// As [`PageTable::read_and_clear_dirty`], of a range that may begin and end inside of leaves: what lies in the range is
    /// handed out of those, and they stay dirty, as what lies outside would be forgotten.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`], [`HwError::Misaligned`], [`HwError::OutOfRange`], [`HwError::Hardware`] as there.
    pub fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.with_claim(range, |_| self.table.scan_cut(range, dirty, Some(gather)))
    }

    /// Where the table sends `iova`, if anywhere. Waits for whoever works on that address.
    #[inline]
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        let here = IovaRange::new(iova, iova)?;
        self.with_claim(here, |claim| claim.translate(iova))
    }

    /// As [`PageTable::free_gathered`]. Waits for no claim.
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn free_gathered(&self, gather: &mut Gather) {
        // SAFETY: the caller promises the same.
        unsafe { self.table.free_gathered(gather) };
    }

    #[inline]
    fn with_part<T>(&self, range: Option<IovaRange>, work: impl FnOnce(Claim<'_, H, F>) -> T) -> T {
        let range = part_of(self.table.geometry().aperture, range);
        let _turn = self.claims.enter(range, || self.table.hal.relax());
        // SAFETY: until the turn is over nobody else has one at any address of the range, and all that is done with the
        // table, reading included, is done with a turn at the addresses that it is for. `work` cannot keep the claim: it
        // takes one of any lifetime, and what it returns is of one type.
        work(unsafe { self.table.claim_inside(range) })
    }
}

impl<H: Hal, F: Format> fmt::Debug for SharedTable<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}
