//! The doorbell of `tests/qemu-plugin` (its README has the registers): DMA of a function with any PASID, or with none.
//! It lies somewhere in a BAR of the function, where its identification tells it.
//!
//! A request is complete once it is rung, and unlike an edu the doorbell tells whether it was let through.

use crate::edu::BUFFER_SIZE;
use crate::hal::map_registers;
use crate::pci::PciFunction;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::{Iova, PAGE_SIZE, PhysAddr};
use iommu_core::hw::{AccessKind, Pasid};
use iommu_hal::regs::Registers;

/// What the first eight bytes of a doorbell read as.
pub const IDENTIFICATION: u64 = u64::from_le_bytes(*b"PASIDDMA");
/// The version of the registers below.
pub const VERSION: u32 = 1;
/// In place of a PASID: none.
pub const NO_PASID: u32 = u32::MAX;
/// Where the buffer lies in the window.
pub const BUFFER: usize = 0x1000;
/// Length of the window in bytes.
pub const WINDOW: usize = BUFFER + BUFFER_SIZE;

/// Register offsets.
#[allow(missing_docs, reason = "the README of the plugin has them")]
pub mod reg {
    pub const IDENTIFICATION: usize = 0x00;
    pub const VERSION: usize = 0x08;
    pub const PASID_BITS: usize = 0x0c;
    pub const CONTROL: usize = 0x10;
    pub const STATUS: usize = 0x14;
    pub const ADDRESS: usize = 0x18;
    pub const LENGTH: usize = 0x20;
    pub const PASID: usize = 0x24;
    pub const DIRECTION: usize = 0x28;
    pub const DOORBELL: usize = 0x2c;
    pub const DONE_PASID: usize = 0x30;
    pub const DONE_BYTES: usize = 0x34;
    pub const COUNT: usize = 0x38;
}

/// All bytes were moved.
pub const MOVED: u32 = 1;
/// The unit refused.
pub const REFUSED: u32 = 2;
/// A PASID, while the function may send none.
pub const NO_PASIDS: u32 = 4;

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DoorbellError {
    /// More than the buffer holds, or nothing.
    BadLength(usize),
    /// The function may send no PASIDs.
    PasidsAreOff,
    /// The request was not made: the status.
    Status(u32),
    /// The completion is of another PASID, length or number than the request.
    Mixed,
}

impl fmt::Display for DoorbellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadLength(len) => write!(f, "{len:#x} bytes do not fit in the buffer"),
            Self::PasidsAreOff => f.write_str("PASIDs are off in the function"),
            Self::Status(status) => write!(f, "the doorbell says status {status}"),
            Self::Mixed => f.write_str("the completion is of another request"),
        }
    }
}

/// A doorbell.
pub struct Doorbell {
    registers: Box<dyn Registers>,
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").finish_non_exhaustive()
    }
}

impl Doorbell {
    /// The doorbell with these registers; `None` where they are not one's.
    pub fn new(registers: Box<dyn Registers>) -> Option<Self> {
        let is_one =
            registers.read64(reg::IDENTIFICATION) == IDENTIFICATION && registers.read32(reg::VERSION) == VERSION;
        is_one.then_some(Self { registers })
    }

    /// The doorbell of `function`: the first page of its memory BARs that says that it is one. `None` where none does.
    ///
    /// # Safety
    ///
    /// The function decodes its memory BARs, at addresses of its own; a read of any of its registers does nothing; there
    /// is one driver for it; and what its DMA may reach, while it is bus master, is accounted for.
    pub unsafe fn find(function: &PciFunction) -> Option<Self> {
        (0..function.bars.len()).find_map(|index| {
            let bar = function.memory_bar(index)?;
            let starts = (0..bar.len).step_by(PAGE_SIZE as usize).filter(|at| bar.len - at >= WINDOW as u64);
            // SAFETY: as the caller promises.
            starts.map(|at| bar.start.wrapping_add(at)).find_map(|start| unsafe { Self::at(start) })
        })
    }

