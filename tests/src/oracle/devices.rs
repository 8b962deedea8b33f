//! Devices: attached as a whole and by PASID, to domains of their owner's choice and to automatic ones.

use super::check::{same, tally};
use super::domains::no_map;
use super::flat::{Keeper, Kept, Refusals, refuse};
use super::layout::{BASE, GRANULE};
use super::world::{Domain, World};
use crate::mock::{Leads, MockFunction, span};
use iommu_core::device::{AttachTo, Device, DeviceConfig, Feature};
use iommu_core::group::{Group, OwnerId};
use iommu_core::hw::{Pasid, Stream, StreamId};
use iommu_core::region::{RegionKind, ReservedRegion};

/// A device.
pub struct Dev {
    /// The real one.
    pub real: Device,
    /// Its unit.
    pub unit: usize,
    /// Its group, by number.
    pub group: usize,
    /// Its stream.
    pub id: StreamId,
    /// It takes PASIDs.
    pub pasids: bool,
    /// The domain that it leads to as a whole, and by each PASID.
    pub to: [Option<usize>; 3],
    /// The range that is kept free for it.
    pub region: Option<(u64, u64)>,
}

/// Where a device can lead: as a whole, and by two PASIDs.
pub const PLACES: [Option<u32>; 3] = [None, Some(1), Some(9)];

fn pasid(place: usize) -> Option<Pasid> {
    PLACES[place].and_then(Pasid::new)
}

impl Dev {
    /// The stream of one place.
    pub fn stream(&self, place: usize) -> Stream {
        Stream { id: self.id, pasid: pasid(place) }
    }
}

/// Where an attachment is to lead.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// To this domain.
    Domain(usize),
    /// To an automatic domain of this address space.
    Auto(usize),
}

impl World {
    /// Two devices of one group, one of which has a region; and one on each unit that takes PASIDs.
    pub fn add_devices(&mut self) {
        let groups: Vec<Group> = (0..3).map(|_| Group::new(None).unwrap()).collect();
        let region = (BASE + 100 * GRANULE, BASE + 104 * GRANULE - 1);
        for (number, unit, group, pasids, has_region) in [
            (0x10, 0, 0, false, true),
            (0x11, 0, 0, false, false),
            (0x20, 1, 1, true, false),
            (0x30, 0, 2, true, false),
        ] {
            let region = has_region.then_some(region);
            let kept =
                region.map(|(first, last)| ReservedRegion { range: span(first, last), kind: RegionKind::Reserved });
            let id = StreamId::new(number);
            let real = Device::new(
                &groups[group],
                &DeviceConfig {
                    unit: self.units[unit].clone(),
                    streams: &[id],
                    function: Some(MockFunction::capable(&self.machine)),
                    regions: kept.as_slice(),
                    coherent: true,
                    isolated_msi: true,
                    router: None,
                    account: None,
                },
            );
            let real = real.unwrap();
            real.bind(OwnerId(1), false).unwrap();
            if pasids {
                real.enable(Feature::Pasid).unwrap();
            }
            self.devices.push(Dev { real, unit, group, id, pasids, to: [None; 3], region });
        }
    }

    fn domain(&self, number: usize) -> &Domain {
        self.domains[number].as_ref().expect("it is attached")
    }

    /// The automatic domain of an address space that suits a device, the oldest first.
    fn automatic(&self, device: usize, space: usize, needs_pasid: bool) -> Option<usize> {
        let suits = |domain: &Domain| {
            let here = domain.space == space && domain.unit == self.devices[device].unit;
            here && domain.auto && domain.attached > 0 && (domain.pasid || !needs_pasid)
        };
        self.domains.iter().position(|domain| domain.as_ref().is_some_and(suits))
    }

