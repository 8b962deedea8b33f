//! Sizes of leaves, and what they are to be.

use super::{Op, Rig};
use crate::common::raw::Leaf;
use crate::common::unit::Flushed;
use crate::common::{Kind, Unit, iova};
use iommu_core::hw::{Prot, Transition};
use iommu_hal::WalkerMemory;
use iommu_pgtable::Format;

/// Whether leaves may change their size while hardware uses them.
pub fn live<K: Kind>() -> bool {
    K::F::resizes_live(K::options())
}

/// What one entry of a leaf or group maps, as a level that counts from 0.
pub fn level<K: Kind>(leaf: &Leaf) -> u8 {
    let one = leaf.size / leaf.group;
    (1..=K::RAW.levels).find(|level| K::RAW.entry_size(*level) == one).unwrap() as u8 - 1
}

/// The sizes of leaves that a test has the time for: up to some 1 GiB.
pub fn sizes<K: Kind>() -> Vec<u64> {
    K::sizes().into_iter().filter(|size| *size <= 1 << 30 && *size <= K::TOP / 8).collect()
}

pub fn sizes_of(leaves: &[Leaf]) -> Vec<(u64, u64)> {
    leaves.iter().map(|leaf| (leaf.iova, leaf.size)).collect()
}

pub fn told<K: Kind>(asked: &[Flushed]) -> Transition {
    if live::<K>() || asked.is_empty() { Transition::Hitless } else { Transition::ThroughBlocked }
}

/// Leaf sizes, and those into which they are cut, with the time for each table in mind.
pub fn pairs<K: Kind>(most: u64) -> Vec<(u64, u64)> {
    let all = sizes::<K>();
    let below = |size: u64| all.iter().copied().filter(move |largest| *largest < size && size / largest <= most);
    all.iter().flat_map(|size| below(*size).map(|largest| (*size, largest))).collect()
}

/// A rig with one leaf.
pub fn one<K: Kind>(how: WalkerMemory, size: u64) -> (Rig<K>, u64) {
    let mut rig = Rig::<K>::new(how);
    let at = 3 * size;
    rig.map(at, size, Prot::READ_WRITE);
    assert_eq!(sizes_of(&rig.leaves()), [(at, size)]);
    (rig, at)
}

/// What is left of an operation that a unit ended: leaves that map what they did, each as before or as after.
pub fn check_half_done<K: Kind>(rig: &mut Rig<K>, op: Op, before: &[Leaf], written: &[u64]) {
    let half = rig.leaves();
    let dirty = if K::RAW.tracked { rig.dirty() } else { Vec::new() };
    for at in written.iter().filter(|_| K::RAW.tracked) {
        assert!(dirty.iter().any(|range| range.contains(iova(*at))), "{at:#x}");
    }
    rig.run(op, &mut Unit::default()).unwrap();
    let after = rig.leaves();
    let at = |all: &[Leaf], leaf: &Leaf| {
        let holds = |one: &&Leaf| one.iova <= leaf.iova && leaf.iova < one.iova + one.size;
        all.iter().find(holds).unwrap().size
    };
    for leaf in &half {
        let (old, new) = (at(before, leaf), at(&after, leaf));
        // A cut goes all the way at once, a merge by steps.
        let step = matches!(op, Op::Merge(_)) && (old..=new).contains(&leaf.size);
        assert!(step || leaf.size == old || leaf.size == new, "{leaf:x?}");
    }
}
