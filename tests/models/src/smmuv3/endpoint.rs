//! A function with ATS (section 3.9): it asks for translations, keeps the answers, and goes to memory with them.

use super::device_tlb::Held;
use super::dma::Blocked;
use super::model::Model;
use super::page_request::{PageAnswer, PageRequest};
use super::stall::Attempt;
use super::unit::Unit;
use super::walk::{Denied, FaultCode, Refused};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};

/// A function behind a unit, with a translation cache of its own.
///
/// It keeps every answer until an invalidation covers it, and asks again only for what it does not hold.
#[derive(Clone, Copy)]
pub struct Endpoint<'a> {
    model: &'a Model,
    sid: u32,
}

impl Unit {
    /// Asks for the translation of `iova` for a function, which keeps the answer.
    pub(super) fn ask_for(
        &mut self,
        sid: u32,
        pasid: Option<u32>,
        iova: u64,
        write: bool,
    ) -> Result<Option<Held>, Blocked> {
        let blocked = |code, reported| Blocked { code, iova: Iova::new(iova), reported, stalled: false, aborted: true };
        let granted = match self.ats_request(sid, pasid, iova, write) {
            Ok(granted) => granted,
            Err(Denied::Unsupported { recorded: true }) => return Err(blocked(FaultCode::F_BAD_ATS_TREQ, true)),
            Err(Denied::Unsupported { recorded: false }) => return Err(blocked(FaultCode::NONE, false)),
            Err(Denied::Aborted(code)) => return Err(blocked(code, false)),
        };
        if !granted.read && !granted.write {
            return Ok(None);
        }
        let len = 1 << granted.bits;
        let held = Held {
            pasid,
            iova: Iova::new(iova & !(len - 1)),
            len,
            phys: PhysAddr::new(granted.address.get() & !(len - 1)),
            read: granted.read,
            write: granted.write,
        };
        let function = self.device_tlbs.of(sid);
        function.held.retain(|other| (other.pasid, other.iova, other.len) != (held.pasid, held.iova, held.len));
        function.held.push(held);
        Ok(Some(held))
    }

    /// A translated request, which is recorded where it is blocked.
    pub(super) fn translated(&mut self, sid: u32, phys: u64, write: bool) -> Result<u64, Blocked> {
        let attempt = Attempt { sid, ssid: None, iova: Iova::new(phys), len: 1, write };
        let found = if self.failed { Err(FaultCode::NONE.into()) } else { self.ats_translated(sid, phys, write) };
        found.map_err(|refused: Refused| self.refuse(&attempt, phys, &refused))
    }
}

impl<'a> Endpoint<'a> {
    pub(super) const fn new(model: &'a Model, sid: u32) -> Self {
        Self { model, sid }
    }

    /// Asks for the translation of the page with `iova`, to write to it or only to read it, and keeps the answer.
    ///
    /// `None` is an answer too: nothing may be done there. It is not kept.
    ///
    /// # Errors
    ///
    /// The request is not answered with success: the unit is off, the stream's entry allows no such requests
    /// ([`FaultCode::F_BAD_ATS_TREQ`], or [`FaultCode::NONE`] where it aborts), or an entry on the way is broken.
    pub fn translate(&self, pasid: Option<u32>, iova: Iova, write: bool) -> Result<Option<Held>, Blocked> {
        self.model.lock().ask_for(self.sid, pasid, iova.get(), write)
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

    /// A request that the function says is translated already, whether it ever was or not: to the byte at `phys`. Where
    /// it goes, which is elsewhere only with ATS of stage 1 alone.
    ///
    /// # Errors
    ///
    /// The request is blocked: the unit is off, CR0.ATSCHK is set and the stream's entry does not allow such requests, or
    /// the address is none.
    pub fn translated(&self, phys: PhysAddr, write: bool) -> Result<PhysAddr, Blocked> {
        self.model.ats_translated(self.sid, phys, write)
    }

    /// What it holds.
    pub fn cached(&self) -> Vec<Held> {
        self.model.lock().device_tlbs.of(self.sid).held.clone()
    }

    /// Its ATS capability is disabled, or the function is reset: it holds nothing any more.
    pub fn forget(&self) {
        self.model.lock().device_tlbs.of(self.sid).held.clear();
    }

    /// It takes this many invalidations at once; more take it longer, where it [answers late](Self::answer_after).
    pub fn set_queue_depth(&self, depth: u8) {
        self.model.lock().device_tlbs.of(self.sid).depth = Some(depth);
    }

    /// From now on it answers as many invalidations as it takes at once only after this many looks at CMDQ_CONS.
    pub fn answer_after(&self, looks: u32) {
        self.model.lock().device_tlbs.of(self.sid).late = looks;
    }

    /// Whether it asks at once for what an invalidation took from it: devices do not wait.
    pub fn set_eager(&self, eager: bool) {
        self.model.lock().device_tlbs.of(self.sid).eager = eager;
    }

    /// Whether it answers invalidations with Unsupported Request and keeps what it holds, which is no error to the unit
    /// (section 3.9.1.5).
    pub fn set_refusing(&self, refusing: bool) {
        self.model.lock().device_tlbs.of(self.sid).refusing = refusing;
    }

    /// A page request; whether it went into the PRI queue.
    pub fn request_page(&self, request: &PageRequest) -> bool {
        self.model.lock().page_request(self.sid, request)
    }

    /// Answers to its page requests since the last call, those that the unit gave by itself included.
    pub fn take_answers(&self) -> Vec<PageAnswer> {
        core::mem::take(&mut self.model.lock().device_tlbs.of(self.sid).answers)
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
        self.translated(PhysAddr::new(phys), write).map(PhysAddr::get)
    }

    const fn nothing_given(iova: u64) -> Blocked {
        let (code, iova) = (FaultCode::NONE, Iova::new(iova));
        Blocked { code, iova, reported: false, stalled: false, aborted: true }
    }
}
