//! Tables for one requester, word by word, in each mode and kind of translation: page 0 leads to [`PAGE`].
#![allow(dead_code, reason = "each suite uses its part")]

use iommu_core::addr::{Iova, PhysAddr};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_models::vtd::walk::{Trace, trace};
use iommu_models::vtd::{Blocked, Completion, Config, FaultCode, Model, Request};
use std::sync::Arc;

/// Bus 0, device 1, function 0.
pub const RID: u16 = 0x0008;
pub const DOMAIN: u64 = 5;
/// Where page 0 leads.
pub const PAGE: u64 = 0x5000;
/// The same in a nested guest.
pub const GUEST_PAGE: u64 = 0x9000;
/// Pages of the first-stage tables in a nested guest, from the top down.
pub const GUEST_TABLES: [u64; 4] = [0x1000, 0x2000, 0x3000, 0x4000];

pub const LEGACY: u64 = 0;
pub const SCALABLE: u64 = 1 << 10;
pub const ABORT: u64 = 3 << 10;

pub const FIRST: u64 = 1;
pub const SECOND: u64 = 2;
pub const NESTED: u64 = 3;
pub const PASS: u64 = 4;

/// First-stage entries: present, writable, user, accessed; dirty.
pub const TABLE: u64 = 0x27;
pub const LEAF: u64 = 0x67;

pub struct Rig {
    pub memory: Arc<TestMemory>,
    pub model: Arc<Model>,
    pub config: Config,
    /// RTADDR.
    pub root: u64,
    pub context: u64,
    pub directory: u64,
    pub pasids: u64,
    /// Host addresses of the first-stage tables, from the top down.
    pub first: Vec<u64>,
    /// The same of the second stage.
    pub second: Vec<u64>,
}

impl Rig {
    fn bare(config: Config, mode: u64) -> Self {
        let memory = Arc::new(TestMemory::new(PhysAddr::new(0x1_2340_0000), 256));
        let model = Arc::new(Model::new(config, memory.clone()));
        let frame = || {
            let request = FrameRequest { order: 0, address_bits: 46, memory: WalkerMemory::Coherent };
            memory.alloc_frames(request).expect("the arena is large enough").get()
        };
        let (root, context, directory, pasids) = (frame() | mode, frame(), frame(), frame());
        let first = (0..4).map(|_| frame()).collect();
        let second = (0..4).map(|_| frame()).collect();
        let rig = Self { model, config, root, context, directory, pasids, first, second, memory };
        for pair in rig.second.windows(2) {
            rig.set(pair[0], pair[1] | 3);
        }
        rig
    }

    /// Legacy mode, second stage of four levels.
    pub fn legacy(config: Config) -> Self {
        let rig = Self::bare(config, LEGACY);
        rig.set(rig.second[3], PAGE | 3);
        rig.set(rig.context_entry() + 8, DOMAIN << 8 | 2);
        rig.set(rig.context_entry(), rig.second[0] | 1);
        rig.set(rig.table(), rig.context | 1);
        rig
    }

    /// Scalable mode, with this PGTT; four levels everywhere.
    pub fn scalable(config: Config, kind: u64) -> Self {
        let rig = Self::bare(config, SCALABLE);
        match kind {
            SECOND => rig.set(rig.second[3], PAGE | 3),
            NESTED => {
                for (guest, host) in GUEST_TABLES.iter().zip(&rig.first) {
                    rig.map_guest(*guest, *host | 3);
                }
                rig.map_guest(GUEST_PAGE, PAGE | 3);
            }
            _ => {}
        }
        let tables: Vec<u64> = if kind == NESTED { GUEST_TABLES.into() } else { rig.first.clone() };
        for (at, next) in rig.first.iter().zip(&tables[1..]) {
            rig.set(*at, next | TABLE);
        }
        rig.set(rig.first[3], if kind == NESTED { GUEST_PAGE } else { PAGE } | LEAF);
        rig.set(rig.pasids + 8, DOMAIN);
        if matches!(kind, FIRST | NESTED) {
            rig.set(rig.pasids + 16, tables[0]);
        }
        let second = if matches!(kind, SECOND | NESTED) { rig.second[0] } else { 0 };
        let width = if config.ecap & Config::ECAP_SSTS != 0 { 2 << 2 } else { 0 };
        rig.set(rig.pasids, second | kind << 6 | width | 1);
        rig.set(rig.directory, rig.pasids | 1);
        rig.set(rig.context_entry(), rig.directory | 1);
        rig.set(rig.table(), rig.context | 1);
        rig
    }

