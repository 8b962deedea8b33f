//! Properties made of cells: 32-bit big-endian numbers, of which an address or a length takes one or more.

use super::DeviceTreeError;
use super::node::{bytes, unit_address};
use dtoolkit::fdt::FdtNode;

/// The cells of a property, from the first that was not taken yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells<'a> {
    bytes: &'a [u8],
}

impl<'a> Cells<'a> {
    /// The property `name` of `node` as records of `record` cells each; `None` where the node has none.
    ///
    /// # Errors
    ///
    /// [`DeviceTreeError::ShortProperty`] where its length is not a whole number of records.
    pub(super) fn of(node: &FdtNode<'a>, name: &'static str, record: usize) -> Result<Option<Self>, DeviceTreeError> {
        let Some(bytes) = bytes(node, name) else { return Ok(None) };
        // A record of no cells at all would never end.
        if record == 0 || bytes.len() % (4 * record) != 0 {
            let (unit_address, len) = (unit_address(node), bytes.len());
            return Err(DeviceTreeError::ShortProperty { unit_address, property: name, len, record: 4 * record });
        }
        Ok(Some(Self { bytes }))
    }

    /// Whether all cells were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many cells were not taken yet.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() / 4
    }

    /// Takes the next cell; zero where there is none, which the check of the length rules out.
    pub(super) fn cell(&mut self) -> u32 {
        let Some((cell, rest)) = self.bytes.split_first_chunk() else { return 0 };
        self.bytes = rest;
        u32::from_be_bytes(*cell)
    }

    /// Takes a number of `count` cells, of which the lowest two count; `None` where those above hold anything.
    pub(super) fn number(&mut self, count: usize) -> Option<u64> {
        let mut value = 0u64;
        let mut fits = true;
        for _ in 0..count {
            fits &= value >> 32 == 0;
            value = value << 32 | u64::from(self.cell());
        }
        fits.then_some(value)
    }
}

/// The one cell of property `name`; `None` where the node has none.
pub(super) fn one(node: &FdtNode<'_>, name: &'static str) -> Result<Option<u32>, DeviceTreeError> {
    let Some(mut cells) = Cells::of(node, name, 1)? else { return Ok(None) };
    if cells.bytes.len() != 4 {
        let (unit_address, len) = (unit_address(node), cells.bytes.len());
        return Err(DeviceTreeError::ShortProperty { unit_address, property: name, len, record: 4 });
    }
    Ok(Some(cells.cell()))
}

/// The widths of addresses and lengths below a node, in cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Widths {
    pub(super) address: usize,
    pub(super) size: usize,
}

impl Widths {
    /// Wider than any bus has: PCI's three are the most.
    const MAX: u32 = 4;

    /// As `node` says it of its children; two and one where it does not (Devicetree Specification section 2.3.5).
    pub(super) fn below(node: &FdtNode<'_>) -> Result<Self, DeviceTreeError> {
        let width = |name, default| {
            let cells = one(node, name)?.unwrap_or(default);
            if cells > Self::MAX {
                let unit_address = unit_address(node);
                return Err(DeviceTreeError::TooManyCells { unit_address, property: name, cells });
            }
            Ok(cells as usize)
        };
        Ok(Self { address: width("#address-cells", 2)?, size: width("#size-cells", 1)? })
    }
}
