//! The tree of ranges and the slab: each insert and each reserve with the Nth allocation failing, until it succeeds.

use crate::heap::{failing, live, without};
use iommu_core::slab::Slab;
use iommu_core::tree::{InsertError, Tree};

const RANGES: u64 = 3_000;

/// Does it until it no longer fails. Meanwhile the bytes in use stay as they were.
fn until_it_succeeds<T>(mut does: impl FnMut() -> Option<T>, bytes: impl Fn() -> usize) -> (T, usize) {
    for n in 0.. {
        let (before, held) = (live(), bytes());
        let (done, failed) = failing(n, true, &mut does);
        if let Some(done) = done {
            assert_eq!(failed, 0, "an allocation failed, and nobody noticed");
            return (done, n);
        }
        assert_eq!((failed, live(), bytes()), (1, before, held), "memory stays taken after failure {n}");
    }
    unreachable!("there are not as many allocations")
}

#[test]
fn a_tree_that_cannot_grow_is_as_before() {
    let empty = live();
    let tree = std::cell::RefCell::new(Tree::new());
    let bytes = || tree.borrow().bytes();
    let mut starts: Vec<u64> = (0..RANGES).map(|number| number * 0x3000).collect();
    // In no order, but for a run at the end.
    for at in (1..starts.len() / 2).rev() {
        starts.swap(at, at * 2_654_435_761 % (at + 1));
    }
    // The list is not the tree's.
    let before = live();
    let mut failures = 0;
    for (number, start) in starts.iter().enumerate() {
        let insert = || match tree.borrow_mut().insert(*start, start + 0xfff, number) {
            Ok(()) => Some(()),
            Err(InsertError::OutOfMemory) => None,
            Err(overlap) => panic!("{overlap:?}"),
        };
        failures += until_it_succeeds(insert, bytes).1;
        assert_eq!(tree.borrow().len(), number + 1);
        assert_eq!(live() - before, bytes() as isize, "it says what it holds");
    }
    assert!(failures > 20, "{failures} allocations failed");
    let mut sorted: Vec<_> = starts.iter().enumerate().map(|(number, start)| (*start, start + 0xfff, number)).collect();
    sorted.sort_unstable();
    assert!(tree.borrow().iter().eq(sorted));
    until_it_succeeds(|| tree.borrow_mut().reserve(2_000).ok(), bytes);
    without(|| {
        for number in 0..2_000 {
            let start = number * 0x3000 + 0x1000;
            tree.borrow_mut().insert(start, start + 0xfff, 0).expect("reserved");
        }
        for start in tree.borrow().iter().map(|(start, ..)| start).step_by(2) {
            assert!(tree.borrow().first_overlap(start, start).is_some());
        }
    });
    let all: Vec<u64> = tree.borrow().iter().map(|(start, ..)| start).collect();
    without(|| all.iter().for_each(|start| assert!(tree.borrow_mut().remove(*start).is_some())));
    assert_eq!(bytes(), 0);
    drop((starts, all));
    assert_eq!(live(), empty);
}

#[test]
fn a_slab_that_cannot_grow_is_as_before() {
    let empty = live();
    let slab = std::cell::RefCell::new(Slab::new());
    let bytes = || slab.borrow().bytes();
    let mut failures = 0;
    for value in 0..RANGES {
        let (at, failed) = until_it_succeeds(|| slab.borrow_mut().insert(value).ok(), bytes);
        assert_eq!(u64::from(at), value);
        failures += failed;
        assert_eq!(live() - empty, bytes() as isize, "it says what it holds");
    }
    assert!(failures > 20, "{failures} allocations failed");
    until_it_succeeds(|| slab.borrow_mut().reserve(5_000).ok(), bytes);
    without(|| (0..5_000).for_each(|value| assert!(slab.borrow_mut().insert(value).is_ok())));
    without(|| (0..RANGES as u32 + 5_000).for_each(|at| assert!(slab.borrow_mut().remove(at).is_some())));
    assert_eq!((slab.borrow().len(), bytes(), live()), (0, 0, empty));
}
