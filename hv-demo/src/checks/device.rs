//! What does DMA: a function as a whole, or a part of one that its PASID tells apart.

use super::lab::Transfer;
use crate::doorbell::{DoorbellError, Part};
use crate::edu::{Edu, EduError};
use crate::function::ConfigSpace;
use crate::hal::DemoHal;
use crate::iommu::Refusal;
use crate::partition::Partition;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::Error;
use iommu_core::device::AttachTo;
use iommu_core::hw::{AccessKind, Pasid, Stream};

/// Something of the machine that does DMA.
pub struct Device {
    /// Its name in the checks.
    pub name: &'static str,
    /// What makes its requests.
    pub engine: Engine,
    /// The stream under which the IOMMU sees its DMA.
    pub stream: Stream,
    /// What attaches it: the function, which its parts share.
    pub assigned: Arc<iommu_core::device::Device>,
    /// The function's configuration space.
    pub space: Arc<ConfigSpace>,
    /// What its buffer is known to begin with: it was seen to write that, and has read nothing since.
    pub held: Vec<u8>,
}

/// What makes requests.
pub enum Engine {
    /// The edu's own, which knows no PASIDs and does not tell what came of a transfer.
    Edu(Edu),
    /// A part of a function with a doorbell.
    Part(Part),
}

/// What can go wrong in a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineError {
    /// In an edu.
    Edu(EduError),
    /// In a doorbell.
    Doorbell(DoorbellError),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edu(error) => error.fmt(f),
            Self::Doorbell(error) => error.fmt(f),
        }
    }
}

impl Engine {
    /// Carries out one transfer. Returns whether it was let through, where the device can tell.
    ///
    /// # Errors
    ///
    /// Where the device did not do its part.
    pub fn transfer(&mut self, transfer: Transfer) -> Result<Option<bool>, EngineError> {
        let Transfer { access, iova, len } = transfer;
        match self {
            Self::Edu(edu) => {
                let started = match access {
                    AccessKind::Read => edu.start_read(iova, 0, len),
                    _ => edu.start_write(iova, 0, len),
                };
                started.and_then(|()| edu.wait(&DemoHal)).map(|()| None).map_err(EngineError::Edu)
            }
            Self::Part(part) => part.transfer(access, iova, len).map(Some).map_err(EngineError::Doorbell),
        }
    }
}

impl Device {
    /// The part of this device's function that sends `pasid`, or none; `None` where the function has no doorbell.
    pub fn part(&self, name: &'static str, pasid: Option<Pasid>) -> Option<Self> {
        Some(Self {
            name,
            engine: Engine::Part(Part::new(self.space.doorbell()?, pasid)),
            stream: Stream { pasid, ..self.stream },
            assigned: self.assigned.clone(),
            space: self.space.clone(),
            held: Vec::new(),
        })
    }

    /// Why its DMA is refused after it was attached and is not any more.
    pub fn detached(&self) -> Refusal {
        if self.stream.pasid.is_some() { Refusal::PasidNotAttached } else { Refusal::NotAttached }
    }

    /// Gives it to a partition: a function as a whole, or a part, where the partition has its PASID.
    pub(super) fn give(&self, partition: &Partition) -> Result<(), Error> {
        let to = AttachTo::Hwpt(partition.hwpt());
        match self.stream.pasid {
            None => {
                // Its interrupts are not remapped, which is a later step: the demo's functions raise none.
                self.assigned.bind(partition.owner, true)?;
                self.assigned.attach(to)?;
            }
            Some(pasid) => {
                self.assigned.attach_pasid_of(partition.pasids()?, pasid, to)?;
            }
        }
        Ok(())
    }

    /// Takes it away from whoever has it. The function behind a part stays whose it is.
    pub(super) fn take(&self) -> Result<(), Error> {
        match self.stream.pasid {
            None => {
                self.assigned.detach()?;
                self.assigned.unbind()
            }
            Some(pasid) => self.assigned.detach_pasid(pasid),
        }
    }
}
