//! One transfer of a device: moved, refused with a fault, or dropped.

use super::history::History;
use super::mismatch::Mismatch;
use super::pieces::{Accesses, Frames};
use super::slices::Slice;
use crate::dialect::Dialect;
use crate::event::{Access, Direction, Fault, Refusal, Translation, What};
use crate::record::{Check, Transfer};

/// Compares a transfer with its slice.
pub fn check(
    check: &Check,
    transfer: &Transfer,
    slice: &Slice<'_>,
    dialect: Dialect,
    history: &mut History,
) -> Result<(), Mismatch> {
    match (check.expected.as_str(), dialect) {
        ("moved", _) => moved(transfer, slice, history),
        ("dropped without a fault", Dialect::Smmuv3(_))
            // A guest may have its own streams aborted.
            if dialect.is_nested() || history.domain_before(transfer.area.stream).is_none() =>
        {
            aborted(transfer, slice)
        }
        ("dropped without a fault", _) => dropped(transfer, slice, history),
        (expected, Dialect::Vtd(_)) if expected.starts_with("blocked: ") => refused(expected, transfer, slice, dialect),
        (expected, Dialect::Smmuv3(_)) if expected.starts_with("blocked: ") => {
            refused_by_events(expected, transfer, slice, history)
        }
        (expected, _) => Err(Mismatch::plain(format!("no rule for what it expects: {expected}"))),
    }
}

/// Every byte was translated, by entries of this stream's domain that permit it, to the frames of the record; and there
/// was nothing else.
fn moved(transfer: &Transfer, slice: &Slice<'_>, history: &mut History) -> Result<(), Mismatch> {
    let Transfer { area, direction, .. } = transfer;
    if area.frames.is_empty() {
        return Err(Mismatch::plain("the record does not say which memory it moved"));
    }
    let mut domain = history
        .domain_before(area.stream)
        .ok_or_else(|| Mismatch::plain(format!("{} is attached to nothing", area.stream)))?;
    no_fault_recorded(slice)?;
    let mut frames = Frames::new(&area.frames);
    let mut entries = Vec::new();
    let mut next = Some(area.span.first);
    for (line, access) in slice.accesses() {
        let Some(iova) = next else {
            return Err(Mismatch::at(line, format!("nothing beyond {:#x}", area.span.last), access));
        };
        let found = match access {
            Access::Translated(found) if found.source == area.stream.id && found.iova == iova => found,
            _ => return Err(Mismatch::at(line, format!("a translation of {} at {iova:#x}", area.stream), access)),
        };
        if !found.permits(*direction) {
            return Err(Mismatch::at(line, format!("an entry that permits a {direction}"), "one that does not"));
        }
        if *domain.get_or_insert(found.domain) != found.domain {
            return Err(Mismatch::at(line, "the domain that it was attached to, as seen before", access));
        }
        let last = found.block.last.min(area.span.last);
        if let Err((at, due)) = frames.take(found.leads_to(iova), last - iova + 1) {
            let mismatch = Mismatch::at(line, format!("it to lead to {due:#x} from {:#x}", iova + at), access);
            return Err(match history.stale(&found) {
                Some(by) => mismatch.because(format_args!("a mapping that was taken away by \"{by}\"")),
                None => mismatch,
            });
        }
        entries.push((line, found));
        next = if last == area.span.last { None } else { Some(last + 1) };
    }
    if let Some(iova) = next {
        let expected = format!("a translation of {} at {iova:#x}", area.stream);
        return Err(Mismatch::at(slice.end().line, expected, "none before the check's end"));
    }
    for (line, found) in entries {
        history.mapped(found.domain, area.span);
        if let Some(by) = history.stale(&found) {
            let expected = format!("nothing of what \"{by}\" took away to be left");
            return Err(Mismatch::at(line, expected, format!("an entry for {}", found.block)));
        }
    }
    Ok(())
}

/// Every access was refused, and nothing was translated. The first fault is the one on record: the unit drops others
/// like it while that one waits to be read.
fn refused(expected: &str, transfer: &Transfer, slice: &Slice<'_>, dialect: Dialect) -> Result<(), Mismatch> {
    let Transfer { area, direction, fault } = transfer;
    let code = reason_in(expected)?;
    each_access(transfer, slice, "a fault", Some(code), |access, address| {
        *access == Access::Fault(Fault { source: area.stream.id, address, code, direction: *direction, pasid: None })
    })?;
    let mut recorded = slice.inside().iter().filter_map(|event| match event.what {
        What::Recorded(fault) => Some((event.line, fault)),
        _ => None,
    });
    let Some((line, first)) = recorded.next() else {
        return Err(Mismatch::at(slice.end().line, "a fault on record", "none"));
    };
    if let Some((line, second)) = recorded.next() {
        return Err(Mismatch::at(line, "one fault on record", format!("another, {second}")));
    }
    // The demo's own words, from what the trace shows.
    let Fault { address, code, direction, pasid, .. } = first;
    if expected != format!("blocked: {direction} of {} at {address:#x}, reason {code:#x}", first.stream())
        || address != area.span.first & !0xfff
        || pasid != dialect.recorded_pasid(code, area.stream.pasid)
    {
        return Err(Mismatch::at(line, expected, format!("{first} on record")));
    }
    match fault {
        Some(fault) if *fault == first => Ok(()),
        Some(fault) => Err(Mismatch::at(line, format!("{fault}, as the guest read it"), first)),
        None => Err(Mismatch::at(line, "no fault, as the guest read none", first)),
    }
}

