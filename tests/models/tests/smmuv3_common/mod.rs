//! Raw-bit programs: a unit and tables built word by word, without any driver.
#![allow(dead_code, reason = "each suite uses its part")]

use iommu_core::addr::{Iova, PhysAddr};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{Command, Config, FaultCode, Model};
use std::sync::Arc;

pub const CR0: usize = 0x20;
pub const CR0ACK: usize = 0x24;
pub const CR1: usize = 0x28;
pub const CR2: usize = 0x2c;
pub const GBPA: usize = 0x44;
pub const IRQ_CTRL: usize = 0x50;
pub const IRQ_CTRLACK: usize = 0x54;
pub const GERROR: usize = 0x60;
pub const GERRORN: usize = 0x64;
pub const STRTAB_BASE: usize = 0x80;
pub const STRTAB_BASE_CFG: usize = 0x88;
pub const CMDQ_BASE: usize = 0x90;
pub const CMDQ_PROD: usize = 0x98;
pub const CMDQ_CONS: usize = 0x9c;
pub const EVENTQ_BASE: usize = 0xa0;
pub const EVENTQ_PROD: usize = 0x1_00a8;
pub const EVENTQ_CONS: usize = 0x1_00ac;

pub const SMMUEN: u32 = 1;
pub const EVENTQEN: u32 = 1 << 2;
pub const CMDQEN: u32 = 1 << 3;
pub const RECINVSID: u32 = 1 << 1;
pub const UPDATE: u32 = 1 << 31;
pub const ABORT: u32 = 1 << 20;

/// A stream, and what tags its translations.
pub const SID: u32 = 8;
pub const ASID: u64 = 5;
pub const VMID: u64 = 7;

/// Commands in the queue, log2.
pub const LOG2: u32 = 4;
/// Streams in the linear table, log2.
pub const STREAMS: u32 = 6;

/// A page of stage 1: valid, AF, nG, inner shareable, AP user.
pub const PAGE_1: u64 = 3 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11;
/// A page of stage 2: valid, AF, inner shareable, readable, writable, write-back.
pub const PAGE_2: u64 = 3 | 0xf << 2 | 3 << 6 | 3 << 8 | 1 << 10;

/// CD without address: 39 bits, EPD1, V, 44 bits out, AA64, R, A, ASET, ASID.
pub const CD: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 7 << 45 | ASID << 48;
/// Third word of a STE of stage 2 without VMID: 39 bits from level 1, 44 bits out, S2AA64, S2R.
pub const STE_2: u64 = 25 << 32 | 1 << 38 | 1 << 40 | 1 << 42 | 3 << 44 | 4 << 48 | 1 << 51 | 1 << 58;

/// A unit and what a program builds for it.
pub struct Bench {
    pub memory: Arc<TestMemory>,
    pub model: Arc<Model>,
    pub streams: u64,
    pub commands: u64,
    pub events: u64,
    pub cds: u64,
    /// Tables of stage 1 from the top down, the last of 4 KiB leaves.
    pub first: Vec<u64>,
    /// Tables of stage 2.
    pub second: Vec<u64>,
    prod: u32,
}

pub fn frame(memory: &TestMemory) -> u64 {
    frames(memory, 0)
}

pub fn frames(memory: &TestMemory, order: u8) -> u64 {
    let request = FrameRequest { order, address_bits: 40, memory: WalkerMemory::Coherent };
    memory.alloc_frames(request).expect("the arena is large enough").get()
}

impl Bench {
    /// A unit after reset, with memory for everything and nothing in it.
    pub fn new(config: Config) -> Self {
        let memory = Arc::new(TestMemory::new(PhysAddr::new(0x1_2340_0000), 512));
        let model = Arc::new(Model::new(config, memory.clone()));
        let next = || frame(&memory);
        let (streams, commands, events, cds) = (next(), next(), next(), next());
        let (first, second) = ((0..3).map(|_| next()).collect(), (0..3).map(|_| next()).collect());
        Self { model, streams, commands, events, cds, first, second, prod: 0, memory }
    }

