//! Event records and the event queue (sections 7.2 to 7.4).

use super::control;
use super::dma::Blocked;
use super::interrupt::Source;
use super::queue::next;
use super::stall::Attempt;
use super::unit::Unit;
use super::walk::{Class, FaultCode, Refused};
use iommu_core::addr::{Iova, PhysAddr};

/// CR2.RECINVSID.
const RECINVSID: u32 = 1 << 1;
/// GERROR.EVENTQ_ABT_ERR.
pub(super) const EVENTQ_ABT: u32 = 1 << 2;
/// Stall, in the second word.
const STALL: u64 = 1 << 31;

/// An event as the unit wanted to record it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its type.
    pub code: FaultCode,
    /// Stream id.
    pub sid: u32,
    /// Substream id.
    pub ssid: Option<u32>,
    /// The address of the request.
    pub iova: Iova,
    /// Whether it was a write.
    pub write: bool,
    /// The record.
    pub raw: [u64; 4],
    /// Whether it found room in a queue that was enabled, or was merged with one that had.
    pub recorded: bool,
    /// STAG, where the request waits for an answer.
    pub stalled: Option<u16>,
}

/// Whether the type is one of the four that CD and STE may have recorded or not, and stalled (section 5.5).
pub(super) const fn of_translation(code: FaultCode) -> bool {
    matches!(code, FaultCode::F_TRANSLATION | FaultCode::F_ADDR_SIZE | FaultCode::F_ACCESS | FaultCode::F_PERMISSION)
}

/// Words of the record for a request that was refused at `iova`; `unknown` fills what means nothing.
pub(super) fn words(attempt: &Attempt, iova: u64, refused: &Refused, unknown: bool) -> [u64; 4] {
    let code = refused.code;
    let junk = if unknown { u64::MAX } else { 0 };
    let substream = match (code, attempt.ssid) {
        // It has no SSV: the number is always there, or never.
        (FaultCode::C_BAD_SUBSTREAMID, ssid) => u64::from(ssid.unwrap_or(0)) << 12,
        (FaultCode::F_STREAM_DISABLED | FaultCode::F_TRANSL_FORBIDDEN, _) => 0,
        (_, Some(ssid)) => 1 << 11 | u64::from(ssid) << 12,
        (_, None) => junk & 0xf_ffff << 12,
    };
    let mut raw = [u64::from(code.0) | substream | u64::from(attempt.sid) << 32, 0, 0, 0];
    let read = u64::from(!attempt.write) << 35;
    if of_translation(code) || code == FaultCode::F_WALK_EABT {
        // RnW, S2, CLASS; TTRnW.
        raw[1] = read | u64::from(refused.second) << 39 | (refused.class as u64) << 40;
        if code == FaultCode::F_PERMISSION && matches!(refused.class, Class::Table) {
            raw[1] |= u64::from(!refused.table_write) << 44;
        }
        raw[2] = iova;
    }
    if code == FaultCode::F_TRANSL_FORBIDDEN {
        (raw[1], raw[2]) = (read, iova);
    }
    if code == FaultCode::F_BAD_ATS_TREQ {
        // Which rights were asked for is left out, and so is the span.
        raw[2] = iova & !0xfff;
    }
    raw[3] = match code {
        FaultCode::F_STE_FETCH | FaultCode::F_CD_FETCH | FaultCode::F_WALK_EABT => {
            refused.fetch & 0x000f_ffff_ffff_fff8
        }
        _ if of_translation(code) && refused.second => refused.ipa & 0x000f_ffff_ffff_f000,
        _ if of_translation(code) => junk & 0x000f_ffff_ffff_f000,
        _ => 0,
    };
    raw
}

