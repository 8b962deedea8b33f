//! Each bit of each structure, flipped alone: reserved, ignored, or with a meaning of its own.

mod walks;

use iommu_models::vtd::{Config, FaultCode};
use walks::*;

/// What the bits of one word do when they are flipped: those in `reserved` give `code`, those in `ignored` change
/// nothing, the others have a meaning that other tests look at.
struct Word {
    at: u64,
    reserved: u64,
    ignored: u64,
    code: FaultCode,
}

fn check(rig: &Rig, what: &str, word: &Word) {
    let before = rig.get(word.at);
    assert_eq!(word.reserved & word.ignored, 0, "{what}");
    for bit in (0..64).map(|bit| 1 << bit) {
        let found = rig.read_with(word.at, before ^ bit);
        if word.reserved & bit != 0 {
            assert_eq!(found, Err(word.code), "{what}: {bit:#x} is reserved");
        } else if word.ignored & bit != 0 {
            assert_eq!(found, Ok(PAGE), "{what}: {bit:#x} is ignored");
        } else if bit != LARGE {
            // Whatever it means, it is not the same. PS makes other bits reserved.
            assert_ne!(found, Err(word.code), "{what}: {bit:#x} is not reserved");
        }
    }
}

/// PS.
const LARGE: u64 = 1 << 7;
/// Bits 63:46, for a host of 46 bits.
const HIGH: u64 = !0 << 46;
/// The same in an entry of a paging structure.
const HIGH_PAGE: u64 = HIGH & !(!0 << 52);
/// Addresses of 46 bits in 63:12.
const ADDRESS: u64 = !HIGH & !0xfff;

/// Without any of the optional capabilities that fields depend on.
fn plain() -> Config {
    let optional = Config::ECAP_SC | Config::ECAP_DT | Config::ECAP_RPS | Config::ECAP_SMPWCS | Config::ECAP_SRS;
    Config::server().ecap_bits(optional | Config::ECAP_PASID, false)
}

/// With all of them.
fn full() -> Config {
    Config::server_nested().ecap_bits(Config::ECAP_MTS | Config::ECAP_ERS | Config::ECAP_PTRS, true)
}

#[test]
fn root_entries() {
    let rig = Rig::scalable(Config::server(), SECOND);
    let code = FaultCode::ROOT_RESERVED;
    check(&rig, "lower half", &Word { at: rig.table(), reserved: HIGH | 0xffe, ignored: 0, code });
    // The other half is another device's.
    check(&rig, "upper half", &Word { at: rig.table() + 8, reserved: 0, ignored: !0, code });
    let rig = Rig::legacy(Config { haw: 46, ..Config::legacy() });
    let code = FaultCode::LEGACY_ROOT_RESERVED;
    check(&rig, "legacy", &Word { at: rig.table(), reserved: HIGH | 0xffe, ignored: 0, code });
    check(&rig, "legacy, second word", &Word { at: rig.table() + 8, reserved: !0, ignored: 0, code });
}

#[test]
fn legacy_context_entries() {
    let rig = Rig::legacy(Config { haw: 46, ..Config::legacy() });
    let (at, code) = (rig.context_entry(), FaultCode::LEGACY_CONTEXT_RESERVED);
    check(&rig, "first word", &Word { at, reserved: HIGH | 0xff0, ignored: 2, code });
    let [avail, domain] = [0xf << 3, 0xffff << 8];
    let word = Word { at: at + 8, reserved: !0xff_ffff | 1 << 7, ignored: avail | domain, code };
    check(&rig, "second word", &word);
    // Domain ids of 8 bits.
    let rig = Rig::legacy(Config { haw: 46, ..Config::legacy().domain_ids(2) });
    let word = Word { at: rig.context_entry() + 8, reserved: !0xffff | 1 << 7, ignored: avail | 0xff << 8, code };
    check(&rig, "narrow domain ids", &word);
    // Pass-through has no tables.
    rig.set(rig.context_entry(), HIGH | 2 << 2 | 1);
    assert_eq!(rig.read(), Ok(0));
}

