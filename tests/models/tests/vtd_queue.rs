//! The invalidation queue: descriptors, errors, recovery.

mod common;

use common::*;
use iommu_core::addr::PhysAddr;
use iommu_models::vtd::{Config, Descriptor, Granularity, Queue, Violation};

const IQE: u32 = 1 << 4;
const ITE: u32 = 1 << 6;

/// Submits one descriptor that must be refused, and gives IQEI.
fn refused(config: Config, words: [u64; 4]) -> u64 {
    let mut bench = Bench::up(config);
    assert!(bench.wait(1));
    bench.put(words[0], words[1]);
    bench.set(bench.queue + 48, words[2]);
    bench.set(bench.queue + 56, words[3]);
    bench.ring();
    assert_eq!(bench.read32(FSTS) & IQE, IQE, "{words:x?} was taken");
    assert_eq!(bench.read64(IQH), 32);
    bench.read64(IQERCD) & 0xf
}

fn taken(config: Config, low: u64, high: u64) -> Descriptor {
    let mut bench = Bench::up(config);
    bench.submit(low, high);
    assert_eq!(bench.read32(FSTS) & IQE, 0, "{low:#x} {high:#x} was refused with {:#x}", bench.read64(IQERCD));
    assert_eq!((bench.read64(IQH), bench.read64(IQT)), (32, 32));
    let log = bench.model.take_log();
    assert_eq!((log.len(), log[0].slot, log[0].raw), (1, 0, [low, high, 0, 0]));
    log[0].descriptor
}

#[test]
fn each_type_is_decoded() {
    let server = Config::server().ecap_bits(1 << 29, true);
    let (domain, pasid) = (0xd00d, 0xabcde);
    assert_eq!(taken(server, 0x11, 0), Descriptor::ContextCache(Granularity::Global));
    assert_eq!(
        taken(server, 0x0002_1234_d00d_0031, 0),
        Descriptor::ContextCache(Granularity::Device { domain, source: 0x1234, mask: 6 })
    );
    let granularity = Granularity::Pages { domain, pasid: None, address: 0x7fff_0000, mask: 4, leaf_only: true };
    assert_eq!(
        taken(server, 0xd00d_00f2, 0x7fff_0044),
        Descriptor::Iotlb { granularity, drain_writes: true, drain_reads: true }
    );
    assert_eq!(taken(server, 0x1234_0000_0003, 0x1000), Descriptor::DeviceTlb { source: 0x1234, address: 0x1000 });
    assert_eq!(taken(server, 0x4_1800_0014, 0), Descriptor::InterruptEntries { index: Some(4), mask: 3 });
    let pages = Granularity::Pages { domain, pasid: Some(pasid), address: 0x5000, mask: 0, leaf_only: false };
    assert_eq!(taken(server, 0x000a_bcde_d00d_0036, 0x5000), Descriptor::PasidIotlb(pages));
    assert_eq!(taken(server, 0x000a_bcde_d00d_0026, 0), Descriptor::PasidIotlb(Granularity::Pasid { domain, pasid }));
    assert_eq!(taken(server, 0xd00d_0007, 0), Descriptor::PasidCache(Granularity::Domain(domain)));
    assert_eq!(taken(server, 0x000a_bcde_d00d_0017, 0), Descriptor::PasidCache(Granularity::Pasid { domain, pasid }));
    assert_eq!(taken(server, 0x37, 0), Descriptor::PasidCache(Granularity::Global));
    assert_eq!(
        taken(server, 0x000a_bcde_1234_0008, 0x1800),
        Descriptor::PasidDeviceTlb { source: 0x1234, pasid: Some(pasid), address: 0x1800 }
    );
    assert_eq!(
        taken(server, 0x000a_bcde_1234_1019, 5 << 3),
        Descriptor::PageResponse { requester: 0x1234, pasid: Some(pasid), group: 5, code: 1 }
    );
}

#[test]
fn types_that_the_unit_lacks_are_refused() {
    let small = Config::second_stage();
    for kind in [0, 3, 8, 9, 10, 15, 0x205] {
        assert_eq!(refused(small, [kind, 0, 0, 0]), 3, "type {kind:#x}");
    }
}

