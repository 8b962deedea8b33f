//! The real thing and what it ought to be, side by side, and how they are compared.

use super::accesses::Pinned;
use super::devices::Dev;
use super::flat::{Flat, LARGEST, PAGE};
use super::holder::Holder;
use super::layout::Layout;
use crate::mock::{COMMON_SIZES, MockMemory, MockUnit, UnitConfig, World as Machine, span};
use iommu_core::access::{Access, AccessConfig, AccessUser};
use iommu_core::addr::PhysExtent;
use iommu_core::hwpt::Hwpt;
use iommu_core::ioas::{Accounting, Ioas, IoasConfig, RangeLock};
use iommu_core::pages::{MemoryKind, Pages, PagesPin};
use iommu_core::quota::{Account, Amounts};
use std::sync::Arc;

/// An address space.
pub struct Space {
    /// The real one.
    pub real: Ioas,
    /// What it ought to be.
    pub flat: Flat,
    /// Who pays, by number.
    pub account: Option<usize>,
    /// For what.
    pub accounting: Accounting,
}

/// Memory.
pub struct Object {
    /// The real one.
    pub pages: Pages,
    /// Its source, where it has one.
    pub memory: Option<Arc<MockMemory>>,
    /// Where it lies.
    pub extents: Vec<PhysExtent>,
    /// Its length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: MemoryKind,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether it may be taken back, and was.
    pub revocable: bool,
    /// It was taken back, or that was begun: nobody can pin it any more.
    pub revoked: bool,
    /// Taking it back was done with: it is not pinned.
    pub gone: bool,
    /// Pinning fails.
    pub fails: bool,
    /// Who pays, by number.
    pub account: Option<usize>,
    /// Pre-registrations.
    pub registered: Vec<PagesPin>,
    /// What ought to be in it.
    pub bytes: Vec<u8>,
}

impl Object {
    /// Where the byte at `offset` lies.
    pub fn phys(&self, mut offset: u64) -> u64 {
        for extent in &self.extents {
            if offset < extent.len {
                return extent.start.get().wrapping_add(offset);
            }
            offset -= extent.len;
        }
        panic!("{offset:#x} lies behind the memory")
    }

    /// Whether the `len` bytes from `offset` on are one run.
    pub fn is_one_run(&self, offset: u64, len: u64) -> bool {
        self.phys(offset).checked_add(len - 1) == Some(self.phys(offset + (len - 1)))
            && (offset..offset + len).step_by(512).all(|at| self.phys(at) == self.phys(offset) + (at - offset))
    }
}

/// A domain.
pub struct Domain {
    /// The owner's handle, while there is one.
    pub handle: Option<Hwpt>,
    /// The mock's number for it.
    pub number: u64,
    /// Its address space.
    pub space: usize,
    /// Its unit.
    pub unit: usize,
    /// PASIDs may lead to it.
    pub pasid: bool,
    /// It was made by an attach.
    pub auto: bool,
    /// How many streams lead to it.
    pub attached: usize,
}

/// A software user.
pub struct Acc {
    /// The real one.
    pub real: Access,
    /// Who is told; without one nothing can be pinned.
    pub user: Option<Arc<Holder>>,
    /// What its pins are multiples of.
    pub align: u64,
    /// The address space that it uses.
    pub space: Option<usize>,
}

/// A range that is kept mapped.
pub struct Lock {
    /// The real one.
    pub real: RangeLock,
    /// The address space.
    pub space: usize,
    /// Its first address.
    pub first: u64,
    /// Its last address.
    pub last: u64,
}

/// Everything.
pub struct World {
    /// What addresses and memory there are.
    pub layout: Layout,
    /// What the mocks have in common.
    pub machine: Machine,
    /// What was done so far, for messages.
    pub steps: usize,
    /// Address spaces.
    pub spaces: Vec<Space>,
    /// Memory, with sources and without, also what was taken back.
    pub objects: Vec<Object>,
    /// What operations find under a number.
    pub current: Vec<usize>,
    /// Units whose flushes are not confirmed.
    pub unconfirmed: [bool; 2],
    /// Units that have no memory for tables, at some time.
    pub no_tables: [bool; 2],
    /// Pins of accesses.
    pub pins: Vec<Pinned>,
    /// How many there ever were.
    pub pins_made: u64,
    /// Domains, those that are gone as `None`.
    pub domains: Vec<Option<Domain>>,
    /// Domains with handles, by slot.
    pub slots: [Option<usize>; 4],
    /// Devices.
    pub devices: Vec<Dev>,
    /// Software users.
    pub accesses: Vec<Acc>,
    /// Ranges that are kept mapped.
    pub locks: Vec<Lock>,
    /// Accounts, with what they may pin.
    pub accounts: Vec<(Account, u64)>,
    /// Units.
    pub units: Vec<Arc<MockUnit>>,
}

/// Most areas that one address space holds in a test: more make it slow and show no more.
pub const MOST_AREAS: usize = 48;

