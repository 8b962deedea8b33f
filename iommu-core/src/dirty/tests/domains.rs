//! Reads against what was written.

use super::fake::Fake;
use super::*;
use crate::hw::{HwError, Stage, Unit, Wait};
use crate::hwpt::HwptConfig;
use crate::ioas::{Ioas, IoasConfig, Placement};
use alloc::sync::Arc;
use std::collections::BTreeSet;

/// Small pages of 2 KiB and large ones of 1 MiB, as the reference's own tests have them.
const SMALL: u64 = 2048;
const LARGE: u64 = 512 * SMALL;
const BASE: u64 = 16 << 20;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn fake() -> Fake {
    Fake::new(range(BASE, (2 << 30) - BASE), SMALL, LARGE)
}

fn started(fake: &Fake) -> Tracking {
    let tracking = Tracking::new();
    tracking.set(fake, true).unwrap();
    tracking
}

/// Pages of `page` bytes that a read of `range` finds dirty.
fn read(tracking: &Tracking, fake: &Fake, range: IovaRange, page: u64, how: DirtyRead) -> Result<Vec<u64>, Error> {
    let (found, result) = read_both(tracking, fake, range, page, how);
    result.map(|()| found)
}

fn read_both(
    tracking: &Tracking,
    fake: &Fake,
    range: IovaRange,
    page: u64,
    how: DirtyRead,
) -> (Vec<u64>, Result<(), Error>) {
    let pages = (range.last().get() - range.start().get()) / page + 1;
    let mut bytes = std::vec![0; (pages as usize).div_ceil(8) + 1];
    let mut bitmap = DirtyBitmap::new(&mut bytes, range.start(), page).unwrap();
    let result = tracking.read(fake, SMALL, range, how, &mut bitmap);
    let found = (0..pages + 8).filter(|it| bytes[(it / 8) as usize] >> (it % 8) & 1 != 0);
    (found.map(|it| range.start().get() + it * page).collect(), result)
}

#[test]
fn sizes_pages_and_offsets() {
    for (large, len) in [8 * KIB, 32 * KIB, 128 * KIB, MIB, 2 * MIB, 8 * MIB, 64 * MIB, 128 * MIB]
        .into_iter()
        .flat_map(|len| [(SMALL * 2, len), (LARGE, len)])
    {
        let fake = Fake::new(range(BASE, 2 << 30), SMALL, large);
        fake.fill(range(BASE, len));
        let tracking = started(&fake);
        let leaf = if len < large { SMALL } else { large };
        // One byte in every fifth leaf or so.
        let mut dice = Dice(len);
        let written: BTreeSet<u64> = (0..(len / leaf).min(4000)).step_by(5).map(|_| BASE + dice.next() % len).collect();
        for iova in &written {
            fake.write(*iova);
        }
        for page in [SMALL, SMALL * 2, 64 * KIB, MIB].into_iter().filter(|page| *page <= len) {
            let expected: BTreeSet<u64> = if page <= leaf {
                let leaves = written.iter().map(|it| it / leaf * leaf);
                leaves.flat_map(|start| (0..leaf / page).map(move |it| start + it * page)).collect()
            } else {
                written.iter().map(|it| it / page * page).collect()
            };
            let found = read(&tracking, &fake, range(BASE, len), page, DirtyRead::Peek).unwrap();
            assert_eq!(found, Vec::from_iter(expected), "{len:#x} in {page:#x}");
        }
        assert!(!read(&tracking, &fake, range(BASE, len), SMALL, DirtyRead::Clear).unwrap().is_empty());
        assert!(read(&tracking, &fake, range(BASE, len), SMALL, DirtyRead::Clear).unwrap().is_empty());
    }
}

#[test]
fn pages_of_the_bitmap_may_be_smaller_than_the_domains() {
    let fake = fake();
    fake.fill(range(BASE, 4 * SMALL));
    let tracking = started(&fake);
    fake.write(BASE + SMALL + 5);
    for page in [64, 256, SMALL] {
        let expected: Vec<u64> = (0..SMALL / page).map(|it| BASE + SMALL + it * page).collect();
        assert_eq!(read(&tracking, &fake, range(BASE, 4 * SMALL), page, DirtyRead::Peek), Ok(expected), "{page}");
    }
}

