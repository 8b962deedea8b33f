//! Commands (section 4), decoded from raw words.

use super::config::Config;

/// What a TLB invalidation covers, of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// First address.
    pub address: u64,
    /// Length in bytes; `None` for a single address, whatever leaf holds it.
    pub len: Option<u64>,
    /// Only leaves (Leaf).
    pub leaf_only: bool,
    /// The level of the leaves, 1 to 3; 0 where it is not known (TTL).
    pub level: u8,
    /// log2 of the granule (TG); 0 for any.
    pub granule: u8,
}

/// A command that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// CMD_PREFETCH_CONFIG and CMD_PREFETCH_ADDR, which change nothing.
    Prefetch {
        /// Stream id.
        sid: u32,
    },
    /// CMD_CFGI_STE.
    ConfigSte {
        /// Stream id.
        sid: u32,
        /// Only the STE, not the level-1 descriptor.
        leaf: bool,
    },
    /// CMD_CFGI_STE_RANGE, of 2^`log2` streams.
    ConfigRange {
        /// First stream id.
        sid: u32,
        /// log2 of their number.
        log2: u8,
    },
    /// CMD_CFGI_ALL.
    ConfigAll,
    /// CMD_CFGI_CD.
    ConfigCd {
        /// Stream id.
        sid: u32,
        /// Substream id.
        ssid: u32,
        /// Only the CD, not the level-1 descriptor.
        leaf: bool,
    },
    /// CMD_CFGI_CD_ALL.
    ConfigCdAll {
        /// Stream id.
        sid: u32,
    },
    /// CMD_TLBI_NH_ALL: stage 1 of a VMID.
    TlbiAll {
        /// VMID.
        vmid: u16,
    },
    /// CMD_TLBI_NH_ASID.
    TlbiAsid {
        /// VMID.
        vmid: u16,
        /// ASID.
        asid: u16,
    },
    /// CMD_TLBI_NH_VA, and CMD_TLBI_NH_VAA without ASID.
    TlbiVa {
        /// VMID.
        vmid: u16,
        /// ASID; `None` for all.
        asid: Option<u16>,
        /// Where.
        scope: Scope,
    },
    /// CMD_TLBI_EL2_ALL.
    TlbiEl2All,
    /// CMD_TLBI_EL2_ASID.
    TlbiEl2Asid {
        /// ASID.
        asid: u16,
    },
    /// CMD_TLBI_EL2_VA, and CMD_TLBI_EL2_VAA without ASID.
    TlbiEl2Va {
        /// ASID; `None` for all.
        asid: Option<u16>,
        /// Where.
        scope: Scope,
    },
    /// CMD_TLBI_S12_VMALL.
    TlbiVmid {
        /// VMID.
        vmid: u16,
    },
    /// CMD_TLBI_S2_IPA.
    TlbiIpa {
        /// VMID.
        vmid: u16,
        /// Where.
        scope: Scope,
    },
    /// CMD_TLBI_NSNH_ALL.
    TlbiEverything,
    /// CMD_ATC_INV.
    AtcInvalidate {
        /// Stream id.
        sid: u32,
        /// Substream id; `None` for all.
        ssid: Option<u32>,
        /// Address and size as they stand in the second word.
        address: u64,
    },
    /// CMD_PRI_RESP.
    PageResponse {
        /// Stream id.
        sid: u32,
        /// Group.
        group: u16,
        /// 0 deny, 1 fail, 2 success.
        code: u8,
    },
    /// CMD_RESUME.
    Resume {
        /// Stream id.
        sid: u32,
        /// Stall tag.
        tag: u16,
        /// 0 terminate, 1 retry, 2 abort.
        action: u8,
    },
    /// CMD_STALL_TERM.
    StallTerminate {
        /// Stream id.
        sid: u32,
    },
    /// CMD_SYNC.
    Sync {
        /// 0 none, 1 interrupt, 2 event to waiting CPUs.
        signal: u8,
        /// Where the interrupt is written, and what; `None` where it goes by wire.
        message: Option<(u64, u32)>,
    },
}

/// A command that was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Where it stood in the queue: its number, not bytes.
    pub slot: usize,
    /// Its words.
    pub raw: [u64; 2],
    /// What it says.
    pub command: Command,
}

impl Command {
    /// Whether it invalidates STEs or CDs.
    pub(super) const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::ConfigSte { .. }
                | Self::ConfigRange { .. }
                | Self::ConfigAll
                | Self::ConfigCd { .. }
                | Self::ConfigCdAll { .. }
        )
    }
}

const SID: u64 = 0xffff_ffff << 32;
const SSID: u64 = 0xf_ffff << 12;
const SSV: u64 = 1 << 11;
const VMID: u64 = 0xffff << 32;
const ASID: u64 = 0xffff << 48;
const RANGE: u64 = 0x1f << 12 | 0x1f << 20;
/// Leaf, TTL, TG, address.
const SCOPE: u64 = 1 | 3 << 8 | 3 << 10 | !0xfff;

