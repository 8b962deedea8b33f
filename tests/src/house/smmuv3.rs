//! SMMUv3.

use super::{Driver, Forget, Kind, Queue, Read64, Refusal, Spied, Tagged, Walk};
use crate::hooked::Hooked;
use crate::smmuv3::bench::{LEVEL_2, config_for};
use crate::smmuv3::case::Case;
use crate::smmuv3::spy::CMDQ_PROD;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{HwError, Invalidation, Stage, Stream, StreamId};
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::walk::translate;
use iommu_models::smmuv3::{Command, Config, FaultCode, Model, Queue as ModelQueue};
use iommu_smmuv3::{Structure, Unit};
use std::sync::Arc;
use std::time::Duration;

/// The SMMUv3 driver on its model.
pub struct Smmuv3;

/// What a guest's stream table entry and its commands come as.
const STREAM_ENTRY: u32 = 0x534d_4d55;
const COMMAND: u32 = 0x534d_4d43;

/// What an event (section 7.3) says in general. An STE that aborts records none.
fn refusal(code: FaultCode) -> Refusal {
    match code {
        FaultCode::NONE
        | FaultCode::C_BAD_STREAMID
        | FaultCode::C_BAD_SUBSTREAMID
        | FaultCode::C_BAD_CD
        | FaultCode::F_STREAM_DISABLED => Refusal::Detached,
        FaultCode::F_TRANSLATION | FaultCode::F_ADDR_SIZE => Refusal::NotMapped,
        FaultCode::F_PERMISSION => Refusal::NotAllowed,
        FaultCode(other) => Refusal::Other(other),
    }
}

impl Driver for Smmuv3 {
    const NAME: &'static str = "SMMUv3";
    const DOORBELL: usize = CMDQ_PROD;

    /// A table descriptor of VMSAv8-64; a page of Normal memory, AP\[1\], SH, AF, nG.
    const GUEST_TABLE: u64 = 3;
    const GUEST_PAGE: u64 = 3 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11;

    type Case = Case;
    type Model = Model;
    type Unit = Unit<Hooked, Arc<Spied<Self>>>;

    /// Those that every suite has, and two of few substreams, without tables of two levels.
    fn cases() -> Vec<Case> {
        let server = Case::all().into_iter().find(|case| case.config == Config::server() && case.stage == Stage::First);
        let server = server.expect("it is among them");
        let few = [("five bits of substream", 5), ("ten bits of substream", 10)];
        let few = few.map(|(name, bits)| {
            let config = server.config.ssid_bits(bits).idr0_bits(Config::CD2L, false);
            Case { name: name.into(), config, ..server.clone() }
        });
        Case::all().into_iter().chain(few).collect()
    }

    /// Without IDR0.ASID16 and VMID16 there are 256 of each (section 6.3.1); 0 tags what leads to no domain: the VMID of a
    /// stage 1 alone, and what is left in entries that abort.
    fn few_ids() -> Vec<(Case, usize)> {
        let few = |case: Case| {
            let config = case.config.idr0_bits(Config::ASID16 | Config::VMID16, false);
            Case { config, ..case }
        };
        Case::all().into_iter().map(|case| (few(case), 255)).collect()
    }

    /// Whatever errata the server's maker has: those have no nesting.
    fn nesting() -> Vec<Case> {
        let server = Config { iidr: 0, ..Config::server() };
        let kinds = [
            ("nested", Config::nested(), false),
            ("nested, without ranges", Config::nested().without_ril(), false),
            ("nested, server", server, false),
            ("nested, server, not snooped", server.non_coherent(), true),
        ];
        let plain = Case::nested(Stage::Second);
        kinds
            .map(|(name, config, non_coherent)| Case { name: name.into(), config, non_coherent, ..plain.clone() })
            .into()
    }

    /// IDR0.HTTU = 2 (section 6.3.1).
    fn recording() -> Vec<Case> {
        let kinds = [("recording", Config::nested().httu(2)), ("recording, server", Config::server())];
        let each = |stage| kinds.map(|(name, config)| Case { name: name.into(), config, ..Case::nested(stage) });
        [Stage::First, Stage::Second].into_iter().flat_map(each).collect()
    }