    /// The doorbell at `start`, if there is one.
    ///
    /// # Safety
    ///
    /// There are [`WINDOW`] bytes of registers of the function; the rest is as for [`Doorbell::find`].
    unsafe fn at(start: PhysAddr) -> Option<Self> {
        // SAFETY: as the caller promises.
        let registers = unsafe { map_registers(start, WINDOW) }.ok()?;
        Self::new(Box::new(registers))
    }

    /// Width of PASIDs in bits, as the function knows it of its unit.
    pub fn pasid_bits(&self) -> u8 {
        self.registers.read32(reg::PASID_BITS) as u8
    }

    /// Lets the function send PASIDs, or no more.
    pub fn set_pasids(&self, on: bool) {
        self.registers.write32(reg::CONTROL, on.into());
    }

    /// Makes one request: `bytes` are what the device holds before, and after a read what it holds then. Returns whether
    /// it was let through.
    ///
    /// # Errors
    ///
    /// As [`DoorbellError`] says; no request was made, or nobody knows what came of it.
    pub fn request(
        &self,
        pasid: Option<Pasid>,
        access: AccessKind,
        iova: Iova,
        bytes: &mut [u8],
    ) -> Result<bool, DoorbellError> {
        let len = u32::try_from(bytes.len()).ok().filter(|len| (1..=BUFFER_SIZE as u32).contains(len));
        let len = len.ok_or(DoorbellError::BadLength(bytes.len()))?;
        let tag = pasid.map_or(NO_PASID, Pasid::get);
        let registers = &self.registers;
        for (at, word) in (BUFFER..).step_by(8).zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..word.len()].copy_from_slice(word);
            registers.write64(at, u64::from_le_bytes(whole));
        }
        let count = registers.read32(reg::COUNT);
        registers.write64(reg::ADDRESS, iova.get());
        registers.write32(reg::LENGTH, len);
        registers.write32(reg::PASID, tag);
        registers.write32(reg::DIRECTION, (access != AccessKind::Read).into());
        registers.write32(reg::DOORBELL, 1);

        let moved = match registers.read32(reg::STATUS) {
            MOVED => true,
            REFUSED => false,
            NO_PASIDS => return Err(DoorbellError::PasidsAreOff),
            status => return Err(DoorbellError::Status(status)),
        };
        let done = [reg::DONE_PASID, reg::DONE_BYTES, reg::COUNT].map(|at| registers.read32(at));
        if done != [tag, if moved { len } else { 0 }, count.wrapping_add(1)] {
            return Err(DoorbellError::Mixed);
        }
        if access == AccessKind::Read {
            for (at, word) in (BUFFER..).step_by(8).zip(bytes.chunks_mut(8)) {
                let whole = registers.read64(at).to_le_bytes();
                word.copy_from_slice(&whole[..word.len()]);
            }
        }
        Ok(moved)
    }
}

/// One part of a function: what sends requests with one PASID, and its own buffer. The parts share the doorbell, and the
/// window's buffer holds a part's bytes only while it makes a request.
#[derive(Debug)]
pub struct Part {
    doorbell: Arc<Doorbell>,
    pasid: Option<Pasid>,
    buffer: Vec<u8>,
}

impl Part {
    /// The part that tags its requests with `pasid`, or with none.
    pub fn new(doorbell: &Arc<Doorbell>, pasid: Option<Pasid>) -> Self {
        Self { doorbell: doorbell.clone(), pasid, buffer: vec![0; BUFFER_SIZE] }
    }

    /// Transfers `len` bytes between memory at `iova` and the start of the part's buffer. Returns whether it was let
    /// through.
    ///
    /// # Errors
    ///
    /// As for [`Doorbell::request`].
    pub fn transfer(&mut self, access: AccessKind, iova: Iova, len: usize) -> Result<bool, DoorbellError> {
        let bytes = self.buffer.get_mut(..len).ok_or(DoorbellError::BadLength(len))?;
        self.doorbell.request(self.pasid, access, iova, bytes)
    }
}
