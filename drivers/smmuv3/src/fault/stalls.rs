//! Accesses that wait for an answer (sections 3.12.2 and 4.7): answered by CMD_RESUME, or ended with their stream.
//!
//! An answer may come from an interrupt handler, which must not wait for the command queue: the CPU that it has stopped may be at
//! it. So answers are noted first, without a lock, and sent by whoever is, or next comes, out of the queue.

use super::Faults;
use crate::regs::Regs;
use crate::spec::command::Command;
use crate::spec::registers::EVENTQ_PROD_REG;
use crate::unit::Inner;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use iommu_core::hw::{HwError, PageResponse, ResponseCode, Stream};
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

/// Answers that can wait at a time. Those beyond are sent at once.
const MOST_ANSWERS: usize = 64;
/// Answers that are sent together.
const BATCH: usize = 16;

/// An answer as one word; 0 is none.
const NOTED: u64 = 1 << 63;
const RETRY: u64 = 1 << 62;

fn note(stream: u32, tag: u16, retry: bool) -> u64 {
    NOTED | if retry { RETRY } else { 0 } | u64::from(tag) << 32 | u64::from(stream)
}

fn command(noted: u64) -> Command {
    Command::resume(noted as u32, (noted >> 32) as u16, noted & RETRY != 0)
}

/// Answers that were not sent yet, and how many are at the queue who will send them.
pub(crate) struct Answers {
    noted: [AtomicU64; MOST_ANSWERS],
    submitters: AtomicU32,
}

impl Answers {
    pub(super) const fn new() -> Self {
        Self { noted: [const { AtomicU64::new(0) }; MOST_ANSWERS], submitters: AtomicU32::new(0) }
    }

    fn add(&self, noted: u64) -> bool {
        let take = |place: &AtomicU64| place.compare_exchange(0, noted, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        self.noted.iter().any(take)
    }

    /// Takes some out, into `batch`; how many.
    fn take(&self, batch: &mut [u64; BATCH]) -> usize {
        let mut count = 0;
        for place in &self.noted {
            let Some(to) = batch.get_mut(count) else { break };
            if place.load(Ordering::SeqCst) != 0 {
                *to = place.swap(0, Ordering::SeqCst);
                count += usize::from(*to != 0);
            }
        }
        count
    }

    /// Forgets what waits for accesses of this stream id, which are over.
    fn forget(&self, stream: u32) {
        for place in &self.noted {
            let noted = place.load(Ordering::SeqCst);
            if noted != 0 && noted as u32 == stream {
                // Where another has taken it meanwhile, that is sent, to nothing.
                let _ = place.compare_exchange(noted, 0, Ordering::SeqCst, Ordering::Relaxed);
            }
        }
    }

    fn any(&self) -> bool {
        self.noted.iter().any(|place| place.load(Ordering::SeqCst) != 0)
    }
}

impl<H: Hal + Clone> Faults<H> {
    /// Events of `stream` that were not taken yet stall no more: those of all its substreams where `whole`. Calls `visit` with
    /// the tag of each, until that says to stop. Waits for nobody but another look.
    fn end_stalls<R: Registers>(
        &self,
        regs: &Regs<R>,
        stream: Stream,
        whole: bool,
        visit: &mut dyn FnMut(u16) -> bool,
    ) {
        let mut reader = self.reader.lock();
        let produced = regs.event_index(EVENTQ_PROD_REG);
        let left = produced.wrapping_sub(reader.next) & self.mask();
        if produced == u32::MAX || left > 1 << self.log2_slots {
            return;
        }
        for count in 0..left {
            let index = reader.next.wrapping_add(count) & self.mask();
            let event = reader.event(index, self.log2_slots);
            let of = event.stream();
            let Some(tag) = event.stalled().filter(|_| of == stream || whole && of.id == stream.id) else { continue };
            if !reader.mark(index, self.log2_slots, true) && !visit(tag) {
                return;
            }
        }
    }
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Answers a stalled access.
    pub(crate) fn answer(&self, response: &PageResponse) -> Result<(), HwError> {
        let retry = response.code == ResponseCode::Success;
        let noted = note(response.stream.id.get(), response.group, retry);
        if !self.faults.answers.add(noted) {
            return self.submit_commands(&[command(noted)]).map(drop);
        }
        if self.faults.answers.submitters.load(Ordering::SeqCst) != 0 {
            // Sent by whoever is at the queue, maybe the one that this has interrupted.
            return Ok(());
        }
        self.send_answers()
    }