#[test]
fn a_range_is_aligned_to_both() {
    let fake = fake();
    fake.fill(range(BASE, MIB / 2));
    let tracking = started(&fake);
    let mut bytes = [0; 64];
    for (start, len, page, value, align) in [
        (BASE + 1024, SMALL, 1024, BASE + 1024, SMALL),
        (BASE, 1024, 1024, BASE + 1024, SMALL),
        (BASE + SMALL, 2 * SMALL, 4096, BASE + SMALL, 4096),
        (BASE, SMALL, 4096, BASE + SMALL, 4096),
    ] {
        let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(BASE), page).unwrap();
        let result = tracking.read(&fake, SMALL, range(start, len), DirtyRead::Clear, &mut bitmap);
        assert_eq!(result, Err(Error::Misaligned { value, align }));
    }
    assert_eq!(fake.hardware().reads, 0);
}

#[test]
fn peeking_leaves_and_clearing_clears_what_it_found() {
    let fake = fake();
    fake.fill(range(BASE, 8 * SMALL));
    let tracking = started(&fake);
    let all = range(BASE, 8 * SMALL);
    fake.write(BASE);
    fake.write(BASE + 5 * SMALL);
    for _ in 0..2 {
        assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Peek), Ok(Vec::from([BASE, BASE + 5 * SMALL])));
    }
    // A part of it.
    assert_eq!(read(&tracking, &fake, range(BASE, 4 * SMALL), SMALL, DirtyRead::Clear), Ok(Vec::from([BASE])));
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::from([BASE + 5 * SMALL])));
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::new()));
    // It was flushed: the next write is found.
    fake.write(BASE + 5 * SMALL);
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::from([BASE + 5 * SMALL])));
}

#[test]
fn bits_that_are_set_stay() {
    let fake = fake();
    fake.fill(range(BASE, 16 * SMALL));
    let tracking = started(&fake);
    fake.write(BASE + 9 * SMALL);
    let mut bytes = [0x81, 0x01, 0xff];
    let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(BASE), SMALL).unwrap();
    tracking.read(&fake, SMALL, range(BASE, 16 * SMALL), DirtyRead::Clear, &mut bitmap).unwrap();
    assert_eq!(bytes, [0x81, 0x03, 0xff]);
}

#[test]
fn gaps_and_what_no_domain_reaches_are_clean() {
    let fake = fake();
    for at in [0, 4, 9] {
        fake.fill(range(BASE + at * SMALL, SMALL));
    }
    let tracking = started(&fake);
    for at in [0, 4, 9] {
        fake.write(BASE + at * SMALL);
    }
    let all = range(0, 32 << 20);
    let expected = [0, 4, 9].map(|at| BASE + at * SMALL);
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::from(expected)));
    assert_eq!(read(&tracking, &fake, range(0, BASE), SMALL, DirtyRead::Clear), Ok(Vec::new()));
    let mut bytes = [0; 8];
    let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(0), 1 << 32).unwrap();
    tracking.read(&fake, SMALL, IovaRange::FULL, DirtyRead::Clear, &mut bitmap).unwrap();
    assert_eq!(bytes, [0; 8]);
    // Nothing is mapped at all.
    let empty = self::fake();
    assert_eq!(read(&started(&empty), &empty, all, SMALL, DirtyRead::Clear), Ok(Vec::new()));
}