#[test]
fn reserved_bits_are_refused() {
    let server = Config::server().ecap_bits(1 << 29, true);
    for (low, high) in [
        (0x11 | 1 << 6, 0),
        (0x11 | 1 << 50, 0),
        (0x11, 1),
        (0x01, 0),
        (0x12 | 1 << 8, 0),
        (0x12 | 1 << 32, 0),
        (0x12, 1 << 7),
        (0x02, 0),
        (0x03 | 1 << 4, 0),
        (0x03 | 1 << 12, 0),
        (0x03 | 1 << 52, 0),
        (0x03, 2),
        (0x04 | 1 << 5, 0),
        (0x25 | 1 << 8, 0x1000),
        (0x25, 0x1001),
        (0x26 | 1 << 6, 0),
        (0x26 | 1 << 52, 0),
        (0x26, 1 << 11),
        (0x06, 0),
        (0x16, 0),
        (0x17 | 1 << 6, 0),
        (0x17, 1),
        (0x27, 0),
        (0x08 | 1 << 12, 0),
        (0x08, 2),
        (0x09 | 1 << 5, 0),
        (0x09, 1 << 2),
        // Beyond MAMV, which is 18.
        (0x32, 19),
    ] {
        assert_eq!(refused(server, [low, high, 0, 0]), 4, "{low:#x} {high:#x}");
    }
    assert_eq!(refused(server, [0x11, 0, 1, 0]), 4);
    assert_eq!(refused(server, [0x11, 0, 0, 1]), 4);
    // PD needs PDS.
    assert_eq!(refused(Config::second_stage(), [0xa5, 0x1000, 0, 0]), 4);
}

#[test]
fn an_error_stops_fetching_until_it_is_cleared() {
    let mut bench = Bench::up(Config::second_stage());
    bench.put(0xf, 0);
    bench.put(0x7_0000_0025, bench.status);
    bench.ring();
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD), bench.read64(IQH)), (IQE, 3, 0));
    assert_eq!(bench.get(bench.status), 0);
    // A new tail starts nothing.
    bench.submit(0x8_0000_0025, bench.status + 8);
    assert_eq!((bench.read64(IQH), bench.get(bench.status + 8)), (0, 0));
    // Cleared without a repair: it stops again at the same place.
    bench.write32(FSTS, IQE);
    assert_eq!((bench.read32(FSTS), bench.read64(IQH)), (IQE, 0));
    bench.set(bench.queue, 0x11);
    bench.write32(FSTS, IQE);
    assert_eq!((bench.read32(FSTS), bench.read64(IQH)), (0, 96));
    assert_eq!((bench.get(bench.status), bench.get(bench.status + 8)), (7, 8));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn tails_are_checked() {
    let bench = Bench::up(Config::second_stage());
    bench.write64(IQT, 16);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 6));
    bench.write64(IQT, 0x1000);
    assert_eq!(bench.read64(IQERCD), 6);
    bench.write32(FSTS, IQE);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 1));
    bench.write64(IQT, 8);
    assert_eq!(
        bench.model.violations(),
        [
            Violation::TailMisaligned { iqt: 16 },
            Violation::TailOutOfRange { iqt: 0x1000 },
            Violation::ReservedBits { offset: IQT, bits: 8 },
        ]
    );
    bench.write32(FSTS, IQE);
    assert_eq!(bench.read32(FSTS), 0);
}

#[test]
fn the_head_wraps() {
    let mut bench = Bench::up(Config::second_stage());
    for data in 1..300 {
        assert!(bench.wait(data));
    }
    assert_eq!(bench.read64(IQH), 299 * 32 % 4096);
    assert_eq!(bench.model.take_log().len(), 299);
}

#[test]
fn descriptors_of_128_bits_belong_to_legacy_mode() {
    let bench = Bench::new(Config::second_stage());
    bench.write64(IQA, bench.queue);
    bench.command(QIE);
    bench.set(bench.queue, 0x9_0000_0025);
    bench.set(bench.queue + 8, bench.status + 4);
    bench.set(bench.queue + 16, 0x11);
    bench.write64(IQT, 32);
    assert_eq!((bench.read32(FSTS), bench.get(bench.status)), (0, 9 << 32));
    assert_eq!(bench.model.take_log().len(), 2);
    // Types of scalable mode are none there.
    bench.set(bench.queue + 32, 0x37);
    bench.write64(IQT, 48);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD), bench.read64(IQH)), (IQE, 3, 32));
    bench.set(bench.queue + 32, 0x11);
    bench.write32(FSTS, IQE);
    // With a scalable root they are too narrow.
    bench.set_root();
    bench.set(bench.queue + 48, 0x11);
    bench.write64(IQT, 64);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 5));
}

#[test]
fn scalable_descriptors_need_a_scalable_root() {
    let mut bench = Bench::new(Config::second_stage());
    bench.start_queue();
    assert!(bench.wait(1));
    bench.submit(0x37, 0);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 3));
}

