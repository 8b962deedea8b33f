//! How address spaces go, with all that is in them.

use crate::common::*;
use iommu_core::context::{Context, ContextConfig, ObjectId};
use iommu_core::device::AttachTo;
use iommu_core::hw::Prot;
use iommu_core::ioas::Ioas;
use iommu_core::quota::{Account, Amounts};
use iommu_tests::mock::*;

/// A context with an address space, and devices that lead there.
struct Objects {
    leads: Vec<Lead>,
    ioas: ObjectId,
    context: Context,
    account: Account,
    world: World,
}

impl Objects {
    fn new(case: Case) -> Self {
        let world = World::new();
        let limits = Amounts { pinned: PIN_LIMIT, metadata: RECORDS_LIMIT, objects: 64, pasids: 0 };
        let account = Account::new(if case == Case::Limited { limits } else { Amounts::UNLIMITED }).unwrap();
        let context = Context::new(Some(&account), ContextConfig::default());
        let ioas = context.create(&[], || Ioas::new(context.ioas_config())).unwrap();
        let domains = [Case::NoDomain, Case::One, Case::Two].iter().position(|other| *other == case).unwrap_or(1);
        let mut leads = Vec::new();
        for number in 0..domains {
            let lead = Lead::device(&MockUnit::new(&world), 0x700 + number as u32);
            lead.dev().attach(AttachTo::Auto(&context.get::<Ioas>(ioas).unwrap())).unwrap();
            leads.push(lead);
        }
        Self { leads, ioas, context, account, world }
    }

    /// Ten areas of one page.
    fn map(&self) -> Source {
        let source = Source::new(&self.world, MemoryConfig::scattered(10 * PAGE), Some(&self.account));
        let ioas = self.context.get::<Ioas>(self.ioas).unwrap();
        for index in 0..10 {
            let place = at(APERTURE_START + 16 * index * PAGE);
            ioas.map(&source.pages, index * PAGE, PAGE, place, Prot::READ).unwrap();
        }
        source
    }

    /// The address space is destroyed, unless something leads there.
    fn destroy(&mut self) {
        while !self.leads.is_empty() {
            assert_eq!(errno(self.context.destroy(self.ioas)), EBUSY);
            for lead in &self.leads {
                assert!(lead.unit.leads(lead.stream) != Leads::Blocked, "a destroy that was refused changed something");
            }
            self.leads.pop();
        }
        self.context.destroy(self.ioas).unwrap();
        assert_eq!(errno(self.context.destroy(self.ioas)), ENOENT);
        self.world.assert_clean();
    }

    #[track_caller]
    fn close(self) {
        let Self { leads, context, account, world, .. } = self;
        drop(leads);
        context.close().unwrap();
        world.assert_clean();
        assert_eq!(account.usage(), Amounts::NONE);
    }
}

/// Everything is taken down at once, in whichever order its owner lets go of it.
pub fn ioas_auto_destroy(case: Case) {
    Objects::new(case).close();
    let Objects { leads, context, account, world, .. } = Objects::new(case);
    drop(context);
    drop(leads);
    world.assert_clean();
    assert_eq!(account.usage(), Amounts::NONE);
    Rig::new(case).close();
    let Rig { leads, ioas, world, .. } = Rig::new(case);
    drop(ioas);
    drop(leads);
    world.assert_clean();
}

pub fn ioas_destroy(case: Case) {
    let mut objects = Objects::new(case);
    objects.destroy();
    objects.close();
}

/// Areas are in nobody's way; but they stay as long as anything leads there.
pub fn ioas_area_destroy(case: Case) {
    let mut objects = Objects::new(case);
    let source = objects.map();
    for lead in &objects.leads {
        assert_eq!(lead.mapped(), 10 * PAGE);
    }
    if !objects.leads.is_empty() {
        assert_eq!(errno(objects.context.destroy(objects.ioas)), EBUSY);
        assert_eq!(objects.leads[0].mapped(), 10 * PAGE);
    }
    objects.destroy();
    assert!(!source.memory.is_pinned());
    drop(source);
    objects.close();
}

/// Areas go with their address space, and their memory is unpinned.
pub fn ioas_area_auto_destroy(case: Case) {
    let objects = Objects::new(case);
    drop(objects.map());
    objects.close();
    for address_space_first in [false, true] {
        let rig = Rig::new(case);
        let source = rig.source(10 * PAGE);
        for index in 0..10 {
            let place = rig.base + 16 * index * PAGE;
            rig.ioas.map(&source.pages, index * PAGE, PAGE, at(place), Prot::READ).unwrap();
        }
        if address_space_first {
            let Rig { leads, ioas, world, .. } = rig;
            drop(ioas);
            drop(leads);
            assert!(!source.memory.is_pinned());
            world.assert_clean();
        } else {
            rig.close();
            assert!(!source.memory.is_pinned());
        }
    }
}
