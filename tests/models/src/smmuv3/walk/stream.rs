//! Stream table and STE.

use super::page::Stage2;
use super::{Config, FaultCode, Policy, Refused, Tables, View};

/// A stream table entry, as it was fetched.
pub(super) type Ste = [u64; 8];

/// Bits 51:6, and 51:4 for stage 2.
const ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;

const BAD_STREAM: Refused = Refused::by(FaultCode::C_BAD_STREAMID);
const BAD_STE: Refused = Refused::by(FaultCode::C_BAD_STE);

/// What an STE says.
pub(super) enum Kind {
    /// Every request is terminated, without a record.
    Abort,
    /// Untranslated.
    Bypass,
    /// Through stage 1, stage 2, or both.
    Translate { first: bool, second: Option<Stage2> },
}

/// Reads 64 bytes; the address that did not answer otherwise.
pub(super) fn fetch(view: &mut dyn View, phys: u64) -> Result<[u64; 8], u64> {
    let mut words = [0; 8];
    for (index, word) in words.iter_mut().enumerate() {
        let at = phys + index as u64 * 8;
        *word = view.word(at).ok_or(at)?;
    }
    Ok(words)
}

/// The STE of `sid`, from the view's cache or from memory.
pub(super) fn ste(view: &mut dyn View, config: &Config, tables: Tables, sid: u32) -> Result<Ste, Refused> {
    let log2 = (tables.config & 0x3f).min(config.sid_size());
    if u64::from(sid) >> log2 != 0 {
        return Err(BAD_STREAM);
    }
    if let Some(words) = view.ste(sid) {
        return Ok(words);
    }
    let base = tables.base & ADDRESS;
    let at = if tables.config >> 16 & 3 == 1 && config.two_level() {
        // Other splits are taken as 6.
        let split = match tables.config >> 6 & 0x1f {
            split @ (6 | 8 | 10) => split,
            _ => 6,
        };
        let base = base & !((1 << (log2.saturating_sub(split) + 3).max(6)) - 1);
        let index = sid >> split;
        let phys = base + u64::from(index) * 8;
        let descriptor = view.level1(index, phys).ok_or(Refused::fetching(FaultCode::F_STE_FETCH, phys))?;
        let (span, inside) = ((descriptor & 0x1f) as u32, sid & ((1 << split) - 1));
        if span == 0 || span > split + 1 || inside >> (span - 1) != 0 {
            return Err(BAD_STREAM);
        }
        (descriptor & ADDRESS & !((1 << (span + 5)) - 1)) + u64::from(inside) * 64
    } else {
        (base & !((1 << (log2 + 6)) - 1)) + u64::from(sid) * 64
    };
    let words = fetch(view, at).map_err(|at| Refused::fetching(FaultCode::F_STE_FETCH, at))?;
    view.keep_ste(sid, &words);
    Ok(words)
}

/// Checks an STE and says what it means.
pub(super) fn kind(config: &Config, words: &Ste) -> Result<Kind, Refused> {
    if words[0] & 1 == 0 {
        return Err(BAD_STE);
    }
    let (first, second) = match words[0] >> 1 & 7 {
        // Nothing else is looked at.
        0 => return Ok(Kind::Abort),
        4 => (false, false),
        5 => (true, false),
        6 => (false, true),
        7 => (true, true),
        _ => return Err(BAD_STE),
    };
    let high = 0xfff << 52;
    // Bits that no unit has, and those of features that this one lacks; what only its configuration ignores may be set.
    let mut reserved =
        [0x7f << 52, 7 << 41 | high, 0xffff << 16 | 0x1f << 59, 0xf | high, u64::MAX, u64::MAX, u64::MAX, u64::MAX];
    // S2HWU, S1PIE, S1MPAM.
    reserved[1] |= 0xf << 8 | 1 << 24 | 1 << 26;
    if !config.forced_write_back() {
        reserved[1] |= 1 << 25;
    }
    if !config.has(Config::ATS) {
        reserved[1] |= 3 << 28;
    }
    if config.stall_model() != 0 {
        reserved[1] |= 1 << 27;
    }
    if !config.has(Config::VMID16) {
        reserved[2] |= 0xff << 8;
    }
    if words.iter().zip(reserved).any(|(word, reserved)| word & reserved != 0) {
        return Err(BAD_STE);
    }
    if first && !config.has(Config::S1P) || second && !config.has(Config::S2P) {
        return Err(BAD_STE);
    }
    if first {
        check_first(config, words, second)?;
    }
    let second = if second { Some(stage_2(config, words)?) } else { None };
    match (first, second) {
        (false, None) => Ok(Kind::Bypass),
        (first, second) => Ok(Kind::Translate { first, second }),
    }
}

fn check_first(config: &Config, words: &Ste, second: bool) -> Result<(), Refused> {
    let (format, substreams) = (words[0] >> 4 & 3, (words[0] >> 59) as u32);
    let two_level = substreams != 0 && format != 0;
    let tables = substreams > config.ssid_size()
        || two_level && (format == 3 || !config.has(Config::CD2L))
        || substreams != 0 && words[1] & 3 == 3;
    // Stage 2 takes any address that it translates; alone it must be the unit's.
    let beyond = !second && (words[0] & ADDRESS) >> config.output_bits() != 0;
    let world = match words[1] >> 30 & 3 {
        0 => true,
        2 => second || config.has(Config::HYP),
        _ => second,
    };
    if tables || beyond || !world { Err(BAD_STE) } else { Ok(()) }
}

/// Checks the fields of stage 2.
fn stage_2(config: &Config, words: &Ste) -> Result<Stage2, Refused> {
    let word = words[2];
    let bit = |bit: u32| word >> bit & 1 != 0;
    let stall = bit(57);
    let stalls = match config.stall_model() {
        0 => !(stall && words[1] >> 28 & 3 == 1),
        1 => !stall,
        _ => stall,
    };
    let (ha, hd) = (bit(56), bit(55));
    let dirty = (!ha || config.httu() >= 1) && (!hd || ha && config.httu() >= 2);
    let granule = word >> 46 & 3 == 0 && config.gran4k();
    // S2AA64 set, S2ENDI clear.
    if !bit(51) || bit(52) || !granule || !stalls || !dirty {
        return Err(BAD_STE);
    }
    let output_bits = Config::width(word >> 48 & 7).ok_or(BAD_STE)?.min(config.output_bits());
    let t0sz = (word >> 32 & 0x3f) as u32;
    let most = if config.small_tables() { 48 } else { 39 };
    if t0sz > most || t0sz < 16.max(64 - output_bits) {
        return Err(BAD_STE);
    }
    let level = match word >> 38 & 3 {
        0 => 2,
        1 => 1,
        // The host has no such level with so few bits.
        2 if output_bits >= 44 => 0,
        _ => return Err(BAD_STE),
    };
    let input_bits = 64 - t0sz;
    // Up to 16 tables side by side at the top, but one at level 0.
    let shift = 39 - 9 * level;
    let widest = shift + if level == 0 { 9 } else { 13 };
    if input_bits <= shift || input_bits > widest {
        return Err(BAD_STE);
    }
    let table = words[3] & 0x000f_ffff_ffff_fff0;
    let size = (1u64 << (input_bits - shift + 3)).max(64);
    if table >> output_bits != 0 || table & (size - 1) != 0 {
        return Err(BAD_STE);
    }
    Ok(Stage2 {
        table,
        level: level as u8,
        input_bits,
        output_bits,
        vmid: words[2] as u16,
        no_access_flag: bit(53) || ha,
        policy: Policy { silent: !bit(58), stalls: bit(57), aborts: true },
    })
}
