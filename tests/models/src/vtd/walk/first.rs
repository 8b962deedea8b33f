//! First-stage tables (sections 3.6, 9.7), and those of nested translation (section 3.8).

use super::regime::{First, Regime, Second};
use super::second;
use super::view::{Cursor, Rights, Stage, Step, Structure, fetch};
use super::{Config, FaultCode, Stop, View, address, address_reserved, at, index, size};
use alloc::vec::Vec;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXTENDED: u64 = 1 << 10;
const NO_EXECUTE: u64 = 1 << 63;

/// What a walk found.
pub(super) struct Found {
    /// Where the input address lies: guest-physical in nested translation.
    pub(super) output: u64,
    /// Size of the leaf.
    pub(super) size: u64,
    pub(super) rights: Rights,
    /// The entries used, each with its table, and whether the second stage lets it be written.
    steps: Vec<(Step, Cursor)>,
}

impl Found {
    /// Whether a write needs no update any more.
    pub(super) fn dirty(&self) -> bool {
        self.steps.last().is_some_and(|(leaf, _)| leaf.entry & DIRTY != 0)
    }
}

/// Finds the leaf for `input`. R/W is for the caller to look at, and it says what was used: [`mark`].
pub(super) fn walk(
    view: &mut dyn View,
    config: &Config,
    regime: &Regime,
    first: &First,
    privileged: bool,
    input: u64,
) -> Result<Found, Stop> {
    let sign = 64 - (12 + 9 * first.levels);
    if ((input << sign) as i64 >> sign) as u64 != input {
        return Err(Stop::Fault(FaultCode::NOT_CANONICAL));
    }
    let top = Cursor { level: first.levels, table: first.table, host: None, rights: Rights::ALL };
    let mut cursor = view.resume(Stage::First, input).filter(|from| from.level <= first.levels).unwrap_or(top);
    let mut steps: Vec<(Step, Cursor)> = Vec::new();
    let found = loop {
        match read(view, config, regime, first, privileged, input, &mut cursor) {
            Err(stop) => break Err(stop),
            Ok(step) => {
                if let Some(Step { next: Some(here), .. }) = steps.last_mut().map(|(step, _)| step) {
                    here.host = cursor.host;
                }
                steps.push((step, cursor));
                match step.next {
                    Some(next) => cursor = next,
                    None => break Ok(step),
                }
            }
        }
    };
    match found {
        Ok(leaf) => {
            let below = size(cursor.level) - 1;
            let rights = cursor.rights.and(rights(first, leaf.entry));
            Ok(Found { output: address(leaf.entry) & !below | input & below, size: below + 1, rights, steps })
        }
        Err(stop) => {
            // What was used on the way to a fault may be kept like anything else.
            for (step, _) in steps.iter().filter(|(step, _)| step.entry & ACCESSED != 0) {
                view.used(step);
            }
            Err(stop)
        }
    }
}

fn rights(first: &First, entry: u64) -> Rights {
    Rights {
        read: true,
        write: entry & WRITE != 0,
        execute: !(first.no_execute && entry & NO_EXECUTE != 0),
        user: entry & USER != 0,
    }
}

