//! Bring-up of a unit: from whatever firmware left to an empty root table and translation on.
//!
//! Never ends less protected than it has to: what needs memory is done before, what firmware left translating goes on
//! translating until the empty root takes its place, and once that is set translation goes on whatever else fails.
//!
//! # When DMA is not translated
//!
//! | What firmware left | What happens to DMA |
//! |---|---|
//! | translation off | untranslated until the end; with ESRTPS and abort-DMA mode aborted from the first command on |
//! | on, in the mode that ours is | translated by the one or the other tables |
//! | on, in another mode, with ESRTPS | the same: hardware changes tables and mode at once |
//! | on, in another mode, without ESRTPS | untranslated between two commands, in which the root is set and all caches are invalidated |
//!
//! Abort-DMA mode would not close the last window: to get there, and away from there, translation has to go off as well.
//! Protected memory regions that firmware set up stay in force until translation is on, so that they cover all of it.

pub(crate) mod abort;
mod config;
mod firmware;

pub use config::{Config, ModeChoice};

use crate::capabilities::{Capabilities, Mode};
use crate::domain::{Identity, Trees};
use crate::fault::Faults;
use crate::invalidate::Change;
use crate::queue::Invalidator;
use crate::regs::Regs;
use crate::spec::registers::*;
use crate::tables::{Shape, Tables};
use crate::unit::{Inner, Unit};
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use iommu_core::hw::HwError;
use iommu_core::{error, info, warn};
use iommu_driver::ids::Ids;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use spin::Mutex;
use tock_registers::LocalRegisterCopy;
use tock_registers::fields::FieldValue;

/// Widest physical address that any structure holds.
const MOST_HOST_BITS: u8 = 52;

/// What hardware was told of when bring-up failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    Queue,
    Everything,
}