impl World {
    /// A new world.
    pub fn new(layout: Layout) -> Self {
        let machine = Machine::new();
        let accounts: Vec<_> = (0..2).map(|_| (Account::new(Amounts::UNLIMITED).unwrap(), u64::MAX)).collect();
        let spaces = (0..3).map(|number| {
            // One pays per address space, one is told nothing of quotas, and the other per owner.
            let accounting = if number == 2 { Accounting::PerAddressSpace } else { Accounting::PerOwner };
            let account = (number != 1).then_some(number / 2);
            let config = IoasConfig { account: account.map(|at| accounts[at].0.clone()), accounting };
            Space { real: Ioas::new(config).unwrap(), flat: Flat::default(), account, accounting }
        });
        let mut world = Self {
            layout,
            spaces: spaces.collect(),
            objects: Vec::new(),
            current: Vec::new(),
            unconfirmed: [false; 2],
            no_tables: [false; 2],
            pins: Vec::new(),
            pins_made: 0,
            domains: Vec::new(),
            slots: [None; 4],
            devices: Vec::new(),
            accesses: Vec::new(),
            locks: Vec::new(),
            accounts,
            units: Vec::new(),
            machine,
            steps: 0,
        };
        let sources = layout.sources();
        for (number, config) in sources.iter().enumerate() {
            let memory = MockMemory::new(&world.machine, *config);
            let object = world.object(memory, (number % 3).checked_sub(1));
            world.objects.push(object);
        }
        for extents in layout.plain(&world.machine) {
            let pages = Pages::from_extents(&extents).unwrap();
            let len = pages.len();
            let (kind, writable, revocable) = (MemoryKind::Ram, true, false);
            world.objects.push(Object {
                pages,
                memory: None,
                extents,
                len,
                kind,
                writable,
                revocable,
                revoked: false,
                gone: false,
                fails: false,
                account: None,
                registered: Vec::new(),
                bytes: Vec::new(),
            });
        }
        world.current = (0..world.objects.len()).collect();
        if layout == Layout::Small {
            world.add_hardware();
            world.add_devices();
        }
        world
    }

    /// Memory with a source.
    pub fn object(&self, memory: Arc<MockMemory>, account: Option<usize>) -> Object {
        memory.fill();
        use iommu_core::pages::Memory as _;
        let pays = account.map(|at| &self.accounts[at].0);
        Object {
            pages: Pages::new(memory.clone(), pays).unwrap(),
            extents: memory.extents().to_vec(),
            len: memory.len(),
            kind: memory.kind(),
            writable: memory.writable(),
            revocable: memory.revocable(),
            revoked: false,
            gone: false,
            fails: false,
            account,
            registered: Vec::new(),
            bytes: memory.peek(0, memory.len()),
            memory: Some(memory),
        }
    }

    /// Units, devices and accesses.
    fn add_hardware(&mut self) {
        // The one of the reference's selftest; and one with usual page sizes, a wider aperture and a hole in it.
        self.units.push(MockUnit::new(&self.machine));
        self.units.push(MockUnit::with(
            &self.machine,
            UnitConfig {
                page_sizes: COMMON_SIZES,
                aperture: span(0, (1 << 39) - 1),
                reserved: vec![span(0xfee0_0000, 0xfeef_ffff)],
                ..UnitConfig::default()
            },
        ));
        for (align, user) in [(1, true), (2048, true), (4096, false)] {
            let user = user.then(Holder::new);
            let told = user.clone().map(|user| user as Arc<dyn AccessUser>);
            let config = AccessConfig { user: told, alignment: align, ..AccessConfig::default() };
            self.accesses.push(Acc { real: Access::new(config).unwrap(), user, align, space: None });
        }
        (0..2).for_each(|number| self.access_attach(number, number, false));
    }

    /// The number of a domain that is there, by slot.
    pub fn in_slot(&self, slot: u8) -> (usize, Option<usize>) {
        let slot = usize::from(slot) % self.slots.len();
        (slot, self.slots[slot])
    }

    /// How large an alignment automatic placement would like to give `len` bytes from `offset` of an object.
    pub fn preferred(&self, space: usize, object: usize, offset: u64, len: u64) -> u64 {
        let flat = &self.spaces[space].flat;
        let domains = self.domains.iter().flatten().filter(|domain| domain.space == space);
        let pages =
            domains.map(|domain| 1 << (63 - self.units[domain.unit].config().page_sizes.mask().leading_zeros()));
        let most = if flat.small_only { PAGE } else { pages.max().unwrap_or(LARGEST) };
        let phys = self.objects[object].phys(offset);
        let lowest = if phys == 0 { most } else { phys & phys.wrapping_neg() };
        let up = len.checked_next_power_of_two().unwrap_or(most);
        up.min(lowest).min(most).max(flat.alignment())
    }

    /// Whether anything keeps an object pinned.
    pub fn is_used(&self, object: usize) -> bool {
        let mut areas = self.spaces.iter().flat_map(|space| &space.flat.areas);
        let here = &self.objects[object];
        !here.gone && (!here.registered.is_empty() || areas.any(|area| area.object == object))
    }

    /// What `len` bytes of an object cost an address space.
    pub fn cost(&self, space: usize, object: usize, len: u64) -> u64 {
        let by_owner = self.spaces[space].accounting == Accounting::PerOwner && self.objects[object].memory.is_some();
        if by_owner { 0 } else { len }
    }

    /// What an account ought to pay for in pinned bytes.
    pub fn pinned(&self, account: usize) -> u64 {
        let objects = self.objects.iter().enumerate();
        let objects = objects.filter(|(at, object)| object.account == Some(account) && self.is_used(*at));
        let mut sum: u64 = objects.map(|(_, object)| object.len).sum();
        for (number, space) in self.spaces.iter().enumerate().filter(|(_, space)| space.account == Some(account)) {
            sum += space.flat.areas.iter().map(|area| self.cost(number, area.object, area.len())).sum::<u64>();
        }
        sum
    }

    /// Whether an account can pay for `more` pinned bytes.
    pub fn can_pay(&self, account: Option<usize>, more: u64) -> bool {
        account.is_none_or(|at| {
            more == 0 || self.pinned(at).checked_add(more).is_some_and(|all| all <= self.accounts[at].1)
        })
    }
}
