//! One remapping unit: what it and its domains have in common.
//!
//! * here: the seam to the core, and invalidations carried out.
//! * [`attach`]: attach, replace, detach, retire.
//! * [`device_tlb`]: device TLBs of functions.
//!
//! Lock order: a domain's claim on addresses, then structures, then domain ids, then the queue, then commands. Fault
//! reporting takes none of them.

mod attach;
mod device_tlb;

pub use device_tlb::DEVICE_TLB_REQUEST;

use crate::capabilities::Capabilities;
use crate::domain::{Domain, Identity, Nested, State, Trees};
use crate::fault::{Faults, MsiMessage};
use crate::invalidate::{Batch, Change, Tag, plan};
use crate::queue::{Invalidator, Marker};
use crate::regs::Regs;
use crate::spec::invalidation::Invalidation;
use crate::spec::pasid::PasidEntry;
use crate::spec::registers::GSTS;
use crate::tables::{Key, Structure, Tables};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use iommu_alloc::{Shared, try_box};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{self, DeviceTlb, DomainConfig, Fault, FaultReport, HwError, NestedConfig, RequesterId};
use iommu_core::hw::{Stream, StreamId, Target, Transition, Wait};
use iommu_driver::ids::Ids;
use iommu_driver::unconfirmed;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use spin::Mutex;

/// A unit that is up: translation is on, and every requester that was not attached is blocked.
///
/// A handle: clones are the same unit. When the last handle and the last domain are gone the unit goes on translating,
/// with every requester blocked that was attached to a domain; its queue and structures stay allocated for ever.
pub struct Unit<H: Hal + Clone, R: Registers>(pub(crate) Arc<Inner<H, R>>);