#[test]
fn context_entries() {
    let code = FaultCode::CONTEXT_RESERVED;
    let rig = Rig::scalable(plain(), SECOND);
    let at = rig.context_entry();
    // PDTS is the directory's size; the PASIDs are all in its smallest.
    let word = Word { at, reserved: HIGH | 0x1fc, ignored: 2 | 7 << 9, code };
    check(&rig, "first word of a plain unit", &word);
    check(&rig, "second word of a plain unit", &Word { at: at + 8, reserved: !0, ignored: 0, code });
    let rig = Rig::scalable(full(), SECOND);
    let at = rig.context_entry();
    // DTE, PASIDE; PRE and EPTR alone contradict.
    let word = Word { at, reserved: HIGH | 0x1a0, ignored: 2 | 3 << 2 | 7 << 9, code };
    check(&rig, "first word of a full unit", &word);
    // RID_PASID and RID_PRIV.
    check(&rig, "second word of a full unit", &Word { at: at + 8, reserved: !0x1f_ffff, ignored: 0, code });
    for word in [16, 24] {
        check(&rig, "words 2 and 3", &Word { at: at + word, reserved: !0, ignored: 0, code });
    }
}

#[test]
fn context_entries_that_contradict_themselves() {
    let rig = Rig::scalable(full(), SECOND);
    let (at, code) = (rig.context_entry(), Err(FaultCode::CONTEXT_INVALID));
    let entry = rig.get(at);
    // PRE needs DTE, EPTR needs PASIDE.
    assert_eq!(rig.read_with(at, entry | 1 << 4), code);
    assert_eq!(rig.read_with(at, entry | 1 << 4 | 1 << 2), Ok(PAGE));
    assert_eq!(rig.read_with(at, entry | 1 << 6), code);
    assert_eq!(rig.read_with(at, entry | 1 << 6 | 1 << 3), Ok(PAGE));
    // RID_PASID lies in the directory.
    rig.set(at + 8, 8192);
    assert_eq!(rig.read(), code);
    assert_eq!(rig.read_with(at, entry | 1 << 9), Err(FaultCode::DIRECTORY_NOT_PRESENT));
}

#[test]
fn directory_entries() {
    let rig = Rig::scalable(Config::server(), SECOND);
    let code = FaultCode::DIRECTORY_RESERVED;
    check(&rig, "directory", &Word { at: rig.directory, reserved: HIGH | 0xffc, ignored: 2, code });
}

#[test]
fn pasid_entries_of_a_plain_unit() {
    let code = FaultCode::PASID_RESERVED;
    let config = plain();
    // Bit 5 and 11:10; SSADE.
    let low = 1 << 5 | 1 << 9 | 3 << 10;
    // Everything but DID and FPD.
    let second = !0xffff;
    for kind in [FIRST, SECOND, PASS] {
        let rig = Rig::scalable(config, kind);
        // What PGTT does not use is ignored: SSPTPTR, FSPTPTR.
        let unused = if kind == SECOND { 0 } else { ADDRESS };
        let check = |word: u64, reserved, ignored| {
            if kind != PASS {
                check(
                    &rig,
                    &format!("PGTT {kind}, word {word}"),
                    &Word { at: rig.pasids + word * 8, reserved, ignored, code },
                );
            } else {
                // It leads straight through: ignored bits give address 0.
                let before = rig.get(rig.pasids + word * 8);
                for bit in (0..64).map(|bit| 1 << bit).filter(|bit| (reserved | ignored) & bit != 0) {
                    let expected = if reserved & bit != 0 { Err(code) } else { Ok(0) };
                    assert_eq!(rig.read_with(rig.pasids + word * 8, before ^ bit), expected, "word {word} {bit:#x}");
                }
            }
        };
        check(0, HIGH | low, 2 | unused);
        check(1, second, 0xffff);
        // SRE, ERE, EAFE, 11:8; WPE, NXE, SMEP.
        let unused = if kind == SECOND || kind == PASS { ADDRESS | 3 << 2 } else { 0 };
        check(2, HIGH | 3 | 1 << 7 | 0xf << 8, 7 << 4 | unused);
        (3..8).for_each(|word| check(word, !0, 0));
    }
}