/// Why bring-up failed.
pub(crate) struct Failure {
    pub(crate) error: HwError,
    pub(crate) known: Known,
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Unit<H, R> {
    /// Brings the unit up: queue on where there is one, empty root table set, caches invalidated, translation on,
    /// protected memory off.
    ///
    /// Where firmware left translation on in another mode it may go off for a moment, in which DMA is not translated, so bus
    /// mastering should be off behind the unit until this returns.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where no unit answers, or one that contradicts itself; [`HwError::Missing`] names what the unit
    /// lacks for what `config` asks; [`HwError::OutOfMemory`]: the unit is as it was. [`HwError::TimedOut`] names the
    /// status bit that never followed, and [`HwError::Queue`] a refused invalidation. Once the empty root is set translation
    /// goes on even then; before, all DMA is aborted where the unit can do so ([`abort_dma`](crate::abort_dma)) and change
    /// its mode without a window, and else what firmware had goes on, or translation is off.
    pub fn bring_up(hal: H, regs: R, config: Config) -> Result<Self, HwError> {
        let regs = Regs::new(regs, config.timeout);
        let host_bits = config.host_bits.min(MOST_HOST_BITS);
        let caps = chosen(regs.capabilities()?, config.mode);
        caps.check(regs.io().len())?;
        caps.require_rid_pasid(config.rid_pasid.get())?;

        let mut ids = Ids::new(caps.domain_id_bits())?;
        let identity = Identity::new(&caps, ids.alloc()?)?;
        let queue = Invalidator::new(&hal, &caps, host_bits)?;
        let request = FrameRequest::single(host_bits, caps.structure_memory());
        let tables = Tables::new(&hal, request, Shape::new(&caps, config.rid_pasid.get()))?;
        // The last that needs memory, while hardware is still as it was.
        let shared = Arc::new(Inner {
            hal,
            caps,
            host_bits,
            regs,
            command: Mutex::new(()),
            queue: ManuallyDrop::new(queue),
            tables: Mutex::new(ManuallyDrop::new(tables)),
            ids: Mutex::new(ids),
            trees: Trees::new(),
            faults: Faults::new(&caps),
            identity,
        });
        if let Err(failure) = shared.start() {
            error!("a VT-d unit did not come up");
            if let Some(shared) = Arc::into_inner(shared) {
                shared.give_back(failure.known);
            }
            return Err(failure.error);
        }
        info!("VT-d unit up, CAP {:#x}, ECAP {:#x}", caps.cap(), caps.ecap());
        Ok(Self(shared))
    }
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Queue, root pointer, invalidation, translation, protected memory: in that order.
    fn start(&self) -> Result<(), Failure> {
        let failed = |known| move |error| Failure { error, known };
        firmware::mask_events(&self.regs, &self.caps);
        self.abort_until_ready().map_err(failed(Known::Nothing))?;
        firmware::stop_queue(&self.hal, &self.regs).map_err(failed(Known::Nothing))?;
        self.queue.enable(&self.hal, &self.regs).map_err(failed(Known::Queue))?;
        self.faults.discard(self.regs.io());
        if self.caps.needs_write_buffer_flush() {
            // The tables must be in memory before hardware reads them, and no invalidation has come before.
            self.flush_write_buffer().map_err(failed(Known::Queue))?;
        }
        self.leave_other_mode().map_err(failed(Known::Queue))?;
        self.take_over().map_err(failed(Known::Everything))
    }

    /// Where nothing is translated yet and it costs no window later: has all DMA aborted from here on, so that none gets
    /// through while the rest is made ready, nor for good where that fails.
    ///
    /// Only with ESRTPS: else translation would have to go off again for the change to the mode of ours.
    fn abort_until_ready(&self) -> Result<(), HwError> {
        let worthwhile = self.caps.abort_mode() && self.caps.root_pointer_invalidates();
        if worthwhile && !self.regs.status()?.is_set(GSTS::TES) { abort::enter(&self.hal, &self.regs) } else { Ok(()) }
    }

    /// Turns translation off where whoever came before left it on in another mode that hardware cannot leave otherwise
    /// (section 11.4.5). In the same mode, or with ESRTPS, one set of tables hands over to the other.
    fn leave_other_mode(&self) -> Result<(), HwError> {
        let hands_over =
            self.caps.root_pointer_invalidates() || self.regs.table_mode() == self.table_mode().value >> 10;
        if hands_over || !self.regs.status()?.is_set(GSTS::TES) {
            return Ok(());
        }
        warn!("translation goes off until the tables' mode has changed");
        self.regs.set(&self.hal, GSTS::TES, false, "GSTS.TES")
    }

    /// From the root pointer to the end.
    fn take_over(&self) -> Result<(), HwError> {
        let mut root = LocalRegisterCopy::<u64, RTADDR::Register>::new(0);
        root.write(RTADDR::RTA.val(self.tables.lock().root().get() >> 12) + self.table_mode());
        self.regs.set_root(&self.hal, root)?;
        // Whatever becomes of the invalidation: translating through the empty root beats not translating.
        let invalidated = self.invalidate(&[Change::RootPointer]);
        self.regs.set(&self.hal, GSTS::TES, true, "GSTS.TES")?;
        invalidated?;
        if self.caps.protected_regions() {
            self.regs.disable_protected_memory(&self.hal)?;
        }
        Ok(())
    }

    /// RTADDR.TTM of our tables.
    fn table_mode(&self) -> FieldValue<u64, RTADDR::Register> {
        match self.caps.mode() {
            Mode::Legacy => RTADDR::TTM::Legacy,
            Mode::Scalable => RTADDR::TTM::Scalable,
        }
    }

    /// Frees what hardware was never told of, when bring-up failed.
    pub(crate) fn give_back(self, known: Known) {
        if known == Known::Nothing {
            drop(ManuallyDrop::into_inner(self.queue));
        }
        if known != Known::Everything {
            drop(ManuallyDrop::into_inner(self.tables.into_inner()));
        }
    }
}

/// The unit in the mode that it is to run in.
fn chosen(caps: Capabilities, choice: ModeChoice) -> Capabilities {
    match choice {
        ModeChoice::Best => caps,
        ModeChoice::Legacy => caps.in_mode(Mode::Legacy),
        ModeChoice::Scalable => caps.in_mode(Mode::Scalable),
    }
}
