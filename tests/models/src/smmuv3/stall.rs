//! Requests that wait for an answer after a fault (section 3.12.2), CMD_RESUME and CMD_STALL_TERM (section 4.7).

use super::command::Action;
use super::config::Config;
use super::dma::Blocked;
use super::event::words;
use super::unit::Unit;
use super::violation::Violation;
use super::walk::{FaultCode, Refused};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysExtent};

/// A request of a device, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attempt {
    pub(super) sid: u32,
    pub(super) ssid: Option<u32>,
    pub(super) iova: Iova,
    pub(super) len: u64,
    pub(super) write: bool,
}

/// A request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stalled {
    /// Stream id.
    pub sid: u32,
    /// Substream id.
    pub ssid: Option<u32>,
    /// The first address of the request.
    pub iova: Iova,
    /// Its length in bytes.
    pub len: u64,
    /// Whether it is a write.
    pub write: bool,
    /// Why it waits.
    pub code: FaultCode,
    /// STAG of its record; `None` as long as there is none: the event queue cannot be written to, as many as may have
    /// records already, or the record was suppressed.
    pub tag: Option<u16>,
}

/// What became of a request that waited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It went on, to these places.
    Done(Vec<PhysExtent>),
    /// It read zeros, or wrote nothing.
    Zeros,
    /// It was aborted.
    Aborted,
    /// It was tried again and refused, without waiting once more.
    Refused(Blocked),
}

/// A request that no longer waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// What it was.
    pub request: Stalled,
    /// What became of it.
    pub outcome: Outcome,
}

/// A request that waits, and what the unit knows of it.
#[derive(Clone, Copy)]
pub(super) struct Held {
    attempt: Attempt,
    refused: Refused,
    /// Where it faulted.
    at: u64,
    tag: Option<u16>,
    /// An invalidation passed before it got a record: it is tried again first.
    stale: bool,
    /// It went on early; only its record is still to be answered.
    done: bool,
    /// It gets no record: it waits for the answer to this one.
    behind: Option<u16>,
}

impl Held {
    const fn public(&self) -> Stalled {
        let Attempt { sid, ssid, iova, len, write } = self.attempt;
        Stalled { sid, ssid, iova, len, write, code: self.refused.code, tag: self.tag }
    }

    const fn resumed(&self, outcome: Outcome) -> Resumed {
        Resumed { request: self.public(), outcome }
    }
}

/// The tag of slot number `slot`. Tags are opaque: these use high bits, and not in order.
const fn tag(slot: u16) -> u16 {
    slot.wrapping_mul(0x9e37).wrapping_add(0x8001)
}

impl Unit {
    /// Records that may wait for an answer at once (IDR5.STALL_MAX).
    const fn stall_max(&self) -> u16 {
        let max = (self.config.idr5 >> 16) as u16;
        if max == 0 { 1 } else { max }
    }

    /// A request is to wait.
    pub(super) fn stall(&mut self, attempt: &Attempt, at: u64, refused: &Refused) {
        let like = |held: &&Held| {
            let (one, other) = (&held.attempt, attempt);
            (one.sid, one.ssid, one.write, held.at >> 12) == (other.sid, other.ssid, other.write, at >> 12)
                && held.refused.code == refused.code
                && held.tag.is_some()
                && !held.done
        };
        let behind =
            if self.switches.suppress { self.stalled.iter().find(like).and_then(|held| held.tag) } else { None };
        let (attempt, refused) = (*attempt, *refused);
        self.stalled.push(Held { attempt, refused, at, tag: None, stale: false, done: false, behind });
        self.record_stalls();
    }

    /// Gives records to those that have none, as far as there is room.
    fn record_stalls(&mut self) {
        for index in 0..self.stalled.len() {
            let held = self.stalled[index];
            if held.tag.is_some() || held.behind.is_some() || held.stale {
                continue;
            }
            if !self.events_enabled() || !self.event_room() {
                return;
            }
            let taken = |tag: u16| self.stalled.iter().any(|held| held.tag == Some(tag));
            let Some(free) = (0..self.stall_max()).map(tag).find(|tag| !taken(*tag)) else { return };
            let mut raw = words(&held.attempt, held.at, &held.refused, self.switches.unknown);
            raw[1] |= 1 << 31 | u64::from(free);
            self.stalled[index].tag = Some(free);
            // One that is lost with its record can only be terminated (section 7.2.2).
            let recorded = self.put(raw);
            self.last_event = None;
            self.note(&held.attempt, held.at, held.refused.code, raw, recorded, Some(free));
        }
    }

