//! The fault interrupt, and the way of a fault to the owner of the stream that it is of.

use iommu_core::addr::Iova;
use iommu_core::device::{AttachTo, Device, DeviceConfig, Feature, Features, Function};
use iommu_core::fault::{Event, FaultQueue, FaultRouter};
use iommu_core::group::{Group, OwnerId};
use iommu_core::hw::{HwError, RequesterId, Stage, Unit as _};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, Message};
use iommu_tests::bench::Bench;
use iommu_tests::case::Case;
use iommu_vtd::MsiMessage;

const FECTL: usize = 0x38;

fn bench(config: Config) -> Bench {
    Bench::up(&Case { name: "events".into(), config, stage: Stage::Second, non_coherent: false })
}

fn fault(bench: &Bench, requester: u16) {
    bench.model.dma(requester, None, Iova::new(0x1000), 1, true).unwrap_err();
}

#[test]
fn the_first_fault_interrupts_and_the_next_once_all_are_reported() {
    let bench = bench(Config::server());
    let message = MsiMessage { address: 0xfee0_3000, data: 0x41 };
    let sent = Message { address: 0xfee0_3000, data: 0x41 };
    fault(&bench, 8);
    assert_eq!(bench.model.take_messages(), [], "polled");
    // What was recorded before is told of at once.
    bench.unit.set_fault_interrupt(Some(message)).unwrap();
    assert_eq!(bench.model.take_messages(), [sent]);
    fault(&bench, 8);
    assert_eq!(bench.model.take_messages(), [], "the first was not reported yet");
    let report = bench.unit.report_faults(&mut |_| {});
    assert_eq!((report.reported, report.more), (2, false));
    fault(&bench, 8);
    assert_eq!(bench.model.take_messages(), [sent]);
    // An error that nobody waits for does not keep later faults from interrupting.
    bench.unit.report_faults(&mut |_| {});
    bench.model.raise_unexpected_completion(0x108);
    assert_eq!(bench.model.take_messages(), [sent]);
    bench.unit.report_faults(&mut |_| {});
    fault(&bench, 8);
    assert_eq!(bench.model.take_messages(), [sent]);
    bench.unit.set_fault_interrupt(None).unwrap();
    bench.unit.report_faults(&mut |_| {});
    fault(&bench, 8);
    assert_eq!((bench.model.take_messages(), bench.model.read32(FECTL) >> 31), (vec![], 1));
    bench.check();
}

#[test]
fn messages_that_are_no_interrupts_are_refused() {
    let bench = bench(Config::second_stage());
    bench.spy.take_writes();
    let set = |address, data| bench.unit.set_fault_interrupt(Some(MsiMessage { address, data }));
    for address in [0, 0x1000, 0xfed0_0000, 0xfef0_0000, 0x1_fee0_0000] {
        assert_eq!(set(address, 0x41), Err(HwError::Reserved { address }));
    }
    // Remappable format, not aligned, level-triggered, more than 16 bits.
    for (address, data) in [(0xfee0_0010, 0x41), (0xfee0_0001, 0x41), (0xfee0_0000, 0x8041), (0xfee0_0000, 0x1_0041)] {
        assert!(matches!(set(address, data), Err(HwError::Unsupported(_))), "{address:#x} {data:#x}");
    }
    // APIC ids beyond 8 bits need ECAP.EIM.
    assert!(matches!(set(0x100_fee0_0000, 0x41), Err(HwError::Missing(capability)) if capability.field == "ECAP.EIM"));
    assert_eq!(bench.spy.take_writes(), []);
    let wide = self::bench(Config::second_stage().ecap_bits(1 << 4, true));
    let message = MsiMessage { address: 0x100_fee0_0000, data: 0x41 };
    assert_eq!(wide.unit.set_fault_interrupt(Some(message)), Ok(()));
}

/// A function with PASIDs.
struct Capable;

impl Function for Capable {
    fn features(&self) -> Features {
        Features { pasid_bits: 20, ..Features::default() }
    }
    fn set_feature(&self, _: Feature, _: bool) -> Result<(), HwError> {
        Ok(())
    }
    fn set_bus_master(&self, _: bool) -> Result<(), HwError> {
        Ok(())
    }
}

#[test]
fn a_fault_goes_to_the_owner_of_its_stream_alone() {
    let bench = bench(Config::server());
    let unit = bench.handle();
    let router = FaultRouter::new(unit.clone()).unwrap();
    let route = || bench.unit.report_faults(&mut |fault| _ = router.fault(fault));
    let space = Ioas::new(IoasConfig::default()).unwrap();
    let queues = [(); 3].map(|()| FaultQueue::new(8).unwrap());
    let domain = |queue: &FaultQueue| {
        let config = HwptConfig { faults: Some(queue.clone()), pasid: true, ..HwptConfig::new(Stage::Second) };
        Hwpt::new(&space, &unit, config).unwrap()
    };
    let domains = queues.each_ref().map(domain);
    let device = |requester: u16| {
        let config = DeviceConfig {
            unit: unit.clone(),
            streams: &[RequesterId::new(requester).into()],
            function: Some(std::sync::Arc::new(Capable)),
            regions: &[],
            coherent: true,
            isolated_msi: true,
            router: Some(router.clone()),
            account: None,
        };
        let device = Device::new(&Group::new(None).unwrap(), &config).unwrap();
        device.bind(OwnerId(requester.into()), false).unwrap();
        device
    };
    let (one, other) = (device(8), device(16));
    one.attach(AttachTo::Hwpt(&domains[0])).unwrap();
    other.attach(AttachTo::Hwpt(&domains[1])).unwrap();
    one.enable(Feature::Pasid).unwrap();
    let pasid = iommu_core::hw::Pasid::new(0x1_2345).unwrap();
    one.attach_pasid(pasid, AttachTo::Hwpt(&domains[2])).unwrap();

    // Who faults, and whose queue learns of it; `None`: nobody's.
    for (requester, pasid, owner) in
        [(8, None, Some(0)), (16, None, Some(1)), (8, Some(0x1_2345), Some(2)), (8, Some(7), None), (24, None, None)]
    {
        bench.model.dma(requester, pasid, Iova::new(0x7000), 1, false).unwrap_err();
        assert_eq!(route().reported, 1);
        for (index, queue) in queues.iter().enumerate() {
            let found = queue.read().unwrap().map(|record| record.event);
            match (found, owner == Some(index)) {
                (Some(Event::Fault(fault)), true) => {
                    assert_eq!(
                        (fault.stream.id.get(), fault.stream.pasid.map(|pasid| pasid.get())),
                        (requester.into(), pasid)
                    );
                    assert_eq!(fault.iova, Iova::new(0x7000));
                }
                (None, false) => {}
                (found, _) => panic!("{requester:#x} {pasid:x?}: queue {index} has {found:?}"),
            }
        }
    }
}
