//! Devices that lead to domains, and what that takes.

use super::domains::SECOND;
use crate::common::*;
use iommu_core::Error;
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_core::device::{AttachTo, Device, DeviceConfig};
use iommu_core::group::{Group, OwnerId};
use iommu_core::hw::{HwError, Prot, Stream, StreamId};
use iommu_core::hwpt::Hwpt;
use iommu_core::ioas::{Ioas, IoasConfig, Placement};
use iommu_core::region::{RegionKind, ReservedRegion};
use iommu_tests::mock::*;
use std::sync::Arc;

pub fn hwpt_attach(case: Case) {
    let rig = Rig::new(case);
    let base = APERTURE_START;
    let unit = MockUnit::new(&rig.world);
    let source = rig.source(4 * PAGE);
    rig.map_all(&source, base);
    let areas = [expected(base, 4 * PAGE, &source, 0, Prot::READ_WRITE)];
    let one = Hwpt::new(&rig.ioas, &dynamic(&unit), SECOND()).unwrap();
    let two = Hwpt::new(&rig.ioas, &dynamic(&unit), SECOND()).unwrap();
    let (a, b) = (Lead::device(&unit, 0x900), Lead::device(&unit, 0x901));
    // Replaced only what is there; detached what is not: fine.
    assert_eq!(errno(a.dev().replace(AttachTo::Hwpt(&one))), EINVAL);
    a.dev().detach().unwrap();
    assert_eq!(unit.leads(a.stream), Leads::Blocked);
    a.dev().attach(AttachTo::Hwpt(&one)).unwrap();
    b.dev().attach(AttachTo::Hwpt(&one)).unwrap();
    assert!(unit.leads(a.stream) == unit.leads(b.stream) && unit.leads(a.stream) != Leads::Blocked);
    expect_tables(&a, &areas);
    let (one, error) = one.destroy().unwrap_err();
    assert_eq!(error, Error::Busy);
    // To where it leads already; and to another.
    let (calls, leads) = (unit.counts(), unit.leads(b.stream));
    b.dev().replace(AttachTo::Hwpt(&one)).unwrap();
    assert_eq!((unit.counts(), unit.leads(b.stream)), (calls, leads), "replaced by itself is no change");
    b.dev().replace(AttachTo::Hwpt(&two)).unwrap();
    assert!(unit.leads(b.stream) != leads && unit.leads(a.stream) == leads);
    expect_tables(&b, &areas);
    // What one unit made, no other takes.
    let other = MockUnit::new(&rig.world);
    let far = Lead::device(&other, 0x900);
    assert_eq!(errno(far.dev().attach(AttachTo::Hwpt(&one))), EINVAL);
    assert_eq!((unit.leads(a.stream), other.leads(far.stream)), (leads, Leads::Blocked));
    a.dev().detach().unwrap();
    a.dev().detach().unwrap();
    assert_eq!(unit.leads(a.stream), Leads::Blocked);
    one.destroy().map_err(|(_, error)| error).unwrap();
    // The handle may go before the last device does.
    drop(two);
    expect_tables(&b, &areas);
    rig.expect(&areas);
    drop((a, b, far));
    binding(&rig.world);
    groups(&rig, &unit);
    regions(&rig, &unit);
    automatic(&rig);
    bus_mastering(&rig);
    rig.close();
}

/// Devices that ask for any domain of an address space share one that was made for that, and take nobody's own.
fn automatic(rig: &Rig) {
    let unit = MockUnit::new(&rig.world);
    let own = hwpt(rig, &unit);
    let number = MockDomain::of(own.domain()).number();
    let (a, b) = (Lead::device(&unit, 1), Lead::device(&unit, 2));
    a.dev().attach(AttachTo::Auto(&rig.ioas)).unwrap();
    let made = unit.counts().of(Call::CreateDomain);
    b.dev().attach(AttachTo::Auto(&rig.ioas)).unwrap();
    assert_eq!(unit.counts().of(Call::CreateDomain), made);
    assert!(unit.leads(a.stream) == unit.leads(b.stream) && unit.leads(a.stream) != Leads::Paging(number));
    // It goes with the last of them.
    rig.world.record();
    for (lead, left) in [(a, 0), (b, 1)] {
        lead.dev().detach().unwrap();
        let gone = |event: &Event| matches!(event, Event::DropDomain { .. });
        assert_eq!(rig.world.events().into_iter().filter(gone).count(), left);
    }
}

