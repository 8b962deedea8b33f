//! Partitions: memory seen at guest-physical addresses, behind one domain.

use crate::iommu::DemoUnit;
use crate::memory::Ram;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::{Iova, IovaRange, PAGE_SIZE, PhysExtent};
use iommu_core::hw::{Domain, DomainConfig, HwError, Prot, Stage};
use iommu_core::ioas::{DomainId, Ioas, IoasError};

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
    /// What is mapped and unmapped.
    pub const CHANGING: u64 = 0x20_0060_0000;
    /// 1 GiB.
    pub const HUGE: u64 = 0x20_4000_0000;
}

/// Memory of a partition: runs of RAM that lie one after the other at guest-physical addresses.
pub struct Buffer {
    iova: Iova,
    prot: Prot,
    runs: Vec<Ram>,
}

impl Buffer {
    /// One run of 2^`order` frames at `iova`.
    pub fn contiguous(iova: u64, order: u8, prot: Prot) -> Option<Self> {
        let mut runs = Vec::new();
        runs.try_reserve(1).ok()?;
        runs.push(Ram::alloc(order)?);
        Some(Self { iova: Iova::new(iova), prot, runs })
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
        Some(Self { iova: Iova::new(iova), prot, runs })
    }

    /// Where the partition sees it.
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// The address `offset` bytes into it.
    pub fn at(&self, offset: u64) -> Iova {
        self.iova.wrapping_add(offset)
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|ram| ram.extent().len).sum()
    }

    /// The addresses it takes; `None` where it is empty.
    pub fn range(&self) -> Option<IovaRange> {
        IovaRange::from_len(self.iova, self.len())
    }

    /// The memory behind it.
    pub fn extents(&self) -> Vec<PhysExtent> {
        self.runs.iter().map(Ram::extent).collect()
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
        for ram in &self.runs {
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

/// A partition.
pub struct Partition {
    /// Its name.
    pub name: &'static str,
    ioas: Ioas,
    domain: DomainId,
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

/// Why a partition could not be set up.
#[derive(Debug)]
pub enum PartitionError {
    /// No memory for it.
    OutOfMemory,
    /// Its unit refused.
    Unit(HwError),
    /// Its address space refused.
    Ioas(IoasError),
}

impl fmt::Display for PartitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Unit(error) => error.fmt(f),
            Self::Ioas(error) => error.fmt(f),
        }
    }
}

impl Partition {
    /// A partition with all its memory mapped in a domain of `unit`; `private` is where its private page lies.
    pub fn new(name: &'static str, unit: &dyn DemoUnit, stage: Stage, private: u64) -> Result<Self, PartitionError> {
        let memory = |buffer: Option<Buffer>| buffer.ok_or(PartitionError::OutOfMemory);
        let mut ioas = Ioas::new();
        let domain = unit.create_domain(&DomainConfig::new(stage)).map_err(PartitionError::Unit)?;
        let domain = ioas.add_domain(domain).map_err(PartitionError::Ioas)?;
        let mut partition = Self {
            name,
            ioas,
            domain,
            page: memory(Buffer::contiguous(address::PAGE, 0, Prot::READ_WRITE))?,
            large: memory(Buffer::contiguous(address::LARGE, 9, Prot::READ_WRITE))?,
            huge: memory(Buffer::contiguous(address::HUGE, 18, Prot::READ_WRITE))?,
            scattered: memory(Buffer::scattered(address::SCATTERED, 4, Prot::READ_WRITE))?,
            read_only: memory(Buffer::contiguous(address::READ_ONLY, 0, Prot::READ))?,
            private: memory(Buffer::contiguous(private, 0, Prot::READ_WRITE))?,
        };
        let Self { ioas, page, large, huge, scattered, read_only, private, .. } = &mut partition;
        for buffer in [page, large, huge, scattered, read_only, private] {
            map(ioas, buffer).map_err(PartitionError::Ioas)?;
        }
        Ok(partition)
    }

    /// The domain, for attaching streams.
    ///
    /// # Errors
    ///
    /// Never, as long as the partition exists.
    pub fn domain(&self) -> Result<&dyn Domain, HwError> {
        self.ioas.domain(self.domain).ok_or(HwError::ForeignDomain)
    }

    /// Maps one more buffer.
    ///
    /// # Errors
    ///
    /// What the address space says.
    pub fn map(&mut self, buffer: &Buffer) -> Result<(), IoasError> {
        map(&mut self.ioas, buffer)
    }

    /// Takes a buffer away. Once this returns no device can reach it.
    ///
    /// # Errors
    ///
    /// What the address space says; then the memory must not be reused.
    pub fn unmap(&mut self, buffer: &Buffer) -> Result<u64, IoasError> {
        let range = buffer.range().ok_or(IoasError::Empty)?;
        self.ioas.unmap(range)
    }

    /// Takes the partition down: blocks its functions and gives its memory back once hardware has confirmed that.
    ///
    /// # Errors
    ///
    /// What the address space says; then the memory stays allocated for ever.
    pub fn end(mut self) -> Result<(), IoasError> {
        // Dropped afterwards, which finds no domain any more.
        self.ioas.remove_domain(self.domain)
    }

    /// The page size behind `iova` in the tables; 0 where nothing is mapped.
    pub fn leaf_size(&self, iova: Iova) -> u64 {
        let translation = self.domain().ok().and_then(|domain| domain.translate(iova));
        translation.map_or(0, |translation| translation.page_size)
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        match self.ioas.remove_domain(self.domain) {
            Ok(()) | Err(IoasError::NoDomain) => {}
            Err(error) => {
                println!("{}: {error}; its memory stays allocated", self.name);
                let Self { page, large, huge, scattered, read_only, private, .. } = self;
                for buffer in [page, large, huge, scattered, read_only, private] {
                    core::mem::take(&mut buffer.runs).into_iter().for_each(core::mem::forget);
                }
            }
        }
    }
}

fn map(ioas: &mut Ioas, buffer: &Buffer) -> Result<(), IoasError> {
    ioas.map_fixed(buffer.iova, &buffer.extents(), buffer.prot)
}

// The transfers of the demo are of one page at most.
const _: () = assert!(PAGE_SIZE == crate::edu::BUFFER_SIZE as u64);