    /// An invalidation took effect.
    pub(super) fn stale_stalls(&mut self) {
        for held in &mut self.stalled {
            held.stale |= held.tag.is_none() && held.behind.is_none();
        }
    }

    /// The event queue may have room, or tags may be free: what an invalidation met is tried again, what has no record
    /// gets one (section 7.2.1).
    pub(super) fn settle_stalls(&mut self) {
        if !self.events_enabled() || !self.event_room() {
            return;
        }
        for held in self.take_stalls(|held| held.stale) {
            self.retry(&held);
        }
        self.record_stalls();
    }

    fn take_stalls(&mut self, which: impl Fn(&Held) -> bool) -> Vec<Held> {
        let (taken, kept) = core::mem::take(&mut self.stalled).into_iter().partition(which);
        self.stalled = kept;
        taken
    }

    /// Tries a request again, as if it had just come.
    fn retry(&mut self, held: &Held) {
        let Attempt { sid, ssid, iova, len, write } = held.attempt;
        let outcome = match self.dma(sid, ssid, iova, len, write) {
            Ok(extents) => Outcome::Done(extents),
            // It waits once more.
            Err(Blocked { stalled: true, .. }) => return,
            Err(blocked) => Outcome::Refused(blocked),
        };
        self.resumed.push(held.resumed(outcome));
    }

    /// CMD_RESUME.
    pub(super) fn resume(&mut self, sid: u32, tag: u16, action: Action) {
        let taken = self.take_stalls(|held| held.attempt.sid == sid && held.tag == Some(tag));
        let Some(held) = taken.first() else {
            return self.violations.push(Violation::StrayResume { sid, tag });
        };
        let followers = self.take_stalls(|other| other.behind == Some(tag));
        let zeros = !self.config.has(Config::TERM_MODEL);
        match action {
            _ if held.done => {}
            Action::Retry => self.retry(held),
            Action::Zeros if zeros => self.resumed.push(held.resumed(Outcome::Zeros)),
            Action::Zeros | Action::Abort => self.resumed.push(held.resumed(Outcome::Aborted)),
        }
        for follower in &followers {
            self.retry(follower);
        }
        self.settle_stalls();
    }

    /// CMD_STALL_TERM.
    pub(super) fn terminate_stalls(&mut self, sid: u32) {
        // Whatever it asks for, it must be the STE that ends it.
        let ended = matches!(
            self.look_up(sid, None, 0),
            Err(FaultCode::NONE | FaultCode::C_BAD_STE | FaultCode::C_BAD_STREAMID | FaultCode::F_STE_FETCH)
        );
        if !ended {
            return self.violations.push(Violation::StallTermWhileLive { sid });
        }
        self.abort_stalls(|held| held.attempt.sid == sid);
        self.settle_stalls();
    }

    /// SMMUEN fell: nothing waits any longer (section 6.3.9.6).
    pub(super) fn abort_all_stalls(&mut self) {
        self.abort_stalls(|_| true);
    }

    fn abort_stalls(&mut self, which: impl Fn(&Held) -> bool) {
        for held in self.take_stalls(which).iter().filter(|held| !held.done) {
            self.resumed.push(held.resumed(Outcome::Aborted));
        }
    }

    /// Tries everything that waits again without being asked (section 3.12.2.2): nothing new is recorded, and a record
    /// that was written is still to be answered.
    pub(super) fn retry_early(&mut self) {
        for index in 0..self.stalled.len() {
            let held = self.stalled[index];
            let Attempt { sid, ssid, iova, len, write } = held.attempt;
            if held.done {
                continue;
            }
            self.quiet = true;
            let done = self.dma(sid, ssid, iova, len, write);
            self.quiet = false;
            if let Ok(extents) = done {
                self.stalled[index].done = true;
                self.resumed.push(held.resumed(Outcome::Done(extents)));
            }
        }
        self.stalled.retain(|held| !held.done || held.tag.is_some());
    }

    /// What waits now.
    pub(super) fn all_stalled(&self) -> Vec<Stalled> {
        self.stalled.iter().filter(|held| !held.done).map(Held::public).collect()
    }

    /// Records that are still to be answered, of requests that went on early too.
    pub(super) fn unanswered(&self) -> Vec<(u32, u16)> {
        self.stalled.iter().filter_map(|held| Some((held.attempt.sid, held.tag?))).collect()
    }
}
