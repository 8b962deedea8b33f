//! An address space and its domains.

use super::*;
use iommu_core::access::{Access, AccessConfig, AccessUser};
use iommu_core::device::AttachTo;
use iommu_core::hw::Prot;
use iommu_core::ioas::IoasConfig;
use iommu_core::quota::Amounts;
use std::cell::RefCell;
use std::sync::Weak;

/// How much of what an address space has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    NoDomain,
    One,
    Two,
    /// One domain; and its owner has hardly more memory than the tests need.
    Limited,
}

/// Bytes that may be pinned where memory is limited.
pub const PIN_LIMIT: u64 = 2 << 20;
/// Bytes of records there.
pub const RECORDS_LIMIT: u64 = 256 << 10;

/// An address space, its domains, and the machine around it.
pub struct Rig {
    pub leads: Vec<Lead>,
    pub ioas: Ioas,
    pub account: Option<Account>,
    pub world: World,
    /// The lowest address to use.
    pub base: u64,
    /// Memory that was made, and what its record costs while it is there.
    records: RefCell<Vec<(Weak<MockMemory>, u64)>>,
}

impl Rig {
    pub fn new(case: Case) -> Self {
        let world = World::new();
        let limits = Amounts { pinned: PIN_LIMIT, metadata: RECORDS_LIMIT, objects: 64, pasids: 0 };
        let account = (case == Case::Limited).then(|| Account::new(limits).unwrap());
        let ioas = Ioas::new(IoasConfig { account: account.clone(), ..IoasConfig::default() }).unwrap();
        let mut rig = Self { leads: Vec::new(), ioas, account, world, base: 0, records: RefCell::default() };
        let domains = match case {
            Case::NoDomain => 0,
            Case::One | Case::Limited => 1,
            Case::Two => 2,
        };
        for _ in 0..domains {
            rig.add_domain().unwrap();
        }
        rig.base = if domains == 0 { 4 * PAGE } else { APERTURE_START };
        rig
    }

    /// A domain more, on a unit of its own, with a device that leads there. Returns its number among the leads.
    pub fn add_domain(&mut self) -> Result<usize, Error> {
        let unit = MockUnit::new(&self.world);
        let stream = 0x100 + self.leads.len() as u32;
        let lead = Lead::device(&unit, stream);
        lead.dev().attach(AttachTo::Auto(&self.ioas))?;
        self.leads.push(lead);
        Ok(self.leads.len() - 1)
    }

    pub fn has_domain(&self) -> bool {
        !self.leads.is_empty()
    }

    /// Another address space of the same owner.
    pub fn another(&self) -> Ioas {
        Ioas::new(IoasConfig { account: self.account.clone(), ..IoasConfig::default() }).unwrap()
    }

    /// Scattered memory.
    pub fn source(&self, len: u64) -> Source {
        self.source_of(MemoryConfig::scattered(len))
    }

    pub fn source_of(&self, config: MemoryConfig) -> Source {
        let metadata = || self.account.as_ref().map_or(0, |account| account.usage().metadata);
        let before = metadata();
        let source = Source::new(&self.world, config, self.account.as_ref());
        self.records.borrow_mut().push((Arc::downgrade(&source.memory), metadata() - before));
        source
    }

    /// An access to the address space.
    pub fn access(&self, user: Option<Arc<MockUser>>, alignment: u64) -> Access {
        let user = user.map(|user| user as Arc<dyn AccessUser>);
        let config = AccessConfig { user, alignment, account: self.account.clone(), ..AccessConfig::default() };
        let access = Access::new(config).unwrap();
        access.attach(&self.ioas).unwrap();
        access
    }

    /// Maps all of `source` at `iova`, for everything.
    pub fn map_all(&self, source: &Source, iova: u64) {
        let len = source.pages.len();
        let got = self.ioas.map(&source.pages, 0, len, at(iova), Prot::READ_WRITE).unwrap();
        assert_eq!(got.get(), iova);
    }

    pub fn unmap(&self, iova: u64, len: u64) -> Result<u64, Error> {
        self.ioas.unmap(range(iova, len))
    }

    /// The address space has exactly these areas, and each domain exactly what they say.
    #[track_caller]
    pub fn expect(&self, areas: &[Expected<'_>]) {
        expect_areas(&self.ioas, areas);
        for lead in &self.leads {
            expect_tables(lead, areas);
        }
    }

    /// Each domain has this many bytes mapped.
    #[track_caller]
    pub fn expect_mapped(&self, len: u64) {
        for lead in &self.leads {
            assert_eq!(lead.mapped(), len);
        }
    }

    /// Takes everything down; nothing is left of it.
    #[track_caller]
    pub fn close(self) {
        let Self { leads, ioas, account, world, records, .. } = self;
        if let Some(account) = &account {
            let before = (account.usage(), world.pinned_pages());
            let large = Source::new(&world, MemoryConfig::scattered(PIN_LIMIT + PAGE), Some(account));
            // The buffer alone is too much, so its pin is refused, wherever it is to be mapped.
            let refused = ioas.map(&large.pages, 0, PIN_LIMIT + PAGE, Placement::Anywhere, Prot::READ);
            assert_eq!(errno(refused), ENOMEM);
            drop(large);
            assert_eq!((account.usage(), world.pinned_pages()), before, "a map that was refused changed something");
        }
        drop(leads);
        drop(ioas);
        world.assert_clean();
        if let Some(account) = account {
            // The test may still hold memory; nothing of it is pinned.
            let held =
                records.borrow().iter().filter(|(memory, _)| memory.strong_count() > 0).map(|(_, cost)| cost).sum();
            let left = Amounts { metadata: held, ..Amounts::NONE };
            assert_eq!(account.usage(), left, "something is still charged");
        }
    }
}

/// A number that divides what is mapped where a domain is.
pub fn alignment(case: Case) -> u64 {
    if case == Case::NoDomain { 1 } else { MOCK_PAGE }
}
