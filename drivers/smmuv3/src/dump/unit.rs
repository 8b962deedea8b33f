//! What a unit offers of all this.

use super::{Paging, RegisterDump, Request, Walk};
use crate::unit::{Inner, Unit};
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::Stream;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_pgtable::Met;

impl<H: Hal + Clone, R: Registers> Unit<H, R> {
    /// The unit's registers, to be printed: they are read, and nothing else is done, when they are.
    pub fn registers(&self) -> RegisterDump<'_, R> {
        RegisterDump::new(&self.0.regs, &self.0.caps)
    }

    /// What hardware would meet on the way of a request of `stream` to `iova`, and where that would end. For any stream and
    /// any address, attached or not; only memory that belongs to this driver is read. Waits for changes of the structures
    /// and of that address, so it is not for interrupt handlers.
    pub fn walk(&self, stream: Stream, iova: Iova) -> Walk {
        let inner = &*self.0;
        let streams = inner.tables.lock().streams();
        // The structures' lock is let go of in between: the page tables' claims come before it.
        let load = |at: PhysAddr| inner.tables.lock().load(at);
        Request { caps: &inner.caps, streams, stream, iova, load: &load, paging: inner }.walk()
    }
}

impl<H: Hal + Clone, R: Registers> Paging for Inner<H, R> {
    fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool {
        self.trees.trace(root, iova, met) || self.identity.trace(root, iova, met)
    }
}
