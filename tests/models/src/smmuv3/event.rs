//! Event records and the event queue (sections 7.2 to 7.4).

use super::control;
use super::interrupt::Source;
use super::queue::{Ring, next};
use super::unit::Unit;
use super::violation::Violation;
use super::walk::{Class, FaultCode, Refused};
use iommu_core::addr::{Iova, PhysAddr};

/// CR2.RECINVSID.
const RECINVSID: u32 = 1 << 1;
/// GERROR.EVENTQ_ABT_ERR.
const EVENTQ_ABT: u32 = 1 << 2;

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
    /// Whether it found room in a queue that was enabled.
    pub recorded: bool,
}

/// Words of the record for a request that was refused.
fn words(sid: u32, ssid: Option<u32>, iova: u64, write: bool, refused: &Refused) -> [u64; 4] {
    let code = refused.code;
    let substream = ssid.map_or(0, |ssid| 1 << 11 | u64::from(ssid) << 12);
    let mut raw = [u64::from(code.0) | substream | u64::from(sid) << 32, 0, 0, 0];
    let of_access = matches!(
        code,
        FaultCode::F_WALK_EABT
            | FaultCode::F_TRANSLATION
            | FaultCode::F_ADDR_SIZE
            | FaultCode::F_ACCESS
            | FaultCode::F_PERMISSION
    );
    if of_access {
        // RnW, S2, CLASS.
        raw[1] = u64::from(!write) << 35 | u64::from(refused.second) << 39 | (refused.class as u64) << 40;
        raw[2] = iova;
    }
    if code == FaultCode::F_PERMISSION && refused.class == Class::Table {
        // TTRnW.
        raw[1] |= u64::from(!refused.table_write) << 44;
    }
    raw[3] = match code {
        FaultCode::F_STE_FETCH | FaultCode::F_CD_FETCH | FaultCode::F_WALK_EABT => {
            refused.fetch & 0x000f_ffff_ffff_fff8
        }
        _ if of_access && refused.second => refused.ipa & 0x000f_ffff_ffff_f000,
        _ => 0,
    };
    raw
}

impl Unit {
    /// Records why a request was refused, where it is to be recorded; whether it is.
    pub(super) fn report(&mut self, sid: u32, ssid: Option<u32>, iova: u64, write: bool, refused: &Refused) -> bool {
        let wanted = match refused.code {
            FaultCode::NONE => false,
            FaultCode::C_BAD_STREAMID => self.cr2 & RECINVSID != 0,
            // R hides faults of the translation only, and no stall.
            FaultCode::F_TRANSLATION | FaultCode::F_ADDR_SIZE | FaultCode::F_ACCESS | FaultCode::F_PERMISSION => {
                !refused.policy.silent || refused.policy.stalls
            }
            _ => true,
        };
        if wanted {
            let raw = words(sid, ssid, iova, write, refused);
            let recorded = self.put(raw);
            let iova = Iova::new(iova);
            self.recorded.push(Event { code: refused.code, sid, ssid, iova, write, raw, recorded });
        }
        wanted
    }

    fn event_log2(&self) -> u32 {
        self.events.log2(self.config.event_log2())
    }

    /// Puts a record into the event queue; whether there was room. An overflow that is not acknowledged keeps nothing out
    /// once there is room again (section 7.4).
    pub(super) fn put(&mut self, raw: [u64; 4]) -> bool {
        if self.cr0.actual & control::EVENTQEN == 0 {
            return false;
        }
        let log2 = self.event_log2();
        let filled = self.events.filled(log2);
        if filled >= 1 << log2 {
            self.events.overflow = !self.events.acknowledged;
            return false;
        }
        let slot = self.events.prod & ((1 << log2) - 1);
        for (index, half) in raw.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).enumerate() {
            let phys = PhysAddr::new(self.events.entries() + u64::from(slot) * 32 + index as u64 * 4);
            if self.memory.device_write32(phys, half).is_none() {
                self.global_error(EVENTQ_ABT);
                return false;
            }
        }
        self.events.prod = next(self.events.prod, log2);
        if filled == 0 {
            self.interrupt(Source::Events);
        }
        true
    }

    /// EVENTQ_PROD.
    pub(super) fn events_produced(&self) -> u32 {
        self.events.prod | u32::from(self.events.overflow) << 31
    }

    /// EVENTQ_CONS.
    pub(super) fn events_consumed(&self) -> u32 {
        self.events.cons | u32::from(self.events.acknowledged) << 31
    }

    /// A write to EVENTQ_CONS.
    pub(super) fn consume(&mut self, value: u32) {
        let (log2, index, flag) = (self.event_log2(), value & 0x7fff_ffff, value >> 31 != 0);
        if index >> (log2 + 1) != 0 {
            return self.violations.push(Violation::Index { offset: 0x1_00ac, value });
        }
        if self.cr0.maybe() & control::EVENTQEN != 0 {
            let before = self.events.filled(log2);
            if (Ring { cons: index, ..self.events }).filled(log2) > before {
                self.violations.push(Violation::Consumed { prod: self.events_produced(), cons: value });
            }
            if flag != self.events.acknowledged && flag != self.events.overflow {
                self.violations.push(Violation::NoOverflow { value });
            }
        }
        self.events.cons = index;
        self.events.acknowledged = flag;
    }
}
