//! What is enforced in address spaces.

use super::*;

const MSI: u64 = 0xfee0_0000;

fn direct(prot: Prot) -> [ReservedRegion; 1] {
    [region(0x8000, 0x3000, RegionKind::Direct { prot })]
}

fn with_regions(regions: &[ReservedRegion]) -> World {
    let mut world = World::new();
    world.add(&[1], regions).bind(OWNER, false).unwrap();
    world
}

fn is_free(ioas: &Ioas, at: IovaRange) -> bool {
    free(ioas).iter().any(|free| free.covers(at))
}

#[test]
fn reserved_regions_are_kept_free_while_attached() {
    let kinds = [
        RegionKind::Msi,
        RegionKind::Reserved,
        RegionKind::SoftwareMsi,
        RegionKind::DirectRelaxable { prot: Prot::READ_WRITE },
    ];
    for kind in kinds {
        let world = with_regions(&[region(MSI, 0x10_0000, kind), region(0x1000, 0x1000, kind)]);
        let hwpt = world.hwpt();
        let device = &world.devices[0];
        let (window, low) = (range(MSI, 0x10_0000), range(0x1000, 0x1000));
        assert!(is_free(&world.ioas, window) && is_free(&world.ioas, low));
        device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
        assert!(!is_free(&world.ioas, range(MSI, 1)) && !is_free(&world.ioas, range(MSI + 0xf_ffff, 1)));
        let run = [PhysExtent::new(PhysAddr::new(0x1000), 0x1000)];
        let at = Placement::Fixed(Iova::new(0x1000));
        let refused = Err(Error::Reserved { reserved: low });
        assert_eq!(world.ioas.map_extents(&run, at, Prot::READ), refused);
        device.detach().unwrap();
        assert!(is_free(&world.ioas, window) && is_free(&world.ioas, low));
    }
}

#[test]
fn a_region_in_use_refuses_the_device() {
    let world = with_regions(&[region(0x10_0000, 0x1000, RegionKind::Msi), region(MSI, 0x1000, RegionKind::Msi)]);
    let hwpt = world.hwpt();
    map(&world.ioas, MSI, 0x5000, 0x1000, Prot::READ);
    let before = world.snapshot();
    world.mock.calls();
    let device = &world.devices[0];
    assert_eq!(device.attach(AttachTo::Hwpt(&hwpt)), Err(Error::AddressInUse { range: range(MSI, 0x1000) }));
    assert_eq!((world.mock.calls(), world.snapshot()), (std::vec![], before));
    world.ioas.unmap_all().unwrap();
    world.ioas.allow(&[range(MSI, 0x4000)]).unwrap();
    assert!(matches!(device.attach(AttachTo::Hwpt(&hwpt)), Err(Error::AddressInUse { .. })));
    world.ioas.allow(&[]).unwrap();
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
}

#[test]
fn each_device_of_a_group_has_its_own() {
    let mut world = with_regions(&[region(MSI, 0x1000, RegionKind::Msi)]);
    let regions = [region(MSI, 0x1000, RegionKind::Msi), region(0x4000, 0x1000, RegionKind::Reserved)];
    world.add(&[2], &regions).bind(OWNER, false).unwrap();
    let hwpt = world.hwpt();
    for device in &world.devices {
        device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    }
    assert!(!is_free(&world.ioas, range(0x4000, 1)));
    world.devices[1].detach().unwrap();
    assert!(is_free(&world.ioas, range(0x4000, 0x1000)) && !is_free(&world.ioas, range(MSI, 1)));
    world.devices[0].detach().unwrap();
    assert!(is_free(&world.ioas, range(MSI, 0x1000)));
}

#[test]
fn a_direct_region_must_be_mapped_to_itself() {
    // Where, to where, how long, what it allows; and whether that is enough.
    type Runs = [(u64, u64, u64, Prot)];
    let runs: &[(&Runs, bool)] = &[
        (&[], false),
        (&[(0x8000, 0x8000, 0x3000, Prot::READ_WRITE)], true),
        // Larger is fine; so is in pieces.
        (&[(0x4000, 0x4000, 0x10000, Prot::READ_WRITE)], true),
        (&[(0x7000, 0x7000, 0x2000, Prot::READ_WRITE), (0x9000, 0x9000, 0x4000, Prot::READ_WRITE)], true),
        // The first page, one in between, or the last is missing.
        (&[(0x9000, 0x9000, 0x2000, Prot::READ_WRITE)], false),
        (&[(0x8000, 0x8000, 0x1000, Prot::READ_WRITE), (0xa000, 0xa000, 0x1000, Prot::READ_WRITE)], false),
        (&[(0x8000, 0x8000, 0x2000, Prot::READ_WRITE)], false),
        // Elsewhere, at any place.
        (&[(0x8000, 0x9000, 0x3000, Prot::READ_WRITE)], false),
        (&[(0x8000, 0x8000, 0x2000, Prot::READ_WRITE), (0xa000, 0xb000, 0x1000, Prot::READ_WRITE)], false),
        // Allowed too little, at any place.
        (&[(0x8000, 0x8000, 0x3000, Prot::READ)], false),
        (&[(0x8000, 0x8000, 0x2000, Prot::READ_WRITE), (0xa000, 0xa000, 0x1000, Prot::WRITE)], false),
    ];
    for (runs, fits) in runs {
        let world = with_regions(&direct(Prot::READ_WRITE));
        let hwpt = world.hwpt();
        runs.iter().for_each(|&(iova, phys, len, prot)| map(&world.ioas, iova, phys, len, prot));
        let before = world.snapshot();
        world.mock.calls();
        let result = world.devices[0].attach(AttachTo::Hwpt(&hwpt));
        assert_eq!((result.is_ok(), is_invalid(result)), (*fits, !fits), "{runs:?}");
        if *fits {
            world.devices[0].detach().unwrap();
        } else {
            assert_eq!((world.mock.calls(), world.snapshot()), (std::vec![], before));
        }
    }
}

