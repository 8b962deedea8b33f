//! Address spaces: without a domain, with one, with two, and where their owner has little memory.

mod access;
mod areas;
mod attach;
mod copies;
mod domains;
mod lifetimes;
mod nested;
mod placement;
mod sources;

use crate::common::{Case, variants};
use access::*;
use areas::*;
use attach::*;
use copies::*;
use domains::*;
use lifetimes::*;
use nested::*;
use placement::*;
use sources::*;

variants! { [no_domain = Case::NoDomain, one = Case::One, two = Case::Two, limited = Case::Limited]:
    ioas_auto_destroy, ioas_destroy, ioas_area_destroy, ioas_area_auto_destroy, alloc_hwpt_nested, hwpt_attach,
    get_hw_info, area, unmap_fully_contained_areas, area_auto_iova, reserved_overflow, area_allowed, iova_ranges,
    copy_area, copy_sweep, access_domain_destroy, access_pin, access_pin_unmap, access_rw, access_rw_unaligned, fork_gone,
    fork_present, ioas_option_huge_pages, ioas_iova_alloc, ioas_align_change, dmabuf_simple, dmabuf_revoke,
}
