//! `iommu-map` and `msi-map` of a host bridge, each with its mask (Linux's bindings `pci-iommu` and `pci-msi`): which
//! requester an SMMU sees as which stream, and an interrupt translation service as which device.

use super::DeviceTreeError;
use super::cells::{Cells, one};
use super::node::unit_address;
use crate::fallible::try_push;
use alloc::vec::Vec;
use dtoolkit::fdt::FdtNode;
use iommu_core::hw::{RequesterId, StreamId};

/// Requesters that one unit sees under neighbouring stream ids (or a service under neighbouring device ids).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IommuMapEntry {
    /// The first requester, masked.
    pub first: u16,
    /// How many requesters, at least 1; all of them in 16 bits.
    pub count: u32,
    /// The phandle of the unit.
    pub phandle: u32,
    /// The stream of the first requester; those of the others need no more than 32 bits.
    pub stream: u32,
}

impl IommuMapEntry {
    /// One past the last requester.
    const fn end(&self) -> u32 {
        self.first as u32 + self.count
    }

    /// The first stream that both entries give, where they give one.
    pub(super) fn shared_with(&self, other: &Self) -> Option<u32> {
        // The last streams fit in 32 bits: that was checked.
        let last = |entry: &Self| entry.stream.wrapping_add(entry.count - 1);
        let first = self.stream.max(other.stream);
        (self.phandle == other.phandle && first <= last(self).min(last(other))).then_some(first)
    }
}

/// What a host bridge's functions are to the units behind it. Checked: no requester is in two entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IommuMap {
    mask: u16,
    /// Sorted by requester.
    entries: Vec<IommuMapEntry>,
}

impl IommuMap {
    /// The map that properties of `node` make; one without entries where it has none.
    pub(super) fn read(
        node: &FdtNode<'_>,
        property: &'static str,
        mask: &'static str,
    ) -> Result<Self, DeviceTreeError> {
        let unit_address = unit_address(node);
        // Bits above the requester id's have nothing to mask.
        let mask = one(node, mask)?.map_or(u16::MAX, |mask| mask as u16);
        let mut entries = Vec::new();
        let mut cells = Cells::of(node, property, 4)?;
        while let Some(cells) = cells.as_mut().filter(|cells| !cells.is_empty()) {
            let (first, phandle, stream, count) = (cells.cell(), cells.cell(), cells.cell(), cells.cell());
            let requesters = first.checked_add(count).is_some_and(|end| count != 0 && end <= 1 << 16);
            let Some(first) = u16::try_from(first).ok().filter(|_| requesters) else {
                return Err(DeviceTreeError::BadRequesters { unit_address, first, len: count });
            };
            if stream.checked_add(count - 1).is_none() {
                return Err(DeviceTreeError::BadStreams { unit_address, first: stream, len: count });
            }
            try_push(&mut entries, IommuMapEntry { first, count, phandle, stream })?;
        }
        entries.sort_unstable_by_key(|entry| entry.first);
        for (entry, next) in entries.iter().zip(entries.iter().skip(1)) {
            if entry.end() > next.first.into() {
                let requester = RequesterId::new(next.first);
                return Err(DeviceTreeError::OverlappingRequesters { unit_address, requester });
            }
        }
        Ok(Self { mask, entries })
    }

    /// The entries, sorted by requester.
    pub fn entries(&self) -> &[IommuMapEntry] {
        &self.entries
    }

    /// The bits of a requester id that are looked up.
    pub const fn mask(&self) -> u16 {
        self.mask
    }

    /// The unit that sees `requester`, by its phandle, and under which stream id; `None` where no unit does, so that
    /// its DMA is not controlled.
    pub fn lookup(&self, requester: RequesterId) -> Option<(u32, StreamId)> {
        let masked = requester.get() & self.mask;
        // The last entry that begins at or before it.
        let index = self.entries.partition_point(|entry| entry.first <= masked).checked_sub(1)?;
        let entry = self.entries.get(index).filter(|entry| u32::from(masked) < entry.end())?;
        // Below the entry's count, for which the sum was checked.
        let offset = u32::from(masked - entry.first);
        Some((entry.phandle, StreamId::new(entry.stream.wrapping_add(offset))))
    }
}
