//! VT-d units: found in the DMAR table, brought up, and what the demo expects of them.

use crate::checks::Device;
use crate::hal::{DemoHal, map_registers};
use crate::iommu::{DemoUnit, Refusal, Reported};
use crate::platform::Platform;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::fmt;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    self, AccessKind, Domain, DomainConfig, Fault, FaultReport, HwError, Pasid, Stage, Stream, StreamId, Target,
    Transition, UnitCapabilities,
};
use iommu_core::region::ReservedRegion;
use iommu_discovery::Sbdf;
use iommu_discovery::dmar::Dmar;
use iommu_discovery::regions::required_regions;
use iommu_discovery::scope::{unit_of, unresolved_scopes};
use iommu_discovery::topology::Topology;
use iommu_hal::regs::Mmio;
use iommu_vtd::dump::End;
use iommu_vtd::{Config, Unit};

/// One remapping unit.
struct VtdUnit {
    base: PhysAddr,
    unit: Unit<DemoHal, Mmio>,
}

/// The units of the machine and the table that says whom they serve.
pub struct Iommus {
    dmar: Dmar,
    units: Vec<Arc<dyn DemoUnit>>,
}

impl Iommus {
    /// Brings every unit up. Once this returns `Ok`, no function can reach memory.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn bring_up(platform: &Platform, topology: &Topology) -> Result<Self, String> {
        let bytes = platform.dmar.ok_or("the firmware has no DMAR table: there is no IOMMU")?;
        let dmar = Dmar::parse(bytes).map_err(|error| format!("DMAR: {error}"))?;
        for scope in unresolved_scopes(&dmar, topology) {
            println!("DMAR: a scope names no function: {scope:?}");
        }
        let mut units: Vec<Arc<dyn DemoUnit>> = Vec::new();
        for drhd in dmar.drhds() {
            let unit = bring_up(drhd.base, drhd.register_bytes, dmar.host_address_bits())
                .map_err(|error| format!("unit at {}: {error}", drhd.base))?;
            units.push(Arc::new(unit));
        }
        Ok(Self { dmar, units })
    }

    /// The units.
    pub fn iter(&self) -> impl Iterator<Item = &dyn DemoUnit> {
        self.units.iter().map(|unit| &**unit)
    }

    /// The unit that serves `function`.
    pub fn unit_of(&self, topology: &Topology, function: Sbdf) -> Option<&Arc<dyn DemoUnit>> {
        self.units.get(unit_of(&self.dmar, topology, function)?)
    }

    /// The stream under which its unit sees DMA that arrives with this id; `None` where no unit sees it.
    pub fn stream_of(&self, requester: Sbdf) -> Option<StreamId> {
        Some(requester.id.into())
    }

    /// What must be kept free or mapped to itself wherever `function` is attached.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn regions_of(&self, topology: &Topology, function: Sbdf) -> Result<Vec<ReservedRegion>, String> {
        required_regions(&self.dmar, topology, function).map_err(|error| format!("{function}: {error}"))
    }
}

/// A unit and a function whose parts PASIDs tell apart.
///
/// # Errors
///
/// A sentence that says what is missing.
pub fn with_parts(unit: &Arc<dyn DemoUnit>, devices: [Device; 4]) -> Result<(Arc<dyn DemoUnit>, Device), String> {
    let doorbell = devices.into_iter().find(|device| device.space.doorbell().is_some());
    doorbell.map(|function| (unit.clone(), function)).ok_or_else(|| String::from("none has a doorbell"))
}

fn bring_up(base: PhysAddr, len: u64, host_bits: u8) -> Result<VtdUnit, HwError> {
    let len = usize::try_from(len).map_err(|_| HwError::Hardware("the register window is too long"))?;
    // SAFETY: the DMAR table says that a unit's registers are there, and nothing else of the demo uses them. The DMA
    // that they control is what the demo is about.
    let regs = unsafe { map_registers(base, len) }.map_err(|_| HwError::Hardware("the registers cannot be mapped"))?;
    let unit = Unit::bring_up(DemoHal, regs, Config { host_bits, ..Config::default() })?;
    Ok(VtdUnit { base, unit })
}