    /// What keeps the devices that `moves` from leading to a domain of `space` with this unit.
    fn expect_lead(&self, moves: &[usize], place: usize, space: usize, unit: usize, takes_pasids: bool) -> Refusals {
        let mut reasons = Refusals::default();
        for device in moves.iter().map(|at| &self.devices[*at]) {
            let group = self.devices.iter().filter(|other| other.group == device.group);
            let with_pasids = group.clone().any(|other| other.to[1..].iter().any(Option::is_some));
            let whole = group.filter_map(|other| other.to[0]).next().filter(|_| place > 0);
            reasons.note(unit != device.unit, "Invalid");
            reasons.note(place > 0 && !device.pasids, "Invalid");
            let whole_takes = whole.is_none_or(|whole| self.domain(whole).pasid);
            reasons.note((place > 0 || with_pasids) && !(takes_pasids && whole_takes), "Invalid");
            if let Some((first, last)) = device.region.filter(|_| place == 0) {
                let flat = &self.spaces[space].flat;
                reasons.note(flat.touching(first, last).next().is_some(), "AddressInUse");
                reasons.note(flat.is_allowed_somewhere(first, last), "AddressInUse");
            }
        }
        reasons
    }

    /// Attaches a device, or moves its group.
    pub fn attach(&mut self, device: u8, place: usize, to: To, replace: bool) {
        let device = usize::from(device) % self.devices.len();
        let group = self.devices[device].group;
        let here = self.devices[device].to[place];
        let others: Vec<usize> = (0..self.devices.len()).filter(|at| self.devices[*at].group == group).collect();
        let there = others.iter().filter_map(|at| self.devices[*at].to[place]).next();
        let with_pasids = others.iter().any(|at| self.devices[*at].to[1..].iter().any(Option::is_some));
        let needs_pasid = with_pasids || self.devices[device].pasids;
        let moves = if replace {
            others.iter().copied().filter(|at| self.devices[*at].to[place].is_some()).collect()
        } else {
            vec![device]
        };
        // The domain that it is about; none where a new one is to be made.
        let chosen = match to {
            To::Domain(number) => Some(number),
            To::Auto(space) if !replace && there.is_some() => there.filter(|there| self.domain(*there).space == space),
            To::Auto(space) => self.automatic(device, space, needs_pasid),
        };
        let unit = self.devices[device].unit;
        let elsewhere = !replace && there.is_some() && there != chosen;
        let (space, takes, mut reasons) = match (chosen, to) {
            (Some(chosen), _) => (self.domain(chosen).space, self.domain(chosen).pasid, Refusals::default()),
            (None, To::Auto(space)) if !elsewhere => (space, needs_pasid, self.expect_join(space, unit)),
            _ => (0, needs_pasid, refuse::<()>("Invalid").expect_err("elsewhere")),
        };
        reasons.note(elsewhere, "Invalid");
        reasons.note(!replace && here.is_some(), "Busy");
        reasons.note(replace && here.is_none(), "Invalid");
        reasons.note(place > 0 && matches!(to, To::Auto(_)), "Invalid");
        let joins = reasons.0.is_empty();
        let to_unit = chosen.map_or(unit, |chosen| self.domain(chosen).unit);
        // One that leads there already stays, whatever holds.
        if !(replace && here.is_some() && here == chosen) {
            reasons.0.extend(self.expect_lead(&moves, place, space, to_unit, takes).0);
        }
        let real = &self.devices[device].real;
        let target = match to {
            To::Domain(number) => AttachTo::Hwpt(self.domain(number).handle.as_ref().expect("it was in a slot")),
            To::Auto(space) => AttachTo::Auto(&self.spaces[space].real),
        };
        let found = match (pasid(place), replace) {
            (None, false) => real.attach(target),
            (None, true) => real.replace(target),
            (Some(pasid), false) => real.attach_pasid(pasid, target),
            (Some(pasid), true) => real.replace_pasid(pasid, target),
        };
        let found = found.map(drop);
        let made = chosen.is_none() && joins;
        if made && self.no_tables[unit] && found.is_err_and(no_map) {
            return;
        }
        let succeeds = same(found, reasons.or_ok()).is_some();
        let chosen = match chosen {
            Some(chosen) => chosen,
            None if made && (succeeds || self.unconfirmed[unit]) => {
                let (handle, attached) = (None, 0);
                let leads = self.units[unit].leads(self.devices[device].stream(place));
                let number = if let (Leads::Paging(number), true) = (leads, succeeds) { number } else { 0 };
                self.joined(Domain { handle, number, space, unit, pasid: needs_pasid, auto: true, attached })
            }
            None => return,
        };
        if succeeds {
            tally(if replace { "replaced" } else { "attached" });
            moves.into_iter().for_each(|at| self.lead(at, place, Some(chosen)));
        }
    }

