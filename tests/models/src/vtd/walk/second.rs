//! Second-stage tables (sections 3.7, 9.8).

use super::regime::Second;
use super::view::{Cursor, Rights, Stage, Step, Structure, fetch};
use super::{Config, FaultCode, Stop, View, address, address_reserved, at, index, size};
use alloc::vec::Vec;

/// Accessed and dirty.
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const LARGE: u64 = 1 << 7;
const SNOOP: u64 = 1 << 11;

/// What a walk found.
pub(super) struct Found {
    /// Where the input address lies.
    pub(super) phys: u64,
    /// Size of the leaf.
    pub(super) size: u64,
    pub(super) rights: Rights,
    /// SNP.
    pub(super) snoop: bool,
    steps: Vec<Step>,
}

impl Found {
    /// Whether a write needs no update any more.
    pub(super) fn dirty(&self, second: &Second) -> bool {
        !second.tracked || self.steps.last().is_some_and(|leaf| leaf.entry & DIRTY != 0)
    }
}

/// The code of scalable mode, or that of legacy mode.
const fn code(second: &Second, scalable: FaultCode, legacy: FaultCode) -> FaultCode {
    if second.legacy { legacy } else { scalable }
}

/// Finds the leaf for `input`. Rights are for the caller to look at, and it says what was used: [`mark`].
pub(super) fn walk(
    view: &mut dyn View,
    config: &Config,
    second: &Second,
    input: u64,
    write: bool,
) -> Result<Found, FaultCode> {
    if input >> second.input_bits != 0 {
        return Err(code(second, FaultCode::BEYOND_WIDTH, FaultCode::LEGACY_BEYOND_WIDTH));
    }
    let top = Cursor { level: second.levels, table: second.table, host: None, rights: Rights::ALL };
    let mut cursor = view.resume(Stage::Second, input).filter(|from| from.level <= second.levels).unwrap_or(top);
    let mut steps = Vec::new();
    let found = loop {
        match read(view, config, second, input, write, &cursor) {
            Err(code) => break Err(code),
            Ok(step) => {
                steps.push(step);
                match step.next {
                    Some(next) => cursor = next,
                    None => break Ok(step),
                }
            }
        }
    };
    match found {
        Ok(leaf) => {
            let level = cursor.level;
            Ok(Found {
                phys: address(leaf.entry) & !(size(level) - 1) | input & (size(level) - 1),
                size: size(level),
                rights: cursor.rights.and(rights(second, leaf.entry)),
                snoop: leaf.entry & SNOOP != 0,
                steps,
            })
        }
        Err(code) => {
            // What was used on the way to a fault may be kept like anything else.
            for step in &steps {
                if !second.tracked || step.entry & ACCESSED != 0 {
                    view.used(step);
                }
            }
            Err(code)
        }
    }
}

fn rights(second: &Second, entry: u64) -> Rights {
    Rights { read: entry & 1 != 0, write: entry & 2 != 0, execute: !second.execute || entry & 4 != 0, user: true }
}

/// Reads and checks one entry.
fn read(
    view: &mut dyn View,
    config: &Config,
    second: &Second,
    input: u64,
    write: bool,
    cursor: &Cursor,
) -> Result<Step, FaultCode> {
    let level = cursor.level;
    let phys = at(cursor.table, index(input, level) * 8);
    let [entry] = fetch(view, Structure::Paging(Stage::Second), phys).ok_or(if level == second.levels {
        code(second, FaultCode::SECOND_TOP_ACCESS, FaultCode::LEGACY_CONTEXT_INVALID)
    } else {
        code(second, FaultCode::SECOND_ACCESS, FaultCode::LEGACY_ACCESS)
    })?;
    if entry & 3 == 0 {
        return Err(nothing_allowed(second, write));
    }
    let leaf = level == 1 || entry & LARGE != 0;
    if entry & reserved(config, second, level, entry) != 0 {
        return Err(code(second, FaultCode::SECOND_RESERVED, FaultCode::LEGACY_RESERVED));
    }
    let rights = cursor.rights.and(rights(second, entry));
    if !rights.read && !rights.write {
        return Err(nothing_allowed(second, write));
    }
    let next = Cursor { level: level - 1, table: address(entry), host: None, rights };
    let next = (!leaf).then_some(next);
    Ok(Step { stage: Stage::Second, level, input, phys, index: index(input, level) as u16, entry, next })
}

const fn nothing_allowed(second: &Second, write: bool) -> FaultCode {
    let legacy = if write { FaultCode::LEGACY_WRITE } else { FaultCode::LEGACY_READ };
    code(second, FaultCode::SECOND_PERMISSION, legacy)
}

/// Bits that must be clear in an entry of `level` (section 3.7).
fn reserved(config: &Config, second: &Second, level: u32, entry: u64) -> u64 {
    let leaf = level == 1 || entry & LARGE != 0;
    // Bit 62 was transient mapping, and is a permission of units with SSIRWE.
    let mut reserved = address_reserved(config) | 1 << 62;
    // At level 1 the bit is ignored. CAP.SSLPS: leaves of 2 MiB, of 1 GiB.
    let may_be_large = level == 2 && config.cap_bit(34) || level == 3 && config.cap_bit(35);
    if level > 1 && !may_be_large {
        reserved |= LARGE;
    }
    if leaf {
        reserved |= (size(level) - 1) & !0xfff;
        // EMT: 2, 3 and 7 are no memory types.
        if second.types && matches!(entry >> 3 & 7, 2 | 3 | 7) {
            reserved |= 7 << 3;
        }
    }
    if !leaf || !config.ecap_bit(7) {
        reserved |= SNOOP;
    }
    reserved
}

/// Sets accessed in every entry used, and dirty in the leaf where it is written through.
pub(super) fn mark(view: &mut dyn View, second: &Second, found: &mut Found, write: bool) -> Result<(), Stop> {
    for step in &mut found.steps {
        let bits = match step.next {
            _ if !second.tracked => 0,
            None if write => ACCESSED | DIRTY,
            _ => ACCESSED,
        };
        if step.entry & bits != bits {
            if !second.snooped {
                return Err(Stop::Fault(FaultCode::SECOND_ACCESSED));
            }
            let new = step.entry | bits;
            match view.update64(step.phys, step.entry, new) {
                Some(Ok(())) => step.entry = new,
                Some(Err(_)) => return Err(Stop::Changed(FaultCode::SECOND_UPDATE_FAILED)),
                None => return Err(Stop::Fault(FaultCode::SECOND_UPDATE_FAILED)),
            }
        }
        view.used(step);
    }
    Ok(())
}
