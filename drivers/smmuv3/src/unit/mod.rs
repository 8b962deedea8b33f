//! One SMMU: bring-up (section 3.11), attach and detach.
//!
//! Lock order: a domain's claim on addresses, then the stream table, then ids, then the queue, then the error register.
//! Fault reporting takes none of the first four.

use crate::capabilities::Capabilities;
use crate::domain::{Domain, State};
use crate::errors::{ErrorLog, GlobalErrors};
use crate::fault::Faults;
use crate::invalidate::{Batch, Change, Seat, Tag, User, plan};
use crate::queue::{Marker, Queue};
use crate::regs::Regs;
use crate::spec::command::Command;
use crate::spec::registers::*;
use crate::spec::ste::StreamEntry;
use crate::tables::{Destination, Structure, Tables};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::mem::ManuallyDrop;
use core::time::Duration;
use iommu_alloc::{Shared, try_box};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{self, DomainConfig, Fault, FaultReport, HwError, Stage, Stream, StreamId, Target, Transition};
use iommu_core::{error, info, warn};
use iommu_driver::ids::Ids;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use spin::Mutex;
use tock_registers::LocalRegisterCopy;

/// What an embedder tells a unit.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Width of host physical addresses in bits. The unit's own width is used where that is less.
    pub host_bits: u8,
    /// How long any single answer of the hardware is waited for.
    pub timeout: Duration,
    /// Whether the unit snoops the CPUs' caches when it reads and writes its structures: what firmware says (the
    /// `dma-coherent` property, or the IORT node's COHACC override); `None` for what SMMU_IDR0.COHACC says.
    pub coherent: Option<bool>,
    /// Width in bits of the stream ids to serve. The unit's own width is used where that is less. Streams beyond are
    /// blocked for ever.
    pub stream_bits: u8,
}

impl Default for Config {
    /// 48 bits of address, one second, coherency as the unit says, 16 bits of stream id: one PCI segment.
    fn default() -> Self {
        Self { host_bits: 48, timeout: Duration::from_secs(1), coherent: None, stream_bits: 16 }
    }
}

