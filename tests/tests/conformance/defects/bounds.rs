//! Numbers that come from a guest.

use crate::common::*;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::dirty::{DirtyBitmap, DirtyRead};
use iommu_core::hw::{Invalidation, NestedConfig, Prot, Stage};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_core::nested::NestedHwpt;
use iommu_core::viommu::{DeviceInvalidation, Viommu};
use iommu_tests::mock::*;

/// 4. One call carries out only so many requests.
#[test]
fn invalidations_are_bounded() {
    let world = World::new();
    let unit = MockUnit::new(&world);
    let ioas = Ioas::new(IoasConfig::default()).unwrap();
    let config = HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) };
    let parent = Hwpt::new(&ioas, &dynamic(&unit), config).unwrap();
    let nested = NestedHwpt::new(&parent, &NestedConfig { kind: NESTED_KIND, words: &[1] }).unwrap();
    let most = NestedHwpt::MOST_REQUESTS;
    let requests = vec![Invalidation { kind: NESTED_KIND, words: [0, 0] }; 3 * most + 1];
    let (mut left, mut calls) = (&requests[..], 0);
    while !left.is_empty() {
        let before = unit.counts().of(Call::Invalidate);
        let (done, result) = nested.invalidate(left);
        result.unwrap();
        assert!((1..=most).contains(&done));
        assert_eq!(unit.counts().of(Call::Invalidate) - before, done as u64);
        left = &left[done..];
        calls += 1;
    }
    assert_eq!(calls, 4);
    let viommu = Viommu::new(&parent).unwrap();
    let request = Invalidation { kind: DEVICE_KIND, words: [0, 0] };
    let lead = Lead::device(&unit, 1);
    let vdevice = viommu.vdevice(lead.dev(), 1).unwrap();
    let many = vec![DeviceInvalidation { virt_id: 1, request }; most + 1];
    assert_eq!(viommu.invalidate(&many), (most, Ok(())));
    assert_eq!(unit.counts().of(Call::InvalidateDevice), most as u64);
    drop((vdevice, lead));
}

/// 7. Bitmaps at the end of the address space, or that would reach beyond it, do not wrap.
#[test]
fn bitmaps_do_not_wrap() {
    let world = World::new();
    let unit = MockUnit::with(&world, UnitConfig { aperture: IovaRange::FULL, ..UnitConfig::default() });
    let ioas = Ioas::new(IoasConfig::default()).unwrap();
    let config = HwptConfig { dirty_tracking: true, ..HwptConfig::new(Stage::Second) };
    let hwpt = Hwpt::new(&ioas, &dynamic(&unit), config).unwrap();
    let source = Source::new(&world, MemoryConfig::scattered(2 * PAGE), None);
    let top = u64::MAX - PAGE + 1;
    ioas.map(&source.pages, 0, PAGE, at(top), Prot::READ_WRITE).unwrap();
    ioas.map(&source.pages, PAGE, PAGE, at(0), Prot::READ_WRITE).unwrap();
    hwpt.set_dirty_tracking(true).unwrap();
    let domain = MockDomain::of(hwpt.domain());
    // Far more bits than there are addresses above the base.
    for (dirty, wanted) in [(u64::MAX, 0b1000), (0, 0)] {
        domain.device_writes(dirty);
        let mut bytes = [0; 64];
        let mut bitmap = DirtyBitmap::new(&mut bytes, iova(top - 3 * PAGE), PAGE).unwrap();
        for how in [DirtyRead::Peek, DirtyRead::Clear] {
            hwpt.read_dirty(span(top - 3 * PAGE, u64::MAX), how, &mut bitmap).unwrap();
        }
        // Everything, of which the bitmap holds a part.
        hwpt.read_dirty(IovaRange::FULL, DirtyRead::Clear, &mut bitmap).unwrap();
        assert_eq!(bytes[0], wanted);
        assert!(bytes[1..].iter().all(|&byte| byte == 0), "the bitmap wrapped");
    }
    // The largest pages there are, and none of the bits that would be needed.
    let mut byte = [0; 1];
    let mut bitmap = DirtyBitmap::new(&mut byte, iova(1 << 63), 1 << 63).unwrap();
    bitmap.mark(IovaRange::FULL);
    assert!(bitmap.is_dirty(iova(u64::MAX)) && !bitmap.is_dirty(iova(0)));
    assert_eq!(byte, [1]);
    let mut bitmap = DirtyBitmap::new(&mut [], Iova::new(0), PAGE).unwrap();
    bitmap.mark(IovaRange::FULL);
    assert!(!bitmap.is_dirty(iova(0)));
    drop(hwpt);
    drop(ioas);
    world.assert_clean();
}
