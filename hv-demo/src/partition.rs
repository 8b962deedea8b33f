//! Partitions: a quota, memory seen at guest-physical addresses, and the functions that may reach it.

use crate::iommu::DemoUnit;
use crate::memory::Ram;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange, PAGE_SIZE, PhysExtent};
use iommu_core::group::OwnerId;
use iommu_core::hw::{Pasid, Prot, Stage, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig, Placement};
use iommu_core::pages::{Memory, MemoryError, Pages};
use iommu_core::pasid::{PasidSet, PasidSpace};
use iommu_core::quota::{Account, Amounts};

/// Guest-physical addresses, the same in every partition but for the private pages. None of them is the physical address
/// of anything that the checks of foreign memory aim at.
pub mod address {
    /// One page.
    pub const PAGE: u64 = 0x1000;
    /// Single pages.
    pub const SCATTERED: u64 = 0x20_0010_0000;
    /// A page that may only be read.
    pub const READ_ONLY: u64 = 0x20_0018_0000;
    /// 2 MiB.
    pub const LARGE: u64 = 0x20_0020_0000;
    /// Red's private page.
    pub const RED: u64 = 0x20_0050_0000;
    /// Blue's private page.
    pub const BLUE: u64 = 0x20_0051_0000;
    /// Green's private page.
    pub const GREEN: u64 = 0x20_0052_0000;
    /// Where a guest keeps the tables of a stage 1 of its own.
    pub const TABLES: u64 = 0x20_0070_0000;
    /// What is mapped and unmapped.
    pub const CHANGING: u64 = 0x20_0060_0000;
    /// 1 GiB.
    pub const HUGE: u64 = 0x20_4000_0000;
}

/// Memory of a partition: runs of RAM that lie one after the other at guest-physical addresses.
///
/// The core has a share in it as long as any device might reach it, so that dropping a buffer frees nothing too early.
pub struct Buffer {
    iova: Iova,
    prot: Prot,
    runs: Arc<Runs>,
}

/// The RAM of a buffer, as the core sees it. It stays where it is, so there is nothing to do to pin it.
struct Runs(Vec<Ram>);

impl Memory for Runs {
    fn len(&self) -> u64 {
        self.0.iter().map(|ram| ram.extent().len).sum()
    }

    fn extents_hint(&self) -> usize {
        self.0.len()
    }

    fn pin(&self, extent: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError> {
        self.0.iter().try_for_each(|ram| extent(ram.extent()))
    }

    fn unpin(&self) {}
}

impl Buffer {
    fn of(iova: u64, prot: Prot, runs: Vec<Ram>) -> Self {
        Self { iova: Iova::new(iova), prot, runs: Arc::new(Runs(runs)) }
    }

    /// One run of 2^`order` frames at `iova`.
    pub fn contiguous(iova: u64, order: u8, prot: Prot) -> Option<Self> {
        let mut runs = Vec::new();
        runs.try_reserve(1).ok()?;
        runs.push(Ram::alloc(order)?);
        Some(Self::of(iova, prot, runs))
    }

    /// `pages` single frames at `iova`, no two of which are neighbours.
    pub fn scattered(iova: u64, pages: usize, prot: Prot) -> Option<Self> {
        let (mut runs, mut between) = (Vec::new(), Vec::new());
        runs.try_reserve(pages).ok()?;
        between.try_reserve(pages).ok()?;
        for _ in 0..pages {
            runs.push(Ram::alloc(0)?);
            between.push(Ram::alloc(0)?);
        }
        // Downwards, so that not even the order is that of the addresses.
        runs.sort_by_key(|ram| core::cmp::Reverse(ram.extent().start));
        Some(Self::of(iova, prot, runs))
    }

    /// Where the partition sees it.
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// The address `offset` bytes into it.
    pub fn at(&self, offset: u64) -> Iova {
        self.iova.wrapping_add(offset)
    }

    /// The same memory as it is seen at another address.
    pub fn seen_at(&self, iova: u64) -> Self {
        Self { iova: Iova::new(iova), prot: self.prot, runs: self.runs.clone() }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.runs.len()
    }

