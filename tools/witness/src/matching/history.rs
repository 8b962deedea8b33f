//! What the trace and the records say of streams and memory as time goes by.

use super::mismatch::Mismatch;
use crate::event::{Access, Event, Span, Stream, Translation, What};
use crate::record::Area;
use std::collections::BTreeMap;

/// What is known so far.
#[derive(Default)]
pub struct History {
    /// Streams that have a domain: its id, once a translation has shown it.
    streams: BTreeMap<Stream, Option<u16>>,
    /// What was taken away and not mapped again, by domain and first address; disjoint in each domain.
    gone: BTreeMap<(u16, u64), Gone>,
}

/// Mappings that were taken away.
struct Gone {
    span: Span,
    /// Where the first address led.
    phys: u64,
    /// The check that took it away.
    by: String,
}

impl History {
    /// Takes note of which domains translations were looked up in; the first one since a change counts. The trace does not
    /// tell PASIDs: accesses of the requester of `stream` are taken for its own, others for such without PASID.
    pub fn learn(&mut self, events: &[Event], stream: Option<Stream>) {
        for event in events {
            let (source, domain) = match event.what {
                What::Access(Access::Translated(found)) => (found.source, Some(found.domain)),
                What::Access(Access::Refused(refusal)) => (refusal.source, refusal.domain),
                _ => continue,
            };
            let source = stream.filter(|stream| stream.id == source).unwrap_or(Stream::whole(source));
            if let Some(known) = self.streams.get_mut(&source) {
                *known = known.or(domain);
            }
        }
    }

    /// The streams that have a domain, and which one as far as it is known.
    pub fn attached(&self) -> Vec<(Stream, Option<u16>)> {
        self.streams.iter().map(|(stream, domain)| (*stream, *domain)).collect()
    }

    /// What a stream had before a change: `None` for nothing, `Some(None)` for a domain that never translated for it.
    pub fn domain_before(&self, stream: Stream) -> Option<Option<u16>> {
        self.streams.get(&stream).copied()
    }

    /// A stream was given a domain, not known which.
    pub fn attach(&mut self, stream: Stream) {
        self.streams.insert(stream, None);
    }

    /// A stream has nothing any more.
    pub fn detach(&mut self, stream: Stream) {
        self.streams.remove(&stream);
    }

    /// The domain of a stream, which must be known by now: from an earlier translation.
    pub fn domain_of(&self, stream: Stream) -> Result<u16, Mismatch> {
        match self.streams.get(&stream) {
            Some(Some(domain)) => Ok(*domain),
            Some(None) => Err(Mismatch::plain(format!("no translation of {stream} so far shows its domain"))),
            None => Err(Mismatch::plain(format!("{stream} is attached to nothing"))),
        }
    }

    /// The streams that are known to have this domain.
    pub fn streams_of(&self, domain: u16) -> impl Iterator<Item = Stream> {
        self.streams.iter().filter(move |(_, known)| **known == Some(domain)).map(|(stream, _)| *stream)
    }

    /// An area was taken away.
    pub fn unmap(&mut self, by: &str, area: &Area) -> Result<(), Mismatch> {
        let domain = self.domain_of(area.stream)?;
        self.mapped(domain, area.span);
        let mut first = area.span.first;
        for frame in &area.frames {
            let last = first + (frame.last - frame.first);
            let gone = Gone { span: Span { first, last }, phys: frame.first, by: by.to_owned() };
            self.gone.insert((domain, first), gone);
            first = last.wrapping_add(1);
        }
        Ok(())
    }

    /// Something was mapped here again: whatever was taken away here is told apart by the frames from now on.
    pub fn mapped(&mut self, domain: u16, span: Span) {
        let keys: Vec<_> = self.gone_in(domain, span).map(|(key, _)| *key).collect();
        for key in keys {
            self.gone.remove(&key);
        }
    }

    /// The check that took away a mapping which `translation` still holds, not only where it was used.
    pub fn stale(&self, translation: &Translation) -> Option<&str> {
        let same = |gone: &Gone| translation.leads_to(gone.span.first) == gone.phys;
        self.gone_in(translation.domain, translation.block)
            .find(|(_, gone)| same(gone))
            .map(|(_, gone)| gone.by.as_str())
    }

    fn gone_in(&self, domain: u16, span: Span) -> impl Iterator<Item = (&(u16, u64), &Gone)> {
        let below = self.gone.range((domain, 0)..=(domain, span.last)).rev();
        below.take_while(move |(_, gone)| gone.span.last >= span.first)
    }
}
