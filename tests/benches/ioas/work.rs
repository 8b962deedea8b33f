//! What address spaces hold while they are measured, and where what is measured goes.

use iommu_core::addr::PAGE_SIZE;

/// Bytes.
pub const KIB: u64 = 1 << 10;
/// Bytes.
pub const MIB: u64 = 1 << 20;
/// Bytes.
pub const GIB: u64 = 1 << 30;

/// How many areas there are beside those that are measured.
pub const AREAS: [usize; 3] = [10, 1_000, 1_000_000];
/// Bytes of what is mapped and unmapped.
pub const SIZES: [u64; 3] = [4 * KIB, 2 * MIB, GIB];

/// How the areas lie, all of them pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Side by side, made in rising order; what is measured goes behind them, one behind the other.
    Sequential,
    /// Scattered over 16 TiB in the even ones of its GiBs, in 2 MiB of each, so that page tables stay small; made in no
    /// order. What is measured goes into odd GiBs, in no order.
    Random,
    /// With a free page between each two, and one hole of three pages in the middle, the only one for what is measured.
    Holes,
}

impl Order {
    /// For people, and for `--count`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Holes => "holes",
        }
    }
}

/// One area: where it is, and the memory behind it.
pub type Place = (u64, u64);

/// GiBs that random areas lie in, half of all.
const CELLS: u64 = 1 << 13;

/// Numbers in no order; the same on every run.
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next one below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Puts `all` in another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

/// The areas that are there all the time.
pub fn background(order: Order, count: usize) -> Vec<Place> {
    let count = count as u64;
    // No two pages of memory are side by side.
    let memory = |number: u64| (1 << 45) + number * 2 * PAGE_SIZE;
    let mut random = Random(1);
    let iova = |number: u64| match order {
        Order::Sequential => PAGE_SIZE * (1 + number),
        Order::Random => {
            let cell = number * 5 % CELLS;
            let place = (number / CELLS * 37 + cell * 11) % 512;
            2 * cell * GIB + cell % 512 * 2 * MIB + place * PAGE_SIZE
        }
        Order::Holes => PAGE_SIZE * (1 + 2 * number + if number < count / 2 { 0 } else { 2 }),
    };
    let mut all: Vec<Place> = (0..count).map(|number| (iova(number), memory(number))).collect();
    if order == Order::Random {
        random.shuffle(&mut all);
    }
    all
}

/// Where `count` areas of `len` bytes go, beside a background of `areas`.
pub fn places(order: Order, areas: usize, len: u64, count: usize) -> Vec<Place> {
    let mut random = Random(2);
    let end = (PAGE_SIZE * (1 + areas as u64)).next_multiple_of(len);
    let iova = |number: u64, random: &mut Random| match order {
        Order::Random => {
            let cell = number * 2_741 % CELLS;
            (2 * cell + 1) * GIB + random.below(GIB / len) * len
        }
        _ => end + number * len,
    };
    let place = |number| {
        let iova = iova(number, &mut random);
        // As even as the address, so that leaves can be as large as the area.
        (iova, (1 << 44) + number * 2 * GIB + iova % GIB)
    };
    (0..count as u64).map(place).collect()
}

/// How many areas are there at a time of those that are measured: few beside the others.
pub fn batch(areas: usize) -> usize {
    (areas / 16).clamp(4, 4096)
}