    /// Notes that a device leads elsewhere now.
    fn lead(&mut self, device: usize, place: usize, to: Option<usize>) {
        let from = std::mem::replace(&mut self.devices[device].to[place], to);
        if from == to {
            return;
        }
        let (keeper, region) = (Keeper::Device(device), self.devices[device].region.filter(|_| place == 0));
        if let Some(from) = from {
            let space = self.domain(from).space;
            self.spaces[space].flat.kept.retain(|kept| kept.keeper != keeper);
        }
        if let Some(to) = to {
            let domain = self.domains[to].as_mut().expect("it leads there");
            domain.attached += 1;
            let kept = region.map(|(first, last)| Kept { first, last, keeper });
            self.spaces[domain.space].flat.kept.extend(kept);
        }
        if let Some(from) = from {
            self.domains[from].as_mut().expect("it led there").attached -= 1;
            self.drop_if_unused(from);
        }
    }

    /// Detaches a device.
    pub fn detach(&mut self, device: u8, place: usize) {
        let device = usize::from(device) % self.devices.len();
        let real = &self.devices[device].real;
        let found = match pasid(place) {
            None => real.detach(),
            Some(pasid) => real.detach_pasid(pasid),
        };
        assert_eq!(found, Ok(()), "a detach");
        self.lead(device, place, None);
    }

    /// Compares where each stream leads, and what is there for automatic domains, which have no handle to ask.
    pub fn check_devices(&self) {
        for (number, device) in self.devices.iter().enumerate() {
            for place in 0..PLACES.len() {
                let (unit, stream) = (&self.units[device.unit], device.stream(place));
                let to = device.to[place].map(|at| self.domain(at));
                let leads = to.map_or(Leads::Blocked, |domain| Leads::Paging(domain.number));
                assert_eq!(unit.leads(stream), leads, "device {number}, place {place}");
                if let Some(domain) = to.filter(|domain| domain.handle.is_none()) {
                    self.check_ways(domain, stream);
                }
            }
            for domain in self.domains.iter().flatten().filter_map(|domain| domain.handle.as_ref()) {
                let found = device.real.pasid_of(domain).map(Pasid::get);
                let leads = |place: &usize| {
                    let to = device.to[*place].and_then(|to| self.domain(to).handle.as_ref());
                    to.is_some_and(|to| to.same(domain))
                };
                let expected = [1, 2].into_iter().find(leads).and_then(|place| PLACES[place]);
                assert_eq!(found, expected, "device {number}: the PASID of a domain");
            }
        }
    }

    /// Compares where a stream gets to, granule by granule.
    fn check_ways(&self, domain: &Domain, stream: Stream) {
        let flat = &self.spaces[domain.space].flat;
        for at in (0..128).map(|granule| BASE + granule * GRANULE) {
            let ways = self.units[domain.unit].ways(stream, at);
            match flat.at(at) {
                Some(area) if area.draining => {}
                Some(area) if area.is_live() => {
                    let phys = self.objects[area.object].phys(area.offset + (at - area.first));
                    assert_eq!(ways.len(), 1, "{at:#x} of an automatic domain");
                    assert_eq!((ways[0].0.get(), ways[0].1), (phys, area.prot), "{at:#x} of an automatic domain");
                }
                _ => assert!(ways.is_empty(), "{at:#x} of an automatic domain: {ways:x?}"),
            }
        }
    }
}
