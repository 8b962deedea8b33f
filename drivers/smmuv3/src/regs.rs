//! Register protocol: steps that are acknowledged, and nothing about what they are for.

use crate::capabilities::Capabilities;
use crate::spec::registers::*;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use iommu_core::hw::{HwError, Wait};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_hal::wait::poll;
use spin::Mutex;
use tock_registers::LocalRegisterCopy;

/// Bits of CR0 that CR0ACK repeats.
const CR0_ACKNOWLEDGED: u32 = 0x1df;
/// Bytes of a page of registers.
const PAGE: usize = 0x1_0000;
/// Bits of IRQ_CTRL that IRQ_CTRLACK repeats.
const IRQ_CTRL_ACKNOWLEDGED: u32 = 0x7;
/// How often GERROR is looked at for others that came meanwhile. Where they come for ever, the next one to come looks.
const LOOKS: u32 = 8;

/// A unit's registers, with the limit for every wait.
pub(crate) struct Regs<R> {
    io: R,
    timeout: Duration,
    /// The registers of page 1 are in page 0.
    one_page: bool,
    /// GERRORN is read, changed and written by whoever handles errors of the queue or of everything else.
    gerrorn: Mutex<()>,
    /// Somebody came for errors while another was at GERRORN, and went without.
    missed: AtomicBool,
    /// Errors that were acknowledged for whoever was missed, and that nobody was told of yet.
    taken: AtomicU32,
}

