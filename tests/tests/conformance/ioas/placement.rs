//! Where areas may lie, and where automatic placement puts them.

use crate::common::*;
use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::Prot;
use iommu_core::ioas::{Ioas, Owner, Placement};
use iommu_tests::mock::*;
use iommu_tests::random::Random;

fn anywhere(rig: &Rig, source: &Source, offset: u64, len: u64) -> Result<u64, Error> {
    rig.ioas.map(&source.pages, offset, len, Placement::Anywhere, Prot::READ).map(Iova::get)
}

/// The lowest multiple of `align` in `windows` at which `len` bytes touch nothing of `taken`. `taken` in any order.
fn first_fit(windows: &[IovaRange], taken: &[IovaRange], len: u64, align: u64) -> Option<u64> {
    let fits = |window: &IovaRange| {
        let mut start = window.start().get();
        loop {
            start = start.checked_next_multiple_of(align)?;
            let last = start.checked_add(len - 1).filter(|last| *last <= window.last().get())?;
            let here = span(start, last);
            match taken.iter().filter(|taken| taken.overlaps(here)).map(|taken| taken.last().get()).max() {
                Some(last) => start = last.checked_add(1)?,
                None => return Some(start),
            }
        }
    };
    windows.iter().find_map(fits)
}

/// What automatic placement answers, by its rule.
fn placed(case: Case, taken: &[IovaRange], len: u64, phys: u64) -> Option<u64> {
    let low = span(PAGE, u64::MAX - PAGE);
    let (window, largest) = if case == Case::NoDomain { (low, 1 << 30) } else { (aperture(), MOCK_HUGE) };
    let wanted = len.next_power_of_two().min(phys & phys.wrapping_neg()).min(largest);
    [wanted.max(alignment(case)), alignment(case)].into_iter().find_map(|align| first_fit(&[window], taken, len, align))
}

pub fn area_auto_iova(case: Case) {
    let rig = Rig::new(case);
    let source = rig.source_of(MemoryConfig::contiguous(1 << 20, 1 << 21));
    let reserved = [range(rig.base, PAGE), range(rig.base + 3 * PAGE, 2 * PAGE), range(rig.base + (1 << 20), 1 << 20)];
    for range in reserved {
        rig.ioas.reserve(range, Owner::Embedder(1)).unwrap();
    }
    let mut taken = reserved.to_vec();
    let mut random = Random::new(3);
    let unit = alignment(case).max(512);
    for round in 0..120 {
        if round % 3 == 2 && taken.len() > reserved.len() {
            let away = taken.swap_remove(reserved.len() + random.below((taken.len() - reserved.len()) as u64) as usize);
            assert_eq!(rig.ioas.unmap(away).unwrap(), away.len().unwrap());
            continue;
        }
        let len = *random.choose(&[unit, 3 * unit, PAGE, 5 * PAGE, 8 * PAGE, 64 * PAGE]);
        let offset = random.below((1 << 20) / PAGE - 64) * PAGE;
        let wanted = placed(case, &taken, len, source.memory.phys(offset).get());
        let got = anywhere(&rig, &source, offset, len).unwrap();
        assert_eq!(Some(got), wanted, "{len:#x} bytes, offset {offset:#x}");
        taken.push(range(got, len));
    }
    rig.ioas.unmap_all().unwrap();
    // Inside of what is allowed, and nowhere else.
    rig.ioas.release(Owner::Embedder(1));
    let allowed = [range(rig.base + 64 * PAGE, 4 * PAGE), range(rig.base + 80 * PAGE, 2 * PAGE)];
    rig.ioas.allow(&allowed).unwrap();
    let mut taken = Vec::new();
    while let Some(wanted) = first_fit(&allowed, &taken, PAGE, PAGE) {
        assert_eq!(anywhere(&rig, &source, 0, PAGE).unwrap(), wanted);
        taken.push(range(wanted, PAGE));
    }
    assert_eq!(taken.len(), 6);
    assert_eq!(errno(anywhere(&rig, &source, 0, PAGE)), ENOSPC);
    rig.ioas.unmap_all().unwrap();
    assert_eq!(errno(anywhere(&rig, &source, 0, 5 * PAGE)), ENOSPC);
    // Where there is no hole as even as the length, any other.
    rig.ioas.allow(&[range(rig.base + 65 * PAGE, 2 * PAGE)]).unwrap();
    assert_eq!(anywhere(&rig, &source, 0, 2 * PAGE).unwrap(), rig.base + 65 * PAGE);
    rig.close();
}

