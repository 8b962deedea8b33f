//! A function with ATS (section 4): it asks for translations, keeps the answers, and goes to memory with them.

use super::device_tlb::Held;
use super::dma::Blocked;
use super::model::Model;
use super::walk::{AddressType, Answer, FaultCode, Operation, Request};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};

/// A function behind a unit, with a translation cache of its own.
///
/// It keeps every answer until an invalidation covers it, and asks again only for what it does not hold.
#[derive(Clone, Copy)]
pub struct Endpoint<'a> {
    model: &'a Model,
    requester: u16,
}

impl<'a> Endpoint<'a> {
    pub(super) const fn new(model: &'a Model, requester: u16) -> Self {
        Self { model, requester }
    }

    /// Asks for the translation of the page with `iova`, to write to it or only to read it, and keeps the answer.
    ///
    /// `None` is an answer too: nothing may be done there. It is not kept.
    ///
    /// # Errors
    ///
    /// The request is blocked: the unit has no device TLBs or translation is off, the context entry does not allow
    /// translation requests, or an entry on the way is broken.
    pub fn translate(&self, pasid: Option<u32>, iova: Iova, write: bool) -> Result<Option<Held>, Blocked> {
        // NW is clear where it may write.
        let operation = if write { Operation::Atomic } else { Operation::Read };
        let request = Request::new(self.requester, pasid, iova, false).operation(operation);
        let answer = match self.model.request(&request.address(AddressType::Translation)) {
            Ok(answer) => answer,
            Err(Blocked { answer: Answer::Empty, .. }) => return Ok(None),
            Err(blocked) => return Err(blocked),
        };
        // With U set the answer is good for nothing that comes translated.
        if !answer.read && !answer.write || answer.untranslated_only {
            return Ok(None);
        }
        let below = answer.size - 1;
        let held = Held {
            pasid,
            iova: Iova::new(iova.get() & !below),
            len: answer.size,
            phys: PhysAddr::new(answer.phys.get() & !below),
            read: answer.read,
            write: answer.write,
        };
        self.keep(held);
        Ok(Some(held))
    }

    fn keep(&self, held: Held) {
        let mut unit = self.model.lock();
        let function = unit.device_tlbs.of(self.requester);
        function.held.retain(|other| (other.pasid, other.iova, other.len) != (held.pasid, held.iova, held.len));
        function.held.push(held);
    }

    /// The `len` bytes from `iova`, with what it holds, and with what it asks for where it holds nothing: where they
    /// lie, neighbours joined.
    ///
    /// # Errors
    ///
    /// A translation that was not given, which is no fault of the unit, or one that is blocked.
    ///
    /// # Panics
    ///
    /// Where the range wraps.
    pub fn dma(&self, pasid: Option<u32>, iova: Iova, len: u64, write: bool) -> Result<Vec<PhysExtent>, Blocked> {
        let mut extents: Vec<PhysExtent> = Vec::new();
        let Some(less) = len.checked_sub(1) else { return Ok(extents) };
        let last = iova.get().checked_add(less).expect("a request does not wrap");
        let mut at = iova.get();
        loop {
            let end = last.min(at | 0xfff);
            let phys = self.page(pasid, at, write)?;
            match extents.last_mut() {
                Some(before) if before.start.get() + before.len == phys => before.len += end - at + 1,
                _ => extents.push(PhysExtent::new(PhysAddr::new(phys), end - at + 1)),
            }
            if end == last {
                return Ok(extents);
            }
            at = end + 1;
        }
    }

    /// A request that the function says is translated already, whether it ever was or not: to the byte at `phys`.
    ///
    /// # Errors
    ///
    /// The request is blocked: the context entry does not allow such requests, the address is no host's, or it is
    /// protected.
    pub fn translated(&self, phys: PhysAddr, write: bool) -> Result<(), Blocked> {
        let request = Request::new(self.requester, None, Iova::new(phys.get()), write);
        self.model.request(&request.address(AddressType::Translated)).map(drop)
    }

    /// What it holds.
    pub fn cached(&self) -> Vec<Held> {
        self.model.lock().device_tlbs.of(self.requester).held.clone()
    }

    /// Its ATS capability is disabled, or the function is reset: it holds nothing any more.
    pub fn forget(&self) {
        self.model.lock().device_tlbs.of(self.requester).held.clear();
    }

    /// It takes this many invalidations at once; what lets hardware send more is flagged.
    pub fn set_queue_depth(&self, depth: u8) {
        self.model.lock().device_tlbs.of(self.requester).depth = Some(depth);
    }

    /// It is a virtual function of this one.
    pub fn set_physical_function(&self, requester: u16) {
        self.model.lock().device_tlbs.of(self.requester).physical = Some(requester);
    }

    fn page(&self, pasid: Option<u32>, iova: u64, write: bool) -> Result<u64, Blocked> {
        let allows = |held: &Held| if write { held.write } else { held.read };
        let known = self.cached().into_iter().find(|held| held.covers(pasid, iova) && allows(held));
        let held = match known {
            Some(held) => held,
            None => match self.translate(pasid, Iova::new(iova), write)? {
                Some(held) if allows(&held) => held,
                _ => return Err(Self::nothing_given(iova)),
            },
        };
        let phys = held.phys.get() + (iova - held.iova.get());
        self.translated(PhysAddr::new(phys), write).map(|()| phys)
    }

    const fn nothing_given(iova: u64) -> Blocked {
        let page = Iova::new(iova & !0xfff);
        Blocked { code: FaultCode::NONE, page, reported: false, answer: Answer::Empty }
    }
}
