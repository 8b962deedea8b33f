//! Groups of interrupt translation services.

use super::IortError;
use super::node::Node;
use crate::fallible::try_push;
use alloc::vec::Vec;

/// Length of the node before its list, in bytes.
pub(super) const FIXED_LEN: usize = 20;
const COUNT_AT: usize = 16;

/// One group: what leads there may use any of its services.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ItsGroup {
    /// The services, by the numbers that the MADT gives them ([`crate::madt`]).
    pub ids: Vec<u32>,
    pub(super) offset: usize,
}

impl ItsGroup {
    /// Reads a node of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(node: Node<'_>) -> Result<Self, IortError> {
        let offset = node.offset();
        let count = node.bytes.u32(COUNT_AT)?;
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(4));
        let list = len.and_then(|len| node.bytes.part(FIXED_LEN, len).ok());
        let mut rest = list.ok_or(IortError::ServicesOutside { offset, count })?;
        let mut ids = Vec::new();
        while rest.len() > 0 {
            try_push(&mut ids, rest.u32(0)?)?;
            rest = rest.from(4)?;
        }
        Ok(Self { ids, offset })
    }
}