    /// Turns translation on, so that requests through the unit's caches can be made.
    pub fn on(self) -> Self {
        self.model.write64(0x20, self.root);
        self.model.write32(0x18, 1 << 30);
        self.model.write32(0x18, 1 << 31);
        assert_eq!(self.model.violations(), []);
        self
    }

    /// The root entry.
    pub fn table(&self) -> u64 {
        self.root & !0xfff
    }

    pub fn context_entry(&self) -> u64 {
        self.context + u64::from(RID) * if self.root & SCALABLE == 0 { 16 } else { 32 }
    }

    /// The second-stage leaf of a guest page below 2 MiB.
    pub fn guest_leaf(&self, guest: u64) -> u64 {
        self.second[3] + (guest >> 12) * 8
    }

    pub fn map_guest(&self, guest: u64, entry: u64) {
        self.set(self.guest_leaf(guest), entry);
    }

    pub fn set(&self, phys: u64, value: u64) {
        self.memory.write64(PhysAddr::new(phys), value);
    }

    pub fn get(&self, phys: u64) -> u64 {
        self.memory.read64(PhysAddr::new(phys))
    }

    /// Sets bits in a word for good.
    pub fn add(&self, phys: u64, bits: u64) {
        self.set(phys, self.get(phys) | bits);
    }

    pub fn remove(&self, phys: u64, bits: u64) {
        self.set(phys, self.get(phys) & !bits);
    }

    /// What tables in memory say, without caches and without any update.
    pub fn trace(&self, request: &Request) -> Trace {
        trace(&|phys| self.memory.device_read64(phys), self.root, &self.config, request)
    }

    pub fn ask(&self, request: &Request) -> Result<u64, FaultCode> {
        self.trace(request).result.map(|found| found.phys.get())
    }

    /// A read or write at `iova`, without PASID.
    pub fn walk(&self, iova: u64, write: bool) -> Result<u64, FaultCode> {
        self.ask(&request(iova, write))
    }

    pub fn read(&self) -> Result<u64, FaultCode> {
        self.walk(0, false)
    }

    pub fn write(&self) -> Result<u64, FaultCode> {
        self.walk(0, true)
    }

    /// Changes a word, asks, and puts the word back.
    pub fn with(&self, phys: u64, value: u64, request: &Request) -> Result<u64, FaultCode> {
        let before = self.get(phys);
        self.set(phys, value);
        let found = self.ask(request);
        self.set(phys, before);
        found
    }

    /// Reads page 0 with a word changed.
    pub fn read_with(&self, phys: u64, value: u64) -> Result<u64, FaultCode> {
        self.with(phys, value, &request(0, false))
    }

    /// One request through the unit.
    pub fn live(&self, request: &Request) -> Result<Completion, Blocked> {
        self.model.request(request)
    }

    /// Where a read or write at `iova` through the unit goes.
    pub fn access(&self, iova: u64, write: bool) -> Result<u64, FaultCode> {
        self.live(&request(iova, write)).map(|found| found.phys.get()).map_err(|blocked| blocked.code)
    }
}

/// A request of [`RID`] without PASID.
pub fn request(iova: u64, write: bool) -> Request {
    Request::new(RID, None, Iova::new(iova), write)
}

/// A request of [`RID`] with PASID.
pub fn tagged(pasid: u32, iova: u64, write: bool) -> Request {
    Request::new(RID, Some(pasid), Iova::new(iova), write)
}
