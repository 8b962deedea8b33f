//! Leading a group elsewhere: all of its devices that are attached in one place, at once or not at all.

use super::attach::Surroundings;
use super::move_streams::worse;
use super::{AttachTo, Device, DeviceInner, Held, Link};
use crate::error::Error;
use crate::group::{Change, Phase};
use crate::hw::{HwError, Pasid, Stream, StreamId, Transition};
use crate::sync;
use alloc::vec::Vec;
use iommu_alloc::Shared;

/// One device that moves. Before the switch this holds what is to come, after it what was.
struct Mover {
    held: Option<Held>,
    link: Link,
    device: Shared<DeviceInner>,
}

/// All that moves.
struct Move {
    pasid: Option<Pasid>,
    movers: Vec<Mover>,
    /// Each stream once, with the place of its device among the movers.
    streams: Vec<(StreamId, usize)>,
}

impl Device {
    pub(super) fn replace_at(&self, pasid: Option<Pasid>, to: AttachTo<'_>) -> Result<Transition, Error> {
        sync::assert_none_held();
        let device = &self.0;
        let change = device.group.change()?;
        device.check(pasid)?;
        if change.state(|state| state.records.get(pasid, device.number).is_none()) {
            return Err(Error::Invalid("nothing is attached that could be replaced"));
        }
        let Surroundings { there: Some(old), whole, with_pasids } = device.surroundings(&change, pasid)? else {
            return Err(Error::Invalid("nothing is attached that could be replaced"));
        };
        let new = device.choose(pasid, to, with_pasids, None)?;
        if new.same(&old) {
            return Ok(Transition::Hitless);
        }
        let mut step = Move::prepare(&change, pasid)?;
        for mover in &mut step.movers {
            mover.device.may_lead_to(pasid, &new, with_pasids, whole.as_ref())?;
            mover.held = mover.device.hold(pasid, &new)?;
            mover.link = new.another();
        }
        let seen = step.switch(&change, &old, &new)?;
        step.commit(&change);
        step.reroute(&old, &new);
        Ok(seen)
    }
}

impl Move {
    /// Lists what moves.
    fn prepare(change: &Change<'_>, pasid: Option<Pasid>) -> Result<Self, Error> {
        let mut movers = Vec::new();
        let mut count = 0usize;
        change.state(|state| {
            movers.try_reserve_exact(state.records.at(pasid).count()).map_err(|_| Error::OutOfMemory)?;
            for record in state.records.at(pasid) {
                count = count.checked_add(record.device.streams.len()).ok_or(Error::OutOfMemory)?;
                movers.push(Mover { held: None, link: record.link.another(), device: record.device.clone() });
            }
            Ok::<(), Error>(())
        })?;
        let mut streams = Vec::new();
        streams.try_reserve_exact(count).map_err(|_| Error::OutOfMemory)?;
        for (at, mover) in movers.iter().enumerate() {
            streams.extend(mover.device.streams.iter().map(|&id| (id, at)));
        }
        streams.sort_unstable();
        streams.dedup_by_key(|(id, _)| *id);
        Ok(Self { pasid, movers, streams })
    }

    /// Each stream, with a device that has it.
    fn streams(&self) -> impl Iterator<Item = (Stream, &DeviceInner)> + '_ {
        let with_device =
            |&(id, at): &(StreamId, usize)| Some((Stream { id, pasid: self.pasid }, &*self.movers.get(at)?.device));
        self.streams.iter().filter_map(with_device)
    }

    /// Leads all streams from `old` to `new`, or back.
    fn switch(&self, change: &Change<'_>, old: &Link, new: &Link) -> Result<Transition, Error> {
        // Who had no queue gets one before the hardware leads there. Who had keeps the old one until then, so that a
        // replacement that fails answers nobody's page requests.
        let routes_first = old.faults().is_none() && new.faults().is_some();
        let mut seen = Transition::Hitless;
        for (done, (stream, owner)) in self.streams().enumerate() {
            let routed = if routes_first { owner.route(stream, new) } else { Ok(()) };
            let moved = routed.and_then(|()| Ok(owner.unit.attach(stream, new.target())?));
            match moved {
                Ok(transition) => seen = worse(seen, transition),
                Err(error) => {
                    self.switch_back(change, done.saturating_add(1), old, new);
                    if routes_first {
                        self.unroute(done.saturating_add(1));
                    }
                    return Err(error);
                }
            }
        }
        Ok(seen)
    }

    /// Leads the first `count` streams back to `old`. Where one does not go, it is blocked, and only detaching is left.
    fn switch_back(&self, change: &Change<'_>, count: usize, old: &Link, new: &Link) {
        let mut back = Ok(());
        let mut blocked: Result<(), HwError> = Ok(());
        for (stream, owner) in self.streams().take(count) {
            if let Err(error) = owner.unit.attach(stream, old.target()) {
                back = Err(error);
                blocked = blocked.and(owner.unit.detach(stream).map(drop));
            }
        }
        if back.is_ok() {
            return;
        }
        for mover in &self.movers {
            mover.device.set_phase(change, self.pasid, Phase::Stuck);
        }
        if blocked.is_err() {
            // Hardware may lead there still, by streams of any of them.
            for mover in &self.movers {
                let lost = new.another();
                change.state(|state| {
                    if let Some(record) = state.records.get_mut(self.pasid, mover.device.number) {
                        record.lost = Some(lost);
                    }
                });
            }
        }
    }

    /// Enters the new state; keeps the old one, to be dropped without the lock.
    fn commit(&mut self, change: &Change<'_>) {
        change.state(|state| {
            for mover in &mut self.movers {
                if let Some(record) = state.records.get_mut(self.pasid, mover.device.number) {
                    core::mem::swap(&mut record.link, &mut mover.link);
                    core::mem::swap(&mut record.held, &mut mover.held);
                }
            }
        });
    }

    /// Sends the faults of all streams to where `new` wants them, after hardware leads there.
    fn reroute(&self, old: &Link, new: &Link) {
        match (old.faults(), new.faults()) {
            (Some(_), Some(_)) => {
                for (stream, owner) in self.streams() {
                    // Cannot fail, as it leads somewhere. If it did: nobody's rather than another's.
                    if owner.route(stream, new).is_err()
                        && let Some(router) = &owner.router
                    {
                        router.unroute(stream);
                    }
                }
            }
            (Some(_), None) => self.unroute(usize::MAX),
            (None, _) => {}
        }
    }

    fn unroute(&self, count: usize) {
        for (stream, owner) in self.streams().take(count) {
            if let Some(router) = &owner.router {
                router.unroute(stream);
            }
        }
    }
}
