//! Invalidation through registers (section 6.5.1): for units without a queue, in legacy mode.
//!
//! One command at a time for each of the two caches, and each is waited for. There are none for what legacy mode without
//! a queue has not: PASIDs, device TLBs, interrupt entries.

use crate::capabilities::{Capabilities, names};
use crate::queue::Marker;
use crate::regs::Regs;
use crate::spec::invalidation::{ContextScope, Invalidation, IotlbScope};
use crate::spec::invalidation_registers::*;
use core::sync::atomic::{AtomicU32, Ordering};
use iommu_core::hw::{HwError, Wait};
use iommu_driver::GONE;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_hal::wait::Deadline;
use spin::Mutex;
use tock_registers::LocalRegisterCopy;

/// The registers of one unit.
pub(crate) struct RegisterInvalidation {
    /// Offset of IVA; IOTLB follows.
    iotlb: usize,
    /// Held from a command to its end.
    busy: Mutex<()>,
    /// Batches that were confirmed.
    done: AtomicU32,
}

/// A command register: where, the bit that hardware clears at the end, and where it says what it did.
struct Command {
    offset: usize,
    pending: u64,
    granularity: u32,
    name: &'static str,
}

const CONTEXT: Command =
    Command { offset: CCMD_REG, pending: 1 << 63, granularity: CCMD::CAIG.shift as u32, name: "CCMD.ICC" };

impl RegisterInvalidation {
    pub(crate) fn new(caps: &Capabilities) -> Result<Self, HwError> {
        if !caps.register_invalidation() {
            // Such a unit has neither.
            return Err(HwError::Missing(names::QUEUED_INVALIDATION));
        }
        Ok(Self { iotlb: caps.iotlb_offset(), busy: Mutex::new(()), done: AtomicU32::new(0) })
    }

    pub(crate) fn marker(&self) -> Marker {
        self.done.load(Ordering::Relaxed)
    }

    /// See [`crate::queue::Invalidator::run`].
    pub(crate) fn run<H: Hal, R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        batch: &[Invalidation],
    ) -> Result<Marker, HwError> {
        for invalidation in batch {
            match *invalidation {
                Invalidation::ContextCache(scope) => self.context_cache(hal, regs, scope)?,
                Invalidation::Iotlb { scope, drain } => {
                    let mut command = LocalRegisterCopy::<u64, IOTLB::Register>::new(0);
                    command.write(
                        IOTLB::IVT::SET + IOTLB::DW.val(drain.writes.into()) + IOTLB::DR.val(drain.reads.into()),
                    );
                    self.iotlb(hal, regs, scope, command)?;
                }
                Invalidation::PasidCache(_) | Invalidation::PasidIotlb { .. } => {
                    return Err(HwError::Unsupported("PASIDs without queued invalidation"));
                }
                Invalidation::DeviceTlb { .. } | Invalidation::PasidDeviceTlb { .. } => {
                    return Err(HwError::Unsupported("device TLBs without queued invalidation"));
                }
                Invalidation::InterruptEntries { .. } => {
                    return Err(HwError::Unsupported("interrupt entries without queued invalidation"));
                }
            }
        }
        Ok(self.done.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    fn context_cache<H: Hal, R: Registers>(&self, hal: &H, regs: &Regs<R>, scope: ContextScope) -> Result<(), HwError> {
        let mut command = LocalRegisterCopy::<u64, CCMD::Register>::new(0);
        command.write(match scope {
            ContextScope::Global => CCMD::CIRG::Global,
            ContextScope::Domain(domain) => CCMD::CIRG::Domain + CCMD::DID.val(domain.into()),
            ContextScope::Device { domain, source } => {
                CCMD::CIRG::Device + CCMD::DID.val(domain.into()) + CCMD::SID.val(source.get().into())
            }
        });
        command.modify(CCMD::ICC::SET);
        self.command(hal, regs, &CONTEXT, command.get(), command.read(CCMD::CIRG), None)
    }

    fn iotlb<H: Hal, R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        scope: IotlbScope,
        mut command: LocalRegisterCopy<u64, IOTLB::Register>,
    ) -> Result<(), HwError> {
        let mut address = None;
        command.modify(match scope {
            IotlbScope::Global => IOTLB::IIRG::Global,
            IotlbScope::Domain(domain) => IOTLB::IIRG::Domain + IOTLB::DID.val(domain.into()),
            IotlbScope::Pages { domain, pages } => {
                let mut value = LocalRegisterCopy::<u64, IVA::Register>::new(0);
                value.write(
                    IVA::ADDR.val(pages.address >> 12)
                        + IVA::AM.val(pages.mask.into())
                        + IVA::IH.val(pages.leaves_only.into()),
                );
                address = Some(value.get());
                IOTLB::IIRG::Pages + IOTLB::DID.val(domain.into())
            }
        });
        let register = Command {
            offset: self.iotlb + IOTLB_OFFSET,
            pending: 1 << 63,
            granularity: IOTLB::IAIG.shift as u32,
            name: "IOTLB.IVT",
        };
        self.command(hal, regs, &register, command.get(), command.read(IOTLB::IIRG), address)
    }

    /// Gives one command and waits for its end.
    fn command<H: Hal, R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        register: &Command,
        value: u64,
        wanted: u64,
        address: Option<u64>,
    ) -> Result<(), HwError> {
        let timed_out = HwError::TimedOut(Wait::Status(register.name));
        let deadline = Deadline::after(hal, regs.timeout());
        // Whoever waits for hardware with it held gives up at his own deadline.
        let _busy = loop {
            if let Some(busy) = self.busy.try_lock() {
                break busy;
            }
            if deadline.has_passed(hal) {
                return Err(timed_out);
            }
            hal.relax();
        };
        let idle = || {
            regs.wait(hal, register.name, || match regs.io().read64(register.offset) {
                u64::MAX => Err(GONE),
                value => Ok(value & register.pending == 0),
            })
        };
        // One that was given up on may still be pending.
        idle()?;
        if let Some(address) = address {
            regs.io().write64(self.iotlb + IVA_OFFSET, address);
        }
        regs.io().write64(register.offset, value);
        idle()?;
        // 0 is none, and each of the others takes more than the next.
        match regs.io().read64(register.offset) >> register.granularity & 3 {
            0 => Err(HwError::Hardware("an invalidation through registers was not carried out")),
            done if done > wanted => {
                Err(HwError::Hardware("an invalidation through registers was narrower than asked"))
            }
            _ => Ok(()),
        }
    }
}
