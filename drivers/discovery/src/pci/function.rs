//! A function as the core sees it: what it can do, switched by its configuration space.

use super::{Ats, Capabilities, ConfigAccess, Pasid, PciError};
use iommu_core::device::{Feature, Features, Function};
use iommu_core::hw::{HwError, StreamId};

/// Command in bits 15:0; status in 31:16, of which ones clear.
const COMMAND_AT: u16 = 4;
const BUS_MASTER: u32 = 1 << 2;
const COMMAND: u32 = 0xffff;

/// Offsets in the capabilities, and bits there.
const ATS_CONTROL: u16 = 4;
const ATS_ENABLE: u32 = 1 << 31;
const ATS_STU: u32 = 0x1f << 16;
const PASID_CONTROL: u16 = 4;
const PASID_ENABLE: u32 = 1 << 16;
/// Enable, the right to execute, privileged mode.
const PASID_SWITCHES: u32 = 7 << 16;
/// Control in bits 15:0; status in 31:16, of which ones clear.
const PRI_CONTROL: u16 = 4;
const PRI_ENABLE: u32 = 1;

/// The function that a virtual one belongs to. Its own registers are where what both share is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysicalFunction {
    /// Its id, as the unit sees it.
    pub stream: StreamId,
    /// Its ATS capability, if any: queue depth and smallest translation unit are its.
    pub ats: Option<Ats>,
}

/// What a function may do, by what is known outside of its configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PciConfig {
    /// It may cache translations: see [`crate::ats::ats_allowed`].
    pub ats: bool,
    /// Requests with a PASID reach the unit with it: see [`crate::pci::AdiRules`].
    pub pasid: bool,
    /// The function that it is a virtual one of; `None` where it is none.
    pub physical: Option<PhysicalFunction>,
}

/// One PCI function, for the core to switch. Every write is read back.
///
/// Once ATS is off, writes that the function had sent translated have arrived, as the answer to a read does not overtake
/// them. A read that is still on its way is for the unit to refuse: its answer goes to a function that asked for it before.
///
/// Resetting the function switches all features off in hardware, which this does not notice: before a reset they are
/// switched off through [the core](iommu_core::device::Device::disable).
pub struct PciFunction<C> {
    config: C,
    capabilities: Capabilities,
    allowed: PciConfig,
}

impl<C: ConfigAccess> PciFunction<C> {
    /// The function behind `config`. Page requests, address translation services and PASIDs that firmware left on are
    /// switched off, in that order: caches begin empty. Bus mastering stays as it is.
    ///
    /// # Errors
    ///
    /// [`PciError`] where its capabilities cannot be read, or a feature does not go off.
    pub fn new(config: C, allowed: PciConfig) -> Result<Self, PciError> {
        let capabilities = Capabilities::read(&config)?;
        let function = Self { config, capabilities, allowed };
        if let Some(pri) = capabilities.pri.filter(|pri| pri.enabled) {
            function.change(at(pri.offset, PRI_CONTROL), 0xffff, PRI_ENABLE, 0)?;
        }
        if let Some(ats) = capabilities.ats.filter(|ats| ats.enabled) {
            function.change(at(ats.offset, ATS_CONTROL), u32::MAX, ATS_ENABLE, 0)?;
        }
        if let Some(pasid) = capabilities.pasid.filter(|pasid| pasid.enabled) {
            function.change(at(pasid.offset, PASID_CONTROL), u32::MAX, PASID_SWITCHES, 0)?;
        }
        Ok(function)
    }

    /// What its configuration space said in the beginning.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Its configuration space.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// Its capabilities as they are now: what is on is on since.
    ///
    /// # Errors
    ///
    /// As for [`Capabilities::read`].
    pub fn read_capabilities(&self) -> Result<Capabilities, PciError> {
        Capabilities::read(&self.config)
    }

    /// Makes the bits in `which` of the register at `offset` those of `value`; those outside of `kept` are written as zeros.
    fn change(&self, offset: u16, kept: u32, which: u32, value: u32) -> Result<(), PciError> {
        let before = self.config.read32(offset);
        if before == u32::MAX {
            return Err(PciError::Absent { offset });
        }
        self.config.write32(offset, before & kept & !which | value);
        // This also waits for what the function had sent before it took the write: its answer does not overtake that.
        let after = self.config.read32(offset);
        if after == u32::MAX {
            return Err(PciError::Absent { offset });
        }
        if after & which == value {
            return Ok(());
        }
        // As it was, as far as it lets itself be changed.
        self.config.write32(offset, before & kept);
        let _ = self.config.read32(offset);
        Err(PciError::Stuck { offset, written: value, read: after & which })
    }