#[test]
fn pasid_entries_of_a_full_unit() {
    let code = FaultCode::PASID_RESERVED;
    let rig = Rig::scalable(full(), SECOND);
    // SSEE, FPD; SSADE asks for updates, which the walk does not snoop for.
    check(&rig, "word 0", &Word { at: rig.pasids, reserved: HIGH | 3 << 10, ignored: 2 | 1 << 5, code });
    // DID, PWSNP, PGSNP, CD, EMTE, PAT.
    let ignored = 0xffff | 0xf << 23 | 0xffff_ffff << 32;
    check(&rig, "word 1", &Word { at: rig.pasids + 8, reserved: 0x7f << 16 | 0x1f << 27, ignored, code });
    let ignored = ADDRESS | 0xff;
    check(&rig, "word 2", &Word { at: rig.pasids + 16, reserved: HIGH | 0xf << 8, ignored, code });
    // Domain ids of 10 bits.
    let rig = Rig::scalable(full().domain_ids(3), SECOND);
    let ignored = 0x3ff | 0xf << 23 | 0xffff_ffff << 32;
    let reserved = 0x3f << 10 | 0x7f << 16 | 0x1f << 27;
    check(&rig, "narrow domain ids", &Word { at: rig.pasids + 8, reserved, ignored, code });
}

#[test]
fn pasid_entries_of_units_with_one_stage() {
    // Without FSTS: FSPM, WPE, FSPTPTR.
    let rig = Rig::scalable(Config { haw: 46, ..Config::second_stage() }, SECOND);
    let (code, reserved) = (FaultCode::PASID_RESERVED, !0x61);
    check(&rig, "no first stage", &Word { at: rig.pasids + 16, reserved, ignored: 0x61, code });
    // Without SSTS: SSPTPTR, SSADE.
    let rig = Rig::scalable(Config { haw: 46, ..Config::first_stage() }, FIRST);
    let reserved = !0xfff | 7 << 9 | 1 << 5;
    // AW, which revisions disagree about.
    check(&rig, "no second stage", &Word { at: rig.pasids, reserved, ignored: 2 | 7 << 2, code });
}

#[test]
fn pasid_entries_that_the_unit_cannot_serve() {
    let invalid = Err(FaultCode::PASID_INVALID);
    let kinds = |config: Config, valid: &[u64]| {
        let rig = Rig::scalable(config, valid[0]);
        for kind in 0..8 {
            let found = rig.read_with(rig.pasids, rig.get(rig.pasids) & !(7 << 6) | kind << 6);
            assert_eq!(found != invalid, valid.contains(&kind), "PGTT {kind} of {:#x}", config.ecap);
        }
    };
    kinds(Config::second_stage(), &[SECOND, PASS]);
    kinds(Config::first_stage(), &[FIRST, PASS]);
    kinds(Config::server(), &[FIRST, SECOND, PASS]);
    kinds(Config::server_nested(), &[FIRST, SECOND, NESTED, PASS]);
    kinds(Config::server().ecap_bits(Config::ECAP_PT, false), &[FIRST, SECOND]);
    // AW against SAGAW, where there is a second stage.
    for (sagaw, valid) in [(2, vec![1]), (4, vec![2]), (6, vec![1, 2]), (0xe, vec![1, 2, 3]), (8, vec![3])] {
        for kind in [SECOND, NESTED, PASS] {
            let rig = Rig::scalable(Config::server_nested().depths(sagaw), kind);
            for width in 0..8u64 {
                let entry = rig.get(rig.pasids) & !(7 << 2) | width << 2;
                let found = rig.read_with(rig.pasids, entry) != invalid;
                assert_eq!(found, valid.contains(&width), "SAGAW {sagaw:#x}, PGTT {kind}, AW {width}");
            }
        }
    }
    // FSPM: five levels need FS5LP, the others are reserved. The second stage does not look at it.
    for (five, config) in
        [(true, Config::server_nested()), (false, Config::server_nested().cap_bits(Config::CAP_FS5LP, false))]
    {
        for kind in [FIRST, NESTED, SECOND] {
            let rig = Rig::scalable(config, kind);
            for mode in 0..4u64 {
                let found = rig.read_with(rig.pasids + 16, rig.get(rig.pasids + 16) | mode << 2) != invalid;
                assert_eq!(found, kind == SECOND || mode == 0 || mode == 1 && five, "PGTT {kind}, FSPM {mode}");
            }
        }
    }
}

