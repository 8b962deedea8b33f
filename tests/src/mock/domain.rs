//! The mock's domains.

use super::script::unconfirmed;
use super::tables::Tables;
use super::unit::Shared;
use super::{Call, Effect, Event, Outside, lock, violation};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent, total_len};
use iommu_core::hw::{Domain, DomainConfig, Gather, Geometry, HwError, Prot, Transition, Translation, unique_number};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What is left of a domain as long as its unit is there.
pub(super) struct Body {
    pub(super) number: u64,
    pub(super) config: DomainConfig,
    pub(super) tables: Mutex<Tables>,
    /// Nested domains on it.
    pub(super) nested: AtomicUsize,
    tracking: AtomicBool,
    dropped: AtomicBool,
}

impl Body {
    /// A device writes through it.
    pub(super) fn write(&self, iova: u64) {
        if self.tracking.load(Ordering::Acquire) {
            lock(&self.tables).write(iova);
        }
    }
}

/// A domain that maps page by page, and forgets nothing of what hardware may still hold.
pub struct MockDomain {
    pub(super) body: Arc<Body>,
    pub(super) unit: Arc<Shared>,
}

impl MockDomain {
    pub(super) fn new(unit: &Arc<Shared>, config: &DomainConfig) -> Self {
        let number = unique_number();
        let body = Body {
            number,
            config: *config,
            tables: Mutex::new(Tables::new(&unit.world, number)),
            nested: AtomicUsize::new(0),
            tracking: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
        };
        Self { body: Arc::new(body), unit: unit.clone() }
    }

    /// The mock behind `domain`, which is one.
    pub fn of(domain: &dyn Domain) -> &Self {
        Self::try_of(domain).expect("not a mock domain")
    }

    pub(super) fn try_of(domain: &dyn Domain) -> Option<&Self> {
        (domain as &dyn Any).downcast_ref()
    }

    /// What names it in [`Event`]s.
    pub fn number(&self) -> u64 {
        self.body.number
    }

    /// What it was made as.
    pub fn config(&self) -> DomainConfig {
        self.body.config
    }

    /// Its leaves, lowest first: range, where it leads, what it allows.
    pub fn leaves(&self) -> Vec<(IovaRange, PhysAddr, Prot)> {
        let tables = lock(&self.body.tables);
        tables.leaves.iter().map(|(&at, leaf)| (super::range(at, leaf.size), leaf.phys, leaf.prot)).collect()
    }

    /// How many bytes are mapped.
    pub fn mapped(&self) -> u64 {
        lock(&self.body.tables).leaves.values().map(|leaf| leaf.size).sum()
    }

    /// All the places that a device may get to at `iova` until everything is flushed, with what is allowed there.
    pub fn ways(&self, iova: u64) -> Vec<(PhysAddr, Prot)> {
        lock(&self.body.tables).ways(iova)
    }

    /// Whether something was unmapped and not flushed yet.
    pub fn has_stale(&self) -> bool {
        lock(&self.body.tables).has_stale()
    }

    /// A device writes one byte at `iova` through it. Recorded where dirty tracking is on.
    pub fn device_writes(&self, iova: u64) {
        self.body.write(iova);
    }

    fn smallest(&self) -> u64 {
        self.unit.config.page_sizes.smallest().expect("page sizes")
    }

    fn check(&self, range: IovaRange) -> Result<(), HwError> {
        let align = self.smallest();
        if !range.start().is_aligned(align) {
            return Err(HwError::Misaligned { value: range.start().get(), align });
        }
        if !range.is_aligned(align) {
            return Err(HwError::Misaligned { value: range.len().unwrap_or(u64::MAX), align });
        }
        if !self.unit.config.aperture.covers(range) {
            return Err(HwError::OutOfRange { iova: range.start(), len: range.len().unwrap_or(u64::MAX) });
        }
        if let Some(reserved) = self.unit.config.reserved.iter().find(|reserved| reserved.overlaps(range)) {
            return Err(HwError::Reserved { address: reserved.start().get() });
        }
        Ok(())
    }

