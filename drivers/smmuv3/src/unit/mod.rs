//! One SMMU: what it and its domains have in common.
//!
//! * here: the seam to the core, and invalidations carried out.
//! * [`attach`]: attach, replace, detach, retire.
//! * [`device_tlb`]: device TLBs of functions.
//!
//! Lock order: a domain's claim on addresses, then the stream table, then ids, then the queue, then the error register.
//! Fault reporting takes none of the first four.

mod attach;
mod device_tlb;

use crate::capabilities::{Capabilities, names};
use crate::domain::{Domain, Identity, Nested, Trees};
use crate::errors::{ErrorLog, GlobalErrors};
use crate::fault::{EventRecord, Faults, Interrupts};
use crate::invalidate::{Add, Batch, Change, Tag, plan};
use crate::queue::{Marker, Queue};
use crate::regs::Regs;
use crate::spec::command::Command;
use crate::tables::{Key, Structure, Tables};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use iommu_alloc::try_box;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{
    self, DeviceTlb, DomainConfig, Fault, FaultReport, HwError, NestedConfig, PageResponse, Pasid, Stage, Stream,
    StreamId, Target, Transition, Wait,
};
use iommu_driver::ids::Ids;
use iommu_driver::unconfirmed;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use spin::Mutex;

/// A unit that is up: translation is on, and every stream that was not attached is blocked.
///
/// A handle: clones are the same unit. When the last handle and the last domain are gone the unit goes on translating,
/// with every stream blocked that was attached to a domain; its queues and structures stay allocated for ever.
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
    /// The page tables of all domains.
    pub(crate) trees: Trees<H>,
    pub(crate) regs: Regs<R>,
    // Never dropped: hardware reads them as long as the unit is on, which nobody turns off.
    pub(crate) queue: ManuallyDrop<Queue<H>>,
    pub(crate) tables: Mutex<ManuallyDrop<Tables<H>>>,
    pub(crate) asids: Mutex<Ids>,
    pub(crate) vmids: Mutex<Ids>,
    pub(crate) faults: Faults<H>,
    pub(crate) errors: ErrorLog,
    /// Everything that is passed through.
    pub(crate) identity: Identity<H>,
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Unit<H, R> {
    /// What the unit can do.
    pub fn hardware(&self) -> &Capabilities {
        &self.0.caps
    }

    /// Submits a lone CMD_SYNC and returns its marker once hardware has consumed it: everything submitted before is
    /// complete.
    ///
    /// # Errors
    ///
    /// [`HwError::TimedOut`], [`HwError::Queue`].
    pub fn sync(&self) -> Result<Marker, HwError> {
        self.0.submit_commands(&[])
    }

    /// Marker of the newest CMD_SYNC that was submitted.
    pub fn marker(&self) -> Marker {
        self.0.queue.marker()
    }

    /// Global errors since the last call, acknowledged. Those of the command queue are not among them: whoever submits
    /// gets them as [`HwError::Queue`].
    ///
    /// May be called in interrupt context.
    pub fn global_errors(&self) -> GlobalErrors {
        self.0.errors.collect(&self.0.regs);
        self.0.errors.take()
    }

    /// As [`report_faults`](hw::Unit::report_faults), of events with all that this hardware tells.
    ///
    /// May be called in interrupt context.
    pub fn report_events(&self, sink: &mut dyn FnMut(&EventRecord)) -> FaultReport {
        self.0.faults.report(&self.0.regs, &self.0.errors, sink)
    }

    /// Has the unit tell of events and errors by `interrupts` from now on. What was recorded before sends none: after this,
    /// [`report_faults`](hw::Unit::report_faults) and [`global_errors`](Self::global_errors) are called once.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] where the unit has no messages; [`HwError::Reserved`] for a message to address 0,
    /// [`HwError::Misaligned`] and [`HwError::OutputTooWide`] for others that cannot be: nothing has changed.
    /// [`HwError::Hardware`] for a unit that does not work any more. [`HwError::TimedOut`]: interrupts are off, as far as the
    /// unit obeys.
    pub fn set_interrupts(&self, interrupts: &Interrupts) -> Result<(), HwError> {
        interrupts.check(&self.0.caps)?;
        self.0.errors.check_working()?;
        // One at a time: an attach does not change them, but it is never long.
        let _one = self.0.tables.lock();
        interrupts.install(&self.0.hal, &self.0.regs, &self.0.caps)
    }

    /// Calls `visit` with the first frame of everything that the unit reads or writes: for checks that no device
    /// reaches them.
    pub fn for_each_structure(&self, mut visit: impl FnMut(Structure, PhysAddr)) {
        self.0.tables.lock().frames().for_each(|(structure, frame)| visit(structure, frame));
        self.0.queue.for_each_frame(&mut visit);
        visit(Structure::EventQueue, self.0.faults.frame());
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Unit for Unit<H, R> {
    fn capabilities(&self) -> hw::UnitCapabilities {
        let pasid_bits = self.0.tables.lock().shape().pasid_bits();
        hw::UnitCapabilities { pasid_bits, ..self.0.caps.summary() }
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn hw::Domain>, HwError> {
        self.0.errors.check_working()?;
        let ids = match config.stage {
            Stage::First => &self.0.asids,
            Stage::Second => &self.0.vmids,
        };
        let id = ids.lock().alloc()?;
        let domain = Domain::new(&self.0, config, id).inspect_err(|_| ids.lock().free(id))?;
        let domain: Box<dyn hw::Domain> = try_box(domain).ok_or(HwError::OutOfMemory)?;
        Ok(domain)
    }

    fn create_nested(
        &self,
        parent: &dyn hw::Domain,
        config: &NestedConfig<'_>,
    ) -> Result<Box<dyn hw::Nested>, HwError> {
        let nested = Nested::new(&self.0, parent, config)?;
        let nested: Box<dyn hw::Nested> = try_box(nested).ok_or(HwError::OutOfMemory)?;
        Ok(nested)
    }

    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        self.0.errors.check_working()?;
        let key = self.0.key(stream)?;
        let to = match target {
            Target::Blocked => return self.0.detach(key),
            Target::Identity if key.pasid.is_some() => self.0.identity.pasid(&self.0)?,
            Target::Identity => self.0.identity.function(),
            Target::Paging(domain) => Domain::of(&self.0, domain)?.destination(),
            Target::Nested(nested) => Nested::of(&self.0, nested)?.destination().clone(),
            _ => return Err(HwError::Unsupported("this kind of target")),
        };
        self.0.attach(key, &to)
    }

    fn set_device_tlb(&self, stream: StreamId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        self.0.set_device_tlb(stream, tlb)
    }

    fn invalidate_device(&self, stream: StreamId, request: &hw::Invalidation) -> Result<(), HwError> {
        self.0.invalidate_device(stream, request)
    }

    fn respond(&self, response: &PageResponse) -> Result<(), HwError> {
        if !self.0.caps.stalls() {
            return Err(HwError::Unsupported("page requests"));
        }
        self.0.errors.check_working()?;
        self.0.answer(response)
    }

    fn report_faults(&self, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        self.report_events(&mut |event| sink(&event.fault()))
    }
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// A frame that the unit reads.
    pub(crate) fn frame_request(&self) -> FrameRequest {
        FrameRequest::single(self.host_bits, self.caps.memory())
    }

    /// The stream as the structures know it, where the unit has such streams.
    fn key(&self, Stream { id: stream, pasid }: Stream) -> Result<Key, HwError> {
        let tables = self.tables.lock();
        tables.check(stream)?;
        match (pasid.map(Pasid::get), tables.shape().pasid_bits()) {
            (None, _) => {}
            (Some(_), 0) => return Err(HwError::Missing(names::SUBSTREAMS)),
            (Some(0), _) => {
                return Err(HwError::Unsupported("PASID 0, whose context descriptor is that of requests without one"));
            }
            (Some(pasid), bits) if pasid >> bits != 0 => return Err(HwError::Missing(names::PASID_WIDTH)),
            _ => {}
        }
        Ok(Key { stream, pasid })
    }

    /// Gives back the id of a domain that was [retired](Self::retire).
    pub(crate) fn free_id(&self, tag: Tag) {
        match tag {
            Tag::Asid(asid) => self.asids.lock().free(asid),
            Tag::Vmid(vmid) => self.vmids.lock().free(vmid),
            // A guest's stage 1 has none of its own.
            Tag::Guest { .. } | Tag::Bypass => {}
        }
    }

    /// Carries out the plans for `changes`, as one.
    pub(crate) fn invalidate(&self, changes: &[Change<'_>]) -> Result<(), HwError> {
        self.invalidate_each(&|add| changes.iter().for_each(add))
    }

    /// Carries out the plans for the changes that `each` adds, as one.
    // Not in every caller: it is a batch, which is large, and all that happens to one.
    #[inline(never)]
    pub(crate) fn invalidate_each(&self, each: &dyn Fn(&mut Add<'_>)) -> Result<(), HwError> {
        let mut submit = |batch: &[Command]| self.submit_commands(batch).map(drop);
        let mut batch = Batch::new(&mut submit);
        each(&mut |change| plan(&self.caps, change, &mut batch));
        batch.finish().map(drop)
    }

    pub(crate) fn submit_commands(&self, batch: &[Command]) -> Result<Marker, HwError> {
        self.errors.check_confirms()?;
        let done = self.at_queue(|| self.run_commands(batch));
        if matches!(done, Err(HwError::TimedOut(_))) {
            // A unit that has failed will confirm nothing: those who come next need not wait for that.
            self.errors.collect(&self.regs);
        }
        done
    }

    /// The same, whatever the unit's condition.
    pub(crate) fn run_commands(&self, batch: &[Command]) -> Result<Marker, HwError> {
        self.queue.run(&self.hal, &self.regs, batch).map_err(|error| unconfirmed(error, Wait::Completion))
    }
}