#[test]
fn one_area_of_several_runs_is_looked_at_whole() {
    let world = with_regions(&direct(Prot::READ));
    let hwpt = world.hwpt();
    let run = |start, len| PhysExtent::new(PhysAddr::new(start), len);
    let at = Placement::Fixed(Iova::new(0x8000));
    world.ioas.map_extents(&[run(0x8000, 0x2000), run(0x1000, 0x1000)], at, Prot::READ).unwrap();
    assert!(is_invalid(world.devices[0].attach(AttachTo::Hwpt(&hwpt))));
    // The wrong run lies beside the region.
    world.ioas.unmap_all().unwrap();
    let runs = [run(0x1000, 0x1000), run(0x8000, 0x3000), run(0x2000, 0x1000)];
    world.ioas.map_extents(&runs, Placement::Fixed(Iova::new(0x7000)), Prot::READ).unwrap();
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
}

#[test]
fn a_direct_mapping_cannot_be_broken_while_attached() {
    let world = with_regions(&direct(Prot::READ));
    let hwpt = world.hwpt();
    map(&world.ioas, 0x7000, 0x7000, 0x2000, Prot::READ);
    map(&world.ioas, 0x9000, 0x9000, 0x2000, Prot::READ_WRITE);
    map(&world.ioas, 0xb000, 0xb000, 0x1000, Prot::READ);
    let device = &world.devices[0];
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    let locks = |ioas| areas(ioas).iter().map(|area| area.locks).collect::<Vec<_>>();
    assert_eq!(locks(&world.ioas), [1, 1, 0]);
    assert_eq!(world.ioas.unmap(range(0x7000, 0x2000)), Err(Error::Busy));
    assert_eq!(world.ioas.unmap(range(0x9000, 0x2000)), Err(Error::Busy));
    // Another domain of the same address space: locked all the same.
    let other = world.hwpt();
    device.replace(AttachTo::Hwpt(&other)).unwrap();
    assert_eq!(locks(&world.ioas), [1, 1, 0]);
    assert_eq!(world.ioas.unmap(range(0xb000, 0x1000)), Ok(0x1000));
    device.detach().unwrap();
    assert_eq!(world.ioas.unmap(range(0x7000, 0x4000)), Ok(0x4000));
}

#[test]
fn a_pasid_needs_no_regions() {
    let mut regions = direct(Prot::READ).to_vec();
    regions.push(region(MSI, 0x1000, RegionKind::Msi));
    let world = with_regions(&regions);
    let hwpt = world.pasid_hwpt();
    world.devices[0].enable(Feature::Pasid).unwrap();
    let before = (free(&world.ioas), areas(&world.ioas));
    world.devices[0].attach_pasid(pasid(1), AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!((free(&world.ioas), areas(&world.ioas)), before);
}

#[test]
fn a_replacement_enforces_the_new_before_it_lets_go_of_the_old() {
    let mut regions = direct(Prot::READ).to_vec();
    regions.push(region(MSI, 0x1000, RegionKind::Msi));
    let world = with_regions(&regions);
    let (hwpt, other) = (world.hwpt(), world.hwpt_of(&world.other, HwptConfig::new(Stage::First)));
    map(&world.ioas, 0x8000, 0x8000, 0x3000, Prot::READ);
    let device = &world.devices[0];
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    let before = world.snapshot();
    world.mock.calls();
    // Not mapped there.
    assert!(is_invalid(device.replace(AttachTo::Hwpt(&other))));
    map(&world.other, 0x8000, 0x8000, 0x3000, Prot::READ);
    map(&world.other, MSI, 0x8000, 0x3000, Prot::READ);
    assert!(matches!(device.replace(AttachTo::Hwpt(&other)), Err(Error::AddressInUse { .. })));
    world.other.unmap(range(MSI, 0x3000)).unwrap();
    let after = world.snapshot();
    assert_eq!((&after.streams, &after.spaces[0]), (&before.streams, &before.spaces[0]));
    assert_eq!(world.mock.calls(), []);

    device.replace(AttachTo::Hwpt(&other)).unwrap();
    assert!(is_free(&world.ioas, range(MSI, 0x1000)) && !is_free(&world.other, range(MSI, 1)));
    assert_eq!(world.ioas.unmap(range(0x8000, 0x3000)), Ok(0x3000));
    assert_eq!(world.other.unmap(range(0x8000, 0x3000)), Err(Error::Busy));
}
