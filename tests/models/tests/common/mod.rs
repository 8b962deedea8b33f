//! Raw-bit programs: a unit and tables built word by word, without any driver.
#![allow(dead_code, reason = "each suite uses its part")]

use iommu_core::addr::{Iova, PhysAddr};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_models::vtd::{Blocked, Config, FaultCode, Model};
use std::sync::Arc;

pub const GCMD: usize = 0x18;
pub const GSTS: usize = 0x1c;
pub const RTADDR: usize = 0x20;
pub const FSTS: usize = 0x34;
pub const FECTL: usize = 0x38;
pub const IQH: usize = 0x80;
pub const IQT: usize = 0x88;
pub const IQA: usize = 0x90;
pub const ICS: usize = 0x9c;
pub const IQERCD: usize = 0xb0;

pub const TE: u32 = 1 << 31;
pub const SRTP: u32 = 1 << 30;
pub const QIE: u32 = 1 << 26;
pub const SCALABLE: u64 = 1 << 10;

/// Bus 0, device 1, function 0.
pub const RID: u16 = 0x0008;
pub const DOMAIN: u64 = 5;

/// A unit and what a program builds for it.
pub struct Bench {
    pub memory: Arc<TestMemory>,
    pub model: Arc<Model>,
    pub root: u64,
    pub queue: u64,
    pub status: u64,
    pub context: u64,
    pub directory: u64,
    pub pasids: u64,
    /// Tables from the top down; the last is the one of 4 KiB leaves.
    pub tables: Vec<u64>,
    tail: u64,
}

pub fn frame(memory: &TestMemory) -> u64 {
    frames(memory, 0)
}

pub fn frames(memory: &TestMemory, order: u8) -> u64 {
    let request = FrameRequest { order, address_bits: 46, memory: WalkerMemory::Coherent };
    memory.alloc_frames(request).expect("the arena is large enough").get()
}

impl Bench {
    /// A unit after reset, with nothing in memory but what the queue needs.
    pub fn new(config: Config) -> Self {
        let memory = Arc::new(TestMemory::new(PhysAddr::new(0x1_2340_0000), 256));
        let model = Arc::new(Model::new(config, memory.clone()));
        let next = || frame(&memory);
        let (root, queue, status, context) = (next(), next(), next(), next());
        let (directory, pasids) = (next(), next());
        let tables = Vec::new();
        Self { model, root, queue, status, context, directory, pasids, tables, tail: 0, memory }
    }

    /// A unit with translation on, and [`RID`] attached to four levels of the stage that it has; nothing mapped.
    pub fn up(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.attach(RID);
        bench.start_queue();
        bench.set_root();
        bench.command(TE);
        assert_eq!(bench.model.violations(), []);
        bench
    }

    pub fn set(&self, phys: u64, value: u64) {
        self.memory.write64(PhysAddr::new(phys), value);
    }

    pub fn get(&self, phys: u64) -> u64 {
        self.memory.read64(PhysAddr::new(phys))
    }

    /// Writes root entry, context entry, PASID directory, PASID entry and the tables for address 0 up to 2 MiB.
    pub fn attach(&mut self, rid: u16) {
        let first_stage = self.model.config().ecap >> 47 & 1 != 0;
        self.tables = (0..4).map(|_| frame(&self.memory)).collect();
        for pair in self.tables.clone().windows(2) {
            // First stage: present, writable, user, accessed. Second stage: read, write.
            self.set(pair[0], pair[1] | if first_stage { 0x27 } else { 3 });
        }
        self.set(self.pasids + 8, DOMAIN);
        if first_stage {
            self.set(self.pasids + 16, self.tables[0]);
            self.set(self.pasids, 1 << 6 | 1);
        } else {
            self.set(self.pasids, self.tables[0] | 2 << 6 | 2 << 2 | 1);
        }
        self.set(self.directory, self.pasids | 1);
        self.set(self.context_entry(rid), self.directory | 1);
        self.set(self.root_entry(rid), self.context | 1);
    }

    pub fn root_entry(&self, rid: u16) -> u64 {
        self.root + u64::from(rid >> 8) * 16 + u64::from(rid >> 7 & 1) * 8
    }