    fn check_map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<Option<IovaRange>, HwError> {
        if prot.is_none() {
            return Err(HwError::Protection(prot));
        }
        let (align, bits) = (self.smallest(), self.unit.config.output_bits);
        for extent in extents {
            if !extent.is_aligned(align) {
                return Err(HwError::Misaligned { value: extent.start.get() | extent.len, align });
            }
            if extent.len > 0 && extent.last().is_none_or(|last| bits < 64 && last.get() >> bits != 0) {
                return Err(HwError::OutputTooWide { phys: extent.start, bits });
            }
        }
        let out_of_range = |len| HwError::OutOfRange { iova, len };
        let len = total_len(extents).ok_or(out_of_range(u64::MAX))?;
        if len == 0 {
            return Ok(None);
        }
        let range = IovaRange::from_len(iova, len).ok_or(out_of_range(len))?;
        self.check(range)?;
        Ok(Some(range))
    }

    /// The error of a call that does not change tables.
    fn next(&self, call: Call) -> Result<(), (HwError, Effect)> {
        if self.body.dropped.load(Ordering::Acquire) {
            violation(format_args!("{call:?} of a domain that is gone"));
        }
        self.unit.script.next(call)
    }

    fn claim(&self, gather: &mut Gather) -> Result<(), HwError> {
        gather.claim(self.body.number).inspect_err(|_| violation(format_args!("a gather of another domain")))
    }
}

impl Domain for MockDomain {
    fn geometry(&self) -> Geometry {
        let config = &self.unit.config;
        Geometry { aperture: config.aperture, page_sizes: config.page_sizes, output_bits: config.output_bits }
    }

    fn reserved_ranges(&self) -> &[IovaRange] {
        &self.unit.config.reserved
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        let _outside = Outside::enter();
        let failure = self.next(Call::Map).err();
        let range = match self.check_map(iova, extents, prot) {
            Ok(Some(range)) => range,
            Ok(None) => return Ok(()),
            Err(error) => {
                // What the memory is, the core need not know: the rest it must.
                if !matches!(error, HwError::OutputTooWide { .. } | HwError::Misaligned { .. })
                    || !iova.is_aligned(self.smallest())
                {
                    violation(format_args!("a map that cannot be: {error}"));
                }
                return Err(error);
            }
        };
        let mut tables = lock(&self.body.tables);
        if let Some(misuse) = tables.in_the_way(range) {
            drop(tables);
            violation(format_args!("domain {}: {misuse}", self.body.number));
            return Err(HwError::AlreadyMapped { iova });
        }
        let mut at = iova.get();
        for extent in extents.iter().filter(|extent| extent.len > 0) {
            match failure {
                None => tables.insert(at, *extent, prot, self.unit.config.page_sizes),
                Some((error, effect)) if unconfirmed(error) => {
                    if effect == Effect::Done {
                        tables.insert(at, *extent, prot, self.unit.config.page_sizes);
                    }
                    tables.unsure(at, *extent, prot);
                }
                Some(_) => {}
            }
            at = at.wrapping_add(extent.len);
        }
        drop(tables);
        match failure {
            Some((error, _)) => {
                if unconfirmed(error) {
                    self.unit.world.doubt();
                }
                Err(error)
            }
            None => {
                let len = range.len().unwrap_or(u64::MAX);
                self.unit.world.note(Event::Map { domain: self.body.number, iova: iova.get(), len });
                Ok(())
            }
        }
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        let _outside = Outside::enter();
        let failure = self.next(Call::Unmap).err();
        self.claim(gather)?;
        self.check(range).inspect_err(|error| violation(format_args!("an unmap that cannot be: {error}")))?;
        let mut tables = lock(&self.body.tables);
        if let Some((error, effect)) = failure {
            if effect == Effect::Done {
                let _ = tables.remove(range, gather, true);
            }
            return Err(error);
        }
        let result = tables.remove(range, gather, false);
        let unsure = tables.is_unsure(range) || self.unit.world.is_in_doubt();
        drop(tables);
        match result {
            Ok(()) => {
                let len = range.len().unwrap_or(u64::MAX);
                self.unit.world.note(Event::Unmap { domain: self.body.number, iova: range.start().get(), len });
            }
            Err(error @ HwError::NotMapped { .. }) if !unsure => {
                violation(format_args!("domain {}: {range} is unmapped: {error}", self.body.number));
            }
            Err(_) => {}
        }
        result
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        let _outside = Outside::enter();
        let failure = self.next(Call::Flush).err();
        self.claim(gather)?;
        match failure {
            // Whatever hardware did, what it did not confirm counts as reachable, and will be unmapped once more, in all
            // domains of the address space.
            Some((error, _)) => {
                self.unit.world.doubt();
                Err(error)
            }
            None => {
                lock(&self.body.tables).flush(gather);
                gather.clear();
                self.unit.world.note(Event::Flush { domain: self.body.number });
                Ok(())
            }
        }
    }