/// A function may do DMA only while it leads somewhere.
fn bus_mastering(rig: &Rig) {
    let unit = MockUnit::new(&rig.world);
    let function = MockFunction::capable(&rig.world);
    let lead = Lead::configured(&unit, 1, |config| config.function = Some(function.clone()));
    let hwpt = hwpt(rig, &unit);
    let domain = Some(MockDomain::of(hwpt.domain()).number());
    rig.world.record();
    lead.dev().attach(AttachTo::Hwpt(&hwpt)).unwrap();
    let stream = lead.stream;
    let master = |on| Event::BusMaster { function: function.number(), on };
    assert_eq!(rig.world.events(), [Event::Attach { stream, domain }, master(true)]);
    lead.dev().detach().unwrap();
    assert_eq!(rig.world.events(), [master(false), Event::Attach { stream, domain: None }]);
    // One that does not let itself be stopped stays where it is.
    lead.dev().attach(AttachTo::Hwpt(&hwpt)).unwrap();
    function.script().fail(Call::BusMaster, 0, HwError::Hardware("busy"), Effect::None);
    assert!(lead.dev().detach().is_err());
    assert!(unit.leads(stream) != Leads::Blocked && function.is_bus_master());
    drop(lead);
    assert!(!function.is_bus_master());
}

/// Whoever binds a device needs DMA and interrupts that are isolated, and has the whole group for itself.
fn binding(world: &World) {
    let unit = MockUnit::new(world);
    let group = Group::new(None).unwrap();
    let device = |stream, coherent, isolated_msi| {
        let streams = [StreamId::new(stream)];
        let unit = unit.clone();
        let (function, router, account) = (None, None, None);
        let config =
            DeviceConfig { unit, streams: &streams, function, regions: &[], coherent, isolated_msi, router, account };
        Device::new(&group, &config).unwrap()
    };
    assert_eq!(errno(device(1, false, true).bind(OWNER, true)), EINVAL);
    let forger = device(2, true, false);
    assert_eq!(errno(forger.bind(OWNER, false)), EPERM);
    forger.bind(OWNER, true).unwrap();
    let good = device(3, true, true);
    assert_eq!(errno(good.bind(OwnerId(OWNER.0 + 1), false)), EPERM);
    good.bind(OWNER, false).unwrap();
    assert_eq!(group.owner(), Some(OWNER));
    forger.unbind().unwrap();
    assert_eq!(group.owner(), Some(OWNER));
    good.unbind().unwrap();
    assert_eq!(group.owner(), None);
    // Not bound, it leads nowhere.
    let ioas = Ioas::new(IoasConfig::default()).unwrap();
    assert_eq!(errno(good.attach(AttachTo::Auto(&ioas))), EINVAL);
}

/// Devices that cannot be kept apart lead to one and the same domain.
fn groups(rig: &Rig, unit: &Arc<MockUnit>) {
    let one = Lead::device(unit, 0xa00);
    let streams = [StreamId::new(0xa01)];
    let config = DeviceConfig {
        unit: unit.clone(),
        streams: &streams,
        function: None,
        regions: &[],
        coherent: true,
        isolated_msi: true,
        router: None,
        account: None,
    };
    let two = Device::new(one.dev().group(), &config).unwrap();
    two.bind(OWNER, false).unwrap();
    let stream = Stream::function(streams[0]);
    let (first, second) = (hwpt(rig, unit), hwpt(rig, unit));
    one.dev().attach(AttachTo::Hwpt(&first)).unwrap();
    assert_eq!(errno(two.attach(AttachTo::Hwpt(&second))), EINVAL);
    assert_eq!(unit.leads(stream), Leads::Blocked);
    two.attach(AttachTo::Hwpt(&first)).unwrap();
    assert_eq!(unit.leads(stream), unit.leads(one.stream));
    // They move together, or not at all.
    let before = unit.leads(stream);
    unit.script().fail(Call::Attach, 1, HwError::OutOfMemory, Effect::None);
    assert_eq!(errno(two.replace(AttachTo::Hwpt(&second))), ENOMEM);
    assert_eq!((unit.leads(stream), unit.leads(one.stream)), (before, before));
    two.replace(AttachTo::Hwpt(&second)).unwrap();
    assert!(unit.leads(stream) != before && unit.leads(stream) == unit.leads(one.stream));
    // One goes, and the other stays where it is.
    one.dev().detach().unwrap();
    assert!(unit.leads(one.stream) == Leads::Blocked && unit.leads(stream) != Leads::Blocked);
    assert_eq!(errno(one.dev().replace(AttachTo::Hwpt(&first))), EINVAL);
    two.detach().unwrap();
}

