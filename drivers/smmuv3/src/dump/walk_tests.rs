//! Walks through structures made of raw words.

use super::{End, Paging, Place, Request, Streams, Walk};
use crate::capabilities::Capabilities;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Pasid, Stream, StreamId};
use iommu_pgtable::Met;

const ROOT: u64 = 0x4000_0000;
const LEVEL_2: u64 = 0x4001_0000;
const CONTEXTS: u64 = 0x4002_0000;
const LEAF: u64 = 0x4003_0000;
const TABLE: u64 = 0x4004_0000;

/// Memory of words, and one page table of one entry an address.
#[derive(Default)]
struct World {
    words: BTreeMap<u64, u64>,
    /// By address: level from the leaves, entry.
    leaves: BTreeMap<u64, (u8, u64)>,
    linear: bool,
}

impl Paging for World {
    fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool {
        let known = root.get() == TABLE;
        if known {
            let (level, entry) = self.leaves.get(&(iova.get() & !0xfff)).copied().unwrap_or((0, 0));
            met(Met { level, at: root, entry });
        }
        known
    }
}

impl World {
    /// Writes words from `at` on.
    fn put(&mut self, at: u64, words: &[u64]) {
        for index in 0..8 {
            self.words.insert(at + index as u64 * 8, words.get(index).copied().unwrap_or(0));
        }
    }

    /// The entry of stream 0x105: in the linear table, or in the level-2 table.
    fn entry(&mut self, words: &[u64]) {
        if self.linear {
            self.put(ROOT + 0x105 * 64, words);
        } else {
            self.words.insert(ROOT + 8, LEVEL_2 | 9);
            self.put(LEVEL_2 + 5 * 64, words);
        }
    }

    fn walk(&self, id: u32, pasid: Option<u32>, iova: u64) -> Walk {
        // Both stages, 44 bits of address.
        let caps = Capabilities::new([0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74], 1);
        let stream = Stream { id: StreamId::new(id), pasid: pasid.and_then(Pasid::new) };
        let streams = Streams { root: PhysAddr::new(ROOT), bits: 16, split: if self.linear { None } else { Some(8) } };
        let load = |at: PhysAddr| self.words.get(&at.get()).copied();
        Request { caps: &caps, streams, stream, iova: Iova::new(iova), load: &load, paging: self }.walk()
    }

    /// Both ends, which are the same.
    #[track_caller]
    fn end(&self, id: u32, pasid: Option<u32>, iova: u64) -> End {
        let walk = self.walk(id, pasid, iova);
        assert_eq!(walk.end(false), walk.end(true), "{walk}");
        walk.end(false)
    }
}

fn refused(event: u8) -> End {
    End::Refused { event, stage2: false }
}

fn reaches(phys: u64) -> End {
    End::Reaches(PhysAddr::new(phys))
}

/// A CD of 48 bits, 4 KiB, valid, AA64.
const CD: [u64; 2] = [16 | 1 << 31 | 1 << 41, TABLE];
const BYPASS: u64 = 1 | 4 << 1;
/// Stage 1 with the table of descriptors.
const STAGE_1: u64 = 1 | 5 << 1 | CONTEXTS;
const STAGE_2: u64 = 1 | 6 << 1;
/// S2T0SZ 20: 44 bits; AA64.
const STAGE_2_SHAPE: u64 = 20 << 32 | 1 << 51;

#[test]
fn streams_end_where_their_entry_is_not_or_says_so() {
    for linear in [true, false] {
        let mut world = World { linear, ..World::default() };
        assert_eq!(world.end(0x1_0000, None, 0), refused(0x02));
        if !linear {
            world.words.insert(ROOT + 8, 0);
            assert_eq!(world.end(0x105, None, 0), refused(0x02));
            // Span 3: four entries.
            world.words.insert(ROOT + 8, LEVEL_2 | 3);
            assert_eq!(world.end(0x105, None, 0), refused(0x02));
            world.words.insert(ROOT + 8, LEVEL_2 | 10);
            assert_eq!(world.end(0x105, None, 0), refused(0x02));
        }
        world.entry(&[0]);
        assert_eq!(world.end(0x105, None, 0), refused(0x04));
        world.entry(&[1]);
        assert_eq!(world.end(0x105, None, 0), End::Aborted);
        world.entry(&[BYPASS]);
        assert_eq!(world.end(0x105, None, 0x1234_5678), reaches(0x1234_5678));
        assert_eq!(world.end(0x105, None, 1 << 44), refused(0x11));
        assert_eq!(world.end(0x105, Some(1), 0), refused(0x08));
        let text = world.walk(0x105, None, 0x1000).to_string();
        assert!(text.contains("stream table entry") && text.contains(" V Config=0x4"), "{text}");
        let places: Vec<Place> = world.walk(0x105, None, 0).steps().iter().map(|step| step.place).collect();
        assert_eq!(places, if linear { &[Place::Stream][..] } else { &[Place::Level1Stream, Place::Stream] });
        // Memory that nobody knows.
        world.words.insert(ROOT + 8, 0x7fff_0000 | 9);
        if !linear {
            assert_eq!(world.end(0x105, None, 0), End::Unknown(PhysAddr::new(0x7fff_0000 + 5 * 64)));
        }
    }
}

