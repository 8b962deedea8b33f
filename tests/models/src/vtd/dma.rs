//! Requests of devices.

mod answer;
mod live;

pub use answer::{Blocked, Completion};
pub use live::FetchHook;
pub(super) use live::Fetching;

use super::cache::{CachedPasid, Owner, Translation};
use super::command;
use super::fault::FaultRecord;
use super::unit::Unit;
use super::walk::{self, AddressType, Admission, Context, FaultCode, Leaf, Operation, Refused, Regime, Request};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use live::{Held, Live};

impl Unit {
    /// Translates the `len` bytes from where `request` is for, page by page; records the first fault.
    pub(super) fn dma(&mut self, request: &Request, len: u64) -> Result<Vec<PhysExtent>, Blocked> {
        let mut extents: Vec<PhysExtent> = Vec::new();
        let Some(less) = len.checked_sub(1) else { return Ok(extents) };
        let last = request.iova.get().checked_add(less).expect("a request does not wrap");
        let mut at = request.iova.get();
        loop {
            let end = last.min(at | 0xfff);
            let phys = self.request(&request.at(Iova::new(at)))?.phys.get();
            match extents.last_mut() {
                Some(before) if before.start.get() + before.len == phys => before.len += end - at + 1,
                _ => extents.push(PhysExtent::new(PhysAddr::new(phys), end - at + 1)),
            }
            if end == last {
                break;
            }
            at = end + 1;
        }
        Ok(extents)
    }

    /// One request, which stays in its page; a fault is recorded.
    pub(super) fn request(&mut self, request: &Request) -> Result<Completion, Blocked> {
        self.lose_entries();
        let iova = request.iova.get();
        let untranslated = request.address == AddressType::Untranslated;
        let found = if request.is_interrupt() {
            // Whether translation is on or off; but only a unit at work reports.
            let found = walk::not_remapped(request).map(|()| Completion::plain(iova));
            let silent = self.status_bits & command::TRANSLATION == 0;
            found.map_err(|refused| if silent { Refused { code: FaultCode::NONE, silent } } else { refused })
        } else if self.status_bits & command::TRANSLATION != 0 {
            self.lookup(request)
        } else if untranslated {
            Ok(Completion::plain(iova))
        } else {
            // Section 4.2.1: unsupported requests while translation is off.
            Err(Refused { code: FaultCode::NONE, silent: true })
        };
        // Nothing is recorded of protected memory; a translation of it may be given.
        let found = found.and_then(|completion| match self.is_protected(completion.phys.get()) {
            true if !request.is_translation() => Err(Refused { code: FaultCode::NONE, silent: true }),
            _ => Ok(completion),
        });
        found.map_err(|Refused { code, silent }| {
            let reported = code.is_fault(request.address) && !(silent && code.is_qualified());
            if reported {
                self.record(&FaultRecord::of(request, code));
            }
            Blocked { code, page: Iova::new(iova & !0xfff), reported, answer: code.answer(request.address) }
        })
    }

    fn lookup(&mut self, request: &Request) -> Result<Completion, Refused> {
        let tag = (request.requester, request.pasid);
        // Only the context entry says whether a device may ask for translations, or have any.
        if request.address != AddressType::Untranslated {
            let context = self.context(request)?;
            if walk::admit(&self.config, &context, request)? == Admission::Translated {
                return Ok(Completion::plain(request.iova.get()));
            }
            if request.pasid.is_none() && walk::is_interrupt(request.iova.get()) {
                return Ok(Self::interrupt_window(self.config.ecap_bit(33), request));
            }
        }
        if let Some((cached, size)) = self.caches.find(tag, request.iova.get()) {
            let refused = |code| Refused { code, silent: cached.regime.silent };
            let leaf = Leaf { size, ..cached.found? };
            cached.regime.admit(request)?;
            leaf.check(&self.config, &cached.regime, request).map_err(refused)?;
            let (_, write) = leaf.allows(&cached.regime, cached.regime.is_privileged(request));
            // A write through a leaf that was clean is walked anew, to set its dirty bit.
            if leaf.dirty || !request.operation.writes() || !write {
                self.draining.add(request, &cached.regime, &leaf);
                return Ok(self.completion(request, &cached.regime, &leaf));
            }
        }
        let (regime, leaf) = self.fill(request)?;
        self.draining.add(request, &regime, &leaf);
        Ok(self.completion(request, &regime, &leaf))
    }

    /// Conditions S.1 and S.2: a device that asks for a translation of where interrupts go.
    fn interrupt_window(no_write_flag: bool, request: &Request) -> Completion {
        let write = request.operation.writes() || !no_write_flag;
        let nothing = Completion { read: false, write, ..Completion::plain(request.iova.get()) };
        Completion { untranslated_only: write, ..nothing }
    }

    fn completion(&self, request: &Request, regime: &Regime, leaf: &Leaf) -> Completion {
        let privileged = regime.is_privileged(request);
        let (read, write) = leaf.allows(regime, privileged);
        // NW, where the unit knows it: no write permission.
        let no_write = request.is_translation() && self.config.ecap_bit(33) && !request.operation.writes();
        Completion {
            phys: PhysAddr::new(leaf.phys + (request.iova.get() & (leaf.size - 1))),
            size: leaf.size,
            read,
            write: write && !no_write,
            snoop: leaf.snoop,
            untranslated_only: false,
            privileged: privileged && request.pasid.is_some(),
        }
    }

