extern crate std;

use super::*;
use crate::tree::shape::Shape;
use std::collections::BTreeMap;
use std::vec::Vec;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// What a tree must agree with: slow and plain.
#[derive(Default)]
struct Oracle(BTreeMap<u64, (u64, u32)>);

impl Oracle {
    fn overlapping(&self, start: u64, last: u64) -> impl DoubleEndedIterator<Item = (u64, u64, u32)> + '_ {
        let from = self.0.range(..=start).next_back().map_or(start, |(before, _)| *before);
        let all = if start <= last { Some(self.0.range(from..=last)) } else { None };
        let all = all.into_iter().flatten().filter(move |(_, (end, _))| *end >= start);
        all.map(|(start, (last, value))| (*start, *last, *value))
    }

    fn first_gap(&self, start: u64, last: u64, len: u64, align: u64) -> Option<u64> {
        let mut from = u128::from(start);
        loop {
            let at = from.next_multiple_of(align.into());
            let end = at + u128::from(len) - 1;
            if end > u128::from(last) {
                return None;
            }
            match self.overlapping(at as u64, end as u64).next_back() {
                None => return Some(at as u64),
                Some((_, taken, _)) => from = u128::from(taken) + 1,
            }
        }
    }
}

/// Addresses are few, so that everything collides, and lie around 0, in the middle or up to the largest.
fn compare<const L: usize, const I: usize>(seed: u64, turns: u32, space: u64, longest: u64) {
    let mut random = Random(seed);
    let mut tree = Shape::<u32, L, I>::new();
    let mut oracle = Oracle::default();
    let base = [0, 1 << 40, u64::MAX - (space - 1)][seed as usize % 3];
    for turn in 0..turns {
        // Fills up and empties by turns, in four moods: random, rising, falling, and out of the middle.
        let phase = turn / 4096;
        let grows = [6, 3, 1][phase as usize % 3];
        let spot = match phase % 4 {
            0 => random.below(space),
            1 => u64::from(turn) * 2 % space,
            2 => space - 1 - u64::from(turn) * 2 % space,
            _ => space / 2 + random.below(space / 16),
        };
        let start = base + spot;
        let last = start.saturating_add(random.below(longest)).min(base + (space - 1));
        if random.below(8) < grows {
            let overlap = oracle.overlapping(start, last).next();
            let expected = match overlap {
                Some((start, last, value)) => Err(InsertError::Overlap { start, last, value }),
                None => {
                    oracle.0.insert(start, (last, turn));
                    Ok(())
                }
            };
            assert_eq!(tree.insert(start, last, turn), expected, "{turn}");
        } else {
            // What is there, mostly.
            let key = match oracle.overlapping(start, u64::MAX).next() {
                Some((start, ..)) if turn % 8 != 0 => start,
                _ => start,
            };
            assert_eq!(tree.remove(key), oracle.0.remove(&key), "{turn}");
        }
        let (one, other) = (base + random.below(space), base + random.below(space));
        assert_eq!(tree.first_overlap(one, other), oracle.overlapping(one, other).next());
        assert_eq!(tree.last_overlap(one, other), oracle.overlapping(one, other).next_back());
        let (len, align) = (1 + random.below(4 * longest), 1 << random.below(6));
        for (from, to) in [(one, other), (0, u64::MAX), (base, other), (one, u64::MAX)] {
            assert_eq!(
                tree.first_gap(from, to, len, align),
                oracle.first_gap(from, to, len, align),
                "{from} {to} {len}"
            );
        }
        let old = oracle.0.get_mut(&one).map(|(_, value)| core::mem::replace(value, turn));
        assert_eq!(tree.replace(one, turn), old);
        assert_eq!(tree.len(), oracle.0.len());
        if oracle.0.is_empty() {
            assert_eq!(tree.bytes(), 0, "an empty tree holds nothing");
        }
        if turn % 64 == 0 || turn < 2000 {
            tree.check();
            assert!(tree.overlapping(0, u64::MAX).eq(oracle.overlapping(0, u64::MAX)));
            assert!(tree.overlapping(one, other).eq(oracle.overlapping(one, other)));
        }
    }
    let keys: Vec<u64> = oracle.0.keys().copied().collect();
    for key in keys {
        assert!(tree.remove(key).is_some());
        tree.check();
    }
    assert_eq!((tree.len(), tree.bytes()), (0, 0));
}

#[test]
fn small_nodes_agree_with_a_map() {
    for seed in 1..=3 {
        compare::<3, 4>(seed, 30_000, 1 << 10, 3);
        compare::<7, 8>(seed + 3, 30_000, 1 << 12, 4);
    }
}

#[test]
fn nodes_of_the_real_size_agree_with_a_map() {
    for seed in 1..=3 {
        compare::<LEAF, INNER>(seed, 40_000, 1 << 13, 2);
        compare::<LEAF, INNER>(seed + 3, 20_000, 1 << 12, 40);
    }
}