#[test]
fn substreams_find_their_descriptor_or_what_refuses_them() {
    let mut world = World::default();
    world.leaves.insert(0x1000, (0, 0x5000_0000 | 3 | 1 << 10 | 1 << 6));
    // S1CDMax 0: one descriptor, no substreams.
    world.entry(&[STAGE_1]);
    world.put(CONTEXTS, &CD);
    assert_eq!(world.end(0x105, None, 0x1abc), reaches(0x5000_0abc));
    for pasid in [0, 1, 0xf_ffff] {
        assert_eq!(world.end(0x105, Some(pasid), 0x1000), refused(0x08));
    }
    world.put(CONTEXTS, &[CD[0] & !(1 << 31), TABLE]);
    assert_eq!(world.end(0x105, None, 0x1000), refused(0x0a));
    // A table of 64: S1DSS decides about requests without.
    for (default, expected, zero) in [
        (0, refused(0x06), reaches(0x5000_0000)),
        (1, reaches(0x1000), reaches(0x5000_0000)),
        (2, reaches(0x5000_0000), refused(0x06)),
    ] {
        world.entry(&[STAGE_1 | 6 << 59, default]);
        world.put(CONTEXTS, &CD);
        world.put(CONTEXTS + 5 * 64, &CD);
        assert_eq!(world.end(0x105, None, 0x1000), expected, "S1DSS {default}");
        assert_eq!(world.end(0x105, Some(0), 0x1000), zero, "S1DSS {default}");
        assert_eq!(world.end(0x105, Some(5), 0x1000), reaches(0x5000_0000));
        assert_eq!(world.end(0x105, Some(64), 0x1000), refused(0x08));
    }
    // Two levels, of 4 KiB and of 64 KiB leaves.
    for (format, leaf) in [(1, 6), (2, 10)] {
        world.entry(&[STAGE_1 | format << 4 | 20 << 59, 2]);
        world.words.insert(CONTEXTS, LEAF | 1);
        world.words.insert(CONTEXTS + 8 * 3, LEAF | 1);
        world.words.insert(CONTEXTS + 8 * 4, LEAF);
        world.put(LEAF, &CD);
        world.put(LEAF + 7 * 64, &CD);
        assert_eq!(world.end(0x105, None, 0x1000), reaches(0x5000_0000));
        assert_eq!(world.end(0x105, Some(3 << leaf | 7), 0x1000), reaches(0x5000_0000));
        assert_eq!(world.end(0x105, Some(4 << leaf | 7), 0x1000), refused(0x08));
        assert_eq!(world.walk(0x105, Some(7), 0x1000).steps().len(), 5);
    }
    // A guest's are in its own memory.
    world.entry(&[1 | 7 << 1 | 0x8000_0000, 0, STAGE_2_SHAPE, TABLE]);
    assert_eq!(world.end(0x105, None, 0x1000), End::Guest(0x8000_0000));
}

