//! Every bit of an STE and of a CD, flipped one by one: what it does to an entry that was right, for units with and
//! without the features that give bits a meaning. Written from the field tables of sections 5.2 and 5.4.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::{Config, FaultCode};
use smmuv3_common::*;

/// What becomes of a write to address 0, which leads to 0x5000.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Becomes {
    /// Nothing.
    Same,
    /// C_BAD_STE or C_BAD_CD.
    Illegal,
    /// Something else, which other tests look at.
    Other,
}

use Becomes::*;

/// Flips each bit of `words` words at `at`; `expected` gives word, bit and what comes of it.
fn flip(bench: &Bench, at: u64, code: FaultCode, expected: impl Fn(usize, u32) -> Becomes) {
    let walk = || bench.model.translate(SID, None, Iova::new(0), true).map(|found| found.phys.get());
    assert_eq!(walk(), Ok(0x5000));
    for word in 0..8 {
        for bit in 0..64 {
            let phys = at + word as u64 * 8;
            let before = bench.get(phys);
            bench.set(phys, before ^ 1 << bit);
            let found = walk();
            bench.set(phys, before);
            match expected(word, bit) {
                Same => assert_eq!(found, Ok(0x5000), "word {word}, bit {bit}"),
                Illegal => assert_eq!(found, Err(code), "word {word}, bit {bit}"),
                Other => assert_ne!(found, Ok(0x5000), "word {word}, bit {bit}"),
            }
        }
    }
    assert_eq!(walk(), Ok(0x5000));
}

fn has(config: &Config, bits: u32) -> bool {
    config.idr0 & bits != 0
}

/// Bits of word 1 that do not depend on stages.
fn second_word(config: &Config, bit: u32) -> Becomes {
    let types = config.idr1 & Config::ATTR_TYPES_OVR != 0;
    let perms = config.idr1 & Config::ATTR_PERMS_OVR != 0;
    let only = |has| if has { Same } else { Illegal };
    match bit {
        // S1DSS, S1CIR, S1COR, S1CSH.
        0..=7 => Same,
        // S2HWU.
        8..=11 => Illegal,
        // DRE, CONT, DCP.
        12..=17 => Same,
        // PPAR.
        18 => only(has(config, Config::PRI) && config.idr1 >> 6 & 0x1f != 0),
        // MEV, for software.
        19..=23 => Same,
        // S1PIE; S2FWB; S1MPAM.
        24 | 26 => Illegal,
        25 => only(config.idr3 >> 8 & 1 != 0),
        // MemAttr, MTCFG, ALLOCCFG.
        32..=40 => only(types),
        41..=43 => Illegal,
        // SHCFG; "use incoming" is taken everywhere.
        44 => Same,
        45 => only(types),
        // NSCFG.
        46 | 47 => Same,
        // PRIVCFG, INSTCFG.
        48..=51 => only(perms),
        _ => Illegal,
    }
}

#[test]
fn of_an_ste_of_stage_1() {
    let server = Config::server();
    let perms = Config { idr1: server.idr1 | Config::ATTR_PERMS_OVR, ..server };
    for config in [Config::nested(), server, perms, Config::small().queues(4), server.stalling(1), server.ats(false)] {
        let bench = Bench::first(config);
        bench.map_first(0, 0x5000);
        let wide = config.idr1 >> 6 & 0x1f;
        flip(&bench, bench.ste(SID), FaultCode::C_BAD_STE, |word, bit| match (word, bit) {
            (0, 0) => Illegal,
            // Config 4 is bypass, 7 needs more of stage 2, 1 is none.
            (0, 1..=3) => Other,
            // S1Fmt without substreams.
            (0, 4 | 5) => Same,
            // S1ContextPtr.
            (0, 6..=51) => Other,
            // S1CDMax, where S1DSS terminates.
            (0, 59..=63) if 1 << (bit - 59) <= wide => Other,
            (0, _) => Illegal,
            // S1STALLD.
            (1, 27) if config.idr0 >> 24 & 3 == 0 => Same,
            // EATS 1; 2 needs both stages.
            (1, 28) if has(&config, Config::ATS) => Same,
            // STRW 1; 2.
            (1, 31) if has(&config, Config::HYP) => Same,
            (1, 27..=31) => Illegal,
            (1, bit) => second_word(&config, bit),
            // S2VMID.
            (2, 8..=15) if !has(&config, Config::VMID16) => Illegal,
            // IMPDEF, S2HAFT and what is newer.
            (2, 16..=31 | 59..=63) => Illegal,
            (2, _) => Same,
            // S2NSW to S2DS; beyond S2TTB.
            (3, 0..=3 | 52..=63) => Illegal,
            (3, _) => Same,
            _ => Illegal,
        });
    }
}

