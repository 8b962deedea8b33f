//! Units without a queue.

use super::*;
use crate::spec::descriptor::Pages;
use crate::spec::invalidation::{ContextScope, PasidScope};
use iommu_core::hw::Wait;
use iommu_models::vtd::{Descriptor as Done, Granularity};

/// ECAP.QI.
const QI: u64 = 1 << 1;

fn bed() -> Bed {
    Bed::new(Config::legacy().ecap_bits(QI, false))
}

#[test]
fn every_kind_that_legacy_mode_has_is_done_one_at_a_time() {
    let bed = bed();
    let drain = Drain { writes: true, reads: true };
    let blocks = [true, false].map(|leaves_only| Pages { address: 0x4020_0000, mask: 9, leaves_only });
    let source = RequesterId::new(0x0310);
    let batch = [
        Invalidation::ContextCache(ContextScope::Device { domain: 0x21, source }),
        Invalidation::ContextCache(ContextScope::Domain(0x22)),
        Invalidation::ContextCache(ContextScope::Global),
        Invalidation::Iotlb { scope: IotlbScope::Pages { domain: 0x23, pages: blocks[0] }, drain },
        Invalidation::Iotlb { scope: IotlbScope::Pages { domain: 0x23, pages: blocks[1] }, drain },
        Invalidation::Iotlb { scope: IotlbScope::Domain(0x24), drain: NO_DRAIN },
        Invalidation::Iotlb { scope: IotlbScope::Global, drain },
    ];
    for polls in [0, 3] {
        bed.model.answer_after(polls);
        assert!(bed.run(&batch).is_ok());
        let iotlb = |granularity, drained| Done::Iotlb { granularity, drain_writes: drained, drain_reads: drained };
        let pages =
            |leaf_only| Granularity::Pages { domain: 0x23, pasid: None, address: 0x4020_0000, mask: 9, leaf_only };
        assert_eq!(
            bed.model.take_register_log(),
            [
                Done::ContextCache(Granularity::Device { domain: 0x21, source: 0x0310, mask: 0 }),
                Done::ContextCache(Granularity::Domain(0x22)),
                Done::ContextCache(Granularity::Global),
                iotlb(pages(true), true),
                iotlb(pages(false), true),
                iotlb(Granularity::Domain(0x24), false),
                iotlb(Granularity::Global, true),
            ]
        );
    }
    assert_eq!(bed.counts().1, 0, "no doorbell");
    bed.check();
}

#[test]
fn coarser_will_do() {
    let bed = bed();
    bed.model.invalidate_coarsely(true);
    bed.run(&[domain(1)]).unwrap();
    bed.check();
}

#[test]
fn nothing_done_and_too_little_done_are_errors() {
    struct Answers<'m>(&'m Model, u64);
    impl Registers for Answers<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read32(&self, offset: usize) -> u32 {
            self.0.read32(offset)
        }
        fn write32(&self, offset: usize, value: u32) {
            self.0.write32(offset, value);
        }
        fn read64(&self, offset: usize) -> u64 {
            // IOTLB: what was done, in bits 58:57.
            let value = self.0.read64(offset);
            if offset == 0xf8 { value & !(3 << 57) | self.1 << 57 } else { value }
        }
        fn write64(&self, offset: usize, value: u64) {
            self.0.write64(offset, value);
        }
    }
    let bed = bed();
    for (answer, good) in [(0, false), (1, true), (2, true), (3, false)] {
        let regs = Regs::new(Answers(&bed.model, answer), Duration::from_millis(1));
        let found = bed.invalidator.run(&bed.hal, &regs, &[domain(1)]);
        assert_eq!(found.is_ok(), good, "granularity {answer}: {found:?}");
    }
}

#[test]
fn what_registers_cannot_do_is_an_error() {
    let bed = bed();
    for invalidation in [
        Invalidation::PasidCache(PasidScope::Global),
        Invalidation::PasidIotlb { domain: 1, pasid: 1, pages: None },
        device(0x100),
        Invalidation::InterruptEntries { index: None },
    ] {
        assert!(matches!(bed.run(&[invalidation]), Err(HwError::Unsupported(_))), "{invalidation:?}");
    }
    assert_eq!(bed.model.take_register_log(), []);
    bed.check();
}

#[test]
fn a_command_that_is_never_done_ends_at_the_deadline_and_the_next_waits_for_it() {
    let bed = bed();
    bed.model.never_invalidate(true);
    for _ in 0..3 {
        assert_eq!(bed.run(&[domain(1)]), Err(HwError::TimedOut(Wait::Status("IOTLB.IVT"))));
        assert!(bed.counts().0 < 300);
    }
    bed.model.never_invalidate(false);
    let marker = bed.run(&[domain(2)]).unwrap();
    assert!(bed.run(&[]).unwrap() > marker);
    // Not a write while one was pending.
    bed.check();
    bed.model.set_absent(true);
    assert!(matches!(bed.run(&[domain(1)]), Err(HwError::Hardware(_))));
}

#[test]
fn hardware_of_version_6_has_a_queue_or_nothing() {
    let memory = Arc::new(TestMemory::new(PhysAddr::new(0x1_0000_0000), 8));
    let config = Config { version: 0x60, ..Config::legacy().ecap_bits(QI, false) };
    let model = Arc::new(Model::new(config, memory.clone()));
    let regs = Regs::new(model, Duration::from_millis(1));
    let caps = regs.capabilities().unwrap();
    let found = Invalidator::new(&memory, &caps, 48).err();
    assert!(matches!(found, Some(HwError::Missing(_))), "{found:?}");
}
