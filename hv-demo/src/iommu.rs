//! What the demo needs of an IOMMU beyond [`hw::Unit`], alike for every architecture.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{self, AccessKind, Fault, HwError, Pasid, Stage, Stream};

/// A unit of the demo.
pub trait DemoUnit: hw::Unit {
    /// Where its registers are, and what they say it can do, in words.
    fn describe(&self, f: &mut dyn fmt::Write) -> fmt::Result;

    /// Its registers, decoded; nothing where its driver prints none.
    fn print_registers(&self, _: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }

    /// The way of a request through its tables, decoded, and where a write ends: `None` where it is refused. Nothing at all
    /// where its driver prints none.
    fn print_walk(&self, _: Stream, _: Iova, _: &mut dyn fmt::Write) -> Option<Option<PhysAddr>> {
        None
    }

    /// Has hardware complete everything submitted so far, and returns the number by which its own trace can tell when.
    ///
    /// # Errors
    ///
    /// Where hardware does not confirm.
    fn sync(&self) -> Result<u32, HwError>;

    /// The number of the newest completion, whoever asked for it.
    fn marker(&self) -> u32;

    /// Calls `visit` with the name and first frame of everything that the unit reads, its tables and queues.
    fn for_each_structure(&self, visit: &mut dyn FnMut(&dyn fmt::Display, PhysAddr));

    /// The faults by which this hardware reports that it refused `access` of `stream` to the `len` bytes from `iova` on,
    /// in order; none where it does so silently.
    fn reports_of(&self, refusal: Refusal, stream: Stream, access: AccessKind, iova: Iova, len: usize)
    -> Vec<Reported>;

    /// The stage that parts of a function can be told apart by.
    fn stage_of_parts(&self) -> Stage {
        if self.capabilities().second_stage { Stage::Second } else { Stage::First }
    }

    /// Whether QEMU's trace tells of what the unit does. A unit in software does nothing that it could.
    fn is_traced(&self) -> bool {
        true
    }

    /// Whether this hardware drops a write without a fault where a cached translation by this stage forbids it.
    fn drops_cached_refusals(&self, stage: Stage) -> bool;

    /// What the unit's registers say of an option given to it: what the value should make of them, and what they hold.
    /// `None` where the option shows nowhere.
    fn option_effect(&self, key: &str, value: &str) -> Option<(String, String)>;
}

/// A fault as hardware reports it, but for its requester.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reported {
    /// The reason, as the architecture numbers them.
    pub code: u32,
    /// The address, as exactly as hardware records it.
    pub iova: Iova,
    /// What the device tried, as far as hardware records that.
    pub access: AccessKind,
    /// The PASID of the request, as far as hardware records that.
    pub pasid: Option<Pasid>,
}

impl Reported {
    /// What `fault` says.
    pub fn of(fault: &Fault) -> Self {
        Self { code: fault.code, iova: fault.iova, access: fault.access, pasid: fault.stream.pasid }
    }
}

/// Why DMA is refused, in the demo's terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nothing on the requester's bus was ever attached.
    NothingAttached,
    /// The requester is not attached.
    NotAttached,
    /// The requester is attached, but no PASID near this one ever was.
    NothingAttachedByPasid,
    /// The requester is attached, and this PASID of it is not.
    PasidNotAttached,
    /// Nothing is mapped there.
    NotMapped(Stage, AccessKind),
    /// The mapping does not allow a write.
    ReadOnly(Stage),
    /// The guest's context descriptor is not valid.
    BadContext,
    /// The guest's context descriptor lies where the guest has nothing.
    ForeignContext,
}
