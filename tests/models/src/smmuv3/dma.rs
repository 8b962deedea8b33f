//! Requests of devices.

use super::cache::Caches;
use super::config::Config;
use super::control;
use super::unit::Unit;
use super::violation::Violation;
use super::walk::{Entry, FaultCode, Refused, Regime, View, request};
use crate::memory::TestMemory;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};

/// Why a request was blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The event's type; [`FaultCode::NONE`] for what is blocked without one.
    pub code: FaultCode,
    /// The first address that was refused.
    pub iova: Iova,
    /// Whether it is an event that software gets to see, room in the event queue provided.
    pub reported: bool,
}

impl Unit {
    /// Translates the `len` bytes from `iova` through the caches, records the first fault.
    pub(super) fn dma(
        &mut self,
        sid: u32,
        ssid: Option<u32>,
        iova: Iova,
        len: u64,
        write: bool,
    ) -> Result<Vec<PhysExtent>, Blocked> {
        let mut extents: Vec<PhysExtent> = Vec::new();
        let Some(less) = len.checked_sub(1) else { return Ok(extents) };
        let last = iova.get().checked_add(less).expect("a request does not wrap");
        let mut at = iova.get();
        loop {
            let end = last.min(at | 0xfff);
            let phys = self.page(sid, ssid, at, write).map_err(|refused| {
                let reported = self.report(sid, ssid, at, write, &refused);
                Blocked { code: refused.code, iova: Iova::new(at), reported }
            })?;
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

    /// Where the byte at `iova` lies.
    fn page(&mut self, sid: u32, ssid: Option<u32>, iova: u64, write: bool) -> Result<u64, Refused> {
        if self.cr0.actual & control::SMMUEN == 0 {
            let aborts = self.gbpa & control::ABORT != 0 || iova >> self.config.output_bits() != 0;
            return if aborts { Err(FaultCode::NONE.into()) } else { Ok(iova) };
        }
        self.translate(sid, ssid, iova, write)
    }

    /// Where the byte at `iova` lies, with the unit on.
    fn translate(&mut self, sid: u32, ssid: Option<u32>, iova: u64, write: bool) -> Result<u64, Refused> {
        let mut view = Cached {
            caches: &mut self.caches,
            memory: &self.memory,
            config: &self.config,
            violations: &mut self.violations,
        };
        view.caches.split = self.tables.config >> 6 & 0x1f;
        let found = request(&mut view, &self.config, self.tables, sid, ssid, iova, write)?;
        Ok(found.entry.phys + (iova & (found.entry.size - 1)))
    }

    /// Every stream whose STE is cached reads from each of `inputs`, and nobody is told what comes of it.
    pub(super) fn ask_again(&mut self, inputs: &[u64]) {
        let sids: Vec<u32> = self.caches.stes.keys().copied().collect();
        for (sid, iova) in sids.into_iter().flat_map(|sid| inputs.iter().map(move |iova| (sid, *iova))) {
            let _ = self.translate(sid, None, iova, false);
        }
    }
}

/// Memory behind the unit's caches.
struct Cached<'a> {
    caches: &'a mut Caches,
    memory: &'a TestMemory,
    config: &'a Config,
    violations: &'a mut Vec<Violation>,
}

impl View for Cached<'_> {
    fn word(&mut self, phys: u64) -> Option<u64> {
        self.memory.device_read64(PhysAddr::new(phys))
    }

    fn level1(&mut self, index: u32, phys: u64) -> Option<u64> {
        if let Some(descriptor) = self.caches.level1.get(&index) {
            return Some(*descriptor);
        }
        let descriptor = self.word(phys)?;
        self.caches.level1.insert(index, descriptor);
        Some(descriptor)
    }

    fn ste(&mut self, sid: u32) -> Option<[u64; 8]> {
        self.caches.stes.get(&sid).copied()
    }

    fn keep_ste(&mut self, sid: u32, words: &[u64; 8]) {
        self.caches.stes.insert(sid, *words);
    }

    fn cd(&mut self, sid: u32, ssid: u32) -> Option<[u64; 8]> {
        self.caches.cds.get(&(sid, ssid)).copied()
    }

    fn keep_cd(&mut self, sid: u32, ssid: u32, words: &[u64; 8]) {
        self.caches.cds.insert((sid, ssid), *words);
    }

    fn step(&mut self, regime: Regime, level: u8, input: u64) -> Option<u64> {
        self.caches.step(regime, level, input)
    }

    fn keep_step(&mut self, regime: Regime, level: u8, input: u64, descriptor: u64) {
        self.caches.keep_step(regime, level, input, descriptor);
    }

    fn entry(&mut self, regime: Regime, input: u64) -> Option<Entry> {
        self.caches.entry(regime, input)
    }

    fn keep_entry(&mut self, regime: Regime, input: u64, entry: Entry) {
        if self.caches.keep_entry(regime, input, entry) && self.config.bbml() < 2 {
            self.violations.push(Violation::Conflict { iova: input });
        }
    }
}
