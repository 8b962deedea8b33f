//! What must be so in an address space and its domains.

use super::{Lead, Source, iova};
use iommu_core::addr::IovaRange;
use iommu_core::hw::Prot;
use iommu_core::ioas::Ioas;
use iommu_tests::mock::{MOCK_PAGE, range};

/// One area as the test expects it.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    pub iova: u64,
    pub len: u64,
    pub source: &'a Source,
    pub offset: u64,
    pub prot: Prot,
}

pub fn expected(iova: u64, len: u64, source: &Source, offset: u64, prot: Prot) -> Expected<'_> {
    Expected { iova, len, source, offset, prot }
}

#[track_caller]
pub fn expect_areas(ioas: &Ioas, areas: &[Expected<'_>]) {
    let mut areas = areas.to_vec();
    areas.sort_by_key(|area| area.iova);
    let mut found = Vec::new();
    let mut rest = Some(IovaRange::FULL);
    while let Some(info) = rest.and_then(|rest| ioas.area(rest)) {
        assert!(!info.draining && !info.revoked, "{info:?}");
        found.push((info.range, info.offset, info.prot));
        rest = info.range.last().checked_add(1).and_then(|next| IovaRange::new(next, iova(u64::MAX)));
    }
    let wanted: Vec<_> = areas.iter().map(|area| (range(area.iova, area.len), area.offset, area.prot)).collect();
    assert_eq!(found, wanted);
    for area in &areas {
        for inside in [0, area.len / 2, area.len - 1] {
            let phys = ioas.translate(iova(area.iova + inside));
            assert_eq!(phys, Some(area.source.memory.phys(area.offset + inside)), "{:#x}", area.iova + inside);
        }
    }
}

#[track_caller]
pub fn expect_tables(lead: &Lead, areas: &[Expected<'_>]) {
    let mut wanted: Vec<(u64, u64, Prot)> = Vec::new();
    for area in areas {
        for inside in (0..area.len).step_by(MOCK_PAGE as usize) {
            wanted.push((area.iova + inside, area.source.memory.phys(area.offset + inside).get(), area.prot));
        }
    }
    wanted.sort_unstable_by_key(|page| page.0);
    let mut found = Vec::new();
    for (leaf, phys, prot) in lead.unit.leaves(lead.stream) {
        for inside in (0..leaf.len().unwrap()).step_by(MOCK_PAGE as usize) {
            found.push((leaf.start().get() + inside, phys.get() + inside, prot));
        }
    }
    assert!(found == wanted, "{} pages are mapped, {} expected, or they lead elsewhere", found.len(), wanted.len());
    // Nothing stale is left behind either.
    for (page, phys, prot) in wanted {
        assert_eq!(lead.ways(page), [(phys, prot)]);
    }
}
