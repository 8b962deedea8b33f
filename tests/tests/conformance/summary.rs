//! That every name of the reference is tested or says why not.

use iommu_tests::figures;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const NAMES: [(&str, &[&str]); 9] = [
    (
        "context",
        &[
            "simple_close",
            "cmd_fail",
            "cmd_length",
            "cmd_ex_fail",
            "global_options",
            "simple_ioctls",
            "unmap_cmd",
            "map_cmd",
            "info_cmd",
            "set_iommu_cmd",
            "vfio_ioas",
        ],
    ),
    ("change_process", &["basic"]),
    (
        "ioas",
        &[
            "ioas_auto_destroy",
            "ioas_destroy",
            "ioas_area_destroy",
            "ioas_area_auto_destroy",
            "alloc_hwpt_nested",
            "hwpt_attach",
            "get_hw_info",
            "area",
            "unmap_fully_contained_areas",
            "area_auto_iova",
            "reserved_overflow",
            "area_allowed",
            "iova_ranges",
            "copy_area",
            "copy_sweep",
            "access_domain_destroy",
            "access_pin",
            "access_pin_unmap",
            "access_rw",
            "access_rw_unaligned",
            "fork_gone",
            "fork_present",
            "ioas_option_huge_pages",
            "ioas_iova_alloc",
            "ioas_align_change",
            "dmabuf_simple",
            "dmabuf_revoke",
        ],
    ),
    ("mock_domain", &["basic", "ro_unshare", "all_aligns", "all_aligns_copy", "user_copy", "replace", "alloc_hwpt"]),
    (
        "dirty",
        &[
            "enforce_dirty",
            "set_dirty_tracking",
            "pasid_set_dirty_tracking",
            "device_dirty_capability",
            "get_dirty_bitmap",
            "get_dirty_bitmap_no_clear",
        ],
    ),
    ("vfio_compat", &["simple_close", "option_huge_pages", "get_info", "map", "huge_map"]),
    (
        "viommu",
        &[
            "auto_destroy",
            "negative_tests",
            "alloc_nested_iopf",
            "alloc_with_data",
            "vdevice_alloc",
            "vdevice_cache",
            "hw_queue",
            "vdevice_tombstone",
        ],
    ),
    ("device_pasid", &["pasid_attach"]),
    (
        "fail_nth",
        &[
            "basic",
            "map_domain",
            "map_file_domain",
            "map_two_domains",
            "access_rw",
            "access_pin",
            "access_pin_domain",
            "device",
        ],
    ),
];

/// How many variants each name of a group has.
const VARIANTS: [(&str, usize); 5] =
    [("change_process", 3), ("ioas", 4), ("mock_domain", 6), ("dirty", 10), ("vfio_compat", 2)];

/// The tests of this very program, as it lists them.
fn listed() -> Vec<String> {
    let output = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    listing.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The first cells of the table's rows, `GROUP::NAME` each.
fn rows() -> BTreeSet<String> {
    let readme = include_str!("../../README.md");
    let cells = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn summary() {
    let (tests, rows) = (listed(), rows());
    let mut variants: BTreeMap<String, usize> = BTreeMap::new();
    let mut defects = 0;
    for test in &tests {
        let mut parts = test.splitn(3, "::");
        let (Some(group), Some(name)) = (parts.next(), parts.next()) else { continue };
        if group == "defects" {
            defects += 1;
        } else if NAMES.iter().any(|(known, _)| *known == group) {
            *variants.entry(format!("{group}::{name}")).or_default() += 1;
        }
    }
    let names: Vec<String> =
        NAMES.iter().flat_map(|(group, names)| names.iter().map(move |name| format!("{group}::{name}"))).collect();
    assert_eq!(names.len(), 74);
    for name in &names {
        assert!(variants.contains_key(name) || rows.contains(name), "{name} is neither tested nor in tests/README.md");
    }
    for name in variants.keys().chain(&rows) {
        assert!(names.contains(name), "{name} is no name of the reference");
    }
    for (name, count) in &variants {
        let group = name.split("::").next().unwrap();
        let wanted = VARIANTS.iter().find(|(known, _)| *known == group).map_or(1, |(_, count)| *count);
        assert_eq!(*count, wanted, "{name} is not tested in each variant");
    }
    assert_eq!(defects, 8, "a defect of the list has no test");
    let (tested, all) = (variants.len(), variants.values().sum::<usize>());
    let only_rows = names.iter().filter(|name| !variants.contains_key(*name)).count();
    assert_eq!(tested + only_rows, 74);
    figures::print(&format!(
        "conformance: 74 names, {tested} of them tested in {all} variants, {only_rows} in the table of tests/README.md; \
         {defects} defects"
    ));
}
