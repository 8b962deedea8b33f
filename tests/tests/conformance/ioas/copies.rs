//! Copies of areas: the same memory at another address, pinned once.

use crate::common::*;
use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::hw::{HwError, Prot};
use iommu_core::ioas::{Ioas, Placement};
use iommu_tests::mock::*;

fn copy(from: &Ioas, to: &Ioas, start: u64, len: u64, place: u64, prot: Prot) -> Result<Iova, Error> {
    to.copy(from, range(start, len), at(place), prot)
}

pub fn copy_area(case: Case) {
    let rig = Rig::new(case);
    let (base, ioas) = (rig.base, &rig.ioas);
    let source = rig.source(4 * PAGE);
    let other = rig.another();
    rig.map_all(&source, base);
    let whole = expected(base, 4 * PAGE, &source, 0, Prot::READ_WRITE);
    let far = base + 64 * PAGE;

    // Over itself, whole and in part.
    for (start, len, place) in [(0, 4, 0), (0, 1, 3), (1, 3, 0)] {
        let refused = copy(ioas, ioas, base + start * PAGE, len * PAGE, base + place * PAGE, Prot::READ);
        assert_eq!(errno(refused), EEXIST);
    }
    // What is not there, or not all of it.
    for (start, len) in [(far, PAGE), (base, 5 * PAGE), (base + 4 * PAGE, PAGE), (base - PAGE, 2 * PAGE)] {
        assert_eq!(errno(copy(ioas, ioas, start, len, far, Prot::READ)), ENOENT);
    }
    assert_eq!(errno(copy(&other, ioas, base, PAGE, far, Prot::READ)), ENOENT);
    assert_eq!(errno(copy(ioas, ioas, base, PAGE, far, Prot { read: false, write: false })), EINVAL);
    rig.expect(&[whole]);

    // Any part, under any protection that the memory allows.
    copy(ioas, ioas, base + PAGE + MOCK_PAGE, PAGE, far, Prot::READ).unwrap();
    let part = expected(far, PAGE, &source, PAGE + MOCK_PAGE, Prot::READ);
    rig.expect(&[whole, part]);
    // The source's own protection does not matter.
    copy(ioas, &other, far, PAGE, base, Prot::READ_WRITE).unwrap();
    expect_areas(&other, &[expected(base, PAGE, &source, PAGE + MOCK_PAGE, Prot::READ_WRITE)]);
    let place = other.copy(ioas, range(base, 4 * PAGE), Placement::Anywhere, Prot::READ).unwrap();
    assert_eq!(other.translate(place), Some(source.memory.phys(0)));
    assert_eq!(source.memory.pins(), 1, "a copy pinned once more");

    several_areas(&rig, &source, far);

    // What it was made of may go.
    assert_eq!(rig.unmap(base, 4 * PAGE).unwrap(), 4 * PAGE);
    rig.expect(&[part]);
    assert_eq!(rig.ioas.unmap_all().unwrap(), PAGE);
    assert!(source.memory.is_pinned());
    drop(other);
    assert!(!source.memory.is_pinned());

    let read_only = rig.source_of(MemoryConfig::scattered(PAGE).read_only());
    ioas.map(&read_only.pages, 0, PAGE, at(base), Prot::READ).unwrap();
    assert_eq!(errno(copy(ioas, ioas, base, PAGE, far, Prot::READ_WRITE)), EPERM);
    copy(ioas, ioas, base, PAGE, far, Prot::READ).unwrap();
    rig.close();
}

/// A copy of two areas is made whole or not at all.
fn several_areas(rig: &Rig, source: &Source, far: u64) {
    let (ioas, two, place) = (&rig.ioas, far + 64 * PAGE, far + 128 * PAGE);
    ioas.map(&source.pages, 0, PAGE, at(two), Prot::READ).unwrap();
    ioas.map(&source.pages, 2 * PAGE, PAGE, at(two + PAGE), Prot::READ).unwrap();
    // The second half is in the way; then a domain refuses it.
    ioas.map(&source.pages, 0, PAGE, at(place + PAGE), Prot::READ).unwrap();
    assert_eq!(errno(copy(ioas, ioas, two, 2 * PAGE, place, Prot::READ)), EEXIST);
    assert_eq!(ioas.area(range(place, PAGE)), None);
    rig.unmap(place + PAGE, PAGE).unwrap();
    for lead in &rig.leads {
        for nth in 0..2 {
            lead.unit.script().fail(Call::Map, nth, HwError::OutOfMemory, Effect::None);
            assert_eq!(errno(copy(ioas, ioas, two, 2 * PAGE, place, Prot::READ)), ENOMEM);
            assert_eq!(ioas.area(range(place, 2 * PAGE)), None);
            assert!(rig.leads.iter().all(|lead| lead.ways(place).is_empty() && lead.ways(place + PAGE).is_empty()));
        }
    }
    copy(ioas, ioas, two, 2 * PAGE, place, Prot::READ).unwrap();
    assert_eq!(ioas.translate(Iova::new(place + PAGE)), Some(source.memory.phys(2 * PAGE)));
    assert_eq!(rig.unmap(two, 2 * PAGE).unwrap(), 2 * PAGE);
    assert_eq!(rig.unmap(place, 2 * PAGE).unwrap(), 2 * PAGE);
}

