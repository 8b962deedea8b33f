//! The page tables below a PASID entry.

use super::{Config, FaultCode, PasidEntry, Read64, Refused, at, beyond, is_interrupt};

/// A leaf that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::vtd) struct Leaf {
    /// Address of its first byte.
    pub(in crate::vtd) phys: u64,
    pub(in crate::vtd) size: u64,
    pub(in crate::vtd) read: bool,
    pub(in crate::vtd) write: bool,
}

/// Bits 51:12 at or above the host's width.
const fn address_reserved(config: &Config) -> u64 {
    beyond(config.haw) & 0x000f_ffff_ffff_f000
}

const fn address(entry: u64) -> u64 {
    entry & 0x000f_ffff_ffff_f000
}

const fn index(iova: u64, level: u32) -> u64 {
    iova >> (3 + 9 * level) & 0x1ff
}

/// Bytes below an entry of `level`, the lowest of which is 1.
const fn size(level: u32) -> u64 {
    1 << (3 + 9 * level)
}

/// Finds the leaf for `iova`.
pub(in crate::vtd) fn page(
    read64: Read64<'_>,
    config: &Config,
    entry: &PasidEntry,
    iova: u64,
    write: bool,
) -> Result<Leaf, Refused> {
    let found = match entry.kind() {
        1 => first_stage(read64, config, entry, iova, write),
        2 => second_stage(read64, config, entry, iova, write),
        _ => pass_through(config, iova),
    };
    let found = found.and_then(|leaf| {
        let output = leaf.phys + (iova & (leaf.size - 1));
        if is_interrupt(output) { Err(FaultCode::INTERRUPT_OUTPUT) } else { Ok(leaf) }
    });
    found.map_err(|code| Refused { code, silent: entry.silent })
}

fn pass_through(config: &Config, iova: u64) -> Result<Leaf, FaultCode> {
    if iova & beyond(config.haw) != 0 {
        return Err(FaultCode::BEYOND_HOST);
    }
    Ok(Leaf { phys: iova & !0xfff, size: 0x1000, read: true, write: true })
}

/// Section 3.7, entries of section 9.8.
fn second_stage(
    read64: Read64<'_>,
    config: &Config,
    entry: &PasidEntry,
    iova: u64,
    write: bool,
) -> Result<Leaf, FaultCode> {
    let levels = (entry.words[0] >> 2 & 7) as u32 + 2;
    let width = (12 + 9 * levels).min(config.mgaw());
    if iova >> width != 0 {
        return Err(FaultCode::BEYOND_WIDTH);
    }
    let mut table = address(entry.words[0]);
    let mut permissions = 3;
    for level in (1..=levels).rev() {
        let word = read64(at(table, index(iova, level) * 8)).ok_or(FaultCode::SECOND_ACCESS)?;
        permissions &= word;
        if word & 3 == 0 {
            return Err(FaultCode::SECOND_PERMISSION);
        }
        let large = word & 1 << 7 != 0;
        let leaf = level == 1 || large;
        // Bit 62 was once transient mapping.
        let mut reserved = address_reserved(config) | 1 << 62;
        // Bit 34 of CAP: leaves of 2 MiB; bit 35: of 1 GiB. At level 1 the bit is ignored.
        let may_be_large = level == 2 && config.cap_bit(34) || level == 3 && config.cap_bit(35);
        if level > 1 && !may_be_large {
            reserved |= 1 << 7;
        }
        if leaf {
            reserved |= (size(level) - 1) & !0xfff;
            if !config.ecap_bit(7) {
                reserved |= 1 << 11;
            }
        }
        if word & reserved != 0 {
            return Err(FaultCode::SECOND_RESERVED);
        }
        if permissions & if write { 2 } else { 1 } == 0 {
            return Err(FaultCode::SECOND_PERMISSION);
        }
        table = address(word);
        if leaf {
            let (read, write) = (permissions & 1 != 0, permissions & 2 != 0);
            return Ok(Leaf { phys: table, size: size(level), read, write });
        }
    }
    unreachable!("level 1 is always a leaf")
}

/// Section 3.6, entries of section 9.7.
fn first_stage(
    read64: Read64<'_>,
    config: &Config,
    entry: &PasidEntry,
    iova: u64,
    write: bool,
) -> Result<Leaf, FaultCode> {
    let levels = if entry.words[2] >> 2 & 3 == 1 { 5 } else { 4 };
    let sign = 64 - (12 + 9 * levels);
    if ((iova << sign) as i64 >> sign) as u64 != iova {
        return Err(FaultCode::NOT_CANONICAL);
    }
    let no_execute = entry.words[2] & 1 << 5 != 0;
    let snooped = entry.words[1] & 1 << 23 != 0;
    let mut table = address(entry.words[2]);
    let (mut permissions, mut accessed) = (6, 1 << 5);
    for level in (1..=levels).rev() {
        let no_memory = if level == levels { FaultCode::FIRST_TOP_ACCESS } else { FaultCode::FIRST_ACCESS };
        let word = read64(at(table, index(iova, level) * 8)).ok_or(no_memory)?;
        if word & 1 == 0 {
            return Err(FaultCode::FIRST_NOT_PRESENT);
        }
        permissions &= word;
        accessed &= word;
        let large = level > 1 && word & 1 << 7 != 0;
        let leaf = level == 1 || large;
        let mut reserved = address_reserved(config);
        if level > 3 || level == 3 && !config.cap_bit(56) {
            reserved |= 1 << 7;
        }
        if large {
            // Bit 12 is PAT.
            reserved |= (size(level) - 1) & !0x1fff;
        }
        if !no_execute {
            reserved |= 1 << 63;
        }
        if word & reserved != 0 {
            return Err(FaultCode::FIRST_RESERVED);
        }
        if permissions & 4 == 0 {
            return Err(FaultCode::USER);
        }
        if write && permissions & 2 == 0 {
            return Err(FaultCode::FIRST_WRITE);
        }
        table = address(word) & !(if leaf { size(level) - 1 } else { 0 });
        if leaf {
            // Accessed in every entry, dirty in the leaf (section 3.6.2).
            let dirty = snooped || word & 1 << 6 != 0;
            if !snooped && accessed == 0 || write && !dirty {
                return Err(FaultCode::FIRST_ACCESSED);
            }
            return Ok(Leaf { phys: table, size: size(level), read: true, write: permissions & 2 != 0 && dirty });
        }
    }
    unreachable!("level 1 is always a leaf")
}
