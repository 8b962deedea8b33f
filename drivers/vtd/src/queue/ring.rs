//! The memory of a queue: descriptors, and the cells that waits report to.
//!
//! What a place is stands with [`queue::Ring`]; the slot is that modulo [`SLOTS`]. Nothing here decides which places are free.

use crate::spec::descriptor::{Descriptor, Wait, Width};
use crate::spec::invalidation::Invalidation;
use crate::spec::registers::IQA;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_driver::queue::{self, Marker};
use iommu_hal::mem::{ENTRIES, Frame, Frames};
use iommu_hal::{FrameRequest, Hal, WalkerMemory, barrier};
use tock_registers::LocalRegisterCopy;

/// Descriptors in the ring. One stays free, or a full ring would look like an empty one; and as many status cells fit in
/// half a frame.
const SLOTS: u64 = 256;

/// Word of the status frame for waits that nobody looks at.
const NOBODY: usize = SLOTS as usize;

const _: () = assert!(SLOTS.is_power_of_two() && NOBODY < ENTRIES);

pub(crate) struct Ring<H: Hal> {
    descriptors: Frames<H>,
    status: Frames<H>,
    width: Width,
}

impl<H: Hal + Clone> Ring<H> {
    /// Hardware reads descriptors and writes status coherently whatever ECAP.C says (section 6.5.2.9).
    pub(super) fn new(hal: &H, host_bits: u8, width: Width) -> Result<Self, HwError> {
        let alloc = |order| {
            let request = FrameRequest { order, address_bits: host_bits, memory: WalkerMemory::Coherent };
            Frames::alloc(hal.clone(), request).ok_or(HwError::OutOfMemory)
        };
        Ok(Self { descriptors: alloc(order(width))?, status: alloc(0)?, width })
    }
}

impl<H: Hal> Ring<H> {
    /// What IQA is to hold.
    pub(super) fn address(&self) -> u64 {
        let mut address = LocalRegisterCopy::<u64, IQA::Register>::new(0);
        let wide = u64::from(self.width == Width::Bits256);
        address.write(
            IQA::IQA.val(self.descriptors.phys().get() >> 12)
                + IQA::DW.val(wide)
                + IQA::QS.val(order(self.width).into()),
        );
        address.get()
    }

    /// What IQT and IQH hold for `place`.
    pub(super) fn offset(&self, place: u64) -> u64 {
        place % SLOTS * self.width.len() as u64
    }

    /// The slot that a value of IQH names; `None` where there is no such slot.
    pub(super) fn slot(&self, offset: u64) -> Option<u64> {
        let slot = offset / self.width.len() as u64;
        (slot < SLOTS).then_some(slot)
    }

    /// The frame and the index in it of the first word of `place`.
    fn locate(&self, place: u64) -> Option<(Frame<'_, H>, usize)> {
        let word = (place % SLOTS) as usize * self.width.words();
        Some((self.descriptors.frame(word / ENTRIES)?, word % ENTRIES))
    }

    fn store(&self, place: u64, descriptor: &Descriptor) -> Option<()> {
        let (frame, first) = self.locate(place)?;
        for (at, word) in descriptor.words(self.width).iter().enumerate() {
            frame.store(first + at, *word);
        }
        Some(())
    }

    /// Whether the wait at `place` has reported `marker`. What hardware did before is visible then.
    #[inline]
    pub(super) fn is_complete(&self, place: u64, marker: Marker) -> bool {
        // The upper half of the word is not hardware's.
        let cell = self.status.frame(0).map(|frame| frame.load((place % SLOTS) as usize) as Marker);
        let complete = cell == Some(marker);
        if complete {
            barrier::after_device_load();
        }
        complete
    }

    fn cell(&self, word: u64) -> PhysAddr {
        self.status.phys().wrapping_add(word * 8)
    }

    /// The frames that hardware reads descriptors from, and the one that it writes completions to.
    pub(super) fn frames(&self) -> (impl Iterator<Item = PhysAddr> + '_, PhysAddr) {
        let descriptors = (0..1u64 << order(self.width)).map(|index| self.descriptors.phys().wrapping_add(index << 12));
        (descriptors, self.status.phys())
    }
}

impl<H: Hal> queue::Ring for Ring<H> {
    type Item = Invalidation;
    type Order = Fences;

    const TIMED_OUT: u8 = super::CODE_DEVICE_TLB_TIMEOUT;

    fn period(&self) -> u64 {
        SLOTS
    }

    fn most(&self) -> u64 {
        SLOTS - 2
    }

    fn fence_before(order: &mut Fences, invalidation: &Invalidation) -> bool {
        order.before(invalidation)
    }

    fn device(invalidation: &Invalidation) -> Option<u32> {
        invalidation.device().map(|source| source.get().into())
    }

    fn device_at(&self, place: u64) -> Option<u32> {
        Descriptor::device(self.first_word(place)).map(u32::from)
    }

    fn is_fence_at(&self, place: u64) -> bool {
        Descriptor::is_wait(self.first_word(place))
    }

    /// The first word of the descriptor.
    fn first_word(&self, place: u64) -> u64 {
        self.locate(place).map_or(0, |(frame, first)| frame.load(first))
    }

    fn write(&self, place: u64, invalidation: &Invalidation) -> Option<()> {
        self.store(place, &Descriptor::from(*invalidation))
    }

    /// A wait that nobody looks at. It always reports: some implementations refuse waits that do not.
    fn write_fence(&self, place: u64) -> Option<()> {
        let status = Some((self.cell(NOBODY as u64), 0));
        self.store(place, &Wait { status, fence: true, ..Wait::default() }.into())
    }

    /// It reports to the cell of its own slot: what an earlier wait reports late changes no cell but that wait's. `again`
    /// makes it a fence, too: a wait reports what stands behind the wait before it, and a refusal makes two of one.
    fn write_wait(&self, place: u64, marker: Marker, again: bool) -> Option<()> {
        // Whatever stands there, it is not this marker, even after 2^32 waits.
        self.status.frame(0)?.store((place % SLOTS) as usize, (!marker).into());
        let status = Some((self.cell(place % SLOTS), marker));
        self.store(place, &Wait { status, fence: again, ..Wait::default() }.into())
    }

    /// The status data of the wait.
    fn marker(&self, last: Marker, _: u64) -> Marker {
        last.wrapping_add(1)
    }
}

/// log2 of the frames of the ring (IQA.QS).
const fn order(width: Width) -> u8 {
    (SLOTS as usize * width.len() / 4096).trailing_zeros() as u8
}

/// Where a batch needs a fence: hardware keeps the order of all kinds but one by itself (section 6.5.2.12). An
/// invalidation of a device's translations without PASID may overtake one of the first stage, by which such requests can
/// be translated too.
#[derive(Default)]
pub(crate) struct Fences {
    first_stage: bool,
}

impl Fences {
    /// Whether a fence belongs before this one.
    fn before(&mut self, invalidation: &Invalidation) -> bool {
        match invalidation {
            Invalidation::PasidIotlb { .. } => self.first_stage = true,
            Invalidation::DeviceTlb { .. } => return core::mem::take(&mut self.first_stage),
            _ => {}
        }
        false
    }
}
