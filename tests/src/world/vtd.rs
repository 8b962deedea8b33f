//! VT-d as a world sees it.

use super::Numbers;
use super::machine::{Hook, InFlight, Kind, Machine, Sizes, Trouble};
use super::vtd_units;
use crate::bench::{Bench, extent};
use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, Nested, NestedConfig, Pasid, Prot, RequesterId, Stream, StreamId, Unit};
use iommu_hal::mem::Frames;
use iommu_hal::{FrameRequest, WalkerMemory};
use iommu_models::vtd::{Model, Queue};
use iommu_vtd::guest::FIRST_STAGE;
use std::sync::Arc;

/// Requesters: on one bus, on both halves of it, and on another.
const REQUESTERS: [u16; 3] = [0x0010, 0x0090, 0x0510];

const PAGE: u64 = 0x1000;
const HUGE: u64 = 1 << 30;

/// A VT-d unit.
pub struct VtdMachine(Bench);

impl Machine for VtdMachine {
    type Eye = Arc<Model>;

    fn choose(numbers: &mut Numbers<'_>) -> Self {
        let bench = Bench::up(&vtd_units::choose(numbers));
        vtd_units::disturb(&bench.model, numbers);
        Self(bench)
    }

    fn name(&self) -> &str {
        &self.0.case.name
    }

    fn unit(&self) -> &dyn Unit {
        &self.0.unit
    }

    fn streams(&self) -> [StreamId; 3] {
        REQUESTERS.map(|requester| RequesterId::new(requester).into())
    }

    fn sizes(&self) -> Sizes {
        Sizes { page: PAGE, large: 1 << 21, huge: HUGE }
    }

    fn memory_shift(&self) -> u32 {
        37
    }

    /// Every stream has an entry of its own, which leads anywhere.
    fn excludes(&self, _: Stream, _: Kind, _: Stream, _: Kind) -> bool {
        false
    }

    /// Interrupts, whatever the target.
    fn is_no_memory(&self, at: u64) -> bool {
        at >> 20 == 0xfee
    }

    fn translates_identity(&self) -> bool {
        true
    }

    fn guest(&self, parent: &dyn Domain) -> Option<Box<dyn Nested>> {
        // Its tables are memory of the parent, at their own addresses: those of the unit's memory, which nobody tries.
        let request = FrameRequest::single(46, WalkerMemory::Coherent);
        let [root, gibibytes] = [(); 2].map(|()| Frames::alloc(self.0.memory.clone(), request));
        let (root, gibibytes) = (root?, gibibytes?);
        for frames in [&root, &gibibytes] {
            let at = frames.phys().get();
            parent.map(Iova::new(at), &[extent(at, PAGE)], Prot::READ_WRITE).ok()?;
        }
        // Present, writable, user, accessed; the leaves dirty, and of 1 GiB.
        root.frame(0)?.publish(0, gibibytes.phys().get() | 0x27);
        (0..4).for_each(|leaf| {
            gibibytes.frame(0).expect("a frame").publish(leaf, ((leaf as u64) << 30 ^ HUGE) | 0xe7);
        });
        let at = root.phys().get();
        // The guest keeps them for ever.
        std::mem::forget((root, gibibytes));
        let words = [0, at, 48];
        self.0.unit.create_nested(parent, &NestedConfig { kind: FIRST_STAGE, words: &words }).ok()
    }

    fn begin(&self, trouble: Trouble) {
        match trouble {
            Trouble::None => {}
            Trouble::Stopped => self.0.model.set_queue(Queue::Stopped),
            Trouble::Mute => self.0.model.set_queue(Queue::Mute),
            Trouble::Descriptor(n) => self.0.model.fail_descriptor_after(n),
            Trouble::Memory(n) => self.0.memory.fail_after(n),
            Trouble::Completion(n) => self.0.model.drop_completion_after(n),
            Trouble::DeviceTlb(n) => self.0.model.time_out_after(n),
        }
    }

    fn end_of_trouble(&self) {
        self.0.model.set_queue(Queue::Running);
        self.0.model.fail_descriptor_after(usize::MAX);
        self.0.memory.fail_never();
        self.0.model.drop_completion_after(usize::MAX);
        self.0.model.time_out_after(usize::MAX);
    }

    fn set_hook(&self, hook: Option<Hook>) {
        self.0.spy.set_hook(hook.map(|mut hook| Box::new(move |_, _| hook()) as _));
    }

    fn eye(&self) -> Arc<Model> {
        self.0.model.clone()
    }

    fn access(model: &Arc<Model>, stream: Stream, at: u64, write: bool, translated: bool) -> Option<u64> {
        let rid = stream.id.get() as u16;
        let pasid = stream.pasid.map(Pasid::get);
        let found = if translated {
            model.endpoint(rid).dma(pasid, Iova::new(at), 1, write)
        } else {
            model.dma(rid, pasid, Iova::new(at), 1, write)
        };
        found.ok().map(|extents| extents[0].start.get())
    }

    fn forget_device_tlb(&self, stream: StreamId) {
        self.0.model.endpoint(stream.get() as u16).forget();
    }

    /// Section 6.5.4. Where hardware does not drain nobody can.
    fn in_flight(&self) -> Vec<InFlight> {
        let in_flight = self.0.model.in_flight();
        if !in_flight.is_empty() {
            self.0.model.linger(true);
        }
        let cap = self.0.case.config.cap;
        let drains = |write| cap & if write { 1 << 54 } else { 1 << 55 } != 0;
        let drained = in_flight.into_iter().filter(|request| drains(request.write));
        let each = drained.map(|request| {
            let id = RequesterId::new(request.requester);
            let pasid = request.pasid.filter(|pasid| *pasid != 0).and_then(Pasid::new);
            let stream = Stream { id: id.into(), pasid };
            InFlight { stream, iova: request.iova.get(), write: request.write, phys: request.phys.get() }
        });
        each.collect()
    }

    fn last_fault(&self) -> String {
        format!("faults {:x?}", self.0.model.take_faults().last())
    }

    fn check_and_forget(&self, after: &str) {
        assert_eq!(self.0.model.violations(), [], "{} after {after}", self.name());
        assert_eq!(self.0.memory.take_stale_reads(), [], "{} after {after}", self.name());
        self.0.model.take_log();
        self.0.model.take_faults();
        self.0.spy.take_writes();
    }

    fn check(&self) {
        self.0.check();
    }
}