/// A unit that is up: translation is on, and every stream that was not attached is blocked.
///
/// A handle: clones are the same unit. When the last handle and the last domain are gone the unit goes on translating,
/// with every stream blocked that was attached to a domain; its queues and structures stay allocated for ever.
pub struct Unit<H: Hal + Clone, R: Registers>(Arc<Inner<H, R>>);

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
    regs: Regs<R>,
    // Never dropped: hardware reads them as long as the unit is on, which nobody turns off.
    queue: Mutex<ManuallyDrop<Queue<H>>>,
    tables: Mutex<ManuallyDrop<Tables<H>>>,
    asids: Mutex<Ids>,
    vmids: Mutex<Ids>,
    faults: Faults<H>,
    errors: ErrorLog,
    /// Everything that is passed through.
    identity: Shared<State>,
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Unit<H, R> {
    /// Brings the unit up: everything off with DMA aborted, queues and an empty stream table set, caches invalidated,
    /// translation on.
    ///
    /// Whatever firmware left on goes off. From the first register write on new accesses are refused, but for what
    /// firmware's translation still lets through until it is off.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where no unit answers; [`HwError::Missing`] names what the unit lacks;
    /// [`HwError::OutOfMemory`]: the unit is as it was. [`HwError::TimedOut`] names the field that never followed,
    /// [`HwError::Queue`] a command that was refused, and [`HwError::Hardware`] that SMMU_GBPA.ABORT does not stay set:
    /// DMA is aborted as far as the unit obeys at all.
    pub fn bring_up(hal: H, regs: R, config: Config) -> Result<Self, HwError> {
        let regs = Regs::new(regs, config.timeout);
        let caps = regs.capabilities()?;
        let caps = config.coherent.map_or(caps, |coherent| caps.with_coherency(coherent));
        caps.require_own_structures()?;

        let host_bits = config.host_bits.min(caps.output_bits());
        let request = FrameRequest::single(host_bits, caps.memory());
        let asids = Ids::new(caps.asid_bits())?;
        let vmids = Ids::new(caps.vmid_bits())?;
        let queue = Queue::new(&hal, request, caps.command_queue_log2())?;
        let tables = Tables::new(&hal, &caps, request, config.stream_bits)?;
        let faults = Faults::new(&hal, request, caps.event_queue_log2())?;
        // The last that needs memory, while hardware is still as it was.
        let shared = Arc::new(Inner {
            hal,
            caps,
            host_bits,
            regs,
            queue: Mutex::new(ManuallyDrop::new(queue)),
            tables: Mutex::new(ManuallyDrop::new(tables)),
            asids: Mutex::new(asids),
            vmids: Mutex::new(vmids),
            faults,
            errors: ErrorLog::default(),
            identity: Shared::try_new(State::new(Tag::Bypass)?).map_err(|_| HwError::OutOfMemory)?,
        });
        if let Err(failure) = shared.start() {
            error!("an SMMU did not come up");
            if let Some(shared) = Arc::into_inner(shared) {
                shared.give_back(failure.left_on);
            }
            return Err(failure.error);
        }
        let [idr0, idr1, ..] = caps.idr();
        info!("SMMU up, IDR0 {:#x}, IDR1 {:#x}", idr0, idr1);
        Ok(Self(shared))
    }

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
        self.0.queue.lock().marker()
    }

    /// Global errors since the last call, acknowledged. Those of the command queue are not among them: whoever submits
    /// gets them as [`HwError::Queue`].
    ///
    /// May be called in interrupt context.
    pub fn global_errors(&self) -> GlobalErrors {
        self.0.errors.collect(&self.0.regs);
        self.0.errors.take()
    }

    /// Calls `visit` with the first frame of everything that the unit reads or writes: for checks that no device
    /// reaches them.
    pub fn for_each_structure(&self, mut visit: impl FnMut(Structure, PhysAddr)) {
        self.0.tables.lock().frames().for_each(|(structure, frame)| visit(structure, frame));
        visit(Structure::CommandQueue, self.0.queue.lock().frame());
        visit(Structure::EventQueue, self.0.faults.frame());
    }

    fn destination_of(&self, target: &dyn hw::Domain) -> Result<Destination, HwError> {
        let domain = (target as &dyn Any).downcast_ref::<Domain<H, R>>().ok_or(HwError::ForeignDomain)?;
        if !domain.belongs_to(&self.0) {
            return Err(HwError::ForeignDomain);
        }
        Ok(domain.destination())
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Unit for Unit<H, R> {
    fn capabilities(&self) -> hw::UnitCapabilities {
        self.0.caps.summary()
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn hw::Domain>, HwError> {
        check_config(config)?;
        let ids = match config.stage {
            Stage::First => &self.0.asids,
            Stage::Second => &self.0.vmids,
        };
        let id = ids.lock().alloc()?;
        let domain = Domain::new(&self.0, config.stage, id).inspect_err(|_| ids.lock().free(id))?;
        let domain: Box<dyn hw::Domain> = try_box(domain).ok_or(HwError::OutOfMemory)?;
        Ok(domain)
    }

    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        if stream.pasid.is_some() {
            return Err(HwError::Unsupported("streams with a PASID"));
        }
        let to = match target {
            Target::Blocked => return self.0.detach(stream.id),
            Target::Identity => {
                Destination { state: self.0.identity.clone(), entry: StreamEntry::Bypass, page_table: None }
            }
            Target::Paging(domain) => self.destination_of(domain)?,
            Target::Nested(_) => return Err(HwError::Unsupported("nested translation")),
            _ => return Err(HwError::Unsupported("this kind of target")),
        };
        self.0.attach(stream.id, to)
    }

    fn report_faults(&self, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        self.0.faults.report(&self.0.regs, &self.0.errors, sink)
    }
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// A frame that the unit reads.
    pub(crate) fn frame_request(&self) -> FrameRequest {
        FrameRequest::single(self.host_bits, self.caps.memory())
    }

    /// Leads `stream` to `to`, through blocked where it led elsewhere before.
    fn attach(&self, stream: StreamId, to: Destination) -> Result<Transition, HwError> {
        let mut tables = self.tables.lock();
        tables.check(stream)?;
        to.state.admit()?;
        if tables.attachment(stream).is_some_and(|attachment| attachment.draining) {
            // What an earlier call could not finish comes first.
            self.block(&mut tables, stream)?;
        }
        let transition = match tables.attachment(stream) {
            None => Transition::Hitless,
            Some(attachment) if Shared::same(attachment.state(), &to.state) => return Ok(Transition::Hitless),
            Some(_) => {
                // 512 bits that hardware reads in pieces cannot be replaced at once.
                self.block(&mut tables, stream)?;
                Transition::ThroughBlocked
            }
        };
        let seat = Seat::new(User { stream, pasid: None, atc: None })?;
        let state = to.state.clone();
        tables.prepare(stream, to)?;
        state.add_user(seat);
        // Hardware may hold pieces of the entry as it was; none may be left when the first word changes.
        self.invalidate(&[Change::EntryStored { stream, new_table: true }]).inspect_err(|_| {
            // It aborts as before: nothing to wait for.
            tables.release(stream);
            state.remove_user(stream, None);
        })?;
        tables.publish(stream)?;
        self.invalidate(&[Change::EntryStored { stream, new_table: false }]).inspect_err(|_| {
            let _ = self.block(&mut tables, stream);
        })?;
        Ok(transition)
    }

    /// Blocks `stream`; nothing to do where it is.
    fn detach(&self, stream: StreamId) -> Result<Transition, HwError> {
        let mut tables = self.tables.lock();
        tables.check(stream)?;
        if tables.attachment(stream).is_some() {
            self.block(&mut tables, stream)?;
        }
        // No access meets anything but the old target or a refusal.
        Ok(Transition::Hitless)
    }

    fn block(&self, tables: &mut Tables<H>, stream: StreamId) -> Result<(), HwError> {
        let state = tables.clear(stream)?;
        let user = User { stream, pasid: None, atc: None };
        self.invalidate(&[Change::EntryCleared { user, tag: state.tag() }])?;
        tables.release(stream);
        state.remove_user(stream, None);
        Ok(())
    }

    /// Blocks every stream that leads to `state` and removes all that is cached under it. On an error no entry leads there
    /// any more, but hardware may not know it yet.
    pub(crate) fn retire(&self, state: &State) -> Result<(), HwError> {
        let mut tables = self.tables.lock();
        // Every entry first: where the queue hangs, no stream is left with one because another was waited for.
        let mut last = None;
        while let Some(user) = state.next_user(last) {
            tables.clear(user.stream)?;
            last = Some((user.stream, user.pasid));
        }
        let (mut last, mut outcome) = (None, Ok(()));
        while let Some(user) = state.next_user(last) {
            outcome = outcome.and(self.block(&mut tables, user.stream));
            last = Some((user.stream, user.pasid));
        }
        outcome.and(self.invalidate(&[Change::DomainRetired { tag: state.tag() }]))
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
        let mut submit = |batch: &[Command]| self.submit_commands(batch).map(drop);
        let mut batch = Batch::new(&mut submit);
        changes.iter().for_each(|change| plan(&self.caps, change, &mut batch));
        batch.finish().map(drop)
    }

    fn submit_commands(&self, batch: &[Command]) -> Result<Marker, HwError> {
        self.queue.lock().submit(&self.hal, &self.regs, batch)
    }
}

/// Refuses what domains of this driver cannot be yet: none is made that falls short of what was asked for.
fn check_config(config: &DomainConfig) -> Result<(), HwError> {
    let refused = [
        (config.nest_parent, "nested translation"),
        (config.dirty_tracking, "dirty tracking"),
        (config.enforce_coherency, "enforced coherency"),
    ];
    match refused.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(HwError::Unsupported(what)),
        None => Ok(()),
    }
}

