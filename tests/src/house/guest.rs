//! A guest that has a stage 1 of its own on top of a domain, whatever the architecture.

use super::{Driver, House};
use crate::bench::map;
use iommu_core::hw::{self, Domain, DomainConfig, HwError, Nested, NestedConfig, Stage, Stream, Target, Transition};
use iommu_hal::mem::Frames;
use iommu_hal::{FrameRequest, WalkerMemory};
use iommu_models::memory::TestMemory;
use std::cell::Cell;
use std::sync::Arc;

const PAGE: u64 = 0x1000;
const LARGE: u64 = 1 << 21;
/// log2 of the frames of a guest's tables.
const ORDER: u8 = 6;
/// Where the guest has them: its own physical addresses.
pub const TABLES: u64 = 0x10_0000;
/// Where it has other memory: 16 pages, and large ones from 2 MiB further on.
pub const MEMORY: u64 = 1 << 30;
/// Where that is.
pub const HOST: u64 = 8 << 30;

/// What domains under guests are made of.
pub fn parent_config() -> DomainConfig {
    DomainConfig { nest_parent: true, ..DomainConfig::new(Stage::Second) }
}

/// A guest's memory, and the domain that leads there.
pub struct Guest<'h, D: Driver> {
    house: &'h House<D>,
    /// What its stages 1 stand on.
    pub parent: Box<dyn Domain>,
    frames: Frames<Arc<TestMemory>>,
    used: Cell<u64>,
    numbers: Cell<u16>,
}

/// A stage 1 of a guest: four levels of its tables, entries of 8 bytes, pages of 4 KiB.
pub struct Own {
    /// The guest's address of its first table.
    pub root: u64,
    /// Tells it from others of the same guest, where hardware is told by the guest.
    pub number: u16,
    /// What the driver made of it.
    pub nested: Box<dyn Nested>,
}

impl<'h, D: Driver> Guest<'h, D> {
    /// On a domain of its own.
    pub fn new(house: &'h House<D>) -> Self {
        Self::with(house, parent_config())
    }

    /// On a domain made of `config`.
    pub fn with(house: &'h House<D>, config: DomainConfig) -> Self {
        let parent = hw::Unit::create_domain(&house.unit, &config);
        let parent = parent.unwrap_or_else(|error| panic!("{}: a parent: {error}", house.name()));
        let request = FrameRequest { order: ORDER, address_bits: 40, memory: WalkerMemory::Coherent };
        let frames = Frames::alloc(house.memory.clone(), request).expect("memory of the guest");
        let guest = Self { house, parent, frames, used: Cell::new(0), numbers: Cell::new(0) };
        guest.map_tables();
        // Pages, so that single ones can be taken away.
        for page in 0..16 {
            map(&*guest.parent, MEMORY + page * PAGE, HOST + page * PAGE, PAGE);
        }
        map(&*guest.parent, MEMORY + LARGE, HOST + LARGE, 4 * LARGE);
        guest
    }

    /// Leads to its tables, where nothing does.
    pub fn map_tables(&self) {
        map(&*self.parent, TABLES, self.frames.phys().get(), Self::tables_len());
    }

    /// Bytes of its tables.
    pub const fn tables_len() -> u64 {
        PAGE << ORDER
    }

    /// Stores a word of its tables.
    fn put(&self, at: u64, value: u64) {
        let (frame, word) = ((at - TABLES) / PAGE, at % PAGE / 8);
        self.frames.frame(frame as usize).expect("a table of the guest").publish(word as usize, value);
    }

    fn get(&self, at: u64) -> u64 {
        let (frame, word) = ((at - TABLES) / PAGE, at % PAGE / 8);
        self.frames.frame(frame as usize).expect("a table of the guest").load(word as usize)
    }

    fn table(&self) -> u64 {
        let at = self.used.replace(self.used.get() + 1);
        assert!(at < 1 << ORDER, "tables of the guest");
        TABLES + at * PAGE
    }

    /// Has the guest's entry for the page at `iova` say this, with whatever tables that takes.
    fn set(&self, root: u64, iova: u64, entry: u64) {
        let mut table = root;
        for level in (1..4u64).rev() {
            let at = table + (iova >> (12 + 9 * level) & 0x1ff) * 8;
            table = match self.get(at) {
                0 => self.table(),
                found => found & 0x000f_ffff_ffff_f000,
            };
            self.put(at, table | D::GUEST_TABLE);
        }
        self.put(table + (iova >> 12 & 0x1ff) * 8, entry);
    }

    /// Leads a page to guest-physical memory.
    pub fn map(&self, own: &Own, iova: u64, to: u64) {
        self.set(own.root, iova, to | D::GUEST_PAGE);
    }

    /// Leads a page nowhere.
    pub fn unmap(&self, own: &Own, iova: u64) {
        self.set(own.root, iova, 0);
    }

    /// A stage 1 that leads page 5 to page 1 of the memory, and page 6 to page 2.
    pub fn own(&self) -> Own {
        self.try_own().unwrap_or_else(|error| panic!("{}: a stage 1: {error}", self.house.name()))
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn try_own(&self) -> Result<Own, HwError> {
        let (root, spare) = (self.table(), self.table());
        let number = self.numbers.replace(self.numbers.get() + 1) + 1;
        self.set(root, 5 * PAGE, (MEMORY + PAGE) | D::GUEST_PAGE);
        self.set(root, 6 * PAGE, (MEMORY + 2 * PAGE) | D::GUEST_PAGE);
        let (kind, words) = D::stage_of_guest(&self.house.case, [root, spare], number, &mut |at, value| {
            self.put(at, value);
        });
        let config = NestedConfig { kind, words: &words };
        let nested = hw::Unit::create_nested(&self.house.unit, &*self.parent, &config)?;
        Ok(Own { root, number, nested })
    }

    /// Leads `stream` through it.
    #[track_caller]
    pub fn attach(&self, stream: Stream, own: &Own) -> Transition {
        let done = self.house.lead(stream, Target::Nested(&*own.nested));
        done.unwrap_or_else(|error| panic!("{}: {stream}: {error}", self.house.name()))
    }

    /// Has the guest say that it changed a page of it, and whom hardware was to tell.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn say(&self, own: &Own, iova: u64) -> Result<(), HwError> {
        let all = D::said_by_guest(&self.house.case, own.number, iova);
        all.iter().try_for_each(|request| own.nested.invalidate(request))
    }

    /// Reads and writes of `stream` go where [`Guest::own`] says.
    #[track_caller]
    pub fn expect_all(&self, stream: Stream) {
        self.house.expect_of(stream, 5 * PAGE + 7, Ok(HOST + PAGE + 7));
        self.house.expect_of(stream, 6 * PAGE + 7, Ok(HOST + 2 * PAGE + 7));
    }
}
