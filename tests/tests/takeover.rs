//! What firmware, or whoever came before, may have left: translation on, a queue with work or errors in it, stale
//! fault records, interrupt remapping. Nothing of it stays in effect, and in between DMA is not let through.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{HwError, Unit as _, Wait};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::vtd::{Config, Descriptor, FaultCode, Model, Queue};
use iommu_tests::bench::{TestUnit, config_for, memory};
use iommu_tests::spy::*;
use iommu_vtd::{ModeChoice, Unit};
use std::sync::{Arc, Mutex};

const RID: u16 = 8;

fn bring_up(firmware: &Firmware) -> Result<TestUnit, HwError> {
    let (spy, model) = (firmware.spy.clone(), &firmware.model);
    Unit::bring_up(model.memory().clone(), spy, config_for(model.config()))
}

/// A unit as firmware left it, with [`RID`] passed through in scalable mode.
struct Firmware {
    spy: Arc<Spy>,
    model: Arc<Model>,
    queue: u64,
    kept: usize,
}

impl Firmware {
    fn new(config: Config) -> Self {
        Self::with_mode(config, 1 << 10)
    }

    /// `mode` is RTADDR.TTM in its place: scalable, or another without any table.
    fn with_mode(config: Config, mode: u64) -> Self {
        let model = Arc::new(Model::new(config, memory(false)));
        let spy = Arc::new(Spy::new(model.clone()));
        let frame = || {
            let request = FrameRequest::single(46, WalkerMemory::Coherent);
            model.memory().alloc_frames(request).expect("a frame").get()
        };
        let [root, queue, context, directory, table] = std::array::from_fn(|_| frame());
        let set = |phys, value| model.memory().write64(PhysAddr::new(phys), value);
        // Pass-through of domain 5; the domain ids of our driver begin with 1.
        set(table + 8, 5);
        set(table, 4 << 6 | 2 << 2 | 1);
        set(directory, table | 1);
        set(context + u64::from(RID) * 32, directory | 1);
        set(root, context | 1);
        let scalable = mode == 1 << 10;
        if scalable {
            model.write64(IQA, queue | 1 << 11);
            model.write32(GCMD, QIE);
        }
        let queue_on = model.read32(GSTS);
        model.write64(RTADDR, root | mode);
        model.write32(GCMD, queue_on | SRTP);
        model.write32(GCMD, queue_on | TE);
        if scalable {
            // Cached, too.
            model.dma(RID, None, Iova::new(0x1000), 8, true).expect("pass-through");
        }
        assert_eq!(model.violations(), []);
        let kept = model.memory().in_use();
        Self { spy, model, queue, kept }
    }

    fn put(&self, slot: u64, low: u64, high: u64) {
        for (word, value) in [low, high, 0, 0].into_iter().enumerate() {
            self.model.memory().write64(PhysAddr::new(self.queue + slot * 32 + word as u64 * 8), value);
        }
    }

    /// Brings our driver up, and checks that nothing of what was there is left.
    #[track_caller]
    fn take_over(&self) -> TestUnit {
        let unit = bring_up(self).expect("firmware's leftovers");
        assert_eq!(self.model.violations(), []);
        self.check(&unit);
        unit
    }

    #[track_caller]
    fn check(&self, unit: &TestUnit) {
        assert_eq!(self.model.read32(GSTS) & (TE | SRTP | QIE), TE | SRTP | QIE);
        assert_eq!(self.model.read32(FSTS) & 0xff, 0, "no fault and no error is left");
        assert_eq!(self.model.memory().in_use(), self.kept + 4);
        assert_ne!(self.model.read64(IQA) & !0xfff, self.queue);
        for iova in [0x1000, 0x2000] {
            let blocked = self.model.dma(RID, None, Iova::new(iova), 8, true).unwrap_err();
            assert_eq!(blocked.code, FaultCode::ROOT_NOT_PRESENT);
        }
        self.model.take_log();
        let marker = unit.sync().expect("a queue that works");
        let log = self.model.take_log();
        assert!(matches!(log[..], [done] if matches!(done.descriptor,
            Descriptor::Wait { status: Some((_, data)), .. } if data == marker)));
    }
}

fn clear_faults(unit: &TestUnit) {
    for _ in 0..10 {
        if !unit.report_faults(&mut |_| {}).more {
            return;
        }
    }
    panic!("faults that never end");
}

