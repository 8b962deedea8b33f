//! Context tables, and context entries of scalable mode with what they enable.

use super::requester::Context;
use super::{Tables, frame, write_entry};
use crate::domain::State;
use crate::spec::context::CONTEXT_ENTRY_WORDS;
use crate::spec::invalidation::TlbTarget;
use crate::spec::root::{ROOT_ENTRY_WORDS, RootHalf};
use iommu_alloc::Shared;
use iommu_core::hw::{HwError, RequesterId};
use iommu_hal::Hal;
use iommu_hal::mem::Frames;

impl<H: Hal + Clone> Tables<H> {
    /// The device TLB of a requester.
    pub(crate) fn tlb(&self, source: RequesterId) -> Option<TlbTarget> {
        self.requester(source)?.tlb
    }

    /// Notes the device TLB of a requester, for which its context entry is to be [enabled](Tables::change_enables).
    pub(crate) fn set_tlb(&mut self, source: RequesterId, tlb: TlbTarget) -> Result<(), HwError> {
        let held = self.requester_or_new(source)?;
        (held.tlb, held.tlb_enabled) = (Some(tlb), true);
        Ok(())
    }

    /// From now on the context entry of a requester is to refuse requests of its device TLB, of which the invalidations go on.
    pub(crate) fn refuse_tlb(&mut self, source: RequesterId) {
        if let Ok(held) = self.held(source) {
            held.tlb_enabled = false;
        }
    }

    /// Forgets the device TLB of a requester.
    pub(crate) fn forget_tlb(&mut self, source: RequesterId) {
        if let Ok(held) = self.held(source) {
            (held.tlb, held.tlb_enabled) = (None, false);
        }
        self.prune(source);
    }

    /// The domains that a requester leads to, or did when hardware last confirmed.
    pub(crate) fn states(&self, source: RequesterId) -> impl Iterator<Item = &Shared<State>> {
        self.requester(source).into_iter().flat_map(|held| held.streams.iter().map(|stream| &stream.state))
    }

    /// Makes the enables of a requester's context entry, where it is present, follow what was [noted](Tables::set_tlb) of its
    /// device TLB. The caller invalidates what is [unconfirmed](Tables::unconfirmed) then.
    pub(crate) fn change_enables(&mut self, source: RequesterId) -> Result<(), HwError> {
        let changed = if self.shape.scalable { self.change_context(source) } else { self.change_legacy(source) }?;
        if let Ok(held) = self.held(source) {
            held.changed |= changed;
        }
        Ok(())
    }

    /// Publishes the context entry of a requester where it is not present, and returns whether it was not.
    pub(super) fn set_context(&mut self, source: RequesterId) -> Result<bool, HwError> {
        let shape = self.shape;
        let held = self.held(source)?;
        if held.context == Context::Present {
            return Ok(false);
        }
        let entry = held.context_entry(&shape).ok_or(HwError::Hardware("a requester without a directory"))?;
        held.context = Context::Present;
        write_entry(&frame(self.context(source)?)?, context_word(source), &entry.words());
        Ok(true)
    }

    /// Makes word 0 of the context entry, which has all that may change while it is present, what it should be, by one store.
    pub(super) fn change_context(&mut self, source: RequesterId) -> Result<bool, HwError> {
        let Some(held) = self.requester(source).filter(|held| held.context == Context::Present) else {
            return Ok(false);
        };
        let entry = held.context_entry(&self.shape).ok_or(HwError::Hardware("a requester without a directory"))?;
        let [word0, ..] = entry.words();
        let (table, at) = (frame(self.context(source)?)?, context_word(source));
        let changes = table.load(at) != word0;
        if changes {
            table.publish(at, word0);
        }
        Ok(changes)
    }

    /// Makes sure that `source` has a context table; an empty one is linked where there is none.
    pub(super) fn context_table(&mut self, source: RequesterId) -> Result<(), HwError> {
        let key = self.context_key(source);
        if self.contexts.iter().any(|(held, _)| *held == key) {
            return Ok(());
        }
        self.contexts.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let table = Frames::alloc(self.hal.clone(), self.request).ok_or(HwError::OutOfMemory)?;
        const { assert!(ROOT_ENTRY_WORDS == 2, "one word a half") };
        frame(&self.root)?.publish(key.into(), RootHalf::to(table.phys()).into());
        self.contexts.push((key, table));
        Ok(())
    }

    /// The context table that `source` stands in.
    pub(super) fn context(&self, source: RequesterId) -> Result<&Frames<H>, HwError> {
        let key = self.context_key(source);
        let found = self.contexts.iter().find(|(held, _)| *held == key);
        found.map(|(_, frames)| frames).ok_or(HwError::NoSuchStream { stream: source.get().into() })
    }

    /// The word of the root table that leads to the context table of `source`: of the half of its bus in scalable mode.
    fn context_key(&self, source: RequesterId) -> u16 {
        let half = if self.shape.scalable { source.devfn() >> 7 } else { 0 };
        u16::from(source.bus()) * ROOT_ENTRY_WORDS as u16 + u16::from(half)
    }
}

/// First word of a requester's entry in its context table, in scalable mode.
pub(super) fn context_word(source: RequesterId) -> usize {
    usize::from(source.devfn() & 0x7f) * CONTEXT_ENTRY_WORDS
}
