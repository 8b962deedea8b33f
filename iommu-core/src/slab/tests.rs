extern crate std;

use super::*;
use std::collections::BTreeMap;
use std::rc::Rc;

#[test]
fn it_agrees_with_a_map() {
    let mut slab = Slab::new();
    let mut map = BTreeMap::new();
    let mut random = 1u64;
    for turn in 0..200_000u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Grows and shrinks, down to nothing, by turns.
        let grows = if turn / 5_000 % 2 == 0 { 5 } else { 2 };
        let at = (random >> 40) as u32 % (map.len() as u32 + 2);
        if (random >> 33) % 8 < grows {
            let at = slab.insert(turn).unwrap();
            assert_eq!(map.insert(at, turn), None, "the number {at} was taken");
        } else {
            assert_eq!(slab.remove(at), map.remove(&at));
        }
        let at = (random >> 20) as u32 % (map.len() as u32 + 2);
        assert_eq!(slab.get(at), map.get(&at));
        assert_eq!(slab.get_mut(at), map.get_mut(&at));
        assert_eq!((slab.len(), slab.is_empty()), (map.len(), map.is_empty()));
        if map.is_empty() {
            assert_eq!(slab.bytes(), 0);
        }
        if turn % 1_000 == 0 {
            assert!(slab.iter().eq(map.iter().map(|(at, value)| (*at, value))));
        }
    }
    for at in [u32::MAX - 8, u32::MAX - 7, u32::MAX - 1, u32::MAX] {
        assert_eq!(slab.get(at), None);
        assert_eq!(slab.get_mut(at), None);
        assert_eq!(slab.remove(at), None);
    }
}

#[test]
fn values_are_dropped_once() {
    let value = Rc::new(());
    let mut slab = Slab::new();
    let numbers: [u32; 20] = core::array::from_fn(|_| slab.insert(value.clone()).unwrap());
    assert_eq!(Rc::strong_count(&value), 21);
    for at in &numbers[3..7] {
        assert!(slab.remove(*at).is_some());
        assert!(slab.remove(*at).is_none());
    }
    assert_eq!(Rc::strong_count(&value), 17);
    drop(slab);
    assert_eq!(Rc::strong_count(&value), 1);
}

#[test]
fn numbers_are_used_again_before_memory_is_taken() {
    let mut slab = Slab::new();
    for value in 0..1000 {
        assert_eq!(slab.insert(value), Ok(value));
    }
    let bytes = slab.bytes();
    for value in (0..1000).step_by(2) {
        assert_eq!(slab.remove(value), Some(value));
    }
    slab.reserve(500).unwrap();
    for value in 0..500 {
        assert!(slab.insert(value).unwrap() < 1000);
    }
    assert_eq!(slab.bytes(), bytes);
    slab.reserve(1).unwrap();
    assert!(slab.bytes() >= bytes);
    assert_eq!(slab.reserve(usize::MAX), Err(OutOfMemory));
    assert_eq!(slab.len(), 1000);
    (0..1000).for_each(|at| assert!(slab.remove(at).is_some()));
    assert_eq!((slab.len(), slab.bytes()), (0, 0), "an empty slab holds nothing");
}
