//! The invalidation queue (section 6.5.2): descriptors in, completion or an error out.
//!
//! A batch is written whole, followed by one wait descriptor and one doorbell. The wait's status data is a number that
//! only grows, so that a completion that arrives late, after its caller gave up, can never be taken for a newer one.

use crate::regs::Regs;
use crate::spec::descriptor::{DESCRIPTOR_WORDS, Descriptor};
use crate::spec::invalidation::{ContextScope, Invalidation, IotlbScope, PasidScope};
use crate::spec::registers::*;
use core::ops::ControlFlow;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, Wait};
use iommu_core::warn;
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_hal::wait::poll;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use tock_registers::LocalRegisterCopy;

/// log2 of the frames in the queue (IQA.QS).
const QUEUE_ORDER: u8 = 0;
/// Bytes in a descriptor.
const DESCRIPTOR_LEN: u64 = DESCRIPTOR_WORDS as u64 * 8;
/// Descriptors in the queue: 4 KiB of 32 bytes.
const SLOTS: usize = (4096 << QUEUE_ORDER) / DESCRIPTOR_LEN as usize;
/// Descriptors of one doorbell, its wait included: a full ring would look like an empty one.
const BATCH: usize = SLOTS - 1;

/// [`HwError::Queue`] code of a device TLB that timed out (FSTS.ITE). Lower codes are IQERCD.IQEI of an invalid
/// descriptor (FSTS.IQE).
pub const CODE_DEVICE_TLB_TIMEOUT: u8 = 0x40;

/// Word of the status frame that waits report to.
const STATUS_WORD: usize = 0;
/// Word that the wait reports to which takes the place of a descriptor that hardware refused.
const REPAIR_WORD: usize = 8;

/// The number a wait descriptor carried as its status data.
pub type Marker = u32;

/// The queue of one unit.
pub(crate) struct Queue<H: Hal> {
    ring: Frames<H>,
    status: Frames<H>,
    /// Slot that the next descriptor goes to.
    tail: usize,
    /// Status data of the newest wait.
    marker: Marker,
    /// A batch was given up on: hardware may still be working on the ring.
    stalled: bool,
}

impl<H: Hal + Clone> Queue<H> {
    /// Allocates the queue. Hardware reads and writes it coherently whatever ECAP.C says.
    pub(crate) fn new(hal: &H, host_bits: u8) -> Result<Self, HwError> {
        let request = FrameRequest { order: QUEUE_ORDER, address_bits: host_bits, memory: WalkerMemory::Coherent };
        let ring = Frames::alloc(hal.clone(), request).ok_or(HwError::OutOfMemory)?;
        let request = FrameRequest { order: 0, ..request };
        let status = Frames::alloc(hal.clone(), request).ok_or(HwError::OutOfMemory)?;
        Ok(Self { ring, status, tail: 0, marker: 0, stalled: false })
    }

    /// Points the unit at the queue and turns it on. The queue of whoever came before must be off.
    pub(crate) fn enable<R: Registers>(&mut self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        regs.io().write64(IQT_REG, 0);
        let mut address = LocalRegisterCopy::<u64, IQA::Register>::new(0);
        address.write(IQA::IQA.val(self.ring.phys().get() >> 12) + IQA::DW::SET + IQA::QS.val(QUEUE_ORDER.into()));
        regs.io().write64(IQA_REG, address.get());
        regs.set(hal, GSTS::QIES, true, "GSTS.QIES")
    }

    /// The status data of the newest wait that was submitted.
    pub(crate) fn marker(&self) -> Marker {
        self.marker
    }

    /// Runs `batch` and returns the status data of the wait that confirmed it.
    ///
    /// An error means that hardware did not confirm; the queue itself is usable again unless it hangs.
    pub(crate) fn submit<R: Registers>(
        &mut self,
        hal: &H,
        regs: &Regs<R>,
        batch: &[Invalidation],
    ) -> Result<Marker, HwError> {
        // One wait less than the ring holds. A batch this long has never a single caller, but splitting is correct.
        for part in batch.chunks(BATCH - 1) {
            self.run(hal, regs, part)?;
        }
        if batch.is_empty() {
            self.run(hal, regs, &[])?;
        }
        Ok(self.marker)
    }