#[test]
fn a_large_leaf_is_dirty_as_a_whole_and_nothing_of_it_is_forgotten() {
    let fake = fake();
    fake.fill(range(BASE, 3 * LARGE));
    let tracking = started(&fake);
    fake.write(BASE + LARGE + 12345);
    let pages = |start: u64, len: u64| Ok((start..start + len).step_by(SMALL as usize).collect::<Vec<_>>());
    let middle = BASE + LARGE;
    // Ranges that cut it: inside, at its end, at its start, around its start, around its end.
    for (start, len, from, found) in [
        (middle + 4 * SMALL, 8 * SMALL, middle + 4 * SMALL, 8 * SMALL),
        (middle + LARGE - SMALL, SMALL, middle + LARGE - SMALL, SMALL),
        (middle, SMALL, middle, SMALL),
        (BASE, LARGE + SMALL, middle, SMALL),
        (middle + LARGE - SMALL, LARGE + SMALL, middle + LARGE - SMALL, SMALL),
    ] {
        for _ in 0..2 {
            let dirty = read(&tracking, &fake, range(start, len), SMALL, DirtyRead::Clear);
            assert_eq!(dirty, pages(from, found), "{start:#x} {len:#x}");
        }
        // Nothing of it outside of the range, where the bitmap reaches further.
        let mut bytes = [0; 3 * 64];
        let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(BASE), SMALL).unwrap();
        tracking.read(&fake, SMALL, range(start, len), DirtyRead::Clear, &mut bitmap).unwrap();
        let bits = (0..bytes.len() as u64 * 8).filter(|it| bytes[(it / 8) as usize] >> (it % 8) & 1 != 0);
        assert_eq!(Ok(bits.map(|it| BASE + it * SMALL).collect()), pages(from, found), "{start:#x} {len:#x}");
    }
    // Whole, between two that are cut.
    fake.write(BASE + 7);
    fake.write(BASE + 3 * LARGE - 7);
    let cut = range(BASE + SMALL, 3 * LARGE - 2 * SMALL);
    assert_eq!(read(&tracking, &fake, cut, SMALL, DirtyRead::Clear), pages(BASE + SMALL, 3 * LARGE - 2 * SMALL));
    let all = range(BASE, 3 * LARGE);
    let mut expected = pages(BASE, LARGE).unwrap();
    expected.extend(pages(BASE + 2 * LARGE, LARGE).unwrap());
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(expected));
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::new()));
}

#[test]
fn the_top_of_the_address_space() {
    let top = u64::MAX - (8 * LARGE - 1);
    let aperture = IovaRange::new(Iova::new(top), Iova::new(u64::MAX)).unwrap();
    let fake = Fake::new(aperture, SMALL, LARGE);
    fake.fill(range(u64::MAX - (LARGE + 4 * SMALL - 1), LARGE + 4 * SMALL));
    let tracking = started(&fake);
    fake.write(u64::MAX);
    fake.write(u64::MAX - LARGE);
    let found = read(&tracking, &fake, aperture, LARGE, DirtyRead::Clear).unwrap();
    assert_eq!(found, [u64::MAX - (2 * LARGE - 1), u64::MAX - (LARGE - 1)]);
    assert_eq!(read(&tracking, &fake, aperture, LARGE, DirtyRead::Clear), Ok(Vec::new()));
    fake.write(u64::MAX);
    // In the last leaf of all, which reaches out below.
    let last = range(u64::MAX - (SMALL - 1), SMALL);
    for _ in 0..2 {
        assert_eq!(read(&tracking, &fake, last, SMALL, DirtyRead::Clear), Ok(Vec::from([last.start().get()])));
    }
}

#[test]
fn starting_is_a_clean_point() {
    let fake = fake();
    let all = range(BASE, 8 * SMALL);
    fake.fill(all);
    let tracking = Tracking::new();
    let before = read(&tracking, &fake, all, SMALL, DirtyRead::Peek);
    assert!(matches!(before, Err(Error::Invalid(_))));
    // Hardware that notes writes all the time.
    fake.hardware().always = true;
    fake.write(BASE);
    tracking.set(&fake, true).unwrap();
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::new()));
    // The stale entry was flushed, too.
    fake.write(BASE);
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Peek), Ok(Vec::from([BASE])));
    // Started once more: clean again.
    tracking.set(&fake, true).unwrap();
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::new()));
    fake.write(BASE);
    tracking.set(&fake, false).unwrap();
    assert!(!fake.hardware().tracking);
    assert!(matches!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Err(Error::Invalid(_))));
    tracking.set(&fake, false).unwrap();
    tracking.set(&fake, true).unwrap();
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::new()));
}

#[test]
fn a_start_that_fails_starts_nothing_and_the_next_is_whole() {
    let fake = fake();
    let all = range(BASE, 8 * SMALL);
    fake.fill(all);
    fake.hardware().always = true;
    fake.write(BASE);
    let tracking = Tracking::new();
    fake.hardware().flush_fails = true;
    assert_eq!(tracking.set(&fake, true), Err(HwError::TimedOut(Wait::Completion).into()));
    assert!(matches!(read(&tracking, &fake, all, SMALL, DirtyRead::Peek), Err(Error::Invalid(_))));
    assert!(!fake.hardware().tracking);
    fake.hardware().flush_fails = false;
    fake.hardware().switch_fails = true;
    assert!(tracking.set(&fake, true).is_err());
    assert!(matches!(read(&tracking, &fake, all, SMALL, DirtyRead::Peek), Err(Error::Invalid(_))));
    // What the first one cleared, and hardware did not confirm, is flushed now, though it is clean by now.
    fake.write(BASE + SMALL);
    fake.hardware().flush_fails = true;
    fake.hardware().switch_fails = false;
    assert!(tracking.set(&fake, true).is_err());
    fake.hardware().flush_fails = false;
    tracking.set(&fake, true).unwrap();
    fake.write(BASE + SMALL);
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::from([BASE + SMALL])));
}