pub fn reserved_overflow(case: Case) {
    let rig = Rig::new(case);
    let source = rig.source(64 * PAGE);
    // All but the last bytes: where they would wrap there is no room.
    let top = u64::MAX - 8 * PAGE + 1;
    rig.ioas.reserve(span(6, top - 1), Owner::Embedder(1)).unwrap();
    assert_eq!(errno(anywhere(&rig, &source, 0, 64 * PAGE)), ENOSPC);
    assert_eq!(errno(anywhere(&rig, &source, 0, 9 * PAGE)), ENOSPC);
    if case == Case::NoDomain {
        // The lowest page and the highest are not given out.
        assert_eq!(errno(anywhere(&rig, &source, 0, 8 * PAGE)), ENOSPC);
        assert_eq!(anywhere(&rig, &source, 0, PAGE).unwrap(), top);
        let all = rig.ioas.map(&source.pages, 0, 7 * PAGE, at(top + PAGE), Prot::READ).unwrap();
        assert_eq!(all.get(), top + PAGE);
        assert_eq!(rig.ioas.unmap(span(top, u64::MAX)).unwrap(), 8 * PAGE);
    } else {
        assert_eq!(errno(anywhere(&rig, &source, 0, MOCK_PAGE)), ENOSPC);
    }
    rig.ioas.reserve(span(0, u64::MAX), Owner::Embedder(2)).unwrap();
    assert_eq!(rig.ioas.iova_ranges(&mut []), 0);
    assert_eq!(errno(anywhere(&rig, &source, 0, MOCK_PAGE)), ENOSPC);
    rig.ioas.release(Owner::Embedder(1));
    assert_eq!(rig.ioas.iova_ranges(&mut []), 0);
    rig.ioas.release(Owner::Embedder(2));
    anywhere(&rig, &source, 0, MOCK_PAGE).unwrap();
    rig.close();
}

pub fn area_allowed(case: Case) {
    let mut rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(8 * PAGE);
    let (one, two) = (range(base + 8 * PAGE, 2 * PAGE), range(base + 32 * PAGE, 4 * PAGE));
    rig.ioas.allow(&[two, one]).unwrap();
    // Nobody may reserve there, and nothing reserved may be allowed.
    for taken in [one, range(one.last().get(), 1), range(base, 9 * PAGE), range(base, 64 * PAGE)] {
        assert_eq!(errno(rig.ioas.reserve(taken, Owner::Embedder(1))), EADDRINUSE, "{taken}");
    }
    rig.ioas.reserve(range(base + 16 * PAGE, PAGE), Owner::Embedder(1)).unwrap();
    // A list that cannot be leaves the one before, whole.
    let overlapping = [range(base + 64 * PAGE, PAGE), range(base + 64 * PAGE + PAGE - 1, 1)];
    assert_eq!(errno(rig.ioas.allow(&overlapping)), EINVAL);
    let reserved = [range(base + 64 * PAGE, PAGE), range(base + 16 * PAGE, PAGE)];
    assert_eq!(errno(rig.ioas.allow(&reserved)), EADDRINUSE);
    assert_eq!(anywhere(&rig, &source, 0, 2 * PAGE).unwrap(), one.start().get());
    assert_eq!(anywhere(&rig, &source, 0, 3 * PAGE).unwrap(), two.start().get());
    assert_eq!(errno(anywhere(&rig, &source, 0, 2 * PAGE)), ENOSPC);
    // Only automatic placement is confined.
    rig.ioas.map(&source.pages, 0, PAGE, at(base), Prot::READ).unwrap();
    // A device that would reserve what is allowed can not come.
    if case == Case::NoDomain {
        rig.ioas.unmap_all().unwrap();
        assert!(matches!(rig.add_domain(), Err(Error::AddressInUse { .. })));
        rig.ioas.allow(&[range(APERTURE_START, PAGE)]).unwrap();
        rig.add_domain().unwrap();
        assert_eq!(anywhere(&rig, &source, 0, PAGE).unwrap(), APERTURE_START);
    } else {
        assert_eq!(errno(rig.ioas.allow(&[range(APERTURE_LAST, 2)])), EADDRINUSE);
    }
    // No list: everything.
    rig.ioas.allow(&[]).unwrap();
    anywhere(&rig, &source, 0, 8 * PAGE).unwrap();
    rig.close();
}

/// All of them, asked for with exactly enough room, and with every smaller one.
fn ranges(ioas: &Ioas) -> Vec<IovaRange> {
    let count = ioas.iova_ranges(&mut []);
    let mut all = vec![range(1, 1); count + 1];
    assert_eq!(ioas.iova_ranges(&mut all), count);
    assert_eq!(all.pop(), Some(range(1, 1)), "more was written than there is");
    for room in 0..count {
        let mut some = vec![range(1, 1); room];
        assert_eq!(ioas.iova_ranges(&mut some), count);
        assert_eq!(some[..], all[..room]);
    }
    all
}

