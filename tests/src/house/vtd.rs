//! VT-d.

use super::{Driver, Forget, Kind, Queue, Read64, Refusal, Spied, Tagged, Walk};
use crate::case::Case;
use crate::hooked::Hooked;
use crate::spy::IQT;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{HwError, Invalidation, Stage, Stream, StreamId};
use iommu_models::memory::TestMemory;
use iommu_models::vtd::walk::translate;
use iommu_models::vtd::{Config, Descriptor, FaultCode, Model, Queue as ModelQueue};
use iommu_vtd::guest::{CHANGED, FIRST_STAGE};
use iommu_vtd::{Structure, Unit};
use std::sync::Arc;
use std::time::Duration;

/// The VT-d driver on its model.
pub struct Vtd;

/// A stream id is a requester id (section 3.4.1); no test makes requests of more.
fn requester(stream: Stream) -> u16 {
    stream.id.get().try_into().expect("a requester id")
}

/// What a fault reason (section 7.1.3) says in general. No part of a second-stage walk is "not present": where no right is
/// left the reason is 79h, or the one of the right that was asked for.
fn refusal(code: FaultCode) -> Refusal {
    match code {
        FaultCode::LEGACY_ROOT_NOT_PRESENT
        | FaultCode::LEGACY_CONTEXT_NOT_PRESENT
        | FaultCode::ROOT_NOT_PRESENT
        | FaultCode::CONTEXT_NOT_PRESENT
        | FaultCode::PASID_DISABLED
        | FaultCode::PASID_TOO_LARGE
        | FaultCode::DIRECTORY_NOT_PRESENT
        | FaultCode::PASID_NOT_PRESENT => Refusal::Detached,
        FaultCode::FIRST_NOT_PRESENT
        | FaultCode::SECOND_PERMISSION
        | FaultCode::NOT_CANONICAL
        | FaultCode::BEYOND_WIDTH => Refusal::NotMapped,
        FaultCode::NO_READ | FaultCode::NO_WRITE => Refusal::NotAllowed,
        FaultCode(other) => Refusal::Other(other),
    }
}

impl Driver for Vtd {
    const NAME: &'static str = "VT-d";
    const DOORBELL: usize = IQT;

    /// P, R/W, U/S (section 9.9).
    const GUEST_TABLE: u64 = 7;
    const GUEST_PAGE: u64 = 7;

    type Case = Case;
    type Model = Model;
    type Unit = Unit<Hooked, Arc<Spied<Self>>>;

    /// Those that every suite has, and two whose write buffers software flushes (CAP.RWBF, section 6.8).
    fn cases() -> Vec<Case> {
        let buffered = [0, 3].map(|number| Case::plain()[number].with_cap(Config::CAP_RWBF, true));
        Case::all().into_iter().chain(buffered).collect()
    }

    /// All of them with write buffers that software flushes.
    fn every_case() -> Vec<Case> {
        let buffered = Case::all().into_iter().map(|case| case.with_cap(Config::CAP_RWBF, true));
        Case::all().into_iter().chain(buffered).collect()
    }

    /// CAP.ND = 0 means 16 ids (section 11.4.2): one is hardware's, one identity's.
    fn few_ids() -> Vec<(Case, usize)> {
        let few = |case: Case| Case { config: case.config.domain_ids(0), ..case };
        Case::all().into_iter().map(|case| (few(case), 14)).collect()
    }

    fn nesting() -> Vec<Case> {
        let plain = Config::server().ecap_bits(Config::ECAP_NEST | Config::ECAP_SSADS | Config::ECAP_EAFS, true);
        let case = |name: &str, config| Case { name: name.into(), config, stage: Stage::Second, non_coherent: false };
        vec![case("nested", plain), case("nested, caching mode", plain.caching_mode())]
    }

    /// ECAP.SSADS is of the second stage; the first has its flags anyhow.
    fn recording() -> Vec<Case> {
        let config = Config::server().ecap_bits(Config::ECAP_SSADS, true);
        let case = |stage| Case { name: format!("recording, {stage:?}"), config, stage, non_coherent: false };
        vec![case(Stage::First), case(Stage::Second)]
    }

    fn kind(case: &Case) -> Kind {
        Kind {
            name: format!("VT-d, {}", case.name),
            stage: case.stage,
            non_coherent: case.non_coherent,
            end: case.end(),
            output_bits: case.config.haw.into(),
            // Caching mode; entries of a first stage that are not present are never cached (section 6.1).
            keeps_absence: case.caching() && case.stage == Stage::Second,
            keeps_no_entry: case.caching(),
            snoops_tables: case.snoops_walks(),
            snoops_structures: case.snoops_structures(),
            // A PASID table entry names either stage (section 9.6).
            stage_of_parts: true,
            // Each half of a bus has a context table.
            streams: [0x0108, 0x0110, 0x0598],
            no_streams: vec![0x1_0000, 0x1_0108, u32::MAX],
            // Requests to these addresses are interrupts (section 3.14).
            special: Some((0xfee0_0000, 0x10_0000)),
        }
    }

    fn model(case: &Case, memory: Arc<TestMemory>) -> Model {
        Model::new(case.config, memory)
    }

    fn bring_up(case: &Case, hal: Hooked, regs: Arc<Spied<Self>>, timeout: Duration) -> Result<Self::Unit, HwError> {
        let config = iommu_vtd::Config { host_bits: case.config.haw, timeout, ..iommu_vtd::Config::default() };
        Unit::bring_up(hal, regs, config)
    }

