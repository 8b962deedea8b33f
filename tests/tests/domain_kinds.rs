//! What domains of the SMMUv3 driver cannot be yet is refused, and not quietly left out: nobody gets a domain that falls short
//! of what was asked for.

use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{
    DomainConfig, Gather, HwError, Invalidation, Nested, NestedConfig, PageResponse, ResponseCode, Stage, Target, Unit,
};
use iommu_tests::smmuv3;

/// A guest's first stage of another driver.
struct Foreign;

impl Nested for Foreign {
    fn invalidate(&self, _: &Invalidation) -> Result<(), HwError> {
        Ok(())
    }
}

/// Checks a unit whose domains are of `stage`; `in_use` tells how many frames it takes.
fn check(name: &str, unit: &dyn Unit, stage: Stage, stream: iommu_core::hw::Stream, in_use: &dyn Fn() -> usize) {
    let before = in_use();
    let plain = DomainConfig::new(stage);
    let asked = [
        DomainConfig { nest_parent: true, ..plain },
        DomainConfig { dirty_tracking: true, ..plain },
        DomainConfig { enforce_coherency: true, ..plain },
        DomainConfig { nest_parent: true, dirty_tracking: true, enforce_coherency: true, ..plain },
    ];
    // More often than there are domain ids.
    for config in asked.iter().cycle().take(0x1_0010) {
        let refused = unit.create_domain(config).err();
        assert!(matches!(refused, Some(HwError::Unsupported(_))), "{name}: {config:?}: {refused:?}");
    }
    assert_eq!(in_use(), before, "{name}");
    let told = unit.capabilities();
    assert!(!told.nesting && !told.dirty_tracking && !told.enforce_coherency, "{name}: {told:?}");

    let domain = unit.create_domain(&plain).unwrap();
    let before = in_use();
    let nested = unit.attach(stream, Target::Nested(&Foreign));
    assert!(matches!(nested, Err(HwError::Unsupported(_))), "{name}: {nested:?}");
    let nested = unit.create_nested(&*domain, &NestedConfig { kind: 1, words: &[0; 4] }).err();
    assert!(matches!(nested, Some(HwError::Unsupported(_))), "{name}: {nested:?}");
    let response = PageResponse { stream, group: 0, code: ResponseCode::Invalid };
    // Where accesses can stall it is an answer to one that does not wait any more.
    let answered = unit.respond(&response);
    assert!(matches!(answered, Ok(()) | Err(HwError::Unsupported(_))), "{name}: {answered:?}");
    let page = IovaRange::from_len(Iova::new(0), 0x1000).unwrap();
    let mut gather = Gather::new();
    let dirty = [
        domain.set_dirty_tracking(true),
        domain.read_dirty(page, &mut |_| ()),
        domain.read_and_clear_dirty(page, &mut gather, &mut |_| ()),
    ];
    assert!(dirty.iter().all(|found| matches!(found, Err(HwError::Unsupported(_)))), "{name}: {dirty:?}");
    assert!(gather.is_empty());
    assert_eq!(in_use(), before, "{name}");
    // What is asked for without any of that is there.
    unit.attach(stream, Target::Paging(&*domain)).unwrap();
}

#[test]
fn what_is_not_there_yet_is_refused() {
    for case in smmuv3::case::Case::all() {
        let bench = smmuv3::bench::Bench::up(&case);
        check(&case.name, &bench.unit, case.stage, smmuv3::bench::stream(8), &|| bench.memory.in_use());
        bench.check();
    }
}
