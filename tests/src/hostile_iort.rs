//! IORT tables of firmware that is broken or hostile: what must hold of whatever bytes.
//!
//! [`check`] reads them a second time, by nothing of the reader's own, and compares: the reader takes a table exactly if
//! this one does, and every field of every node is the same. Then it asks who serves which requester, around every edge of
//! every mapping, and compares with the mappings themselves, gone through one by one. The suite `hostile_iort` does so with
//! tables that a random number has mutated, the fuzz target `iort` with what a fuzzer comes up with.

pub use crate::hostile::Outcome;
use crate::hostile::{self, Kind, reseal, u16_at, u32_at, u64_at, whole};
use crate::random::Random;
use iommu_core::hw::{RequesterId, StreamId};
use iommu_discovery::Sbdf;
use iommu_discovery::iort::{IdMapping, Iort, IortError, MappingTarget, NodeKind};
use iommu_discovery::streams::{HardwareUpdates, Model, Streams};

/// Length of the fixed part of a table, in bytes.
const FIXED: usize = 48;

/// A node as its bytes are.
#[derive(Clone, Copy)]
struct Raw<'a> {
    kind: u8,
    at: usize,
    bytes: &'a [u8],
    /// Where its mappings begin; its end where it has none.
    body: usize,
    mappings: &'a [u8],
}

impl<'a> Raw<'a> {
    /// First id, more ids, output, reference, whether single.
    fn mappings(&self) -> impl Iterator<Item = (u32, u32, u32, u32, bool)> + Clone + use<'a> {
        let word = |raw: &[u8], n: usize| u32_at(raw, 4 * n);
        let one = move |raw: &'a [u8]| (word(raw, 0), word(raw, 1), word(raw, 2), word(raw, 3), word(raw, 4) & 1 == 1);
        self.mappings.chunks(20).map(one)
    }
}

/// The nodes of the table that `bytes` begins with, as far as they follow each other.
fn walk(bytes: &[u8]) -> Option<Vec<(u8, usize, &[u8])>> {
    let table = whole(bytes, b"IORT", FIXED)?;
    let (count, mut at) = (u32_at(table, 36), u32_at(table, 40) as usize);
    if at < FIXED || at > table.len() {
        return None;
    }
    let mut nodes = Vec::new();
    for _ in 0..count {
        if table.len() - at < 16 {
            return None;
        }
        let len = usize::from(u16_at(table, at + 1));
        if len < 16 || len > table.len() - at {
            return None;
        }
        nodes.push((table[at], at, &table[at..at + len]));
        at += len;
    }
    Some(nodes)
}

/// The nodes of a table that obeys every rule that [`iommu_discovery::iort`] states of nodes.
fn read(bytes: &[u8]) -> Option<Vec<Raw<'_>>> {
    let walked = walk(bytes)?;
    let mut nodes = Vec::new();
    let mut units: Vec<(u64, u64)> = Vec::new();
    for &(kind, at, raw) in &walked {
        let read = matches!(kind, 0 | 1 | 2 | 4 | 6);
        let least = [20, 29, 32, 16, 60, 16, 28].get(usize::from(kind)).copied().unwrap_or(16);
        if raw.len() < least {
            return None;
        }
        let (count, mappings_at) = (u32_at(raw, 8) as usize, u32_at(raw, 12) as usize);
        let mut node = Raw { kind, at, bytes: raw, body: raw.len(), mappings: &[] };
        if read && kind != 0 && count != 0 {
            let end = mappings_at.checked_add(count.checked_mul(20)?)?;
            if mappings_at < least || end > raw.len() {
                return None;
            }
            (node.body, node.mappings) = (mappings_at, &raw[mappings_at..end]);
        }
        for (first, more, output, reference, single) in node.mappings() {
            let to = walked.iter().find(|other| other.1 == reference as usize)?.0;
            let allowed = match kind {
                1 | 2 => !matches!(to, 1 | 2 | 5 | 6),
                4 => !matches!(to, 1..=6),
                _ => matches!(to, 3 | 4),
            };
            let fits = first.checked_add(more).is_some() && output.checked_add(more).is_some();
            if !allowed || !(fits || single) {
                return None;
            }
        }
        if !fields_obey(&node, &walked, &mut units) {
            return None;
        }
        nodes.push(node);
    }
    Some(nodes)
}

