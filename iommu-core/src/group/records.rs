//! Which device of a group leads where: as a whole, and by each PASID.

use crate::device::{DeviceInner, Held, Link};
use crate::error::Error;
use crate::hw::{Pasid, StreamId};
use crate::pasid::PasidUse;
use crate::slab::Slab;
use crate::tree::{InsertError, Tree};
use iommu_alloc::Shared;

/// How far an attachment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Being made.
    Coming,
    /// Made.
    There,
    /// Hardware did not confirm a change: its streams are blocked, or nobody knows. Only detaching is left.
    Stuck,
}

/// One attachment: a device, whole or by one PASID. Fields are dropped from the first to the last: what is kept free in
/// the address space goes before the domain does.
pub(crate) struct Record {
    /// What is enforced for it in the address space.
    pub(crate) held: Option<Held>,
    /// Where it leads.
    pub(crate) link: Link,
    /// Where hardware may lead as well, after it neither did nor undid a replacement.
    pub(crate) lost: Option<Link>,
    pub(crate) phase: Phase,
    pub(crate) device: Shared<DeviceInner>,
    /// Keeps the PASID from being reused, where it came from a set.
    pub(crate) _pasid: Option<PasidUse>,
}

/// All attachments of a group.
pub(crate) struct Records {
    /// By place and number of the device: those of one place stand side by side.
    index: Tree<u32>,
    slab: Slab<Record>,
}

/// Bits of a key below the place: those of a device's number.
const NUMBER_BITS: u32 = 43;
const NUMBERS: u64 = (1 << NUMBER_BITS) - 1;

/// The place of what is attached as a whole (`None`) or by a PASID. Places take 21 bits.
fn place(pasid: Option<Pasid>) -> u64 {
    pasid.map_or(0, |pasid| u64::from(pasid.get()).saturating_add(1)) << NUMBER_BITS
}

fn key(pasid: Option<Pasid>, device: u64) -> u64 {
    place(pasid) | (device & NUMBERS)
}

fn pasid_of(key: u64) -> Option<Pasid> {
    let above = (key >> NUMBER_BITS).checked_sub(1)?;
    Pasid::new(u32::try_from(above).ok()?)
}

impl Records {
    /// Keys of what is attached by PASID, and of what is attached as a whole.
    pub(crate) const PASIDS_FIRST: [(u64, u64); 2] = [(NUMBERS + 1, u64::MAX), (0, NUMBERS)];

    pub(crate) const fn new() -> Self {
        Self { index: Tree::new(), slab: Slab::new() }
    }

    /// Whether a device's number fits. 2^43 devices are more than a machine lives to see.
    pub(crate) const fn takes(device: u64) -> bool {
        device <= NUMBERS
    }

    /// Bytes that one attachment takes here.
    pub(crate) const fn cost() -> u64 {
        // The index holds a key, its last address and a value; an entry of the slab is little more than the record.
        (size_of::<Record>() + 2 * size_of::<u64>() + size_of::<u32>()) as u64
    }

    /// Adds an attachment. The caller reserved room by [`Records::reserve`].
    pub(crate) fn insert(&mut self, pasid: Option<Pasid>, record: Record) -> Result<(), Error> {
        let key = key(pasid, record.device.number);
        let at = self.slab.insert(record)?;
        match self.index.insert(key, key, at) {
            Ok(()) => Ok(()),
            Err(error) => {
                // Cannot be: there is room, and the caller looked whether the device is attached there.
                core::mem::forget(self.slab.remove(at));
                Err(match error {
                    InsertError::Overlap { .. } => Error::Busy,
                    InsertError::OutOfMemory => Error::OutOfMemory,
                })
            }
        }
    }

    /// Makes room for one attachment more.
    pub(crate) fn reserve(&mut self) -> Result<(), Error> {
        self.index.reserve(1)?;
        self.slab.reserve(1)?;
        Ok(())
    }

    /// Takes an attachment out. The caller drops it without the lock.
    pub(crate) fn remove(&mut self, pasid: Option<Pasid>, device: u64) -> Option<Record> {
        let (_, at) = self.index.remove(key(pasid, device))?;
        self.slab.remove(at)
    }

    pub(crate) fn get(&self, pasid: Option<Pasid>, device: u64) -> Option<&Record> {
        let key = key(pasid, device);
        let (_, _, at) = self.index.first_overlap(key, key)?;
        self.slab.get(at)
    }

    pub(crate) fn get_mut(&mut self, pasid: Option<Pasid>, device: u64) -> Option<&mut Record> {
        let key = key(pasid, device);
        let (_, _, at) = self.index.first_overlap(key, key)?;
        self.slab.get_mut(at)
    }

    /// All attachments of one place, in the order in which their devices were made.
    pub(crate) fn at(&self, pasid: Option<Pasid>) -> impl Iterator<Item = &Record> + '_ {
        let place = place(pasid);
        self.index.overlapping(place, place | NUMBERS).filter_map(|(_, _, at)| self.slab.get(at))
    }

    /// Whether another device than `device` leads `stream` somewhere. One that is stuck does not want to any more.
    pub(crate) fn is_shared(&self, pasid: Option<Pasid>, device: u64, stream: StreamId) -> bool {
        let leads = |record: &Record| record.phase == Phase::There && record.device.number != device;
        self.at(pasid).any(|record| leads(record) && record.device.has_stream(stream))
    }

    /// The first attachment, with a key in `from..=last`, of a device that `is_meant`: its key, its PASID, and the device.
    pub(crate) fn next_device(
        &self,
        from: u64,
        last: u64,
        is_meant: &dyn Fn(&Shared<DeviceInner>) -> bool,
    ) -> Option<(u64, Option<Pasid>, Shared<DeviceInner>)> {
        self.index.overlapping(from, last).find_map(|(key, _, at)| {
            let device = &self.slab.get(at)?.device;
            is_meant(device).then(|| (key, pasid_of(key), device.clone()))
        })
    }

    /// Whether any device has something attached by PASID.
    pub(crate) fn any_pasid(&self) -> bool {
        self.index.first_overlap(NUMBERS + 1, u64::MAX).is_some()
    }

    /// The attachments of `device` by PASID, lowest first, from `first` on.
    pub(crate) fn pasids(&self, device: u64, first: Pasid) -> impl Iterator<Item = (Pasid, &Record)> + '_ {
        self.index.overlapping(place(Some(first)), u64::MAX).filter_map(move |(key, _, at)| {
            let record = self.slab.get(at)?;
            (record.device.number == device).then_some(())?;
            Some((pasid_of(key)?, record))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_place_stand_side_by_side() {
        let last = Pasid::new(0xf_ffff).unwrap();
        assert_eq!((key(None, 0), key(None, NUMBERS)), (0, NUMBERS));
        assert_eq!(key(Pasid::new(0), 0), NUMBERS + 1);
        assert!(
            key(Some(last), NUMBERS) > key(Some(last), 0) && key(Some(last), 0) > key(Pasid::new(0xf_fffe), NUMBERS)
        );
        for pasid in [None, Pasid::new(0), Pasid::new(1), Some(last)] {
            assert_eq!(pasid_of(key(pasid, NUMBERS)), pasid);
        }
        assert!(Records::takes(NUMBERS) && !Records::takes(NUMBERS + 1));
    }
}