    /// The addresses it takes; `None` where it is empty.
    pub fn range(&self) -> Option<IovaRange> {
        IovaRange::from_len(self.iova, self.len())
    }

    /// The memory behind it.
    pub fn extents(&self) -> Vec<PhysExtent> {
        self.runs.0.iter().map(Ram::extent).collect()
    }

    /// The memory behind `len` bytes from `offset`.
    pub fn frames(&self, offset: u64, len: u64) -> Vec<PhysExtent> {
        let mut frames = Vec::new();
        self.for_each_part(offset, len, |ram, at, len, _| {
            frames.push(PhysExtent::new(ram.extent().start.wrapping_add(at), len));
        });
        frames
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.for_each_part(offset, bytes.len() as u64, |ram, at, len, done| {
            ram.write(at, &bytes[done as usize..][..len as usize]);
        });
    }

    /// Copies from `offset` to `bytes`.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.for_each_part(offset, bytes.len() as u64, |ram, at, len, done| {
            ram.read(at, &mut bytes[done as usize..][..len as usize]);
        });
    }

    /// Exchanges the memory of two buffers of the same length; neither may be mapped.
    pub fn swap_memory(&mut self, other: &mut Self) {
        core::mem::swap(&mut self.runs, &mut other.runs);
    }

    /// Calls `visit` with each run that a range touches, where in the run, how much of it, and how much came before.
    fn for_each_part(&self, offset: u64, len: u64, mut visit: impl FnMut(&Ram, u64, u64, u64)) {
        let (mut start, mut done) = (offset, 0);
        for ram in &self.runs.0 {
            let run = ram.extent().len;
            if start < run && done < len {
                let part = (run - start).min(len - done);
                visit(ram, start, part, done);
                done += part;
                start = 0;
            } else {
                start = start.saturating_sub(run);
            }
        }
    }
}

/// How many PASIDs a partition may have.
const PASIDS: u32 = 2;

/// What a partition may have in objects of the core: an address space, a domain, its functions, and memory.
const OBJECTS: u64 = 16;

/// Bytes that the core's records of a partition may take.
const RECORDS: u64 = 64 << 10;

/// Memory that a partition may have mapped beyond its own: what the checks map and unmap.
const SPARE: u64 = 4 << 20;

/// A partition.
pub struct Partition {
    /// Its name.
    pub name: &'static str,
    /// Its number, by which it owns functions.
    pub owner: OwnerId,
    /// What it may use.
    pub account: Account,
    /// Its PASIDs, where the machine has any.
    pasids: Option<PasidSet>,
    // Before the address space: it leaves that first.
    hwpt: Hwpt,
    ioas: Ioas,
    /// One 4 KiB page; in every partition at the same address.
    pub page: Buffer,
    /// 2 MiB in one leaf.
    pub large: Buffer,
    /// 1 GiB in one leaf.
    pub huge: Buffer,
    /// Single pages.
    pub scattered: Buffer,
    /// A page that devices may only read.
    pub read_only: Buffer,
    /// A page at an address where no other partition has any.
    pub private: Buffer,
}

impl Partition {
    /// A partition with all its memory mapped in a domain of `unit`; `private` is where its private page lies. Its parts
    /// of functions have PASIDs of `pasids`.
    ///
    /// # Errors
    ///
    /// What the core says.
    pub fn new(
        name: &'static str,
        owner: OwnerId,
        unit: &Arc<dyn DemoUnit>,
        stage: Stage,
        private: u64,
        pasids: Option<&PasidSpace>,
    ) -> Result<Self, Error> {
        let config = HwptConfig { pasid: pasids.is_some(), ..HwptConfig::new(stage) };
        Self::with(name, owner, unit, config, private, pasids)
    }

