//! A range taken away: hardware was told to forget it, and confirmed, before the memory could be used again.

use super::history::History;
use super::mismatch::Mismatch;
use super::slices::Slice;
use crate::dialect::Dialect;
use crate::event::{Invalidation, Span, Stage, Stream, What};
use crate::record::Area;

/// The addresses of a stage.
const EVERYTHING: Span = Span { first: 0, last: u64::MAX };

/// Whether the TLB invalidations before the wait that ended `slice` cover `area`, in the domain of its stream. Where guests
/// have stages 1 of their own on top of that, they are all forgotten with it: what is cached of them tells nothing of where
/// they led to.
pub fn check(area: &Area, slice: &Slice<'_>, dialect: Dialect, history: &History) -> Result<(), Mismatch> {
    of_stage(area, dialect.stage(), slice, dialect, history)?;
    match dialect.is_nested() {
        true => of_stage(&Area { span: EVERYTHING, ..area.clone() }, Stage::First, slice, dialect, history),
        false => Ok(()),
    }
}

/// The same of what a guest took away from its own stage 1.
pub fn check_of_guest(area: &Area, slice: &Slice<'_>, dialect: Dialect, history: &History) -> Result<(), Mismatch> {
    match dialect.is_nested() {
        true => of_stage(area, Stage::First, slice, dialect, history),
        false => Err(Mismatch::plain("no guest has a stage of its own here")),
    }
}

fn of_stage(area: &Area, stage: Stage, slice: &Slice<'_>, dialect: Dialect, history: &History) -> Result<(), Mismatch> {
    if area.frames.is_empty() {
        return Err(Mismatch::plain("the record does not say which memory was behind the range"));
    }
    let domain = history.domain_of(area.stream)?;
    // Whoever leads there reaches it no more: the entries of each PASID are told by that.
    history.streams_of(domain).try_for_each(|stream| covered(area, stream, (domain, stage), slice, dialect))
}

fn covered(
    area: &Area,
    stream: Stream,
    (domain, of): (u16, Stage),
    slice: &Slice<'_>,
    dialect: Dialect,
) -> Result<(), Mismatch> {
    let reaches = |what: What| match what {
        What::Invalidation(Invalidation::Tlb { domains, stage, range, pasid })
            if domains.reach(Some(domain))
                && stage.is_none_or(|stage| stage == of)
                && pasid.is_none_or(|pasid| pasid == stream.pasid.unwrap_or(0)) =>
        {
            Some(range.unwrap_or(EVERYTHING))
        }
        _ => None,
    };
    let mut covered: Vec<Span> = slice.inside().iter().filter_map(|event| reaches(event.what)).collect();
    covered.sort_by_key(|span| span.first);
    match first_uncovered(area.span, &covered) {
        None => Ok(()),
        Some(address) => {
            let expected = format!("{} that covers {}", dialect.name_of_range(domain, of), area.span);
            let shown = format!("none of {address:#x} before the wait");
            let mismatch = Mismatch::at(slice.end().line, expected, shown);
            Err(if stream == area.stream { mismatch } else { mismatch.because(format_args!("{stream} leads there")) })
        }
    }
}

/// The first address of `span` that is in none of `covered`, which are sorted.
fn first_uncovered(span: Span, covered: &[Span]) -> Option<u64> {
    let mut next = span.first;
    for part in covered {
        if part.first > next {
            break;
        }
        if part.last >= span.last {
            return None;
        }
        next = next.max(part.last + 1);
    }
    Some(next)
}