    /// The context entry, cached or read.
    fn context(&mut self, request: &Request) -> Result<Context, Refused> {
        if request.pasid.is_some() && self.root >> 10 & 3 != 1 {
            // No entry is looked at.
            let memory = self.memory.clone();
            let view = &mut Live { memory: &memory, fetching: &mut self.fetching, structures: None };
            return walk::context(view, self.root, &self.config, request);
        }
        if let Some(context) = self.caches.contexts.get(&request.requester) {
            return *context;
        }
        let memory = self.memory.clone();
        let view = &mut Live { memory: &memory, fetching: &mut self.fetching, structures: None };
        let context = walk::context(view, self.root, &self.config, request);
        if context.is_ok() || self.config.caching() && context.is_err_and(|refused| refused.code.is_context()) {
            self.caches.contexts.insert(request.requester, context);
            let legacy = context.ok().filter(|context| context.legacy);
            self.check_domain(request.requester, legacy.map(|context| Regime::of_context(&self.config, &context)));
        }
        context
    }

    /// Context and PASID entry, cached or read.
    fn regime(&mut self, request: &Request) -> Result<Regime, Refused> {
        let context = self.context(request)?;
        let pasid = match walk::admit(&self.config, &context, request)? {
            Admission::Pasid(pasid) => pasid,
            Admission::Legacy | Admission::Translated => return Ok(Regime::of_context(&self.config, &context)),
        };
        let tag = (request.requester, pasid);
        let entry = match self.caches.pasids.get(&tag) {
            Some(cached) => cached.entry,
            None => {
                let memory = self.memory.clone();
                let view = &mut Live { memory: &memory, fetching: &mut self.fetching, structures: None };
                let entry = walk::pasid_entry(view, &self.config, &context, pasid);
                if entry.is_ok() || self.config.caching() && entry.is_err_and(|refused| refused.code.is_pasid()) {
                    let regime = entry.ok().map(|entry| Regime::of_pasid(&self.config, &context, &entry));
                    self.caches.pasids.insert(tag, CachedPasid { pasid, entry, regime });
                    self.check_domain(request.requester, regime);
                }
                entry
            }
        }?;
        Ok(Regime::of_pasid(&self.config, &context, &entry))
    }

    /// Walks memory, through the context and PASID cache, and keeps what may be kept.
    fn fill(&mut self, request: &Request) -> Result<(Regime, Leaf), Refused> {
        let regime = self.regime(request)?;
        let memory = self.memory.clone();
        let config = self.config;
        let (first, second) = (Owner::first(regime.domain, regime.pasid.unwrap_or(0)), Owner::second(regime.domain));
        let caching = config.caching() && regime.kind == 2;
        if caching && let Some(refused) = self.caches.structures.fault(second, request.iova.get()) {
            return Err(Refused { silent: regime.silent, ..refused });
        }
        let structures = Held { caches: &mut self.caches.structures, first, second, level: None };
        let view = &mut Live { memory: &memory, fetching: &mut self.fetching, structures: Some(structures) };
        // As hardware without the flag: a translation is asked for to read and write.
        let asked = match request.address {
            AddressType::Translation if !config.ecap_bit(33) => request.operation(Operation::Atomic),
            _ => *request,
        };
        let found = walk::page(view, &config, &regime, &asked);
        // A leaf that forbids this request is present all the same, and may be kept.
        let other = |refused: Refused| {
            let forbidden = matches!(refused.code.0, 0x05 | 0x06 | 0x79 | 0x82 | 0x85 | 0x86 | 0x90);
            // As a translation for reading: it takes what there is, and dirties nothing.
            let again = Request { execute: false, ..*request };
            let again = again.operation(Operation::Read).address(AddressType::Translation);
            if forbidden { walk::page(view, &config, &regime, &again).map_err(|_| refused) } else { Err(refused) }
        };
        let kept = found.or_else(other);
        // Section 6.1: caching mode never concerns the first stage; an input beyond the width met no entry.
        let entries = |refused: Refused| {
            let width = [FaultCode::BEYOND_WIDTH, FaultCode::LEGACY_BEYOND_WIDTH].contains(&refused.code);
            !width && regime.kind == 2
        };
        let level = view.structures.as_ref().and_then(|held| held.level).or(regime.second_levels());
        if let (Err(refused), true, Some(level)) = (kept, caching && kept.is_err_and(entries), level) {
            self.caches.structures.keep_fault(second, level, request.iova.get(), refused);
        }
        if kept.is_ok() || config.caching() && kept.is_err_and(entries) {
            let tag = (request.requester, request.pasid);
            let size = kept.map_or(0x1000, |leaf| leaf.size);
            self.caches.insert(tag, request.iova.get(), size, Translation { regime, found: kept });
        }
        found.map(|leaf| (regime, leaf))
    }
}
