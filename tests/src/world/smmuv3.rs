//! SMMUv3 as a world sees it.

use super::Numbers;
use super::machine::{Hook, InFlight, Kind, Machine, Sizes, Trouble};
use super::smmuv3_units;
use crate::bench::extent;
use crate::smmuv3::bench::Bench;
use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, Nested, NestedConfig, Pasid, Prot, Stream, StreamId, Unit};
use iommu_hal::mem::Frames;
use iommu_hal::{FrameRequest, WalkerMemory};
use iommu_models::smmuv3::{Config, Model, Queue};
use std::sync::Arc;

/// Words of a guest's stream table entry, as the driver takes them.
const STREAM_ENTRY: u32 = 0x534d_4d55;

const GIBIBYTE: u64 = 1 << 30;

/// An SMMUv3.
pub struct SmmuMachine {
    bench: Bench,
    sizes: Sizes,
}

impl Machine for SmmuMachine {
    type Eye = Arc<Model>;

    fn choose(numbers: &mut Numbers<'_>) -> Self {
        let bench = Bench::up(&smmuv3_units::choose(numbers));
        smmuv3_units::disturb(&bench.model, numbers);
        // IDR5.GRAN4K, GRAN16K, GRAN64K: the smallest that there is.
        let sizes = match bench.case.config.idr5 >> 4 & 7 {
            granules if granules & 1 != 0 => Sizes { page: 1 << 12, large: 1 << 21, huge: GIBIBYTE },
            granules if granules & 2 != 0 => Sizes { page: 1 << 14, large: 1 << 25, huge: GIBIBYTE },
            _ => Sizes { page: 1 << 16, large: 1 << 29, huge: 1 << 32 },
        };
        Self { bench, sizes }
    }

    fn name(&self) -> &str {
        &self.bench.case.name
    }

    fn unit(&self) -> &dyn Unit {
        &self.bench.unit
    }

    fn streams(&self) -> [StreamId; 3] {
        self.bench.case.streams().map(StreamId::new)
    }

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn memory_shift(&self) -> u32 {
        (self.bench.case.config.output_bits() - 6).min(37)
    }

    /// Section 3.9: stage 2 is of a whole stream, stage 1 of each of its substreams; under a guest's stage 1 substreams are
    /// the guest's.
    fn excludes(&self, stream: Stream, kind: Kind, other: Stream, held: Kind) -> bool {
        let whole = matches!(kind, Kind::Second | Kind::Nested);
        match (stream.pasid, other.pasid) {
            (Some(_), _) if whole => true,
            (Some(_), None) => kind != Kind::Blocked && matches!(held, Kind::Second | Kind::Nested),
            (None, Some(_)) => whole && held != Kind::Blocked,
            _ => false,
        }
    }

    fn is_no_memory(&self, at: u64) -> bool {
        at >> self.bench.case.config.output_bits() != 0
    }

    /// Section 3.9.1: translation requests of a stream that bypasses stage 1 and has no stage 2 are answered with Unsupported
    /// Request.
    fn translates_identity(&self) -> bool {
        false
    }

