//! ID mappings: which ids become which, of what.

use super::node::Directory;
use super::{IortError, NodeKind};
use crate::bytes::Bytes;

/// The node that a mapping leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingTarget {
    /// A group of interrupt translation services: ids become device ids. An index into [`super::Iort::its_groups`].
    ItsGroup(usize),
    /// An SMMUv3: ids become stream ids. An index into [`super::Iort::smmus`].
    Smmu(usize),
    /// A node that is not read.
    Other,
}

/// One mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdMapping {
    /// First id that goes in; means nothing with `single`.
    pub first: u32,
    /// Last id that goes in, inclusive, as the table says: where it says one too many this is one too many. Means nothing
    /// with `single`.
    pub last: u32,
    /// What the first id becomes, and with `single` every one.
    pub output: u32,
    /// Whether everything becomes the one id `output` (flags bit 0).
    pub single: bool,
    /// Whose ids come out.
    pub target: MappingTarget,
}

impl IdMapping {
    /// Length of a mapping, in bytes.
    pub(super) const LEN: usize = 20;

    /// Reads the mapping that `bytes` begin with, of a node of kind `from`.
    pub(super) fn parse(from: NodeKind, bytes: Bytes<'_>, directory: &Directory) -> Result<Self, IortError> {
        let offset = bytes.start();
        let (first, more, output) = (bytes.u32(0)?, bytes.u32(4)?, bytes.u32(8)?);
        let single = bytes.u32(16)? & 1 != 0;
        let target = directory.target(from, offset, bytes.u32(12)?)?;
        let wraps = IortError::IdsWrap { offset, first, output, more };
        let (last, last_output) = (first.checked_add(more), output.checked_add(more));
        match (last, last_output) {
            (Some(last), Some(_)) => Ok(Self { first, last, output, single, target }),
            _ if single => Ok(Self { first, last: first, output, single, target }),
            _ => Err(wraps),
        }
    }
}
