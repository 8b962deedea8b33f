//! The heap of the driver runs out at every allocation, one after the other: what a partition can trigger gives an error
//! value and changes nothing, and taking away needs none.
//!
//! An allocator that aborts instead of returning an error ends this whole test binary.

use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_core::hw::Unit as _;
use iommu_core::hw::{
    self, DeviceTlb, DomainConfig, HwError, NestedConfig, Pasid, Prot, RequesterId, Stage, Stream, Target,
};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use iommu_models::memory::TestMemory;
use iommu_models::vtd::{Config, FaultCode, Model};
use iommu_tests::bench::{TIMEOUT, extent, memory, range, stream};
use iommu_tests::case::Case;
use iommu_tests::spaces::{areas, iova_ranges, map_fixed};
use iommu_vtd::guest::{ALL_PAGES, CHANGED, FIRST_STAGE};
use iommu_vtd::{Config as DriverConfig, Unit};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

const RED: u16 = 0x0108;
const NEVER: usize = usize::MAX;

thread_local! {
    /// Allocations of this thread that still succeed.
    static LEFT: Cell<usize> = const { Cell::new(NEVER) };
}

struct Failing;

// SAFETY: everything is the system allocator's, or null, which stands for no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let allowed = LEFT.try_with(|left| match left.get() {
            NEVER => true,
            0 => false,
            more => {
                left.set(more - 1);
                true
            }
        });
        // SAFETY: as the caller promises.
        if allowed.unwrap_or(true) { unsafe { System.alloc(layout) } } else { null_mut() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; all memory came from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `does` with as much heap as it wants: for what stands for hardware and the embedder.
fn plenty<T>(does: impl FnOnce() -> T) -> T {
    let left = LEFT.replace(NEVER);
    let result = does();
    LEFT.set(left);
    result
}

/// Runs `does` with `n` allocations.
fn with_heap_of<T>(n: usize, does: impl FnOnce() -> T) -> T {
    LEFT.set(n);
    let result = does();
    LEFT.set(NEVER);
    result
}

/// What stands outside of the driver, and so has its own heap.
struct Outside<T>(Arc<T>);

impl<T> Clone for Outside<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// SAFETY: forwards to an implementation that keeps the promises.
unsafe impl Hal for Outside<TestMemory> {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        plenty(|| self.0.alloc_frames(request))
    }
    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        // SAFETY: as the caller promises.
        plenty(|| unsafe { self.0.free_frames(frames, request) })
    }
    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        self.0.phys_to_virt(phys)
    }
    fn clean(&self, phys: PhysAddr, len: usize) {
        plenty(|| self.0.clean(phys, len))
    }
    fn invalidate(&self, phys: PhysAddr, len: usize) {
        plenty(|| self.0.invalidate(phys, len))
    }
    fn now(&self) -> u64 {
        self.0.now()
    }
    fn stored(&self, phys: PhysAddr) {
        plenty(|| self.0.stored(phys))
    }
}

impl Registers for Outside<Model> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        plenty(|| self.0.read32(offset))
    }
    fn write32(&self, offset: usize, value: u32) {
        plenty(|| self.0.write32(offset, value))
    }
    fn read64(&self, offset: usize) -> u64 {
        plenty(|| self.0.read64(offset))
    }
    fn write64(&self, offset: usize, value: u64) {
        plenty(|| self.0.write64(offset, value))
    }
}

type HeapUnit = Unit<Outside<TestMemory>, Outside<Model>>;

fn up(case: &Case) -> (HeapUnit, Arc<Model>) {
    let model = Arc::new(Model::new(case.config, memory(case.non_coherent)));
    let config = DriverConfig { host_bits: case.config.haw, timeout: TIMEOUT, ..DriverConfig::default() };
    let unit = Unit::bring_up(Outside(model.memory().clone()), Outside(model.clone()), config).expect("a unit");
    (unit, model)
}