#[test]
fn ranges_reach_from_end_to_end() {
    let mut tree = Tree::new();
    tree.insert(0, u64::MAX, 1).unwrap();
    let all = InsertError::Overlap { start: 0, last: u64::MAX, value: 1 };
    assert_eq!(tree.insert(u64::MAX, u64::MAX, 2), Err(all));
    assert_eq!(tree.first_gap(0, u64::MAX, 1, 1), None);
    assert_eq!(tree.remove(0), Some((u64::MAX, 1)));
    assert_eq!(tree.first_gap(0, u64::MAX, u64::MAX, 1), Some(0));

    tree.insert(u64::MAX, u64::MAX, 2).unwrap();
    tree.insert(0, 0, 3).unwrap();
    assert_eq!(tree.first_gap(0, u64::MAX, u64::MAX - 1, 1), Some(1));
    assert_eq!(tree.first_gap(0, u64::MAX, u64::MAX, 1), None);
    assert_eq!(tree.first_gap(0, u64::MAX, 1, 1 << 63), Some(1 << 63));
    assert_eq!(tree.first_gap(0, u64::MAX, 1 << 63, 1 << 63), None);
    assert_eq!(tree.first_gap(0, u64::MAX, 0, 1), None);
    assert_eq!(tree.first_gap(0, u64::MAX, 1, 3), None);
    assert_eq!(tree.first_gap(5, 4, 1, 1), None);
    assert_eq!(tree.first_overlap(u64::MAX, u64::MAX), Some((u64::MAX, u64::MAX, 2)));
    assert_eq!(tree.last_overlap(0, u64::MAX - 1), Some((0, 0, 3)));
    assert_eq!(tree.first_overlap(1, u64::MAX - 1), None);
    assert!(tree.iter().eq([(0, 0, 3), (u64::MAX, u64::MAX, 2)]));
    assert_eq!(tree.overlapping(u64::MAX, 0).next(), None);
    tree.clear();
    assert_eq!((tree.len(), tree.bytes(), tree.iter().next()), (0, 0, None));
}

/// Bytes for each of `count` ranges, that come in the order of `place`.
fn bytes_each(count: u64, place: impl Fn(u64) -> u64) -> usize {
    let mut tree = Tree::new();
    for number in 0..count {
        let start = place(number) << 13;
        tree.insert(start, start + 0xfff, number as u32).unwrap();
    }
    tree.0.check();
    tree.bytes() / count as usize
}

#[test]
fn runs_of_addresses_leave_full_nodes() {
    const COUNT: u64 = 50_000;
    let (rising, falling) = (bytes_each(COUNT, |number| number), bytes_each(COUNT, |number| COUNT - number));
    // Two runs at once, so that the end of one is not the end of the tree.
    let two = bytes_each(COUNT, |number| number / 2 + number % 2 * COUNT);
    // Each place once.
    let random = bytes_each(1 << 16, |number| number * 40_503 % (1 << 16));
    std::println!("bytes a range: rising {rising}, falling {falling}, two runs {two}, random {random}");
    assert!(rising <= 30 && falling <= 30 && two <= 40 && random <= 44);
}

#[test]
fn a_reserve_is_enough() {
    let mut random = Random(7);
    for count in [1, 2, 3, 10, 100, 3_000] {
        for before in [0u64, 1, 15, 16, 200, 480, 481, 5_000] {
            let mut tree = Shape::<u32, 3, 4>::new();
            let mut real = Tree::new();
            for number in 0..before {
                tree.insert(number << 32, number << 32, 0).unwrap();
                real.insert(number << 32, number << 32, 0).unwrap();
            }
            tree.reserve(count).unwrap();
            real.reserve(count).unwrap();
            let (bytes, real_bytes) = (tree.bytes(), real.bytes());
            for number in 0..count as u64 {
                let at =
                    [random.below((before + 1) << 32), (before << 32) + number, (number << 32) | (1 << 20) | number];
                let at = at[count % 3];
                let _ = tree.insert(at, at, 1);
                let _ = real.insert(at, at, 1);
                // Others come and go meanwhile.
                if number % 2 == 0 && tree.len() > 1 {
                    let (start, ..) = tree.last_overlap(0, at).unwrap();
                    tree.remove(start);
                    real.remove(start);
                }
            }
            tree.check();
            real.0.check();
            assert_eq!((tree.bytes(), real.bytes()), (bytes, real_bytes), "{count} among {before}");
        }
    }
}

#[test]
fn a_reserve_that_fails_changes_nothing() {
    let mut tree = Tree::new();
    assert_eq!(tree.reserve(usize::MAX), Err(OutOfMemory));
    assert_eq!(tree.bytes(), 0);
    for number in 0..1_000 {
        tree.insert(number * 2, number * 2, number as u32).unwrap();
    }
    let bytes = tree.bytes();
    assert_eq!(tree.reserve(usize::MAX), Err(OutOfMemory));
    assert_eq!(tree.reserve(usize::MAX / 2), Err(OutOfMemory));
    tree.0.check();
    assert_eq!((tree.len(), tree.bytes()), (1_000, bytes));
}