    /// Whether the bits `which` of the register at `offset` are all set.
    fn is_set(&self, offset: u16, which: u32) -> Result<bool, PciError> {
        match self.config.read32(offset) {
            u32::MAX => Err(PciError::Absent { offset }),
            word => Ok(word & which == which),
        }
    }

    /// The ATS capability, where it may be used.
    fn ats(&self) -> Option<Ats> {
        // The unit translates whole pages: an address that is not aligned would have been the function's own business.
        let usable = self.capabilities.ats.filter(|ats| self.allowed.ats && ats.page_aligned);
        match self.allowed.physical {
            None => usable,
            Some(physical) => usable.and(physical.ats).and(usable),
        }
    }

    /// The PASID capability, where it may be used. A virtual function has none.
    fn pasid(&self) -> Option<Pasid> {
        let is_physical = self.allowed.physical.is_none();
        self.capabilities.pasid.filter(|pasid| self.allowed.pasid && is_physical && pasid.bits > 0)
    }

    fn switch_ats(&self, on: bool) -> Result<(), HwError> {
        let ats = self.ats().ok_or(HwError::Unsupported("ATS"))?;
        let place = at(ats.offset, ATS_CONTROL);
        if !on {
            return Ok(self.change(place, u32::MAX, ATS_ENABLE, 0)?);
        }
        if self.is_set(place, ATS_ENABLE)? {
            return Ok(());
        }
        // A virtual function's own field is not used, and the physical one's must be what the unit has: 4 KiB.
        let own = self.allowed.physical.is_none();
        let shared = self.allowed.physical.and_then(|physical| physical.ats);
        if shared.is_some_and(|ats| ats.stu != 0) {
            return Err(HwError::Hardware("the smallest translation unit of the physical function is not 4 KiB"));
        }
        let which = if own { ATS_ENABLE | ATS_STU } else { ATS_ENABLE };
        Ok(self.change(place, u32::MAX, which, ATS_ENABLE)?)
    }

    fn switch_pasid(&self, on: bool) -> Result<(), HwError> {
        let pasid = self.pasid().ok_or(HwError::Unsupported("PASID"))?;
        if let Some(ats) = self.capabilities.ats
            && self.is_set(at(ats.offset, ATS_CONTROL), ATS_ENABLE)?
        {
            return Err(HwError::Hardware("PASIDs are switched while ATS is on"));
        }
        let value = if on { PASID_ENABLE } else { 0 };
        // Neither the right to execute nor privileged mode.
        Ok(self.change(at(pasid.offset, PASID_CONTROL), u32::MAX, PASID_SWITCHES, value)?)
    }
}

/// A register of the capability at `offset`: inside of configuration space, as the capability was read whole.
const fn at(offset: u16, register: u16) -> u16 {
    offset.saturating_add(register)
}

impl From<PciError> for HwError {
    fn from(error: PciError) -> Self {
        Self::Hardware(match error {
            PciError::Absent { .. } => "the function does not answer",
            PciError::Stuck { .. } => "the function does not take what is written to its configuration space",
            PciError::Loop { .. } | PciError::OutOfPlace { .. } => "the function's list of capabilities is broken",
            PciError::Length { .. } | PciError::Field { .. } => "a capability of the function is broken",
        })
    }
}

impl<C: ConfigAccess> Function for PciFunction<C> {
    fn features(&self) -> Features {
        let ats = self.ats();
        // A virtual function's queue is its physical one's.
        let queue = self.allowed.physical.and_then(|physical| physical.ats).or(ats);
        Features {
            pasid_bits: self.pasid().map_or(0, |pasid| pasid.bits),
            ats: ats.is_some(),
            ats_queue_depth: queue.map_or(0, |ats| ats.queue_depth),
            ats_global_invalidate: ats.is_some_and(|ats| ats.global_invalidate),
            physical: self.allowed.physical.map(|physical| physical.stream),
            pri: false,
        }
    }

    fn set_feature(&self, feature: Feature, on: bool) -> Result<(), HwError> {
        match feature {
            Feature::Ats => self.switch_ats(on),
            Feature::Pasid => self.switch_pasid(on),
            Feature::Pri => Err(HwError::Unsupported("PRI")),
        }
    }

    fn set_bus_master(&self, on: bool) -> Result<(), HwError> {
        let value = if on { BUS_MASTER } else { 0 };
        Ok(self.change(COMMAND_AT, COMMAND, BUS_MASTER, value)?)
    }
}
