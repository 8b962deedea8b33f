//! A function that does DMA: bound to an owner, attached as a whole or by PASID.
//!
//! A [`Device`] is one function with every stream id under which its unit may see its requests. What is not attached is
//! blocked: before the first attach, after the last detach, and after any error that leaves doubts. Bus mastering is on
//! only while something is attached: it goes on last and off first.
//!
//! All devices of a [`Group`] that are attached lead to the same domain, in each place: as a whole, and by each PASID. A
//! replacement moves all of them. Stream ids that devices of a group share lead there from the first attach to the last
//! detach.
//!
//! | Call | The hardware is asked to | It fails |
//! |---|---|---|
//! | attach | lead each stream to the domain | those that moved are blocked again: nothing has changed |
//! | replace | lead each stream to the new domain | all go back to the old one: nothing has changed |
//! | detach | block each stream | the device stays attached, blocked as far as hardware obeys; detach again |
//!
//! Where hardware refuses to go back as well, its streams are blocked or nobody knows: the device counts as attached, and
//! leading it anywhere, as a whole or by any PASID, is [`Error::Busy`] until it is detached there. Domains that hardware may
//! still use stay alive until that succeeds.
//!
//! What this does not do: reset the function, or know its configuration space. The embedder does, by [`Function`].
//!
//! # Example
//!
//! ```
//! use iommu_core::Error;
//! use iommu_core::device::{AttachTo, Device, Feature};
//! use iommu_core::group::OwnerId;
//! use iommu_core::hw::Pasid;
//! use iommu_core::hwpt::Hwpt;
//! use iommu_core::ioas::Ioas;
//!
//! /// All of a device to one partition.
//! fn whole(device: &Device, to: OwnerId, memory: &Ioas) -> Result<(), Error> {
//!     device.bind(to, false)?;
//!     device.attach(AttachTo::Auto(memory)).map(drop)
//! }
//!
//! /// One part of a device, which another owner keeps, to a partition.
//! fn part(device: &Device, pasid: Pasid, domain: &Hwpt) -> Result<(), Error> {
//!     device.enable(Feature::Pasid)?;
//!     device.attach_pasid(pasid, AttachTo::Hwpt(domain)).map(drop)
//! }
//! # let _ = (whole, part);
//! ```

mod attach;
mod device_tlb;
mod features;
mod hold;
mod move_streams;
mod owner;
mod replace;
mod target;
#[cfg(test)]
pub(crate) mod tests;

pub use features::{Feature, Features, Function};
pub(crate) use hold::Held;
pub(crate) use target::{Link, same_unit};

use crate::error::Error;
use crate::fault::FaultRouter;
use crate::group::{Group, Records};
use crate::hw::{Pasid, StreamId, Transition, Unit, unique_number};
use crate::hwpt::Hwpt;
use crate::ioas::Ioas;
use crate::nested::NestedHwpt;
use crate::pasid::PasidSet;
use crate::quota::{Account, Amounts, Ledger, transfer};
use crate::region::ReservedRegion;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use iommu_alloc::Shared;

/// What a device is.
pub struct DeviceConfig<'a> {
    /// The unit that translates its DMA.
    pub unit: Arc<dyn Unit>,
    /// Every stream under which the unit may see its DMA. At least one.
    pub streams: &'a [StreamId],
    /// Its configuration space. Without it the device has no features, and bus mastering is the embedder's to switch.
    pub function: Option<Arc<dyn Function>>,
    /// What its surroundings treat specially.
    pub regions: &'a [ReservedRegion],
    /// Its DMA is coherent with CPU caches.
    pub coherent: bool,
    /// Its interrupts are remapped, so that it cannot forge others'.
    pub isolated_msi: bool,
    /// The unit's router: needed by domains that want faults and page requests.
    pub router: Option<FaultRouter>,
    /// Who pays for it: one object, and what each attachment takes.
    pub account: Option<Account>,
}

