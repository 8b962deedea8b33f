//! A virtual IOMMU: what a guest's own IOMMU driver talks to, by way of the embedder that emulates its registers.
//!
//! It stands on a nest parent, the domain that holds the guest's memory. The guest's devices have numbers of the guest's
//! own there ([`Vdevice`]), by which it names them in its requests ([`Viommu::invalidate`]) and is told of events
//! ([`EventQueue`]); its first stages are [nested domains](crate::nested::NestedHwpt); memory that hardware is to read as
//! a queue of the guest's own is a [`HwQueue`].
//!
//! What this does not do: emulate registers, or know any driver's layouts. Requests and events are words.
//!
//! # Example
//!
//! ```
//! use iommu_core::Error;
//! use iommu_core::device::{AttachTo, Device};
//! use iommu_core::hw::{Invalidation, NestedConfig};
//! use iommu_core::hwpt::Hwpt;
//! use iommu_core::viommu::{DeviceInvalidation, Viommu};
//!
//! /// A guest has set up a table for its device 0x10, and changes an entry.
//! fn guest(parent: &Hwpt, device: &Device, table: &[u64]) -> Result<(), Error> {
//!     let viommu = Viommu::new(parent)?;
//!     let vdevice = viommu.vdevice(device, 0x10)?;
//!     let nested = viommu.nested(&NestedConfig { kind: 1, words: table })?;
//!     device.attach(AttachTo::Nested(&nested))?;
//!     let request = Invalidation { kind: 1, words: [0x4000, 1] };
//!     nested.invalidate(&[request]).1?;
//!     viommu.invalidate(&[DeviceInvalidation { virt_id: vdevice.virt_id(), request }]).1
//! }
//! # let _ = guest;
//! ```

mod events;
mod hw_queue;
#[cfg(test)]
mod tests;
mod vdevice;

pub use events::{Event, EventQueue};
pub use hw_queue::HwQueue;
pub use vdevice::Vdevice;

use crate::error::Error;
use crate::fault::FaultQueue;
use crate::hw::{Invalidation, NestedConfig};
use crate::hwpt::{Hwpt, HwptUse};
use crate::nested::{NestedHwpt, in_order};
use crate::quota::{Account, Amounts, Ledger, transfer};
use crate::sync::{Mutex, Rank};
use alloc::vec::Vec;
use events::Ring;
use iommu_alloc::Shared;
use vdevice::Entry;

pub(crate) struct ViommuInner {
    parent: HwptUse,
    ledger: Ledger,
    /// Looked at by interrupt handlers, too: nothing is called, dropped or allocated under it.
    state: Mutex<State>,
}

struct State {
    /// By the guest's numbers, lowest first.
    vdevices: Vec<Entry>,
    rings: Vec<Ring>,
    /// Numbers of hardware queues in use.
    hw_queues: Vec<u32>,
}

/// What one object of a virtual IOMMU costs its owner.
const OBJECT: Amounts = Amounts { objects: 1, ..Amounts::NONE };

/// One request of a guest that concerns the caches of one of its devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInvalidation {
    /// The guest's number of the device.
    pub virt_id: u64,
    /// What is to be forgotten, in the layout of the driver.
    pub request: Invalidation,
}

/// A virtual IOMMU. What was made from it keeps what it needs of it.
pub struct Viommu(Shared<ViommuInner>);

impl Viommu {
    /// A virtual IOMMU on `parent`. Whoever pays for the address space of `parent` pays for it and for what is made from it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where `parent` was not made as a nest parent; [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn new(parent: &Hwpt) -> Result<Self, Error> {
        if !parent.config().nest_parent {
            return Err(Error::Invalid("the domain is no nest parent"));
        }
        let ledger = Ledger::new(parent.0.ioas.account());
        ledger.charge(OBJECT)?;
        let state = State { vdevices: Vec::new(), rings: Vec::new(), hw_queues: Vec::new() };
        let state = Mutex::new(Rank::Faults, state);
        Ok(Self(Shared::try_new(ViommuInner { parent: parent.0.another(), ledger, state })?))
    }

    /// A guest's first stage, on top of the parent. While it exists the virtual IOMMU can not be destroyed.
    ///
    /// # Errors
    ///
    /// As for [`NestedHwpt::new`].
    pub fn nested(&self, config: &NestedConfig<'_>) -> Result<NestedHwpt, Error> {
        NestedHwpt::on(&self.0.parent, config, None, Some(&self.0))
    }

    /// As [`Viommu::nested`]; page requests and faults of what leads through it go to `faults`.
    ///
    /// # Errors
    ///
    /// As for [`NestedHwpt::new`].
    pub fn nested_with_faults(&self, config: &NestedConfig<'_>, faults: FaultQueue) -> Result<NestedHwpt, Error> {
        NestedHwpt::on(&self.0.parent, config, Some(faults), Some(&self.0))
    }

    /// Carries out requests in order, the first [`NestedHwpt::MOST_REQUESTS`] of them, on every stream of the device that
    /// each names. Returns how many were, and why the next one was not: with more requests, and no error, the caller goes
    /// on behind those.
    ///
    /// # Errors
    ///
    /// Beside the count: [`Error::NoSuchObject`] where the guest has no device of this number, or no longer;
    /// [`Error::Hardware`] names what is wrong with the request, or that hardware did not confirm it.
    pub fn invalidate(&self, requests: &[DeviceInvalidation]) -> (usize, Result<(), Error>) {
        in_order(requests, |request| self.0.invalidate(request.virt_id, &request.request))
    }

    /// Moves its cost to another account, with that of all that was made from it but
    /// [first stages](Viommu::nested), which are the address space's.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`], [`Error::Busy`]; [`Error::Invalid`] where it was made without an account. Nothing has changed.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        transfer(&[self.ledger()], to)
    }

    /// Ends it now.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while anything made from it exists; it is still there.
    pub fn destroy(self) -> Result<(), (Self, Error)> {
        // Others come from this handle alone, which nobody else has.
        if Shared::owners(&self.0) == 1 { Ok(()) } else { Err((self, Error::Busy)) }
    }
}

impl Viommu {
    /// What moves its costs together with those of others.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Whether anything made from it exists.
    pub(crate) fn is_used(&self) -> bool {
        Shared::owners(&self.0) > 1
    }
}

impl ViommuInner {
    /// For objects made from it: charged first, given back by [`ViommuInner::release`].
    pub(crate) fn charge(&self, amounts: Amounts) -> Result<(), Error> {
        self.ledger.charge(amounts)
    }

    pub(crate) fn release(&self, amounts: Amounts) {
        self.ledger.release(amounts);
    }
}