    fn kind(case: &Case) -> Kind {
        let snoops = case.coherent.unwrap_or(case.config.idr0 & Config::COHACC != 0);
        let beyond = 1u32 << case.table_bits();
        Kind {
            name: format!("SMMUv3, {}", case.name),
            stage: case.stage,
            non_coherent: case.non_coherent,
            end: case.end(),
            output_bits: case.config.output_bits().min(48),
            // What is not valid is never cached (section 16.2).
            keeps_absence: false,
            // An STE that is fetched may be kept whatever is in it, but an attach is published in steps that each are
            // followed by an invalidation (section 3.21.3).
            keeps_no_entry: true,
            snoops_tables: snoops,
            snoops_structures: snoops,
            // Substreams choose a context descriptor, which stage 1 alone has (section 3.9).
            stage_of_parts: case.stage == Stage::First,
            streams: case.streams(),
            no_streams: vec![beyond, beyond + 8, u32::MAX],
            // An ITS is memory like any other to this unit.
            special: None,
        }
    }

    fn model(case: &Case, memory: Arc<TestMemory>) -> Model {
        Model::new(case.config, memory)
    }

    fn bring_up(case: &Case, hal: Hooked, regs: Arc<Spied<Self>>, timeout: Duration) -> Result<Self::Unit, HwError> {
        Unit::bring_up(hal, regs, iommu_smmuv3::Config { timeout, ..config_for(case) })
    }

    fn access(model: &Model, stream: Stream, iova: u64, write: bool) -> Result<u64, Refusal> {
        let ssid = stream.pasid.map(|pasid| pasid.get());
        let done = model.dma(stream.id.get(), ssid, Iova::new(iova), 1, write);
        done.map(|extents| extents[0].start.get()).map_err(|blocked| refusal(blocked.code))
    }

    /// Stage 1 is tagged by ASID, stage 2 by VMID: numbers that have nothing to do with each other.
    fn walk(model: &Model, read: Read64<'_>, stream: Stream, iova: u64, write: bool) -> Result<Walk, Refusal> {
        let ssid = stream.pasid.map(|pasid| pasid.get());
        let found = translate(read, model.tables(), model.config(), stream.id.get(), ssid, Iova::new(iova), write);
        let found = found.map_err(refusal)?;
        let tag = match (found.asid, found.vmid) {
            (Some(asid), _) => 1 << 16 | u32::from(asid),
            (None, Some(vmid)) => 1 << 17 | u32::from(vmid),
            (None, None) => 0,
        };
        Ok(Walk { phys: found.phys.get(), read: found.read, write: found.write, tag })
    }

    /// A context descriptor in the spare page: T0SZ, IR0, OR0, SH0, EPD1, V, IPS, AA64, R, A, ASET, ASID; TTB0; MAIR. The entry
    /// has V, Config = 5, S1ContextPtr; S1CIR, S1COR, S1CSH, EATS (sections 5.2 and 5.4).
    fn stage_of_guest(
        case: &Case,
        [root, spare]: [u64; 2],
        number: u16,
        put: &mut dyn FnMut(u64, u64),
    ) -> (u32, Vec<u64>) {
        let ips = u64::from(case.config.idr5 & 7).min(5) << 32;
        let fixed = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 1 << 41 | 7 << 45;
        let words = [fixed | ips | u64::from(number) << 48, root, 0, 0xff];
        words.iter().enumerate().for_each(|(at, word)| put(spare + 8 * at as u64, *word));
        let ats = u64::from(case.config.idr0 & Config::ATS != 0);
        (STREAM_ENTRY, vec![1 | 5 << 1 | spare, 1 << 2 | 1 << 4 | 3 << 6 | ats << 28])
    }

    /// CMD_TLBI_NH_VA, with a stream and a VMID that are not the host's, and CMD_ATC_INV of requests without PASID.
    fn said_by_guest(case: &Case, number: u16, iova: u64) -> Vec<Invalidation> {
        let request = |low, high| Invalidation { kind: COMMAND, words: [low, high] };
        let translations = request(0x12 | 0x77 << 32 | u64::from(number) << 48, iova);
        let device = (case.config.idr0 & Config::ATS != 0).then(|| request(0x40 | 0x77 << 32, iova));
        [translations].into_iter().chain(device).collect()
    }

    fn set_queue(model: &Model, queue: Queue) {
        model.set_queue(match queue {
            Queue::Running => ModelQueue::Running,
            Queue::Mute => ModelQueue::NoSync,
            Queue::Stopped => ModelQueue::Stopped,
        });
    }

