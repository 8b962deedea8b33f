//! What the walker relies on, for every format.

use super::*;
use crate::{
    Armv8Stage1, Armv8Stage2, FirstStageOptions, Granule, Granule4K, Granule16K, Granule64K, Riscv64,
    SecondStageOptions, Shareability, Stage1Options, Stage2Options, Vtd, VtdFirstStage, VtdOptions, VtdSecondStage,
    sizes,
};
use std::vec::Vec;

const FLAGS: [bool; 2] = [false, true];

/// Every way in which a leaf of `level` can be asked for.
fn attributes<F: Format>(level: u8, options: F::Options) -> Vec<Attributes> {
    let mut all = Vec::new();
    for prot in [Prot::READ, Prot::WRITE, Prot::READ_WRITE].into_iter().filter(|prot| F::can_express(*prot, options)) {
        for grouped in FLAGS.into_iter().filter(|grouped| !grouped || F::group_bits(level) != 0) {
            all.extend(FLAGS.map(|tracked| Attributes { prot, grouped, tracked }));
        }
    }
    all
}

/// Addresses of memory aligned to 2^`bits`: none and all of the bits that an entry holds, each alone, and mixtures.
fn addresses<F: Format>(bits: u32) -> Vec<PhysAddr> {
    let mask = (1 << F::OUTPUT_BITS) - (1 << bits);
    let single = (0..64).map(|bit| 1 << bit);
    let all = single.chain([0, u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa, 0x0123_4567_89ab_cdef]);
    all.map(|phys| PhysAddr::new(phys & mask)).collect()
}

fn levels<F: Format>() -> core::ops::RangeInclusive<u8> {
    0..=F::TOP_LEAF_LEVEL
}

fn shape<F: Format>() {
    assert_eq!(F::PRESENT & !0xfff, 0, "a link or a ticket of a chain would be present");
    assert!(!is_present::<F>(0));
    assert_eq!((F::PRESENT | F::LINK_MASK) & (F::DIRTY | F::VISIBLE), 0);
    assert!(F::LINK & F::PRESENT != 0 && F::LINK & !F::LINK_MASK == 0);
    assert!(usize::from(*F::LEVELS.end()) <= MOST_LEVELS && F::TOP_LEAF_LEVEL < *F::LEVELS.end());
    for levels in F::LEVELS {
        let bits = u32::from(F::input_bits(levels, F::Options::default()));
        assert!(bits > shift::<F>(levels - 1) && bits <= shift::<F>(levels) + 4, "{levels} levels: {bits} bits");
    }
    for level in levels::<F>() {
        for group in [0, F::group_bits(level)] {
            assert_eq!(sizes::split::<F>(shift::<F>(level) + group), (level, group));
        }
    }
}

fn leaves<F: Format>(options: F::Options) {
    for level in levels::<F>() {
        for asked in attributes::<F>(level, options) {
            let first = F::leaf(PhysAddr::new(0), level, asked, options);
            for phys in addresses::<F>(shift::<F>(level)) {
                let entry = F::leaf(phys, level, asked, options);
                let place = std::format!("{entry:#x}: {phys:?} at level {level}, {asked:?}, {options:?}");
                let steps = phys.get() >> shift::<F>(level);
                assert_eq!(entry, first.wrapping_add(step::<F>(level).wrapping_mul(steps)), "{place}");
                let bits = shift::<F>(level) + if asked.grouped { F::group_bits(level) } else { 0 };
                for entry in [entry, if asked.tracked { F::dirtied(entry) } else { entry }] {
                    assert!(is_leaf::<F>(entry, level), "{place}");
                    assert_eq!(F::leaf_address(entry, level), phys, "{place}");
                    assert_eq!(F::prot(entry), asked.prot, "{place}");
                    assert_eq!((F::is_grouped(entry), leaf_bits::<F>(entry, level)), (asked.grouped, bits), "{place}");
                    assert_eq!(entry & F::VISIBLE, 0, "{place}");
                }
            }
        }
    }
}

fn dirty_state<F: Format>(options: F::Options) {
    for level in levels::<F>() {
        let tracked: Vec<_> = attributes::<F>(level, options).into_iter().filter(|asked| asked.tracked).collect();
        let leaf = |asked| F::leaf(PhysAddr::new(0), level, asked, options);
        for asked in &tracked {
            let (clean, dirty) = (leaf(*asked), F::dirtied(leaf(*asked)));
            assert!(!F::is_dirty(clean) && F::is_dirty(dirty), "level {level}, {asked:?}");
            assert_eq!((clean ^ dirty) & !F::DIRTY, 0, "level {level}, {asked:?}");
            assert_eq!(F::dirtied(dirty), dirty, "level {level}, {asked:?}");
            // What hardware notes does not hide a difference in anything else.
            for other in tracked.iter().filter(|other| *other != asked) {
                assert_ne!((leaf(*other) ^ clean) & !F::DIRTY, 0, "level {level}, {asked:?} and {other:?}");
            }
        }
    }
}

