//! Counting instructions with callgrind. The counts are exact and come out alike on every run.
//!
//! Used by the benchmark and by the test `instructions`.

pub use crate::common::callgrind::valgrind;

use crate::common::callgrind::instructions;
use std::ffi::OsString;
use std::path::Path;

/// The formats, as `--count` takes them.
pub const FORMATS: [&str; 6] = [
    "vtd-second-stage",
    "vtd-first-stage",
    "armv8-stage-1",
    "armv8-stage-2",
    "vtd-either-as-second-stage",
    "vtd-either-as-first-stage",
];

/// Instructions of one call of the benchmark's `--count`: for mapping, and for unmapping, `pages` pages of 4 KiB side by
/// side in a table of `format` that is there.
pub fn map_and_unmap(valgrind: &OsString, program: &Path, format: &str, pages: u64) -> [u64; 2] {
    /// Calls. Twice as many give what one costs, without what comes before and after.
    const CALLS: u64 = 32;
    let total = |mapped: u64, unmapped: u64| {
        let [pages, mapped, unmapped] = [pages, mapped, unmapped].map(|number| number.to_string());
        instructions(valgrind, program, &["--count", format, &pages, &mapped, &unmapped])
    };
    let twice = 2 * CALLS;
    let map = total(twice, 0) - total(CALLS, 0);
    let unmap = total(twice, twice) - total(twice, CALLS);
    // Never in favour of what is counted.
    [map.div_ceil(CALLS), unmap.div_ceil(CALLS)]
}