    /// A unit that translates, with both queues on and a linear table in which no STE is valid.
    pub fn up(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.start_commands();
        bench.invalidate_all();
        bench.start_events();
        bench.write32(CR2, RECINVSID);
        bench.set_tables();
        bench.enable(SMMUEN);
        bench.model.take_log();
        assert_eq!(bench.model.violations(), []);
        bench
    }

    /// A unit with [`SID`] behind stage 1.
    pub fn first(config: Config) -> Self {
        let mut bench = Self::up(config);
        bench.attach_first(SID, ASID);
        bench
    }

    /// A unit with [`SID`] behind stage 2.
    pub fn second(config: Config) -> Self {
        let mut bench = Self::up(config);
        bench.attach_second(SID, VMID);
        bench
    }

    /// A unit with [`SID`] behind both, and stage 2 leading everywhere in the first 2 MiB of memory and of addresses.
    pub fn nested(config: Config) -> Self {
        let mut bench = Self::up(config);
        bench.attach_nested(SID);
        bench
    }

    pub fn set(&self, phys: u64, value: u64) {
        self.memory.write64(PhysAddr::new(phys), value);
    }

    pub fn get(&self, phys: u64) -> u64 {
        self.memory.read64(PhysAddr::new(phys))
    }

    pub fn ste(&self, sid: u32) -> u64 {
        self.streams + u64::from(sid) * 64
    }

    /// Writes words of the STE of `sid`, the first last.
    pub fn set_ste(&self, sid: u32, words: &[u64]) {
        for (index, word) in words.iter().enumerate().rev() {
            self.set(self.ste(sid) + index as u64 * 8, *word);
        }
    }

    /// CD number `index` in the frame of CDs.
    pub fn cd(&self, index: u64) -> u64 {
        self.cds + index * 64
    }

    pub fn attach_first(&mut self, sid: u32, asid: u64) {
        self.link(&self.first);
        let cd = self.cd(u64::from(sid));
        self.set(cd + 8, self.first[0]);
        self.set(cd + 24, 0xff);
        self.set(cd, CD & !(0xffff << 48) | asid << 48);
        self.set_ste(sid, &[cd | 5 << 1 | 1, 0, 0, 0]);
    }

    pub fn attach_second(&mut self, sid: u32, vmid: u64) {
        self.link(&self.second);
        self.set_ste(sid, &[6 << 1 | 1, 0, STE_2 | vmid, self.second[0]]);
    }

    pub fn attach_nested(&mut self, sid: u32) {
        self.attach_first(sid, ASID);
        self.link(&self.second);
        self.set_ste(sid, &[self.cd(u64::from(sid)) | 7 << 1 | 1, 0, STE_2 | VMID, self.second[0]]);
        // The tables of stage 1 and the CD, where they are.
        let base = self.memory.base().get();
        let top = self.second[0] + (base >> 30) * 8;
        let (middle, leaves) = (frame(&self.memory), frame(&self.memory));
        self.set(top, middle | 3);
        self.set(middle + (base >> 21 & 0x1ff) * 8, leaves | 3);
        for page in 0..512 {
            let at = base + page * 0x1000;
            self.set(leaves + (at >> 12 & 0x1ff) * 8, at | PAGE_2);
        }
    }

    fn link(&self, tables: &[u64]) {
        for pair in tables.windows(2) {
            self.set(pair[0], pair[1] | 3);
        }
    }

    /// Maps page number `page`, below 512, in stage 1.
    pub fn map_first(&self, page: u64, phys: u64) {
        self.set(self.first[2] + page * 8, phys | PAGE_1);
    }

