//! Capabilities that have to do with address translation, decoded (PCIe 7.5.3, 7.8.8, 7.9, 10.5).

use super::list::{extended, standard};
use super::{ConfigAccess, PciError, SPACE_LEN};
use crate::topology::PcieType;
use iommu_core::hw::RequesterId;

/// Command and status.
const COMMAND_AT: u16 = 4;
/// Ids of standard capabilities.
const EXPRESS: u32 = 0x10;
/// Ids of extended capabilities.
const ATS: u32 = 0x0f;
const SRIOV: u32 = 0x10;
const PRI: u32 = 0x13;
const PASID: u32 = 0x1b;
const DVSEC: u32 = 0x23;

/// The designated vendor-specific capability of Intel's scalable I/O virtualization: whose, and which.
const SIOV_VENDOR: u32 = 0x8086;
const SIOV_ID: u32 = 5;

/// The PCI Express capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Express {
    /// Where it begins.
    pub offset: u16,
    /// What kind of device or port the function is.
    pub port: PcieType,
}

/// The ATS capability: the function may have an address translation cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ats {
    /// Where it begins.
    pub offset: u16,
    /// Invalidations that the function takes at once, 1 to 31; 0 stands for 32. Always 0 in a virtual function, for which
    /// its physical one's counts.
    pub queue_depth: u8,
    /// It asks for translations of page-aligned addresses only.
    pub page_aligned: bool,
    /// It takes invalidations of all its PASIDs at once.
    pub global_invalidate: bool,
    /// Log2 of the smallest unit of translation in pages of 4 KiB (STU), when this was read.
    pub stu: u8,
    /// Whether it was on when this was read.
    pub enabled: bool,
}

/// The PASID capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pasid {
    /// Where it begins.
    pub offset: u16,
    /// Width of its PASIDs in bits, 0 to 20.
    pub bits: u8,
    /// It can ask for the right to execute. Left off.
    pub execute: bool,
    /// It can make privileged requests. Left off.
    pub privileged: bool,
    /// Whether it was on when this was read.
    pub enabled: bool,
}

/// The page request capability. Left off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pri {
    /// Where it begins.
    pub offset: u16,
    /// Whether it was on when this was read.
    pub enabled: bool,
}

/// The SR-IOV capability: the function is a physical one that can have virtual ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sriov {
    /// Where it begins.
    pub offset: u16,
    /// Whether the virtual functions are there.
    pub enabled: bool,
    /// How many there can be.
    pub total: u16,
    /// How many there are while enabled.
    pub count: u16,
    /// Routing id of the first, less the physical function's.
    pub first: u16,
    /// From each to the next.
    pub stride: u16,
}

impl Sriov {
    /// The routing ids of the virtual functions that are there, `physical` being that of the function itself. Up to where
    /// the fields lead out of the segment, or back to the function itself. To be read anew whenever the number of functions
    /// or ARI is changed, as the fields follow.
    pub fn virtual_functions(self, physical: RequesterId) -> impl Iterator<Item = RequesterId> {
        let count = if self.enabled { self.count.min(self.total) } else { 0 };
        let steps = (0..count).map_while(move |number| {
            let offset = u32::from(self.stride).checked_mul(number.into())?.checked_add(self.first.into())?;
            let id = u32::from(physical.get()).checked_add(offset)?;
            // A stride of zero would name one function twice.
            let is_new = offset != 0 && (number == 0 || self.stride != 0);
            u16::try_from(id).ok().filter(|_| is_new).map(RequesterId::new)
        });
        steps.into_iter()
    }
}

/// The capability of Intel's scalable I/O virtualization (DVSEC of vendor 0x8086, id 5): the function has assignable device
/// interfaces, told apart by PASID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Siov {
    /// Where it begins.
    pub offset: u16,
    /// The 16 bits at 0x0a: dependencies and flags, not looked at.
    pub flags: u16,
    /// Page sizes that the interfaces' registers can be laid out in: bit n stands for 2^(n + 12) bytes.
    pub supported_page_sizes: u32,
    /// The one they are laid out in: one bit, as above.
    pub system_page_size: u32,
    /// It has interrupt message storage of its own (IMS), so that its interfaces' interrupts need no MSI-X entries.
    pub ims: bool,
}

