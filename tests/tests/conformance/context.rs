//! Objects under numbers that partitions hold, and what single requests answer.

use crate::common::*;
use iommu_core::Error;
use iommu_core::access::{Access, AccessConfig};
use iommu_core::addr::IovaRange;
use iommu_core::context::{Context, ContextConfig, ObjectId, ObjectKind};
use iommu_core::device::AttachTo;
use iommu_core::fault::FaultQueue;
use iommu_core::hw::{Prot, Stage};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Accounting, Ioas, Owner, Placement};
use iommu_core::pages::Pages;
use iommu_core::quota::{Account, Amounts};
use iommu_tests::mock::*;

fn context(account: &Account) -> Context {
    Context::new(Some(account), ContextConfig::default())
}

fn account() -> Account {
    Account::new(Amounts::UNLIMITED).unwrap()
}

fn ioas(context: &Context) -> ObjectId {
    context.create(&[], || Ioas::new(context.ioas_config())).unwrap()
}

/// A context goes with everything in it, whatever stands on what.
#[test]
fn simple_close() {
    let world = World::new();
    let account = account();
    context(&account).close().unwrap();
    let unit = MockUnit::new(&world);
    let lead = Lead::device(&unit, 3);
    for close in [true, false] {
        let context = context(&account);
        let space = ioas(&context);
        let memory = MockMemory::new(&world, MemoryConfig::scattered(2 * PAGE));
        let pages = context.create(&[], || Pages::new(memory.clone(), context.account().as_ref())).unwrap();
        {
            let (space, pages) = (context.get::<Ioas>(space).unwrap(), context.get::<Pages>(pages).unwrap());
            space.map(&pages, 0, 2 * PAGE, at(APERTURE_START), Prot::READ).unwrap();
        }
        let make = || {
            let space = context.get::<Ioas>(space)?;
            Hwpt::new(&space, &dynamic(&unit), HwptConfig::new(Stage::Second))
        };
        let hwpt = context.create(&[space], make).unwrap();
        lead.dev().attach(AttachTo::Hwpt(&context.get::<Hwpt>(hwpt).unwrap())).unwrap();
        let make = || {
            let access = Access::new(AccessConfig { account: context.account(), ..AccessConfig::default() })?;
            let space = context.get::<Ioas>(space)?;
            access.attach(&space)?;
            Ok(access)
        };
        let access = context.create(&[space], make).unwrap();
        // What others depend on stays.
        context.create(&[pages], || FaultQueue::new(4)).unwrap();
        assert_eq!(errno(context.destroy(pages)), EBUSY);
        assert_eq!(context.len(), 5);
        assert!(memory.is_pinned());
        // A device of somebody else's leads there still.
        assert_eq!(errno(context.destroy(hwpt)), EBUSY);
        lead.dev().detach().unwrap();
        if close {
            context.close().unwrap();
            for id in [space, pages, hwpt, access] {
                assert_eq!(errno(context.destroy(id)), ENOENT);
            }
            assert_eq!(errno(context.create(&[], || Ioas::new(context.ioas_config()))), EINVAL);
        } else {
            drop(context);
        }
        assert!(!memory.is_pinned());
        assert_eq!(account.usage(), Amounts::NONE);
        world.assert_clean();
    }
}

#[test]
fn cmd_fail() {
    let account = account();
    let context = context(&account);
    let space = ioas(&context);
    let queue = context.create(&[], || FaultQueue::new(4)).unwrap();
    // Numbers that name nothing, and a number of something else.
    let unknown = [1, 2, u32::MAX as u64, u64::MAX, space.raw() + 100, space.raw() ^ 1 << 40, space.raw() ^ 1 << 63];
    for raw in unknown.into_iter().filter(|raw| ![space.raw(), queue.raw()].contains(raw)) {
        if let Some(id) = ObjectId::from_raw(raw) {
            assert_eq!(errno(context.destroy(id)), ENOENT, "{raw:#x}");
            assert_eq!(errno(context.get::<Ioas>(id).map(|_| ())), ENOENT, "{raw:#x}");
        }
    }
    assert_eq!(ObjectId::from_raw(0), None);
    assert_eq!(errno(context.get::<Ioas>(queue).map(|_| ())), EINVAL);
    assert_eq!(errno(context.get::<FaultQueue>(space).map(|_| ())), EINVAL);
    assert_eq!(context.kind(space).unwrap(), ObjectKind::Ioas);
    // What is gone stays unknown, whatever comes into its place.
    context.destroy(space).unwrap();
    let others: Vec<_> = (0..8).map(|_| ioas(&context)).collect();
    assert!(others.iter().all(|other| *other != space));
    assert_eq!(errno(context.destroy(space)), ENOENT);
    assert_eq!(context.len(), 9);
    // What fails to be made leaves nothing.
    let before = account.usage();
    assert_eq!(errno(context.create::<Ioas>(&[], || Err(Error::OutOfMemory))), ENOMEM);
    assert_eq!(errno(context.create(&[space], || Ioas::new(context.ioas_config()))), ENOENT);
    assert_eq!((context.len(), account.usage()), (9, before));
    context.close().unwrap();
    assert_eq!(account.usage(), Amounts::NONE);
}

