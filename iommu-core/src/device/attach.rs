//! Attaching and detaching: one device, as a whole or by one PASID.

use super::target::ELSEWHERE;
use super::{AttachTo, Device, DeviceInner, Held, Link};
use crate::error::Error;
use crate::fault::FaultRouter;
use crate::group::{Change, Phase, Record, Records};
use crate::hw::{HwError, Pasid, Transition};
use crate::pasid::PasidUse;
use crate::quota::Amounts;
use crate::region::{RegionKind, ReservedRegion};
use crate::sync;
use core::sync::atomic::Ordering;
use iommu_alloc::Shared;

/// Where a group leads, as far as it concerns an attachment.
pub(super) struct Surroundings {
    /// Where devices of the group lead in the same place.
    pub(super) there: Option<Link>,
    /// Where they lead as a whole.
    pub(super) whole: Option<Link>,
    /// Whether any leads somewhere by PASID.
    pub(super) with_pasids: bool,
}

impl Device {
    pub(super) fn attach_at(
        &self,
        pasid: Option<Pasid>,
        to: AttachTo<'_>,
        user: Option<PasidUse>,
    ) -> Result<Transition, Error> {
        sync::assert_none_held();
        let device = &self.0;
        let change = device.group.change()?;
        device.check(pasid)?;
        let around = device.surroundings(&change, pasid)?;
        if change.state(|state| state.records.get(pasid, device.number).is_some()) {
            return Err(Error::Busy);
        }
        let link = device.choose(pasid, to, around.with_pasids, around.there.as_ref())?;
        if around.there.as_ref().is_some_and(|there| !there.same(&link)) {
            return Err(Error::Invalid(ELSEWHERE));
        }
        device.may_lead_to(pasid, &link, around.with_pasids, around.whole.as_ref())?;
        attach(device, &change, pasid, link, user)
    }

    pub(super) fn detach_at(&self, pasid: Option<Pasid>) -> Result<(), Error> {
        sync::assert_none_held();
        let change = self.0.group.change()?;
        if change.state(|state| state.records.get(pasid, self.0.number).is_none()) {
            return Ok(());
        }
        if self.0.attached() == 1 {
            self.0.stop_mastering()?;
        }
        Ok(self.0.take_down(&change, pasid)?)
    }
}

/// Makes the attachment. It stands among the group's from the beginning, so that nothing is left to allocate once
/// hardware has moved.
fn attach(
    device: &Shared<DeviceInner>,
    change: &Change<'_>,
    pasid: Option<Pasid>,
    link: Link,
    user: Option<PasidUse>,
) -> Result<Transition, Error> {
    device.ledger.charge(device.cost())?;
    let prepared = device.hold(pasid, &link).and_then(|held| {
        change.state(|state| state.records.reserve())?;
        let (link, device) = (link.another(), device.clone());
        Ok(Record { held, link, lost: None, phase: Phase::Coming, device, _pasid: user })
    });
    let entered = prepared.and_then(|record| change.state(|state| state.records.insert(pasid, record)));
    if let Err(error) = entered {
        device.ledger.release(device.cost());
        return Err(error);
    }
    device.count(pasid, |count| count.fetch_add(1, Ordering::Relaxed));
    match device.lead(change, pasid, &link) {
        Ok(transition) => {
            device.set_phase(change, pasid, Phase::There);
            Ok(transition)
        }
        Err(failed) => {
            if failed.undone {
                device.forget(change, pasid);
            } else {
                device.set_phase(change, pasid, Phase::Stuck);
            }
            Err(failed.error)
        }
    }
}

impl DeviceInner {
    /// Whether it can lead anywhere at all.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] where hardware did not confirm an earlier change in any place: nothing is to switch bus mastering
    /// on again for streams that were given up.
    pub(super) fn check(&self, pasid: Option<Pasid>) -> Result<(), Error> {
        if !self.is_bound() {
            return Err(Error::Invalid("the device is not bound"));
        }
        if self.stuck.load(Ordering::Relaxed) != 0 {
            return Err(Error::Busy);
        }
        pasid.map_or(Ok(()), |pasid| self.takes_pasid(pasid))
    }

