//! What hardware reports of the queue, and how the queue goes on (section 6.5.2.11).

use super::group::Queue;
use super::ring::{Ring, SLOTS};
use super::round::{Flight, State};
use super::seats::Outcome;
use crate::regs::Regs;
use crate::spec::descriptor::Descriptor;
use crate::spec::registers::*;
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_hal::wait::Deadline;
use tock_registers::LocalRegisterCopy;

/// IQERCD.IQEI of errors that are not of the descriptor at the head: the tail, the descriptors' width.
const OF_THE_QUEUE: [u8; 3] = [1, 5, 6];

/// What FSTS reports of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// IQE: hardware stopped at a descriptor.
    Refused(u8),
    /// ITE: a device TLB did not answer. ITESID.
    TimedOut(u16),
    /// All registers read all ones.
    Gone,
}

/// A look at FSTS. What it finds is not cleared yet, but for completions that nobody asked for.
pub(super) fn look<R: Registers>(regs: &Regs<R>) -> Option<Found> {
    let status = LocalRegisterCopy::<u32, FSTS::Register>::new(regs.io().read32(FSTS_REG));
    if status.get() == u32::MAX {
        return Some(Found::Gone);
    }
    if !status.any_matching_bits_set(FSTS::IQE::SET + FSTS::ICE::SET + FSTS::ITE::SET) {
        return None;
    }
    let record = LocalRegisterCopy::<u64, IQERCD::Register>::new(regs.io().read64(IQERCD_REG));
    if status.is_set(FSTS::ICE) {
        warn!("unexpected invalidation completion of {:#x}", record.read(IQERCD::ICESID));
        clear(regs, FSTS::ICE::SET.value);
    }
    if status.is_set(FSTS::ITE) {
        return Some(Found::TimedOut(record.read(IQERCD::ITESID) as u16));
    }
    status.is_set(FSTS::IQE).then(|| Found::Refused(record.read(IQERCD::IQEI) as u8))
}

fn clear<R: Registers>(regs: &Regs<R>, bits: u32) {
    regs.io().write32(FSTS_REG, bits);
}

/// Frees the slots that hardware has read, where no round is in flight that would free them.
pub(super) fn reclaim<H: Hal, R: Registers>(ring: &Ring<H>, state: &mut State, regs: &Regs<R>) {
    if let Some(slot) = ring.slot(regs.io().read64(IQH_REG)) {
        state.reclaim(slot);
    }
}

impl<H: Hal> Queue<H> {
    /// Does what `found` asks for. `leader` is the seat of whoever wrote the wait, `repairs` how often this was found since
    /// it leads. `false` where hardware is of no use.
    #[allow(clippy::too_many_arguments, reason = "all that there is to know of a round that went wrong")]
    pub(super) fn handle<R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        state: &mut State,
        flight: &Flight,
        found: Found,
        leader: Option<usize>,
        repairs: u64,
    ) -> bool {
        match found {
            Found::Gone => {
                self.seats.resolve(state.evict(), Outcome::Gone);
                return false;
            }
            Found::Refused(code) if OF_THE_QUEUE.contains(&code) || repairs > SLOTS => {
                warn!("the invalidation queue stopped, reason {}", code);
                self.seats.resolve(state.evict(), Outcome::Refused { code, entry: 0 });
                clear(regs, FSTS::IQE::SET.value);
                regs.io().write64(IQT_REG, self.ring.offset(flight.wait + 1));
                return false;
            }
            Found::Refused(code) => self.repair(regs, state, flight, code, leader),
            Found::TimedOut(source) => {
                // One that is not of this round is of an earlier one: hardware gives up on each invalidation at its own
                // time. 0 is what older hardware has there for all.
                let of_this = self.devices(flight).any(|device| device == source);
                let named = (of_this || source != 0).then_some(source);
                warn!("device TLB of {:#x} did not answer", source);
                self.take_back_devices(regs, state, flight);
                state.quarantine = Some(Deadline::after(hal, regs.timeout()));
                self.seats.abort(flight.seats, named, &self.retrying);
                // Waits that hardware had read are void. It reads on once the bit is cleared, and what it reports of this
                // round then is worth nothing.
                state.abandon();
                clear(regs, FSTS::ITE::SET.value);
            }
        }
        true
    }

    /// Replaces the descriptor that hardware stopped at, and has it go on.
    fn repair<R: Registers>(&self, regs: &Regs<R>, state: &State, flight: &Flight, code: u8, leader: Option<usize>) {
        let slot = self.ring.slot(regs.io().read64(IQH_REG));
        if let Some(place) = slot.and_then(|slot| state.place(flight, slot)) {
            let entry = self.ring.first_word(place);
            warn!("invalid descriptor {:#x}, reason {}", entry, code);
            // A fence in either case: a wait reports what stands behind the wait before it, and this makes two of one.
            if place == flight.wait {
                let _ = self.ring.write_wait(place, flight.marker, true);
            } else {
                let _ = self.ring.write(place, &self.ring.unwatched());
            }
            // The wait is the leader's, where it is in this round itself.
            let leader = leader.filter(|seat| flight.seats >> seat & 1 != 0);
            let owner = if place == flight.wait { leader } else { state.owner(flight, place) };
            if let Some(owner) = owner {
                self.seats.refuse(owner, code, entry);
            }
        } else if let Some(slot) = slot {
            // Of a round that was given up.
            warn!("invalid descriptor of an earlier round, reason {}", code);
            let _ = self.ring.write(slot, &self.ring.unwatched());
        }
        clear(regs, FSTS::IQE::SET.value);
        // Some implementations look at the queue again only when the tail is written.
        regs.io().write64(IQT_REG, self.ring.offset(flight.wait + 1));
    }

    /// Takes what hardware has not read of the device-TLB invalidations in a round that it gave up on: nobody waits for
    /// them, and each of a device that does not answer would cost another round. Hardware reads nothing meanwhile.
    fn take_back_devices<R: Registers>(&self, regs: &Regs<R>, state: &State, flight: &Flight) {
        let slot = self.ring.slot(regs.io().read64(IQH_REG));
        let Some(first) = slot.and_then(|slot| state.place(flight, slot)) else { return };
        for place in first..flight.wait {
            if Descriptor::device(self.ring.first_word(place)).is_some() {
                let _ = self.ring.write(place, &self.ring.unwatched());
            }
        }
    }

    /// Sources of the device-TLB invalidations in a round.
    fn devices(&self, flight: &Flight) -> impl Iterator<Item = u16> + '_ {
        (flight.first..flight.wait).filter_map(|place| Descriptor::device(self.ring.first_word(place)))
    }
}