/// Reads and checks one entry.
fn read(
    view: &mut dyn View,
    config: &Config,
    regime: &Regime,
    first: &First,
    privileged: bool,
    input: u64,
    cursor: &mut Cursor,
) -> Result<Step, Stop> {
    let level = cursor.level;
    let top = level == first.levels;
    if let (Some(second), None) = (&regime.second, cursor.host) {
        cursor.host = Some(host(view, config, second, cursor.table + index(input, level) * 8, top)?);
    }
    let table = cursor.host.map_or(cursor.table, |(table, _)| table);
    let phys = at(table, index(input, level) * 8);
    let no_memory = if top { FaultCode::FIRST_TOP_ACCESS } else { FaultCode::FIRST_ACCESS };
    let [entry] = fetch(view, Structure::Paging(Stage::First), phys).ok_or(no_memory)?;
    if entry & PRESENT == 0 {
        return Err(Stop::Fault(FaultCode::FIRST_NOT_PRESENT));
    }
    let leaf = level == 1 || entry & LARGE != 0;
    if entry & reserved(config, first, level, entry) != 0 {
        return Err(Stop::Fault(FaultCode::FIRST_RESERVED));
    }
    if regime.second.is_some_and(|second| address(entry) >> second.input_bits != 0) {
        return Err(Stop::Fault(FaultCode::FIRST_BEYOND_WIDTH));
    }
    let rights = cursor.rights.and(rights(first, entry));
    if !rights.user && !privileged {
        return Err(Stop::Fault(FaultCode::USER));
    }
    let next = Cursor { level: level - 1, table: address(entry), host: None, rights };
    let next = (!leaf).then_some(next);
    Ok(Step { stage: Stage::First, level, input, phys, index: index(input, level) as u16, entry, next })
}

/// Bits that must be clear in an entry of `level` (section 3.6).
fn reserved(config: &Config, first: &First, level: u32, entry: u64) -> u64 {
    let mut reserved = address_reserved(config);
    // CAP.FS1GP: leaves of 1 GiB. At level 1 the bit is PAT.
    if level > 3 || level == 3 && !config.cap_bit(56) {
        reserved |= LARGE;
    }
    if level > 1 && entry & LARGE != 0 {
        // Bit 12 is PAT.
        reserved |= (size(level) - 1) & !0x1fff;
    }
    // Since 4.1 bit 63 is ignored; before, it was reserved without NXE, and drivers have to serve both.
    if !first.no_execute {
        reserved |= NO_EXECUTE;
    }
    reserved
}

/// Where the second stage puts the table around `entry`, and whether it may be written there.
fn host(view: &mut dyn View, config: &Config, second: &Second, entry: u64, top: bool) -> Result<(u64, bool), Stop> {
    let mut found = second::walk(view, config, second, entry, false)?;
    // With SSADE even reads of first-stage tables need both (section 3.8.1).
    if !found.rights.read || second.tracked && !found.rights.write {
        return Err(Stop::Fault(if top { FaultCode::FIRST_TOP_READ } else { FaultCode::FIRST_READ }));
    }
    second::mark(view, second, &mut found, false)?;
    Ok((found.phys & !0xfff, found.rights.write))
}

/// Sets accessed in every entry used, and dirty in the leaf where it is written through (section 3.6.2).
pub(super) fn mark(
    view: &mut dyn View,
    config: &Config,
    regime: &Regime,
    first: &First,
    found: &mut Found,
    write: bool,
) -> Result<(), Stop> {
    let accessed = if first.extended { ACCESSED | EXTENDED } else { ACCESSED };
    for (step, table) in &mut found.steps {
        let bits = if write && step.next.is_none() { accessed | DIRTY } else { accessed };
        if step.entry & bits != bits {
            if !first.snooped {
                return Err(Stop::Fault(FaultCode::FIRST_ACCESSED));
            }
            if table.host.is_some_and(|(_, writable)| !writable) {
                return Err(Stop::Fault(FaultCode::FIRST_UPDATE));
            }
            if let Some(second) = regime.second.filter(|second| second.tracked) {
                // The update is a write to the table's page.
                let mut below = second::walk(view, config, &second, table.table, true)?;
                second::mark(view, &second, &mut below, true)?;
            }
            let new = step.entry | bits;
            match view.update64(step.phys, step.entry, new) {
                Some(Ok(())) => step.entry = new,
                Some(Err(_)) => return Err(Stop::Changed(FaultCode::FIRST_UPDATE_FAILED)),
                None => return Err(Stop::Fault(FaultCode::FIRST_UPDATE_FAILED)),
            }
        }
        view.used(step);
    }
    Ok(())
}