#[test]
fn what_firmware_let_through_is_blocked_and_was_never_let_through_untranslated() {
    for config in [Config::second_stage(), Config::first_stage(), Config::server()] {
        for slow in [0, 3] {
            let firmware = Firmware::new(config);
            firmware.model.answer_after(slow);
            let model = firmware.model.clone();
            firmware.spy.set_hook(Some(Box::new(move |write, _| {
                // Nobody but RID was let through, so that anything else now would be untranslated.
                let found = model.dma(0x10, None, Iova::new(0x1000), 8, true);
                assert!(found.is_err(), "untranslated after {write:x?}");
            })));
            let unit = bring_up(&firmware).expect("firmware's leftovers");
            firmware.spy.set_hook(None);
            firmware.model.answer_after(0);
            assert!(firmware.spy.take_commands().iter().all(|command| command & TE != 0), "translation went off");
            assert_eq!(firmware.model.violations(), []);
            // Those of the looks above: few records, and an overflow.
            clear_faults(&unit);
            firmware.check(&unit);
        }
    }
}

#[test]
fn another_mode_of_firmware_is_turned_off_first() {
    for config in [Config::second_stage(), Config::first_stage()] {
        let firmware = Firmware::with_mode(config, 0);
        firmware.take_over();
        let commands = firmware.spy.take_commands();
        let off = commands.iter().position(|command| command & TE == 0).expect("translation goes off");
        let root = commands.iter().position(|command| command & SRTP != 0).expect("a root");
        assert!(commands[off..root].iter().all(|command| command & TE == 0) && commands.last().unwrap() & TE != 0);
        // Nothing but the root and the invalidation stands in the window.
        assert_eq!(commands.len() - off, 3, "{commands:x?}");
    }
}

#[test]
fn with_esrtps_another_mode_of_firmware_hands_over_without_a_window() {
    // Scalable mode from legacy mode, and from abort-DMA mode; the other way about.
    let server = Config::server().ecap_bits(1 << 52, true);
    for (mode, choice) in [(0, ModeChoice::Best), (3 << 10, ModeChoice::Best), (3 << 10, ModeChoice::Legacy)] {
        let firmware = Firmware::with_mode(server, mode);
        let model = firmware.model.clone();
        let looks = Arc::new(Mutex::new(0));
        let count = looks.clone();
        firmware.spy.set_hook(Some(Box::new(move |write, _| {
            *count.lock().unwrap() += 1;
            assert!(model.dma(0x10, None, Iova::new(0x1000), 8, true).is_err(), "untranslated after {write:x?}");
        })));
        let config = iommu_vtd::Config { mode: choice, ..config_for(&server) };
        let unit = Unit::bring_up(firmware.model.memory().clone(), firmware.spy.clone(), config).expect("up");
        firmware.spy.set_hook(None);
        assert!(firmware.spy.take_commands().iter().all(|command| command & TE != 0), "translation went off");
        assert!(*looks.lock().unwrap() > 4);
        assert_eq!(firmware.model.violations(), []);
        let expected = if choice == ModeChoice::Legacy { 0 } else { 1 };
        assert_eq!(firmware.model.root() >> 10 & 3, expected);
        drop(unit);
    }
}

#[test]
fn what_has_events_of_firmware_on_loses_them() {
    let firmware = Firmware::new(Config::second_stage());
    let (fectl, iectl) = (0x38, 0xa0);
    firmware.model.write32(fectl, 0);
    firmware.model.write32(iectl, 0);
    firmware.model.dma(0x10, None, Iova::new(0x1000), 8, true).unwrap_err();
    firmware.model.take_messages();
    firmware.take_over();
    assert_eq!([fectl, iectl].map(|control| firmware.model.read32(control) >> 31), [1, 1], "masked");
    firmware.model.dma(0x10, None, Iova::new(0x1000), 8, true).unwrap_err();
    assert_eq!(firmware.model.take_messages(), []);
}

#[test]
fn work_left_in_firmwares_queue_does_not_matter() {
    let firmware = Firmware::new(Config::second_stage());
    firmware.put(0, 1 << 4 | 1, 0);
    firmware.put(1, 1 << 4 | 2, 0);
    firmware.model.write64(IQT, 64);
    firmware.take_over();
}

#[test]
fn a_queue_of_firmware_that_hangs_does_not_keep_the_unit_down() {
    let firmware = Firmware::new(Config::second_stage());
    firmware.model.set_queue(Queue::Stopped);
    firmware.put(0, 1 << 4 | 1, 0);
    firmware.model.write64(IQT, 32);
    // It hangs for as long as it is on.
    let model = firmware.model.clone();
    firmware.spy.set_hook(Some(Box::new(move |write, _| {
        if write.offset == GCMD && write.value as u32 & QIE == 0 {
            model.set_queue(Queue::Running);
        }
    })));
    let unit = bring_up(&firmware).expect("a queue that hangs");
    firmware.spy.set_hook(None);
    firmware.check(&unit);
}