impl<H: Hal + Clone, R: Registers> Clone for Unit<H, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What a unit and its domains have in common.
pub(crate) struct Inner<H: Hal + Clone, R: Registers> {
    pub(crate) hal: H,
    pub(crate) caps: Capabilities,
    pub(crate) host_bits: u8,
    pub(crate) regs: Regs<R>,
    /// The command register takes one command at a time.
    pub(crate) command: Mutex<()>,
    // Never dropped: hardware reads them as long as translation is on, which nobody turns off.
    pub(crate) queue: ManuallyDrop<Invalidator<H>>,
    pub(crate) tables: Mutex<ManuallyDrop<Tables<H>>>,
    pub(crate) ids: Mutex<Ids>,
    /// Page tables of the domains, to be printed.
    pub(crate) trees: Trees<H>,
    pub(crate) faults: Faults,
    /// Everything that is passed through.
    pub(crate) identity: Identity<H>,
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Unit<H, R> {
    /// What the unit can do.
    pub fn hardware(&self) -> &Capabilities {
        &self.0.caps
    }

    /// Submits a lone wait descriptor and returns its status data once hardware has written it: everything that was
    /// confirmed to its caller before is complete. (Of what ended in a time-out it says nothing.)
    ///
    /// # Errors
    ///
    /// [`HwError::TimedOut`], [`HwError::Queue`].
    pub fn sync(&self) -> Result<Marker, HwError> {
        self.0.submit(&[])
    }

    /// Status data of the newest wait descriptor that was submitted.
    pub fn marker(&self) -> Marker {
        self.0.queue.marker()
    }

    /// Calls `visit` with every frame of root, context and PASID structures that the unit reads, and the first one of all
    /// else: for checks that no device reaches them.
    pub fn for_each_structure(&self, mut visit: impl FnMut(Structure, PhysAddr)) {
        self.0.tables.lock().frames().for_each(|(structure, frame)| visit(structure, frame));
        self.0.queue.for_each_frame(&mut visit);
    }

    /// Has the unit send `message` once it records a fault or an error of its queue; `None` ends that: faults are
    /// polled, as they are after [`Unit::bring_up`]. The message goes out once until
    /// [`report_faults`](hw::Unit::report_faults) has left nothing to report, so its handler calls that until it says
    /// that there is no more.
    ///
    /// # Errors
    ///
    /// [`HwError::Reserved`] where the address is not one of interrupts, [`HwError::Unsupported`] where the message is not
    /// in compatibility format, [`HwError::Missing`] where the unit cannot reach the destination: nothing has changed.
    /// [`HwError::Hardware`] where the unit does not take the message; then faults are polled.
    pub fn set_fault_interrupt(&self, message: Option<MsiMessage>) -> Result<(), HwError> {
        self.0.faults.set_interrupt(self.0.regs.io(), &self.0.caps, message)
    }

    fn entry_for(&self, target: &dyn hw::Domain) -> Result<(Shared<State>, PasidEntry), HwError> {
        let domain = Domain::of(&self.0, target)?;
        Ok((domain.state().clone(), domain.pasid_entry()))
    }

    fn identity_entry(&self) -> Result<(Shared<State>, PasidEntry), HwError> {
        let Inner { identity, hal, caps, host_bits, .. } = &*self.0;
        let entry = identity.pasid_entry(hal, caps, *host_bits)?;
        Ok((identity.state().clone(), entry))
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Unit for Unit<H, R> {
    fn capabilities(&self) -> hw::UnitCapabilities {
        self.0.caps.summary()
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn hw::Domain>, HwError> {
        let id = self.0.ids.lock().alloc()?;
        let domain = Domain::new(&self.0, config, id).inspect_err(|_| self.0.ids.lock().free(id))?;
        let domain: Box<dyn hw::Domain> = try_box(domain).ok_or(HwError::OutOfMemory)?;
        Ok(domain)
    }

    fn create_nested(
        &self,
        parent: &dyn hw::Domain,
        config: &NestedConfig<'_>,
    ) -> Result<Box<dyn hw::Nested>, HwError> {
        let id = self.0.ids.lock().alloc()?;
        let nested = Nested::new(&self.0, parent, config, id).inspect_err(|_| self.0.ids.lock().free(id))?;
        let nested: Box<dyn hw::Nested> = try_box(nested).ok_or(HwError::OutOfMemory)?;
        Ok(nested)
    }

    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        let key = self.0.key(stream)?;
        let (state, entry) = match target {
            Target::Blocked => return self.0.detach(key),
            Target::Identity => self.identity_entry()?,
            Target::Paging(domain) => self.entry_for(domain)?,
            Target::Nested(nested) => {
                let nested = Nested::of(&self.0, nested)?;
                (nested.state().clone(), nested.pasid_entry())
            }
            _ => return Err(HwError::Unsupported("this kind of target")),
        };
        self.0.attach(key, &state, &entry)
    }

    fn set_device_tlb(&self, stream: StreamId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        self.0.set_device_tlb(requester(stream)?, tlb)
    }

    fn invalidate_device(&self, stream: StreamId, request: &hw::Invalidation) -> Result<(), HwError> {
        self.0.invalidate_device(requester(stream)?, request)
    }

    fn report_faults(&self, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        self.0.faults.report(self.0.regs.io(), sink)
    }
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// The stream as the structures know it, where the unit has such streams.
    fn key(&self, stream: Stream) -> Result<Key, HwError> {
        let source = requester(stream.id)?;
        if let Some(pasid) = stream.pasid {
            self.caps.require_pasid(pasid.get())?;
            if pasid.get() == self.tables.lock().rid_pasid() {
                return Err(HwError::Unsupported("the PASID that the unit uses for requests without one"));
            }
        }
        Ok(Key { source, pasid: stream.pasid })
    }

    /// Gives back the id of a domain that was [retired](Self::retire).
    pub(crate) fn free_id(&self, tag: Tag) {
        self.ids.lock().free(tag.domain_id());
    }

    /// Carries out the plans for `changes`, as one.
    pub(crate) fn invalidate(&self, changes: &[Change<'_>]) -> Result<(), HwError> {
        self.invalidate_each(|add| changes.iter().for_each(add))
    }

    /// Carries out the plans for the changes that `each` adds, as one.
    pub(crate) fn invalidate_each(&self, each: impl FnOnce(&mut dyn FnMut(&Change<'_>))) -> Result<(), HwError> {
        let mut submit = |batch: &[Invalidation]| self.submit(batch).map(drop);
        let mut batch = Batch::new(&mut submit);
        let mut buffered = false;
        each(&mut |change| buffered |= plan(&self.caps, change, &mut batch));
        if !batch.finish()? && buffered {
            self.flush_write_buffer()?;
        }
        Ok(())
    }

    /// Has hardware write back what it buffers. The command register takes one command at a time.
    pub(crate) fn flush_write_buffer(&self) -> Result<(), HwError> {
        let _command = self.command.lock();
        let done = self.regs.trigger(&self.hal, GSTS::WBFS, false, "GSTS.WBFS");
        done.map_err(|error| unconfirmed(error, Wait::Status("GSTS.WBFS")))
    }

    fn submit(&self, batch: &[Invalidation]) -> Result<Marker, HwError> {
        self.queue.run(&self.hal, &self.regs, batch).map_err(|error| unconfirmed(error, Wait::Completion))
    }
}

/// The requester that a stream id stands for.
fn requester(stream: StreamId) -> Result<RequesterId, HwError> {
    let raw = u16::try_from(stream.get()).map_err(|_| HwError::NoSuchStream { stream: stream.get() })?;
    Ok(RequesterId::new(raw))
}
