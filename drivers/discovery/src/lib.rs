//! Where the IOMMU units are and which of them serves which PCI function.
//!
//! Takes what firmware and an enumerator of the PCI bus say, as bytes and plain values, checks it, and answers: which
//! units there are ([`dmar`]), which of them serves a function and which memory firmware reserved for it ([`scope`]); on Arm units,
//! streams and interrupt services ([`iort`], [`madt`], put together in [`streams`]);
//! what every address space of a function must have ([`regions`]), which functions may cache translations ([`ats`]),
//! what a function's configuration space says of address translation, and switching it ([`mod@pci`]), under which
//! requester ids an IOMMU sees a function and which functions cannot be kept apart ([`topology`]), where configuration
//! space lies ([`mcfg`]); and from a devicetree memory, host bridges, units and stream ids ([`devicetree`]). Finds no
//! table and reaches no hardware by itself: the embedder hands over the bytes, and the access.
//!
//! Firmware is not trusted to be right: lengths, offsets and values are checked, the work is bounded by the table's
//! length, no input panics, and every allocation may fail.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | IORT nodes | ITS groups, named components, root complexes, SMMUv3, RMR decoded; SMMUv1, SMMUv2, performance counters and unknown ones skipped: what leads there is controlled by no unit; at most 1024 units |
//! | IORT: device ids of named components | in the table's own nodes only |
//! | MADT | interrupt translation services only |
//! | firmware's word on memory attributes, address widths, VATOS | parsed where it has a field, used nowhere |
//! | devicetree: IOMMUs | SMMUv3; functions by `iommu-map`, platform devices by `iommus` (those that are behind another kind of IOMMU first are left out); functions as nodes of their own have their bridge's answer |
//! | devicetree: interrupts of units | those of a GIC (v1 to v3) by `interrupts`; no `interrupts-extended` |
//! | devicetree: messages | `msi-map` and `msi-parent` to interrupt translation services; the doorbell's page only |
//! | devicetree: host bridges | `pci-host-ecam-generic`; windows of I/O ports are left out |
//! | devicetree: nesting | 16 levels |
//! | DMAR structures | DRHD, RMRR, ATSR, RHSA, ANDD, SATC, SIDP decoded; others skipped; at most 1024 units |
//! | scopes of I/O APICs and HPETs | parsed; used from interrupt remapping on |
//! | quirks of devices (phantom functions, other aliases, access control under another name) | none |
//! | SR-IOV | virtual functions have the unit and the properties of their physical one once that is [known](topology::Topology::set_physical); groups take them as functions like others; they have no PASIDs |
//! | PASIDs | neither the right to execute nor privileged mode is switched on |
//! | page requests | recognised, left off |
//! | caches of translations that are known to be broken | none is known |
//! | ports that lead outside | the embedder [says](topology::Topology::set_external) which |
//! | Intel scalable I/O virtualization | recognised; dependencies and flags of its capability are not looked at |
//! | resets | the embedder's; not noticed |
//! | hot-plug, renumbered buses, changed ACS | build the topology anew |
//! | root bus that is conventional PCI | its devices count as apart |
//!
//! # Example
//!
//! ```
//! use iommu_discovery::dmar::Dmar;
//! use iommu_discovery::scope::{reserved_regions, unit_of};
//! use iommu_discovery::topology::{Function, FunctionKind, PcieType, Topology};
//! use iommu_discovery::Sbdf;
//!
//! # fn table() -> Vec<u8> {
//! #     let mut table = b"DMAR".to_vec();
//! #     table.extend(64u32.to_le_bytes());
//! #     table.resize(48, 0);
//! #     table[36] = 47;
//! #     table.extend([0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0]);
//! #     table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
//! #     table
//! # }
//! # let bytes = table();
//! // From the firmware's XSDT: one unit at 0xfed9_0000 that serves everything.
//! let dmar = Dmar::parse(&bytes)?;
//! assert_eq!(dmar.drhds()[0].base.get(), 0xfed9_0000);
//!
//! // From an enumerator: a bridge to conventional PCI, and a device behind it.
//! let at = |bus, device, function| Sbdf::from_parts(0, bus, device, function).unwrap();
//! let bridge = Function {
//!     sbdf: at(0, 3, 0),
//!     class: 0x06_04_00,
//!     kind: FunctionKind::Bridge { secondary: 1, subordinate: 1 },
//!     port: Some(PcieType::PcieToPciBridge),
//!     multifunction: false,
//!     acs: None,
//! };
//! let device = Function {
//!     sbdf: at(1, 5, 0),
//!     class: 0xff_00_00,
//!     kind: FunctionKind::Endpoint,
//!     port: None,
//!     multifunction: false,
//!     acs: None,
//! };
//! let topology = Topology::new([bridge, device])?;
//!
//! assert_eq!(unit_of(&dmar, &topology, device.sbdf), Some(0));
//! assert_eq!(reserved_regions(&dmar, &topology, device.sbdf).count(), 0);
//! // The IOMMU sees its DMA under the bridge's id for its secondary bus, and the two cannot be kept apart.
//! assert_eq!(topology.dma_id(device.sbdf), at(1, 0, 0).id);
//! let groups = topology.groups()?;
//! assert_eq!(groups.of(device.sbdf), groups.of(bridge.sbdf));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ats;
mod bytes;
pub mod devicetree;
pub mod dmar;
mod fallible;
pub mod iort;
pub mod madt;
pub mod mcfg;
mod name;
pub mod pci;
pub mod regions;
mod sbdf;
pub mod scope;
pub mod streams;
mod table;
pub mod topology;

pub use bytes::OutOfBounds;
pub use sbdf::Sbdf;
pub use table::TableError;

#[cfg(test)]
mod test_fdt;
#[cfg(test)]
mod test_pci;
#[cfg(test)]
mod test_tables;