#[test]
fn stale_fault_records_of_firmware_are_gone() {
    for config in [Config::second_stage(), Config::server()] {
        let firmware = Firmware::new(config);
        for page in 0..6 {
            firmware.model.dma(0x10, None, Iova::new(page << 12), 8, page % 2 == 0).unwrap_err();
        }
        assert_eq!(firmware.model.read32(FSTS) & 3, 3, "a record and an overflow");
        firmware.take_over();
    }
}

#[test]
fn a_queue_error_of_firmware_does_not_keep_the_unit_down() {
    // IQE is pending, so that the head will never reach the tail; nobody may wait for that, nor give up over it.
    let firmware = Firmware::new(Config::second_stage());
    firmware.put(0, 0xf, 0);
    firmware.put(1, 1 << 4 | 1, 0);
    firmware.model.write64(IQT, 64);
    assert_eq!(firmware.model.read32(FSTS) & 1 << 4, 1 << 4);
    assert_eq!(firmware.model.read64(IQH), 0);
    let result = bring_up(&firmware);
    let unit = result.unwrap_or_else(|error| panic!("IQE of firmware: {error}"));
    firmware.check(&unit);
}

#[test]
fn other_errors_of_firmwares_queue_do_not_keep_the_unit_down() {
    let firmware = Firmware::new(Config::server());
    firmware.model.raise_time_out(0x100);
    firmware.model.raise_unexpected_completion(0x108);
    firmware.take_over();
}

#[test]
fn interrupt_remapping_of_firmware_stays_on() {
    let firmware = Firmware::new(Config::second_stage());
    firmware.model.write32(GCMD, TE | QIE | IRE);
    assert_eq!(firmware.model.read32(GSTS) & IRE, IRE);
    let unit = bring_up(&firmware).expect("up");
    assert_eq!(firmware.model.read32(GSTS), TE | SRTP | QIE | IRE);
    assert_eq!(firmware.model.violations(), []);
    assert!(firmware.spy.take_commands().iter().all(|command| command & IRE != 0), "not even for a moment");
    drop(unit);
}

#[test]
fn firmwares_translation_that_does_not_stop_stays_on() {
    let firmware = Firmware::with_mode(Config::second_stage(), 0);
    firmware.model.never_answer(TE);
    assert_eq!(bring_up(&firmware).err(), Some(HwError::TimedOut(Wait::Status("GSTS.TES"))));
    // Our queue is on, and stays.
    assert_eq!(firmware.model.memory().in_use(), firmware.kept + 3);
    firmware.model.dma(RID, None, Iova::new(0x1000), 8, true).expect_err("firmware's tables block it");
    assert_eq!(firmware.model.violations(), []);
}

#[test]
fn firmwares_queue_that_does_not_stop_is_an_error_that_costs_nothing() {
    let firmware = Firmware::new(Config::second_stage());
    firmware.model.never_answer(QIE);
    assert_eq!(bring_up(&firmware).err(), Some(HwError::TimedOut(Wait::Status("GSTS.QIES"))));
    assert_eq!(firmware.model.memory().in_use(), firmware.kept);
    assert_eq!(firmware.model.read32(GSTS) & TE, TE);
    assert_eq!(firmware.model.violations(), []);
}

#[test]
fn translation_of_firmware_stays_on_whatever_fails() {
    // Each command, and each descriptor of the first batch.
    let failures: [&dyn Fn(&Model); 6] = [
        &|model| model.never_answer(SRTP),
        &|model| model.fail_descriptor_after(0),
        &|model| model.fail_descriptor_after(2),
        &|model| model.fail_descriptor_after(3),
        &|model| model.stop_queue_after(0),
        &|model| model.stop_queue_after(3),
    ];
    for fail in failures {
        let firmware = Firmware::new(Config::second_stage());
        let open = Arc::new(Mutex::new(0));
        let (model, count) = (firmware.model.clone(), open.clone());
        firmware.spy.set_hook(Some(Box::new(move |_, _| {
            *count.lock().unwrap() += u32::from(model.dma(0x10, None, Iova::new(0x1000), 8, true).is_ok());
        })));
        fail(&firmware.model);
        bring_up(&firmware).err().expect("an error");
        firmware.spy.set_hook(None);
        assert_eq!(*open.lock().unwrap(), 0, "untranslated");
        firmware.model.dma(0x10, None, Iova::new(0x1000), 8, true).unwrap_err();
        assert_eq!(firmware.model.read32(GSTS) & TE, TE);
        assert_eq!((firmware.model.violations(), firmware.model.memory().take_stale_reads()), (vec![], vec![]));
        firmware.model.memory().check_freed();
    }
}
