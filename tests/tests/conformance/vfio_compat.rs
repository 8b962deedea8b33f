//! What containers of the older interface expect of an address space. Type 1 version 1 cuts areas wherever it is asked
//! to, so it does without large pages; version 2 never cuts.

use crate::common::*;
use iommu_core::Error;
use iommu_core::addr::IovaRange;
use iommu_core::hw::Prot;
use iommu_core::ioas::Owner;
use iommu_tests::mock::*;
use iommu_tests::random::Random;

/// A version of the older interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Unmaps cut areas.
    One,
    /// They do not.
    Two,
}

variants! { [v1v2 = Version::Two, v1v0 = Version::One]: simple_close, option_huge_pages, get_info, map, huge_map }

const BASE: u64 = APERTURE_START;

fn rig(version: Version) -> Rig {
    let mut rig = Rig::new(Case::NoDomain);
    if version == Version::One {
        rig.ioas.set_large_pages(false).unwrap();
    }
    rig.add_domain().unwrap();
    rig.base = BASE;
    rig
}

/// An unmap as the version does it: version 1 cuts at both ends first.
fn unmap(rig: &Rig, version: Version, start: u64, len: u64) -> Result<u64, Error> {
    if version == Version::One {
        for edge in [start, start + len] {
            match rig.ioas.split(iova(edge)) {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    rig.unmap(start, len)
}

fn simple_close(version: Version) {
    let rig = rig(version);
    assert_eq!(rig.ioas.large_pages(), version == Version::Two);
    rig.close();
}

/// The choice is made before there are areas and domains.
fn option_huge_pages(version: Version) {
    let rig = rig(version);
    let source = rig.source(PAGE);
    rig.map_all(&source, BASE);
    if version == Version::Two {
        assert_eq!(errno(rig.ioas.set_large_pages(false)), EINVAL);
        assert!(rig.ioas.large_pages());
        rig.unmap(BASE, PAGE).unwrap();
        rig.ioas.set_large_pages(false).unwrap();
        rig.map_all(&source, BASE);
        assert_eq!(rig.ioas.alignment(), PAGE);
    } else {
        rig.ioas.set_large_pages(false).unwrap();
        assert!(!rig.ioas.large_pages());
        assert_eq!(rig.ioas.alignment(), PAGE);
    }
    rig.close();
}

/// Which addresses can be used, asked for with room for none, one, ... and too many.
fn get_info(version: Version) {
    let rig = rig(version);
    let hole = range(BASE + 16 * PAGE, 3 * PAGE);
    rig.ioas.reserve(hole, Owner::Embedder(1)).unwrap();
    let all = [span(BASE, hole.start().get() - 1), span(hole.last().get() + 1, APERTURE_LAST)];
    for room in 0..=4 {
        let untouched = range(1, 1);
        let mut ranges = vec![untouched; room];
        assert_eq!(rig.ioas.iova_ranges(&mut ranges), all.len());
        let wanted: Vec<IovaRange> = (0..room).map(|at| all.get(at).copied().unwrap_or(untouched)).collect();
        assert_eq!(ranges, wanted);
    }
    let wanted = if version == Version::One { PAGE } else { MOCK_PAGE };
    assert_eq!(rig.ioas.alignment(), wanted);
    rig.close();
}

fn map(version: Version) {
    let rig = rig(version);
    let source = rig.source(2 * PAGE);
    rig.map_all(&source, BASE);
    assert_eq!(errno(rig.ioas.map(&source.pages, 0, PAGE, at(BASE + PAGE), Prot::READ)), EEXIST);
    assert_eq!(unmap(&rig, version, BASE, 2 * PAGE).unwrap(), 2 * PAGE);
    // Everything at once, empty or not.
    assert_eq!(rig.ioas.unmap_all().unwrap(), 0);
    rig.map_all(&source, BASE);
    rig.ioas.map(&source.pages, 0, PAGE, at(BASE + 8 * PAGE), Prot::READ).unwrap();
    assert_eq!(rig.ioas.unmap_all().unwrap(), 3 * PAGE);
    rig.expect(&[]);
    rig.close();
}

/// One large area goes in sixteen pieces, in no order.
fn huge_map(version: Version) {
    let rig = rig(version);
    let source = rig.source_of(MemoryConfig::contiguous(2 * MOCK_HUGE, MOCK_HUGE));
    let piece = 2 * MOCK_HUGE / 16;
    for seed in 0..4 {
        rig.map_all(&source, BASE);
        let mut left: Vec<u64> = (0..16).collect();
        let mut random = Random::new(seed);
        while !left.is_empty() {
            let piece_at = left.swap_remove(random.below(left.len() as u64) as usize);
            let result = unmap(&rig, version, BASE + piece_at * piece, piece);
            if version == Version::Two {
                assert_eq!(errno(result), ENOENT);
                continue;
            }
            assert_eq!(result.unwrap(), piece);
            for page in (0..2 * MOCK_HUGE).step_by(PAGE as usize) {
                let wanted = left.contains(&(page / piece)).then(|| (source.memory.phys(page).get(), Prot::READ_WRITE));
                assert_eq!(rig.leads[0].ways(BASE + page), Vec::from_iter(wanted));
            }
        }
        let rest = if version == Version::One { 0 } else { 2 * MOCK_HUGE };
        assert_eq!(rig.ioas.unmap_all().unwrap(), rest);
        assert!(!source.memory.is_pinned());
    }
    rig.close();
}