impl hw::Unit for VtdUnit {
    fn capabilities(&self) -> UnitCapabilities {
        self.unit.capabilities()
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        self.unit.create_domain(config)
    }

    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        self.unit.attach(stream, target)
    }

    /// QEMU 10 records faults of requests without a PASID as if they had PASID 0, whose entry stands for them.
    fn report_faults(&self, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        self.unit.report_faults(&mut |fault| {
            let pasid = fault.stream.pasid.filter(|pasid| pasid.get() != 0);
            sink(&Fault { stream: Stream { pasid, ..fault.stream }, ..*fault });
        })
    }
}

impl DemoUnit for VtdUnit {
    fn describe(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let hardware = self.unit.hardware();
        write!(f, "VT-d unit at {}: CAP {:#018x}, ECAP {:#018x}: ", self.base, hardware.cap(), hardware.ecap())?;
        write!(f, "{hardware}")
    }

    fn print_registers(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "{}", self.unit.registers())
    }

    fn print_walk(&self, stream: Stream, iova: Iova, f: &mut dyn fmt::Write) -> Option<Option<PhysAddr>> {
        let walk = self.unit.walk(stream, iova);
        write!(f, "{walk}").ok()?;
        Some(match walk.end(true) {
            End::Reaches(phys) => Some(phys),
            _ => None,
        })
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

    /// As QEMU 10 and 11 report them: for an absent root or context entry with the codes of legacy mode, which the
    /// specification has replaced by 0x39 and 0x41 in scalable mode. The faults of one transfer all have the same reason
    /// and source, of which one is on record at a time; it holds the address of the page. The PASID is recorded where the
    /// tables of pages were reached, and 16 bits of it.
    fn reports_of(&self, refusal: Refusal, stream: Stream, access: AccessKind, iova: Iova, _: usize) -> Vec<Reported> {
        let code = match refusal {
            Refusal::NothingAttached => 0x01,
            Refusal::NotAttached => 0x02,
            Refusal::NothingAttachedByPasid => 0x51,
            Refusal::PasidNotAttached => 0x5b,
            Refusal::NotMapped(Stage::Second, AccessKind::Read) => 0x06,
            Refusal::NotMapped(Stage::Second, _) | Refusal::ReadOnly(Stage::Second) => 0x05,
            Refusal::NotMapped(Stage::First, _) => 0x71,
            Refusal::ReadOnly(Stage::First) => 0x85,
            // There is no such structure.
            Refusal::BadContext | Refusal::ForeignContext => return Vec::new(),
        };
        let reached = matches!(refusal, Refusal::NotMapped(..) | Refusal::ReadOnly(_));
        let pasid = stream.pasid.filter(|_| reached).and_then(|pasid| Pasid::new(pasid.get() & 0xffff));
        vec![Reported { code, iova: Iova::new(iova.get() & !0xfff), access, pasid }]
    }

    /// QEMU checks permissions when it walks, and reports no fault where a cached entry lacks them.
    fn drops_cached_refusals(&self, _: Stage) -> bool {
        true
    }

    fn option_effect(&self, key: &str, value: &str) -> Option<(String, String)> {
        let hardware = self.unit.hardware();
        let (cap, ecap) = (hardware.cap(), hardware.ecap());
        let on = matches!(value, "on" | "true" | "yes" | "y");
        let bit = |register: u64, bit: u32| Some((on.to_string(), (register >> bit & 1 == 1).to_string()));
        let number = |seen: u64| Some((value.to_string(), seen.to_string()));
        match key {
            "caching-mode" => bit(cap, 7),
            "aw-bits" => number((cap >> 16 & 0x3f) + 1),
            "dma-drain" => bit(cap, 55),
            "fs1gp" => bit(cap, 56),
            "device-iotlb" => bit(ecap, 2),
            "snoop-control" => bit(ecap, 7),
            "intremap" if value != "auto" => bit(ecap, 3),
            "fsts" | "x-flts" => bit(ecap, 47),
            "x-pasid-mode" => bit(ecap, 40),
            "pasid-bits" if value != "0" => number((ecap >> 35 & 0x1f) + 1),
            _ => None,
        }
    }
}