#[test]
fn a_queue_where_no_memory_is_cannot_be_fetched() {
    let bench = Bench::new(Config::second_stage());
    bench.write64(IQA, 0x1000 | 1 << 11);
    bench.command(QIE);
    bench.write64(IQT, 32);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 2));
}

#[test]
fn a_wait_reports_by_memory_or_interrupt() {
    let mut bench = Bench::up(Config::second_stage());
    bench.write32(0xa4, 0x55);
    bench.write32(0xa8, 0xfee0_1000);
    bench.submit(0x15, 0);
    assert_eq!((bench.read32(ICS), bench.read32(0xa0)), (1, 3 << 30));
    assert_eq!(bench.model.take_messages(), []);
    bench.write32(0xa0, 0);
    let messages = bench.model.take_messages();
    assert_eq!(messages.iter().map(|m| (m.address, m.data)).collect::<Vec<_>>(), [(0xfee0_1000, 0x55)]);
    bench.submit(0x15, 0);
    assert_eq!(bench.model.take_messages(), []);
    bench.write32(ICS, 1);
    assert_eq!(bench.read32(ICS), 0);
    bench.submit(0x15, 0);
    assert_eq!(bench.model.take_messages().len(), 1);
    bench.submit(0x1_0000_0025, 0x1000);
    let address = PhysAddr::new(0x1000);
    assert_eq!(bench.model.violations(), [Violation::StatusNowhere { address }]);
}

#[test]
fn the_queue_fails_on_demand() {
    let mut bench = Bench::up(Config::second_stage());
    bench.model.set_queue(Queue::Mute);
    assert!(!bench.wait(1));
    assert_eq!(bench.read64(IQH), 32);
    bench.model.set_queue(Queue::Stopped);
    assert!(!bench.wait(2));
    assert_eq!(bench.read64(IQH), 32);
    bench.model.set_queue(Queue::Running);
    assert_eq!((bench.read64(IQH), bench.get(bench.status)), (64, 2));
    bench.model.stop_queue_after(1);
    assert!(bench.wait(3));
    assert!(!bench.wait(4));
    bench.model.set_queue(Queue::Running);
    bench.model.fail_descriptor_after(1);
    assert!(bench.wait(5));
    assert!(!bench.wait(6));
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 3));
    bench.write32(FSTS, IQE);
    assert_eq!(bench.get(bench.status), 6);
}

#[test]
fn a_device_that_does_not_answer_aborts_the_waits() {
    let mut bench = Bench::up(Config::server());
    bench.model.time_out_after(1);
    bench.put(0x1111_0000_0003, 0x1000);
    bench.put(0x2222_0000_0003, 0x1000);
    bench.put(0x1_0000_0025, bench.status);
    bench.put(0x2_0000_0025, bench.status + 8);
    bench.ring();
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (ITE, 0x2222 << 32));
    // The wait was fetched and aborted; what follows was not fetched.
    assert_eq!((bench.read64(IQH), bench.get(bench.status), bench.get(bench.status + 8)), (96, 0, 0));
    bench.write32(FSTS, ITE);
    assert_eq!((bench.read64(IQH), bench.get(bench.status), bench.get(bench.status + 8)), (128, 0, 2));
    let done: Vec<bool> = bench.model.take_log().iter().map(|executed| executed.done).collect();
    assert_eq!(done, [true, false, false, true]);
    bench.model.raise_time_out(0x3333);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD) >> 32), (ITE, 0x3333));
    assert!(!bench.wait(3));
    bench.write32(FSTS, ITE);
    assert_eq!(bench.get(bench.status) as u32, 3);
    // A completion that nobody expected stops nothing.
    bench.model.raise_unexpected_completion(0x4444);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD) >> 48), (1 << 5, 0x4444));
    assert!(bench.wait(4));
    bench.write32(FSTS, 1 << 5);
    assert_eq!(bench.read32(FSTS), 0);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn device_tlbs_are_left_alone_while_translation_is_off() {
    let mut bench = Bench::new(Config::server());
    bench.start_queue();
    bench.set_root();
    bench.submit(0x1111_0000_0003, 0x1000);
    assert_eq!(bench.model.violations(), [Violation::DeviceTlbWhileDisabled { descriptor: 0x1111_0000_0003 }]);
}

#[test]
fn odd_invalidations_are_flagged() {
    let mut bench = Bench::up(Config::second_stage());
    bench.iotlb_page(DOMAIN, 0x3000, 1);
    assert_eq!(bench.model.violations(), [Violation::InvalidationMisaligned { address: 0x3000, mask: 1 }]);
}
