//! SMMUv3 units: found in the devicetree, brought up, and what the demo expects of them.

use super::model;
use crate::checks::Device;
use crate::hal::{DemoHal, map_registers};
use crate::iommu::{DemoUnit, Refusal, Reported};
use crate::platform::Platform;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    self, AccessKind, DeviceTlb, Domain, DomainConfig, Fault, FaultReport, HwError, Invalidation, Nested, NestedConfig,
    PageResponse, Stage, Stream, StreamId, Target, Transition, UnitCapabilities,
};
use iommu_core::region::ReservedRegion;
use iommu_discovery::Sbdf;
use iommu_discovery::devicetree::{DeviceTree, Smmu, Streams};
use iommu_discovery::regions::required_regions_smmu;
use iommu_discovery::topology::Topology;
use iommu_hal::regs::Mmio;
use iommu_smmuv3::dump::{End, Walk};
use iommu_smmuv3::{Config, Unit};

/// Event numbers (SMMUv3 section 7.3).
pub(super) mod event {
    pub const C_BAD_STREAMID: u32 = 0x02;
    pub const C_BAD_SUBSTREAMID: u32 = 0x08;
    pub const C_BAD_CD: u32 = 0x0a;
    pub const F_TRANSLATION: u32 = 0x10;
    pub const F_PERMISSION: u32 = 0x13;
}

/// Base class and sub-class of a host bridge.
const HOST_BRIDGE: u32 = 0x06_00;

/// The widest access that QEMU makes to what does not translate, in bytes.
const WIDEST: u64 = 4;

/// One SMMU.
struct SmmuUnit {
    base: PhysAddr,
    unit: Unit<DemoHal, Mmio>,
}

/// The units of the machine and the tree that says whom they serve.
pub struct Iommus {
    streams: Streams,
    units: Vec<Arc<dyn DemoUnit>>,
}

impl Iommus {
    /// Brings every unit up. Once this returns `Ok`, no function can reach memory.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn bring_up(platform: &Platform, topology: &Topology) -> Result<Self, String> {
        let bytes = platform.devicetree.ok_or("there is no devicetree")?;
        let tree = DeviceTree::parse(bytes).map_err(|error| error.to_string())?;
        let streams = Streams::read(&tree).map_err(|error| error.to_string())?;
        // One that no unit sees would reach all of memory. Host bridges are not behind themselves.
        for function in topology.functions().filter(|function| function.class >> 8 != HOST_BRIDGE) {
            for id in topology.aliases(function.sbdf) {
                streams.of(Sbdf::new(function.sbdf.segment, id)).map_err(|error| error.to_string())?;
            }
        }
        let mut units: Vec<Arc<dyn DemoUnit>> = Vec::new();
        for smmu in streams.units() {
            let unit = bring_up(smmu).map_err(|error| format!("unit at {}: {error}", smmu.registers.start))?;
            units.push(Arc::new(unit));
        }
        Ok(Self { streams, units })
    }

    /// The units.
    pub fn iter(&self) -> impl Iterator<Item = &dyn DemoUnit> {
        self.units.iter().map(|unit| &**unit)
    }

    /// The unit that serves `function`.
    pub fn unit_of(&self, topology: &Topology, function: Sbdf) -> Option<&Arc<dyn DemoUnit>> {
        let (index, _) = self.streams.of(Sbdf::new(function.segment, topology.dma_id(function))).ok()?;
        self.units.get(index)
    }

    /// The stream under which its unit sees DMA that arrives with this id; `None` where no unit sees it.
    pub fn stream_of(&self, requester: Sbdf) -> Option<StreamId> {
        self.streams.of(requester).ok().map(|(_, stream)| stream)
    }

    /// What must be kept free or mapped to itself wherever `function` is attached.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn regions_of(&self, topology: &Topology, function: Sbdf) -> Result<Vec<ReservedRegion>, String> {
        required_regions_smmu(&self.streams, topology, function).map_err(|error| format!("{function}: {error}"))
    }
}

/// A unit and a function whose parts PASIDs tell apart: those of the machine, or others in software where these know no
/// PASIDs.
///
/// # Errors
///
/// A sentence that says what is missing.
pub fn with_parts(unit: &Arc<dyn DemoUnit>, devices: [Device; 4]) -> Result<(Arc<dyn DemoUnit>, Device), String> {
    let doorbell = devices.into_iter().find(|device| device.space.doorbell().is_some());
    match doorbell {
        Some(function) if unit.capabilities().pasid_bits != 0 => Ok((unit.clone(), function)),
        _ => model::unit_and_function(),
    }
}

fn bring_up(smmu: &Smmu) -> Result<SmmuUnit, HwError> {
    let (base, len) = (smmu.registers.start, smmu.registers.len);
    let len = usize::try_from(len).map_err(|_| HwError::Hardware("the register window is too long"))?;
    // SAFETY: the devicetree says that a unit's registers are there, and nothing else of the demo uses them. The DMA
    // that they control is what the demo is about.
    let regs = unsafe { map_registers(base, len) }.map_err(|_| HwError::Hardware("the registers cannot be mapped"))?;
    let unit = Unit::bring_up(DemoHal, regs, Config { coherent: Some(smmu.coherent), ..Config::default() })?;
    Ok(SmmuUnit { base, unit })
}