fn fields_obey(node: &Raw<'_>, walked: &[(u8, usize, &[u8])], units: &mut Vec<(u64, u64)>) -> bool {
    let raw = node.bytes;
    match node.kind {
        0 => u64::from(u32_at(raw, 16)) * 4 + 20 <= raw.len() as u64,
        1 => {
            let Some(end) = raw[29..node.body].iter().position(|byte| *byte == 0) else { return false };
            let name = &raw[29..29 + end];
            !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || b"_\\^.".contains(b))
        }
        2 => u32_at(raw, 28) <= 0xffff,
        4 => {
            let base = u64_at(raw, 16);
            let last = if u32_at(raw, 40) == 2 { 0xffff } else { 0x1_ffff };
            if base == 0 || !base.is_multiple_of(0x1_0000) || base.checked_add(0x1_ffff).is_none() {
                return false;
            }
            if units.len() == 1024 || units.iter().any(|unit| unit.0 <= base + last && base <= unit.1) {
                return false;
            }
            units.push((base, base + last));
            // A unit that says so has a mapping of its own messages.
            let says = raw[3] >= 5 && u32_at(raw, 24) >> 4 & 1 == 1 && node.body >= 68;
            let own = || node.mappings().nth(u32_at(raw, 64) as usize);
            let its = |reference: u32| walked.iter().any(|other| other.1 == reference as usize && other.0 == 0);
            !says || own().is_some_and(|own| own.4 && its(own.3))
        }
        6 => {
            let (count, at) = (u64::from(u32_at(raw, 20)), u64::from(u32_at(raw, 24)));
            if count == 0 {
                return true;
            }
            if at < 28 || at + count * 20 > raw.len() as u64 {
                return false;
            }
            descriptors(raw).all(|(base, len)| {
                base % 0x1_0000 == 0 && len % 0x1_0000 == 0 && len != 0 && base.checked_add(len - 1).is_some()
            })
        }
        _ => true,
    }
}

/// Bases and lengths of an RMR node whose descriptors lie within it.
fn descriptors(raw: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let (count, at) = (u32_at(raw, 20) as usize, u32_at(raw, 24) as usize);
    (0..count).map(move |n| (u64_at(raw, at + 20 * n), u64_at(raw, at + 20 * n + 8)))
}

/// Whether everything in `iort` is what `nodes` say, in their order, and nothing is missing.
fn same(iort: &Iort, nodes: &[Raw<'_>]) {
    let of = |kind: u8| nodes.iter().filter(move |raw| raw.kind == kind);
    let index = |kind: u8, reference: u32| of(kind).position(|node| node.at == reference as usize);
    let same_mappings = |mappings: &[IdMapping], raw: &Raw<'_>| {
        let one = |(own, raw): (&IdMapping, (u32, u32, u32, u32, bool))| {
            let target = match (index(0, raw.3), index(4, raw.3)) {
                (Some(its), _) => MappingTarget::ItsGroup(its),
                (_, Some(smmu)) => MappingTarget::Smmu(smmu),
                _ => MappingTarget::Other,
            };
            let ids = own.single || (own.first == raw.0 && own.last == raw.0 + raw.1);
            ids && own.output == raw.2 && own.single == raw.4 && own.target == target
        };
        mappings.len() == raw.mappings().count() && mappings.iter().zip(raw.mappings()).all(one)
    };
    macro_rules! compare {
        ($kind:ident, $all:ident, |$it:ident, $raw:ident| $same:expr) => {
            assert_eq!(iort.$all().len(), of(NodeKind::$kind as u8).count());
            assert_eq!(iort.$all().len(), iort.count(NodeKind::$kind) as usize);
            for ($it, node) in iort.$all().iter().zip(of(NodeKind::$kind as u8)) {
                let $raw = node.bytes;
                assert!($same, "{:?} is not {:02x?}", $it, $raw);
            }
        };
    }
    compare!(ItsGroup, its_groups, |its, raw| its.ids.len() == u32_at(raw, 16) as usize
        && its.ids.iter().zip(raw[20..].chunks(4)).all(|(id, raw)| *id == u32_at(raw, 0)));
    compare!(NamedComponent, named_components, |it, raw| raw[29..].starts_with(it.name.as_bytes())
        && raw[29 + it.name.len()] == 0
        && it.can_stall == (raw[16] & 1 == 1)
        && it.pasid_bits == raw[16] >> 1 & 31);
    compare!(RootComplex, root_complexes, |it, raw| u32::from(it.segment) == u32_at(raw, 28)
        && (it.ats, it.page_requests) == (raw[24] & 1 == 1, raw[24] & 2 == 2)
        && (it.pasid_bits == 0 || (raw[24] & 4 == 4 && it.pasid_bits == raw[33] & 31)));
    compare!(SmmuV3, smmus, |it, raw| it.registers.start.get() == u64_at(raw, 16)
        && it.coherent == (raw[24] & 1 == 1)
        && it.updates
            == match raw[24] >> 1 & 3 {
                1 => HardwareUpdates::Access,
                2 => HardwareUpdates::AccessAndDirty,
                _ => HardwareUpdates::None,
            }
        && it.model
            == match u32_at(raw, 40) {
                0 => Model::Generic,
                1 => Model::HiSiliconHi161x,
                2 => Model::CaviumCn99xx,
                other => Model::Unknown(other),
            }
        && [it.interrupts.event, it.interrupts.page_request, it.interrupts.error, it.interrupts.sync]
            == [44, 48, 52, 56].map(|at| Some(u32_at(raw, at)).filter(|line| *line != 0)));
    compare!(Rmr, rmrs, |it, raw| (it.relaxable, it.privileged) == (raw[16] & 1 == 1, raw[16] & 2 == 2)
        && u32::from(it.attributes) == u32_at(raw, 16) >> 2 & 0xff
        && it
            .descriptors
            .iter()
            .map(|run| (run.start.get(), run.last.get()))
            .eq(descriptors(raw).map(|(base, len)| (base, base + (len - 1)))));
    let zipped = iort.root_complexes().iter().zip(of(2));
    assert!(zipped.into_iter().all(|(it, raw)| same_mappings(&it.mappings, raw)));
    assert!(iort.named_components().iter().zip(of(1)).all(|(it, raw)| same_mappings(&it.mappings, raw)));
    assert!(iort.smmus().iter().zip(of(4)).all(|(it, raw)| same_mappings(&it.mappings, raw)));
    assert!(iort.rmrs().iter().zip(of(6)).all(|(it, raw)| same_mappings(&it.mappings, raw)));
    assert_eq!(iort.unknown() as usize, nodes.iter().filter(|raw| raw.kind > 6).count());
}

