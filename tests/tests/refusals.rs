//! What the driver refuses, and that nothing has changed afterwards, neither in memory nor in a register: streams that
//! it cannot attach, what belongs to others, ranges that cannot be, and memory that runs out at every allocation.

use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::{
    Domain, DomainConfig, Gather, Geometry, HwError, PageSizes, Pasid, Prot, RequesterId, Stream, StreamId, Target,
    Transition, Translation, Unit as _,
};
use iommu_models::vtd::{Config, FaultCode};
use iommu_tests::bench::{Bench, extent, map, range, stream, unmap};
use iommu_tests::case::Case;
use iommu_vtd::capabilities::names;

const RED: u16 = 0x0108;
const BLUE: u16 = 0x01a0;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

#[test]
fn streams_that_are_none_are_refused_and_change_nothing() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        let before = bench.memory.in_use();
        bench.spy.take_writes();
        let pasids = case.config.ecap & Config::ECAP_PASID != 0;
        // On units that have them: the one that requests without PASID are looked up by.
        for pasid in if pasids { [0; 3] } else { [0, 1, 0xf_ffff] } {
            let stream = Stream::with_pasid(RequesterId::new(RED), Pasid::new(pasid).unwrap());
            for target in [Target::Paging(&*domain), Target::Identity, Target::Blocked] {
                let found = bench.unit.attach(stream, target);
                if pasids {
                    assert!(matches!(found, Err(HwError::Unsupported(_))), "{found:?}");
                } else {
                    assert_eq!(found, Err(HwError::Missing(names::PASIDS)));
                }
            }
        }
        for raw in [0x1_0000, 0x1_0108, u32::MAX] {
            let stream = Stream { id: StreamId::new(raw), pasid: None };
            for target in [Target::Paging(&*domain), Target::Identity, Target::Blocked] {
                assert_eq!(bench.unit.attach(stream, target), Err(HwError::NoSuchStream { stream: raw }));
            }
            assert_eq!(bench.unit.detach(stream), Err(HwError::NoSuchStream { stream: raw }));
        }
        assert_eq!((bench.memory.in_use(), bench.spy.take_writes()), (before, vec![]));
        bench.expect(RED, 0x1000, Err(FaultCode::ROOT_NOT_PRESENT));
        // A detach of what was never attached is none.
        bench.detach(RED);
        assert_eq!((bench.memory.in_use(), bench.spy.take_writes()), (before, vec![]));
        // Requests with PASID are refused in hardware too, where there are none.
        bench.attach(RED, &*domain);
        let blocked = bench.model.dma(RED, Some(1), Iova::new(0x1000), 8, false).unwrap_err();
        let expected = if pasids { FaultCode::PASID_NOT_PRESENT } else { FaultCode::PASID_DISABLED };
        assert_eq!(blocked.code, expected, "{}", case.name);
        bench.check();
    }
}

/// A domain of another driver.
struct Foreign;

impl Domain for Foreign {
    fn geometry(&self) -> Geometry {
        Geometry { aperture: IovaRange::FULL, page_sizes: PageSizes::new(1 << 12), output_bits: 52 }
    }
    fn map(&self, _: Iova, _: &[PhysExtent], _: Prot) -> Result<(), HwError> {
        Ok(())
    }
    fn unmap(&self, _: IovaRange, _: &mut Gather) -> Result<(), HwError> {
        Ok(())
    }
    fn flush(&self, _: &mut Gather) -> Result<(), HwError> {
        Ok(())
    }
    fn retire(&self) -> Result<(), HwError> {
        Ok(())
    }
    fn translate(&self, _: Iova) -> Option<Translation> {
        None
    }
}

