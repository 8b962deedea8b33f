//! I/O page tables: one walker, formats as types.
//!
//! * [`PageTable`]: maps physically contiguous runs, unmaps ranges, translates, for any format.
//! * [`Format`]: what tells one kind of entry from another: [`VtdSecondStage`] and [`VtdFirstStage`], [`Armv8Stage1`]
//!   and [`Armv8Stage2`].
//!
//! Not here: when hardware is told of a change. An unmap notes in a [`Gather`](iommu_core::hw::Gather) what the driver
//! has to invalidate, and which table frames come back once hardware has confirmed that.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | formats of VT-d | second stage with 3 or 4 levels, first stage with 4 levels |
//! | formats of Armv8 | stage 1 and stage 2 with the 4 KiB granule, 3 or 4 levels; no concatenated roots |
//! | first-stage addresses | VT-d: the lower canonical half, 47 bits; Armv8: those of TTB0 |
//! | concurrency | `&mut self` for map and unmap; parallel tables are to come |
//! | unmap | whole leaves, and every page of the range mapped; a larger leaf is not split |
//! | large leaves | not where a table stands already, even an empty one; collapsing is to come |
//! | tables emptied piece by piece | kept until an unmap covers all that they translate, or until the drop |
//! | accessed and dirty bits | preset in VT-d's first-stage entries, unused in its second-stage ones |
//! | Armv8's access flag and dirty state | the flag is preset, dirty state is not tracked |
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

mod armv8_stage1;
mod armv8_stage2;
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

pub use armv8_stage1::{Armv8Stage1, Stage1Options};
pub use armv8_stage2::Armv8Stage2;
pub use format::Format;
pub use table::{Config, PageTable};
pub use vtd_first_stage::VtdFirstStage;
pub use vtd_second_stage::{SecondStageOptions, VtdSecondStage};