impl hw::Unit for SmmuUnit {
    fn capabilities(&self) -> UnitCapabilities {
        self.unit.capabilities()
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        self.unit.create_domain(config)
    }

    fn create_nested(&self, parent: &dyn Domain, config: &NestedConfig<'_>) -> Result<Box<dyn Nested>, HwError> {
        self.unit.create_nested(parent, config)
    }

    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        self.unit.attach(stream, target)
    }

    fn respond(&self, response: &PageResponse) -> Result<(), HwError> {
        self.unit.respond(response)
    }

    fn invalidate_device(&self, stream: StreamId, request: &Invalidation) -> Result<(), HwError> {
        self.unit.invalidate_device(stream, request)
    }

    fn set_device_tlb(&self, stream: StreamId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        self.unit.set_device_tlb(stream, tlb)
    }

    fn report_faults(&self, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        self.unit.report_faults(sink)
    }
}

impl DemoUnit for SmmuUnit {
    fn describe(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let hardware = self.unit.hardware();
        write!(f, "SMMUv3 at {}: IDR0 to IDR5", self.base)?;
        hardware.idr().iter().try_for_each(|idr| write!(f, " {idr:#010x}"))?;
        write!(f, ": {hardware}")
    }

    fn print_registers(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "{}", self.unit.registers())
    }

    fn print_walk(&self, stream: Stream, iova: Iova, f: &mut dyn fmt::Write) -> Option<Option<PhysAddr>> {
        printed(&self.unit.walk(stream, iova), f)
    }

    fn sync(&self) -> Result<u32, HwError> {
        self.unit.sync()
    }

    fn marker(&self) -> u32 {
        self.unit.marker()
    }

    fn for_each_structure(&self, visit: &mut dyn FnMut(&dyn fmt::Display, PhysAddr)) {
        self.unit.for_each_structure(|structure, frame| visit(&structure, frame));
    }

    /// As QEMU 10 and 11 report them: an event for each access that a transfer is split into. A stream that is not
    /// attached is aborted without any; but where nothing was ever attached that shares a part of the stream table with
    /// it, there is no such part, which is a bad stream id and an event without an address.
    fn reports_of(&self, refusal: Refusal, _: Stream, access: AccessKind, iova: Iova, len: usize) -> Vec<Reported> {
        let translated = |code| accesses(iova, len).map(|iova| Reported { code, iova, access, pasid: None }).collect();
        // The driver calls an event that tells of no access a write at 0.
        let nowhere = |code| {
            let event = Reported { code, iova: Iova::new(0), access: AccessKind::Write, pasid: None };
            accesses(iova, len).map(|_| event).collect()
        };
        match refusal {
            Refusal::NothingAttached => nowhere(event::C_BAD_STREAMID),
            Refusal::BadContext => nowhere(event::C_BAD_CD),
            // The read of the descriptor is what is refused, and what is told of as the access.
            Refusal::ForeignContext => accesses(iova, len)
                .map(|iova| Reported { code: event::F_TRANSLATION, iova, access: AccessKind::Read, pasid: None })
                .collect(),
            // No QEMU has substreams.
            Refusal::NotAttached | Refusal::NothingAttachedByPasid | Refusal::PasidNotAttached => Vec::new(),
            Refusal::NotMapped(..) => translated(event::F_TRANSLATION),
            Refusal::ReadOnly(_) => translated(event::F_PERMISSION),
        }
    }

    /// QEMU takes a cached entry of stage 2 without permission for one of stage 1, of which nothing is configured, its
    /// faults' recording included.
    fn drops_cached_refusals(&self, stage: Stage) -> bool {
        stage == Stage::Second
    }

    fn option_effect(&self, key: &str, value: &str) -> Option<(String, String)> {
        let [idr0, ..] = self.unit.hardware().idr();
        // IDR0.S2P and IDR0.S1P.
        let stages = match idr0 & 3 {
            1 => "2",
            2 => "1",
            3 => "nested",
            _ => "none",
        };
        (key == "stage").then(|| (value.to_string(), stages.to_string()))
    }
}

/// Prints a walk; where a write ends.
pub(super) fn printed(walk: &Walk, f: &mut dyn fmt::Write) -> Option<Option<PhysAddr>> {
    write!(f, "{walk}").ok()?;
    Some(match walk.end(true) {
        End::Reaches(phys) => Some(phys),
        _ => None,
    })
}

/// Where each access begins that QEMU makes in place of a transfer that does not translate: naturally aligned, of one,
/// two or four bytes.
fn accesses(iova: Iova, len: usize) -> impl Iterator<Item = Iova> {
    let end = iova.get() + len as u64;
    let mut at = iova.get();
    core::iter::from_fn(move || {
        let start = (at < end).then_some(at)?;
        let aligned = 1 << start.trailing_zeros().min(WIDEST.trailing_zeros());
        let left: u64 = 1 << (end - start).ilog2();
        at += left.min(aligned);
        Some(Iova::new(start))
    })
}