fn tables<F: Format>(options: F::Options) {
    for tracked in FLAGS {
        for phys in addresses::<F>(F::PAGE_BITS) {
            let entry = F::table(phys, tracked, options);
            assert_eq!(entry & F::VISIBLE, 0, "{entry:#x}");
            for entry in [entry, entry | F::VISIBLE] {
                assert!((1..*F::LEVELS.end()).all(|level| is_link::<F>(entry, level)), "{entry:#x}");
                assert_eq!(F::table_address(entry), phys, "{entry:#x}");
            }
        }
    }
}

fn check<F: Format>(options: &[F::Options]) {
    shape::<F>();
    for options in [F::Options::default()].iter().chain(options) {
        leaves::<F>(*options);
        dirty_state::<F>(*options);
        tables::<F>(*options);
    }
}

#[test]
fn vtd_second_stage() {
    check::<VtdSecondStage>(&FLAGS.map(|snoop| SecondStageOptions { snoop }));
}

#[test]
fn vtd_first_stage() {
    let both = |supervisor| FLAGS.map(|no_execute| FirstStageOptions { supervisor, no_execute });
    check::<VtdFirstStage>(FLAGS.map(both).as_flattened());
}

#[test]
fn either_stage_of_vtd() {
    let seconds = FLAGS.map(|snoop| SecondStageOptions { snoop });
    let both = |supervisor| FLAGS.map(|no_execute| FirstStageOptions { supervisor, no_execute });
    let firsts = FLAGS.map(both);
    let options = seconds.map(VtdOptions::Second).into_iter();
    let options: Vec<_> = options.chain(firsts.as_flattened().iter().copied().map(VtdOptions::First)).collect();
    check::<Vtd>(&options);
    for second in seconds {
        is_the_same::<VtdSecondStage>(second, VtdOptions::Second(second));
    }
    for first in firsts.as_flattened() {
        is_the_same::<VtdFirstStage>(*first, VtdOptions::First(*first));
    }
}

/// What [`Vtd`] makes of one stage is what that stage's own format makes, and reads as it.
fn is_the_same<F: Format>(one: F::Options, either: VtdOptions) {
    for prot in [Prot { read: false, write: false }, Prot::READ, Prot::WRITE, Prot::READ_WRITE] {
        assert_eq!(Vtd::can_express(prot, either), F::can_express(prot, one), "{prot:?}, {one:?}");
    }
    for levels in 3..=5 {
        let bits = if F::LEVELS.contains(&levels) { F::input_bits(levels, one) } else { 0 };
        assert_eq!(Vtd::input_bits(levels, either), bits, "{levels} levels, {one:?}");
    }
    for tracked in FLAGS {
        for phys in addresses::<F>(F::PAGE_BITS) {
            let entry = F::table(phys, tracked, one);
            assert_eq!(Vtd::table(phys, tracked, either), entry, "{phys:?}, {one:?}");
            assert_eq!(Vtd::table_address(entry), F::table_address(entry), "{entry:#x}");
        }
    }
    for level in levels::<F>() {
        for asked in attributes::<F>(level, one) {
            for phys in addresses::<F>(shift::<F>(level)) {
                let leaf = F::leaf(phys, level, asked, one);
                assert_eq!(Vtd::leaf(phys, level, asked, either), leaf, "{phys:?}, {asked:?}, {one:?}");
                let dirtied = if asked.tracked { F::dirtied(leaf) } else { leaf };
                if asked.tracked {
                    assert_eq!(Vtd::dirtied(leaf), dirtied, "{leaf:#x}");
                }
                for entry in [leaf, dirtied] {
                    assert_eq!(Vtd::is_dirty(entry), F::is_dirty(entry), "{entry:#x}");
                    assert_eq!(Vtd::prot(entry), F::prot(entry), "{entry:#x}");
                    assert_eq!(Vtd::leaf_address(entry, level), F::leaf_address(entry, level), "{entry:#x}");
                    assert_eq!(is_leaf::<Vtd>(entry, level), is_leaf::<F>(entry, level), "{entry:#x}");
                }
            }
        }
    }
}

fn armv8_stage1<G: Granule>() {
    let default = Stage1Options::default();
    check::<Armv8Stage1<G>>(&[
        Stage1Options { attribute_index: 7, shareability: Shareability::Outer, ..default },
        Stage1Options { attribute_index: 0xff, shareability: Shareability::Non, ..default },
        Stage1Options { privileged: true, executable: true, resizes_live: true, ..default },
    ]);
}

#[test]
fn armv8_stage1_of_each_granule() {
    armv8_stage1::<Granule4K>();
    armv8_stage1::<Granule16K>();
    armv8_stage1::<Granule64K>();
}

fn armv8_stage2<G: Granule>() {
    let default = Stage2Options::default();
    check::<Armv8Stage2<G>>(&[
        Stage2Options { memory_attributes: 0, shareability: Shareability::Outer, ..default },
        Stage2Options { memory_attributes: 0xff, shareability: Shareability::Non, ..default },
        Stage2Options { executable: true, resizes_live: true, ..default },
    ]);
}

#[test]
fn armv8_stage2_of_each_granule() {
    armv8_stage2::<Granule4K>();
    armv8_stage2::<Granule16K>();
    armv8_stage2::<Granule64K>();
}

#[test]
fn riscv64() {
    check::<Riscv64>(&[]);
}
