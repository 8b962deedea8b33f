//! What CPUs share in a schedule.

use crate::explore::platform;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{Prot, Stage, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Accounting, AreaInfo, Ioas, IoasConfig};
use iommu_core::pages::Pages;
use iommu_core::quota::{Account, Amounts};
use iommu_tests::mock::{APERTURE_START, MemoryConfig, MockDomain, MockMemory, MockUnit, World as Machine};
use std::sync::Arc;

pub const AT: u64 = APERTURE_START;
pub const PAGE: u64 = 4096;
pub const RW: Prot = Prot::READ_WRITE;

/// Two units, two address spaces, two pieces of memory with sources, the second on loan.
pub struct World {
    pub machine: Machine,
    pub units: Vec<Arc<MockUnit>>,
    pub accounts: Vec<Account>,
    pub memories: Vec<Arc<MockMemory>>,
    pub pages: Vec<Pages>,
    pub ioas: Vec<Ioas>,
}

impl World {
    pub fn new() -> Self {
        platform();
        let machine = Machine::new();
        let units: Vec<_> = (0..2).map(|_| MockUnit::new(&machine)).collect();
        let accounts: Vec<_> = (0..2).map(|_| Account::new(Amounts::UNLIMITED).unwrap()).collect();
        let configs = [MemoryConfig::contiguous(4 * PAGE, PAGE), MemoryConfig::scattered(3 * PAGE).revocable()];
        let memories: Vec<_> = configs.into_iter().map(|config| MockMemory::new(&machine, config)).collect();
        let pages = memories.iter().map(|memory| Pages::new(memory.clone(), Some(&accounts[0])).unwrap()).collect();
        let ioas = [Accounting::PerOwner, Accounting::PerAddressSpace]
            .map(|accounting| Ioas::new(IoasConfig { account: Some(accounts[0].clone()), accounting }).unwrap());
        Self { machine, units, accounts, memories, pages, ioas: ioas.into() }
    }

    pub fn unit(&self, at: usize) -> Arc<dyn Unit> {
        self.units[at].clone()
    }

    /// A domain of an address space on a unit.
    pub fn domain(&self, ioas: usize, unit: usize) -> Hwpt {
        let config = HwptConfig { pasid: true, ..HwptConfig::new(Stage::Second) };
        Hwpt::new(&self.ioas[ioas], &self.unit(unit), config).unwrap()
    }

    /// The areas of an address space.
    pub fn areas(&self, ioas: usize) -> Vec<AreaInfo> {
        areas(&self.ioas[ioas])
    }

    /// That a domain holds what its address space holds, and nothing is left to flush.
    pub fn check_domain(&self, ioas: usize, hwpt: &Hwpt) {
        let mock = MockDomain::of(hwpt.domain());
        let mut mapped = 0;
        for area in self.areas(ioas).iter().filter(|area| !area.revoked) {
            let (first, len) = (area.range.start().get(), area.range.len().unwrap());
            for at in (first..first + len).step_by(2048) {
                let expected = self.ioas[ioas].translate(Iova::new(at)).map(|phys| (phys, area.prot));
                assert_eq!(mock.ways(at), Vec::from_iter(expected), "{at:#x}");
            }
            mapped += len;
        }
        assert_eq!((mock.mapped(), mock.has_stale()), (mapped, false));
    }

    /// That memory is pinned if areas have it, and only then.
    pub fn check_pins(&self) {
        for (memory, pages) in self.memories.iter().zip(&self.pages) {
            assert_eq!(memory.is_pinned(), pages.is_pinned());
        }
        let any = (0..self.ioas.len()).any(|ioas| self.areas(ioas).iter().any(|area| !area.revoked));
        assert!(any || self.memories.iter().all(|memory| !memory.is_pinned()), "pinned, and nothing is mapped");
    }

    /// Takes everything away; nothing is left.
    pub fn finish(self) {
        self.ioas.iter().for_each(|ioas| _ = ioas.unmap_all().unwrap());
        self.check_pins();
        let (machine, accounts) = (self.machine.clone(), self.accounts.clone());
        drop(self);
        machine.assert_clean();
        for account in accounts {
            assert_eq!(account.usage(), Amounts::NONE);
        }
    }
}

/// All areas, lowest first.
pub fn areas(ioas: &Ioas) -> Vec<AreaInfo> {
    let mut areas = Vec::new();
    let mut from = Some(Iova::new(0));
    while let Some(area) = from.and_then(|from| ioas.area(IovaRange::new(from, Iova::new(u64::MAX))?)) {
        areas.push(area);
        from = area.range.last().checked_add(1);
    }
    areas
}
