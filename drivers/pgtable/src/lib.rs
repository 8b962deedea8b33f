//! I/O page tables: one walker, formats as types.
//!
//! * [`PageTable`]: a tree of tables in one [`Format`]. Anybody may [translate](PageTable::translate) and
//!   [iterate](PageTable::leaves).
//! * [`Claim`]: the exclusive right to change a range of addresses. It maps, unmaps, protects, cuts and merges leaves, and
//!   reads and clears what was written through. Claims on disjoint ranges work side by side: tables are put in by
//!   compare-and-swap, leaves are plain stores.
//! * [`SharedTable`]: a table that any CPU may change at any time: it keeps the claims disjoint, and lets those wait that
//!   would overlap.
//! * [`Flush`]: how the driver is asked to invalidate where an operation has to know it done before it goes on.
//!
//! What an unmap changed is noted in a [`Gather`](iommu_core::hw::Gather), for the driver to invalidate and wait; only then do
//! the frames of tables that it took out come back.
//!
//! | Format | Levels, smallest page | Leaves, and contiguous groups where [`Config::page_sizes`] lists them |
//! |---|---|---|
//! | [`VtdSecondStage`] | 3, 4, 5; 4 KiB | 4 KiB, 2 MiB, 1 GiB |
//! | [`VtdFirstStage`], which is x86-64's | 4, 5; 4 KiB | 4 KiB, 2 MiB, 1 GiB |
//! | [`Vtd`]: either of the two, known when the table is made | as theirs | as theirs |
//! | [`Armv8Stage1`], [`Armv8Stage2`] with [`Granule4K`] | 2 (stage 2 only), 3, 4; 4 KiB | 4 KiB, 2 MiB, 1 GiB; 64 KiB, 32 MiB, 16 GiB |
//! | the same with [`Granule16K`] | 2, 3, 4 (stage 1 only); 16 KiB | 16 KiB, 32 MiB; 2 MiB, 1 GiB |
//! | the same with [`Granule64K`] | 2, 3; 64 KiB | 64 KiB, 512 MiB; 2 MiB, 16 GiB |
//! | [`Armv8`]: either of the two with any granule, known when the table is made | as theirs | as theirs |
//! | [`Riscv64`] | 3, 4; 4 KiB | 4 KiB, 2 MiB, 1 GiB, and 512 GiB with 4 levels |
//!
//! A further format is one file: an implementation of [`Format`], and its line in this one.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | first-stage addresses | VT-d and RISC-V: the lower canonical half; Armv8: those of TTB0 |
//! | widths of Armv8 | 48 bits in and out: no LVA, LPA or LPA2 |
//! | ranges of a [`SharedTable`] at work at the same time | 32; more wait |
//! | number of levels | fixed when the table is made |
//! | unmap | every page of the range mapped, no end inside a leaf: cut first |
//! | tables emptied piece by piece | kept until an unmap covers all that they translate, a large leaf takes their place, or the drop |
//! | tables without a leaf that a map took out, where hardware did not confirm it | their frames are kept until the drop |
//! | dirty tracking | for a table's whole life, with walkers that snoop; what the unit can do is for the driver to know |
//! | where it was run on hardware's terms | QEMU walks VT-d's 3 and 4 levels and Armv8's 4 KiB granule; the rest is tested against a decoder written from the specifications |
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
//! use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
//! use iommu_hal::WalkerMemory;
//! use iommu_models::memory::TestMemory;
//! use iommu_pgtable::{Config, Flush, PageTable, SecondStageOptions, VtdSecondStage};
//!
//! /// No hardware has ever heard of the table.
//! struct Unused;
//! // SAFETY: hardware that does not know a table uses nothing of it.
//! unsafe impl Flush for Unused {
//!     fn flush(&mut self, _: &Gather) -> Result<(), HwError> {
//!         Ok(())
//!     }
//! }
//!
//! let memory = TestMemory::new(PhysAddr::new(0x10_0000), 64);
//! let config = Config {
//!     levels: 4,
//!     page_sizes: PageSizes::new(0x1000 | 0x20_0000),
//!     input_bits: 48,
//!     output_bits: 46,
//!     memory: WalkerMemory::Coherent,
//!     address_bits: 46,
//!     track_dirty: false,
//!     options: SecondStageOptions { snoop: false },
//! };
//! let mut table = PageTable::<_, VtdSecondStage>::new(&memory, config)?;
//! let mut claim = table.exclusive();
//!
//! // 2 MiB and one page more: a large leaf and a small one.
//! let run = PhysExtent::new(PhysAddr::new(0x4000_0000), 0x20_1000);
//! claim.map(Iova::new(0x20_0000), &[run], Prot::READ_WRITE, &mut Unused)?;
//! let there = claim.translate(Iova::new(0x20_0123)).unwrap();
//! assert_eq!((there.phys.get(), there.page_size), (0x4000_0123, 0x20_0000));
//!
//! let mut gather = Gather::new();
//! let range = IovaRange::from_len(Iova::new(0x20_0000), 0x20_1000).unwrap();
//! claim.unmap(range, &mut gather, &mut |removed| assert_eq!(removed.extent, run))?;
//! assert_eq!(claim.translate(Iova::new(0x20_0123)), None);
//! // Now the driver invalidates what the gather holds, and waits.
//! // SAFETY: no hardware ever knew of this table.
//! unsafe { claim.free_gathered(&mut gather) };
//! gather.clear();
//! # Ok::<(), HwError>(())
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

mod armv8;
mod armv8_any;
mod armv8_stage1;
mod armv8_stage2;
mod claim;
mod claims;
mod confirm;
mod cut;
mod dirty;
mod entries;
mod format;
mod leaves;
mod lines;
mod map;
mod merge;
mod protect;
mod removal;
mod removed;
mod retired;
mod rewrite;
mod riscv64;
mod rows;
mod runs;
mod shared;
mod sizes;
mod table;
mod trace;
mod unmap;
mod vtd;
mod vtd_first_stage;
mod vtd_second_stage;
mod walk;

pub use armv8::{Granule, Granule4K, Granule16K, Granule64K, Of, Shareability};
pub use armv8_any::{Armv8, Armv8Options, Armv8Stage, GranuleSize};
pub use armv8_stage1::{Armv8Stage1, Stage1Options};
pub use armv8_stage2::{Armv8Stage2, Stage2Options};
pub use claim::{Claim, Flush};
pub use format::{Attributes, Format, Grain, Pages4K};
pub use leaves::{Leaf, Leaves};
pub use removed::Removed;
pub use riscv64::Riscv64;
pub use shared::SharedTable;
pub use table::{Config, PageTable};
pub use trace::Met;
pub use vtd::{Vtd, VtdOptions};
pub use vtd_first_stage::{FirstStageOptions, VtdFirstStage};
pub use vtd_second_stage::{SecondStageOptions, VtdSecondStage};
