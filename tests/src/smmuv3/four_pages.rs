//! Four pages far apart, so that their unmap takes four commands: what the tests of the queue work with.

pub use crate::four_pages::{HUNG, PAGES, phys, unmap_four};

use super::bench::{Bench, map};
use iommu_core::hw::Domain;

/// The stream that reaches them.
pub const RED: u32 = 0x08;

/// A domain with the four pages, [`RED`] attached, and all of them in its caches.
pub fn four_pages(bench: &Bench) -> Box<dyn Domain> {
    let domain = bench.domain();
    PAGES.iter().for_each(|iova| map(&*domain, *iova, phys(*iova), 0x1000));
    // Keeps the table, so that the unmap takes leaves only.
    map(&*domain, 0, 0x6000_0000, 0x1000);
    bench.attach(RED, &*domain);
    PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Ok(phys(*iova))));
    domain
}
