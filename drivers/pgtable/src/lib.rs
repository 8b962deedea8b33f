//! I/O page tables: one walker, formats as types.
//!
//! * [`PageTable`]: maps physically contiguous runs, unmaps ranges, translates, for any format.
//! * [`Format`]: what tells one kind of entry from another: [`VtdSecondStage`] and [`VtdFirstStage`].
//!
//! Not here: when hardware is told of a change. An unmap notes in a [`Gather`](iommu_core::hw::Gather) what the driver
//! has to invalidate, and which table frames come back once hardware has confirmed that.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | formats | VT-d second stage with 3 or 4 levels, VT-d first stage with 4 levels |
//! | first-stage addresses | the lower canonical half, 47 bits |
//! | concurrency | `&mut self` for map and unmap; parallel tables are to come |
//! | unmap | whole leaves, and every page of the range mapped; a larger leaf is not split |
//! | large leaves | not where a table stands already, even an empty one; collapsing is to come |
//! | tables emptied piece by piece | kept until an unmap covers all that they translate, or until the drop |
//! | accessed and dirty bits | preset in first-stage entries, unused in second-stage ones |
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
//! use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
//! use iommu_hal::WalkerMemory;
//! use iommu_models::memory::TestMemory;
//! use iommu_pgtable::{Config, PageTable, SecondStageOptions, VtdSecondStage};
//!
//! let memory = TestMemory::new(PhysAddr::new(0x10_0000), 64);
//! let config = Config {
//!     levels: 4,
//!     page_sizes: PageSizes::new(0x1000 | 0x20_0000),
//!     input_bits: 48,
//!     output_bits: 46,
//!     memory: WalkerMemory::Coherent,
//!     address_bits: 46,
//!     options: SecondStageOptions { snoop: false },
//! };
//! let mut table = PageTable::<_, VtdSecondStage>::new(&memory, config)?;
//!
//! // 2 MiB and one page more: a large leaf and a small one.
//! let run = PhysExtent::new(PhysAddr::new(0x4000_0000), 0x20_1000);
//! table.map(Iova::new(0x20_0000), &[run], Prot::READ_WRITE)?;
//! let there = table.translate(Iova::new(0x20_0123)).unwrap();
//! assert_eq!((there.phys.get(), there.page_size), (0x4000_0123, 0x20_0000));
//!
//! let mut gather = Gather::new();
//! let range = IovaRange::from_len(Iova::new(0x20_0000), 0x20_1000).unwrap();
//! table.unmap(range, &mut gather)?;
//! assert_eq!(table.translate(Iova::new(0x20_0123)), None);
//! // Now the driver invalidates what the gather holds, and waits.
//! // SAFETY: no hardware ever knew of this table.
//! unsafe { table.free_gathered(&mut gather) };
//! gather.clear();
//! # Ok::<(), HwError>(())
//! ```
#![no_std]

mod chain;
mod dirty;
mod format;
mod map;
mod runs;
mod span;
mod table;
mod unmap;
mod vtd_first_stage;
mod vtd_second_stage;

pub use format::Format;
pub use table::{Config, PageTable};
pub use vtd_first_stage::VtdFirstStage;
pub use vtd_second_stage::{SecondStageOptions, VtdSecondStage};