fn hwpt(rig: &Rig, unit: &Arc<MockUnit>) -> Hwpt {
    Hwpt::new(&rig.ioas, &dynamic(unit), SECOND()).unwrap()
}

/// What devices' surroundings treat specially is enforced as long as they are attached, and where they are going before
/// they go.
fn regions(rig: &Rig, unit: &Arc<MockUnit>) {
    let hole = range(APERTURE_START + (1 << 20), 4 * PAGE);
    let region = [ReservedRegion { range: hole, kind: RegionKind::Reserved }];
    let direct = range(APERTURE_START + (2 << 20), PAGE);
    let lead = Lead::reserving(unit, 0xb00, &region);
    let source = rig.source(PAGE);
    let other = rig.another();
    let map = |ioas: &Ioas| ioas.map(&source.pages, 0, PAGE, Placement::Fixed(hole.start()), Prot::READ);
    // In the way of one that comes.
    map(&rig.ioas).unwrap();
    assert_eq!(errno(lead.dev().attach(AttachTo::Auto(&rig.ioas))), EADDRINUSE);
    assert_eq!(unit.leads(lead.stream), Leads::Blocked);
    lead.dev().attach(AttachTo::Auto(&other)).unwrap();
    assert_eq!(errno(map(&other)), EINVAL);
    let before = unit.leads(lead.stream);
    assert_eq!(errno(lead.dev().replace(AttachTo::Auto(&rig.ioas))), EADDRINUSE);
    assert_eq!((unit.leads(lead.stream), errno(map(&other))), (before, EINVAL));
    rig.ioas.unmap(hole).unwrap();
    lead.dev().replace(AttachTo::Auto(&rig.ioas)).unwrap();
    map(&other).unwrap();
    assert_eq!(errno(map(&rig.ioas)), EINVAL);
    lead.dev().detach().unwrap();
    map(&rig.ioas).unwrap();
    rig.ioas.unmap(hole).unwrap();
    // What a device uses at any time must lead to itself, and stays.
    let region = [ReservedRegion { range: direct, kind: RegionKind::Direct { prot: Prot::READ_WRITE } }];
    let lead = Lead::reserving(unit, 0xb01, &region);
    assert_eq!(errno(lead.dev().attach(AttachTo::Auto(&rig.ioas))), EINVAL);
    let wrong = [PhysExtent::new(PhysAddr::new(direct.start().get() + PAGE), PAGE)];
    rig.ioas.map_extents(&wrong, Placement::Fixed(direct.start()), Prot::READ_WRITE).unwrap();
    assert_eq!(errno(lead.dev().attach(AttachTo::Auto(&rig.ioas))), EINVAL);
    rig.ioas.unmap(direct).unwrap();
    let right = [PhysExtent::new(PhysAddr::new(direct.start().get()), PAGE)];
    rig.ioas.map_extents(&right, Placement::Fixed(direct.start()), Prot::READ_WRITE).unwrap();
    lead.dev().attach(AttachTo::Auto(&rig.ioas)).unwrap();
    assert_eq!(lead.ways(direct.start().get()), [(direct.start().get(), Prot::READ_WRITE)]);
    assert_eq!(errno(rig.ioas.unmap(direct)), EBUSY);
    lead.dev().detach().unwrap();
    assert_eq!(rig.ioas.unmap(direct).unwrap(), PAGE);
}