    /// A partition in which a guest has a stage 1 of its own on top of the domain, which is of stage 2.
    ///
    /// # Errors
    ///
    /// What the core says.
    pub fn for_guest(
        name: &'static str,
        owner: OwnerId,
        unit: &Arc<dyn DemoUnit>,
        private: u64,
    ) -> Result<Self, Error> {
        let config = HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) };
        Self::with(name, owner, unit, config, private, None)
    }

    fn with(
        name: &'static str,
        owner: OwnerId,
        unit: &Arc<dyn DemoUnit>,
        config: HwptConfig,
        private: u64,
        pasids: Option<&PasidSpace>,
    ) -> Result<Self, Error> {
        let memory = |buffer: Option<Buffer>| buffer.ok_or(Error::OutOfMemory);
        let page = memory(Buffer::contiguous(address::PAGE, 0, Prot::READ_WRITE))?;
        let large = memory(Buffer::contiguous(address::LARGE, 9, Prot::READ_WRITE))?;
        let huge = memory(Buffer::contiguous(address::HUGE, 18, Prot::READ_WRITE))?;
        let scattered = memory(Buffer::scattered(address::SCATTERED, 4, Prot::READ_WRITE))?;
        let read_only = memory(Buffer::contiguous(address::READ_ONLY, 0, Prot::READ))?;
        let private = memory(Buffer::contiguous(private, 0, Prot::READ_WRITE))?;
        let own = [&page, &large, &huge, &scattered, &read_only, &private];
        let pinned = own.iter().map(|buffer| buffer.len()).sum::<u64>() + SPARE;
        let limits = Amounts { pinned, metadata: RECORDS, objects: OBJECTS, pasids: PASIDS.into() };

        let account = Account::new(limits)?;
        let ioas = Ioas::new(IoasConfig { account: Some(account.clone()), ..IoasConfig::default() })?;
        let unit: Arc<dyn Unit> = unit.clone();
        let hwpt = Hwpt::new(&ioas, &unit, config)?;
        let pasids = pasids.map(|space| space.set(PASIDS, Some(&account))).transpose()?;
        own.iter().try_for_each(|buffer| map(&account, &ioas, buffer))?;
        Ok(Self { name, owner, account, pasids, hwpt, ioas, page, large, huge, scattered, read_only, private })
    }

    /// Its PASIDs.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the machine has none.
    pub fn pasids(&self) -> Result<&PasidSet, Error> {
        self.pasids.as_ref().ok_or(Error::Unsupported("PASIDs"))
    }

    /// Takes this very PASID for the partition.
    ///
    /// # Errors
    ///
    /// What the core says.
    pub fn take_pasid(&self, pasid: Pasid) -> Result<(), Error> {
        self.pasids()?.alloc(pasid, pasid, None).map(|_| ())
    }

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// What the core says.
    pub fn give_back(&self, pasid: Pasid) -> Result<(), Error> {
        self.pasids()?.free(pasid)
    }

    /// The domain, for attaching functions.
    pub fn hwpt(&self) -> &Hwpt {
        &self.hwpt
    }

    /// Maps one more buffer.
    ///
    /// # Errors
    ///
    /// What the core says.
    pub fn map(&self, buffer: &Buffer) -> Result<(), Error> {
        map(&self.account, &self.ioas, buffer)
    }

    /// Takes a buffer away. Once this returns no device can reach it.
    ///
    /// # Errors
    ///
    /// What the core says; then it keeps the memory.
    pub fn unmap(&self, buffer: &Buffer) -> Result<u64, Error> {
        self.ioas.unmap(buffer.range().ok_or(Error::Empty)?)
    }

    /// Takes the partition down, to which no function is attached any more, and gives its memory back.
    ///
    /// # Errors
    ///
    /// What the core says; then the memory stays allocated for ever.
    pub fn end(self) -> Result<(), Error> {
        let Self { hwpt, ioas, .. } = self;
        hwpt.destroy().map_err(|(_, error)| error)?;
        ioas.unmap_all().map(|_| ())
    }

    /// The page size behind `iova` in the tables; 0 where nothing is mapped.
    pub fn leaf_size(&self, iova: Iova) -> u64 {
        self.hwpt.domain().translate(iova).map_or(0, |translation| translation.page_size)
    }
}

fn map(account: &Account, ioas: &Ioas, buffer: &Buffer) -> Result<(), Error> {
    let pages = Pages::new(buffer.runs.clone(), Some(account))?;
    ioas.map(&pages, 0, pages.len(), Placement::Fixed(buffer.iova), buffer.prot).map(|_| ())
}

// The transfers of the demo are of one page at most.
const _: () = assert!(PAGE_SIZE == crate::edu::BUFFER_SIZE as u64);
