//! What operations find, and everything of it that can be seen.

use crate::heap::Outside;
use iommu_core::access::{Access, AccessConfig};
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::context::{Context, ContextConfig};
use iommu_core::device::{Device, DeviceConfig};
use iommu_core::fault::{FaultQueue, FaultRouter};
use iommu_core::group::{Group, OwnerId};
use iommu_core::hw::{Pasid, Prot, Stage, Stream, StreamId, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Accounting, Ioas, IoasConfig, Placement};
use iommu_core::pages::Pages;
use iommu_core::pasid::{PasidSet, PasidSpace};
use iommu_core::quota::{Account, Amounts};
use iommu_core::region::{RegionKind, ReservedRegion};
use iommu_tests::mock::{
    APERTURE_START, MemoryConfig, MockDomain, MockFunction, MockMemory, MockUnit, MockUser, World as Machine, range,
    set_outside,
};
use std::any::Any;
use std::fmt::Write as _;
use std::sync::Arc;

/// Where things are mapped.
pub const AT: u64 = APERTURE_START;
pub const PAGE: u64 = 4096;
pub const RW: Prot = Prot::READ_WRITE;

/// The world of one try. What comes first is dropped first.
pub struct World {
    pub kept: Vec<Box<dyn Any>>,
    pub devices: Vec<Device>,
    pub accesses: Vec<Access>,
    pub hwpts: Vec<Hwpt>,
    pub ioas: Vec<Ioas>,
    pub context: Context,
    pub pasids: PasidSpace,
    pub set: PasidSet,
    pub router: FaultRouter,
    pub queue: FaultQueue,
    pub user: Arc<MockUser>,
    pub pages: Vec<Pages>,
    pub groups: Vec<Group>,
    pub functions: Vec<Arc<MockFunction>>,
    pub memories: Vec<Arc<MockMemory>>,
    pub accounts: Vec<Account>,
    pub units: Vec<Arc<MockUnit>>,
    pub machine: Machine,
}

/// A range that one of the devices needs kept free.
pub fn region() -> IovaRange {
    range(AT + 0x80_0000, PAGE)
}

impl World {
    /// Two empty address spaces, memory of every kind, nothing mapped.
    pub fn new() -> Self {
        set_outside(Outside::enter, Outside::leave);
        let machine = Machine::new();
        let units: Vec<_> = (0..2).map(|_| MockUnit::new(&machine)).collect();
        let accounts: Vec<_> = (0..2).map(|_| Account::new(Amounts::UNLIMITED).unwrap()).collect();
        let configs = [
            MemoryConfig::contiguous(4 * PAGE, PAGE),
            // More runs than fit in one call of a driver.
            MemoryConfig::scattered(70 * PAGE),
            MemoryConfig::scattered(3 * PAGE).revocable(),
        ];
        let memories: Vec<_> = configs.map(|config| MockMemory::new(&machine, config)).into();
        let pages: Vec<_> =
            memories.iter().map(|memory| Pages::new(memory.clone(), Some(&accounts[0])).unwrap()).collect();
        let config = |accounting| IoasConfig { account: Some(accounts[0].clone()), accounting };
        let ioas = [Accounting::PerOwner, Accounting::PerAddressSpace].map(|how| Ioas::new(config(how)).unwrap());
        let pasids = PasidSpace::new(20, &[]).unwrap();
        Self {
            kept: Vec::new(),
            devices: Vec::new(),
            accesses: Vec::new(),
            hwpts: Vec::new(),
            ioas: ioas.into(),
            context: Context::new(Some(&accounts[0]), ContextConfig::default()),
            set: pasids.set(100, Some(&accounts[0])).unwrap(),
            pasids,
            router: FaultRouter::new(units[0].clone()).unwrap(),
            queue: FaultQueue::new(8).unwrap(),
            user: MockUser::new(),
            pages,
            groups: (0..2).map(|_| Group::new(Some(&accounts[0])).unwrap()).collect(),
            functions: (0..2).map(|_| MockFunction::capable(&machine)).collect(),
            memories,
            accounts,
            units,
            machine,
        }
    }

    pub fn unit(&self, at: usize) -> Arc<dyn Unit> {
        self.units[at].clone()
    }

    /// A domain of the first address space on a unit.
    pub fn with_domain(mut self, unit: usize) -> Self {
        let config =
            HwptConfig { pasid: true, nest_parent: true, dirty_tracking: true, ..HwptConfig::new(Stage::Second) };
        let hwpt = Hwpt::new(&self.ioas[0], &self.unit(unit), config).unwrap();
        self.hwpts.push(hwpt);
        self
    }

    /// A device of the first group on the first unit, bound; the second of it has a region.
    pub fn with_device(mut self) -> Self {
        let number = self.devices.len();
        let kept = [ReservedRegion { range: region(), kind: RegionKind::Reserved }];
        let device = Device::new(
            &self.groups[0],
            &DeviceConfig {
                unit: self.unit(0),
                streams: &[StreamId::new(0x10 + 2 * number as u32), StreamId::new(0x11 + 2 * number as u32)],
                function: Some(self.functions[number].clone()),
                regions: &kept[..number.min(1)],
                coherent: true,
                isolated_msi: true,
                router: Some(self.router.clone()),
                account: Some(self.accounts[0].clone()),
            },
        );
        let device = device.unwrap();
        device.bind(OwnerId(1), false).unwrap();
        self.devices.push(device);
        self
    }

