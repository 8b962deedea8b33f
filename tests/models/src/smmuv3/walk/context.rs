//! Substreams and context descriptors.

use super::page::{Flags, Stage1, Tables};
use super::stream::{Ste, TABLE};
use super::view::{fetch as fetch_words, fetch_one};
use super::{Config, FaultCode, Granule, Policy, Refused, Structure, View};

/// A context descriptor, as it was fetched.
pub(super) type Cd = [u64; 8];

const BAD_CD: Refused = Refused::by(FaultCode::C_BAD_CD);
const BAD_SUBSTREAM: Refused = Refused::by(FaultCode::C_BAD_SUBSTREAMID);
const DISABLED: Refused = Refused::by(FaultCode::F_STREAM_DISABLED);

/// The CD that a request with `ssid` uses; `None` where S1DSS lets it bypass stage 1.
pub(super) fn select(words: &Ste, ssid: Option<u32>) -> Result<Option<u32>, Refused> {
    let (substreams, default) = (words[0] >> 59, words[1] & 3);
    match ssid {
        None if substreams == 0 => Ok(Some(0)),
        Some(_) if substreams == 0 => Err(BAD_SUBSTREAM),
        None if default == 0 => Err(DISABLED),
        None if default == 1 => Ok(None),
        None => Ok(Some(0)),
        Some(ssid) if u64::from(ssid) >> substreams != 0 => Err(BAD_SUBSTREAM),
        // Its CD is that of requests without substream.
        Some(0) if default == 2 => Err(DISABLED),
        Some(ssid) => Ok(Some(ssid)),
    }
}

/// A request with `ssid` where stage 1 is not used at all.
pub(super) fn without_first(ssid: Option<u32>) -> Result<(), Refused> {
    if ssid.is_some() { Err(BAD_SUBSTREAM) } else { Ok(()) }
}

/// How the 64 bytes, or the 8, at an address that stage 2 may translate are found.
pub(super) type Locate<'a> = &'a mut dyn FnMut(&mut dyn View, u64) -> Result<u64, Refused>;

/// The CD of `ssid`, from the view's cache or from memory.
pub(super) fn cd(view: &mut dyn View, words: &Ste, sid: u32, ssid: u32, locate: Locate<'_>) -> Result<Cd, Refused> {
    if let Some(cd) = view.cd(sid, ssid) {
        return Ok(cd);
    }
    let pointer = words[0] & 0x000f_ffff_ffff_ffc0;
    let (substreams, format) = (words[0] >> 59, words[0] >> 4 & 3);
    let at = if substreams != 0 && format != 0 {
        // CDs in a leaf, as a power of two.
        let leaf = if format == 1 { 6 } else { 10 };
        let descriptor = match view.cd_level1(sid, leaf, ssid) {
            Some(descriptor) => descriptor,
            None => {
                let phys = locate(view, pointer + u64::from(ssid >> leaf) * 8)?;
                let refused = Refused::fetching(FaultCode::F_CD_FETCH, phys);
                let descriptor = fetch_one(view, Structure::CdTable, phys).ok_or(refused)?;
                view.keep_cd_level1(sid, leaf, ssid, descriptor);
                descriptor
            }
        };
        // V; reserved bits, those below leaves of 64 KiB included.
        let reserved = 0xfff << 52 | if leaf == 6 { 0xffe } else { 0xfffe };
        if descriptor & 1 == 0 || descriptor & reserved != 0 {
            return Err(BAD_SUBSTREAM);
        }
        (descriptor & 0x000f_ffff_ffff_f000) + u64::from(ssid & ((1 << leaf) - 1)) * 64
    } else {
        pointer + u64::from(ssid) * 64
    };
    let phys = locate(view, at)?;
    let words = fetch_words(view, Structure::Cd, phys).map_err(|at| Refused::fetching(FaultCode::F_CD_FETCH, at))?;
    view.keep_cd(sid, ssid, &words);
    Ok(words)
}

/// Checks a CD (section 5.4.2) and says what it means. `nested`: its addresses are stage 2's to translate.
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
    let updates = (!ha || config.updates() >= 1) && (!hd || ha && config.updates() >= 2);
    if !stalls || !updates || config.has(Config::TERM_MODEL) && !access {
        return Err(BAD_CD);
    }
    let el2 = !nested && ste[1] >> 30 & 3 == 2;
    let asid = (cd[0] >> 48) as u16;
    if !el2 && asid > 0xff && !config.has(Config::ASID16) {
        return Err(BAD_CD);
    }
    // NSCFG, E0PD, HAFT and their like are reserved here, as is what needs page-based attributes or MPAM.
    let reserved = 0x3ff << 54 | 3 << 52 | 0xd | if config.hierarchical_disable() { 0 } else { 2 };
    if cd[1] & reserved != 0 || cd[2] & reserved != 0 || cd[5..].iter().any(|word| *word != 0) {
        return Err(BAD_CD);
    }
    let output_bits = Config::width(cd[0] >> 32 & 7).ok_or(BAD_CD)?.min(config.output_bits());
    let half = |txsz: u64, granule: Option<Granule>, word: u64, tagged: bool| {
        let granule = granule.filter(|granule| config.has_granule(*granule)).ok_or(BAD_CD)?;
        let txsz = txsz as u32 & 0x3f;
        if txsz < 16 || txsz > config.most_t0sz(granule) {
            return Err(BAD_CD);
        }
        let (table, input_bits) = (word & TABLE, 64 - txsz);
        let level = granule.top(input_bits);
        let size = (1u64 << (input_bits - granule.shift(level) + 3)).max(16);
        // Nested, stage 2 still checks what lies within.
        if table & (size - 1) != 0 || table >> output_bits.min(48) != 0 {
            return Err(BAD_CD);
        }
        Ok(Tables { table, level, input_bits, output_bits, granule, flat: word & 2 != 0, tagged })
    };
    // EL2 has one half, which is always on.
    let low = if bit(14) && !el2 { None } else { Some(half(cd[0], Granule::low(cd[0] >> 6), cd[1], bit(38))?) };
    let second_half = |cd: &Cd| half(cd[0] >> 16, Granule::high(cd[0] >> 22), cd[2], bit(39));
    let high = if bit(30) || el2 { None } else { Some(second_half(cd)?) };
    // IR and OR write-back, SH not for this agent alone, of each half that is walked.
    let cached = |low: u32| cd[0] >> low & 1 != 0 && cd[0] >> (low + 2) & 1 != 0 && cd[0] >> (low + 5) & 1 != 0;
    let snooped = config.has(Config::COHACC) && (low.is_none() || cached(8)) && (high.is_none() || cached(24));
    Ok(Stage1 {
        low,
        high,
        asid,
        el2,
        privileged: el2 || ste[1] >> 48 & 3 == 3,
        flags: Flags { accessed: ha, dirty: hd, ignored: bit(35), snooped },
        policy: Policy { silent: !bit(45), stalls: stall, aborts: access },
    })
}