#[test]
fn nothing_is_forgotten_where_a_flush_fails() {
    let fake = fake();
    let all = range(BASE, 8 * SMALL);
    fake.fill(range(BASE, 4 * SMALL));
    let tracking = started(&fake);
    let everything: Vec<u64> = (0..8).map(|at| BASE + at * SMALL).collect();
    fake.write(BASE + SMALL);
    fake.hardware().flush_fails = true;
    let (found, result) = read_both(&tracking, &fake, all, SMALL, DirtyRead::Clear);
    assert_eq!((found, result), (Vec::from([BASE + SMALL]), Err(HwError::TimedOut(Wait::Completion).into())));
    // Hardware does not note this one. Whatever works from now on, reads do not call it clean.
    fake.write(BASE + SMALL);
    for how in [DirtyRead::Clear, DirtyRead::Peek, DirtyRead::Clear] {
        assert_eq!(read(&tracking, &fake, all, SMALL, how), Ok(everything.clone()));
        fake.hardware().flush_fails = false;
    }
    tracking.set(&fake, true).unwrap();
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::new()));
    fake.write(BASE + SMALL);
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::from([BASE + SMALL])));
}

#[test]
fn what_a_restart_or_stop_that_failed_has_lost_counts_as_dirty() {
    for on in [true, false] {
        let fake = fake();
        let all = range(BASE, 2 * SMALL);
        fake.fill(all);
        let tracking = started(&fake);
        fake.write(BASE);
        fake.hardware().switch_fails = true;
        assert!(tracking.set(&fake, on).is_err());
        fake.hardware().switch_fails = false;
        let found = read(&tracking, &fake, all, SMALL, DirtyRead::Peek);
        assert_eq!(found, Ok(Vec::from([BASE, BASE + SMALL])), "{on}");
    }
}

#[test]
fn a_read_that_ends_early_has_set_the_bits_of_what_it_cleared() {
    let fake = fake();
    let all = range(BASE, 8 * SMALL);
    fake.fill(all);
    let tracking = started(&fake);
    for at in [1, 3, 6] {
        fake.write(BASE + at * SMALL);
    }
    fake.hardware().clear_fails_after = Some(2);
    let (found, result) = read_both(&tracking, &fake, all, SMALL, DirtyRead::Clear);
    assert_eq!(found, [BASE + SMALL, BASE + 3 * SMALL]);
    assert!(matches!(result, Err(Error::Hardware(_))));
    fake.hardware().clear_fails_after = None;
    // Those were flushed; the one left is still there.
    fake.write(BASE + SMALL);
    let found = read(&tracking, &fake, all, SMALL, DirtyRead::Clear);
    assert_eq!(found, Ok(Vec::from([BASE + SMALL, BASE + 6 * SMALL])));
}

#[test]
fn somebody_else_who_changes_it_is_not_waited_for() {
    let fake = fake();
    let tracking = Tracking::new();
    tracking.state.store(CHANGING, Ordering::Relaxed);
    assert_eq!(tracking.set(&fake, true), Err(Error::Busy));
    assert_eq!(read(&tracking, &fake, range(BASE, SMALL), SMALL, DirtyRead::Peek), Err(Error::Busy));
}

