//! A unit with substreams and a function that uses them, both in software: no QEMU has either. The driver is the same, its
//! registers are the model's, and what the function moves is the machine's memory.

use super::iommu::{event, printed};
use crate::checks::{Device, Engine};
use crate::doorbell::{self, BUFFER, Doorbell, Part, WINDOW, reg};
use crate::edu::BUFFER_SIZE;
use crate::function::ConfigSpace;
use crate::iommu::{DemoUnit, Refusal, Reported};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ptr;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::device::{self as core_device, DeviceConfig};
use iommu_core::group::Group;
use iommu_core::hw::{
    self, AccessKind, DeviceTlb, Domain, DomainConfig, Fault, FaultReport, HwError, Invalidation, Nested, NestedConfig,
    PageResponse, Pasid, Stage, Stream, StreamId, Target, Transition, UnitCapabilities,
};
use iommu_hal::regs::Registers;
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{Config as ModelConfig, Model};
use iommu_smmuv3::{Config, Unit};
use spin::Mutex;

/// Frames for the unit's tables and queues.
const FRAMES: usize = 512;
/// The function's stream.
const STREAM: StreamId = StreamId::new(0x20);

/// The unit and the function.
///
/// # Errors
///
/// A sentence that says what is wrong.
pub(super) fn unit_and_function() -> Result<(Arc<dyn DemoUnit>, Device), String> {
    println!(
        "no QEMU has substreams: from here on the unit is the device model, driven by the same driver, and the function"
    );
    println!("  is one in software that moves the machine's own memory; QEMU's trace tells nothing of it");
    let memory = Arc::new(TestMemory::at_its_own_address(FRAMES));
    let model = Arc::new(Model::new(ModelConfig::server(), memory.clone()));
    let unit =
        Unit::bring_up(memory, model.clone(), Config::default()).map_err(|error| format!("the model: {error}"))?;
    let unit: Arc<dyn DemoUnit> = Arc::new(ModelUnit { unit, model: model.clone() });
    let registers = Box::new(SoftwareDoorbell { model, state: Mutex::new(State::default()) });
    let doorbell = Doorbell::new(registers).ok_or("the doorbell in software is none")?;
    let space = Arc::new(ConfigSpace::in_software(doorbell));
    let group = Group::new(None).map_err(|error| format!("{error}"))?;
    let streams = [STREAM];
    let config = DeviceConfig {
        unit: unit.clone(),
        streams: &streams,
        function: Some(space.clone()),
        regions: &[],
        coherent: true,
        isolated_msi: false,
        router: None,
        account: None,
    };
    let assigned = Arc::new(core_device::Device::new(&group, &config).map_err(|error| format!("{error}"))?);
    let engine = space.doorbell().map(|doorbell| Engine::Part(Part::new(doorbell, None)));
    let engine = engine.ok_or("the function has no doorbell")?;
    let stream = Stream::function(STREAM);
    Ok((unit, Device { name: "software", engine, stream, assigned, space, held: Vec::new() }))
}

/// The driver on the model.
struct ModelUnit {
    unit: Unit<Arc<TestMemory>, Arc<Model>>,
    model: Arc<Model>,
}

impl hw::Unit for ModelUnit {
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

impl DemoUnit for ModelUnit {
    fn describe(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "SMMUv3 in software: {}", self.unit.hardware())
    }

    fn print_registers(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "{}", self.unit.registers())
    }

    fn print_walk(&self, stream: Stream, iova: Iova, f: &mut dyn fmt::Write) -> Option<Option<PhysAddr>> {
        printed(&self.unit.walk(stream, iova), f)
    }

    fn sync(&self) -> Result<u32, HwError> {
        let broken = self.model.violations();
        match broken.first() {
            None => self.unit.sync(),
            Some(rule) => {
                println!("  the driver broke a rule: {rule:?}");
                Err(HwError::Hardware("the driver broke a rule of the specification"))
            }
        }
    }

    fn marker(&self) -> u32 {
        self.unit.marker()
    }

    fn for_each_structure(&self, visit: &mut dyn FnMut(&dyn fmt::Display, PhysAddr)) {
        self.unit.for_each_structure(|structure, frame| visit(&structure, frame));
    }

    /// By the specification (section 7.3): one event for a request. Those about the configuration have no address, which the
    /// driver calls a write at 0.
    fn reports_of(&self, refusal: Refusal, stream: Stream, access: AccessKind, iova: Iova, _: usize) -> Vec<Reported> {
        let pasid = stream.pasid;
        let nowhere = |code| vec![Reported { code, iova: Iova::new(0), access: AccessKind::Write, pasid }];
        let translated = |code| vec![Reported { code, iova, access, pasid }];
        match refusal {
            Refusal::NothingAttached => nowhere(event::C_BAD_STREAMID),
            Refusal::NotAttached => Vec::new(),
            // No table of context descriptors, or none of that part of it.
            Refusal::NothingAttachedByPasid => nowhere(event::C_BAD_SUBSTREAMID),
            Refusal::PasidNotAttached | Refusal::BadContext => nowhere(event::C_BAD_CD),
            Refusal::NotMapped(..) | Refusal::ForeignContext => translated(event::F_TRANSLATION),
            Refusal::ReadOnly(_) => translated(event::F_PERMISSION),
        }
    }

    /// Section 3.9: stage 2 is of a whole stream.
    fn stage_of_parts(&self) -> Stage {
        Stage::First
    }

    fn is_traced(&self) -> bool {
        false
    }

    fn drops_cached_refusals(&self, _: Stage) -> bool {
        false
    }

    fn option_effect(&self, _: &str, _: &str) -> Option<(String, String)> {
        None
    }
}

