//! Bits against the plainest way of computing them.

use super::*;

/// Sets the bits of `dirty` one by one, in 128 bits, in which nothing wraps.
fn plain(bytes: &mut [u8], base: u64, page_size: u64, dirty: IovaRange) {
    for bit in 0..bytes.len() * 8 {
        let start = u128::from(base) + bit as u128 * u128::from(page_size);
        let end = start + u128::from(page_size);
        if start <= u128::from(dirty.last().get()) && u128::from(dirty.start().get()) < end {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_page_size_is_a_power_of_two_and_divides_the_base() {
    let mut bytes = [0; 1];
    for page_size in [0, 3, 6, 4095, u64::MAX] {
        assert!(matches!(DirtyBitmap::new(&mut bytes, Iova::new(0), page_size), Err(Error::Invalid(_))), "{page_size}");
    }
    let misaligned = DirtyBitmap::new(&mut bytes, Iova::new(0x1800), 0x1000).err();
    assert_eq!(misaligned, Some(Error::Misaligned { value: 0x1800, align: 0x1000 }));
    for page_size in [1, 2, 2048, 1 << 63] {
        assert_eq!(DirtyBitmap::new(&mut bytes, Iova::new(1 << 63), page_size).unwrap().page_size(), page_size);
    }
}

#[test]
fn bits_are_those_of_every_page_that_is_touched() {
    let mut dice = Dice(0x5eed);
    for round in 0..20_000 {
        let shift = dice.next() % 64;
        let page_size = 1u64 << shift;
        // Anywhere, and often near either end of the address space.
        let pages = dice.next() % 64;
        let base = match round % 4 {
            0 => pages.wrapping_mul(page_size),
            1 => pages.wrapping_add(1).wrapping_mul(page_size).wrapping_neg(),
            _ => (dice.next() >> (dice.next() % 64)) & !(page_size - 1),
        };
        // In parts of pages, from somewhat below the base on.
        let part = page_size >> (dice.next() % 3);
        let begin = base.wrapping_add((dice.next() % 512).wrapping_sub(64).wrapping_mul(part));
        let last = begin.saturating_add(dice.next() >> (dice.next() % 64));
        let dirty = IovaRange::new(Iova::new(begin), Iova::new(last)).unwrap();
        let before: Vec<u8> = (0..dice.next() % 40).map(|_| dice.next() as u8 & dice.next() as u8).collect();
        let (mut expected, mut found) = (before.clone(), before);
        plain(&mut expected, base, page_size, dirty);
        let mut bitmap = DirtyBitmap::new(&mut found, Iova::new(base), page_size).unwrap();
        bitmap.mark(dirty);
        for bit in [0, 1, 7, 8, 9, 63, 319, 320] {
            if let Some(iova) = page_size.checked_mul(bit).and_then(|it| base.checked_add(it)) {
                let set = expected.get(bit as usize / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0);
                assert_eq!(bitmap.is_dirty(Iova::new(iova)), set);
                assert_eq!(bitmap.is_dirty(Iova::new(iova + (page_size - 1))), set);
            }
        }
        assert_eq!(found, expected, "base {base:#x} page {page_size:#x} {dirty}");
    }
}

#[test]
fn the_bitmap_may_lie_at_any_address_and_nothing_around_it_changes() {
    let mut memory = std::vec![0x5au8; 3 * 4096];
    for offset in [0, 2048, 0xff1, 4095] {
        memory.fill(0x5a);
        let bytes = &mut memory[offset..offset + 4096];
        bytes.fill(0);
        let mut bitmap = DirtyBitmap::new(bytes, Iova::new(0x100_0000), 2048).unwrap();
        bitmap.mark(IovaRange::FULL);
        assert!(memory[..offset].iter().chain(&memory[offset + 4096..]).all(|it| *it == 0x5a));
        assert!(memory[offset..offset + 4096].iter().all(|it| *it == 0xff));
    }
    DirtyBitmap::new(&mut [], Iova::new(0), 1).unwrap().mark(IovaRange::FULL);
}

#[test]
fn the_last_page_of_all_has_its_bit() {
    let mut bytes = [0; 3];
    let base = u64::MAX - (16 * 4096 - 1);
    let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(base), 4096).unwrap();
    bitmap.mark(range(u64::MAX, 1));
    assert!(
        bitmap.is_dirty(Iova::new(u64::MAX)) && !bitmap.is_dirty(Iova::new(0)) && !bitmap.is_dirty(Iova::new(base))
    );
    // The bits beyond 2^64 stand for nothing.
    assert_eq!(bytes, [0, 0x80, 0]);
    let mut bytes = [0; 3];
    DirtyBitmap::new(&mut bytes, Iova::new(base), 4096).unwrap().mark(IovaRange::FULL);
    assert_eq!(bytes, [0xff, 0xff, 0]);
}
