//! IOMMUs in software, written from the specifications and from no driver's types, and a memory to test drivers with.
//!
//! * [`memory`]: [`TestMemory`](memory::TestMemory), an [`iommu_hal::Hal`] that fails on demand, sees misuse, and shows
//!   what a device sees of memory after each store.
//! * [`vtd`]: a VT-d unit behind [`iommu_hal::regs::Registers`], and a walker of its tables that stands apart from it.
//! * [`smmuv3`]: an SMMUv3 in the same way.
//!
//! The crate depends on no driver, so that drivers, and whoever builds on them, can test with it. What a driver must
//! not do and hardware would not report is collected as violations; a test asserts that there are none.
//!
//! # Limits
//!
//! | What | Now | To come |
//! |---|---|---|
//! | VT-d tables | legacy, scalable and abort-DMA mode; first and second stage (3 to 5 levels), one on the other, pass-through; every reserved bit of revision 5.10 | host permission tables (HPTE is reserved), I/O permissions of the second stage (IR, IW; SSIRWE) |
//! | revisions | the stricter rule where 5.10 is more lenient than 4.0: bit 63 of first-stage entries needs NXE, AW of pass-through a width of the unit, execute requests their enables | AW of a unit without a second stage is not looked at, since revisions contradict each other |
//! | accessed and dirty bits | written by atomic updates in both stages once a request is let through; refused where walks do not snoop | accessed bits set ahead of time, or for requests that fault |
//! | fetches | entries wider than 128 bits in parts, in either order, with a hook between | parts of several entries mixed |
//! | VT-d caches | context, PASID, IOTLB, paging structures of each stage (with the host address of guest tables in nested translation), tagged and covered as tables 17, 23 and 24 of revision 5.10 say: kept until covered, or lost at random; with caching mode entries that would fault, upper ones of the second stage too | directory entries of their own (held with the PASID entries that they led to), host permission tables, faults below nested entries |
//! | device TLBs | functions that ask, keep answers until type 3 or 8 covers them, and send translated requests; depth and physical function are looked at | page requests, several invalidations on their way at once |
//! | VT-d invalidation queue | 128 and 256 bits, types 1 to 9; each at once, or at the wait, in order, reversed or shuffled as far as section 6.5.2.12 allows; waits late, lost, never; ITE, IQE, ICE | type 10 (host permission tables); answers to page requests are logged only |
//! | requests | reads, writes, both at once, of nothing; of users and supervisors, for execution; untranslated, translated, translation requests of one page. A write without PASID to where interrupts go is one, whatever its length | page requests, translation requests for several pages |
//! | VT-d registers | GCMD to IRTA with invalidation by registers and protected memory; fault records | page-request queue, memory types, performance, enhanced commands |
//! | write buffer, draining | with RWBF walkers see stores only once they are flushed; requests stay on their way to memory until they are drained, where a switch asks for it | |
//! | interrupt remapping | commands and IEC descriptors are taken, nothing is remapped | remapping |
//! | SMMUv3 | the non-secure side | the secure side, realms |
//! | SMMUv3 structures | linear and 2-level stream and CD tables, STEs and CDs of every kind; each word fetched by itself, ascending, descending or shuffled, with a hook between; every bit that is reserved, or illegal for what the unit has, makes its structure so | features beyond version 3.2 (DPT, MPAM, permission indirection, MTE): their bits are reserved; EL2 with ASIDs (CR2.E2H) |
//! | SMMUv3 tables | Armv8 stage 1, stage 2 and both; 4, 16 and 64 KiB; concatenated tops, contiguous groups kept as one, nT, TBI, small tables | 52-bit addresses, AArch32, memory attributes but for S2PTW and what hardware updates need |
//! | SMMUv3 access flag, dirty state | both written by atomic updates in both stages once a request is let through, never ahead of time; noted where walks do not snoop | flags of tables (HTTU 3) |
//! | SMMUv3 caches | level-1 descriptors of streams and CDs, STEs, CDs (valid or not, CONT included), leaves, and what leads to tables, of each stage and of both in one: kept until an invalidation covers them and a CMD_SYNC has passed, or lost at random; an invalidation by range, with granule or level, drops the least that it must | broadcast TLB maintenance, VMID wildcards |
//! | SMMUv3 commands | every one of the non-secure queue, reserved bits and what is out of range included; fetched at the write of CMDQ_PROD or after some looks at CMDQ_CONS; take effect at once, or at the CMD_SYNC in order, reversed or shuffled; CMD_SYNC by CONS, message, event or wire, late, lost or never; each CERROR on demand and by cause | effects of CMD_TLBI on walks under way |
//! | SMMUv3 requests | reads and writes of data, with or without substream; untranslated, translated, and for translations | instruction fetches and privileged requests (InD and PnU of records are 0), translation requests for several pages |
//! | SMMUv3 events | every record that the model's requests give rise to, with stall, merging, overflow, aborts; any other can be put | which rights F_BAD_ATS_TREQ says were asked for; REC_CFG_ATS is stored only |
//! | SMMUv3 stalls | of both stages, retried or ended on CMD_RESUME and CMD_STALL_TERM, early, by SMMUEN; records bounded by STALL_MAX, kept while there is no room, suppressed on demand | stalls that hold up later requests |
//! | SMMUv3 device TLBs, page requests | functions that ask, keep answers until CMD_ATC_INV covers them and the CMD_SYNC has passed, and send translated requests; answer late, never, or with an error; PRI queue with overflow and answers of the unit's own | stop markers; requests with rights to execute or privilege |
//! | SMMUv3 registers | page 0 up to PRIQ_IRQ_CFG2, page 1, with what may be written when; messages and wires of all four interrupts; service failure mode | memory attributes (CR1 and GBPA are stored only), ATOS, MPAM, ECMDQ |
//! | DMA | addresses, not data | |
//! | order of stores | as the program makes them; a non-coherent view holds exactly what was cleaned | early write-back |
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{Iova, PhysAddr};
//! use iommu_hal::regs::Registers;
//! use iommu_models::memory::TestMemory;
//! use iommu_models::vtd::{Config, FaultCode, Model, Violation};
//! use std::sync::Arc;
//!
//! let memory = Arc::new(TestMemory::new(PhysAddr::new(0x8_0000_0000), 64));
//! let unit = Model::new(Config::second_stage(), memory.clone());
//! // A root table without entries, in scalable mode; SRTP, then TE.
//! let request = iommu_hal::FrameRequest::single(48, iommu_hal::WalkerMemory::Coherent);
//! let root = iommu_hal::mem::Frames::alloc(&*memory, request).ok_or("no frames")?;
//! unit.write64(0x20, root.phys().get() | 1 << 10);
//! unit.write32(0x18, 1 << 30);
//! unit.write32(0x18, 1 << 31);
//! let blocked = unit.dma(0x0008, None, Iova::new(0x1000), 8, true).unwrap_err();
//! assert_eq!(blocked.code, FaultCode::ROOT_NOT_PRESENT);
//! assert_eq!(unit.violations(), []);
//! // What a driver must not do is seen: GSTS is read only.
//! unit.write32(0x1c, 0);
//! assert_eq!(unit.violations(), [Violation::ReadOnly { offset: 0x1c, value: 0 }]);
//! # Ok::<(), &str>(())
//! ```
#![no_std]

extern crate alloc;

pub mod memory;
mod random;
pub mod smmuv3;
pub mod vtd;