#[test]
fn of_an_ste_of_stage_2() {
    let server = Config::server();
    for config in
        [Config::nested(), server, Config::small().queues(4), server.stalling(1), server.httu(0), server.httu(1)]
    {
        let mut bench = Bench::up(config);
        bench.attach_second(SID, VMID);
        // 39 bits of input; as many of output as there are.
        let word = bench.ste(SID) + 16;
        let out = u64::from(config.idr5 & 7).min(4);
        bench.set(word, bench.get(word) & !(7 << 48) | out << 48);
        bench.map_second(0, 0x5000);
        let granules = config.idr5 >> 4 & 7;
        flip(&bench, bench.ste(SID), FaultCode::C_BAD_STE, |word, bit| match (word, bit) {
            (0, 0) => Illegal,
            // Config 7 needs a CD, 4 is bypass, 2 is none.
            (0, 1..=3) => Other,
            (0, 4..=51 | 59..=63) => Same,
            (0, _) => Illegal,
            // S1STALLD means nothing without stage 1.
            (1, 27) => Same,
            (1, 28) if has(&config, Config::ATS) => Same,
            (1, 28 | 29) => Illegal,
            // STRW.
            (1, 30 | 31) => Same,
            (1, bit) => second_word(&config, bit),
            (2, 8..=15) if !has(&config, Config::VMID16) => Illegal,
            (2, 0..=15) => Same,
            (2, 16..=31 | 59..=63) => Illegal,
            // S2T0SZ 25: 24 is two tables side by side, which the second is not aligned for; 27 and 29 are narrower.
            (2, 33 | 34) => Same,
            (2, 32..=37) => Illegal,
            // S2SL0.
            (2, 38 | 39) => Other,
            // S2IR0, S2OR0, S2SH0.
            (2, 40..=45) => Same,
            // S2TG 1 and 2.
            (2, 46) if granules & 4 == 0 => Illegal,
            (2, 47) if granules & 2 == 0 => Illegal,
            (2, 46 | 47) => Other,
            // S2PS: capped, or 32 bits, which are too few.
            (2, 48..=50) => {
                if out ^ 1 << (bit - 48) == 0 {
                    Illegal
                } else {
                    Same
                }
            }
            // S2AA64, S2ENDI.
            (2, 51 | 52) => Illegal,
            // S2AFFD, S2PTW.
            (2, 53 | 54) => Same,
            // S2HD alone; S2HA.
            (2, 55) => Illegal,
            (2, 56) if config.idr0 >> 6 & 3 != 0 => Same,
            (2, 56) => Illegal,
            // S2S.
            (2, 57) if config.idr0 >> 24 & 3 == 0 => Same,
            (2, 57) => Illegal,
            // S2R.
            (2, _) => Same,
            (3, 0..=3 | 52..=63) => Illegal,
            // S2TTB: aligned to 4 KiB.
            (3, 4..=11) => Illegal,
            (3, _) => Other,
            _ => Illegal,
        });
    }
}

#[test]
fn of_a_cd() {
    let server = Config::server();
    for config in [
        Config::nested(),
        server,
        Config::small().queues(4),
        server.stalling(1),
        server.stalling(2),
        server.httu(0),
        server.httu(1),
    ] {
        let bench = Bench::first(config);
        bench.map_first(0, 0x5000);
        let cd = bench.cd(SID.into());
        // IPS as wide as the unit; S where it is forced.
        let forced = config.idr0 >> 24 & 3 == 2;
        let out = u64::from(config.idr5 & 7).min(4);
        bench.set(cd, bench.get(cd) & !(7 << 32) | out << 32 | u64::from(forced) << 44);
        let granules = config.idr5 >> 4 & 7;
        flip(&bench, cd, FaultCode::C_BAD_CD, |word, bit| match (word, bit) {
            // T0SZ 25: 27 and 29 are narrower, 24 and 17 begin a level higher, 9 and 57 are none.
            (0, 1 | 2) => Same,
            (0, 0 | 3) => Other,
            (0, 4 | 5) => Illegal,
            // TG0 1 and 2.
            (0, 6) if granules & 4 == 0 => Illegal,
            (0, 7) if granules & 2 == 0 => Illegal,
            (0, 6 | 7) => Other,
            (0, 8..=13) => Same,
            // EPD0.
            (0, 14) => Other,
            // ENDI.
            (0, 15) => Illegal,
            // T1SZ to SH1 with EPD1.
            (0, 16..=29) => Same,
            // EPD1 clear with T1SZ 0.
            (0, 30) => Illegal,
            (0, 31) => Illegal,
            // IPS: capped, or 32 bits, beyond which TTB0 is.
            (0, 32..=34) => {
                if out ^ 1 << (bit - 32) == 0 {
                    Illegal
                } else {
                    Same
                }
            }
            // AFFD, WXN, UWXN, TBI, PAN.
            (0, 35..=40) => Same,
            // AA64.
            (0, 41) => Illegal,
            // HD alone; HA.
            (0, 42) => Illegal,
            (0, 43) if config.idr0 >> 6 & 3 != 0 => Same,
            (0, 43) => Illegal,
            (0, 44) if config.idr0 >> 24 & 3 == 0 => Same,
            (0, 44) => Illegal,
            // R; A.
            (0, 45) => Same,
            (0, 46) if has(&config, Config::TERM_MODEL) => Illegal,
            (0, 46 | 47) => Same,
            (0, 56..=63) if !has(&config, Config::ASID16) => Illegal,
            (0, _) => Same,
            // HAD0.
            (1 | 2, 1) if config.idr3 >> 2 & 1 != 0 => Same,
            (1 | 2, 0..=3 | 52..=63) => Illegal,
            // TTB0: aligned to 4 KiB.
            (1, 4..=11) => Illegal,
            (1, _) => Other,
            // TTB1 with EPD1; MAIR, AMAIR.
            (2..=4, _) => Same,
            _ => Illegal,
        });
    }
}