/// Why bring-up failed, and what of CR0 may still be on of what it turned on.
struct Failure {
    error: HwError,
    left_on: u32,
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Everything off, then queues, caches, translation: in that order.
    fn start(&self) -> Result<(), Failure> {
        // Nothing of ours is known to hardware before the second half.
        self.stop().map_err(|error| Failure { error, left_on: 0 })?;
        self.run().map_err(|error| Failure { error, left_on: self.stop_again() })
    }

    /// Has DMA aborted and turns off whatever firmware left on, without a look at what was in it.
    fn stop(&self) -> Result<(), HwError> {
        self.regs.abort_without_translation(&self.hal)?;
        self.regs.settle(&self.hal)?;
        let on = self.regs.cr0();
        let translation = CR0::SMMUEN::SET.value;
        if on & translation != 0 {
            warn!("firmware left an SMMU on, CR0 {:#x}", on);
            // First, and alone: from here on every new access is aborted.
            self.regs.set_cr0(&self.hal, on & !translation, "SMMU_CR0ACK.SMMUEN")?;
        }
        if on & !translation != 0 {
            self.regs.set_cr0(&self.hal, 0, "SMMU_CR0ACK")?;
        }
        self.regs.disable_interrupts(&self.hal)?;
        // Errors of firmware's queues must not be taken for errors of ours.
        self.regs.acknowledge(u32::MAX);
        Ok(())
    }