/// Where a device, or a PASID of one, is to lead.
#[derive(Clone, Copy)]
pub enum AttachTo<'a> {
    /// To this domain.
    Hwpt(&'a Hwpt),
    /// Through this guest's first stage.
    Nested(&'a NestedHwpt),
    /// To a domain of the address space that was made this way and suits the device, or a new one, which goes with its
    /// last attachment; where another device of the group is attached, to where that one leads. For whole devices only.
    Auto(&'a Ioas),
}

pub(crate) struct DeviceInner {
    /// Unlike any other's.
    pub(crate) number: u64,
    pub(crate) group: Group,
    pub(crate) unit: Arc<dyn Unit>,
    /// Sorted, without repetition.
    pub(crate) streams: Vec<StreamId>,
    function: Option<Arc<dyn Function>>,
    regions: Vec<ReservedRegion>,
    coherent: bool,
    isolated_msi: bool,
    router: Option<FaultRouter>,
    ledger: Ledger,
    /// What is on, by [`Feature::bit`], and whether the unit knows of a device TLB. This and what follows changes only under the right to change the group.
    features: AtomicU8,
    /// Width of PASIDs while they are on.
    pasid_bits: AtomicU8,
    /// Whether this crate switched bus mastering on.
    mastering: AtomicBool,
    /// Attachments, and how many of them are by PASID.
    attached: AtomicUsize,
    pasids: AtomicUsize,
    /// Attachments of which hardware did not confirm a change.
    stuck: AtomicUsize,
    /// Names the time from bind to unbind; 0 outside of it.
    pub(crate) binding: AtomicU64,
    /// The number of its virtual device; 0 without.
    pub(crate) vdevice: AtomicU64,
    /// Its handle was dropped.
    dropped: AtomicBool,
}

impl DeviceInner {
    pub(crate) fn has_stream(&self, stream: StreamId) -> bool {
        self.streams.binary_search(&stream).is_ok()
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.binding.load(Ordering::Acquire) != 0
    }

    fn attached(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }
}

/// A device. Dropped, it detaches and unbinds, whatever hardware says: where that does not confirm, the group keeps the
/// device's owner, and the domain and its memory stay, as both may still be reached.
///
/// Dropping waits for a change of the group that is on its way, so it is not done inside of one: not from a [`Function`], nor
/// from [memory](crate::pages::Memory) that a change is the last to let go of.
pub struct Device(pub(crate) Shared<DeviceInner>);

impl Device {
    /// A device of `group`, bound to nobody. Its streams are blocked as long as nobody attached them elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without streams; [`Error::Invalid`] where the router is another unit's; [`Error::Quota`],
    /// [`Error::OutOfMemory`].
    pub fn new(group: &Group, config: &DeviceConfig<'_>) -> Result<Self, Error> {
        if config.streams.is_empty() {
            return Err(Error::Empty);
        }
        // By another unit's it would get what happens to the streams of the same numbers there.
        if config.router.as_ref().is_some_and(|router| !same_unit(router.unit(), &config.unit)) {
            return Err(Error::Invalid("the router is another unit's"));
        }
        let number = unique_number();
        if !Records::takes(number) {
            return Err(Error::Unsupported("as many devices"));
        }
        let ledger = Ledger::new(config.account.clone());
        ledger.charge(Amounts { objects: 1, ..Amounts::NONE })?;
        let mut streams = copied(config.streams)?;
        streams.sort_unstable();
        streams.dedup();
        Ok(Self(Shared::try_new(DeviceInner {
            number,
            group: group.clone(),
            unit: config.unit.clone(),
            streams,
            function: config.function.clone(),
            regions: copied(config.regions)?,
            coherent: config.coherent,
            isolated_msi: config.isolated_msi,
            router: config.router.clone(),
            ledger,
            features: AtomicU8::new(0),
            pasid_bits: AtomicU8::new(0),
            mastering: AtomicBool::new(false),
            attached: AtomicUsize::new(0),
            pasids: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
            binding: AtomicU64::new(0),
            vdevice: AtomicU64::new(0),
            dropped: AtomicBool::new(false),
        })?))
    }

    /// The group it belongs to.
    pub fn group(&self) -> &Group {
        &self.0.group
    }

    /// Leads the device as a whole, all its requests without a PASID, to `to`. From now on its reserved regions are kept
    /// free in the address space and its direct ones stay mapped there.
    ///
    /// # Errors
    ///
    /// Nothing has changed, unless hardware did not undo it (see the [module](self)):
    /// [`Error::Invalid`] where the device is not bound, another device of the group leads elsewhere, the domain is not of
    /// the device's unit, a direct region is not mapped 1:1 or a guest's to map, the domain wants faults that have no
    /// router, or PASIDs of the group are attached and the domain is not [made for that](crate::hwpt::HwptConfig::pasid).
    /// [`Error::Busy`] where it is attached, or the group is being changed. [`Error::AddressInUse`] where an area or an
    /// allowed range lies in a reserved region. [`Error::BadMemory`] where the memory of a direct one may be taken back by
    /// its source. [`Error::Hardware`], [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn attach(&self, to: AttachTo<'_>) -> Result<Transition, Error> {
        self.attach_at(None, to, None)
    }

    /// Leads all devices of the group that are attached as a whole elsewhere. Returns what DMA of the worst of them saw.
    ///
    /// # Errors
    ///
    /// As for [`Device::attach`], and [`Error::Invalid`] where the device is not attached.
    pub fn replace(&self, to: AttachTo<'_>) -> Result<Transition, Error> {
        self.replace_at(None, to)
    }

    /// Blocks the device as a whole: it has not even its direct regions any more. Nothing to do where it is not attached.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] where the group is being changed. [`Error::Hardware`] where the function did not switch bus
    /// mastering off (nothing has changed), or the unit did not confirm: then the device counts as attached, and this can
    /// be tried again.
    pub fn detach(&self) -> Result<(), Error> {
        self.detach_at(None)
    }

    /// Leads the device's requests with `pasid` to `to`. That the PASID is the caller's to use is taken on trust: see
    /// [`Device::attach_pasid_of`]. Neither reserved nor direct regions are enforced for it: those
    /// are of requests without PASID.
    ///
    /// # Errors
    ///
    /// As for [`Device::attach`], and [`Error::Invalid`] where PASIDs are not enabled, `pasid` is wider than they are,
    /// `to` is an address space, or the domain, or the one that the device leads to as a whole, is not [made for
    /// that](crate::hwpt::HwptConfig::pasid).
    pub fn attach_pasid(&self, pasid: Pasid, to: AttachTo<'_>) -> Result<Transition, Error> {
        self.attach_at(Some(pasid), to, None)
    }

    /// As [`Device::attach_pasid`], with a PASID of `set`: until it is detached nobody gets it anew, even if the set gives
    /// it back or closes.
    ///
    /// # Errors
    ///
    /// As there, and [`Error::NoSuchPasid`] where it is not the set's, or was given back; [`Error::NoSpace`] beyond
    /// [`PasidUse::MOST`](crate::pasid::PasidUse::MOST).
    pub fn attach_pasid_of(&self, set: &PasidSet, pasid: Pasid, to: AttachTo<'_>) -> Result<Transition, Error> {
        let user = set.acquire(pasid, None)?;
        self.attach_at(Some(pasid), to, Some(user))
    }

    /// Leads the requests with `pasid` of all devices of the group that have it attached elsewhere.
    ///
    /// # Errors
    ///
    /// As for [`Device::attach_pasid`], and [`Error::Invalid`] where `pasid` is not attached.
    pub fn replace_pasid(&self, pasid: Pasid, to: AttachTo<'_>) -> Result<Transition, Error> {
        self.replace_at(Some(pasid), to)
    }

    /// Blocks the device's requests with `pasid`. Nothing to do where it is not attached.
    ///
    /// # Errors
    ///
    /// As for [`Device::detach`].
    pub fn detach_pasid(&self, pasid: Pasid) -> Result<(), Error> {
        self.detach_at(Some(pasid))
    }

    /// Whether the device leads anywhere as a whole, or may for want of a confirmation.
    pub fn is_attached(&self) -> bool {
        self.0.group.look(|state| state.records.get(None, self.0.number).is_some())
    }

    /// The lowest PASID of this device that leads to `hwpt` itself.
    pub fn pasid_of(&self, hwpt: &Hwpt) -> Option<Pasid> {
        let leads_there = |link: &Link| matches!(link, Link::Paging(user) if user.same(&hwpt.0));
        self.pasid_where(leads_there)
    }

    /// The lowest PASID of this device that leads through `nested`.
    pub fn pasid_of_nested(&self, nested: &NestedHwpt) -> Option<Pasid> {
        let leads_there = |link: &Link| matches!(link, Link::Nested(user) if Shared::same(user, &nested.0));
        self.pasid_where(leads_there)
    }

    fn pasid_where(&self, leads_there: impl Fn(&Link) -> bool) -> Option<Pasid> {
        let zero = Pasid::new(0)?;
        self.0.group.look(|state| {
            let mut pasids = state.records.pasids(self.0.number, zero);
            pasids.find(|(_, record)| leads_there(&record.link)).map(|(pasid, _)| pasid)
        })
    }

    /// Moves its cost to another account.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`], [`Error::Busy`]; [`Error::Invalid`] where it was made without an account.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        transfer(&[&self.0.ledger], to)
    }

    /// What moves its costs together with those of others.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }
}

/// A copy that may fail.
fn copied<T: Copy>(from: &[T]) -> Result<Vec<T>, Error> {
    let mut to = Vec::new();
    to.try_reserve_exact(from.len()).map_err(|_| Error::OutOfMemory)?;
    to.extend_from_slice(from);
    Ok(to)
}
