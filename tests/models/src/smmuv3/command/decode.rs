//! Commands, decoded from raw words.

use super::{Action, Command, Scope};
use crate::smmuv3::config::Config;
use crate::smmuv3::violation::Violation;

const SID: u64 = 0xffff_ffff << 32;
const SSID: u64 = 0xf_ffff << 12;
const SSV: u64 = 1 << 11;
const VMID: u64 = 0xffff << 32;
const ASID: u64 = 0xffff << 48;
const RANGE: u64 = 0x1f << 12 | 0x1f << 20;
const ADDRESS: u64 = !0xfff;
/// Leaf, TTL, TG, address.
const SCOPE: u64 = 1 | 3 << 8 | 3 << 10 | ADDRESS;

/// A command that is legal.
#[derive(Clone, Copy)]
pub(in crate::smmuv3) struct Decoded {
    pub(in crate::smmuv3) command: Command,
    /// Why it is not sure to do anything, so that it does nothing.
    pub(in crate::smmuv3) flaw: Option<Violation>,
}

/// Decodes a command; `None` where it is illegal: CERROR_ILL. A unit may ignore reserved bits; this one does not.
pub(in crate::smmuv3) fn decode(config: &Config, raw: [u64; 2]) -> Option<Decoded> {
    let [low, high] = raw;
    let (first, second) = (config.has(Config::S1P), config.has(Config::S2P));
    let hyp = config.has(Config::HYP);
    // Bits 51:48 of physical addresses and IPAs, and the stride, came with SMMUv3.1.
    let newer = config.aidr & 0xff != 0;
    let physical = if newer { (1 << 52) - 1 } else { (1 << 48) - 1 };
    let stride = if newer { 0x1f << 5 } else { 0 };
    let (exists, low_fields, high_fields) = match low & 0xff {
        0x01 => (true, SSV | SSID | SID, 0),
        0x02 => (true, SSV | SSID | SID, ADDRESS | 0x1f | stride),
        0x03 => (true, SID, 1),
        0x04 => (true, SID, 0x1f),
        0x05 => (first, SSID | SID, 1),
        0x06 => (first, SID, 0),
        0x10 => (first, VMID, 0),
        0x11 => (first, VMID | ASID, 0),
        0x12 => (first, VMID | ASID | RANGE, SCOPE),
        0x13 => (first, VMID | RANGE, SCOPE),
        0x20 => (hyp, 0, 0),
        0x21 => (hyp, ASID, 0),
        0x22 => (hyp, ASID | RANGE, SCOPE),
        0x23 => (hyp, RANGE, SCOPE),
        0x28 => (second, VMID, 0),
        0x2a => (second, VMID | RANGE, SCOPE & physical),
        0x30 => (true, 0, 0),
        0x40 => (config.has(Config::ATS), 1 << 9 | SSV | SSID | SID, ADDRESS | 0x3f),
        0x41 => (config.has(Config::PRI), SSV | SSID | SID, 0x1ff | 3 << 12),
        0x44 => (config.stall_model() != 1, 3 << 12 | SID, 0xffff),
        0x45 => (config.stall_model() != 1, SID, 0),
        // CS, MSH, MSIAttr, MSIData; MSIAddr.
        0x46 => (true, 3 << 12 | 3 << 22 | 0xf << 24 | SID, physical & !3),
        _ => (false, 0, 0),
    };
    if !exists || low & !(low_fields | 0xff) != 0 || high & !high_fields != 0 {
        return None;
    }
    let (sid, number) = ((low >> 32) as u32, (low >> 12) as u32 & 0xf_ffff);
    let ssid = (low & SSV != 0).then_some(number);
    // Without stage 2 there are no VMIDs.
    let vmid = if second { (low >> 32) as u16 } else { 0 };
    let asid = (low >> 48) as u16;
    let has = |field| low_fields & field == field;
    let tagged = matches!(low & 0xff, 0x10..=0x2f);
    let too_wide = tagged
        && (has(VMID) && low >> 40 & 0xff != 0 && !config.has(Config::VMID16)
            || has(ASID) && asid > 0xff && !config.has(Config::ASID16));
    if too_wide {
        return None;
    }
    let scope = || scope(config, raw);
    let command = match low & 0xff {
        0x01 => Command::Prefetch { sid, ssid, address: None },
        0x02 => Command::Prefetch { sid, ssid, address: Some(high & ADDRESS) },
        0x03 => Command::ConfigSte { sid, leaf: high & 1 != 0 },
        0x04 if high & 0x1f == 31 => Command::ConfigAll,
        0x04 => Command::ConfigRange { sid, log2: (high as u8 & 0x1f) + 1 },
        0x05 => Command::ConfigCd { sid, ssid: number, leaf: high & 1 != 0 },
        0x06 => Command::ConfigCdAll { sid },
        0x10 => Command::TlbiAll { vmid },
        0x11 => Command::TlbiAsid { vmid, asid },
        0x12 => Command::TlbiVa { vmid, asid: Some(asid), scope: scope()? },
        0x13 => Command::TlbiVa { vmid, asid: None, scope: scope()? },
        0x20 => Command::TlbiEl2All,
        0x21 => Command::TlbiEl2Asid { asid },
        0x22 => Command::TlbiEl2Va { asid: Some(asid), scope: scope()? },
        0x23 => Command::TlbiEl2Va { asid: None, scope: scope()? },
        0x28 => Command::TlbiVmid { vmid },
        0x2a => Command::TlbiIpa { vmid, scope: scope()? },
        0x30 => Command::TlbiEverything,
        0x40 if high & 0x3f > 52 => return None,
        // Global means something only with a substream.
        0x40 => Command::AtcInvalidate { sid, ssid, global: ssid.is_some() && low >> 9 & 1 != 0, address: high },
        0x41 if high >> 12 & 3 == 3 => return None,
        0x41 => Command::PageResponse { sid, ssid, group: high as u16 & 0x1ff, code: (high >> 12 & 3) as u8 },
        0x44 => {
            let action = match low >> 12 & 3 {
                0 => Action::Zeros,
                2 => Action::Abort,
                // Ab is ignored.
                _ => Action::Retry,
            };
            Command::Resume { sid, tag: high as u16, action }
        }
        0x45 => Command::StallTerminate { sid },
        _ => {
            let signal = (low >> 12 & 3) as u8;
            if signal == 3 {
                return None;
            }
            // MSIAddr is looked at whole, and cut to what the unit has.
            let message = signal == 1 && high != 0 && config.has(Config::MSI);
            let address = high & ((1 << config.output_bits()) - 1);
            Command::Sync { signal, message: message.then_some((address, (low >> 32) as u32)) }
        }
    };
    let beyond = !within(config, &command, raw) || has(VMID) && tagged && !second && low & VMID != 0;
    Some(Decoded { command, flaw: beyond.then_some(Violation::OutOfRange { command: raw }) })
}