    /// An access that is not attached.
    pub fn with_access(mut self) -> Self {
        let account = Some(self.accounts[0].clone());
        let config =
            AccessConfig { user: Some(self.user.clone()), alignment: 2048, account, ..AccessConfig::default() };
        self.accesses.push(Access::new(config).unwrap());
        self
    }

    /// Everything of a memory is mapped in the first address space, one page behind what is there already.
    pub fn with_map(self, memory: usize) -> Self {
        let mut at = AT;
        while let Some(area) = self.ioas[0].area(range(at, 1 << 20)) {
            at = area.range.last().get() + 1 + PAGE;
        }
        self.with_map_at(memory, at)
    }

    /// Everything of a memory is mapped in the first address space.
    pub fn with_map_at(self, memory: usize, at: u64) -> Self {
        let pages = &self.pages[memory];
        self.ioas[0].map(pages, 0, pages.len(), Placement::Fixed(Iova::new(at)), RW).unwrap();
        self
    }

    /// Everything that can be seen, line by line. What records cost is the last line: some of them are kept for the next
    /// time when an operation fails.
    pub fn snapshot(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, ioas) in self.ioas.iter().enumerate() {
            let mut from = Some(Iova::new(0));
            while let Some(rest) = from.and_then(|from| IovaRange::new(from, Iova::new(u64::MAX))) {
                let Some(area) = ioas.area(rest) else { break };
                lines.push(format!("{number}: {area:?} at {:?}", ioas.translate(area.range.start())));
                from = area.range.last().checked_add(1);
            }
            let mut ranges = [IovaRange::FULL; 8];
            let count = ioas.iova_ranges(&mut ranges);
            lines.push(format!("{number}: {:?}, {}, {}", &ranges[..count], ioas.alignment(), ioas.large_pages()));
        }
        for hwpt in &self.hwpts {
            let mock = MockDomain::of(hwpt.domain());
            lines.push(format!("domain: {:?}, stale {}, used {}", runs(mock), mock.has_stale(), hwpt.is_used()));
        }
        lines.extend(self.memories.iter().zip(&self.pages).map(|(memory, pages)| {
            format!("memory: {} {} {}", memory.is_pinned(), pages.is_pinned(), pages.is_revoked())
        }));
        lines.push(format!("reachable: {}, pinned: {}", self.machine.reachable() > 0, self.machine.pinned_pages()));
        for device in &self.devices {
            let pasids: Vec<_> = self.hwpts.iter().map(|hwpt| device.pasid_of(hwpt)).collect();
            lines.push(format!("device: {}, {pasids:?}", device.is_attached()));
        }
        for function in &self.functions {
            use iommu_core::device::Feature;
            let on = [Feature::Pasid, Feature::Ats, Feature::Pri].map(|feature| function.is_on(feature));
            lines.push(format!("function: {on:?}, {}", function.is_bus_master()));
        }
        self.add_streams(&mut lines);
        let mut sets = String::new();
        self.set.for_each(&mut |pasid, private, state| {
            let _ = write!(sets, "{pasid:?} {private:?} {state:?}; ");
        });
        lines.push(format!("PASIDs: {sets}{} left", self.pasids.available()));
        lines.push(format!("objects: {}, pins held: {}", self.context.len(), self.user.held()));
        for account in &self.accounts {
            let used = account.usage();
            lines.push(format!("account: {} pinned, {} objects, {} PASIDs", used.pinned, used.objects, used.pasids));
        }
        let records: Vec<_> = self.accounts.iter().map(|account| account.usage().metadata).collect();
        lines.push(format!("records: {records:?}"));
        lines
    }

    fn add_streams(&self, lines: &mut Vec<String>) {
        for unit in &self.units {
            let mut leads = format!("{} streams: ", unit.attached());
            for id in (0x10..0x14).map(StreamId::new) {
                for pasid in [None, Pasid::new(3)] {
                    let stream = Stream { id, pasid };
                    let whither = unit.ways(stream, AT).len();
                    let _ = write!(leads, "{} {whither}; ", unit.leads(stream) == iommu_tests::mock::Leads::Blocked);
                }
            }
            for id in (0x10..0x14).map(StreamId::new) {
                let _ = write!(leads, "{:?} ", unit.device_tlb(id));
            }
            lines.push(leads);
        }
    }
}

/// What a domain's tables hold, in whatever leaves that is.
fn runs(mock: &MockDomain) -> Vec<(IovaRange, u64, Prot)> {
    let mut runs: Vec<(IovaRange, u64, Prot)> = Vec::new();
    for (range, phys, prot) in mock.leaves() {
        let joins = |run: &&mut (IovaRange, u64, Prot)| {
            let len = run.0.len().unwrap_or(0);
            run.0.is_followed_by(range) && run.1 + len == phys.get() && run.2 == prot
        };
        match runs.last_mut().filter(joins) {
            Some(run) => run.0 = run.0.union(range),
            None => runs.push((range, phys.get(), prot)),
        }
    }
    runs
}
