//! CAP.RWBF: stores to tables reach the unit only when the write buffer is flushed, or with an invalidation.

mod common;

use common::*;
use iommu_models::vtd::{Config, FaultCode};

const WBF: u32 = 1 << 27;

fn buffering(config: Config) -> Config {
    config.cap_bits(Config::CAP_RWBF, true)
}

#[test]
fn a_store_is_seen_after_a_flush() {
    let bench = Bench::new(Config::second_stage());
    bench.write32(GCMD, WBF);
    assert_eq!(bench.model.take_violations().len(), 1, "a unit without RWBF has no such command");
    for config in [Config::second_stage(), Config::first_stage()] {
        let mut bench = Bench::new(buffering(config));
        bench.attach(RID);
        bench.map(3, 0x5000);
        bench.start_queue();
        bench.set_root();
        bench.command(TE);
        assert_eq!(bench.read_at(0x3000), Err(FaultCode::ROOT_NOT_PRESENT));
        // Neither does a wait, nor the doorbell.
        assert!(bench.wait(1));
        assert_eq!(bench.read_at(0x3000), Err(FaultCode::ROOT_NOT_PRESENT));
        bench.write32(GCMD, TE | QIE | WBF);
        assert_eq!(bench.read32(GSTS) & WBF, 0);
        assert_eq!(bench.read_at(0x3000), Ok(0x5000));
        bench.map(4, 0x6000);
        assert!(bench.read_at(0x4000).is_err());
        bench.write32(GCMD, TE | QIE | WBF);
        assert_eq!(bench.read_at(0x4000), Ok(0x6000));
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn the_flush_is_done_when_it_is_answered() {
    let bench = Bench::up_buffered();
    bench.map(3, 0x5000);
    bench.model.answer_after(2);
    bench.write32(GCMD, TE | QIE | WBF);
    assert_eq!(bench.read32(GSTS) & WBF, WBF);
    assert!(bench.read_at(0x3000).is_err());
    bench.read32(GSTS);
    assert_eq!(bench.read32(GSTS) & WBF, 0);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
}

#[test]
fn every_invalidation_flushes() {
    // Context cache, IOTLB, interrupt entries, PASID-based IOTLB, PASID cache.
    for low in [0x11, 0x12, 0x04, 0x26, 0x37] {
        let mut bench = Bench::up_buffered();
        bench.map(3, 0x5000);
        assert!(bench.read_at(0x3000).is_err());
        bench.submit(low, 0);
        assert_eq!(bench.read_at(0x3000), Ok(0x5000), "{low:#x}");
    }
}

#[test]
fn frames_come_and_go_at_once() {
    let bench = Bench::up_buffered();
    let table = frame(&bench.memory);
    assert_eq!(bench.memory.walker_read64(iommu_core::addr::PhysAddr::new(table)), Some(0));
    bench.set(table, 1);
    assert_eq!(bench.memory.walker_read64(iommu_core::addr::PhysAddr::new(table)), Some(0));
    bench.memory.flush_write_buffer();
    assert_eq!(bench.memory.walker_read64(iommu_core::addr::PhysAddr::new(table)), Some(1));
}

trait Buffered {
    fn up_buffered() -> Self;
}

impl Buffered for Bench {
    /// As [`Bench::up`], with what it wrote flushed.
    fn up_buffered() -> Self {
        let bench = Self::up(buffering(Config::second_stage()));
        bench.write32(GCMD, TE | QIE | WBF);
        bench
    }
}
