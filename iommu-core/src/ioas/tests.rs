//! The address space over domains that are plain maps of pages and can be told to fail.

mod hardware;
mod hostile;
mod races;
mod rules;

pub(crate) use hardware::{Hardware, TIMEOUT, hwpt, unit, with_domains};

use super::*;
use crate::addr::PhysAddr;

extern crate std;

pub(crate) fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

pub(crate) fn extent(start: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(start), len)
}

fn map(ioas: &Ioas, iova: u64, phys: u64, len: u64) -> Result<(), Error> {
    let at = Placement::Fixed(Iova::new(iova));
    ioas.map_extents(&[extent(phys, len)], at, Prot::READ_WRITE).map(|found| assert_eq!(found.get(), iova))
}

fn areas(ioas: &Ioas) -> std::vec::Vec<AreaInfo> {
    let mut found = std::vec::Vec::new();
    let mut from = Some(Iova::new(0));
    while let Some(area) = from.and_then(|from| ioas.area(IovaRange::new(from, Iova::new(u64::MAX)).unwrap())) {
        from = area.range.last().checked_add(1);
        found.push(area);
    }
    found
}

fn iova_ranges(ioas: &Ioas) -> std::vec::Vec<IovaRange> {
    let mut ranges = [IovaRange::FULL; 16];
    let count = ioas.iova_ranges(&mut ranges);
    ranges[..count].to_vec()
}