impl<R: Registers> Regs<R> {
    pub(crate) fn new(io: R, timeout: Duration, one_page: bool) -> Self {
        let (gerrorn, missed, taken) = (Mutex::new(()), AtomicBool::new(false), AtomicU32::new(0));
        Self { io, timeout, one_page, gerrorn, missed, taken }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn io(&self) -> &R {
        &self.io
    }

    /// Reads the capabilities and checks that there is a unit at all, and that the window holds both pages.
    pub(crate) fn capabilities(&self) -> Result<Capabilities, HwError> {
        if self.io.len() < self.in_page(FIXED_END) {
            return Err(HwError::Hardware("the register window is too short"));
        }
        let mut idr = [0; IDR_COUNT];
        for (register, offset) in idr.iter_mut().zip((IDR0_REG..).step_by(4)) {
            *register = self.io.read32(offset);
        }
        if idr[..2].contains(&u32::MAX) || self.io.read32(CR0ACK_REG) == u32::MAX {
            return Err(HwError::Hardware("the registers read all ones: no unit answers"));
        }
        let caps = Capabilities::new(idr, self.io.read32(AIDR_REG));
        Ok(caps.with_implementation(self.io.read32(IIDR_REG)))
    }

    /// Where a register of page 1 is.
    pub(crate) fn in_page(&self, offset: usize) -> usize {
        if self.one_page { offset % PAGE } else { offset }
    }

    /// Reads an index of the event queue.
    pub(crate) fn event_index(&self, register: usize) -> u32 {
        self.io.read32(self.in_page(register))
    }

    /// Writes an index of the event queue.
    pub(crate) fn write_event_index(&self, register: usize, value: u32) {
        self.io.write32(self.in_page(register), value);
    }

    /// What the unit was told to have on.
    pub(crate) fn cr0(&self) -> u32 {
        self.io.read32(CR0_REG) & CR0_ACKNOWLEDGED
    }

    /// Whether hardware has taken over what CR0 says. Until it has, CR0 must not be written (section 6.3, SMMU_CR0).
    pub(crate) fn is_settled(&self) -> bool {
        self.io.read32(CR0ACK_REG) & CR0_ACKNOWLEDGED == self.cr0()
    }

    /// Waits until an earlier write of CR0 has been taken over.
    pub(crate) fn settle<H: Hal>(&self, hal: &H) -> Result<(), HwError> {
        self.wait(hal, "SMMU_CR0ACK", || self.is_settled())
    }

    /// Writes CR0 and waits until CR0ACK agrees; `name` is what changes.
    pub(crate) fn set_cr0<H: Hal>(&self, hal: &H, value: u32, name: &'static str) -> Result<(), HwError> {
        self.io.write32(CR0_REG, value);
        self.wait(hal, name, || self.io.read32(CR0ACK_REG) & CR0_ACKNOWLEDGED == value & CR0_ACKNOWLEDGED)
    }

    /// Has accesses aborted whenever translation is off, by the protocol of SMMU_GBPA.Update.
    pub(crate) fn abort_without_translation<H: Hal>(&self, hal: &H) -> Result<(), HwError> {
        let current = || LocalRegisterCopy::<u32, GBPA::Register>::new(self.io.read32(GBPA_REG));
        let settled = || !current().is_set(GBPA::UPDATE);
        self.wait(hal, "SMMU_GBPA.Update", settled)?;
        let mut value = current();
        value.modify(GBPA::ABORT::SET + GBPA::UPDATE::SET);
        self.io.write32(GBPA_REG, value.get());
        self.wait(hal, "SMMU_GBPA.Update", settled)?;
        match current().is_set(GBPA::ABORT) {
            true => Ok(()),
            false => Err(HwError::Hardware("SMMU_GBPA.ABORT does not stay set")),
        }
    }

    /// Writes IRQ_CTRL, which hardware must have taken over as it was, and waits until IRQ_CTRLACK agrees.
    pub(crate) fn set_irq_ctrl<H: Hal>(&self, hal: &H, value: u32) -> Result<(), HwError> {
        let name = "SMMU_IRQ_CTRLACK";
        let follows = |value| move || self.io.read32(IRQ_CTRLACK_REG) & IRQ_CTRL_ACKNOWLEDGED == value;
        let before = self.io.read32(IRQ_CTRL_REG) & IRQ_CTRL_ACKNOWLEDGED;
        // A change that hardware has not taken over yet must not be followed by another (section 6.3.14).
        self.wait(hal, name, follows(before))?;
        self.io.write32(IRQ_CTRL_REG, value);
        self.wait(hal, name, follows(value))
    }

    /// Global errors that are active, as bits of GERROR; none where nobody answers.
    pub(crate) fn active_errors(&self) -> u32 {
        match self.io.read32(GERROR_REG) {
            u32::MAX => 0,
            errors => errors ^ self.io.read32(GERRORN_REG),
        }
    }

    /// Acknowledges those of the errors `which` that are active.
    pub(crate) fn acknowledge(&self, which: u32) {
        let _gerrorn = self.gerrorn.lock();
        self.toggle(which);
    }

    /// As [`acknowledge`](Self::acknowledge), unless another is at it: then they stay active, and are found again.
    pub(crate) fn try_acknowledge(&self, which: u32) {
        if let Some(gerrorn) = self.gerrorn.try_lock() {
            self.toggle(which);
            drop(gerrorn);
            if self.missed.load(Ordering::SeqCst) {
                self.taken.fetch_or(self.take_errors(), Ordering::SeqCst);
            }
        }
    }

    /// Takes the active errors but those of the command queue, which are its own to handle, and acknowledges them. Where
    /// another is at it there are none, as this may run in an interrupt that came while the lock was held: they are acknowledged
    /// by that other, and are among those of a later call.
    pub(crate) fn take_errors(&self) -> u32 {
        let mut errors = 0;
        for _ in 0..LOOKS {
            // Before the try: whoever holds the lock now looks at this once it has given it back. Interrupts of errors are
            // edges, so that nobody else would.
            self.missed.store(true, Ordering::SeqCst);
            let Some(gerrorn) = self.gerrorn.try_lock() else { break };
            self.missed.store(false, Ordering::SeqCst);
            errors |= self.toggle(!GERROR::CMDQ_ERR::SET.value) | self.taken.swap(0, Ordering::SeqCst);
            drop(gerrorn);
            if !self.missed.load(Ordering::SeqCst) {
                break;
            }
        }
        errors
    }

    fn toggle(&self, which: u32) -> u32 {
        let active = self.active_errors() & which;
        if active != 0 {
            self.io.write32(GERRORN_REG, self.io.read32(GERRORN_REG) ^ active);
        }
        active
    }

    /// Polls until `ready`, or fails at the deadline.
    pub(crate) fn wait<H: Hal>(&self, hal: &H, name: &'static str, ready: impl Fn() -> bool) -> Result<(), HwError> {
        poll(hal, self.timeout, || ready().then_some(())).ok_or(HwError::TimedOut(Wait::Status(name)))
    }
}