    fn run<R: Registers>(&mut self, hal: &H, regs: &Regs<R>, part: &[Invalidation]) -> Result<(), HwError> {
        if self.stalled {
            self.drain(hal, regs)?;
        }
        for invalidation in part {
            self.push(encode(invalidation)?)?;
        }
        self.finish(hal, regs)
    }

    /// Adds the wait, rings the doorbell and looks after both the status word and the error bits until one answers.
    fn finish<R: Registers>(&mut self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        self.push_wait()?;
        self.ring_doorbell(regs);
        let mut error = None;
        let outcome = poll(hal, regs.timeout(), || match self.check(regs) {
            Ok(done) => done.then_some(Ok(())),
            Err(found) => {
                // Repaired: what follows it in the ring still runs. The first error is the one to report.
                error.get_or_insert(found.error);
                match found.next {
                    ControlFlow::Continue(()) => None,
                    ControlFlow::Break(()) => Some(Err(())),
                }
            }
        });
        match (outcome, error) {
            (Some(Ok(())), None) => Ok(()),
            (Some(Ok(())), Some(error)) => Err(error),
            // The wait itself was aborted or refused. The next submission runs another one before its own.
            (Some(Err(())), error) => {
                self.stalled = true;
                Err(error.unwrap_or(HwError::TimedOut(Wait::Completion)))
            }
            (None, error) => {
                self.stalled = true;
                warn!("invalidation queue: no completion of wait {}", self.marker);
                Err(error.unwrap_or(HwError::TimedOut(Wait::Completion)))
            }
        }
    }

    /// Waits until the ring is empty after a batch was given up on, so that its slots can be written again.
    fn drain<R: Registers>(&mut self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        let tail = self.tail as u64 * DESCRIPTOR_LEN;
        poll(hal, regs.timeout(), || {
            // What stopped it may be an error that was raised after the last look.
            let _ = self.check(regs);
            (regs.io().read64(IQH_REG) == tail).then_some(())
        })
        .ok_or(HwError::TimedOut(Wait::Completion))?;
        self.stalled = false;
        // Fetched is not completed: a wait of its own proves that what was pending is done.
        self.finish(hal, regs)
    }

