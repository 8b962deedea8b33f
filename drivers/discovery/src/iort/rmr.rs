//! Reserved memory ranges: memory that firmware lets devices use, and that must stay mapped to itself for their streams once
//! translation is on.

use super::node::Node;
use super::{IdMapping, IortError};
use crate::fallible::try_push;
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;

/// Length of the node before its descriptors, in bytes.
pub(super) const FIXED_LEN: usize = 28;
const DESCRIPTOR_LEN: usize = 20;

/// What bases and lengths are multiples of, in bytes.
const GRANULE: u64 = 0x1_0000;

/// One run of reserved memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RmrDescriptor {
    /// First byte; a multiple of 64 KiB.
    pub start: PhysAddr,
    /// Last byte, inclusive; one less than a multiple of 64 KiB, above `start`.
    pub last: PhysAddr,
}

/// Reserved memory and the streams that use it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rmr {
    /// Whether it must be mapped to itself no longer than until a driver takes over (flags bit 0, remap permitted).
    pub relaxable: bool,
    /// Whether accesses are privileged (flags bit 1).
    pub privileged: bool,
    /// How it is to be mapped (flags bits 9:2): 0 to 3 kinds of device memory, 4 not cached, 5 cached.
    pub attributes: u8,
    /// The memory, in table order.
    pub descriptors: Vec<RmrDescriptor>,
    /// The streams: what comes out of each mapping.
    pub mappings: Vec<IdMapping>,
}

impl Rmr {
    /// Reads a node of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(node: Node<'_>) -> Result<Self, IortError> {
        let (flags, count, at) = (node.bytes.u32(16)?, node.bytes.u32(20)?, node.bytes.u32(24)?);
        let outside = IortError::DescriptorsOutside { offset: node.offset(), at, count };
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(DESCRIPTOR_LEN));
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let inside = len.filter(|len| *len == 0 || start >= FIXED_LEN);
        // Where there are none their offset means nothing.
        let start = if len == Some(0) { FIXED_LEN } else { start };
        let mut rest = inside.and_then(|len| node.bytes.part(start, len).ok()).ok_or(outside)?;
        let mut descriptors = Vec::new();
        while rest.len() > 0 {
            let (offset, base, length) = (rest.start(), rest.u64(0)?, rest.u64(8)?);
            let bad = IortError::BadReservation { offset, base, length };
            let last = length.checked_sub(1).and_then(|more| base.checked_add(more));
            let last = last.filter(|_| base % GRANULE == 0 && length % GRANULE == 0).ok_or(bad)?;
            try_push(&mut descriptors, RmrDescriptor { start: PhysAddr::new(base), last: PhysAddr::new(last) })?;
            rest = rest.from(DESCRIPTOR_LEN)?;
        }
        Ok(Self {
            relaxable: flags & 1 != 0,
            privileged: flags & 1 << 1 != 0,
            attributes: (flags >> 2 & 0xff) as u8,
            descriptors,
            mappings: node.mappings,
        })
    }
}
