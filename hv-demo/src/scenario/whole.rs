//! Partitions that have whole functions.

use crate::checks::{Device, Lab, changes, inside, outside};
use crate::iommu::{DemoUnit, Refusal};
use crate::partition::{Partition, address};
use crate::report::Report;
use alloc::sync::Arc;
use iommu_core::group::OwnerId;
use iommu_core::hw::Stage;

/// Runs every check on `unit`, with four functions that it serves, the last of which stands behind a bridge.
pub fn run(unit: &Arc<dyn DemoUnit>, stage: Stage, devices: [Device; 4], report: &mut Report) {
    let [mut first, mut second, mut third, mut bridged] = devices;
    let partition = |name, owner, private| Partition::new(name, OwnerId(owner), unit, stage, private, None);
    let (red, blue) = match (partition("red", 1, address::RED), partition("blue", 2, address::BLUE)) {
        (Ok(red), Ok(blue)) => (red, blue),
        (Err(error), _) | (_, Err(error)) => return report.trouble("two partitions", &error),
    };
    let lab = &mut Lab { unit: &**unit, stage, report };

    outside::blocked(lab, "before any attach", &mut first, &red, Refusal::NothingAttached, 1);
    lab.attach("red: attach edu0", &first, &red);
    lab.attach("blue: attach edu1", &second, &blue);

    inside::run(lab, &mut first, &red, 10);
    inside::run(lab, &mut second, &blue, 30);

    outside::other_partition(lab, &mut first, &red, &blue, 50);
    outside::other_partition(lab, &mut second, &blue, &red, 53);
    outside::same_address(lab, &mut first, &red, &blue, 56);
    outside::same_address(lab, &mut second, &blue, &red, 58);
    outside::hypervisor(lab, &mut first, &red);
    outside::blocked(lab, "unassigned", &mut third, &red, Refusal::NotAttached, 60);

    changes::quota(lab, &red);
    changes::unmap_and_remap(lab, &mut first, &red, 0, 70);
    changes::unmap_and_remap(lab, &mut first, &red, 9, 75);
    changes::detach(lab, &mut first, &red, 80);
    changes::change_owner(lab, &mut first, &red, &blue, 85);

    outside::blocked(lab, "behind a bridge, unassigned", &mut bridged, &red, Refusal::NothingAttached, 90);
    lab.attach("red: attach edu3 by its alias", &bridged, &red);
    let bytes = crate::checks::lab::pattern(95);
    lab.round_trip("red: edu3 inside", &mut bridged, &bytes, (&red.scattered, 0x800), (&red.large, 0x10_0800));
    outside::other_partition(lab, &mut bridged, &red, &blue, 96);
    changes::detach(lab, &mut bridged, &red, 100);

    changes::end_of_partition(lab, &mut bridged, &[], red, 105);
    changes::end_of_partition(lab, &mut first, &[&second], blue, 110);
}
