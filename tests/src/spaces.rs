//! Address spaces, as the suites that drive them over real drivers look at them.

use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::Prot;
use iommu_core::ioas::{AreaInfo, Ioas, Placement};

/// Maps exactly there.
///
/// # Errors
///
/// As [`Ioas::map_extents`].
#[track_caller]
pub fn map_fixed(ioas: &Ioas, iova: u64, extents: &[PhysExtent], prot: Prot) -> Result<(), Error> {
    let at = Iova::new(iova);
    ioas.map_extents(extents, Placement::Fixed(at), prot).map(|found| assert_eq!(found, at, "asked for, and given"))
}

/// Every area, lowest first.
pub fn areas(ioas: &Ioas) -> Vec<AreaInfo> {
    let mut from = Some(Iova::new(0));
    let next = || {
        let area = ioas.area(IovaRange::new(from?, IovaRange::FULL.last())?)?;
        from = area.range.last().checked_add(1);
        Some(area)
    };
    std::iter::from_fn(next).collect()
}

/// The ranges that areas may lie in.
pub fn iova_ranges(ioas: &Ioas) -> Vec<IovaRange> {
    let mut ranges = [IovaRange::FULL; 16];
    let count = ioas.iova_ranges(&mut ranges);
    ranges[..count].to_vec()
}