    /// Turns everything on that this driver uses.
    fn run(&self) -> Result<(), HwError> {
        let (hal, regs) = (&self.hal, &self.regs);
        let walk = self.caps.walk_attributes();
        let (cache, share) = (u32::from(walk.cacheability), u32::from(walk.shareability));
        let mut cr1 = LocalRegisterCopy::<u32, CR1::Register>::new(0);
        cr1.write(
            CR1::QUEUE_IC.val(cache)
                + CR1::QUEUE_OC.val(cache)
                + CR1::QUEUE_SH.val(share)
                + CR1::TABLE_IC.val(cache)
                + CR1::TABLE_OC.val(cache)
                + CR1::TABLE_SH.val(share),
        );
        regs.io().write32(CR1_REG, cr1.get());
        // The CPUs' TLB maintenance is about their own tables. Streams without an entry are worth an event.
        regs.io().write32(CR2_REG, (CR2::PTM::SET + CR2::RECINVSID::SET).value);
        self.tables.lock().install(regs);

        let mut on = 0;
        if self.caps.ats() {
            // Without it a device that says it has translated an address itself would be believed. Before the caches
            // are invalidated, which may hold it.
            on |= CR0::ATSCHK::SET.value;
            regs.set_cr0(hal, on, "SMMU_CR0ACK.ATSCHK")?;
        }

        on |= CR0::CMDQEN::SET.value;
        self.queue.lock().install(regs);
        regs.set_cr0(hal, on, "SMMU_CR0ACK.CMDQEN")?;
        self.invalidate(&[Change::StreamTable])?;

        on |= CR0::EVENTQEN::SET.value;
        self.faults.install(regs);
        regs.set_cr0(hal, on, "SMMU_CR0ACK.EVENTQEN")?;

        regs.set_cr0(hal, on | CR0::SMMUEN::SET.value, "SMMU_CR0ACK.SMMUEN")
    }

    /// Turns off what [`run`](Self::run) turned on before it failed, and returns what may still be on.
    fn stop_again(&self) -> u32 {
        let on = self.regs.cr0() | self.regs.io().read32(CR0ACK_REG);
        // A change that hardware has not taken over yet must not be followed by another.
        let stopped = self.regs.is_settled() && self.regs.set_cr0(&self.hal, 0, "SMMU_CR0ACK").is_ok();
        // Accesses that were under way when translation went off may still walk the tables: nothing confirms their end.
        if stopped { on & CR0::SMMUEN::SET.value } else { on }
    }

    /// Frees what hardware does not use, when bring-up failed with `left_on` of CR0 on.
    fn give_back(self, left_on: u32) {
        if left_on & CR0::CMDQEN::SET.value == 0 {
            drop(ManuallyDrop::into_inner(self.queue.into_inner()));
        }
        if left_on & CR0::EVENTQEN::SET.value == 0 {
            self.faults.give_back();
        }
        if left_on & CR0::SMMUEN::SET.value == 0 {
            drop(ManuallyDrop::into_inner(self.tables.into_inner()));
        }
    }
}