#[test]
fn second_stage_entries() {
    let run = |rig: &Rig, config: Config, code: FaultCode| {
        let snoops = config.ecap & Config::ECAP_SC != 0;
        for (depth, at) in rig.second.iter().enumerate() {
            let leaf = depth == 3;
            // R and W, PS where it makes a leaf, the address.
            let software = 1 << 63 | 0x3ff << 52 | 7 << 8 | 0x7c;
            let mut reserved = HIGH_PAGE | 1 << 62;
            let mut ignored = software & !(1 << 62);
            match (leaf, snoops) {
                (true, true) => ignored |= 1 << 11 | 1 << 7,
                (true, false) => (reserved, ignored) = (reserved | 1 << 11, ignored | 1 << 7),
                _ => reserved |= 1 << 11,
            }
            if depth == 0 {
                reserved |= 1 << 7;
            }
            check(rig, &format!("level {}", 4 - depth), &Word { at: *at, reserved, ignored, code });
        }
        // Leaves of 1 GiB and 2 MiB are aligned.
        for (depth, bits) in [(1, 30), (2, 21)] {
            let leaf = 1 << bits | 0x83;
            assert_eq!(rig.read_with(rig.second[depth], leaf), Ok(1 << bits));
            for bit in 12..bits {
                assert_eq!(rig.read_with(rig.second[depth], leaf | 1 << bit), Err(code), "leaf of 2^{bits}: {bit}");
            }
            let snoop = if snoops { Ok(1 << bits) } else { Err(code) };
            assert_eq!(rig.read_with(rig.second[depth], leaf | 1 << 11), snoop);
            assert_eq!(rig.read_with(rig.second[depth], leaf | 1 << 62), Err(code));
        }
    };
    for config in [Config::server(), Config::server().ecap_bits(Config::ECAP_SC, false)] {
        run(&Rig::scalable(config, SECOND), config, FaultCode::SECOND_RESERVED);
        run(&Rig::legacy(config), config, FaultCode::LEGACY_RESERVED);
    }
    // Large leaves need SSLPS.
    for (mask, depth, entry) in [(Config::CAP_SSLPS_2M, 2, 0x4020_0083), (Config::CAP_SSLPS_1G, 1, 0x4000_0083)] {
        let config = Config::server().cap_bits(mask, false);
        let (scalable, legacy) = (Rig::scalable(config, SECOND), Rig::legacy(config));
        assert_eq!(scalable.read_with(scalable.second[depth], entry), Err(FaultCode::SECOND_RESERVED));
        assert_eq!(legacy.read_with(legacy.second[depth], entry), Err(FaultCode::LEGACY_RESERVED));
    }
}

