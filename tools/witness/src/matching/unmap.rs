//! A range taken away: hardware was told to forget it, and confirmed, before the memory could be used again.

use super::history::History;
use super::mismatch::Mismatch;
use super::slices::Slice;
use crate::dialect::Dialect;
use crate::event::{Invalidation, Span, What};
use crate::record::Area;

/// Whether the TLB invalidations before the wait that ended `slice` cover `area`, in the domain of its stream.
pub fn check(area: &Area, slice: &Slice<'_>, dialect: Dialect, history: &History) -> Result<(), Mismatch> {
    if area.frames.is_empty() {
        return Err(Mismatch::plain("the record does not say which memory was behind the range"));
    }
    let domain = history.domain_of(area.stream)?;
    let reaches = |what: What| match what {
        What::Invalidation(Invalidation::Tlb { domains, stage, range })
            if domains.reach(Some(domain)) && stage.is_none_or(|stage| stage == dialect.stage()) =>
        {
            Some(range.unwrap_or(Span { first: 0, last: u64::MAX }))
        }
        _ => None,
    };
    let mut covered: Vec<Span> = slice.inside().iter().filter_map(|event| reaches(event.what)).collect();
    covered.sort_by_key(|span| span.first);
    match first_uncovered(area.span, &covered) {
        None => Ok(()),
        Some(address) => {
            let expected = format!("{} that covers {}", dialect.name_of_range(domain), area.span);
            Err(Mismatch::at(slice.end().line, expected, format!("none of {address:#x} before the wait")))
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
