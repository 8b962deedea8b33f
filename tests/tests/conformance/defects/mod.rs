//! What went wrong in Linux once and has a counterpart here, in the order of the reference's list. Each of these fails
//! where the same mistake is made here.

mod bounds;
mod faults;

use crate::common::*;
use iommu_core::access::{Access, AccessConfig, AccessUser};
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_core::hw::{Domain, HwError, Prot};
use iommu_core::ioas::{Accounting, Ioas, IoasConfig};
use iommu_core::pages::{Memory, MemoryError, Pages};
use iommu_core::quota::{Account, Amounts};
use iommu_tests::mock::*;
use std::sync::{Arc, Mutex};

const BASE: u64 = APERTURE_START;

type Hook = Mutex<Option<Box<dyn FnOnce() + Send>>>;

/// Memory that does something else in the middle of being pinned.
struct Interrupted {
    memory: Arc<MockMemory>,
    hook: Hook,
}

impl Memory for Interrupted {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn pin(&self, extent: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError> {
        if let Some(hook) = self.hook.lock().unwrap().take() {
            hook();
        }
        self.memory.pin(extent)
    }

    fn unpin(&self) {
        self.memory.unpin();
    }
}

/// 1. The owner changes while an area is being made: what the area costs is paid once, by whoever is the owner then.
#[test]
fn owner_changes_while_an_area_is_set_up() {
    for accounting in [Accounting::PerOwner, Accounting::PerAddressSpace] {
        let world = World::new();
        let account = || Account::new(Amounts::UNLIMITED).unwrap();
        let (one, two) = (account(), account());
        let ioas = Arc::new(Ioas::new(IoasConfig { account: Some(one.clone()), accounting }).unwrap());
        let memory = MockMemory::new(&world, MemoryConfig::scattered(4 * PAGE));
        let interrupted = Arc::new(Interrupted { memory: memory.clone(), hook: Mutex::default() });
        let payer = (accounting == Accounting::PerOwner).then_some(&one);
        let pages = Pages::new(interrupted.clone(), payer).unwrap();
        let (space, same, to) = (ioas.clone(), pages.clone(), two.clone());
        let moved = Arc::new(Mutex::new(None));
        let outcome = moved.clone();
        *interrupted.hook.lock().unwrap() = Some(Box::new(move || {
            // Either refused because an area is being made, or whole.
            let result = space.change_owner(Some(&to));
            if result.is_ok() && accounting == Accounting::PerOwner {
                let _ = same.change_owner(Some(&to));
            }
            *outcome.lock().unwrap() = Some(result);
        }));
        ioas.map(&pages, 0, 3 * PAGE, at(BASE), Prot::READ).unwrap();
        let result = moved.lock().unwrap().take().expect("nobody changed the owner");
        assert!(result.is_ok() || errno(result) == EBUSY, "{result:?}");
        // Whatever came of it: nothing is paid twice, and nothing is forgotten.
        let pinned = if accounting == Accounting::PerOwner { 4 * PAGE } else { 3 * PAGE };
        assert_eq!(one.usage().pinned + two.usage().pinned, pinned);
        ioas.change_owner(Some(&two)).unwrap();
        if accounting == Accounting::PerOwner {
            pages.change_owner(Some(&two)).unwrap();
        }
        assert_eq!((one.usage(), two.usage().pinned), (Amounts::NONE, pinned));
        ioas.unmap_all().unwrap();
        assert_eq!(two.usage().pinned, 0);
        drop((ioas, pages));
        assert_eq!((one.usage(), two.usage()), (Amounts::NONE, Amounts::NONE));
        world.assert_clean();
    }
}

/// 5. What a driver says is not turned round: an error is one, and undoes; success is none.
#[test]
fn a_map_that_fails_is_an_error_and_one_that_does_not_is_none() {
    let mut rig = Rig::new(Case::Two);
    rig.base = BASE;
    let source = rig.source(4 * PAGE);
    for which in 0..2 {
        for error in [HwError::OutOfMemory, HwError::Hardware("no"), Script::TIMED_OUT] {
            rig.leads[which].unit.script().fail(Call::Map, 0, error, Effect::None);
            let result = rig.ioas.map(&source.pages, 0, 4 * PAGE, at(BASE), Prot::READ);
            assert!(result.is_err(), "{error:?} was taken for success");
            rig.expect(&[]);
            assert!(!source.memory.is_pinned());
            rig.map_all(&source, BASE);
            rig.expect(&[expected(BASE, 4 * PAGE, &source, 0, Prot::READ_WRITE)]);
            rig.ioas.unmap_all().unwrap();
        }
    }
    rig.close();
}

/// 6. To map nothing is no error, for tables; extents of no length are not there, for address spaces.
#[test]
fn to_map_nothing_is_no_error() {
    let bench = iommu_tests::bench::Bench::up(&iommu_tests::case::Case::plain()[0]);
    let arm = iommu_tests::smmuv3::bench::Bench::up(&iommu_tests::smmuv3::case::Case::all()[0]);
    let empty = PhysExtent::new(PhysAddr::new(0x10_0000), 0);
    for domain in [bench.domain(), arm.domain()] {
        let domain: &dyn Domain = &*domain;
        for extents in [&[][..], &[empty], &[empty, empty]] {
            domain.map(iova(0x10_0000), extents, Prot::READ).unwrap();
        }
        assert_eq!(domain.translate(iova(0x10_0000)), None);
    }
    let rig = Rig::new(Case::One);
    let page = rig.world.phys(PAGE, PAGE);
    rig.ioas.map_extents(&[empty, page, empty, empty], at(BASE), Prot::READ).unwrap();
    assert_eq!(rig.leads[0].ways(BASE), [(page.start.get(), Prot::READ)]);
    assert_eq!(rig.ioas.translate(iova(BASE + PAGE)), None);
    assert_eq!(errno(rig.ioas.map_extents(&[empty], at(BASE + PAGE), Prot::READ)), EINVAL);
    rig.close();
}

/// 8. Who was told of an unmap is not kept by that.
#[test]
fn unmap_notifications_keep_nobody() {
    let rig = Rig::new(Case::Limited);
    let source = rig.source(4 * PAGE);
    let user = MockUser::new();
    let account = rig.account.clone();
    let config = |user| AccessConfig { user, alignment: PAGE, account: account.clone(), ..AccessConfig::default() };
    // One with a user, and one inside of the hypervisor, which is told nothing.
    let access = Access::new(config(Some(user.clone() as Arc<dyn AccessUser>))).unwrap();
    let internal = Access::new(config(None)).unwrap();
    access.attach(&rig.ioas).unwrap();
    internal.attach(&rig.ioas).unwrap();
    for round in 0..20 {
        rig.map_all(&source, BASE);
        user.hold(access.pin(range(BASE, PAGE), Prot::READ).unwrap());
        internal.write(iova(BASE), &[round]).unwrap();
        user.ignore(u64::from(round));
        rig.ioas.unmap_all().unwrap();
        assert_eq!(user.told().len(), usize::from(round) + 1);
    }
    assert_eq!(Arc::strong_count(&user), 2, "somebody keeps the user");
    let used = account.as_ref().unwrap().usage();
    internal.detach().unwrap();
    drop((access, internal));
    assert_eq!(Arc::strong_count(&user), 1);
    assert_eq!(account.unwrap().usage().objects, used.objects - 2);
    drop(source);
    rig.close();
}
