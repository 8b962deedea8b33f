//! Substreams and context descriptors.

use super::page::{Half, Stage1};
use super::stream::Ste;
use super::{Config, FaultCode, Policy, Refused, View};

/// A context descriptor, as it was fetched.
pub(super) type Cd = [u64; 8];

const BAD_CD: Refused = Refused::by(FaultCode::C_BAD_CD);
const BAD_SUBSTREAM: Refused = Refused::by(FaultCode::C_BAD_SUBSTREAMID);

/// The CD that a request with `ssid` uses; `None` where S1DSS lets it bypass stage 1.
pub(super) fn select(words: &Ste, ssid: Option<u32>) -> Result<Option<u32>, Refused> {
    let (substreams, default) = (words[0] >> 59, words[1] & 3);
    match ssid {
        None if substreams == 0 => Ok(Some(0)),
        Some(_) if substreams == 0 => Err(BAD_SUBSTREAM),
        None if default == 0 => Err(Refused::by(FaultCode::F_STREAM_DISABLED)),
        None if default == 1 => Ok(None),
        None => Ok(Some(0)),
        Some(ssid) if u64::from(ssid) >> substreams != 0 || default == 2 && ssid == 0 => Err(BAD_SUBSTREAM),
        Some(ssid) => Ok(Some(ssid)),
    }
}

/// How the 64 bytes, or the 8, at an address that stage 2 may translate are found.
pub(super) type Locate<'a> = &'a mut dyn FnMut(&mut dyn View, u64) -> Result<u64, Refused>;

/// Reads the CD of `ssid`.
pub(super) fn fetch(view: &mut dyn View, words: &Ste, ssid: u32, locate: Locate<'_>) -> Result<Cd, Refused> {
    let pointer = words[0] & 0x000f_ffff_ffff_ffc0;
    let substreams = (words[0] >> 59) as u32;
    // CDs in a leaf, as a power of two.
    let leaf = match words[0] >> 4 & 3 {
        1 => 6,
        _ => 10,
    };
    let at = if substreams != 0 && words[0] >> 4 & 3 != 0 {
        let base = pointer & !((1 << (substreams.saturating_sub(leaf) + 3).max(6)) - 1);
        let at = base + u64::from(ssid >> leaf) * 8;
        let phys = locate(view, at)?;
        let descriptor = view.word(phys).ok_or(Refused::fetching(FaultCode::F_CD_FETCH, at))?;
        if descriptor & 1 == 0 {
            return Err(BAD_SUBSTREAM);
        }
        (descriptor & 0x000f_ffff_ffff_f000) + u64::from(ssid & ((1 << leaf) - 1)) * 64
    } else {
        (pointer & !((1 << (substreams + 6)) - 1)) + u64::from(ssid) * 64
    };
    let phys = locate(view, at)?;
    super::stream::fetch(view, phys).map_err(|_| Refused::fetching(FaultCode::F_CD_FETCH, at))
}

/// Checks a CD and says what it means. `nested`: its addresses are stage 2's to translate.
pub(super) fn check(config: &Config, ste: &Ste, cd: &Cd, nested: bool) -> Result<Stage1, Refused> {
    let bit = |bit: u32| cd[0] >> bit & 1 != 0;
    // V, AA64, little endian.
    if !bit(31) || !bit(41) || bit(15) {
        return Err(BAD_CD);
    }
    let (access, stall, ha, hd) = (bit(46), bit(44), bit(43), bit(42));
    let stalls = match config.stall_model() {
        0 => !(stall && ste[1] >> 27 & 1 != 0),
        1 => !stall,
        _ => stall,
    };
    let dirty = (!ha || config.httu() >= 1) && (!hd || ha && config.httu() >= 2);
    if !stalls || !dirty || config.has(Config::TERM_MODEL) && !access {
        return Err(BAD_CD);
    }
    let asid = (cd[0] >> 48) as u16;
    if asid > 0xff && !config.has(Config::ASID16) {
        return Err(BAD_CD);
    }
    // NSCFG, E0PD, HAFT and their like are reserved here, as is what needs page-based attributes or MPAM.
    let reserved = 0x3ff << 54 | 3 << 52 | 0xd | if config.hierarchical_disable() { 0 } else { 2 };
    if cd[1] & reserved != 0 || cd[2] & reserved != 0 || cd[5..].iter().any(|word| *word != 0) {
        return Err(BAD_CD);
    }
    let output_bits = Config::width(cd[0] >> 32 & 7).ok_or(BAD_CD)?.min(config.output_bits());
    let half = |txsz: u64, granule_is_4k: bool, word: u64| {
        let (txsz, most) = (txsz as u32 & 0x3f, if config.small_tables() { 48 } else { 39 });
        if !(16..=most).contains(&txsz) || !granule_is_4k || !config.gran4k() {
            return Err(BAD_CD);
        }
        let table = word & 0x000f_ffff_ffff_fff0;
        let input_bits = 64 - txsz;
        // Levels below the top each take 9 bits.
        let below = (input_bits - 13) / 9;
        let size = (1u64 << (input_bits - 12 - 9 * below + 3)).max(64);
        // Nested, the width is that of stage 2's input, which stage 2 checks itself.
        if table & (size - 1) != 0 || !nested && table >> output_bits != 0 {
            return Err(BAD_CD);
        }
        Ok(Half { table, input_bits, level: (3 - below) as u8, flat: word & 2 != 0 })
    };
    // TG0 is 0 for 4 KiB, TG1 is 2.
    let low = if bit(14) { None } else { Some(half(cd[0], cd[0] >> 6 & 3 == 0, cd[1])?) };
    let high = if bit(30) { None } else { Some(half(cd[0] >> 16, cd[0] >> 22 & 3 == 2, cd[2])?) };
    let el2 = !nested && ste[1] >> 30 & 3 == 2;
    Ok(Stage1 {
        low,
        high,
        output_bits,
        asid,
        el2,
        privileged: el2 || ste[1] >> 48 & 3 == 3,
        no_access_flag: bit(35) || ha,
        policy: Policy { silent: !bit(45), stalls: bit(44), aborts: bit(46) },
    })
}
