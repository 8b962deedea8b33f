//! What a page table has to show in every format and configuration: its numbers, its entries, its operations.
//!
//! All through the public interface and a decoder of raw entries that was not written from the formats.

mod common;

#[path = "conformance/entries.rs"]
mod entries;
#[path = "conformance/numbers.rs"]
mod numbers;
#[path = "conformance/operations.rs"]
mod operations;

use entries::{attr_from_entry, dirty, entry_oa, sw_bit_leaf, sw_bit_table};
use numbers::{
    best_pgsize, bitops, entry_possible_sizes, increase_level, init, max_va, pgsz_count, table_ptr, table_radix,
};
use operations::{map_simple, map_table_to_oa, mixed, pgsize_boundary, random_map, unmap_split};

for_each_kind!(
    init,
    bitops,
    best_pgsize,
    pgsz_count,
    table_ptr,
    max_va,
    table_radix,
    entry_possible_sizes,
    entry_oa,
    attr_from_entry,
    dirty,
    sw_bit_leaf,
    sw_bit_table,
    increase_level,
    map_simple,
    map_table_to_oa,
    unmap_split,
    random_map,
    pgsize_boundary,
    mixed,
);
