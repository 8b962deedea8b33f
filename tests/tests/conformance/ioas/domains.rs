//! Domains of an address space, and what they ask of it.

use crate::common::*;
use iommu_core::Error;
use iommu_core::hw::{DomainConfig, HwError, PageSizes, Prot, Stage, Unit as _, UnitCapabilities};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::Placement;
use iommu_tests::mock::*;

/// A second stage without anything special.
pub const SECOND: fn() -> HwptConfig = || HwptConfig::new(Stage::Second);

type Lack = fn(&mut UnitCapabilities);
type Ask = fn(&mut HwptConfig);

/// What a unit says that it can do, and nothing else, can be had.
pub fn get_hw_info(case: Case) {
    let rig = Rig::new(case);
    let all = UnitConfig::default().capabilities;
    let lacks: [(Lack, Ask); 6] = [
        (|can| can.second_stage = false, |_| {}),
        (|can| can.first_stage = false, |config| config.stage = Stage::First),
        (|can| can.nesting = false, |config| config.nest_parent = true),
        (|can| can.dirty_tracking = false, |config| config.dirty_tracking = true),
        (|can| can.enforce_coherency = false, |config| config.enforce_coherency = true),
        (|can| can.stalls = false, |config| config.stall = true),
    ];
    for (lack, ask) in lacks {
        let mut capabilities = all;
        lack(&mut capabilities);
        let mut config = SECOND();
        ask(&mut config);
        let unit = MockUnit::with(&rig.world, UnitConfig { capabilities, ..UnitConfig::default() });
        assert_eq!(errno(Hwpt::new(&rig.ioas, &dynamic(&unit), config.clone())), EOPNOTSUPP);
        let whole = MockUnit::new(&rig.world);
        let hwpt = Hwpt::new(&rig.ioas, &dynamic(&whole), config.clone()).unwrap();
        let asked = DomainConfig {
            stage: config.stage,
            nest_parent: config.nest_parent,
            dirty_tracking: config.dirty_tracking,
            enforce_coherency: config.enforce_coherency,
            stall: config.stall,
        };
        assert_eq!(MockDomain::of(hwpt.domain()).config(), asked);
        assert_eq!((unit.capabilities(), whole.capabilities()), (capabilities, all));
    }
    rig.close();
}

pub fn ioas_option_huge_pages(case: Case) {
    let mut rig = Rig::new(case);
    let source = rig.source_of(MemoryConfig::contiguous(MOCK_HUGE, MOCK_HUGE));
    let base = APERTURE_START;
    let leaves = |rig: &Rig| rig.leads.iter().map(|lead| lead.unit.leaves(lead.stream).len()).collect::<Vec<_>>();
    assert!(rig.ioas.large_pages());
    rig.map_all(&source, base);
    assert!(leaves(&rig).iter().all(|&count| count == 1));
    if case == Case::NoDomain {
        rig.ioas.set_large_pages(false).unwrap();
    } else {
        assert_eq!(errno(rig.ioas.set_large_pages(false)), EINVAL);
        assert!(rig.ioas.large_pages() && leaves(&rig).iter().all(|&count| count == 1));
        rig.ioas.unmap_all().unwrap();
        rig.ioas.set_large_pages(false).unwrap();
        rig.map_all(&source, base);
    }
    assert!(!rig.ioas.large_pages());
    assert_eq!(rig.ioas.alignment(), PAGE);
    if case == Case::NoDomain {
        rig.add_domain().unwrap();
    }
    // In pages as small as an area may be cut.
    let calls = |rig: &Rig| rig.leads[0].unit.counts().of(Call::Map);
    assert_eq!(calls(&rig) - if case == Case::NoDomain { 0 } else { 1 }, MOCK_HUGE / PAGE);
    rig.expect(&[expected(base, MOCK_HUGE, &source, 0, Prot::READ_WRITE)]);
    let access = rig.access(Some(MockUser::new()), MOCK_PAGE);
    let pin = access.pin(range(base + 64 * PAGE, PAGE), Prot::READ).unwrap();
    assert_eq!(errno(rig.ioas.split(iova(base + 5 * PAGE))), EINVAL);
    drop((pin, access));
    let lock = rig.ioas.lock(range(base + 64 * PAGE, PAGE), false).unwrap();
    assert_eq!(errno(rig.ioas.split(iova(base + 5 * PAGE))), EBUSY);
    drop(lock);
    assert_eq!(errno(rig.ioas.split(iova(base + 5 * PAGE + MOCK_PAGE))), EINVAL);
    assert_eq!(errno(rig.ioas.split(iova(base - PAGE))), ENOENT);
    rig.ioas.split(iova(base)).unwrap();
    rig.ioas.split(iova(base + 5 * PAGE)).unwrap();
    assert_eq!(rig.unmap(base, 5 * PAGE).unwrap(), 5 * PAGE);
    rig.expect(&[expected(base + 5 * PAGE, MOCK_HUGE - 5 * PAGE, &source, 5 * PAGE, Prot::READ_WRITE)]);
    assert_eq!(errno(rig.ioas.map(&source.pages, 0, MOCK_PAGE, at(base), Prot::READ)), EINVAL);
    rig.ioas.unmap_all().unwrap();
    rig.ioas.set_large_pages(true).unwrap();
    rig.map_all(&source, base);
    assert!(leaves(&rig).iter().all(|&count| count == 1));
    rig.close();
}