    /// Whether the newest wait is complete; handles what FSTS reports of the queue.
    fn check<R: Registers>(&mut self, regs: &Regs<R>) -> Result<bool, Found> {
        let done = self.ring_status() == self.marker;
        if done {
            return Ok(true);
        }
        let status = LocalRegisterCopy::<u32, FSTS::Register>::new(regs.io().read32(FSTS_REG));
        let record = LocalRegisterCopy::<u64, IQERCD::Register>::new(regs.io().read64(IQERCD_REG));
        if status.is_set(FSTS::ICE) {
            warn!("unexpected invalidation completion of {:#x}", record.read(IQERCD::ICESID));
            regs.io().write32(FSTS_REG, FSTS::ICE::SET.value);
        }
        if status.is_set(FSTS::ITE) {
            warn!("device TLB of {:#x} did not answer", record.read(IQERCD::ITESID));
            // Pending waits are aborted; hardware fetches on once the bit is cleared.
            regs.io().write32(FSTS_REG, FSTS::ITE::SET.value);
            let error = HwError::Queue { code: CODE_DEVICE_TLB_TIMEOUT, entry: record.read(IQERCD::ITESID) };
            return Err(Found { error, next: ControlFlow::Break(()) });
        }
        if status.is_set(FSTS::IQE) {
            let (slot, entry) = self.repair(regs);
            warn!("invalid descriptor {:#x}, reason {}", entry, record.read(IQERCD::IQEI));
            let error = HwError::Queue { code: record.read(IQERCD::IQEI) as u8, entry };
            // Where it was the wait that was replaced, nothing will report completion.
            let was_wait = (slot + 1) % SLOTS == self.tail;
            let next = if was_wait { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            return Err(Found { error, next });
        }
        Ok(false)
    }

    /// Replaces the descriptor that hardware stopped at by a harmless one, lets hardware go on, and returns the
    /// offender's slot and first word.
    fn repair<R: Registers>(&mut self, regs: &Regs<R>) -> (usize, u64) {
        let slot = (regs.io().read64(IQH_REG) / DESCRIPTOR_LEN) as usize % SLOTS;
        // A wait with a status write to a cell of its own: hardware takes it whatever came before it.
        let harmless = Descriptor::wait(self.status.phys().wrapping_add(REPAIR_WORD as u64 * 8), 0);
        let mut ring = self.ring.ring();
        let entry = ring.load(slot * DESCRIPTOR_WORDS).unwrap_or(0);
        let _ = ring.store(slot * DESCRIPTOR_WORDS, &harmless.0);
        regs.io().write32(FSTS_REG, FSTS::IQE::SET.value);
        // Some implementations look at the queue again only when the tail is written.
        self.ring_doorbell(regs);
        (slot, entry)
    }

    fn push_wait(&mut self) -> Result<(), HwError> {
        self.marker = self.marker.wrapping_add(1);
        let status = self.status.phys().wrapping_add(STATUS_WORD as u64 * 8);
        self.push(Descriptor::wait(status, self.marker))
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), HwError> {
        self.ring
            .ring()
            .store(self.tail * DESCRIPTOR_WORDS, &descriptor.0)
            .ok_or(HwError::Hardware("the invalidation queue's tail left the ring"))?;
        self.tail = (self.tail + 1) % SLOTS;
        Ok(())
    }

    fn ring_doorbell<R: Registers>(&self, regs: &Regs<R>) {
        regs.io().write64(IQT_REG, self.tail as u64 * DESCRIPTOR_LEN);
    }

    fn ring_status(&mut self) -> Marker {
        // Status data is 32 bits wide; the upper half of the word stays zero.
        self.status.ring().load(STATUS_WORD).unwrap_or(0) as Marker
    }

    /// The frames that hardware reads descriptors from, and writes completions to.
    pub(crate) fn frames(&self) -> [PhysAddr; 2] {
        [self.ring.phys(), self.status.phys()]
    }
}

/// An error that the status register reported, and whether the wait that is pending can still complete.
struct Found {
    error: HwError,
    next: ControlFlow<()>,
}

/// The descriptor of an invalidation.
pub(crate) fn encode(invalidation: &Invalidation) -> Result<Descriptor, HwError> {
    Ok(match *invalidation {
        Invalidation::ContextCache(ContextScope::Global) => Descriptor::context_cache_global(),
        Invalidation::ContextCache(ContextScope::Device { source, .. }) => {
            Descriptor::context_cache_device(source.get())
        }
        Invalidation::PasidCache(PasidScope::Global) => Descriptor::pasid_cache_global(),
        Invalidation::PasidCache(PasidScope::Domain(domain)) => Descriptor::pasid_cache_domain(domain),
        Invalidation::PasidCache(PasidScope::Pasid { domain, pasid }) => Descriptor::pasid_cache_pasid(domain, pasid),
        Invalidation::Iotlb { scope: IotlbScope::Global, drain } => Descriptor::iotlb_global(drain),
        Invalidation::Iotlb { scope: IotlbScope::Domain(domain), drain } => Descriptor::iotlb_domain(domain, drain),
        Invalidation::Iotlb { scope: IotlbScope::Pages { domain, pages }, drain } => {
            Descriptor::iotlb_pages(domain, pages, drain)
        }
        Invalidation::PasidIotlb { domain, pasid, pages: None } => Descriptor::pasid_iotlb_all(domain, pasid),
        Invalidation::PasidIotlb { domain, pasid, pages: Some(pages) } => {
            Descriptor::pasid_iotlb_pages(domain, pasid, pages)
        }
        _ => return Err(HwError::Unsupported("this invalidation")),
    })
}
