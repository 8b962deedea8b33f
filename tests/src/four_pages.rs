//! Four pages far apart, so that their unmap takes four descriptors: what the tests of the queue work with.

use crate::bench::{Bench, map, range};
use iommu_core::hw::{Domain, Gather, HwError, Wait};

/// The stream that reaches them.
pub const RED: u16 = 0x0108;

/// Where they are.
pub const PAGES: [u64; 4] = [0x2000, 0x1_0000, 0x2_0000, 0x3_0000];

/// What a batch that hardware never confirms gives.
pub const HUNG: HwError = HwError::TimedOut(Wait::Completion);

/// Where a page leads.
pub const fn phys(iova: u64) -> u64 {
    0x5000_0000 + iova
}

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

/// Unmaps them in one gather, and flushes that.
///
/// # Panics
///
/// Where they are not mapped.
pub fn unmap_four(domain: &dyn Domain) -> (Gather, Result<(), HwError>) {
    let mut gather = Gather::new();
    PAGES.iter().for_each(|iova| domain.unmap(range(*iova, 0x1000), &mut gather).expect("a page"));
    let found = domain.flush(&mut gather);
    (gather, found)
}
