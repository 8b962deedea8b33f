//! The heap of the VT-d driver runs out at every allocation of what VT-d alone has: guests' own first stages, and parts of
//! functions whose directory grows. Everything else is tested over both drivers, in `both`.

use iommu_core::addr::Iova;
use iommu_core::hw::Unit as _;
use iommu_core::hw::{
    self, DeviceTlb, DomainConfig, HwError, NestedConfig, Pasid, Prot, RequesterId, Stage, Stream, Target,
};
use iommu_models::vtd::Config;
use iommu_tests::bench::{extent, stream};
use iommu_tests::case::Case;
use iommu_tests::heap::{Failing, until_it_succeeds, with_heap_of};
use iommu_tests::house::{House, Vtd};
use iommu_vtd::guest::{ALL_PAGES, CHANGED, FIRST_STAGE};

const RED: u16 = 0x0108;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

#[test]
fn a_guests_first_stage_survives_a_heap_that_is_full() {
    let case = Case {
        name: "nested".into(),
        config: Config::server().ecap_bits(Config::ECAP_NEST, true),
        stage: Stage::Second,
        non_coherent: false,
    };
    let House { unit, model, .. } = House::<Vtd>::up(&case);
    let kept = model.memory().in_use();
    let parent = unit.create_domain(&DomainConfig { nest_parent: true, ..DomainConfig::new(Stage::Second) }).unwrap();
    let before = model.memory().in_use();
    let config = NestedConfig { kind: FIRST_STAGE, words: &[0, 0x1000, 48] };
    // As another property of the same root shows, what failed has left nothing behind.
    let other = NestedConfig { kind: FIRST_STAGE, words: &[0, 0x1000, 57] };
    let create = || unit.create_nested(&*parent, &config);
    let (nested, failed) = until_it_succeeds(create, HwError::OutOfMemory, || {
        drop(unit.create_nested(&*parent, &other).expect("nothing is in the way"));
        assert_eq!(model.memory().in_use(), before);
    });
    assert!(failed >= 2, "it and what it shares are on the heap");
    let attach = || unit.attach(stream(RED), Target::Nested(&*nested));
    until_it_succeeds(attach, HwError::OutOfMemory, || assert_eq!(model.memory().in_use(), before));
    // Requests and ends need nothing.
    with_heap_of(0, || {
        let everything = hw::Invalidation { kind: CHANGED, words: [0, ALL_PAGES] };
        assert_eq!(nested.invalidate(&everything), Ok(()));
        drop(nested);
        drop(parent);
    });
    assert_eq!(model.violations(), []);
    assert_eq!(model.memory().in_use(), kept + 1, "a context table more");
}

/// Parts of a function by PASID, in a directory that grows, and its device TLB.
#[test]
fn pasids_and_device_tlbs_survive_a_heap_that_is_full() {
    let cases = Case::all().into_iter().filter(|case| case.config.ecap & Config::ECAP_PASID != 0);
    for case in cases {
        let House { unit, model, .. } = House::<Vtd>::up(&case);
        let kept = model.memory().in_use();
        let (red, blue) = (
            unit.create_domain(&DomainConfig::new(case.stage)).unwrap(),
            unit.create_domain(&DomainConfig::new(case.stage)).unwrap(),
        );
        for (domain, phys) in [(&red, 0x5000_0000), (&blue, 0x6000_0000)] {
            domain.map(Iova::new(0x1000), &[extent(phys, 0x1000)], Prot::READ_WRITE).unwrap();
        }
        let reached = |stream: Stream| {
            let pasid = stream.pasid.map(|pasid| pasid.get());
            model.dma(RED, pasid, Iova::new(0x1000), 1, true).ok().map(|found| found[0].start.get())
        };
        let of = |pasid| Stream::with_pasid(RequesterId::new(RED), Pasid::new(pasid).unwrap());
        let tlb = DeviceTlb { queue_depth: 1, physical: RequesterId::new(RED).into(), global_invalidate: false };
        let told = |tlb| unit.set_device_tlb(RequesterId::new(RED).into(), tlb);
        let (_, failed) = until_it_succeeds(|| told(Some(tlb)), HwError::OutOfMemory, || ());
        assert!(failed >= 1, "what is known of a requester is on the heap");
        let mut there = Vec::new();
        for stream in [of(1), of(2), stream(RED), of(0x80), of(0x9000), of(0xf_ffff), of(0x9040)] {
            let before = model.memory().in_use();
            let attach = || unit.attach(stream, Target::Paging(&*red));
            let (_, failed) = until_it_succeeds(attach, HwError::OutOfMemory, || {
                assert_eq!(model.memory().in_use(), before, "{}: {stream}", case.name);
                assert_eq!(reached(stream), None, "{}: {stream}", case.name);
                there.iter().for_each(|other| assert_eq!(reached(*other), Some(0x5000_0000), "{}", case.name));
            });
            assert!(failed >= 1, "its seat is on the heap");
            there.push(stream);
        }
        // Moving and taking away needs nothing.
        let done = with_heap_of(0, || {
            let moved = there.iter().try_for_each(|stream| unit.attach(*stream, Target::Paging(&*blue)).map(drop));
            let back =
                there.iter().take(3).try_for_each(|stream| unit.attach(*stream, Target::Paging(&*red)).map(drop));
            let gone = there.iter().skip(5).try_for_each(|stream| unit.detach(*stream).map(drop));
            [moved, back, gone, told(None), blue.retire()]
        });
        assert_eq!(done, [Ok(()); 5], "{}", case.name);
        let leads = there.iter().map(|stream| reached(*stream)).collect::<Vec<_>>();
        assert_eq!(leads, [[Some(0x5000_0000); 3].as_slice(), &[None; 4]].concat(), "{}", case.name);
        with_heap_of(0, || drop((red, blue)));
        assert_eq!(model.violations(), [], "{}", case.name);
        assert_eq!(model.memory().in_use(), kept + 1, "{}: a context table more", case.name);
    }
}