#[test]
fn what_has_no_bit_is_not_forgotten() {
    let fake = fake();
    fake.fill(range(BASE, LARGE));
    fake.fill(range(BASE + LARGE, 16 * SMALL));
    let tracking = started(&fake);
    let all = range(BASE, LARGE + 16 * SMALL);
    let small = BASE + LARGE;
    let written = [BASE + 3 * SMALL, small + SMALL, small + 8 * SMALL, small + 9 * SMALL, small + 15 * SMALL];
    // Eight bits, from the second small page on: they stand for eight or for four of them.
    let first = small + SMALL;
    for (page, last) in [(SMALL, small + 8 * SMALL), (SMALL / 2, small + 4 * SMALL)] {
        written.iter().for_each(|at| fake.write(*at));
        let mut bytes = [0; 1];
        let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(first), page).unwrap();
        tracking.read(&fake, SMALL, all, DirtyRead::Clear, &mut bitmap).unwrap();
        assert_eq!(bytes, [if page == SMALL { 0x81 } else { 0x03 }]);
        let mut expected: Vec<u64> = (BASE..small).step_by(SMALL as usize).collect();
        expected.extend(written[1..].iter().filter(|at| !(first..=last).contains(*at)));
        assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(expected), "{page}");
    }
    // No bits at all, and one that stands for half a page: nothing is cleared.
    fake.write(small);
    for (base, page) in [(small, SMALL), (small + SMALL / 2, SMALL / 16)] {
        let mut bytes = [0; 1];
        let bytes = if page == SMALL { &mut bytes[..0] } else { &mut bytes[..] };
        let mut bitmap = DirtyBitmap::new(bytes, Iova::new(base), page).unwrap();
        tracking.read(&fake, SMALL, all, DirtyRead::Clear, &mut bitmap).unwrap();
        assert_eq!(bitmap.is_dirty(Iova::new(base)), page != SMALL);
    }
    assert_eq!(read(&tracking, &fake, all, SMALL, DirtyRead::Clear), Ok(Vec::from([small])));
    // Half a page at either end of all addresses.
    let part = |start: u64, len: u64| Some(range(start, len));
    assert_eq!(whole(IovaRange::FULL, part(0, SMALL / 2), SMALL), None);
    assert_eq!(whole(IovaRange::FULL, part(u64::MAX - (SMALL / 2 - 1), SMALL / 2), SMALL), None);
    assert_eq!(whole(IovaRange::FULL, part(u64::MAX - (SMALL - 1), SMALL), SMALL), part(u64::MAX - (SMALL - 1), SMALL));
    assert_eq!(whole(IovaRange::FULL, Some(IovaRange::FULL), SMALL), Some(IovaRange::FULL));
}

#[test]
fn a_domain_of_an_address_space() {
    crate::test_support::platform();
    let fake = fake();
    let unit: Arc<dyn Unit> = Arc::new(fake.clone());
    let ioas = Ioas::new(IoasConfig::default()).unwrap();
    let plain = Hwpt::new(&ioas, &unit, HwptConfig::new(Stage::Second)).unwrap();
    assert!(matches!(plain.set_dirty_tracking(true), Err(Error::Unsupported(_))));
    let mut bytes = [0; 8];
    let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(BASE), SMALL).unwrap();
    let all = range(BASE, 8 * PAGE_SIZE);
    assert!(matches!(plain.read_dirty(all, DirtyRead::Peek, &mut bitmap), Err(Error::Invalid(_))));
    drop(plain);

    let hwpt = Hwpt::new(&ioas, &unit, HwptConfig { dirty_tracking: true, ..HwptConfig::new(Stage::Second) }).unwrap();
    let memory = [crate::addr::PhysExtent::new(crate::addr::PhysAddr::new(1 << 30), 8 * PAGE_SIZE)];
    ioas.map_extents(&memory, Placement::Fixed(Iova::new(BASE)), crate::hw::Prot::READ_WRITE).unwrap();
    hwpt.set_dirty_tracking(true).unwrap();
    fake.write(BASE + 5 * SMALL);
    let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(BASE), SMALL).unwrap();
    hwpt.read_dirty(all, DirtyRead::Clear, &mut bitmap).unwrap();
    assert_eq!(bytes, [1 << 5, 0, 0, 0, 0, 0, 0, 0]);
    let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(BASE), 1024).unwrap();
    let half = range(BASE + 1024, SMALL);
    let misaligned = Error::Misaligned { value: BASE + 1024, align: SMALL };
    assert_eq!(hwpt.read_dirty(half, DirtyRead::Peek, &mut bitmap), Err(misaligned));
    // With large pages off the alignment of the address space is a page, which is above the domain's.
    ioas.unmap_all().unwrap();
    ioas.set_large_pages(false).unwrap();
    let odd = range(BASE + SMALL, PAGE_SIZE);
    let misaligned = Error::Misaligned { value: BASE + SMALL, align: PAGE_SIZE };
    assert_eq!(hwpt.read_dirty(odd, DirtyRead::Peek, &mut bitmap), Err(misaligned));
    hwpt.set_dirty_tracking(false).unwrap();
}