/// Whether ids and addresses are such as the unit has (section 4.1.7).
fn within(config: &Config, command: &Command, [low, high]: [u64; 2]) -> bool {
    let sid = |sid: u32| u64::from(sid) >> config.sid_size() == 0;
    let ssid = |ssid: u32| ssid >> config.ssid_size() == 0;
    // Bits of an address that are all the same: of a VA the sign, of an IPA none.
    let sign = high.cast_signed() >> if config.idr5 >> 10 & 3 == 0 { 48 } else { 52 };
    match *command {
        Command::ConfigSte { sid: id, .. }
        | Command::ConfigRange { sid: id, .. }
        | Command::ConfigCdAll { sid: id }
        | Command::Resume { sid: id, .. }
        | Command::StallTerminate { sid: id } => sid(id),
        Command::ConfigCd { sid: id, ssid: number, .. } => sid(id) && ssid(number),
        Command::AtcInvalidate { sid: id, ssid: number, .. } | Command::PageResponse { sid: id, ssid: number, .. } => {
            sid(id) && (number.is_none() || ssid((low >> 12) as u32 & 0xf_ffff))
        }
        Command::TlbiVa { .. } | Command::TlbiEl2Va { .. } => sign == 0 || sign == -1,
        Command::TlbiIpa { .. } => high >> config.output_bits() == 0,
        // A prefetch that asks for too much is ignored, and no fault of anybody.
        _ => true,
    }
}

/// NUM, SCALE, TG, TTL, Leaf and the address (section 4.4.1).
fn scope(config: &Config, [low, high]: [u64; 2]) -> Option<Scope> {
    let (num, scale) = (low >> 12 & 0x1f, low >> 20 & 0x1f);
    let (level, granule) = (high >> 8 & 3, high >> 10 & 3);
    let (address, leaf_only) = (high & ADDRESS, high & 1 != 0);
    let ranged = num != 0 || scale != 0;
    if granule == 0 || !config.ril() {
        // Without TG, or without ranges, the other fields are reserved.
        let plain = !ranged && level == 0 && granule == 0;
        return plain.then_some(Scope { address, len: None, leaf_only, level: 0, granule: 0 });
    }
    // A 16 KiB granule has no blocks at level 1 (IDR5.DS is clear): taken as no level.
    let level = if (granule, level) == (2, 1) { 0 } else { level };
    if !ranged && level == 0 {
        return None;
    }
    let granule = [0, 12, 14, 16][granule as usize];
    let len = (num + 1).saturating_mul(1u64.checked_shl(scale as u32 + u32::from(granule)).unwrap_or(u64::MAX));
    Some(Scope { address, len: Some(len), leaf_only, level: level as u8, granule })
}
