//! Mapping and unmapping.

use crate::common::*;
use iommu_core::addr::{Iova, PhysExtent};
use iommu_core::hw::Prot;
use iommu_core::pages::{Memory, MemoryError, Pages};
use iommu_tests::mock::*;
use std::sync::Arc;

pub fn area(case: Case) {
    let rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(16 * PAGE);
    let place = |index: u64| base + index * 16 * PAGE;

    // One page each, then away one by one.
    let mut all = Vec::new();
    for index in 0..10 {
        let prot = [Prot::READ, Prot::WRITE, Prot::READ_WRITE][index as usize % 3];
        let got = rig.ioas.map(&source.pages, index * PAGE, PAGE, at(place(index)), prot).unwrap();
        assert_eq!(got.get(), place(index));
        all.push(expected(place(index), PAGE, &source, index * PAGE, prot));
        rig.expect(&all);
    }
    assert_eq!(source.memory.pins(), 1, "the memory was pinned more than once");
    for index in 0..10 {
        assert_eq!(rig.unmap(place(index), PAGE).unwrap(), PAGE);
        all.remove(0);
        rig.expect(&all);
        assert_eq!(errno(rig.unmap(place(index), PAGE)), ENOENT);
    }
    assert!(!source.memory.is_pinned());

    // A map never replaces.
    rig.ioas.map(&source.pages, 0, 8 * PAGE, at(place(1)), Prot::READ_WRITE).unwrap();
    let here = [expected(place(1), 8 * PAGE, &source, 0, Prot::READ_WRITE)];
    for (start, len) in [(0, 8), (0, 1), (7, 1), (3, 2), (7, 2), (0, 9)] {
        let refused = rig.ioas.map(&source.pages, 0, len * PAGE, at(place(1) + start * PAGE), Prot::READ);
        assert_eq!(errno(refused), EEXIST, "{start} {len}");
    }
    let from_below = rig.ioas.map(&source.pages, 0, 9 * PAGE, at(place(1) - 8 * PAGE), Prot::READ);
    if rig.has_domain() || base >= PAGE {
        assert_eq!(errno(from_below), EEXIST);
    }

    // Nor does an unmap cut.
    for (start, len) in [(0, 1), (7, 1), (1, 6), (4, 8), (0, 7)] {
        assert_eq!(errno(rig.unmap(place(1) + start * PAGE, len * PAGE)), ENOENT, "{start} {len}");
    }
    rig.expect(&here);

    what_cannot_be(&rig, &source, place(3));
    rig.expect(&here);
    assert_eq!(rig.ioas.unmap_all().unwrap(), 8 * PAGE);
    assert_eq!(rig.ioas.unmap_all().unwrap(), 0);
    rig.expect(&[]);
    rig.close();
}

/// A source that hands over less, or more, than it says.
struct Wrong(Arc<MockMemory>, u64);

impl Memory for Wrong {
    fn len(&self) -> u64 {
        self.1
    }