    /// Runs `submit`, which is at the command queue, and sends what was answered meanwhile.
    pub(crate) fn at_queue<T>(&self, submit: impl FnOnce() -> Result<T, HwError>) -> Result<T, HwError> {
        let answers = &self.faults.answers;
        answers.submitters.fetch_add(1, Ordering::SeqCst);
        let done = submit();
        // In this order: who answers notes first, and then looks whether anybody is left to send it.
        let last = answers.submitters.fetch_sub(1, Ordering::SeqCst) == 1;
        // Where CPUs come and go without end nobody is ever the last one. A queue that does not work costs only that one
        // another wait.
        if (last || done.is_ok()) && answers.any() {
            let _ = self.send_answers();
        }
        done
    }

    /// Sends what was noted. What hardware does not take is tried again with the next that goes to the queue.
    fn send_answers(&self) -> Result<(), HwError> {
        let answers = &self.faults.answers;
        // What comes in the middle is sent with the next batch; where it comes for ever, with the next that goes to the queue.
        for _ in 0..2 * MOST_ANSWERS / BATCH {
            answers.submitters.fetch_add(1, Ordering::SeqCst);
            let sent = self.send_some();
            let last = answers.submitters.fetch_sub(1, Ordering::SeqCst) == 1;
            sent?;
            if !last || !answers.any() {
                break;
            }
        }
        Ok(())
    }

    fn send_some(&self) -> Result<(), HwError> {
        let answers = &self.faults.answers;
        let mut noted = [0; BATCH];
        let count = answers.take(&mut noted);
        if count == 0 {
            return Ok(());
        }
        let commands = noted.map(command);
        self.run_commands(commands.get(..count).unwrap_or(&[])).map(drop).inspect_err(|_| {
            warn!("{} stalled accesses wait on: their answers were not taken", count);
            noted.iter().take(count).for_each(|noted| _ = answers.add(*noted));
        })
    }

    /// The entry of this stream id aborts, which hardware has confirmed, and every access that was stalled
    /// [was ended](crate::invalidate::Change::StalledLeft): what was recorded of them is no more than faults.
    pub(crate) fn stalls_ended(&self, stream: Stream) {
        self.faults.answers.forget(stream.id.get());
        self.faults.end_stalls(&self.regs, stream, true, &mut |_| true);
    }

    /// What leads `stream` anywhere is invalid, which hardware has confirmed, while others of its stream id go on: refuses what
    /// it has stalled and nobody was told of. What somebody was told of is theirs to answer.
    pub(crate) fn refuse_stalls(&self, stream: Stream) -> Result<(), HwError> {
        let mut outcome = Ok(());
        loop {
            let (mut tags, mut count) = ([0; BATCH], 0);
            // Marked as it is visited, so that nothing is refused twice; the rest comes in the next round.
            self.faults.end_stalls(&self.regs, stream, false, &mut |tag| {
                if let Some(to) = tags.get_mut(count) {
                    (*to, count) = (tag, count + 1);
                }
                count < BATCH
            });
            if count == 0 {
                return outcome;
            }
            let commands = tags.map(|tag| Command::resume(stream.id.get(), tag, false));
            let sent = self.submit_commands(commands.get(..count).unwrap_or(&[])).map(drop);
            outcome = outcome.and(sent);
            if matches!(sent, Err(HwError::TimedOut(_))) {
                // Hardware that hangs is waited for once: the rest is told of as what waits, and can be answered.
                return outcome;
            }
        }
    }
}

#[cfg(test)]
mod tests;
