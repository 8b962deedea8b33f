//! Protected memory regions that firmware left on are turned off, and only when translation protects in their place.

use iommu_core::hw::{HwError, Wait};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, Model};
use iommu_tests::bench::{config_for, memory};
use iommu_tests::spy::{GSTS, TE};
use iommu_vtd::Unit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// PMEN: EPM in bit 31, PRS in bit 0.
const PMEN: usize = 0x64;
const EPM: u32 = 1 << 31;
const PRS: u32 = 1;

/// A unit with PMEN, which the model lacks.
struct Protecting {
    model: Arc<Model>,
    pmen: AtomicU32,
    writes: AtomicU32,
    stuck: AtomicBool,
}

impl Registers for Protecting {
    fn len(&self) -> usize {
        self.model.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        if offset == PMEN { self.pmen.load(Ordering::Relaxed) } else { self.model.read32(offset) }
    }
    fn write32(&self, offset: usize, value: u32) {
        if offset != PMEN {
            return self.model.write32(offset, value);
        }
        assert_eq!(self.model.read32(GSTS) & TE, TE, "unprotected and untranslated");
        // PRS is read only: what is written there does not matter.
        self.writes.fetch_add(1, Ordering::Relaxed);
        if !self.stuck.load(Ordering::Relaxed) {
            self.pmen.store(if value & EPM != 0 { EPM | PRS } else { 0 }, Ordering::Relaxed);
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        self.model.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.model.write64(offset, value);
    }
}

/// Brings a unit up with these CAP bits and this PMEN: the outcome, and what became of PMEN.
fn bring_up(cap: u64, pmen: u32, stuck: bool) -> (Option<HwError>, u32, u32) {
    let model = Arc::new(Model::new(Config::second_stage().cap_bits(cap, true), memory(false)));
    let regs = Arc::new(Protecting {
        model: model.clone(),
        pmen: AtomicU32::new(pmen),
        writes: AtomicU32::new(0),
        stuck: AtomicBool::new(stuck),
    });
    let found = Unit::bring_up(model.memory().clone(), regs.clone(), config_for(model.config())).err();
    assert_eq!(model.violations(), []);
    assert_eq!(model.read32(GSTS) & TE, TE);
    (found, regs.pmen.load(Ordering::Relaxed), regs.writes.load(Ordering::Relaxed))
}

#[test]
fn it_goes_off_once_translation_is_on() {
    // CAP.PLMR, CAP.PHMR, both.
    for cap in [1 << 5, 1 << 6, 3 << 5] {
        assert_eq!(bring_up(cap, EPM | PRS, false), (None, 0, 1));
    }
}

#[test]
fn where_there_is_none_nothing_is_written() {
    assert_eq!(bring_up(0, 0, false), (None, 0, 0));
    // There are regions, but they are off.
    assert_eq!(bring_up(3 << 5, 0, false), (None, 0, 0));
}

#[test]
fn one_that_does_not_go_off_is_an_error_and_stays() {
    let found = Some(HwError::TimedOut(Wait::Status("PMEN.PRS")));
    assert_eq!(bring_up(1 << 5, EPM | PRS, true), (found, EPM | PRS, 1));
}