/// The registers of `tests/qemu-plugin`, in software.
struct SoftwareDoorbell {
    model: Arc<Model>,
    state: Mutex<State>,
}

struct State {
    /// By offset, in words of 4 bytes, up to the buffer.
    words: [u32; reg::COUNT / 4 + 1],
    buffer: Vec<u8>,
}

impl Default for State {
    fn default() -> Self {
        let mut words = [0; reg::COUNT / 4 + 1];
        words[reg::IDENTIFICATION / 4] = doorbell::IDENTIFICATION as u32;
        words[reg::IDENTIFICATION / 4 + 1] = (doorbell::IDENTIFICATION >> 32) as u32;
        words[reg::VERSION / 4] = doorbell::VERSION;
        words[reg::PASID_BITS / 4] = Pasid::BITS;
        Self { words, buffer: vec![0; BUFFER_SIZE] }
    }
}

impl State {
    fn word(&self, offset: usize) -> u32 {
        self.words.get(offset / 4).copied().unwrap_or(0)
    }

    fn set(&mut self, offset: usize, value: u32) {
        if let Some(word) = self.words.get_mut(offset / 4) {
            *word = value;
        }
    }

    /// Makes the request that the registers describe.
    fn ring(&mut self, model: &Model) {
        let tag = self.word(reg::PASID);
        let pasid = (tag != doorbell::NO_PASID).then_some(tag);
        let len = self.word(reg::LENGTH) as usize;
        let write = self.word(reg::DIRECTION) != 0;
        let address = u64::from(self.word(reg::ADDRESS)) | u64::from(self.word(reg::ADDRESS + 4)) << 32;
        let (status, moved) = if pasid.is_some() && self.word(reg::CONTROL) & 1 == 0 {
            (doorbell::NO_PASIDS, 0)
        } else {
            match model.dma(STREAM.get(), pasid, Iova::new(address), len as u64, write) {
                Ok(extents) => {
                    self.copy(&extents, write);
                    (doorbell::MOVED, len as u32)
                }
                Err(_) => (doorbell::REFUSED, 0),
            }
        };
        let count = self.word(reg::COUNT).wrapping_add(1);
        for (offset, value) in
            [(reg::STATUS, status), (reg::DONE_PASID, tag), (reg::DONE_BYTES, moved), (reg::COUNT, count)]
        {
            self.set(offset, value);
        }
    }

    /// Moves the buffer's beginning to memory, or from there.
    fn copy(&mut self, extents: &[PhysExtent], write: bool) {
        let mut bytes = self.buffer.iter_mut();
        for extent in extents {
            for at in extent.start.get()..extent.start.get().saturating_add(extent.len) {
                let Some(byte) = bytes.next() else { return };
                let at: *mut u8 = ptr::with_exposed_provenance_mut(at as usize);
                // SAFETY: this is a device's access to memory, which goes where the driver's tables lead it, as that of
                // any device: to buffers of partitions, which are RAM that is mapped to itself and shared with devices,
                // and that nobody has a reference to.
                unsafe {
                    if write {
                        at.write_volatile(*byte);
                    } else {
                        *byte = at.read_volatile();
                    }
                }
            }
        }
    }
}

impl Registers for SoftwareDoorbell {
    fn len(&self) -> usize {
        WINDOW
    }

    fn read32(&self, offset: usize) -> u32 {
        self.state.lock().word(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.state.lock();
        state.set(offset, value);
        if offset == reg::DOORBELL {
            state.ring(&self.model);
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        let state = self.state.lock();
        match offset.checked_sub(BUFFER).and_then(|at| state.buffer.get(at..at + 8)) {
            Some(bytes) => bytes.iter().rev().fold(0, |whole, byte| whole << 8 | u64::from(*byte)),
            None => u64::from(state.word(offset)) | u64::from(state.word(offset + 4)) << 32,
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        let mut state = self.state.lock();
        match offset.checked_sub(BUFFER).and_then(|at| state.buffer.get_mut(at..at + 8)) {
            Some(bytes) => bytes.copy_from_slice(&value.to_le_bytes()),
            None => {
                state.set(offset, value as u32);
                state.set(offset + 4, (value >> 32) as u32);
            }
        }
    }
}