    fn access(model: &Model, stream: Stream, iova: u64, write: bool) -> Result<u64, Refusal> {
        let done = model.dma(requester(stream), stream.pasid.map(|pasid| pasid.get()), Iova::new(iova), 1, write);
        done.map(|extents| extents[0].start.get()).map_err(|blocked| refusal(blocked.code))
    }

    fn walk(model: &Model, read: Read64<'_>, stream: Stream, iova: u64, write: bool) -> Result<Walk, Refusal> {
        let pasid = stream.pasid.map(|pasid| pasid.get());
        let found = translate(read, model.root(), model.config(), requester(stream), pasid, Iova::new(iova), write);
        let found = found.map_err(refusal)?;
        Ok(Walk { phys: found.phys.get(), read: found.read, write: found.write, tag: found.domain.into() })
    }

    /// Four levels, no flag.
    fn stage_of_guest(_: &Case, [root, _]: [u64; 2], _: u16, _: &mut dyn FnMut(u64, u64)) -> (u32, Vec<u64>) {
        (FIRST_STAGE, vec![0, root, 48])
    }

    /// Device TLBs are the driver's.
    fn said_by_guest(_: &Case, _: u16, iova: u64) -> Vec<Invalidation> {
        vec![Invalidation { kind: CHANGED, words: [iova, 1] }]
    }

    fn set_queue(model: &Model, queue: Queue) {
        model.set_queue(match queue {
            Queue::Running => ModelQueue::Running,
            Queue::Mute => ModelQueue::Mute,
            Queue::Stopped => ModelQueue::Stopped,
        });
    }

    fn stop_queue_after(model: &Model, n: usize) {
        model.stop_queue_after(n);
    }

    /// An invalidation queue error (section 6.5.2.13).
    fn refuse_request_after(model: &Model, n: usize) {
        model.fail_descriptor_after(n);
    }

    fn set_absent(model: &Model, absent: bool) {
        model.set_absent(absent);
    }

    fn take_log(model: &Model) -> (usize, usize) {
        let log = model.take_log();
        let waits = log.iter().filter(|done| matches!(done.descriptor, Descriptor::Wait { .. })).count();
        (log.len() - waits, waits)
    }

    /// Types 3 and 8 (sections 6.5.2.5 and 6.5.2.6): with S, the lowest clear bit from bit 12 up says how large it is.
    fn take_forgotten(model: &Model) -> Vec<Forget> {
        let part = |address: u64, size_bit: u64| {
            let size =
                if address & size_bit == 0 { 0x1000 } else { 0x2000 << (!(address >> 12)).trailing_zeros().min(50) };
            let first = address & !(size - 1);
            (first, first + (size - 1))
        };
        let forget = |source: u16, of, (first, last)| Forget { id: StreamId::new(source.into()), of, first, last };
        let log = model.take_log().into_iter().filter_map(|done| match done.descriptor {
            Descriptor::DeviceTlb { source, address } => Some(forget(source, Tagged::Without, part(address, 1))),
            Descriptor::PasidDeviceTlb { source, pasid, address } => {
                Some(forget(source, pasid.map_or(Tagged::WithAny, Tagged::With), part(address, 1 << 11)))
            }
            _ => None,
        });
        log.collect()
    }

    fn take_faults(model: &Model) -> usize {
        model.take_faults().len()
    }

    fn ask(model: &Model, stream: Stream, iova: u64) -> Option<u64> {
        let pasid = stream.pasid.map(|pasid| pasid.get());
        let held = model.endpoint(requester(stream)).translate(pasid, Iova::new(iova), true).ok()??;
        held.write.then(|| held.phys.get() + (iova - held.iova.get()))
    }

    fn through_tlb(model: &Model, stream: Stream, iova: u64) -> Option<u64> {
        let found =
            model.endpoint(requester(stream)).dma(stream.pasid.map(|pasid| pasid.get()), Iova::new(iova), 1, true);
        found.ok().map(|extents| extents[0].start.get())
    }

    fn held(model: &Model, id: u32) -> usize {
        model.endpoint(id as u16).cached().len()
    }

    fn set_unanswering(model: &Model, id: u32, never: bool) {
        model.set_unanswering(id as u16, never);
    }

    fn reset_function(model: &Model, id: u32) {
        model.endpoint(id as u16).forget();
    }

    fn translated(model: &Model, id: u32, phys: u64) -> bool {
        model.endpoint(id as u16).translated(PhysAddr::new(phys), true).is_ok()
    }

    fn violations(model: &Model) -> Vec<String> {
        model.violations().iter().map(|violation| format!("{violation:?}")).collect()
    }

    fn grown(unit: &Self::Unit) -> usize {
        let mut frames = 0;
        unit.for_each_structure(|structure, _| frames += usize::from(structure == Structure::ContextTable));
        frames
    }

    fn structures(_: &Model, unit: &Self::Unit) -> Vec<u64> {
        let mut frames = Vec::new();
        unit.for_each_structure(|structure, frame| {
            if !matches!(structure, Structure::Queue | Structure::QueueStatus | Structure::PageTable) {
                frames.push(frame.get());
            }
        });
        frames
    }

    fn queues(unit: &Self::Unit) -> Vec<u64> {
        let mut frames = Vec::new();
        unit.for_each_structure(|structure, frame| {
            if matches!(structure, Structure::Queue | Structure::QueueStatus) {
                frames.push(frame.get());
            }
        });
        frames
    }
}