/// Every access was refused with an event of its own, and nothing was translated; the guest took as many events. The
/// first is the one on record, which tells more of it than the trace does.
fn refused_by_events(
    expected: &str,
    transfer: &Transfer,
    slice: &Slice<'_>,
    history: &History,
) -> Result<(), Mismatch> {
    let Transfer { area, direction, fault } = transfer;
    let code = reason_in(expected)?;
    let mut domain = history.domain_before(area.stream).flatten();
    // Events about addresses, or events about none.
    let mut first: Option<Refusal> = None;
    each_access(transfer, slice, "an event", Some(code), |access, address| {
        let Access::Refused(now) = *access else { return false };
        domain = domain.or(now.domain);
        let first = first.get_or_insert(now);
        let like_first = (first.address.is_some(), first.fetch) == (now.address.is_some(), now.fetch);
        (now.source, now.code) == (area.stream.id, Some(code))
            && like_first
            && now.address.is_none_or(|found| found == address)
            && now.direction.is_none_or(|found| found == *direction)
            && now.domain.is_none_or(|found| domain == Some(found))
    })?;
    let due = Accesses::of(area.span).count() as u64;
    let taken = taken(slice);
    if taken != due {
        let expected = format!("the guest to take {due} events");
        return Err(Mismatch::at(slice.end().line, expected, format!("{taken} taken")));
    }
    // An event that tells of no access is called a write at 0. Where it is the unit's own read that is refused, the event is of
    // the access that it is for, and tells of a read.
    let of_fetch = first.is_some_and(|first| first.fetch).then_some(area.span.first);
    let direction = of_fetch.map_or(direction, |_| &Direction::Read);
    let first = match first.and_then(|first| first.address).or(of_fetch) {
        Some(address) => Fault { source: area.stream.id, address, code, direction: *direction, pasid: None },
        None => Fault { source: area.stream.id, address: 0, code, direction: Direction::Write, pasid: None },
    };
    let Fault { source, address, code, direction, .. } = first;
    if expected != format!("blocked: {direction} of {source:#x} at {address:#x}, reason {code:#x}") {
        return Err(Mismatch::at(slice.end().line, expected, first));
    }
    match fault {
        Some(fault) if *fault == first => Ok(()),
        Some(fault) => Err(Mismatch::at(slice.end().line, format!("{fault}, as the guest read it"), first)),
        None => Err(Mismatch::at(slice.end().line, "no fault, as the guest read none", first)),
    }
}

/// The stream is attached to nothing: every access was aborted, and no event came of it.
fn aborted(transfer: &Transfer, slice: &Slice<'_>) -> Result<(), Mismatch> {
    no_fault_recorded(slice)?;
    each_access(transfer, slice, "an abort in silence", None, |access, address| {
        let (source, address) = (transfer.area.stream.id, Some(address));
        *access == Access::Refused(Refusal { source, address, code: None, direction: None, domain: None, fetch: false })
    })
}

/// Every access found a cached entry of this stream's domain that does not permit it, and no fault came of it.
fn dropped(transfer: &Transfer, slice: &Slice<'_>, history: &History) -> Result<(), Mismatch> {
    let Transfer { area, direction, .. } = transfer;
    let domain = history.domain_of(area.stream)?;
    no_fault_recorded(slice)?;
    each_access(transfer, slice, "a cached entry without permission", None, |access, address| match access {
        Access::Translated(found @ Translation { cached: true, .. }) => {
            (found.source, found.iova, found.domain) == (area.stream.id, address, domain) && !found.permits(*direction)
        }
        Access::Refused(refusal) => {
            let (source, address, direction) = (area.stream.id, Some(address), Some(*direction));
            *refusal == Refusal { source, address, code: None, direction, domain: Some(domain), fetch: false }
        }
        _ => false,
    })
}

/// Whether `right` of each access that QEMU makes of a transfer which goes nowhere, and there are no others.
fn each_access(
    transfer: &Transfer,
    slice: &Slice<'_>,
    what: &str,
    code: Option<u32>,
    mut right: impl FnMut(&Access, u64) -> bool,
) -> Result<(), Mismatch> {
    let Transfer { area, direction, .. } = transfer;
    let reason = code.map_or(String::new(), |code| format!(", reason {code:#x}"));
    let due = |address: u64| format!("{what}, {direction} of {} at {address:#x}{reason}", area.stream);
    let mut addresses = Accesses::of(area.span);
    for (line, access) in slice.accesses() {
        match addresses.next() {
            Some(address) if right(&access, address) => {}
            Some(address) => return Err(Mismatch::at(line, due(address), access)),
            None => return Err(Mismatch::at(line, format!("no further access of {}", area.stream), access)),
        }
    }
    match addresses.next() {
        Some(address) => Err(Mismatch::at(slice.end().line, due(address), "nothing more before the check's end")),
        None => Ok(()),
    }
}

fn reason_in(expected: &str) -> Result<u32, Mismatch> {
    let code = expected.rsplit_once("reason 0x").and_then(|(_, digits)| u32::from_str_radix(digits, 16).ok());
    code.ok_or_else(|| Mismatch::plain(format!("no reason in what it expects: {expected}")))
}

/// How many events the guest took.
fn taken(slice: &Slice<'_>) -> u64 {
    let counts = slice.inside().iter().map(|event| if let What::Taken(count) = event.what { count.into() } else { 0 });
    counts.sum()
}

fn no_fault_recorded(slice: &Slice<'_>) -> Result<(), Mismatch> {
    slice.inside().iter().try_for_each(|event| match event.what {
        What::Recorded(fault) => Err(Mismatch::at(event.line, "no fault on record", fault)),
        What::Taken(count) => Err(Mismatch::at(event.line, "no event for the guest", format!("{count} taken"))),
        _ => Ok(()),
    })
}
