//! QEMU's `edu` device (its docs/specs/edu.rst) as a source of DMA: a buffer of 4 KiB inside the device, and a
//! transfer between it and any address, once started.
//!
//! The device does not tell whether the IOMMU let a transfer through: one that was refused completes like any other,
//! a refused read leaving whatever it leaves in the buffer.

use crate::hal::map_registers;
use crate::pci::PciFunction;
use core::fmt;
use core::time::Duration;
use iommu_core::addr::Iova;
use iommu_hal::regs::{Mmio, Registers};
use iommu_hal::{Hal, wait};

/// Vendor and device id.
pub const IDS: (u16, u16) = (0x1234, 0x11e8);
/// Size of the device's buffer in bytes.
pub const BUFFER_SIZE: usize = 4096;

/// The buffer's address as the device counts.
const BUFFER: u64 = 0x4_0000;
/// How long to wait for a transfer. It takes 100 ms of the guest's time.
const PATIENCE: Duration = Duration::from_millis(400);

/// Register offsets.
mod reg {
    pub const IDENTIFICATION: usize = 0x00;
    pub const LIVENESS: usize = 0x04;
    pub const SOURCE: usize = 0x80;
    pub const DESTINATION: usize = 0x88;
    pub const COUNT: usize = 0x90;
    pub const COMMAND: usize = 0x98;
    /// One past the last register.
    pub const END: usize = 0xa0;
}

/// Starts a transfer; the device clears it when the transfer is over.
const RUN: u64 = 1;
/// From the device's buffer to memory; otherwise from memory to the buffer.
const TO_MEMORY: u64 = 1 << 1;

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EduError {
    /// The function has no memory BAR 0 with an address, or it cannot be mapped.
    NoRegisters,
    /// The registers are not an edu's: the identification that was read.
    NotEdu(u32),
    /// The range leaves the device's buffer, or is empty.
    BadRange {
        /// Where in the buffer it begins.
        offset: usize,
        /// How many bytes.
        len: usize,
    },
    /// A transfer is under way.
    Busy,
    /// The transfer did not end in time.
    TimedOut,
}

impl fmt::Display for EduError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoRegisters => f.write_str("no registers in BAR 0"),
            Self::NotEdu(id) => write!(f, "identification {id:#x} is not an edu's"),
            Self::BadRange { offset, len } => write!(f, "{len:#x} bytes at {offset:#x} leave the device's buffer"),
            Self::Busy => f.write_str("a transfer is under way"),
            Self::TimedOut => f.write_str("the transfer did not end in time"),
        }
    }
}

/// One edu device.
#[derive(Debug)]
pub struct Edu {
    registers: Mmio,
}

impl Edu {
    /// Whether `function` is an edu.
    pub fn is(function: &PciFunction) -> bool {
        (function.vendor, function.device) == IDS
    }

    /// The device behind `function`.
    ///
    /// # Safety
    ///
    /// The function decodes its memory BARs, at addresses of its own; there is one driver for it; and what its DMA may
    /// reach, while it is bus master, is accounted for.
    ///
    /// # Errors
    ///
    /// Where it has no registers or they are not an edu's.
    pub unsafe fn new(function: &PciFunction) -> Result<Self, EduError> {
        let bar = function.memory_bar(0).filter(|bar| bar.len >= reg::END as u64).ok_or(EduError::NoRegisters)?;
        // SAFETY: the BAR is the function's register window; the rest is as the caller promises.
        let registers = unsafe { map_registers(bar.start, reg::END) }.map_err(|_| EduError::NoRegisters)?;
        // Major and minor version above a mark.
        let id = registers.read32(reg::IDENTIFICATION);
        if id & 0xffff != 0x00ed {
            return Err(EduError::NotEdu(id));
        }
        Ok(Self { registers })
    }

    /// The identification register.
    pub fn identification(&self) -> u32 {
        self.registers.read32(reg::IDENTIFICATION)
    }

    /// Whether the device answers: it inverts what is written to its liveness register.
    pub fn is_alive(&self) -> bool {
        let mark = 0x1357_9bdf;
        self.registers.write32(reg::LIVENESS, mark);
        self.registers.read32(reg::LIVENESS) == !mark
    }

    /// Starts a read: `len` bytes of memory from `iova` to `offset` in the device's buffer.
    ///
    /// # Errors
    ///
    /// [`EduError::BadRange`], [`EduError::Busy`].
    pub fn start_read(&mut self, iova: Iova, offset: usize, len: usize) -> Result<(), EduError> {
        let buffer = self.check(offset, len)?;
        self.start(iova.get(), buffer, len, RUN);
        Ok(())
    }

    /// Starts a write: `len` bytes from `offset` in the device's buffer to memory from `iova`.
    ///
    /// # Errors
    ///
    /// [`EduError::BadRange`], [`EduError::Busy`].
    pub fn start_write(&mut self, iova: Iova, offset: usize, len: usize) -> Result<(), EduError> {
        let buffer = self.check(offset, len)?;
        self.start(buffer, iova.get(), len, RUN | TO_MEMORY);
        Ok(())
    }

    /// Whether a transfer is under way.
    pub fn is_busy(&self) -> bool {
        self.registers.read64(reg::COMMAND) & RUN != 0
    }

    /// Waits until no transfer is under way. When it returns without error, what a write has brought is visible.
    ///
    /// # Errors
    ///
    /// [`EduError::TimedOut`].
    pub fn wait(&self, hal: &impl Hal) -> Result<(), EduError> {
        wait::poll(hal, PATIENCE, || (!self.is_busy()).then_some(())).ok_or(EduError::TimedOut)
    }

    /// Where a range lies as the device counts. The device itself must never see one that leaves its buffer: older
    /// versions of QEMU abort.
    fn check(&self, offset: usize, len: usize) -> Result<u64, EduError> {
        let inside = len > 0 && offset.checked_add(len).is_some_and(|end| end <= BUFFER_SIZE);
        if !inside {
            return Err(EduError::BadRange { offset, len });
        }
        // While a transfer is under way the device ignores writes to these registers.
        if self.is_busy() { Err(EduError::Busy) } else { Ok(BUFFER + offset as u64) }
    }

    fn start(&mut self, source: u64, destination: u64, len: usize, command: u64) {
        self.registers.write64(reg::SOURCE, source);
        self.registers.write64(reg::DESTINATION, destination);
        self.registers.write64(reg::COUNT, len as u64);
        self.registers.write64(reg::COMMAND, command);
    }
}
