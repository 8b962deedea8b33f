//! Stream table and STE.

use super::page::{Flags, Stage2, Tables};
use super::view::{fetch, fetch_one};
use super::{Config, FaultCode, Granule, Policy, Refused, Structure, View};

/// A stream table entry, as it was fetched.
pub(super) type Ste = [u64; 8];

/// Bits 51:6.
const POINTER: u64 = 0x000f_ffff_ffff_ffc0;
/// Bits 51:4.
pub(super) const TABLE: u64 = 0x000f_ffff_ffff_fff0;

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

/// The STE of `sid`, from the view's cache or from memory.
pub(super) fn ste(view: &mut dyn View, config: &Config, tables: super::Tables, sid: u32) -> Result<Ste, Refused> {
    let log2 = (tables.config & 0x3f).min(config.sid_size());
    if u64::from(sid) >> log2 != 0 {
        return Err(BAD_STREAM);
    }
    if let Some(words) = view.ste(sid) {
        return Ok(words);
    }
    let base = tables.base & POINTER;
    let at = if tables.config >> 16 & 3 == 1 && config.two_level() {
        // Other splits are taken as 6.
        let split = match tables.config >> 6 & 0x1f {
            split @ (6 | 8 | 10) => split,
            _ => 6,
        };
        let base = base & !((1 << (log2.saturating_sub(split) + 3).max(6)) - 1);
        let index = sid >> split;
        let phys = base + u64::from(index) * 8;
        let descriptor = match view.level1(index) {
            Some(descriptor) => descriptor,
            None => {
                let refused = Refused::fetching(FaultCode::F_STE_FETCH, phys);
                let descriptor = fetch_one(view, Structure::StreamTable, phys).ok_or(refused)?;
                view.keep_level1(index, descriptor);
                descriptor
            }
        };
        let (span, inside) = ((descriptor & 0x1f) as u32, sid & ((1 << split) - 1));
        // Bit 5 and 63:52 are reserved; spans from 12 on are none.
        let reserved = descriptor & (1 << 5 | 0xfff << 52) != 0;
        if reserved || span == 0 || span > split + 1 || inside >> (span - 1) != 0 {
            return Err(BAD_STREAM);
        }
        (descriptor & POINTER & !((1 << (span + 5)) - 1)) + u64::from(inside) * 64
    } else {
        (base & !((1 << (log2 + 6)) - 1)) + u64::from(sid) * 64
    };
    let words = fetch(view, Structure::Ste, at).map_err(|at| Refused::fetching(FaultCode::F_STE_FETCH, at))?;
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
    let reserved = reserved(config);
    if words.iter().zip(reserved).any(|(word, reserved)| word & reserved != 0) {
        return Err(BAD_STE);
    }
    if first && !config.has(Config::S1P) || second && !config.has(Config::S2P) {
        return Err(BAD_STE);
    }
    // S1STALLD.
    if first && config.stall_model() != 0 && words[1] >> 27 & 1 != 0 {
        return Err(BAD_STE);
    }
    if first || second {
        check_ats(config, words, first, second)?;
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

/// Bits that no unit has, and those of features that this one lacks; what only its configuration ignores may be set.
fn reserved(config: &Config) -> [u64; 8] {
    let high = 0xfff << 52;
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
    if !config.has(Config::PRI) || config.ssid_size() == 0 {
        // PPAR.
        reserved[1] |= 1 << 18;
    }
    if config.idr1 & Config::ATTR_TYPES_OVR == 0 {
        // MemAttr, MTCFG, ALLOCCFG. SHCFG "use incoming" is what a unit without it does.
        reserved[1] |= 0x1ff << 32 | 1 << 45;
    }
    if config.idr1 & Config::ATTR_PERMS_OVR == 0 {
        // PRIVCFG, INSTCFG.
        reserved[1] |= 0xf << 48;
    }
    if !config.has(Config::VMID16) {
        reserved[2] |= 0xff << 8;
    }
    reserved
}

/// EATS.
fn check_ats(config: &Config, words: &Ste, first: bool, second: bool) -> Result<(), Refused> {
    let stalls = words[2] >> 57 & 1 != 0;
    // Version 3.0 may look at S2S although stage 2 is not used.
    let looks = second || config.aidr & 0xf == 0;
    match words[1] >> 28 & 3 {
        1 if stalls && looks => Err(BAD_STE),
        2 if !(first && second) || stalls || config.has(Config::NS1ATS) => Err(BAD_STE),
        // There is no DPT.
        3 => Err(BAD_STE),
        _ => Ok(()),
    }
}

fn check_first(config: &Config, words: &Ste, second: bool) -> Result<(), Refused> {
    let (format, substreams) = (words[0] >> 4 & 3, (words[0] >> 59) as u32);
    let two_level = substreams != 0 && format != 0;
    let tables = substreams > config.ssid_size()
        || two_level && (format == 3 || !config.has(Config::CD2L))
        || substreams != 0 && words[1] & 3 == 3;
    // A table of CDs is aligned to its size; nobody says what becomes of one that is not.
    let size = match (substreams, format) {
        (0, _) => 6,
        (_, 0) => substreams + 6,
        (_, 1) => (substreams.saturating_sub(6) + 3).max(6),
        _ => (substreams.saturating_sub(10) + 3).max(6),
    };
    let pointer = words[0] & POINTER;
    // Stage 2 takes any address that it translates; alone it must be the unit's.
    let beyond = !second && pointer >> config.output_bits() != 0 || pointer & ((1 << size) - 1) != 0;
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
    let stalls = match config.stall_model() {
        0 => true,
        1 => !bit(57),
        _ => bit(57),
    };
    let (ha, hd) = (bit(56), bit(55));
    let updates = (!ha || config.updates() >= 1) && (!hd || ha && config.updates() >= 2);
    let granule = Granule::low(word >> 46).filter(|granule| config.has_granule(*granule)).ok_or(BAD_STE)?;
    // S2AA64 set, S2ENDI clear.
    if !bit(51) || bit(52) || !stalls || !updates {
        return Err(BAD_STE);
    }
    let output_bits = Config::width(word >> 48 & 7).ok_or(BAD_STE)?.min(config.output_bits());
    let t0sz = (word >> 32 & 0x3f) as u32;
    if t0sz > config.most_t0sz(granule) || t0sz < 16.max(64 - output_bits) {
        return Err(BAD_STE);
    }
    // The host has the highest levels only where it has addresses for them.
    let level = match (granule.bits(), word >> 38 & 3) {
        (12, 3) if config.small_tables() => 3,
        (12, 2) if output_bits >= 44 => 0,
        (12, code @ (0 | 1)) => 2 - code as u8,
        (14, code @ (0 | 1)) => 3 - code as u8,
        (14, 2) if output_bits >= 42 => 1,
        (16, code @ (0 | 1)) => 3 - code as u8,
        (16, 2) if output_bits >= 44 => 1,
        _ => return Err(BAD_STE),
    };
    let input_bits = 64 - t0sz;
    // At least one bit of index, and up to 16 tables side by side at the top.
    let shift = granule.shift(level);
    if input_bits <= shift || input_bits > shift + granule.stride() + 4 {
        return Err(BAD_STE);
    }
    let table = words[3] & TABLE;
    if table >> output_bits != 0 || table & ((1u64 << (input_bits - shift + 3)).max(16) - 1) != 0 {
        return Err(BAD_STE);
    }
    let cached = |low: u32| word >> low & 1 != 0;
    // S2IR0 and S2OR0 write-back, S2SH0 not for this agent alone.
    let snooped = config.has(Config::COHACC) && cached(40) && cached(42) && bit(45);
    Ok(Stage2 {
        tables: Tables { table, level, input_bits, output_bits, granule, flat: true, tagged: false },
        vmid: words[2] as u16,
        flags: Flags { accessed: ha, dirty: hd, ignored: bit(53), snooped },
        protected: bit(54),
        forced: words[1] >> 25 & 1 != 0,
        policy: Policy { silent: !bit(58), stalls: bit(57), aborts: true },
    })
}
