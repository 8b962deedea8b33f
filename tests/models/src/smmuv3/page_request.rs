//! The PRI queue (section 8), and CMD_PRI_RESP.

use super::command::Command;
use super::control;
use super::interrupt::Source;
use super::queue::next;
use super::unit::Unit;
use iommu_core::addr::Iova;

/// GERROR.PRIQ_ABT_ERR.
const PRIQ_ABT: u32 = 1 << 3;

/// A page request of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// PASID.
    pub pasid: Option<u32>,
    /// Page request group index, 9 bits.
    pub group: u16,
    /// An address in the page.
    pub iova: Iova,
    /// Whether it is to be read.
    pub read: bool,
    /// Whether it is to be written.
    pub write: bool,
    /// The last of its group, which is to be answered.
    pub last: bool,
}

/// What a function was told about a group of page requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageAnswer {
    /// PASID of the answer.
    pub pasid: Option<u32>,
    /// The group.
    pub group: u16,
    /// As on the wire: 0 success, 1 invalid request, 15 response failure.
    pub code: u8,
}

impl Unit {
    /// A page request of `sid`; whether it went into the queue. Where it did not the last of a group is answered.
    pub(super) fn page_request(&mut self, sid: u32, request: &PageRequest) -> bool {
        let enabled = self.cr0.actual & (control::PRIQEN | control::SMMUEN) == control::PRIQEN | control::SMMUEN;
        let aborted = (self.gerror ^ self.gerrorn) & PRIQ_ABT != 0;
        let &PageRequest { group, last, .. } = request;
        if !enabled || aborted || self.failed {
            self.answer(sid, last, PageAnswer { pasid: None, group, code: 15 });
            return false;
        }
        let log2 = self.requests.log2(self.config.pri_log2());
        let filled = self.requests.filled(log2);
        // An overflow that is not acknowledged keeps everything out (section 8.1).
        if filled >= 1 << log2 || self.requests.overflow != self.requests.acknowledged {
            self.requests.overflow = !self.requests.acknowledged;
            let answer = self.overflow_answer(sid, request);
            self.answer(sid, last, answer);
            return false;
        }
        let PageRequest { pasid, iova, read, write, .. } = *request;
        let flags = u64::from(read) << 60 | u64::from(write) << 61 | u64::from(last) << 62;
        let substream = pasid.map_or(0, |pasid| 1 << 63 | u64::from(pasid) << 32);
        let words = [u64::from(sid) | substream | flags, iova.get() & !0xfff | u64::from(group & 0x1ff)];
        let first = self.requests.entries() + u64::from(self.requests.prod & ((1 << log2) - 1)) * 16;
        if !self.write_words(first, &words) {
            self.global_error(PRIQ_ABT);
            self.answer(sid, last, PageAnswer { pasid: None, group, code: 15 });
            return false;
        }
        self.requests.prod = next(self.requests.prod, log2);
        if filled == 0 {
            self.interrupt(Source::PageRequests);
        }
        true
    }

    /// What a group is told that found no room: success, so that the function tries again. With PASID only where the
    /// STE says that the function wants one (PPAR); without such an STE it is a failure.
    fn overflow_answer(&mut self, sid: u32, request: &PageRequest) -> PageAnswer {
        let &PageRequest { pasid, group, .. } = request;
        // IDR3.PPS: always the PASID of the request.
        if pasid.is_none() || self.config.idr3 >> 6 & 1 != 0 {
            return PageAnswer { pasid, group, code: 0 };
        }
        let _ = self.look_up(sid, pasid, request.iova.get());
        match self.caches.stes.get(&sid) {
            Some(ste) if ste[0] & 1 != 0 => {
                PageAnswer { pasid: if ste[1] >> 18 & 1 != 0 { pasid } else { None }, group, code: 0 }
            }
            _ => PageAnswer { pasid: None, group, code: 15 },
        }
    }

    fn answer(&mut self, sid: u32, last: bool, answer: PageAnswer) {
        if last {
            self.device_tlbs.of(sid).answers.push(answer);
        }
    }

    /// CMD_PRI_RESP, which is ignored with SMMUEN clear.
    pub(super) fn page_response(&mut self, command: &Command) {
        if let Command::PageResponse { sid, ssid, group, code } = *command
            && self.cr0.actual & control::SMMUEN != 0
        {
            let code = match code {
                0 => 15,
                1 => 1,
                _ => 0,
            };
            self.answer(sid, true, PageAnswer { pasid: ssid, group, code });
        }
    }
}