#[test]
fn stage_1_ends_by_the_bits_of_its_leaf() {
    let mut world = World::default();
    let page = 0x5000_0000 | 3 | 1 << 10 | 1 << 6;
    let leaf = |world: &mut World, level, entry, descriptor: u64| {
        world.entry(&[STAGE_1]);
        world.put(CONTEXTS, &[descriptor, TABLE]);
        world.leaves.insert(0x1000, (level, entry));
        let walk = world.walk(0x105, None, 0x1234);
        (walk.end(false), walk.end(true))
    };
    let (to, no) = (reaches(0x5000_0234), refused(0x13));
    let cases = [
        ((0, page), CD[0], (to, to)),
        ((0, page | 1 << 7), CD[0], (to, no)),
        // DBM counts with HD alone; AP[1] clear is for privileged accesses.
        ((0, page | 1 << 7 | 1 << 51), CD[0], (to, no)),
        ((0, page | 1 << 7 | 1 << 51), CD[0] | 3 << 42, (to, to)),
        ((0, page & !(1 << 6)), CD[0], (no, no)),
        // AF, which HA sets and AFFD overlooks.
        ((0, page & !(1 << 10)), CD[0], (refused(0x12), refused(0x12))),
        ((0, page & !(1 << 10)), CD[0] | 1 << 43, (to, to)),
        ((0, page & !(1 << 10)), CD[0] | 1 << 35, (to, to)),
        // No entry, a reserved one, a block.
        ((0, 0), CD[0], (refused(0x10), refused(0x10))),
        ((0, page & !2), CD[0], (refused(0x10), refused(0x10))),
        ((1, page & !2), CD[0], (reaches(0x5000_1234), reaches(0x5000_1234))),
        ((2, 0x4000_0000 | page & 0xfff & !2), CD[0], (reaches(0x4000_1234), reaches(0x4000_1234))),
        // 16 KiB and 64 KiB granules.
        ((0, page), CD[0] | 2 << 6, (reaches(0x5000_1234), reaches(0x5000_1234))),
        ((1, 0x4000_0000 | page & 0xfff & !2), CD[0] | 1 << 6, (reaches(0x4000_1234), reaches(0x4000_1234))),
        // EPD0.
        ((0, page), CD[0] | 1 << 14, (refused(0x10), refused(0x10))),
    ];
    for ((level, entry), descriptor, expected) in cases {
        assert_eq!(leaf(&mut world, level, entry, descriptor), expected, "{level} {entry:#x} {descriptor:#x}");
    }
    assert_eq!(world.end(0x105, None, 1 << 48), refused(0x10));
    assert_eq!(world.end(0x105, None, u64::MAX), refused(0x10));
    world.put(CONTEXTS, &[CD[0], TABLE + 0x1000]);
    assert_eq!(world.end(0x105, None, 0x1000), End::Unknown(PhysAddr::new(TABLE + 0x1000)));
}

#[test]
fn stage_2_ends_by_the_bits_of_its_leaf() {
    let mut world = World::default();
    let page = 0x5000_0000 | 3 | 1 << 10;
    let (to, no) = (reaches(0x5000_0234), End::Refused { event: 0x13, stage2: true });
    let flag = End::Refused { event: 0x12, stage2: true };
    for (entry, shape, expected) in [
        (page | 3 << 6, STAGE_2_SHAPE, [to, to]),
        (page | 1 << 6, STAGE_2_SHAPE, [to, no]),
        (page | 2 << 6, STAGE_2_SHAPE, [no, to]),
        (page | 1 << 6 | 1 << 51, STAGE_2_SHAPE, [to, no]),
        (page | 1 << 6 | 1 << 51, STAGE_2_SHAPE | 3 << 55, [to, to]),
        (page & !(1 << 10) | 3 << 6, STAGE_2_SHAPE, [flag, flag]),
        (page & !(1 << 10) | 3 << 6, STAGE_2_SHAPE | 1 << 56, [to, to]),
        (page & !(1 << 10) | 3 << 6, STAGE_2_SHAPE | 1 << 53, [to, to]),
    ] {
        world.entry(&[STAGE_2, 0, shape, TABLE]);
        world.leaves.insert(0x1000, (0, entry));
        let walk = world.walk(0x105, None, 0x1234);
        assert_eq!([walk.end(false), walk.end(true)], expected, "{entry:#x} {shape:#x}\n{walk}");
    }
    assert_eq!(world.end(0x105, None, 0x2000), End::Refused { event: 0x10, stage2: true });
    // Wider than what a stage 1 may put out, and than what this stage 2 takes.
    assert_eq!(world.end(0x105, None, 1 << 44), refused(0x11));
    world.entry(&[STAGE_2, 0, STAGE_2_SHAPE + (4 << 32), TABLE]);
    assert_eq!(world.end(0x105, None, 1 << 40), End::Refused { event: 0x10, stage2: true });
    assert_eq!(world.end(0x105, Some(1), 0x1000), refused(0x08));
    let text = world.walk(0x105, None, 0x1000).to_string();
    assert!(text.contains("stage 2, level 3") && text.contains("S2T0SZ=0x18"), "{text}");
}
