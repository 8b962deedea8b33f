use super::*;
use crate::test_pci::{at, bridge, conventional};
use crate::test_tables::{dmar, rmrr, scope};
use crate::topology::PcieType;
use iommu_core::addr::PhysAddr;

/// What `function` needs, where firmware's regions for 00:02.0 are `ranges`; the host has 39 address bits.
fn needed(ranges: &[(u64, u64)], function: Sbdf) -> Result<Vec<(u64, u64, bool)>, RegionError> {
    let structures: Vec<_> =
        ranges.iter().map(|(base, limit)| rmrr(0, *base, *limit, &[scope(1, 0, 0, &[(2, 0)])])).collect();
    let dmar = Dmar::parse(&dmar(&structures)).unwrap();
    let topology = Topology::new([conventional(at(0, 2, 0)), conventional(at(0, 3, 0))]).unwrap();
    let regions = required_regions(&dmar, &topology, function)?;
    let plain = |region: &ReservedRegion| {
        let is_direct = match region.kind {
            RegionKind::Direct { prot: Prot::READ_WRITE } => true,
            RegionKind::Msi => false,
            other => panic!("{other:?}"),
        };
        (region.range.start().get(), region.range.last().get(), is_direct)
    };
    Ok(regions.iter().map(plain).collect())
}

const MSI: (u64, u64, bool) = (0xfee0_0000, 0xfeef_ffff, false);

#[test]
fn a_function_needs_its_regions_and_its_interrupts() {
    let ranges = [(0x1_0000_0000, 0x1_0000_ffff), (0x7b80_0000, 0x7fff_ffff)];
    let expected = [(0x7b80_0000, 0x7fff_ffff, true), MSI, (0x1_0000_0000, 0x1_0000_ffff, true)];
    assert_eq!(needed(&ranges, at(0, 2, 0)), Ok(expected.to_vec()));
    assert_eq!(needed(&ranges, at(0, 3, 0)), Ok(Vec::from([MSI])));
}

#[test]
fn what_overlaps_or_touches_is_joined() {
    let ranges = [(0x4000, 0x4fff), (0x1000, 0x2fff), (0x2000, 0x3fff), (0x1000, 0x1fff), (0x6000, 0x6fff)];
    let expected = [(0x1000, 0x4fff, true), (0x6000, 0x6fff, true), MSI];
    assert_eq!(needed(&ranges, at(0, 2, 0)), Ok(expected.to_vec()));
}

#[test]
fn what_cannot_be_mapped_keeps_the_function_here() {
    let region = |start, last| IovaRange::new(Iova::new(start), Iova::new(last)).unwrap();
    let bad = [(0xfee0_0000, 0xfee0_0fff), (0xfed0_0000, 0xfee0_0fff), (0xfeef_f000, 0xff00_0fff), (0, 0xffff_ffff)];
    for (base, limit) in bad {
        let error = RegionError::Interrupts { region: region(base, limit) };
        assert_eq!(needed(&[(base, limit)], at(0, 2, 0)), Err(error));
        assert!(needed(&[(base, limit)], at(0, 3, 0)).is_ok(), "others do not need it");
    }
    assert!(needed(&[(0xfedf_f000, 0xfedf_ffff), (0xfef0_0000, 0xfef0_0fff)], at(0, 2, 0)).is_ok());
    let end = (1 << 39) - 1;
    assert!(needed(&[(end & !0xfff, end)], at(0, 2, 0)).is_ok());
    for (base, limit) in [(end & !0xfff, end + 0x1000), (end + 1, end + 0x1000), (1 << 63, u64::MAX)] {
        let error = RegionError::BeyondHost { region: region(base, limit), bits: 39 };
        assert_eq!(needed(&[(base, limit)], at(0, 2, 0)), Err(error));
    }
}

#[test]
fn who_shares_an_id_needs_the_same() {
    let all = [
        bridge(at(0, 5, 0), Some(PcieType::PcieToPciBridge), 1, 1),
        conventional(at(1, 4, 0)),
        conventional(at(1, 5, 0)),
    ];
    let topology = Topology::new(all).unwrap();
    let dmar = Dmar::parse(&dmar(&[rmrr(0, 0x1000, 0x1fff, &[scope(1, 0, 0, &[(5, 0), (4, 0)])])])).unwrap();
    assert_eq!(dmar.rmrrs()[0].start, PhysAddr::new(0x1000));
    for sbdf in [at(1, 4, 0), at(1, 5, 0)] {
        assert_eq!(required_regions(&dmar, &topology, sbdf).unwrap().len(), 2);
    }
}