#[test]
fn memory_types_are_looked_at_with_emte() {
    let rig = Rig::scalable(full(), SECOND);
    let leaf = rig.second[3];
    for kind in 0..8 {
        assert_eq!(rig.read_with(leaf, PAGE | kind << 3 | 3), Ok(PAGE));
    }
    rig.add(rig.pasids + 8, 1 << 26);
    for kind in 0..8 {
        let valid = matches!(kind, 0 | 1 | 4 | 5 | 6);
        let found = rig.read_with(leaf, PAGE | kind << 3 | 3);
        assert_eq!(found, if valid { Ok(PAGE) } else { Err(FaultCode::SECOND_RESERVED) }, "EMT {kind}");
        // Only leaves have one.
        assert_eq!(rig.read_with(rig.second[2], rig.second[3] | kind << 3 | 3), Ok(PAGE));
    }
}

#[test]
fn first_stage_entries() {
    let code = FaultCode::FIRST_RESERVED;
    let rig = Rig::scalable(Config::server(), FIRST);
    for (depth, at) in rig.first.iter().enumerate() {
        let leaf = depth == 3;
        // R/W does not matter to a read, D neither; PWT, PCD, G and software's.
        let mut ignored = 0x7ff << 52 | 7 << 8 | 1 << 11 | 1 << 6 | 3 << 3 | 2;
        let mut reserved = HIGH_PAGE | 1 << 63;
        match depth {
            0 => reserved |= 1 << 7,
            3 => ignored |= 1 << 7,
            _ => {}
        }
        check(&rig, &format!("level {}", 4 - depth), &Word { at: *at, reserved, ignored, code });
        // NXE gives bit 63 a meaning, none of it for reads.
        rig.add(rig.pasids + 16, 1 << 5);
        assert_eq!(rig.read_with(*at, rig.get(*at) | 1 << 63), Ok(PAGE), "leaf {leaf}");
        rig.remove(rig.pasids + 16, 1 << 5);
    }
    for (depth, bits) in [(1, 30), (2, 21)] {
        let leaf = 1 << bits | 0x80 | LEAF;
        // Bit 12 is PAT.
        assert_eq!(rig.read_with(rig.first[depth], leaf | 1 << 12), Ok(1 << bits));
        for bit in 13..bits {
            assert_eq!(rig.read_with(rig.first[depth], leaf | 1 << bit), Err(code), "leaf of 2^{bits}: {bit}");
        }
    }
    // 1 GiB needs FS1GP, 2 MiB nothing.
    let rig = Rig::scalable(Config::server().cap_bits(Config::CAP_FS1GP, false), FIRST);
    assert_eq!(rig.read_with(rig.first[1], 1 << 30 | 0x80 | LEAF), Err(code));
    assert_eq!(rig.read_with(rig.first[2], 1 << 30 | 0x80 | LEAF), Ok(1 << 30));
}

#[test]
fn what_is_not_present_is_not_looked_at() {
    let rig = Rig::scalable(Config::server(), FIRST);
    for (at, code) in [
        (rig.table(), FaultCode::ROOT_NOT_PRESENT),
        (rig.context_entry(), FaultCode::CONTEXT_NOT_PRESENT),
        (rig.directory, FaultCode::DIRECTORY_NOT_PRESENT),
        (rig.pasids, FaultCode::PASID_NOT_PRESENT),
        (rig.first[0], FaultCode::FIRST_NOT_PRESENT),
        (rig.first[3], FaultCode::FIRST_NOT_PRESENT),
    ] {
        assert_eq!(rig.read_with(at, !1), Err(code), "{at:#x}");
    }
    let rig = Rig::scalable(Config::server(), SECOND);
    assert_eq!(rig.read_with(rig.second[3], !3), Err(FaultCode::SECOND_PERMISSION));
    let rig = Rig::legacy(Config::legacy());
    for (at, code) in [
        (rig.table(), FaultCode::LEGACY_ROOT_NOT_PRESENT),
        (rig.context_entry(), FaultCode::LEGACY_CONTEXT_NOT_PRESENT),
    ] {
        assert_eq!(rig.read_with(at, !1), Err(code), "{at:#x}");
    }
    assert_eq!(rig.read_with(rig.second[3], !3), Err(FaultCode::LEGACY_READ));
}