/// Tries `does` with 0, 1, 2... allocations until it succeeds, and `check`s after each failure. How many failed.
fn until_it_succeeds<T, E: std::fmt::Debug + PartialEq>(
    does: impl Fn() -> Result<T, E>,
    expected: E,
    check: impl Fn(),
) -> (T, usize) {
    for n in 0.. {
        match with_heap_of(n, &does) {
            Ok(value) => return (value, n),
            Err(error) => assert_eq!(error, expected, "allocation {n}"),
        }
        check();
    }
    unreachable!("some number is enough")
}

#[test]
fn domains_and_attachments_survive_a_heap_that_is_full() {
    for case in Case::all() {
        let (unit, model) = up(&case);
        let kept = model.memory().in_use();
        let create = || unit.create_domain(&DomainConfig::new(case.stage));
        let (domain, failed) = until_it_succeeds(create, HwError::OutOfMemory, || {
            assert_eq!(model.memory().in_use(), kept, "{}", case.name);
        });
        assert!(failed >= 1, "a domain is on the heap");
        let map = || domain.map(Iova::new(0x1000), &[extent(0x5000_0000, 0x1000)], Prot::READ_WRITE);
        until_it_succeeds(map, HwError::OutOfMemory, || assert_eq!(domain.translate(Iova::new(0x1000)), None));
        let before = model.memory().in_use();
        let attach = || unit.attach(stream(RED), Target::Paging(&*domain));
        let (_, failed) = until_it_succeeds(attach, HwError::OutOfMemory, || {
            assert_eq!(model.memory().in_use(), before, "{}", case.name);
            model.dma(RED, None, Iova::new(0x1000), 1, false).unwrap_err();
        });
        assert!(failed >= 1, "attachments are on the heap");
        assert_eq!(model.dma(RED, None, Iova::new(0x1000), 1, true).unwrap()[0].start.get(), 0x5000_0000);
        // Another, while the first one stays.
        for other in 0x0110..0x0120 {
            until_it_succeeds(
                || unit.attach(stream(other), Target::Paging(&*domain)),
                HwError::OutOfMemory,
                || {
                    model.dma(RED, None, Iova::new(0x1000), 1, false).unwrap();
                    model.dma(other, None, Iova::new(0x1000), 1, false).unwrap_err();
                },
            );
        }
        // Taking away needs nothing.
        let taken = with_heap_of(0, || {
            let mut gather = iommu_core::hw::Gather::new();
            let unmapped = domain.unmap(range(0x1000, 0x1000), &mut gather);
            let flushed = domain.flush(&mut gather);
            let detached = unit.detach(stream(RED)).map(|_| ());
            unit.report_faults(&mut |_| {});
            let retired = domain.retire();
            drop(domain);
            [unmapped, flushed, detached, retired]
        });
        assert_eq!(taken, [Ok(()); 4], "{}", case.name);
        for rid in [RED, 0x0110, 0x011f] {
            let blocked = model.dma(rid, None, Iova::new(0x1000), 1, false).unwrap_err();
            assert_eq!(blocked.code, FaultCode::CONTEXT_NOT_PRESENT);
        }
        assert_eq!(model.violations(), [], "{}", case.name);
        assert_eq!(model.memory().in_use(), kept + 1, "{}: a context table more", case.name);
    }
}