    fn retire(&self) -> Result<(), HwError> {
        let _outside = Outside::enter();
        let failure = self.next(Call::Retire).err();
        self.unit.forget(self.body.number);
        if let Some((error, _)) = failure {
            return Err(error);
        }
        lock(&self.body.tables).retire();
        self.unit.world.note(Event::Retire { domain: self.body.number });
        Ok(())
    }

    fn split(&self, at: Iova) -> Result<Transition, HwError> {
        let _outside = Outside::enter();
        let failure = self.next(Call::Split).err();
        let align = self.smallest();
        if !self.unit.config.splits {
            return Err(HwError::Unsupported("splitting leaves"));
        }
        if !at.is_aligned(align) {
            return Err(HwError::Misaligned { value: at.get(), align });
        }
        if !self.unit.config.aperture.contains(at) {
            return Err(HwError::OutOfRange { iova: at, len: 1 });
        }
        if failure.is_none_or(|(_, effect)| effect == Effect::Done) {
            lock(&self.body.tables).split(at.get(), self.unit.config.page_sizes);
        }
        failure.map_or(Ok(Transition::Hitless), |(error, _)| Err(error))
    }

    fn set_dirty_tracking(&self, on: bool) -> Result<(), HwError> {
        let _outside = Outside::enter();
        let failure = self.next(Call::SetDirty).err();
        if !self.body.config.dirty_tracking {
            return Err(HwError::Unsupported("dirty tracking"));
        }
        if failure.is_none_or(|(_, effect)| effect == Effect::Done) {
            self.body.tracking.store(on, Ordering::Release);
        }
        failure.map_or(Ok(()), |(error, _)| Err(error))
    }

    fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.scan(range, None, dirty)
    }

    fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.claim(gather)?;
        self.scan(range, Some(gather), dirty)
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        let _outside = Outside::enter();
        let (start, leaf) = lock(&self.body.tables).leaf(iova.get())?;
        let phys = leaf.phys.wrapping_add(iova.get() - start);
        Some(Translation { phys, prot: leaf.prot, page_size: leaf.size })
    }
}

impl MockDomain {
    fn scan(
        &self,
        range: IovaRange,
        mut gather: Option<&mut Gather>,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        let found = {
            let _outside = Outside::enter();
            self.next(Call::ReadDirty).map_err(|(error, _)| error)?;
            if !self.body.config.dirty_tracking {
                return Err(HwError::Unsupported("dirty tracking"));
            }
            self.check(range).inspect_err(|error| violation(format_args!("a range that cannot be read: {error}")))?;
            let mut found: Vec<IovaRange> = Vec::new();
            let mut tables = lock(&self.body.tables);
            let first = tables.first(range).unwrap_or(u64::MAX);
            for (&at, leaf) in tables.leaves.range_mut(first..).take_while(|(at, _)| **at <= range.last().get()) {
                if !leaf.dirty {
                    continue;
                }
                let whole = super::range(at, leaf.size);
                let start = whole.start().max(range.start());
                let part = IovaRange::new(start, whole.last().min(range.last())).expect("a part of both");
                match found.last_mut().filter(|last| last.is_followed_by(part)) {
                    Some(last) => *last = last.union(part),
                    None => found.push(part),
                }
                // One bit stands for the whole leaf: what is not handed over must not be forgotten.
                if let Some(gather) = gather.as_deref_mut()
                    && part == whole
                {
                    leaf.dirty = false;
                    leaf.unnoted = true;
                    gather.add_leaves(whole, 0);
                }
            }
            found
        };
        found.into_iter().for_each(dirty);
        Ok(())
    }
}

impl Drop for MockDomain {
    fn drop(&mut self) {
        let _outside = Outside::enter();
        let number = self.body.number;
        if self.body.nested.load(Ordering::Acquire) > 0 {
            violation(format_args!("domain {number} goes, and a nested one stands on it"));
        }
        if let Some(stream) = self.unit.leads_to(number) {
            violation(format_args!("domain {number} goes, and {stream} leads to it"));
        }
        let failure = self.unit.script.next(Call::Retire).err();
        self.unit.forget(number);
        self.body.dropped.store(true, Ordering::Release);
        self.unit.world.note(Event::DropDomain { domain: number });
        // Where hardware did not confirm, the tables stay for ever, and so does what they lead to.
        if failure.is_none() {
            lock(&self.body.tables).retire();
        }
    }
}