    fn pin(&self, extent: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError> {
        self.0.pin(extent)
    }

    fn unpin(&self) {
        self.0.unpin();
    }
}

fn what_cannot_be(rig: &Rig, source: &Source, free: u64) {
    let map = |offset, len, iova, prot| rig.ioas.map(&source.pages, offset, len, at(iova), prot);
    assert_eq!(errno(map(0, 0, free, Prot::READ)), EINVAL);
    assert_eq!(errno(map(0, PAGE, free, Prot { read: false, write: false })), EINVAL);
    assert_eq!(errno(map(PAGE, 16 * PAGE, free, Prot::READ)), EINVAL);
    assert_eq!(errno(map(17 * PAGE, PAGE, free, Prot::READ)), EINVAL);
    assert_eq!(errno(map(u64::MAX - 1, PAGE, free, Prot::READ)), EOVERFLOW);
    assert_eq!(errno(map(0, 2 * PAGE, u64::MAX - PAGE + 1, Prot::READ)), EOVERFLOW);
    let read_only = rig.source_of(MemoryConfig::scattered(PAGE).read_only());
    assert_eq!(errno(rig.ioas.map(&read_only.pages, 0, PAGE, at(free), Prot::READ_WRITE)), EPERM);
    assert_eq!(errno(rig.ioas.map(&read_only.pages, 0, PAGE, at(free), Prot::WRITE)), EPERM);
    let gone = rig.source(PAGE);
    gone.memory.go();
    assert_eq!(errno(rig.ioas.map(&gone.pages, 0, PAGE, at(free), Prot::READ)), EFAULT);
    for len in [PAGE, 3 * PAGE, 2 * PAGE + 1, 2 * PAGE - 1] {
        let memory = MockMemory::new(&rig.world, MemoryConfig::scattered(2 * PAGE));
        let pages = Pages::new(Arc::new(Wrong(memory.clone(), len)), None).unwrap();
        assert_eq!(errno(rig.ioas.map(&pages, 0, PAGE, at(free), Prot::READ)), EFAULT, "{len:#x}");
        assert!(!memory.is_pinned());
    }
    if rig.has_domain() {
        for (start, len) in [(0, 1), (APERTURE_START - PAGE, 1), (APERTURE_START - PAGE, 2), (APERTURE_LAST + 1, 1)] {
            assert_eq!(errno(map(0, len * PAGE, start, Prot::READ)), EINVAL, "{start:#x}");
        }
        assert_eq!(errno(map(0, 2 * PAGE, APERTURE_LAST + 1 - PAGE, Prot::READ)), EINVAL);
        for (offset, len, start) in [(0, PAGE, 1), (0, PAGE, 1024), (1024, PAGE, 0), (0, 1024, 0), (0, PAGE + 1, 0)] {
            assert_eq!(errno(map(offset, len, free + start, Prot::READ)), EINVAL, "{offset} {len} {start}");
        }
    } else {
        // The last page there is; and any byte.
        let top = u64::MAX - PAGE + 1;
        assert_eq!(map(0, PAGE, top, Prot::READ).unwrap().get(), top);
        assert_eq!(rig.unmap(top, PAGE).unwrap(), PAGE);
        assert_eq!(map(3, 5, free + 1, Prot::READ).unwrap().get(), free + 1);
        assert_eq!(rig.ioas.translate(Iova::new(free + 5)), Some(source.memory.phys(7)));
        assert_eq!(rig.ioas.translate(Iova::new(free + 6)), None);
        assert_eq!(rig.unmap(free + 1, 5).unwrap(), 5);
    }
}

pub fn unmap_fully_contained_areas(case: Case) {
    let rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(16 * PAGE);
    let mut areas = Vec::new();
    for index in 0..4 {
        let place = base + PAGE + index * 32 * PAGE;
        rig.ioas.map(&source.pages, index * PAGE, 8 * PAGE, at(place), Prot::READ).unwrap();
        areas.push(expected(place, 8 * PAGE, &source, index * PAGE, Prot::READ));
    }
    let first = base + PAGE;
    let last = base + PAGE + 3 * 32 * PAGE + 8 * PAGE;
    // From inside of the first; up to inside of the last; both.
    for (start, end) in [(first + PAGE, last), (first, last - PAGE), (first + MOCK_PAGE, last - MOCK_PAGE)] {
        assert_eq!(errno(rig.unmap(start, end - start)), ENOENT);
        rig.expect(&areas);
    }
    unconfirmed(&rig, first + 16 * 32 * PAGE);
    rig.expect(&areas);
    // Nothing but a gap.
    assert_eq!(errno(rig.unmap(first + 8 * PAGE, 24 * PAGE)), ENOENT);
    // The two in the middle, gaps and all.
    let two = rig.unmap(first + 8 * PAGE, 88 * PAGE).unwrap();
    assert_eq!(two, 16 * PAGE);
    areas.drain(1..3);
    rig.expect(&areas);
    assert_eq!(rig.unmap(base, last + PAGE - base).unwrap(), 16 * PAGE);
    rig.expect(&[]);
    rig.close();
}

/// What hardware does not confirm stays: pinned, its addresses taken, and of no use but to be unmapped once more.
fn unconfirmed(rig: &Rig, place: u64) {
    let source = rig.source(2 * PAGE);
    for lead in &rig.leads {
        for mapped in [true, false] {
            let map = || rig.ioas.map(&source.pages, 0, 2 * PAGE, at(place), Prot::READ);
            if mapped {
                map().unwrap();
                lead.unit.script().fail(Call::Flush, 0, Script::TIMED_OUT, Effect::None);
                assert_eq!(errno(rig.unmap(place, 2 * PAGE)), ETIMEDOUT);
            } else {
                // A map whose undo is not confirmed either.
                lead.unit.script().fail(Call::Map, 0, Script::TIMED_OUT, Effect::Done);
                lead.unit.script().fail(Call::Flush, 0, Script::TIMED_OUT, Effect::None);
                assert_eq!(errno(map()), ETIMEDOUT);
            }
            assert!(!lead.unit.script().succeed());
            assert!(source.memory.is_pinned());
            assert!(rig.ioas.area(range(place, 1)).is_some_and(|area| area.draining));
            assert_eq!(errno(map()), EEXIST);
            assert_eq!(errno(rig.ioas.copy(&rig.ioas, range(place, PAGE), at(place + 8 * PAGE), Prot::READ)), ENOENT);
            let access = rig.access(None, 1);
            assert_eq!(errno(access.read(Iova::new(place), &mut [0])), ENOENT);
            drop(access);
            assert_eq!(rig.unmap(place, 2 * PAGE).unwrap(), 2 * PAGE);
            assert!(!source.memory.is_pinned());
        }
    }
}