pub fn ioas_align_change(case: Case) {
    let mut rig = Rig::new(case);
    let base = APERTURE_START;
    let source = rig.source(4 * PAGE);
    let small = alignment(case);
    assert_eq!(rig.ioas.alignment(), small);
    // An area that is as misaligned as can be: whoever asks for more can not come, and nothing has changed.
    let place = base + PAGE + small;
    rig.ioas.map(&source.pages, 0, PAGE, at(place), Prot::READ).unwrap();
    let here = [expected(place, PAGE, &source, 0, Prot::READ)];
    assert_eq!(errno(rig.ioas.set_large_pages(false)), if case == Case::NoDomain { EADDRINUSE } else { EINVAL });
    let more = if case == Case::NoDomain { MOCK_PAGE } else { PAGE };
    let access = iommu_core::access::Access::new(iommu_core::access::AccessConfig {
        alignment: more,
        ..iommu_core::access::AccessConfig::default()
    });
    let access = access.unwrap();
    assert_eq!(errno(access.attach(&rig.ioas)), EADDRINUSE);
    let pages = UnitConfig { page_sizes: COMMON_SIZES, ..UnitConfig::default() };
    let unit = MockUnit::with(&rig.world, pages);
    assert_eq!(errno(Hwpt::new(&rig.ioas, &dynamic(&unit), SECOND())), EADDRINUSE);
    assert_eq!((rig.ioas.alignment(), rig.ioas.large_pages()), (small, true));
    rig.expect(&here);
    assert_eq!(unit.counts().of(Call::Map), 0);
    if case == Case::NoDomain {
        assert!(matches!(rig.add_domain(), Err(Error::AddressInUse { .. })));
    }
    // The memory's side counts as much.
    rig.unmap(place, PAGE).unwrap();
    rig.ioas.map(&source.pages, small, PAGE, at(base), Prot::READ).unwrap();
    assert_eq!(errno(access.attach(&rig.ioas)), EADDRINUSE);
    rig.unmap(base, PAGE).unwrap();
    rig.ioas.map(&source.pages, 0, PAGE, at(place), Prot::READ).unwrap();
    // Without it they may; from then on it is refused. When they go, it is as before.
    rig.unmap(place, PAGE).unwrap();
    access.attach(&rig.ioas).unwrap();
    assert_eq!(rig.ioas.alignment(), more);
    assert_eq!(errno(rig.ioas.map(&source.pages, 0, PAGE, at(place), Prot::READ)), EINVAL);
    // One that cannot be filled leaves nothing behind.
    rig.ioas.map(&source.pages, 0, PAGE, at(base), Prot::READ).unwrap();
    let usable = |rig: &Rig| {
        let mut ranges = [range(1, 1)];
        (rig.ioas.alignment(), rig.ioas.iova_ranges(&mut ranges), ranges)
    };
    let before = usable(&rig);
    unit.script().fail(Call::Map, 0, HwError::OutOfMemory, Effect::None);
    assert_eq!(errno(Hwpt::new(&rig.ioas, &dynamic(&unit), SECOND())), ENOMEM);
    assert_eq!(usable(&rig), before);
    rig.unmap(base, PAGE).unwrap();
    let wide = Hwpt::new(&rig.ioas, &dynamic(&unit), SECOND()).unwrap();
    assert_eq!(rig.ioas.alignment(), PAGE);
    access.detach().unwrap();
    assert_eq!(rig.ioas.alignment(), PAGE);
    assert_eq!(errno(rig.ioas.map(&source.pages, MOCK_PAGE, PAGE, at(base), Prot::READ)), EINVAL);
    assert_eq!(errno(rig.ioas.map(&source.pages, 0, MOCK_PAGE, at(base), Prot::READ)), EINVAL);
    assert_eq!(rig.ioas.map(&source.pages, 0, PAGE, Placement::Anywhere, Prot::READ).unwrap().get() % PAGE, 0);
    rig.ioas.unmap_all().unwrap();
    wide.destroy().map_err(|(_, error)| error).unwrap();
    assert_eq!(rig.ioas.alignment(), small);
    rig.ioas.map(&source.pages, 0, PAGE, at(place), Prot::READ).unwrap();
    rig.expect(&here);
    rig.ioas.unmap_all().unwrap();
    // Pages of 64 KiB; memory that is not as aligned is refused, by whoever sees it.
    let wide = UnitConfig { page_sizes: PageSizes::new(1 << 16), ..UnitConfig::default() };
    let unit = MockUnit::with(&rig.world, wide);
    let hwpt = Hwpt::new(&rig.ioas, &dynamic(&unit), SECOND()).unwrap();
    assert_eq!(rig.ioas.alignment(), 1 << 16);
    assert_eq!(errno(rig.ioas.map(&source.pages, 0, PAGE, at(base), Prot::READ)), EINVAL);
    let large = rig.source(1 << 16);
    assert_eq!(errno(rig.ioas.map(&large.pages, 0, 1 << 16, at(base), Prot::READ)), EINVAL);
    rig.expect(&[]);
    drop(hwpt);
    assert_eq!(rig.ioas.alignment(), small);
    rig.close();
}