    /// What stands in the group.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] where hardware did not confirm an earlier change in the same place.
    pub(super) fn surroundings(&self, change: &Change<'_>, pasid: Option<Pasid>) -> Result<Surroundings, Error> {
        change.state(|state| {
            let records = &state.records;
            if records.at(pasid).any(|record| record.phase == Phase::Stuck) {
                return Err(Error::Busy);
            }
            let first_at = |pasid| records.at(pasid).next().map(|record| record.link.another());
            Ok(Surroundings { there: first_at(pasid), whole: first_at(None), with_pasids: records.any_pasid() })
        })
    }

    /// Enforces its regions where `link` leads. A PASID has none.
    pub(super) fn hold(&self, pasid: Option<Pasid>, link: &Link) -> Result<Option<Held>, Error> {
        let is_direct = |region: &ReservedRegion| matches!(region.kind, RegionKind::Direct { .. });
        match pasid {
            // Whatever the address space maps there, the guest's own tables come before it.
            None if matches!(link, Link::Nested(_)) && self.regions.iter().any(is_direct) => {
                Err(Error::Invalid("a guest cannot decide where a region leads that the device needs"))
            }
            None => Held::new(&link.hwpt().ioas, &self.regions).map(Some),
            Some(_) => Ok(None),
        }
    }

    pub(super) fn set_phase(&self, change: &Change<'_>, pasid: Option<Pasid>, phase: Phase) {
        change.state(|state| {
            if let Some(record) = state.records.get_mut(pasid, self.number) {
                let before = core::mem::replace(&mut record.phase, phase);
                if phase == Phase::Stuck && before != Phase::Stuck {
                    self.stuck.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }

    /// What an attachment costs. Routes of faults are part of it wherever there may be some: a replacement can make them.
    fn cost(&self) -> Amounts {
        let route = if self.router.is_some() { FaultRouter::route_cost() } else { 0 };
        let routes = route.saturating_mul(self.streams.len() as u64);
        Amounts { metadata: Records::cost().saturating_add(routes), ..Amounts::NONE }
    }

    /// Counts attachments, and those by PASID.
    fn count(&self, pasid: Option<Pasid>, mut count: impl FnMut(&core::sync::atomic::AtomicUsize) -> usize) {
        count(&self.attached);
        if pasid.is_some() {
            count(&self.pasids);
        }
    }

    /// Takes the attachment out; hardware leads nowhere any more.
    fn forget(&self, change: &Change<'_>, pasid: Option<Pasid>) {
        if let Some(record) = change.state(|state| state.records.remove(pasid, self.number)) {
            self.count(pasid, |count| count.fetch_sub(1, Ordering::Relaxed));
            if record.phase == Phase::Stuck {
                self.stuck.fetch_sub(1, Ordering::Relaxed);
            }
            self.ledger.release(self.cost());
            drop(record);
        }
    }

    /// Blocks what is attached and takes it out; where hardware did not confirm, it stays.
    pub(super) fn take_down(&self, change: &Change<'_>, pasid: Option<Pasid>) -> Result<(), HwError> {
        if let Err(error) = self.block(change, pasid, usize::MAX) {
            self.set_phase(change, pasid, Phase::Stuck);
            return Err(error);
        }
        self.unroute(change, pasid, usize::MAX);
        self.forget(change, pasid);
        Ok(())
    }

    /// Takes down what can be, PASIDs first. The rest stays.
    pub(super) fn detach_everything(&self, change: &Change<'_>) {
        let mut from = Pasid::new(0);
        while let Some(first) = from {
            let next = change.state(|state| state.records.pasids(self.number, first).next().map(|(pasid, _)| pasid));
            let Some(pasid) = next else { break };
            let _ = self.take_down(change, Some(pasid));
            from = pasid.get().checked_add(1).and_then(Pasid::new);
        }
        if change.state(|state| state.records.get(None, self.number).is_some()) {
            let _ = self.take_down(change, None);
        }
    }
}