/// What the mappings of root complexes of a segment make of a requester: unit and stream of each that has it. Where two have
/// it, and for one of them it is the last of its ids, that one does not count.
fn served(nodes: &[Raw<'_>], segment: u32, requester: u32) -> Vec<(usize, u32)> {
    let complexes = || nodes.iter().filter(move |raw| raw.kind == 2 && u32_at(raw.bytes, 28) == segment);
    let mut found = Vec::new();
    for complex in complexes() {
        let hit = |map: &(u32, u32, u32, u32, bool)| map.4 || (requester >= map.0 && requester - map.0 <= map.1);
        let begins = complex.mappings().any(|map| !map.4 && map.0 == requester);
        for map in complex.mappings().filter(hit) {
            let is_last = !map.4 && map.1 > 0 && requester == map.0 + map.1;
            if is_last && begins {
                continue;
            }
            let offset = if map.4 { 0 } else { requester - map.0 };
            let unit = nodes.iter().filter(|raw| raw.kind == 4).position(|raw| raw.at == map.3 as usize);
            found.extend(unit.map(|unit| (unit, map.2 + offset)));
        }
    }
    found
}

/// The requesters around every edge of the mappings, of every segment.
fn edges(nodes: &[Raw<'_>]) -> Vec<(u16, u16)> {
    let mut edges = vec![(0, 0), (0, 0xffff)];
    for complex in nodes.iter().filter(|raw| raw.kind == 2) {
        let segment = u32_at(complex.bytes, 28) as u16;
        edges.extend([(segment, 0), (segment, 0xffff)]);
        for (first, more, ..) in complex.mappings().take(32) {
            let around = [first.wrapping_sub(1), first, first.wrapping_add(1)];
            let last = first.wrapping_add(more);
            let around = around.into_iter().chain([last.wrapping_sub(1), last, last.wrapping_add(1)]);
            edges.extend(around.filter(|id| *id <= 0xffff).map(|id| (segment, id as u16)));
        }
    }
    edges.truncate(512);
    edges
}

/// Reads whatever `bytes` are, and asks everything of it.
///
/// # Panics
///
/// Where an answer is wrong.
pub fn check(bytes: &[u8]) -> Outcome {
    let read = read(bytes);
    let iort = match Iort::parse(bytes) {
        Ok(iort) => iort,
        Err(error) => {
            assert!(read.is_none(), "refused: {error}");
            assert!(error.to_string().starts_with("IORT: "));
            return Outcome::Refused;
        }
    };
    let nodes = read.expect("taken, though it breaks a rule");
    same(&iort, &nodes);
    match Streams::from_iort(&iort, None) {
        Ok(streams) => {
            agree(&streams, &nodes);
            Outcome::Accepted
        }
        Err(error) => {
            conflict(error, &nodes);
            Outcome::Refused
        }
    }
}

/// That the answers are those of the mappings.
fn agree(streams: &Streams, nodes: &[Raw<'_>]) {
    let mut owners: Vec<((usize, StreamId), (u16, u16))> = Vec::new();
    let singles = nodes.iter().filter(|raw| raw.kind == 2).any(|raw| raw.mappings().any(|map| map.4));
    // Whether a stream is the first of a range: then a range that ends with it has lost it.
    let begins =
        |due: &(usize, u32)| nodes.iter().filter(|raw| raw.kind == 2).flat_map(Raw::mappings).any(|map| map.2 == due.1);
    for (segment, id) in edges(nodes) {
        let function = Sbdf::new(segment, RequesterId::new(id));
        let due = served(nodes, segment.into(), id.into());
        match streams.of(function) {
            Ok(found) => {
                let own = (found.0, found.1.get());
                assert!(due.contains(&own), "{function}: {found:?} of {due:?}");
                assert!(due.iter().all(|due| *due == own || begins(due)), "{function}: {found:?} of {due:?}");
                // A stream is one requester's.
                let other = owners.iter().find(|owner| owner.0 == found && owner.1 != (segment, id));
                assert!(singles || other.is_none(), "{function} and {other:?}");
                owners.push((found, (segment, id)));
                let _ = streams.msi_of(function);
            }
            Err(_) if due.is_empty() => {}
            Err(_) => {
                assert!(due.iter().all(begins), "{function}: {due:?}");
            }
        }
    }
    let runs = |raw: &&Raw<'_>| raw.kind == 6;
    for (memory, raw) in streams.reserved().iter().zip(nodes.iter().filter(runs)) {
        let ranges = memory.regions.iter().map(|region| (region.range.start().get(), region.range.len()));
        assert!(ranges.eq(descriptors(raw.bytes).map(|(base, len)| (base, Some(len)))));
        for user in &memory.users {
            let regions = streams.reserved_for(user.unit, user.first).count();
            assert!(regions >= memory.regions.len() && user.first <= user.last);
        }
    }
    assert_eq!(streams.reserved().len(), nodes.iter().filter(runs).count());
}

/// That what was refused is in the nodes.
fn conflict(error: IortError, nodes: &[Raw<'_>]) {
    let has = |at: usize, id: u32| {
        let node = nodes.iter().find(|raw| raw.at == at).expect("a node");
        node.mappings().filter(|map| map.4 || (map.0 <= id && id - map.0 <= map.1)).count()
    };
    match error {
        IortError::OverlappingIds { offset, id } => assert!(has(offset, id) > 1, "{error}"),
        IortError::SameRequesters { offset, segment, requester } => {
            assert!(has(offset, requester.get().into()) > 0, "{error}");
            let same = |raw: &&Raw<'_>| raw.kind == 2 && u32_at(raw.bytes, 28) == u32::from(segment);
            assert!(nodes.iter().filter(same).count() > 1, "{error}");
        }
        IortError::SharedStreams { offset, stream } => {
            let complexes = nodes.iter().filter(|raw| raw.kind == 2).flat_map(Raw::mappings);
            let gives = |map: &(u32, u32, u32, u32, bool)| {
                map.3 as usize == offset && stream >= map.2 && (stream == map.2 || stream - map.2 <= map.1)
            };
            assert!(complexes.filter(gives).count() > 1, "{error}");
        }
        error => panic!("{error}"),
    }
}

fn node(kind: u8, revision: u8, body: &[u8], mappings: &[[u32; 5]]) -> Vec<u8> {
    let mappings_at = 16 + body.len();
    let mut bytes = vec![kind];
    bytes.extend(((mappings_at + 20 * mappings.len()) as u16).to_le_bytes());
    bytes.extend([revision, 0, 0, 0, 0]);
    bytes.extend((mappings.len() as u32).to_le_bytes());
    bytes.extend((mappings_at as u32).to_le_bytes());
    bytes.extend(body);
    mappings.iter().flatten().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn unit(base: u32, flags: u32, lines: [u32; 4], own: u32, mappings: &[[u32; 5]]) -> Vec<u8> {
    let body = [base, 0, flags, 0, 0, 0, 0, lines[0], lines[1], lines[2], lines[3], 0, own];
    node(4, 5, &words(&body), mappings)
}

fn complex(segment: u32, ats: u32, mappings: &[[u32; 5]]) -> Vec<u8> {
    node(2, 4, &[words(&[1, 0x300_0000, ats, segment]), vec![48, 20, 0, 0, 0, 0, 0, 0]].concat(), mappings)
}

/// Makes node count, length and checksum right.
pub fn repair(table: &mut [u8]) {
    if table.len() < FIXED {
        return;
    }
    let (mut count, mut at) = (0u32, u32_at(table, 40) as usize);
    while at.checked_add(16).is_some_and(|end| end <= table.len()) {
        let len = usize::from(u16_at(table, at + 1));
        if len < 16 || len > table.len() - at {
            break;
        }
        (count, at) = (count + 1, at + len);
    }
    table[36..40].copy_from_slice(&count.to_le_bytes());
    reseal(table, b"IORT");
}

/// Tables as firmware writes them: of a server with two units, one with most of what there is, QEMU, and one without
/// anything.
pub fn good() -> Vec<Vec<u8>> {
    let its = node(0, 1, &words(&[2, 0, 1]), &[]);
    let (first, second) = (48 + 28, 48 + 28 + 68 + 20);
    let server = [
        its.clone(),
        unit(0x4000_0000, 1, [74, 75, 76, 77], 0, &[[0, 0xf_ffff, 0x10_0000, 48, 0]]),
        unit(0x4002_0000, 0x15, [0; 4], 1, &[[0, 0xffff, 0, 48, 0], [0, 0, 0x7777, 48, 1]]),
        complex(0, 7, &[[0, 0x3fff, 0, first, 0], [0x8000, 0xff, 0x8000, second, 0]]),
        complex(1, 0, &[[0, 0xffff, 0x1_0000, first, 0]]),
    ];
    let rich = [
        its.clone(),
        unit(0x100_0000, 5, [74, 75, 76, 77], 0, &[[0, 0xffff, 0, 48, 0]]),
        complex(0, 1, &[[0, 0x100, 0, first, 0], [0x100, 0x100, 0x100, first, 0]]),
        complex(0, 1, &[[0x400, 0xff, 0x400, first, 0], [0x500, 0xff, 0x500, 48, 0]]),
        complex(9, 0, &[[0, 0, 0x5000, first, 1]]),
        node(1, 4, &[words(&[0x29, 1, 0]), vec![40], b"\\_SB.USB0\0".to_vec()].concat(), &[[0, 0, 0x6000, first, 1]]),
        node(6, 3, &words(&[0, 1, 28, 0x9000_0000, 0, 0x2_0000, 0, 0]), &[[0, 0xf, 0x10, first, 0]]),
        node(
            6,
            3,
            &words(&[1, 2, 28, 0x9001_0000, 0, 0x1_0000, 0, 0, 0xa000_0000, 0, 0x1_0000, 0, 0]),
            &[[0, 0, 0x1f, first, 1]],
        ),
        node(3, 0, &[0; 40], &[]),
        node(5, 1, &[0; 24], &[]),
        node(7, 0, &[0; 8], &[]),
    ];
    let qemu = [
        node(0, 1, &words(&[1, 0]), &[]),
        unit(0x905_0000, 1, [0x6a, 0x6b, 0x6d, 0x6c], 0, &[[0, 0xffff, 0, 48, 0]]),
        complex(0, 0, &[[0, 0xff, 0, 72, 0], [0x100, 0xfeff, 0x100, 48, 0]]),
    ];
    let all: [&[Vec<u8>]; 4] = [&server, &rich, &qemu, &[]];
    let table = |nodes: &[Vec<u8>]| {
        let mut bytes = vec![0; FIXED];
        bytes[40] = FIXED as u8;
        bytes.extend(nodes.concat());
        repair(&mut bytes);
        bytes
    };
    all.into_iter().map(table).collect()
}

/// A table that came of a good one by a few changes.
pub fn mutated(random: &mut Random) -> Vec<u8> {
    let spans = |bytes: &[u8]| walk(bytes).unwrap_or_default().iter().map(|raw| (raw.1, raw.2.len())).collect();
    hostile::mutated(random, &good(), &Kind { spans, length_at: 1, repair })
}
