//! The header that every node begins with, and the directory of nodes by which mappings find theirs.

use super::{FIXED_LEN, IdMapping, IortError, MappingTarget, NODES_AT, NodeKind};
use crate::bytes::Bytes;
use crate::fallible::try_push;
use alloc::vec::Vec;

/// Length of the header: type, length, revision, identifier, number and offset of mappings.
pub(super) const HEADER_LEN: usize = 16;
const LENGTH_AT: usize = 1;
const REVISION_AT: usize = 3;
const MAPPINGS_AT: usize = 8;
const MAPPINGS_OFFSET_AT: usize = 12;

/// A node of the table.
#[derive(Clone, Copy)]
struct Entry {
    offset: usize,
    length: usize,
    /// `None` where the type is not known.
    kind: Option<NodeKind>,
    raw_kind: u8,
    /// Among the nodes of its kind.
    index: usize,
}

/// Where each node lies, in rising order.
pub(super) struct Directory {
    entries: Vec<Entry>,
    counts: [u32; NodeKind::ALL.len()],
    unknown: u32,
}

impl Directory {
    /// The `count` nodes that follow each other from `nodes_at` on.
    pub(super) fn read(table: Bytes<'_>, count: u32, nodes_at: u32) -> Result<Self, IortError> {
        let mut directory = Self { entries: Vec::new(), counts: [0; NodeKind::ALL.len()], unknown: 0 };
        let start = usize::try_from(nodes_at).unwrap_or(usize::MAX);
        if start < FIXED_LEN || start > table.len() {
            return Err(IortError::NodesOutside { offset: NODES_AT, value: nodes_at });
        }
        let mut rest = table.from(start)?;
        // Each has at least a header, so that the table ends before a count that is too high does.
        for found in 0..count {
            let offset = rest.start();
            if rest.len() == 0 {
                return Err(IortError::NodesMissing { expected: count, found });
            }
            if rest.len() < HEADER_LEN {
                return Err(IortError::TrailingBytes { offset, count: rest.len() });
            }
            let (raw_kind, length) = (rest.u8(0)?, usize::from(rest.u16(LENGTH_AT)?));
            if length < HEADER_LEN {
                return Err(IortError::NodeTooShort { offset, kind: raw_kind, length, least: HEADER_LEN });
            }
            if length > rest.len() {
                return Err(IortError::NodeOverlong { offset, kind: raw_kind, length, room: rest.len() });
            }
            directory.add(offset, length, raw_kind)?;
            rest = rest.from(length)?;
        }
        Ok(directory)
    }

    fn add(&mut self, offset: usize, length: usize, raw_kind: u8) -> Result<(), IortError> {
        let kind = NodeKind::new(raw_kind);
        let count = kind.and_then(|kind| self.counts.get_mut(kind as usize)).unwrap_or(&mut self.unknown);
        let index = usize::try_from(*count).unwrap_or(usize::MAX);
        *count = count.saturating_add(1);
        Ok(try_push(&mut self.entries, Entry { offset, length, kind, raw_kind, index })?)
    }

    /// How many nodes there are of each kind.
    pub(super) fn counts(&self) -> [u32; NodeKind::ALL.len()] {
        self.counts
    }

    /// How many nodes there are of no known kind.
    pub(super) fn unknown(&self) -> u32 {
        self.unknown
    }

    /// The nodes of known kinds, in table order.
    pub(super) fn nodes<'a>(&self, table: Bytes<'a>) -> impl Iterator<Item = (NodeKind, Result<Bytes<'a>, IortError>)> {
        let bytes = move |entry: &Entry| table.part(entry.offset, entry.length).map_err(IortError::from);
        self.entries.iter().filter_map(move |entry| Some((entry.kind?, bytes(entry))))
    }

    /// What the mapping at `offset`, in a node of kind `from`, leads to.
    pub(super) fn target(&self, from: NodeKind, offset: usize, reference: u32) -> Result<MappingTarget, IortError> {
        let at = usize::try_from(reference).unwrap_or(usize::MAX);
        let found = self.entries.binary_search_by_key(&at, |entry| entry.offset).ok();
        let entry = found.and_then(|found| self.entries.get(found));
        let entry = entry.ok_or(IortError::UnknownReference { offset, reference })?;
        let to_its = !matches!(from, NodeKind::Rmr);
        let to_smmu = !matches!(from, NodeKind::SmmuV3);
        match entry.kind {
            Some(NodeKind::ItsGroup) if to_its => Ok(MappingTarget::ItsGroup(entry.index)),
            Some(NodeKind::SmmuV3) if to_smmu => Ok(MappingTarget::Smmu(entry.index)),
            Some(NodeKind::SmmuV1V2) if to_smmu => Ok(MappingTarget::Other),
            // Later revisions have further kinds, interrupt wire bridges among them.
            None if to_its => Ok(MappingTarget::Other),
            _ => Err(IortError::BadReference { offset, reference, kind: entry.raw_kind }),
        }
    }
}

/// A node whose mappings were read.
pub(super) struct Node<'a> {
    /// All of it.
    pub(super) bytes: Bytes<'a>,
    pub(super) revision: u8,
    pub(super) mappings: Vec<IdMapping>,
    /// Where the fields of its kind end: the mappings begin there, or the node ends.
    body_end: usize,
}

impl<'a> Node<'a> {
    /// Reads a node of at least the length of its kind's fixed part.
    pub(super) fn read(kind: NodeKind, bytes: Bytes<'a>, directory: &Directory) -> Result<Self, IortError> {
        let (count, at) = (bytes.u32(MAPPINGS_AT)?, bytes.u32(MAPPINGS_OFFSET_AT)?);
        let (mut mappings, mut body_end) = (Vec::new(), bytes.len());
        // The offset of no mappings means nothing, and services have none.
        if count != 0 && kind != NodeKind::ItsGroup {
            let outside = IortError::MappingsOutside { offset: bytes.start(), at, count };
            body_end = usize::try_from(at).unwrap_or(usize::MAX);
            let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(IdMapping::LEN));
            let array = len.filter(|_| body_end >= kind.least()).and_then(|len| bytes.part(body_end, len).ok());
            let mut rest = array.ok_or(outside)?;
            while rest.len() > 0 {
                try_push(&mut mappings, IdMapping::parse(kind, rest, directory)?)?;
                rest = rest.from(IdMapping::LEN)?;
            }
        }
        Ok(Self { bytes, revision: bytes.u8(REVISION_AT)?, mappings, body_end })
    }

    /// Where it begins in the table.
    pub(super) fn offset(&self) -> usize {
        self.bytes.start()
    }

    /// Whether the fields of its kind go on to `end`, in bytes from its start: revisions added some.
    pub(super) fn has(&self, end: usize) -> bool {
        self.body_end >= end
    }

    /// What lies between `offset` and the mappings.
    pub(super) fn body_from(&self, offset: usize) -> Result<Bytes<'a>, IortError> {
        Ok(self.bytes.part(offset, self.body_end.saturating_sub(offset))?)
    }
}