/// The capabilities of one function that have to do with address translation. Where a list has one several times, the first
/// counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// PCI Express; without it there are no extended ones.
    pub express: Option<Express>,
    /// Address translation services.
    pub ats: Option<Ats>,
    /// PASIDs.
    pub pasid: Option<Pasid>,
    /// Page requests.
    pub pri: Option<Pri>,
    /// Virtual functions.
    pub sriov: Option<Sriov>,
    /// Assignable device interfaces.
    pub siov: Option<Siov>,
}

impl Capabilities {
    /// Reads those of the function behind `config`. Reads each capability's header at most once, and nothing is written.
    ///
    /// # Errors
    ///
    /// [`PciError`]: such a function is not to be trusted with any of them.
    pub fn read(config: &dyn ConfigAccess) -> Result<Self, PciError> {
        // Not by the ids at offset 0: those of a virtual function are all ones.
        if config.read32(COMMAND_AT) == u32::MAX {
            return Err(PciError::Absent { offset: COMMAND_AT });
        }
        let mut found = Self::default();
        standard(config, &mut |offset, header| {
            if header & 0xff == EXPRESS && found.express.is_none() {
                let port = PcieType::new((header >> 20 & 0xf) as u8);
                found.express = Some(Express { offset, port });
            }
            Ok(())
        })?;
        if found.express.is_some() {
            extended(config, &mut |offset, header| found.add(config, offset, header & 0xffff))?;
        }
        Ok(found)
    }

    fn add(&mut self, config: &dyn ConfigAccess, offset: u16, id: u32) -> Result<(), PciError> {
        let read = |at| register(config, offset, at);
        match id {
            ATS if self.ats.is_none() => {
                let word = read(4)?;
                self.ats = Some(Ats {
                    offset,
                    queue_depth: (word & 0x1f) as u8,
                    page_aligned: word & 1 << 5 != 0,
                    global_invalidate: word & 1 << 6 != 0,
                    stu: (word >> 16 & 0x1f) as u8,
                    enabled: word & 1 << 31 != 0,
                });
            }
            PASID if self.pasid.is_none() => {
                let word = read(4)?;
                let bits = (word >> 8 & 0x1f) as u8;
                if bits > 20 {
                    return Err(PciError::Field { offset: offset.saturating_add(4), value: word });
                }
                self.pasid = Some(Pasid {
                    offset,
                    bits,
                    execute: word & 1 << 1 != 0,
                    privileged: word & 1 << 2 != 0,
                    enabled: word & 1 << 16 != 0,
                });
            }
            PRI if self.pri.is_none() => self.pri = Some(Pri { offset, enabled: read(4)? & 1 != 0 }),
            SRIOV if self.sriov.is_none() => {
                let (control, total, count, first) = (read(8)?, read(0xc)? >> 16, read(0x10)?, read(0x14)?);
                self.sriov = Some(Sriov {
                    offset,
                    enabled: control & 1 != 0,
                    total: total as u16,
                    count: count as u16,
                    first: first as u16,
                    stride: (first >> 16) as u16,
                });
            }
            DVSEC if self.siov.is_none() => self.siov = siov(config, offset)?,
            _ => {}
        }
        Ok(())
    }
}

/// The register `at` of the capability at `offset`.
fn register(config: &dyn ConfigAccess, offset: u16, at: u16) -> Result<u32, PciError> {
    let place = offset.checked_add(at).filter(|place| *place <= SPACE_LEN - 4);
    let place = place.ok_or(PciError::Length { offset, len: at.saturating_add(4) })?;
    match config.read32(place) {
        u32::MAX => Err(PciError::Absent { offset: place }),
        word => Ok(word),
    }
}

/// The capability of scalable I/O virtualization, where the designated vendor-specific one at `offset` is that.
fn siov(config: &dyn ConfigAccess, offset: u16) -> Result<Option<Siov>, PciError> {
    /// Up to the end of its capabilities register.
    const LEAST: u16 = 0x18;
    let (vendor, id) = (register(config, offset, 4)?, register(config, offset, 8)?);
    if vendor & 0xffff != SIOV_VENDOR || id & 0xffff != SIOV_ID {
        return Ok(None);
    }
    let len = (vendor >> 20) as u16;
    if len < LEAST || offset.checked_add(len).is_none_or(|end| end > SPACE_LEN) {
        return Err(PciError::Length { offset, len });
    }
    Ok(Some(Siov {
        offset,
        flags: (id >> 16) as u16,
        supported_page_sizes: register(config, offset, 0xc)?,
        system_page_size: register(config, offset, 0x10)?,
        ims: register(config, offset, 0x14)? & 1 != 0,
    }))
}
