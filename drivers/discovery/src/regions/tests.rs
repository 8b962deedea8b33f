use super::*;
use crate::test_pci::{at, bridge, conventional};
use crate::test_tables::{dmar, rmrr, scope};
use crate::topology::PcieType;
use alloc::vec;
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

mod smmu {
    use super::*;
    use crate::iort::Iort;
    use crate::madt::Madt;
    use crate::test_tables::{
        arm_server, at as nodes, iort, its, its_group, madt, mapping, rmr, root_complex, smmu_v3,
    };

    const DIRECT: RegionKind = RegionKind::Direct { prot: Prot::READ_WRITE };
    const RELAXABLE: RegionKind = RegionKind::DirectRelaxable { prot: Prot::READ_WRITE };

    fn region(start: u64, len: u64, kind: RegionKind) -> ReservedRegion {
        ReservedRegion { range: IovaRange::from_len(Iova::new(start), len).unwrap(), kind }
    }

    fn topology() -> Topology {
        Topology::new([
            conventional(at(0, 2, 0)),
            conventional(at(0, 3, 0)),
            bridge(at(0, 5, 0), Some(PcieType::PcieToPciBridge), 1, 1),
            conventional(at(1, 4, 0)),
        ])
        .unwrap()
    }

    /// What 00:02.0 needs, where its stream has these ranges of memory and its messages a service at `its`.
    fn needed(memory: &[(u32, u64, u64)], model: u32, its_at: u64) -> Result<Vec<ReservedRegion>, RegionError> {
        let unit = nodes::FIRST - 4;
        let mut all = vec![
            its_group(&[0]),
            smmu_v3(0x1_0000, 0, model, [0; 4], 0, &[mapping(0, 0xffff, 0, nodes::ITS, 0)]),
            root_complex(0, 0, 0, &[mapping(0, 0xffff, 0, unit, 0)]),
        ];
        all.extend(
            memory.iter().map(|(flags, base, len)| rmr(*flags, &[(*base, *len)], &[mapping(0, 0, 0x10, unit, 1)])),
        );
        let madt = Madt::parse(&madt(&[its(0, its_at)])).unwrap();
        let streams = Streams::from_iort(&Iort::parse(&iort(&all)).unwrap(), Some(&madt)).unwrap();
        let others = required_regions_smmu(&streams, &topology(), at(0, 3, 0)).unwrap();
        assert_eq!(others.len(), 1, "only the doorbell");
        required_regions_smmu(&streams, &topology(), at(0, 2, 0))
    }

    #[test]
    fn memory_and_doorbells() {
        let doorbell = region(0x809_0000, 0x1_0000, RegionKind::SoftwareMsi);
        let both = needed(&[(1, 0x9000_0000, 0x1_0000), (0, 0x1_0000, 0x2_0000)], 0, 0x808_0000);
        let memory = [region(0x1_0000, 0x2_0000, DIRECT), region(0x9000_0000, 0x1_0000, RELAXABLE)];
        assert_eq!(both, Ok(vec![memory[0], doorbell, memory[1]]));
        // Hardware that does not translate messages reserves the page itself.
        assert_eq!(needed(&[], 1, 0x808_0000), Ok(vec![region(0x809_0000, 0x1_0000, RegionKind::Msi)]));
    }

    #[test]
    fn what_overlaps_is_joined_and_the_stricter_counts() {
        let its_at = 0x808_0000;
        let doorbell = region(0x809_0000, 0x1_0000, RegionKind::SoftwareMsi);
        let joined = |memory: &[(u32, u64, u64)], expected: &[ReservedRegion]| {
            assert_eq!(needed(memory, 0, its_at), Ok([expected, &[doorbell]].concat()), "{memory:x?}");
        };
        joined(&[(0, 0, 0x2_0000), (0, 0x1_0000, 0x2_0000)], &[region(0, 0x3_0000, DIRECT)]);
        joined(&[(1, 0, 0x1_0000), (1, 0x1_0000, 0x1_0000)], &[region(0, 0x2_0000, RELAXABLE)]);
        joined(&[(1, 0, 0x2_0000), (0, 0x1_0000, 0x2_0000)], &[region(0, 0x3_0000, DIRECT)]);
        let apart = [region(0, 0x1_0000, RELAXABLE), region(0x1_0000, 0x1_0000, DIRECT)];
        joined(&[(1, 0, 0x1_0000), (0, 0x1_0000, 0x1_0000)], &apart);
        // Memory where messages go cannot be.
        for kind in [0, 1] {
            let range = IovaRange::from_len(Iova::new(0x808_0000), 0x2_0000).unwrap();
            assert_eq!(
                needed(&[(kind, 0x808_0000, 0x2_0000)], 0, its_at),
                Err(RegionError::Conflict { region: range })
            );
        }
    }

    #[test]
    fn who_is_behind_no_unit_is_not_given_away() {
        let streams = Streams::from_iort(&Iort::parse(&arm_server()).unwrap(), None).unwrap();
        let far = crate::Sbdf::from_parts(0, 0x90, 0, 0).unwrap();
        let topology = Topology::new([conventional(at(0, 2, 0)), conventional(far)]).unwrap();
        let expected = Err(RegionError::Uncontrolled { function: far });
        assert_eq!(required_regions_smmu(&streams, &topology, far), expected);
        // Streams 0x10 to 0x1f have memory; without a MADT there are no doorbells.
        let memory = [region(0x9000_0000, 0x2_0000, DIRECT), region(0xa000_0000, 0x1_0000, DIRECT)];
        assert_eq!(required_regions_smmu(&streams, &topology, at(0, 2, 0)), Ok(memory.to_vec()));
        // The component's stream 0x41 of the second unit has some that may be remapped.
        let device = &streams.devices()[0];
        let own = region(0x9001_0000, 0x2_0000, RELAXABLE);
        assert_eq!(required_regions_of_device(&streams, device), Ok(vec![own]));
    }

    #[test]
    fn every_id_counts() {
        // 01:04.0 is seen as 01:00.0, which has the memory.
        let unit = 48;
        let all = [
            smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]),
            root_complex(0, 0, 0, &[mapping(0, 0xffff, 0, unit, 0)]),
            rmr(0, &[(0x1_0000, 0x1_0000)], &[mapping(0, 0, 0x100, unit, 1)]),
        ];
        let streams = Streams::from_iort(&Iort::parse(&iort(&all)).unwrap(), None).unwrap();
        let of = |function| required_regions_smmu(&streams, &topology(), function).unwrap().len();
        assert_eq!((of(at(1, 4, 0)), of(at(0, 2, 0))), (1, 0));
    }
}