    pub fn context_entry(&self, rid: u16) -> u64 {
        self.context + u64::from(rid & 0x7f) * 32
    }

    /// Address of the 4 KiB leaf for page number `page`, below 512.
    pub fn leaf(&self, page: u64) -> u64 {
        self.tables[3] + page * 8
    }

    /// Maps page number `page` to `phys`, readable and writable.
    pub fn map(&self, page: u64, phys: u64) {
        let first_stage = self.model.config().ecap >> 47 & 1 != 0;
        self.set(self.leaf(page), phys | if first_stage { 0x67 } else { 3 });
    }

    pub fn read32(&self, offset: usize) -> u32 {
        self.model.read32(offset)
    }

    pub fn read64(&self, offset: usize) -> u64 {
        self.model.read64(offset)
    }

    pub fn write32(&self, offset: usize, value: u32) {
        self.model.write32(offset, value);
    }

    pub fn write64(&self, offset: usize, value: u64) {
        self.model.write64(offset, value);
    }

    /// One command, the levels kept.
    pub fn command(&self, bits: u32) {
        self.write32(GCMD, self.read32(GSTS) & 0x96ff_ffff | bits);
        assert_eq!(self.read32(GSTS) & bits, bits);
    }

    pub fn start_queue(&mut self) {
        self.write64(IQT, 0);
        self.write64(IQA, self.queue | 1 << 11);
        self.command(QIE);
        self.tail = 0;
    }

    pub fn set_root(&self) {
        self.write64(RTADDR, self.root | SCALABLE);
        self.command(SRTP);
    }

    /// Puts a 256-bit descriptor into the next slot without telling the unit.
    pub fn put(&mut self, low: u64, high: u64) {
        for (index, word) in [low, high, 0, 0].into_iter().enumerate() {
            self.set(self.queue + self.tail + index as u64 * 8, word);
        }
        self.tail = (self.tail + 32) % 4096;
    }

    pub fn ring(&self) {
        self.write64(IQT, self.tail);
    }

    /// One descriptor, at once.
    pub fn submit(&mut self, low: u64, high: u64) {
        self.put(low, high);
        self.ring();
    }

    /// A wait that reports `data`; whether it did.
    pub fn wait(&mut self, data: u32) -> bool {
        self.submit(u64::from(data) << 32 | 1 << 5 | 5, self.status);
        self.get(self.status) as u32 == data
    }

    pub fn context_device(&mut self, rid: u16) {
        self.submit(u64::from(rid) << 32 | 3 << 4 | 1, 0);
    }

    pub fn pasid_cache(&mut self, domain: u64, pasid: u64) {
        self.submit(pasid << 32 | domain << 16 | 1 << 4 | 7, 0);
    }

    pub fn iotlb_domain(&mut self, domain: u64) {
        self.submit(domain << 16 | 2 << 4 | 2, 0);
    }

    pub fn iotlb_page(&mut self, domain: u64, address: u64, mask: u64) {
        self.submit(domain << 16 | 3 << 4 | 2, address | mask);
    }

    pub fn pasid_iotlb(&mut self, domain: u64, pasid: u64) {
        self.submit(pasid << 32 | domain << 16 | 2 << 4 | 6, 0);
    }

    pub fn pasid_iotlb_page(&mut self, domain: u64, pasid: u64, address: u64, mask: u64) {
        self.submit(pasid << 32 | domain << 16 | 3 << 4 | 6, address | mask);
    }

    /// Where one byte of [`RID`] goes.
    pub fn read_at(&self, iova: u64) -> Result<u64, FaultCode> {
        self.access(RID, None, iova, false)
    }

    pub fn write_at(&self, iova: u64) -> Result<u64, FaultCode> {
        self.access(RID, None, iova, true)
    }

    pub fn access(&self, rid: u16, pasid: Option<u32>, iova: u64, write: bool) -> Result<u64, FaultCode> {
        let extents = self.model.dma(rid, pasid, Iova::new(iova), 1, write);
        extents.map(|extents| extents[0].start.get()).map_err(|blocked: Blocked| blocked.code)
    }
}
