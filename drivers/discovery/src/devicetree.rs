//! The flattened devicetree: memory, PCI host bridges, SMMUv3 units, and under which stream id a unit sees which
//! requester.
//!
//! [`DeviceTree::parse`] checks the structure of the whole blob (by `dtoolkit`); after that every property is read with
//! checks of its own. Nothing needs memory but what collects host bridges and units, so that memory itself can be found
//! before there is any. Knows no other IOMMU than SMMUv3.
//!
//! ```no_run
//! use iommu_discovery::Sbdf;
//! use iommu_discovery::devicetree::{DeviceTree, Streams};
//!
//! fn look_around(blob: &[u8], function: Sbdf) -> Result<(), Box<dyn std::error::Error>> {
//!     let tree = DeviceTree::parse(blob)?;
//!     for run in tree.memory() {
//!         println!("RAM: {:?}", run?);
//!     }
//!     let streams = Streams::read(&tree)?;
//!     // By the id that its DMA arrives with; one that no unit sees is an error.
//!     let (unit, stream) = streams.of(function)?;
//!     println!("the unit at {} sees {function} as {:#x}", streams.units()[unit].registers.start, stream.get());
//!     Ok(())
//! }
//! ```

mod cells;
mod devices;
mod error;
mod index;
mod interrupts;
mod iommu_map;
mod memory;
mod node;
mod pci_host;
mod smmu;
mod streams;

pub use error::{DeviceTreeError, StructureError};
pub use iommu_map::{IommuMap, IommuMapEntry};
pub use pci_host::{PciHost, PciWindow};

pub use crate::streams::{Smmu, Streams, Uncontrolled};

use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use iommu_core::addr::{PhysAddr, PhysExtent};

/// The first bytes of every devicetree, big-endian.
const MAGIC: u32 = 0xd00d_feed;

/// How many bytes the header of a devicetree has.
pub const HEADER_LEN: usize = 40;

/// A devicetree whose structure was checked.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTree<'a>(Fdt<'a>);

impl<'a> DeviceTree<'a> {
    /// How long the tree is that `header` begins, as far as the header says: `None` where it is not a devicetree's.
    pub fn len_in_header(header: &[u8; HEADER_LEN]) -> Option<usize> {
        let word = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
        (word(0)? == MAGIC).then_some(word(4)? as usize)
    }

    /// The tree that `bytes` begins with; `bytes` may go on after it.
    ///
    /// # Errors
    ///
    /// [`DeviceTreeError::Structure`] with what is wrong and where.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DeviceTreeError> {
        let len = bytes.first_chunk().and_then(Self::len_in_header);
        // Without a length of its own the parser says what is wrong.
        let own = len.and_then(|len| bytes.get(..len)).unwrap_or(bytes);
        Ok(Self(Fdt::new(own).map_err(|error| DeviceTreeError::Structure(StructureError(error)))?))
    }

    /// The kernel's arguments, from `/chosen`; empty where there are none.
    ///
    /// # Errors
    ///
    /// [`DeviceTreeError::NotText`].
    pub fn bootargs(&self) -> Result<&'a str, DeviceTreeError> {
        let Some(chosen) = self.0.root().child("chosen") else { return Ok("") };
        node::text(&chosen, "bootargs").map(Option::unwrap_or_default)
    }

    /// The runs of RAM, in tree order: what the enabled `memory` nodes of the root say, as far as it is not empty.
    ///
    /// Nothing is taken out of them: neither what is [reserved](Self::reserved) nor the tree itself.
    pub fn memory(&self) -> impl Iterator<Item = Result<PhysExtent, DeviceTreeError>> + use<'a> {
        memory::regions(self.0.root())
    }

    /// The memory that must not be used, in no order: reservations, and the `reserved-memory` nodes with an address.
    pub fn reserved(&self) -> impl Iterator<Item = Result<PhysExtent, DeviceTreeError>> + use<'a> {
        memory::reserved(self.0)
    }

    /// Calls `visit` with the first register window of each enabled node that is compatible with `compatible`.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them.
    pub fn for_each_compatible(
        &self,
        compatible: &str,
        mut visit: impl FnMut(PhysExtent),
    ) -> Result<(), DeviceTreeError> {
        node::for_each_compatible(self.0.root(), compatible, &mut |place| {
            visit(place.registers()?);
            Ok(())
        })
    }

    /// The first register window of the node that `/chosen` names as standard output; `None` where it names none.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn stdout(&self) -> Result<Option<PhysExtent>, DeviceTreeError> {
        let root = self.0.root();
        let Some(chosen) = root.child("chosen") else { return Ok(None) };
        let Some(path) = node::text(&chosen, "stdout-path")? else { return Ok(None) };
        // Options for the console may follow a colon.
        let path = path.split(':').next().unwrap_or_default();
        if path.starts_with('/') {
            return node::at_path(root, path);
        }
        let Some(alias) = root.child("aliases").and_then(|aliases| node::bytes(&aliases, path)) else {
            return Ok(None);
        };
        node::at_path(root, node::as_text(alias, "aliases")?)
    }

    fn root(&self) -> FdtNode<'a> {
        self.0.root()
    }
}

/// A window of registers that a node describes.
fn extent(start: u64, len: u64, node: &FdtNode<'_>) -> Result<PhysExtent, DeviceTreeError> {
    // An extent whose last byte lies beyond 2^64 is none.
    if len == 0 || start.checked_add(len - 1).is_none() {
        return Err(DeviceTreeError::BadRegion { unit_address: node::unit_address(node), start, len });
    }
    Ok(PhysExtent::new(PhysAddr::new(start), len))
}

#[cfg(test)]
mod tests;