/// How memory is charged: chosen while there are no objects.
#[test]
fn global_options() {
    for mode in [Accounting::PerOwner, Accounting::PerAddressSpace] {
        let world = World::new();
        let account = account();
        let context = context(&account);
        assert_eq!(context.accounting(), Accounting::PerOwner);
        context.set_accounting(mode).unwrap();
        assert_eq!(context.accounting(), mode);
        let (one, two) = (ioas(&context), ioas(&context));
        for other in [Accounting::PerOwner, Accounting::PerAddressSpace] {
            assert_eq!(errno(context.set_accounting(other)), EBUSY);
        }
        assert_eq!(context.accounting(), mode);
        // Where address spaces pay, the memory's own record does not.
        let payer = (mode == Accounting::PerOwner).then_some(&account);
        let source = Source::new(&world, MemoryConfig::scattered(4 * PAGE), payer);
        for space in [one, two] {
            let space = context.get::<Ioas>(space).unwrap();
            space.map(&source.pages, 0, 3 * PAGE, at(PAGE), Prot::READ).unwrap();
        }
        // Once, as a whole, or each area for itself.
        let pinned = if mode == Accounting::PerOwner { 4 * PAGE } else { 6 * PAGE };
        assert_eq!(account.usage().pinned, pinned);
        context.get::<Ioas>(one).unwrap().unmap_all().unwrap();
        assert_eq!(account.usage().pinned, if mode == Accounting::PerOwner { pinned } else { 3 * PAGE });
        context.destroy(one).unwrap();
        context.destroy(two).unwrap();
        assert_eq!(account.usage().pinned, 0);
        context.set_accounting(Accounting::PerOwner).unwrap();
    }
}

#[test]
fn simple_ioctls() {
    let account = account();
    let context = context(&account);
    let id = ioas(&context);
    {
        let ioas = context.get::<Ioas>(id).unwrap();
        let mut ranges = [range(1, 1)];
        assert_eq!((ioas.iova_ranges(&mut ranges), ranges), (1, [IovaRange::FULL]));
        assert_eq!((ioas.alignment(), ioas.large_pages()), (1, true));
        ioas.allow(&[span(PAGE, u64::MAX)]).unwrap();
        ioas.allow(&[]).unwrap();
        assert_eq!(ioas.unmap_all().unwrap(), 0);
        // While it is being worked with it does not go.
        assert_eq!(errno(context.destroy(id)), EBUSY);
    }
    context.destroy(id).unwrap();
    assert_eq!(errno(context.destroy(id)), ENOENT);
    assert!(context.is_empty());
}

#[test]
fn unmap_cmd() {
    let world = World::new();
    let account = account();
    let context = context(&account);
    let id = ioas(&context);
    let ioas = context.get::<Ioas>(id).unwrap();
    assert_eq!(errno(ioas.unmap(range(0, PAGE))), ENOENT);
    assert_eq!(errno(ioas.unmap(span(u64::MAX, u64::MAX))), ENOENT);
    let memory = [world.phys(PAGE, PAGE), world.phys(3, 1)];
    ioas.map_extents(&memory, at(5), Prot::READ).unwrap();
    ioas.map_extents(&memory[..1], at(u64::MAX - PAGE + 1), Prot::READ).unwrap();
    // The answer is how much that was, not how long the range is.
    assert_eq!(ioas.unmap(span(0, 1 << 40)).unwrap(), PAGE + 3);
    assert_eq!(ioas.unmap(span(1 << 40, u64::MAX)).unwrap(), PAGE);
    assert_eq!(ioas.unmap_all().unwrap(), 0);
}

/// Of several reasons the first counts: what makes no sense, then what is reserved, then what is in the way.
#[test]
fn map_cmd() {
    let world = World::new();
    let account = account();
    let context = context(&account);
    let id = ioas(&context);
    let ioas = context.get::<Ioas>(id).unwrap();
    let access = Access::new(AccessConfig { alignment: PAGE, ..AccessConfig::default() }).unwrap();
    access.attach(&ioas).unwrap();
    let page = [world.phys(PAGE, PAGE)];
    let map = |extents, start, prot| ioas.map_extents(extents, at(start), prot);
    map(&page, 16 * PAGE, Prot::READ).unwrap();
    ioas.reserve(range(17 * PAGE, PAGE), Owner::Embedder(1)).unwrap();
    let none = Prot { read: false, write: false };
    let two = [world.phys(2 * PAGE, PAGE)];
    assert_eq!(errno(map(&page, 16 * PAGE, none)), EINVAL);
    assert_eq!(errno(map(&[], 16 * PAGE, Prot::READ)), EINVAL);
    assert!(matches!(map(&two, 16 * PAGE + 1, Prot::READ), Err(Error::Misaligned { .. })));
    assert!(matches!(map(&two, 16 * PAGE, Prot::READ), Err(Error::Reserved { .. })));
    assert!(
        matches!(map(&page, 16 * PAGE, Prot::READ), Err(Error::Overlap { area }) if area == range(16 * PAGE, PAGE))
    );
    assert_eq!(errno(map(&two, u64::MAX - PAGE + 1, Prot::READ)), EOVERFLOW);
    // The same for memory of a source, which is not even pinned for it.
    let source = Source::new(&world, MemoryConfig::scattered(2 * PAGE), None);
    let from_source = |len, start| ioas.map(&source.pages, 0, len, at(start), Prot::READ);
    assert!(matches!(from_source(2 * PAGE, 16 * PAGE + 1), Err(Error::Misaligned { .. })));
    assert!(matches!(from_source(2 * PAGE, 16 * PAGE), Err(Error::Reserved { .. })));
    assert!(matches!(from_source(PAGE, 16 * PAGE), Err(Error::Overlap { .. })));
    assert_eq!(source.memory.pins(), 0);
    // Write only is a protection like any other.
    map(&page, 0, Prot::WRITE).unwrap();
    // Nothing is left where everything is reserved.
    ioas.unmap_all().unwrap();
    ioas.reserve(IovaRange::FULL, Owner::Embedder(2)).unwrap();
    assert_eq!(errno(ioas.map_extents(&page, Placement::Anywhere, Prot::READ)), ENOSPC);
}