    fn stop_queue_after(model: &Model, n: usize) {
        model.stop_queue_after(n);
    }

    /// CERROR_ILL (section 7.1).
    fn refuse_request_after(model: &Model, n: usize) {
        model.fail_command_after(n);
    }

    fn set_absent(model: &Model, absent: bool) {
        model.set_absent(absent);
    }

    fn take_log(model: &Model) -> (usize, usize) {
        let log = model.take_log();
        let waits = log.iter().filter(|done| matches!(done.command, Command::Sync { .. })).count();
        (log.len() - waits, waits)
    }

    /// CMD_ATC_INV (section 4.5.1): SSV, G and the substream in the first word, log2 of the pages in the second.
    fn take_forgotten(model: &Model) -> Vec<Forget> {
        let log = model.take_log().into_iter().filter_map(|done| {
            let Command::AtcInvalidate { sid, .. } = done.command else { return None };
            let [low, high] = done.raw;
            let of = match (low >> 11 & 1, low >> 9 & 1) {
                (0, _) => Tagged::Without,
                (_, 0) => Tagged::With((low >> 12) as u32 & 0xf_ffff),
                _ => Tagged::WithAny,
            };
            let bits = 12 + (high & 0x3f) as u32;
            let less = 1u64.checked_shl(bits).map_or(u64::MAX, |size| size - 1);
            let first = high & !0xfff & !less;
            Some(Forget { id: StreamId::new(sid), of, first, last: first + less })
        });
        log.collect()
    }

    fn take_faults(model: &Model) -> usize {
        model.take_events().len()
    }

    fn ask(model: &Model, stream: Stream, iova: u64) -> Option<u64> {
        let ssid = stream.pasid.map(|pasid| pasid.get());
        let granted = model.ats_request(stream.id.get(), ssid, Iova::new(iova), true).ok()?;
        granted.write.then(|| granted.address.get() + (iova & ((1 << granted.bits) - 1)))
    }

    fn through_tlb(model: &Model, stream: Stream, iova: u64) -> Option<u64> {
        let found =
            model.endpoint(stream.id.get()).dma(stream.pasid.map(|pasid| pasid.get()), Iova::new(iova), 1, true);
        found.ok().map(|extents| extents[0].start.get())
    }

    fn held(model: &Model, id: u32) -> usize {
        model.endpoint(id).cached().len()
    }

    fn set_unanswering(model: &Model, id: u32, never: bool) {
        model.set_unanswering(id, never);
    }

    fn reset_function(model: &Model, id: u32) {
        model.endpoint(id).forget();
    }

    fn translated(model: &Model, id: u32, phys: u64) -> bool {
        model.ats_translated(id, PhysAddr::new(phys), true).is_ok()
    }

    fn violations(model: &Model) -> Vec<String> {
        model.violations().iter().map(|violation| format!("{violation:?}")).collect()
    }

    fn grown(unit: &Self::Unit) -> usize {
        let mut frames = 0;
        unit.for_each_structure(|structure, _| {
            frames += if structure == Structure::Level2StreamTable { LEVEL_2 } else { 0 };
        });
        frames
    }

    /// A stream table has 2^LOG2SIZE STEs of 64 bytes, or level-1 descriptors of 8 bytes for 2^SPLIT of them each
    /// (section 6.3.25).
    fn structures(model: &Model, unit: &Self::Unit) -> Vec<u64> {
        let mut frames = Vec::new();
        let config = model.tables().config;
        let (log2, split, linear) = (config & 0x3f, config >> 6 & 0x1f, config >> 16 & 3 == 0);
        let table = if linear { 64usize << log2 } else { 8 << log2.saturating_sub(split) };
        unit.for_each_structure(|structure, frame| {
            let count = match structure {
                Structure::StreamTable => table.div_ceil(0x1000),
                Structure::Level2StreamTable => LEVEL_2,
                Structure::CommandQueue | Structure::EventQueue | Structure::PageTable => 0,
                _ => 1,
            };
            frames.extend((0..count as u64).map(|number| frame.get() + number * 0x1000));
        });
        frames
    }

    fn queues(unit: &Self::Unit) -> Vec<u64> {
        let mut frames = Vec::new();
        unit.for_each_structure(|structure, frame| {
            if matches!(structure, Structure::CommandQueue | Structure::EventQueue) {
                frames.push(frame.get());
            }
        });
        frames
    }
}
