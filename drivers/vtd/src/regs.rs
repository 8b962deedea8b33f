//! Register protocol: commands that are acknowledged, and nothing about what they are for.

use crate::capabilities::Capabilities;
use crate::spec::registers::*;
use core::time::Duration;
use iommu_core::hw::{HwError, Wait};
use iommu_driver::GONE;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_hal::wait::poll;
use tock_registers::LocalRegisterCopy;
use tock_registers::fields::Field;

/// Bits of the status register that describe a lasting state. The others report one-shot commands, and written back to
/// the command register would repeat them (section 11.4.4.1).
const LASTING: u32 = 0x96ff_ffff;

/// A unit's registers, with the limit for every wait.
pub(crate) struct Regs<R> {
    io: R,
    timeout: Duration,
}

impl<R: Registers> Regs<R> {
    pub(crate) fn new(io: R, timeout: Duration) -> Self {
        Self { io, timeout }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn io(&self) -> &R {
        &self.io
    }

    /// Reads the capabilities and checks that there is a unit at all, and that the window holds what they point to.
    pub(crate) fn capabilities(&self) -> Result<Capabilities, HwError> {
        if self.io.len() < FIXED_END {
            return Err(HwError::Hardware("the register window is too short"));
        }
        let (version, cap, ecap) = (self.io.read32(VER), self.io.read64(CAP_REG), self.io.read64(ECAP_REG));
        if version == u32::MAX || cap == u64::MAX || ecap == u64::MAX {
            return Err(GONE);
        }
        let capabilities = Capabilities::new(cap, ecap).with_version(version);
        capabilities.check_records(self.io.len())?;
        Ok(capabilities)
    }

    /// The global status.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where nobody answers: the reserved bits of a unit that is there read zero.
    pub(crate) fn status(&self) -> Result<LocalRegisterCopy<u32, GSTS::Register>, HwError> {
        match self.io.read32(GSTS_REG) {
            u32::MAX => Err(GONE),
            status => Ok(LocalRegisterCopy::new(status)),
        }
    }

    /// Turns a lasting state on or off and waits until the status agrees. The caller serialises commands.
    pub(crate) fn set<H: Hal>(
        &self,
        hal: &H,
        field: Field<u32, GSTS::Register>,
        on: bool,
        name: &'static str,
    ) -> Result<(), HwError> {
        let bit = field.mask << field.shift;
        let state = self.status()?.get() & LASTING;
        self.io.write32(GCMD_REG, if on { state | bit } else { state & !bit });
        self.wait(hal, name, || Ok(self.status()?.is_set(field) == on))
    }

    /// Gives a one-shot command and waits until its status bit reads `done`. The caller serialises commands.
    pub(crate) fn trigger<H: Hal>(
        &self,
        hal: &H,
        field: Field<u32, GSTS::Register>,
        done: bool,
        name: &'static str,
    ) -> Result<(), HwError> {
        let bit = field.mask << field.shift;
        self.io.write32(GCMD_REG, self.status()?.get() & LASTING | bit);
        self.wait(hal, name, || Ok(self.status()?.is_set(field) == done))
    }

    /// Has hardware take RTADDR: a table and its mode. The caller serialises commands.
    pub(crate) fn set_root<H: Hal>(
        &self,
        hal: &H,
        root: LocalRegisterCopy<u64, RTADDR::Register>,
    ) -> Result<(), HwError> {
        self.io.write64(RTADDR_REG, root.get());
        self.trigger(hal, GSTS::RTPS, true, "GSTS.RTPS")
    }

    /// The mode that hardware translates in, where it translates (RTADDR.TTM).
    pub(crate) fn table_mode(&self) -> u64 {
        LocalRegisterCopy::<u64, RTADDR::Register>::new(self.io.read64(RTADDR_REG)).read(RTADDR::TTM)
    }

    /// Polls until `ready`, or fails at the deadline, or where nobody answers.
    pub(crate) fn wait<H: Hal>(
        &self,
        hal: &H,
        name: &'static str,
        ready: impl Fn() -> Result<bool, HwError>,
    ) -> Result<(), HwError> {
        let answer = || match ready() {
            Ok(ready) => ready.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        poll(hal, self.timeout, answer).unwrap_or(Err(HwError::TimedOut(Wait::Status(name))))
    }

    /// Turns protected memory regions off, once translation protects in their place.
    pub(crate) fn disable_protected_memory<H: Hal>(&self, hal: &H) -> Result<(), HwError> {
        let protected = || LocalRegisterCopy::<u32, PMEN::Register>::new(self.io.read32(PMEN_REG));
        if !protected().is_set(PMEN::PRS) {
            return Ok(());
        }
        let mut value = protected();
        value.modify(PMEN::EPM::CLEAR);
        self.io.write32(PMEN_REG, value.get());
        self.wait(hal, "PMEN.PRS", || Ok(!protected().is_set(PMEN::PRS)))
    }
}