pub fn iova_ranges(case: Case) {
    let mut rig = Rig::new(case);
    let base = rig.base;
    let whole = if case == Case::NoDomain { IovaRange::FULL } else { aperture() };
    assert_eq!(rig.ioas.alignment(), alignment(case));
    assert_eq!(ranges(&rig.ioas), [whole]);
    let reserve = |start, len| rig.ioas.reserve(range(start, len), Owner::Embedder(9)).unwrap();
    reserve(base + PAGE, PAGE);
    let (low, high) = (span(whole.start().get(), base + PAGE - 1), |from: u64| span(from, whole.last().get()));
    assert_eq!(ranges(&rig.ioas), [low, high(base + 2 * PAGE)]);
    // Overlapping, inside of another, and next to one.
    reserve(base + PAGE, 4 * PAGE);
    reserve(base + 2 * PAGE, PAGE);
    assert_eq!(ranges(&rig.ioas), [low, high(base + 5 * PAGE)]);
    reserve(base + 5 * PAGE, PAGE);
    reserve(base + 8 * PAGE, 1);
    assert_eq!(ranges(&rig.ioas), [low, span(base + 6 * PAGE, base + 8 * PAGE - 1), high(base + 8 * PAGE + 1)]);
    // At both ends.
    reserve(whole.start().get(), PAGE);
    rig.ioas.reserve(high(whole.last().get() - PAGE + 1), Owner::Embedder(9)).unwrap();
    let found = ranges(&rig.ioas);
    // With domains the aperture begins at `base`, where everything up to the sixth page is reserved.
    let first = if case == Case::NoDomain { PAGE } else { base + 6 * PAGE };
    assert_eq!(found.first().map(|range| range.start().get()), Some(first));
    assert_eq!(found.last().map(|range| range.last().get()), Some(whole.last().get() - PAGE));
    rig.ioas.release(Owner::Embedder(9));
    assert_eq!(ranges(&rig.ioas), [whole]);
    // What is mapped counts as usable, and the domains that go give back what they do not translate.
    let source = rig.source(PAGE);
    rig.map_all(&source, base);
    assert_eq!(ranges(&rig.ioas), [whole]);
    assert_eq!(errno(rig.ioas.reserve(range(base, 1), Owner::Embedder(9))), EADDRINUSE);
    assert_eq!(errno(rig.ioas.reserve(range(base + PAGE - 1, 2), Owner::Embedder(9))), EADDRINUSE);
    rig.leads.clear();
    assert_eq!(ranges(&rig.ioas), [IovaRange::FULL]);
    // An area that a domain would not translate keeps it out.
    rig.ioas.unmap_all().unwrap();
    for place in [0, APERTURE_START - PAGE, APERTURE_LAST + 1, u64::MAX - PAGE + 1] {
        rig.map_all(&source, place);
        assert_eq!(rig.add_domain().map_err(|error| error.errno()), Err(EADDRINUSE), "{place:#x}");
        assert_eq!(ranges(&rig.ioas), [IovaRange::FULL]);
        rig.ioas.unmap_all().unwrap();
    }
    rig.add_domain().unwrap();
    assert_eq!(ranges(&rig.ioas), [aperture()]);
    rig.close();
}

pub fn ioas_iova_alloc(case: Case) {
    let rig = Rig::new(case);
    // Under limited memory as much as may be pinned.
    let source = rig.source_of(MemoryConfig::contiguous(1 << 20, 1 << 21));
    for len in [1, 511, MOCK_PAGE, PAGE, PAGE + MOCK_PAGE, 3 * PAGE, 16 * PAGE, 17 * PAGE, 1 << 19, 1 << 20] {
        if len % alignment(case) != 0 {
            assert_eq!(errno(anywhere(&rig, &source, 0, len)), EINVAL);
            continue;
        }
        let got = anywhere(&rig, &source, 0, len).unwrap();
        assert!(got != 0 && got.is_multiple_of(len.next_power_of_two()), "{len:#x} at {got:#x}");
        rig.expect_mapped(len);
        assert_eq!(rig.unmap(got, len).unwrap(), len);
    }
    // Side by side, lowest first; a hole is used again.
    let places: Vec<u64> = (0..8).map(|_| anywhere(&rig, &source, 0, PAGE).unwrap()).collect();
    assert!(places.windows(2).all(|pair| pair[1] == pair[0] + PAGE), "{places:#x?}");
    rig.unmap(places[3], PAGE).unwrap();
    assert_eq!(anywhere(&rig, &source, 0, PAGE).unwrap(), places[3]);
    assert_eq!(errno(anywhere(&rig, &source, 0, 0)), EINVAL);
    rig.close();
}
