//! Random units x random operations, failures among them x accesses of devices, with caches at their most stale.

use iommu_tests::world::{SmmuMachine, worlds_of};

#[test]
fn nothing_forbidden_goes_through_and_nothing_permitted_is_refused() {
    worlds_of::<SmmuMachine>("smmuv3");
}
