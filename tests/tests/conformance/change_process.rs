//! What a partition uses is paid by another: all of it, or nothing.

use crate::common::*;
use iommu_core::context::{Context, ContextConfig};
use iommu_core::device::AttachTo;
use iommu_core::hw::Prot;
use iommu_core::ioas::{Accounting, Ioas};
use iommu_core::pages::Pages;
use iommu_core::quota::{Account, Amounts};
use iommu_tests::mock::*;

/// How memory is charged; `None`: not at all.
type Mode = Option<Accounting>;

variants! { [
    per_owner = Some(Accounting::PerOwner), per_address_space = Some(Accounting::PerAddressSpace), not_counted = None,
]: basic }

fn basic(mode: Mode) {
    let world = World::new();
    let (one, two) = (Account::new(Amounts::UNLIMITED).unwrap(), Account::new(Amounts::UNLIMITED).unwrap());
    let payer = mode.map(|_| &one);
    let context = Context::new(payer, ContextConfig::default());
    context.set_accounting(mode.unwrap_or_default()).unwrap();
    let make = || Ioas::new(context.ioas_config());
    let spaces = [context.create(&[], make).unwrap(), context.create(&[], make).unwrap()];
    let memory = MockMemory::new(&world, MemoryConfig::scattered(8 * PAGE));
    // Where address spaces pay for what they map, the memory's own record pays for nothing.
    let pays = payer.filter(|_| mode == Some(Accounting::PerOwner));
    let pages = context.create(&[], || Pages::new(memory.clone(), pays)).unwrap();
    let unit = MockUnit::new(&world);
    let lead = Lead::device(&unit, 5);
    for space in spaces {
        let (ioas, pages) = (context.get::<Ioas>(space).unwrap(), context.get::<Pages>(pages).unwrap());
        ioas.map(&pages, PAGE, 4 * PAGE, at(APERTURE_START), Prot::READ).unwrap();
        ioas.map(&pages, 0, PAGE, at(APERTURE_START + 64 * PAGE), Prot::READ).unwrap();
    }
    lead.dev().attach(AttachTo::Auto(&context.get::<Ioas>(spaces[0]).unwrap())).unwrap();
    let used = one.usage();
    let pinned = match mode {
        None => 0,
        Some(Accounting::PerOwner) => 8 * PAGE,
        Some(Accounting::PerAddressSpace) => 10 * PAGE,
    };
    assert_eq!((used.pinned, two.usage()), (pinned, Amounts::NONE));
    if mode.is_none() {
        // Nobody paid from the beginning: there is nothing to move.
        assert_eq!(used, Amounts::NONE);
        assert_eq!(errno(context.change_owner(Some(&two))), EINVAL);
        assert_eq!(two.usage(), Amounts::NONE);
    } else {
        // One unit of anything too little, and nothing moves.
        let short = [
            Amounts { pinned: used.pinned - 1, ..used },
            Amounts { metadata: used.metadata - 1, ..used },
            Amounts { objects: used.objects - 1, ..used },
        ];
        for limits in short {
            two.set_limits(limits);
            assert_eq!(errno(context.change_owner(Some(&two))), ENOMEM);
            assert_eq!((one.usage(), two.usage()), (used, Amounts::NONE));
        }
        two.set_limits(used);
        context.change_owner(Some(&two)).unwrap();
        assert_eq!((one.usage(), two.usage()), (Amounts::NONE, used));
        assert!(context.account().is_some_and(|account| account.same(&two)));
        // What comes next is the other's as well.
        {
            let (ioas, pages) = (context.get::<Ioas>(spaces[1]).unwrap(), context.get::<Pages>(pages).unwrap());
            let more = |place| ioas.map(&pages, 0, PAGE, at(APERTURE_START + place), Prot::READ);
            assert_eq!(errno(more(1 << 20)), ENOMEM);
            two.set_limits(Amounts::UNLIMITED);
            more(1 << 20).unwrap();
        }
        assert_eq!(one.usage(), Amounts::NONE);
        assert!(two.usage().metadata > used.metadata);
        // And back, to where it came from.
        context.change_owner(Some(&one)).unwrap();
        assert_eq!(two.usage(), Amounts::NONE);
        context.change_owner(Some(&two)).unwrap();
    }
    // Devices have seen nothing of it.
    assert_eq!(lead.mapped(), 5 * PAGE);
    assert_eq!(memory.pins(), 1);
    drop(lead);
    context.close().unwrap();
    world.assert_clean();
    assert_eq!((one.usage(), two.usage()), (Amounts::NONE, Amounts::NONE));
}