/// Decodes a command; `None` where it is illegal: CERROR_ILL.
pub(super) fn decode(config: &Config, raw: [u64; 2]) -> Option<Command> {
    let [low, high] = raw;
    let (first, second) = (config.has(Config::S1P), config.has(Config::S2P));
    let hyp = config.has(Config::HYP);
    let (exists, low_fields, high_fields) = match low & 0xff {
        0x01 => (true, SSV | SSID | SID, 0),
        0x02 => (true, SSV | SSID | SID, !0xfff | 0xfff),
        0x03 => (true, SID, 1),
        0x04 => (true, SID, 0x1f),
        0x05 => (first, SSID | SID, 1),
        0x06 => (first, SID, 0),
        0x10 => (first, VMID, 0),
        0x11 => (first, VMID | ASID, 0),
        0x12 => (first, VMID | ASID | RANGE, SCOPE),
        // The ASID is ignored.
        0x13 => (first, VMID | ASID | RANGE, SCOPE),
        0x20 => (hyp, 0, 0),
        0x21 => (hyp, ASID, 0),
        0x22 | 0x23 => (hyp, ASID | RANGE, SCOPE),
        0x28 => (second, VMID, 0),
        0x2a => (second, VMID | RANGE, SCOPE & !(0xfff << 52)),
        0x30 => (true, 0, 0),
        0x40 => (config.has(Config::ATS), 1 << 9 | SSV | SSID | SID, !0xfff | 0x3f),
        0x41 => (config.has(Config::PRI), SSV | SSID | SID, 0x1ff | 3 << 12),
        0x44 => (config.stall_model() != 1, 3 << 12 | SID, 0xffff),
        0x45 => (config.stall_model() != 1, SID, 0),
        // CS, MSH, MSIAttr, MSIData; MSIAddr.
        0x46 => (true, 3 << 12 | 3 << 22 | 0xf << 24 | SID, 0x000f_ffff_ffff_fffc),
        _ => (false, 0, 0),
    };
    if !exists || low & !(low_fields | 0xff) != 0 || high & !high_fields != 0 {
        return None;
    }
    let (sid, ssid) = ((low >> 32) as u32, (low >> 12) as u32 & 0xf_ffff);
    // Without stage 2 there are no VMIDs, and the field is ignored.
    let vmid = if second { (low >> 32) as u16 } else { 0 };
    let asid = (low >> 48) as u16;
    let tagged = matches!(low & 0xff, 0x10..=0x2f);
    let too_wide = tagged
        && (low_fields & VMID != 0 && vmid > 0xff && !config.has(Config::VMID16)
            || low_fields & ASID != 0 && asid > 0xff && !config.has(Config::ASID16));
    if too_wide {
        return None;
    }
    Some(match low & 0xff {
        0x01 | 0x02 => Command::Prefetch { sid },
        0x03 => Command::ConfigSte { sid, leaf: high & 1 != 0 },
        0x04 if high & 0x1f == 31 => Command::ConfigAll,
        0x04 => Command::ConfigRange { sid, log2: (high & 0x1f) as u8 + 1 },
        0x05 => Command::ConfigCd { sid, ssid, leaf: high & 1 != 0 },
        0x06 => Command::ConfigCdAll { sid },
        0x10 => Command::TlbiAll { vmid },
        0x11 => Command::TlbiAsid { vmid, asid },
        0x12 => Command::TlbiVa { vmid, asid: Some(asid), scope: scope(config, raw)? },
        0x13 => Command::TlbiVa { vmid, asid: None, scope: scope(config, raw)? },
        0x20 => Command::TlbiEl2All,
        0x21 => Command::TlbiEl2Asid { asid },
        0x22 => Command::TlbiEl2Va { asid: Some(asid), scope: scope(config, raw)? },
        0x23 => Command::TlbiEl2Va { asid: None, scope: scope(config, raw)? },
        0x28 => Command::TlbiVmid { vmid },
        0x2a => Command::TlbiIpa { vmid, scope: scope(config, raw)? },
        0x30 => Command::TlbiEverything,
        0x40 if high & 0x3f > 52 => return None,
        0x40 => Command::AtcInvalidate { sid, ssid: (low & SSV != 0).then_some(ssid), address: high },
        0x41 if high >> 12 & 3 == 3 => return None,
        0x41 => Command::PageResponse { sid, group: high as u16 & 0x1ff, code: (high >> 12 & 3) as u8 },
        0x44 if low >> 12 & 3 == 3 => return None,
        0x44 => Command::Resume { sid, tag: high as u16, action: (low >> 12 & 3) as u8 },
        0x45 => Command::StallTerminate { sid },
        _ => {
            let signal = (low >> 12 & 3) as u8;
            if signal == 3 || signal == 1 && high != 0 && !config.has(Config::MSI) {
                return None;
            }
            Command::Sync { signal, message: (signal == 1 && high != 0).then_some((high, (low >> 32) as u32)) }
        }
    })
}

/// NUM, SCALE, TG, TTL, Leaf and the address (section 4.4.1).
fn scope(config: &Config, [low, high]: [u64; 2]) -> Option<Scope> {
    let (num, scale) = (low >> 12 & 0x1f, low >> 20 & 0x1f);
    let (level, granule) = (high >> 8 & 3, high >> 10 & 3);
    let (address, leaf_only) = (high & !0xfff, high & 1 != 0);
    let ranged = num != 0 || scale != 0 || level != 0;
    if granule == 0 || !config.ril() {
        // Without TG, or without ranges, the other fields are reserved.
        return (!ranged && granule == 0).then_some(Scope { address, len: None, leaf_only, level: 0, granule: 0 });
    }
    if !ranged {
        return None;
    }
    let granule = [0, 12, 14, 16][granule as usize];
    let len = (num + 1).saturating_mul(1u64.checked_shl(scale as u32 + u32::from(granule)).unwrap_or(u64::MAX));
    Some(Scope { address, len: Some(len), leaf_only, level: level as u8, granule })
}