impl Unit {
    /// Does what is to be done about a request that was refused at `iova`: records it, has it wait.
    pub(super) fn refuse(&mut self, attempt: &Attempt, iova: u64, refused: &Refused) -> Blocked {
        let (code, policy) = (refused.code, refused.policy);
        let ours = of_translation(code);
        let mut blocked =
            Blocked { code, iova: Iova::new(iova), reported: false, stalled: false, aborted: policy.aborts || !ours };
        if self.quiet {
            return blocked;
        }
        if ours && policy.stalls && self.config.stall_model() != 1 {
            self.stall(attempt, iova, refused);
            (blocked.reported, blocked.stalled) = (true, true);
            return blocked;
        }
        blocked.reported = match code {
            FaultCode::NONE => false,
            FaultCode::C_BAD_STREAMID => self.cr2 & RECINVSID != 0,
            // R hides faults of the translation only.
            _ => !(ours && policy.silent),
        };
        if blocked.reported {
            let raw = words(attempt, iova, refused, self.switches.unknown);
            let recorded = self.merged(&raw, refused.merges) || self.put(raw);
            self.note(attempt, iova, code, raw, recorded, None);
        }
        blocked
    }

    /// Keeps an event for the test.
    pub(super) fn note(
        &mut self,
        attempt: &Attempt,
        iova: u64,
        code: FaultCode,
        raw: [u64; 4],
        recorded: bool,
        stalled: Option<u16>,
    ) {
        let Attempt { sid, ssid, write, .. } = *attempt;
        self.recorded.push(Event { code, sid, ssid, iova: Iova::new(iova), write, raw, recorded, stalled });
    }

    /// Whether a record is merged with the last one (section 7.3.1).
    fn merged(&mut self, raw: &[u64; 4], merges: bool) -> bool {
        let key = [raw[0], raw[1], raw[2] & !0xfff, raw[3]];
        let again = self.last_event == Some(key) && self.events.filled(self.event_log2()) != 0;
        self.last_event = merges.then_some(key);
        self.switches.merge && merges && again
    }

    pub(super) fn event_log2(&self) -> u32 {
        self.events.log2(self.config.event_log2())
    }

    /// Whether the event queue can be written to (section 7.2.1), but for room.
    pub(super) const fn events_enabled(&self) -> bool {
        let aborted = (self.gerror ^ self.gerrorn) & EVENTQ_ABT != 0;
        self.cr0.actual & control::EVENTQEN != 0 && !aborted && !self.failed
    }

    /// Whether there is room in the event queue.
    pub(super) fn event_room(&self) -> bool {
        let log2 = self.event_log2();
        self.events.filled(log2) < 1 << log2
    }

    /// Puts a record into the event queue; whether there was room. An overflow that is not acknowledged keeps nothing out
    /// once there is room again (section 7.4).
    pub(super) fn put(&mut self, raw: [u64; 4]) -> bool {
        if !self.events_enabled() {
            return false;
        }
        if !self.event_room() {
            // What waits for an answer is not lost, and no overflow.
            if raw[1] & STALL == 0 {
                self.events.overflow = !self.events.acknowledged;
            }
            return false;
        }
        let log2 = self.event_log2();
        let first = self.events.entries() + u64::from(self.events.prod & ((1 << log2) - 1)) * 32;
        if self.fails_event() || !self.write_words(first, &raw) {
            self.global_error(EVENTQ_ABT);
            return false;
        }
        let empty = self.events.filled(log2) == 0;
        self.events.prod = next(self.events.prod, log2);
        if empty {
            self.interrupt(Source::Events);
        }
        true
    }

    fn fails_event(&mut self) -> bool {
        match &mut self.switches.fail_event_after {
            Some(0) => {
                self.switches.fail_event_after = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Writes a record, word by word; whether memory answered.
    pub(super) fn write_words(&self, first: u64, words: &[u64]) -> bool {
        let halves = words.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]);
        halves
            .enumerate()
            .all(|(index, half)| self.memory.device_write32(PhysAddr::new(first + index as u64 * 4), half).is_some())
    }
}
