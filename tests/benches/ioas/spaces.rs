//! The address spaces that are measured: this project's, a baseline of the same semantics, a public range map.

use crate::baseline;
use crate::domains::Kind;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Domain, Gather, Prot, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig, Placement};
use iommu_core::quota::{Account, Amounts};
use rangemap::RangeInclusiveMap;
use std::sync::{Arc, Mutex};

/// An address space with one domain.
pub trait Space {
    /// Maps `len` bytes of memory at `phys`.
    fn map(&mut self, iova: u64, phys: u64, len: u64);
    /// Takes them out again.
    fn unmap(&mut self, iova: u64, len: u64);
}

fn range(iova: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(iova), len).expect("does not wrap")
}

/// This project's. Owners' quotas are counted, as an embedder with partitions does.
pub struct Ours {
    /// The address space.
    pub ioas: Ioas,
    _domain: Hwpt,
}

impl Ours {
    /// An empty one.
    pub fn new(kind: Kind) -> Self {
        let account = Account::new(Amounts::UNLIMITED).expect("an account");
        let ioas = Ioas::new(IoasConfig { account: Some(account), ..IoasConfig::default() }).expect("an address space");
        let unit: Arc<dyn Unit> = Arc::new(kind);
        let domain = Hwpt::new(&ioas, &unit, HwptConfig::new(iommu_core::hw::Stage::Second)).expect("a domain");
        Self { ioas, _domain: domain }
    }

    /// Maps where there is room, and returns where.
    pub fn place(&mut self, phys: u64, len: u64) -> u64 {
        let extents = [PhysExtent::new(PhysAddr::new(phys), len)];
        self.ioas.map_extents(&extents, Placement::Anywhere, Prot::READ_WRITE).expect("room").get()
    }

    /// Maps at `to` what is mapped at `from`.
    pub fn copy(&mut self, from: u64, len: u64, to: u64) {
        let placement = Placement::Fixed(Iova::new(to));
        self.ioas.copy(&self.ioas, range(from, len), placement, Prot::READ_WRITE).expect("free");
    }
}

impl Space for Ours {
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        let extents = [PhysExtent::new(PhysAddr::new(phys), len)];
        self.ioas.map_extents(&extents, Placement::Fixed(Iova::new(iova)), Prot::READ_WRITE).expect("free");
    }

    fn unmap(&mut self, iova: u64, len: u64) {
        assert_eq!(self.ioas.unmap(range(iova, len)).expect("mapped"), len);
    }
}

/// The baseline.
pub struct Baseline(baseline::Parallel);

impl Baseline {
    /// An empty one.
    pub fn new(kind: Kind) -> Self {
        Self(baseline::Parallel::new(kind.domain()))
    }
}

impl Space for Baseline {
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        let extents = [PhysExtent::new(PhysAddr::new(phys), len)];
        self.0.map(&extents, Some(iova), Prot::READ_WRITE).expect("free");
    }

    fn unmap(&mut self, iova: u64, len: u64) {
        assert_eq!(self.0.unmap(iova, iova + (len - 1)).expect("mapped"), len);
    }
}

/// The baseline without all that has to do with others at the same time.
pub struct Serial(baseline::Serial);

impl Serial {
    /// An empty one.
    pub fn new(kind: Kind) -> Self {
        Self(baseline::Serial::new(kind.domain()))
    }
}

impl Space for Serial {
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        let extents = [PhysExtent::new(PhysAddr::new(phys), len)];
        self.0.map(&extents, Some(iova), Prot::READ_WRITE).expect("free");
    }

    fn unmap(&mut self, iova: u64, len: u64) {
        assert_eq!(self.0.unmap(iova, iova + (len - 1)).expect("mapped"), len);
    }
}

/// What the range map keeps of an area. No two are equal, so that it joins none.
#[derive(Clone, PartialEq, Eq)]
struct Entry {
    phys: PhysExtent,
    prot: Prot,
    number: u64,
}

/// `rangemap`: looks for overlaps, and that is all it checks. One lock, as the others can be shared too.
pub struct Peer(Mutex<Ranges>);

struct Ranges {
    map: RangeInclusiveMap<u64, Entry>,
    domain: Box<dyn Domain>,
    next: u64,
}

impl Peer {
    /// An empty one.
    pub fn new(kind: Kind) -> Self {
        Self(Mutex::new(Ranges { map: RangeInclusiveMap::new(), domain: kind.domain(), next: 0 }))
    }
}

impl Space for Peer {
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        let this = &mut *self.0.lock().expect("no panics");
        let range = iova..=iova + (len - 1);
        assert!(!this.map.overlaps(&range), "free");
        this.next += 1;
        let entry =
            Entry { phys: PhysExtent::new(PhysAddr::new(phys), len), prot: Prot::READ_WRITE, number: this.next };
        this.domain.map(Iova::new(iova), &[entry.phys], entry.prot).expect("free");
        this.map.insert(range, entry);
    }

    fn unmap(&mut self, iova: u64, len: u64) {
        let this = &mut *self.0.lock().expect("no panics");
        let key = iova..=iova + (len - 1);
        let (found, _) = this.map.overlapping(&key).next().expect("mapped");
        assert!(*found == key, "an area that lies inside");
        let mut gather = Gather::new();
        this.domain.unmap(range(iova, len), &mut gather).expect("mapped");
        this.domain.flush(&mut gather).expect("no hardware");
        this.map.remove(key);
    }
}