    fn guest(&self, parent: &dyn Domain) -> Option<Box<dyn Nested>> {
        if self.sizes.page != 1 << 12 {
            return None;
        }
        // Its structures are memory of the parent, at their own addresses: those of the unit's memory, which nobody tries.
        let request = FrameRequest::single(40, WalkerMemory::Coherent);
        let [context, root] = [(); 2].map(|()| Frames::alloc(self.bench.memory.clone(), request));
        let (context, root) = (context?, root?);
        for frames in [&context, &root] {
            let at = frames.phys().get();
            parent.map(Iova::new(at), &[extent(at, 0x1000)], Prot::READ_WRITE).ok()?;
        }
        // Three levels of 4 KiB, 39 bits: blocks of 1 GiB at the root; AF, SH, AP[1], nG.
        for block in 0..4 {
            let to = (block * GIBIBYTE) ^ self.sizes.huge;
            root.frame(0)?.store(block as usize, to | 1 << 11 | 1 << 10 | 3 << 8 | 1 << 6 | 1);
        }
        root.frame(0)?.clean(0, 4);
        // T0SZ, IR0, OR0, SH0, EPD1, V, IPS, AA64, R, A, ASET, ASID; TTB0; MAIR.
        let oas = u64::from(self.bench.case.config.idr5 & 7).min(5);
        let low = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | oas << 32 | 1 << 41 | 7 << 45 | 5 << 48;
        let words = [low, root.phys().get(), 0, 0xff];
        words.iter().enumerate().for_each(|(at, word)| context.frame(0).expect("a frame").store(at, *word));
        context.frame(0)?.clean(0, 8);
        // V, Config = 5 and S1ContextPtr; S1CIR, S1COR, S1CSH, and EATS where the unit has it.
        let ats = u64::from(self.bench.case.config.idr0 & Config::ATS != 0);
        let words = [1 | 5 << 1 | context.phys().get(), 1 << 2 | 1 << 4 | 3 << 6 | ats << 28];
        // The guest keeps them for ever.
        std::mem::forget((context, root));
        self.bench.unit.create_nested(parent, &NestedConfig { kind: STREAM_ENTRY, words: &words }).ok()
    }

    fn begin(&self, trouble: Trouble) {
        match trouble {
            Trouble::None => {}
            Trouble::Stopped => self.bench.model.set_queue(Queue::Stopped),
            Trouble::Mute => self.bench.model.set_queue(Queue::NoSync),
            Trouble::Descriptor(n) => self.bench.model.fail_command_after(n),
            Trouble::Memory(n) => self.bench.memory.fail_after(n),
            Trouble::Completion(n) if n == 0 => self.bench.model.drop_completion_after(n),
            Trouble::Completion(n) => self.bench.model.stop_queue_after(n),
            Trouble::DeviceTlb(n) => self.bench.model.time_out_after(n),
        }
    }

    fn end_of_trouble(&self) {
        self.bench.model.set_queue(Queue::Running);
        self.bench.model.fail_command_after(usize::MAX);
        self.bench.model.drop_completion_after(usize::MAX);
        self.bench.memory.fail_never();
        self.bench.model.time_out_after(usize::MAX);
    }

    fn set_hook(&self, hook: Option<Hook>) {
        self.bench.spy.set_hook(hook.map(|mut hook| Box::new(move |_, _| hook()) as _));
    }

    fn eye(&self) -> Arc<Model> {
        self.bench.model.clone()
    }

    fn access(model: &Arc<Model>, stream: Stream, at: u64, write: bool, translated: bool) -> Option<u64> {
        let pasid = stream.pasid.map(Pasid::get);
        let found = if translated {
            model.endpoint(stream.id.get()).dma(pasid, Iova::new(at), 1, write)
        } else {
            model.dma(stream.id.get(), pasid, Iova::new(at), 1, write)
        };
        found.ok().map(|extents| extents[0].start.get())
    }

    fn forget_device_tlb(&self, stream: StreamId) {
        self.bench.model.endpoint(stream.get()).forget();
    }

    /// A CMD_SYNC waits for all of them (section 4.7.3), and the model lets none linger.
    fn in_flight(&self) -> Vec<InFlight> {
        Vec::new()
    }

    fn last_fault(&self) -> String {
        format!("events {:x?}", self.bench.model.take_events().last())
    }

    fn check_and_forget(&self, after: &str) {
        assert_eq!(self.bench.model.violations(), [], "{} after {after}", self.name());
        assert_eq!(self.bench.memory.take_stale_reads(), [], "{} after {after}", self.name());
        self.bench.model.take_log();
        self.bench.model.take_events();
        self.bench.spy.take_writes();
        // Events that nobody reads would fill their queue.
        self.bench.unit.report_faults(&mut |_| ());
    }

    fn check(&self) {
        self.bench.check();
    }
}
