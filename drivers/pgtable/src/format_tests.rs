//! What the walker relies on, for every format.

use super::*;
use crate::{
    Armv8, Armv8Options, Armv8Stage, Armv8Stage1, Armv8Stage2, FirstStageOptions, Granule, Granule4K, Granule16K,
    Granule64K, GranuleSize, Riscv64, SecondStageOptions, Shareability, Stage1Options, Stage2Options, Vtd,
    VtdFirstStage, VtdOptions, VtdSecondStage, sizes,
};
use std::vec::Vec;

const FLAGS: [bool; 2] = [false, true];

/// Every way in which a leaf of `level` can be asked for.
fn attributes<F: Format>(level: u8, options: F::Options) -> Vec<Attributes> {
    let mut all = Vec::new();
    for prot in [Prot::READ, Prot::WRITE, Prot::READ_WRITE].into_iter().filter(|prot| F::can_express(*prot, options)) {
        for grouped in FLAGS.into_iter().filter(|grouped| !grouped || F::grain(options).group_bits(level) != 0) {
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

fn levels<F: Format>(options: F::Options) -> core::ops::RangeInclusive<u8> {
    0..=F::grain(options).top_leaf_level()
}

fn shape<F: Format>(options: F::Options) {
    let grain = F::grain(options);
    assert_eq!(F::PRESENT & !0xfff, 0, "a link or a ticket of a chain would be present");
    assert!(!is_present::<F>(0));
    assert_eq!((F::PRESENT | F::LINK_MASK) & (F::DIRTY | F::VISIBLE), 0);
    assert!(F::LINK & F::PRESENT != 0 && F::LINK & !F::LINK_MASK == 0);
    assert!(usize::from(*F::LEVELS.end()) <= MOST_LEVELS && grain.top_leaf_level() < *F::LEVELS.end());
    let mut some = false;
    for levels in F::LEVELS {
        let bits = u32::from(F::input_bits(levels, options));
        let fits = bits > grain.shift(levels - 1) && bits <= grain.shift(levels) + 4;
        // Not every option goes with every number of levels.
        assert!(fits || bits == 0, "{levels} levels: {bits} bits");
        some |= fits;
    }
    assert!(some, "{options:?}");
    for level in levels::<F>(options) {
        for group in [0, grain.group_bits(level)] {
            assert_eq!(sizes::split(grain, grain.shift(level) + group), (level, group));
        }
    }
}

fn leaves<F: Format>(options: F::Options) {
    for level in levels::<F>(options) {
        for asked in attributes::<F>(level, options) {
            let first = F::leaf(PhysAddr::new(0), level, asked, options);
            for phys in addresses::<F>(F::grain(options).shift(level)) {
                let entry = F::leaf(phys, level, asked, options);
                let place = std::format!("{entry:#x}: {phys:?} at level {level}, {asked:?}, {options:?}");
                let steps = phys.get() >> F::grain(options).shift(level);
                assert_eq!(
                    entry,
                    first.wrapping_add(step::<F>(F::grain(options), level).wrapping_mul(steps)),
                    "{place}"
                );
                let bits = F::grain(options).shift(level)
                    + if asked.grouped { F::grain(options).group_bits(level) } else { 0 };
                for entry in [entry, if asked.tracked { F::dirtied(entry) } else { entry }] {
                    assert!(is_leaf::<F>(entry, level), "{place}");
                    assert_eq!(F::leaf_address(entry, level), phys, "{place}");
                    assert_eq!(F::prot(entry), asked.prot, "{place}");
                    assert_eq!(
                        (F::is_grouped(entry), leaf_bits::<F>(F::grain(options), entry, level)),
                        (asked.grouped, bits),
                        "{place}"
                    );
                    assert_eq!(entry & F::VISIBLE, 0, "{place}");
                }
            }
        }
    }
}

fn dirty_state<F: Format>(options: F::Options) {
    for level in levels::<F>(options) {
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
        for phys in addresses::<F>(F::grain(options).page_bits()) {
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
    for options in [F::Options::default()].iter().chain(options) {
        shape::<F>(*options);
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
        is_the_same::<VtdSecondStage, Vtd>(second, VtdOptions::Second(second));
    }
    for first in firsts.as_flattened() {
        is_the_same::<VtdFirstStage, Vtd>(*first, VtdOptions::First(*first));
    }
}

/// What a format of several kinds makes of one of them is what that stage's own format makes, and reads as it.
fn is_the_same<F: Format, E: Format>(one: F::Options, either: E::Options) {
    for prot in [Prot { read: false, write: false }, Prot::READ, Prot::WRITE, Prot::READ_WRITE] {
        assert_eq!(E::can_express(prot, either), F::can_express(prot, one), "{prot:?}, {one:?}");
    }
    for levels in E::LEVELS {
        let bits = if F::LEVELS.contains(&levels) { F::input_bits(levels, one) } else { 0 };
        assert_eq!(E::input_bits(levels, either), bits, "{levels} levels, {one:?}");
    }
    let (grain, ours) = (F::grain(one), E::grain(either));
    assert_eq!((ours.page_bits(), ours.index_bits()), (grain.page_bits(), grain.index_bits()));
    assert_eq!(ours.top_leaf_level(), grain.top_leaf_level());
    assert!((0..5).all(|level| ours.group_bits(level) == grain.group_bits(level)));
    assert_eq!(E::resizes_live(either), F::resizes_live(one));
    assert_eq!((E::DIRTY & F::DIRTY, E::VISIBLE), (F::DIRTY, F::VISIBLE));
    assert_eq!(E::ROOT_BY_WIDTH, F::ROOT_BY_WIDTH);
    for tracked in FLAGS {
        for phys in addresses::<F>(F::grain(one).page_bits()) {
            let entry = F::table(phys, tracked, one);
            assert_eq!(E::table(phys, tracked, either), entry, "{phys:?}, {one:?}");
            assert_eq!(E::table_address(entry), F::table_address(entry), "{entry:#x}");
        }
    }
    for level in levels::<F>(one) {
        for asked in attributes::<F>(level, one) {
            for phys in addresses::<F>(F::grain(one).shift(level)) {
                let leaf = F::leaf(phys, level, asked, one);
                assert_eq!(E::leaf(phys, level, asked, either), leaf, "{phys:?}, {asked:?}, {one:?}");
                let dirtied = if asked.tracked { F::dirtied(leaf) } else { leaf };
                if asked.tracked {
                    assert_eq!(E::dirtied(leaf), dirtied, "{leaf:#x}");
                }
                for entry in [leaf, dirtied] {
                    assert_eq!(E::is_dirty(entry), F::is_dirty(entry), "{entry:#x}");
                    assert_eq!(E::prot(entry), F::prot(entry), "{entry:#x}");
                    assert_eq!(E::is_grouped(entry), F::is_grouped(entry), "{entry:#x}");
                    assert_eq!(E::leaf_address(entry, level), F::leaf_address(entry, level), "{entry:#x}");
                    assert_eq!(is_leaf::<E>(entry, level), is_leaf::<F>(entry, level), "{entry:#x}");
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
fn any_of_armv8() {
    fn of<G: Granule>(granule: GranuleSize) {
        let first = Stage1Options::default();
        let firsts = [
            first,
            Stage1Options { attribute_index: 7, privileged: true, executable: true, resizes_live: true, ..first },
        ];
        for options in firsts {
            let either = Armv8Options { granule, stage: Armv8Stage::First(options) };
            check::<Armv8>(&[either]);
            is_the_same::<Armv8Stage1<G>, Armv8>(options, either);
        }
        let second = Stage2Options::default();
        let seconds = [
            second,
            Stage2Options { memory_attributes: 0, executable: true, resizes_live: true, ..second },
            Stage2Options { memory_attributes: 0xff, shareability: Shareability::Non, ..second },
        ];
        for options in seconds {
            let either = Armv8Options { granule, stage: Armv8Stage::Second(options) };
            check::<Armv8>(&[either]);
            is_the_same::<Armv8Stage2<G>, Armv8>(options, either);
        }
    }
    of::<Granule4K>(GranuleSize::Kib4);
    of::<Granule16K>(GranuleSize::Kib16);
    of::<Granule64K>(GranuleSize::Kib64);
}

#[test]
fn riscv64() {
    check::<Riscv64>(&[]);
}
