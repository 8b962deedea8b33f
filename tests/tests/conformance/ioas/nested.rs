//! Guests' first stages on domains.

use super::domains::SECOND;
use crate::common::*;
use iommu_core::Error;
use iommu_core::device::AttachTo;
use iommu_core::fault::FaultQueue;
use iommu_core::hw::{Invalidation, NestedConfig, Prot, Stage};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::nested::NestedHwpt;
use iommu_tests::mock::*;

fn parent() -> HwptConfig {
    HwptConfig { nest_parent: true, ..SECOND() }
}

fn guest(words: &[u64]) -> NestedConfig<'_> {
    NestedConfig { kind: NESTED_KIND, words }
}

/// A request that concerns one cached translation.
fn forget(id: u64) -> Invalidation {
    Invalidation { kind: NESTED_KIND, words: [id, 0] }
}

pub fn alloc_hwpt_nested(case: Case) {
    let rig = Rig::new(case);
    let base = APERTURE_START;
    let unit = MockUnit::new(&rig.world);
    let source = rig.source(4 * PAGE);
    rig.map_all(&source, base);
    let plain = Hwpt::new(&rig.ioas, &dynamic(&unit), SECOND()).unwrap();
    let below = Hwpt::new(&rig.ioas, &dynamic(&unit), parent()).unwrap();

    // Not on what was not made for it; not of a kind that nobody knows; not with values that are wrong.
    assert_eq!(errno(NestedHwpt::new(&plain, &guest(&[1]))), EINVAL);
    assert_eq!(errno(NestedHwpt::new(&below, &NestedConfig { kind: NESTED_KIND + 1, words: &[1] })), EOPNOTSUPP);
    assert!(NestedHwpt::new(&below, &guest(&[])).is_err() && NestedHwpt::new(&below, &guest(&[1, 2])).is_err());
    // A parent is a second stage.
    let first = HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::First) };
    assert_eq!(errno(Hwpt::new(&rig.ioas, &dynamic(&unit), first)), EOPNOTSUPP);

    // Page requests are the guest's, so a parent has no queue.
    let faults = Some(FaultQueue::new(4).unwrap());
    assert_eq!(errno(Hwpt::new(&rig.ioas, &dynamic(&unit), HwptConfig { faults, ..parent() })), EOPNOTSUPP);

    let one = NestedHwpt::new(&below, &guest(&[0xaaaa])).unwrap();
    let two = NestedHwpt::new(&below, &guest(&[0xbbbb])).unwrap();
    let lead = Lead::device(&unit, 0x900);
    lead.dev().attach(AttachTo::Nested(&one)).unwrap();
    assert!(matches!(unit.leads(lead.stream), Leads::Nested(..)));
    assert_eq!(lead.ways(base), [(source.memory.phys(0).get(), Prot::READ_WRITE)]);
    let before = unit.leads(lead.stream);
    lead.dev().replace(AttachTo::Nested(&two)).unwrap();
    assert!(unit.leads(lead.stream) != before && matches!(unit.leads(lead.stream), Leads::Nested(..)));
    lead.dev().replace(AttachTo::Hwpt(&below)).unwrap();
    assert!(matches!(unit.leads(lead.stream), Leads::Paging(_)));
    lead.dev().replace(AttachTo::Nested(&one)).unwrap();

    assert_eq!(unit.iotlb(lead.stream), Some([0xaaaa; 4]));
    invalidations(&one, &two, &|| unit.iotlb(lead.stream).unwrap());
    lead.dev().replace(AttachTo::Nested(&two)).unwrap();
    assert_eq!(unit.iotlb(lead.stream), Some([0, 0xbbbb, 0xbbbb, 0xbbbb]), "what was asked of one concerned another");

    // What something stands on stays.
    let (below, error) = below.destroy().unwrap_err();
    assert_eq!(error, Error::Busy);
    lead.dev().detach().unwrap();
    drop(lead);
    let (below, error) = below.destroy().unwrap_err();
    assert_eq!(error, Error::Busy);
    drop((one, two));
    below.destroy().map_err(|(_, error)| error).unwrap();
    plain.destroy().map_err(|(_, error)| error).unwrap();
    rig.close();
}

fn invalidations(one: &NestedHwpt, two: &NestedHwpt, iotlb: &dyn Fn() -> Iotlb) {
    // Nothing asked for is no error.
    assert_eq!(one.invalidate(&[]), (0, Ok(())));
    // Those before the one that is wrong are carried out, and no other.
    let wrong_id = forget(IOTLB_IDS);
    let wrong_flags = Invalidation { kind: NESTED_KIND, words: [3, 1 << 8] };
    let wrong_kind = Invalidation { kind: NESTED_KIND + 1, words: [3, 0] };
    for wrong in [wrong_id, wrong_flags, wrong_kind] {
        for before in 0..3 {
            let mut requests = vec![forget(0); before];
            requests.push(wrong);
            requests.push(forget(1));
            let (done, result) = two.invalidate(&requests);
            assert_eq!(done, before);
            assert!(result.is_err());
        }
    }
    assert_eq!(iotlb(), [0xaaaa; 4]);
    assert_eq!(one.invalidate(&[forget(2), forget(0)]), (2, Ok(())));
    assert_eq!(iotlb(), [0, 0xaaaa, 0, 0xaaaa]);
    let all = Invalidation { kind: NESTED_KIND, words: [99, INVALIDATE_ALL] };
    assert_eq!(one.invalidate(&[all, forget(1)]), (2, Ok(())));
    assert_eq!(iotlb(), [0; 4]);
}