#[test]
fn what_belongs_to_others_is_refused_and_changes_nothing() {
    for case in Case::plain() {
        let (ours, theirs) = (Bench::up(&case), Bench::up(&case));
        let domain = ours.domain_with(0x1000, 0x5000_0000, 0x1000);
        let other = theirs.domain_with(0x1000, 0x6000_0000, 0x1000);
        ours.attach(RED, &*domain);
        ours.spy.take_writes();
        let before = ours.memory.in_use();
        for target in [Target::Paging(&*other), Target::Paging(&Foreign)] {
            for rid in [RED, BLUE] {
                assert_eq!(ours.unit.attach(stream(rid), target), Err(HwError::ForeignDomain));
            }
        }
        // A gather with another domain's work.
        let second = ours.domain_with(0x1000, 0x7000_0000, 0x1000);
        let mut gather = Gather::new();
        second.unmap(range(0x1000, 0x1000), &mut gather).unwrap();
        assert_eq!(domain.unmap(range(0x1000, 0x1000), &mut gather), Err(HwError::ForeignDomain));
        assert_eq!(domain.flush(&mut gather), Err(HwError::ForeignDomain));
        assert!(domain.translate(Iova::new(0x1000)).is_some());
        assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(0x1000, 0x1000)]);
        second.flush(&mut gather).unwrap();
        ours.expect(RED, 0x1000, Ok(0x5000_0000));
        drop(second);
        assert_eq!(ours.memory.in_use(), before);
        ours.check();
    }
}

#[test]
fn a_gather_that_holds_nothing_belongs_to_nobody() {
    let bench = Bench::up(&Case::plain()[0]);
    let (one, other) = (bench.domain(), bench.domain_with(0x1000, 0x5000_0000, 0x1000));
    let mut gather = Gather::new();
    assert!(matches!(one.unmap(range(0x1000, 0x1000), &mut gather), Err(HwError::NotMapped { .. })));
    // The error has changed nothing, so the gather is still free for others.
    assert_eq!(other.unmap(range(0x1000, 0x1000), &mut gather), Ok(()));
    other.flush(&mut gather).unwrap();
}

#[test]
fn maps_and_unmaps_that_cannot_be_are_refused_and_change_nothing() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        map(&*domain, LARGE, 0x6000_0000, LARGE);
        bench.attach(RED, &*domain);
        bench.spy.take_writes();
        let before = (bench.memory.in_use(), bench.memory.snapshot());
        let try_map = |iova, phys, len| domain.map(Iova::new(iova), &[extent(phys, len)], Prot::READ_WRITE);
        let end = case.end();
        let host = 1u64 << case.config.haw;
        assert!(matches!(try_map(0x1800, 0, 0x1000), Err(HwError::Misaligned { value: 0x1800, .. })));
        assert!(matches!(try_map(0x8000, 0x10, 0x1000), Err(HwError::Misaligned { value: 0x10, .. })));
        assert!(matches!(try_map(0x8000, 0, 0x1001), Err(HwError::Misaligned { value: 0x1001, .. })));
        assert!(matches!(try_map(end, 0, 0x1000), Err(HwError::OutOfRange { .. })));
        assert!(matches!(try_map(end - 0x1000, 0, 0x2000), Err(HwError::OutOfRange { .. })));
        assert!(matches!(try_map(u64::MAX - 0xfff, 0, 0x2000), Err(HwError::OutOfRange { .. })));
        assert!(matches!(try_map(0x8000, host, 0x1000), Err(HwError::OutputTooWide { .. })));
        assert!(matches!(try_map(0x8000, host - 0x1000, 0x2000), Err(HwError::OutputTooWide { .. })));
        let taken = |found| matches!(found, Err(HwError::AlreadyMapped { .. }));
        assert!(taken(try_map(0x1000, 0, 0x1000)) && taken(try_map(0, 0, 0x3000)));
        assert!(taken(try_map(LARGE + 0x1000, 0, 0x1000)) && taken(try_map(0, 0, 2 * HUGE)));
        // The interrupt range, as input and as output, whole or in part.
        for (address, len) in [(0xfee0_0000, 0x1000), (0xfeef_f000, 0x1000), (0xfedf_f000, 0x2000), (0xc000_0000, HUGE)]
        {
            assert!(matches!(try_map(address, 0x9000_0000, len), Err(HwError::Reserved { .. })), "{address:#x}");
            assert!(matches!(try_map(8 * HUGE, address, len), Err(HwError::Reserved { .. })), "to {address:#x}");
        }
        let try_unmap = |iova, len| {
            let mut gather = Gather::new();
            let found = domain.unmap(range(iova, len), &mut gather);
            assert!(gather.is_empty() || found.is_ok());
            found
        };
        assert_eq!(try_unmap(0x1000, 0x2000), Err(HwError::NotMapped { iova: Iova::new(0x2000) }));
        assert_eq!(try_unmap(0, 0x1000), Err(HwError::NotMapped { iova: Iova::new(0) }));
        assert!(matches!(try_unmap(0x1000, 0x800), Err(HwError::Misaligned { .. })));
        assert!(matches!(try_unmap(end, 0x1000), Err(HwError::OutOfRange { .. })));
        let cut = HwError::SplitsLeaf { iova: Iova::new(LARGE), size: LARGE };
        assert_eq!((try_unmap(LARGE, 0x1000), try_unmap(LARGE + 0x1000, LARGE - 0x1000)), (Err(cut), Err(cut)));
        assert_eq!((bench.memory.in_use(), bench.memory.snapshot()), before, "{}", case.name);
        assert_eq!(bench.spy.take_writes(), [], "{}", case.name);
        bench.check();
    }
}