/// Steps that hit no alignment but by chance.
const STEP: usize = 511;

pub fn copy_sweep(case: Case) {
    let rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(8 * PAGE);
    let other = rig.another();
    // Three areas without a gap, of memory that is elsewhere in the source; then a gap; then one.
    let first = base + PAGE;
    let mut areas = Vec::new();
    for (start, len, offset) in [(0, 2, 3), (2, 1, 0), (3, 2, 6), (6, 1, 1)] {
        let (place, len, offset) = (first + start * PAGE, len * PAGE, offset * PAGE);
        rig.ioas.map(&source.pages, offset, len, at(place), Prot::READ).unwrap();
        areas.push(expected(place, len, &source, offset, Prot::READ));
    }
    let mapped = |at: u64| areas.iter().find(|area| area.iova <= at && at - area.iova < area.len);
    let covered = |start: u64, len: u64| {
        (start..start + len).step_by(MOCK_PAGE as usize / 2).chain([start + len - 1]).all(|at| mapped(at).is_some())
    };
    let target = base + 256 * PAGE;
    let mut copied = 0;
    for start in (base - 1..first + 8 * PAGE).step_by(STEP) {
        for len in (1..8 * PAGE).step_by(STEP * 3) {
            // Into an address space without domains: any byte.
            let result = copy(&rig.ioas, &other, start, len, target + 13, Prot::READ);
            if !covered(start, len) {
                assert_eq!(errno(result), ENOENT, "{start:#x} {len:#x}");
                continue;
            }
            result.unwrap();
            copied += 1;
            for inside in [0, len / 3, len - 1] {
                let area = mapped(start + inside).unwrap();
                let phys = source.memory.phys(area.offset + (start + inside - area.iova));
                assert_eq!(other.translate(Iova::new(target + 13 + inside)), Some(phys));
            }
            assert_eq!(other.translate(Iova::new(target + 12)), None);
            assert_eq!(other.translate(Iova::new(target + 13 + len)), None);
            assert_eq!(other.unmap(range(target + 13, len)).unwrap(), len);
            // Into the very address space: as aligned as its domains are.
            let result = copy(&rig.ioas, &rig.ioas, start, len, target, Prot::READ);
            if (start | len) % alignment(case) == 0 {
                result.unwrap();
                assert_eq!(rig.unmap(target, len).unwrap(), len);
            } else {
                assert_eq!(errno(result), EINVAL, "{start:#x} {len:#x}");
            }
        }
    }
    assert!(copied > 100, "{copied} copies");
    // The same with the alignment that domains ask for.
    for start in (base..first + 8 * PAGE).step_by(MOCK_PAGE as usize) {
        for len in (MOCK_PAGE..=6 * PAGE).step_by(MOCK_PAGE as usize) {
            let result = copy(&rig.ioas, &rig.ioas, start, len, target, Prot::READ);
            if !covered(start, len) {
                assert_eq!(errno(result), ENOENT);
                continue;
            }
            result.unwrap();
            let pieces = areas.iter().filter_map(|area| {
                let (low, high) = (start.max(area.iova), (start + len).min(area.iova + area.len));
                let piece =
                    || expected(target + low - start, high - low, &source, area.offset + low - area.iova, Prot::READ);
                (low < high).then(piece)
            });
            let all: Vec<_> = areas.iter().copied().chain(pieces).collect();
            rig.expect(&all);
            assert_eq!(rig.unmap(target, len).unwrap(), len);
        }
    }
    rig.expect(&areas);
    assert_eq!(source.memory.pins(), 1);
    drop(other);
    rig.close();
}