    /// Maps page number `page`, below 512, in stage 2.
    pub fn map_second(&self, page: u64, phys: u64) {
        self.set(self.second[2] + page * 8, phys | PAGE_2);
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

    /// Sets bits in CR0.
    pub fn enable(&self, bits: u32) {
        let value = self.read32(CR0) | bits;
        self.write32(CR0, value);
        assert_eq!(self.read32(CR0ACK), value);
    }

    pub fn disable(&self, bits: u32) {
        let value = self.read32(CR0) & !bits;
        self.write32(CR0, value);
        assert_eq!(self.read32(CR0ACK), value);
    }

    pub fn start_commands(&mut self) {
        self.write64(CMDQ_BASE, self.commands | u64::from(LOG2));
        self.write32(CMDQ_PROD, 0);
        self.write32(CMDQ_CONS, 0);
        self.enable(CMDQEN);
        self.prod = 0;
    }

    pub fn start_events(&self) {
        self.write64(EVENTQ_BASE, self.events | u64::from(LOG2));
        self.write32(EVENTQ_PROD, 0);
        self.write32(EVENTQ_CONS, 0);
        self.enable(EVENTQEN);
    }

    pub fn set_tables(&self) {
        self.write64(STRTAB_BASE, self.streams);
        self.write32(STRTAB_BASE_CFG, STREAMS);
    }

    pub fn invalidate_all(&mut self) {
        self.put(4, 31);
        self.put(0x30, 0);
        if self.model.config().idr0 & Config::HYP != 0 {
            self.put(0x20, 0);
        }
        self.sync();
    }

    /// Puts a command into the next slot without telling the unit.
    pub fn put(&mut self, low: u64, high: u64) {
        let slot = u64::from(self.prod) & ((1 << LOG2) - 1);
        self.set(self.commands + slot * 16, low);
        self.set(self.commands + slot * 16 + 8, high);
        self.prod = (self.prod + 1) & ((2 << LOG2) - 1);
    }

    /// Overwrites the command that stands `back` before the next slot.
    pub fn replace(&self, back: u32, low: u64, high: u64) {
        let slot = u64::from(self.prod.wrapping_sub(back) & ((1 << LOG2) - 1));
        self.set(self.commands + slot * 16, low);
        self.set(self.commands + slot * 16 + 8, high);
    }

    pub fn ring(&self) {
        self.write32(CMDQ_PROD, self.prod);
    }

    pub fn prod(&self) -> u32 {
        self.prod
    }

    /// One command, at once; its effect comes with the next CMD_SYNC.
    pub fn submit(&mut self, low: u64, high: u64) {
        self.put(low, high);
        self.ring();
    }

    /// CMD_SYNC, at once.
    pub fn sync(&mut self) {
        self.submit(0x46, 0);
    }

    /// One command and a CMD_SYNC.
    pub fn run(&mut self, low: u64, high: u64) {
        self.put(low, high);
        self.sync();
        assert_eq!(self.read32(CMDQ_CONS) & 0xf_ffff, self.prod);
    }

    pub fn cfgi_ste(&mut self, sid: u32) {
        self.run(u64::from(sid) << 32 | 3, 1);
    }

    pub fn cfgi_cd(&mut self, sid: u32) {
        self.run(u64::from(sid) << 32 | 5, 1);
    }

    pub fn tlbi_asid(&mut self, vmid: u64, asid: u64) {
        self.run(asid << 48 | vmid << 32 | 0x11, 0);
    }

    /// TLBI_NH_VA of one page, leaf only.
    pub fn tlbi_va(&mut self, vmid: u64, asid: u64, va: u64) {
        self.run(asid << 48 | vmid << 32 | 0x12, va | 1);
    }

    /// TLBI_S2_IPA of one page, leaf only.
    pub fn tlbi_ipa(&mut self, vmid: u64, ipa: u64) {
        self.run(vmid << 32 | 0x2a, ipa | 1);
    }

    pub fn tlbi_vmid(&mut self, vmid: u64) {
        self.run(vmid << 32 | 0x28, 0);
    }

    pub fn executed(&self) -> Vec<Command> {
        self.model.take_log().into_iter().map(|done| done.command).collect()
    }

    /// Word `word` of event number `slot`.
    pub fn event(&self, slot: u64, word: u64) -> u64 {
        self.get(self.events + slot * 32 + word * 8)
    }

    /// Where one byte of [`SID`] goes.
    pub fn read_at(&self, iova: u64) -> Result<u64, FaultCode> {
        self.access(SID, None, iova, false)
    }

    pub fn write_at(&self, iova: u64) -> Result<u64, FaultCode> {
        self.access(SID, None, iova, true)
    }

    pub fn access(&self, sid: u32, ssid: Option<u32>, iova: u64, write: bool) -> Result<u64, FaultCode> {
        let extents = self.model.dma(sid, ssid, Iova::new(iova), 1, write);
        extents.map(|extents| extents[0].start.get()).map_err(|blocked| blocked.code)
    }
}