#[test]
fn memory_that_runs_out_anywhere_in_attach_leaves_the_stream_blocked() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        let before = bench.memory.in_use();
        let mut failures = 0;
        for n in 0.. {
            bench.memory.exhaust_after(n);
            let found = bench.unit.attach(stream(RED), Target::Paging(&*domain));
            bench.memory.fail_never();
            if found.is_ok() {
                break;
            }
            failures += 1;
            assert_eq!(found, Err(HwError::OutOfMemory));
            bench.read(RED, 0x1000).unwrap_err();
            bench.write(RED, 0x1000).unwrap_err();
            assert_eq!(bench.memory.in_use(), before, "{}: allocation {n} failed", case.name);
        }
        assert!(failures >= 3, "{}: directory, table and context table", case.name);
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        // A replacement of a function that is attached needs no memory at all.
        let other = bench.domain();
        bench.memory.exhaust_after(0);
        assert_eq!(bench.attach(RED, &*other), Transition::ThroughBlocked);
        bench.detach(RED);
        drop(other);
        bench.memory.fail_never();
        bench.check();
    }
}

#[test]
fn memory_that_runs_out_anywhere_in_map_leaves_it_undone() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.attach(RED, &*domain);
        let before = (bench.memory.in_use(), bench.memory.snapshot());
        // Across the border of two tables on every level.
        let (iova, len) = (0x40 * HUGE - LARGE - 0x1000, 2 * LARGE + 0x2000);
        for n in 0.. {
            bench.memory.exhaust_after(n);
            let found = domain.map(Iova::new(iova), &[extent(0x7000_1000, len)], Prot::READ_WRITE);
            bench.memory.fail_never();
            if found.is_ok() {
                assert!(n >= 6, "{}: {n} tables", case.name);
                break;
            }
            assert_eq!(found, Err(HwError::OutOfMemory));
            assert_eq!(bench.memory.in_use(), before.0, "{}: allocation {n}", case.name);
            bench.expect(RED, iova, Err(case.not_mapped()));
        }
        bench.expect(RED, iova + len - 1, Ok(0x7000_1000 + len - 1));
        // Taking away needs none.
        bench.memory.exhaust_after(0);
        unmap(&*domain, iova, len);
        bench.memory.fail_never();
        bench.expect(RED, iova, Err(case.not_mapped()));
        bench.check();
    }
}

#[test]
fn memory_that_runs_out_in_create_domain_costs_no_domain_id() {
    // Sixteen ids: hardware's, identity's, and fourteen.
    let case = Case::plain()[0].with_cap(7, false);
    let bench = Bench::up(&case);
    let create = || bench.unit.create_domain(&DomainConfig::new(case.stage));
    bench.memory.exhaust_after(0);
    for _ in 0..20 {
        assert_eq!(create().err(), Some(HwError::OutOfMemory));
    }
    bench.memory.fail_never();
    let before = bench.memory.in_use();
    let domains: Vec<_> = std::iter::from_fn(|| create().ok()).collect();
    assert_eq!((domains.len(), create().err()), (14, Some(HwError::OutOfDomainIds)));
    drop(domains);
    assert_eq!(bench.memory.in_use(), before);
    create().expect("ids come back");
    bench.check();
}