#[test]
fn a_guests_first_stage_survives_a_heap_that_is_full() {
    let case = Case {
        name: "nested".into(),
        config: Config::server().ecap_bits(Config::ECAP_NEST, true),
        stage: Stage::Second,
        non_coherent: false,
    };
    let (unit, model) = up(&case);
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

#[test]
fn a_replacement_needs_no_heap() {
    for case in Case::all() {
        let (unit, model) = up(&case);
        let create = || unit.create_domain(&DomainConfig::new(case.stage)).unwrap();
        let (red, blue) = (create(), create());
        unit.attach(stream(RED), Target::Paging(&*red)).unwrap();
        let done = with_heap_of(0, || {
            let to_blue = unit.attach(stream(RED), Target::Paging(&*blue));
            (to_blue, unit.attach(stream(RED), Target::Identity), unit.sync().is_ok())
        });
        assert!(matches!(done, (Ok(_), Ok(_), true)), "{}: {done:?}", case.name);
        assert_eq!(model.violations(), []);
    }
}

/// Parts of a function by PASID, in a directory that grows, and its device TLB.
#[test]
fn pasids_and_device_tlbs_survive_a_heap_that_is_full() {
    let cases = Case::all().into_iter().filter(|case| case.config.ecap & Config::ECAP_PASID != 0);
    for case in cases {
        let (unit, model) = up(&case);
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

#[test]
fn an_address_space_survives_a_heap_that_is_full() {
    for case in Case::plain() {
        let (unit, model) = up(&case);
        let kept = model.memory().in_use();
        let new = || Ioas::new(IoasConfig::default());
        let (ioas, failed) = until_it_succeeds(new, Error::OutOfMemory, || ());
        assert!(failed >= 1, "what handles share is on the heap");
        let handle: Arc<dyn hw::Unit> = Arc::new(unit.clone());
        let join = || Hwpt::new(&ioas, &handle, HwptConfig::new(case.stage));
        let join = || join().map_err(|error| error.errno());
        let (hwpt, failed) = until_it_succeeds(join, Error::OutOfMemory.errno(), || {
            assert_eq!(iova_ranges(&ioas), [IovaRange::FULL], "nothing stays reserved");
            assert_eq!(model.memory().in_use(), kept, "{}", case.name);
        });
        assert!(failed >= 4, "the domain, members and reserved ranges are on the heap");
        unit.attach(stream(RED), Target::Paging(hwpt.domain())).unwrap();
        let mut failed = 0;
        for page in 0..40u64 {
            // Extents of an area are copied, and the list of areas grows.
            let iova = page << 13;
            let memory = [extent(0x5000_0000 + iova, 0x1000), extent(0x6000_0000 + iova, 0x1000)];
            let map = || map_fixed(&ioas, iova, &memory, Prot::READ_WRITE);
            let ((), times) = until_it_succeeds(map, Error::OutOfMemory, || {
                assert_eq!(areas(&ioas).len() as u64, page);
                model.dma(RED, None, Iova::new(iova), 1, false).unwrap_err();
            });
            failed += times;
            let phys = model.dma(RED, None, Iova::new(iova), 1, true).unwrap()[0].start.get();
            assert_eq!(phys, 0x5000_0000 + iova);
            let phys = model.dma(RED, None, Iova::new(iova + 0x1fff), 1, true).unwrap()[0].start.get();
            assert_eq!(phys, 0x6000_0000 + iova + 0xfff);
        }
        assert!(failed >= 40, "{failed}");
        let unmapped = with_heap_of(0, || {
            let unmapped = (ioas.unmap(range(0, 0x4000)), ioas.unmap_all(), hwpt.destroy().is_ok());
            drop(ioas);
            unmapped
        });
        assert_eq!(unmapped, (Ok(0x4000), Ok(38 << 13), true));
        model.dma(RED, None, Iova::new(0x8000), 1, true).unwrap_err();
        assert_eq!(model.violations(), []);
        assert_eq!(model.memory().in_use(), kept + 1, "{}: a context table more", case.name);
    }
}

/// What is mapped and attached goes without any heap, whichever handle goes first.
#[test]
fn an_address_space_and_its_domains_are_dropped_without_heap() {
    for case in Case::plain() {
        for domain_first in [false, true] {
            let (unit, model) = up(&case);
            let kept = model.memory().in_use();
            let ioas = Ioas::new(IoasConfig::default()).unwrap();
            let handle: Arc<dyn hw::Unit> = Arc::new(unit.clone());
            let hwpt = Hwpt::new(&ioas, &handle, HwptConfig::new(case.stage)).unwrap();
            unit.attach(stream(RED), Target::Paging(hwpt.domain())).unwrap();
            for page in 0..40 {
                map_fixed(&ioas, page << 13, &[extent(0x5000_0000 + (page << 12), 0x1000)], Prot::READ).unwrap();
            }
            with_heap_of(0, || {
                if domain_first {
                    drop(hwpt);
                    drop(ioas);
                } else {
                    drop(ioas);
                    drop(hwpt);
                }
            });
            model.dma(RED, None, Iova::new(0), 1, false).unwrap_err();
            assert_eq!(model.violations(), []);
            assert_eq!(model.memory().in_use(), kept + 1, "{}: a context table more", case.name);
        }
    }
}
