//! Who pays.

use super::ends::device;
use super::*;
use crate::access::{Access, AccessConfig};
use crate::hw::{Pasid, Prot};
use crate::ioas::Placement;
use crate::ioas::tests::unit;
use crate::pasid::PasidSpace;

#[test]
fn each_object_is_charged_once_and_before_it_is_made() {
    let account = account(Amounts { objects: 0, ..Amounts::UNLIMITED });
    let context = context(Some(&account));
    let notes = Notes::default();
    let never = || -> Result<Pages, Error> { panic!("made although nobody pays") };
    assert_eq!(context.create(&[], never), Err(Error::Quota(Resource::Objects)));
    assert_eq!(new_ioas(&context), Err(Error::Quota(Resource::Objects)));
    assert_eq!((context.len(), account.usage()), (0, Amounts::NONE));
    account.set_limits(Amounts::UNLIMITED);
    // Of kinds that the context pays for, and of kinds that do so themselves.
    let ioas = new_ioas(&context).unwrap();
    assert_eq!(account.usage().objects, 1);
    new_hwpt(&context, ioas, &Arc::default()).unwrap();
    assert_eq!(account.usage().objects, 2);
    let pages = context.create(&[], || notes.pages(0)).unwrap();
    let reservation = context.reserve::<FaultQueue>(&[]).unwrap();
    assert_eq!(account.usage().objects, 4);
    drop(reservation);
    let failing = context.create::<Pages>(&[pages], || Err(Error::BadMemory));
    assert_eq!((failing, account.usage().objects), (Err(Error::BadMemory), 3));
    assert_eq!(context.create(&[ioas, ioas, ioas, ioas, ioas], never).err().map(Error::errno), Some(22));
    assert_eq!(account.usage().objects, 3);
    context.destroy(pages).unwrap();
    assert_eq!(account.usage().objects, 2);
    drop(context);
    assert_eq!(account.usage(), Amounts::NONE);
}

#[test]
fn accounting_changes_only_while_there_are_no_objects() {
    let context = context(None);
    assert_eq!(context.accounting(), Accounting::PerOwner);
    let reservation = context.reserve::<Ioas>(&[]).unwrap();
    assert!(is_busy(context.set_accounting(Accounting::PerAddressSpace)));
    drop(reservation);
    context.set_accounting(Accounting::PerAddressSpace).unwrap();
    assert_eq!(context.ioas_config().accounting, Accounting::PerAddressSpace);
    let ioas = new_ioas(&context).unwrap();
    assert!(is_busy(context.set_accounting(Accounting::PerOwner)));
    assert_eq!(context.accounting(), Accounting::PerAddressSpace);
    context.destroy(ioas).unwrap();
    context.set_accounting(Accounting::PerOwner).unwrap();
}

#[test]
fn an_owner_changes_for_all_objects_or_for_none() {
    let [from, to, third] = [(); 3].map(|()| account(Amounts::UNLIMITED));
    let context = context(Some(&from));
    let ioas = new_ioas(&context).unwrap();
    let hardware = Arc::<Hardware>::default();
    new_hwpt(&context, ioas, &hardware).unwrap();
    let memory = Arc::new(Noted { name: 0, gone: Arc::default() });
    let pages = context.create(&[], || Pages::new(memory.clone(), context.account().as_ref())).unwrap();
    let again = context.get::<Pages>(pages).unwrap().clone();
    let again = context.create(&[], move || Ok(again)).unwrap();
    let config = AccessConfig { account: context.account(), ..AccessConfig::default() };
    context.create(&[], || Access::new(config)).unwrap();
    let space = PasidSpace::new(8, &[]).unwrap();
    let set = context.create(&[], || space.set(10, context.account().as_ref())).unwrap();
    context.get::<PasidSet>(set).unwrap().alloc(Pasid::new(0).unwrap(), Pasid::new(9).unwrap(), None).unwrap();
    context.create(&[], || FaultQueue::charged_to(&from, 4)).unwrap();
    // Of another owner, and of nobody.
    let foreign = context.create(&[], || Pages::new(memory.clone(), Some(&third))).unwrap();
    context.create(&[], || Pages::new(memory.clone(), None)).unwrap();
    context.create(&[], || Access::new(AccessConfig::default())).unwrap();
    let extent = PhysExtent::new(PhysAddr::new(0x5000), 0x3000);
    context.get::<Ioas>(ioas).unwrap().map_extents(&[extent], Placement::Anywhere, Prot::READ).unwrap();
    let device = device(&context, ioas, unit(&Arc::default()));
    let (before, others) = (from.usage(), third.usage());
    assert!(before.pinned == 0x3000 && before.metadata > 0 && before.objects > 5 && before.pasids == 1);

    for short in Resource::ALL {
        let limits = Resource::ALL.iter().fold(Amounts::NONE, |limits, &resource| {
            let limit = before.get(resource) - u64::from(resource == short);
            limits.checked_add(Amounts::of(resource, limit)).unwrap()
        });
        to.set_limits(limits);
        assert_eq!(context.change_owner(Some(&to)), Err(Error::Quota(short)));
        assert_eq!((from.usage(), to.usage()), (before, Amounts::NONE));
        assert!(context.account().unwrap().same(&from));
    }
    to.set_limits(before);
    let reservation = context.reserve::<Pages>(&[]).unwrap();
    assert!(is_busy(context.change_owner(Some(&to))));
    drop(reservation);
    context.table.lock().moving = true;
    assert!(is_busy(context.change_owner(Some(&to))) && is_busy(new_ioas(&context)));
    context.table.lock().moving = false;
    context.change_owner(Some(&to)).unwrap();
    assert_eq!((from.usage(), to.usage(), third.usage()), (Amounts::NONE, before, others));
    assert!(context.account().unwrap().same(&to));
    // What is made and given back from now on is the new owner's.
    assert_eq!(context.create(&[], || FaultQueue::new(1)), Err(Error::Quota(Resource::Objects)));
    context.destroy(again).unwrap();
    context.destroy(device).unwrap();
    context.create(&[], || FaultQueue::new(1)).unwrap();
    // To nobody, and back.
    context.change_owner(None).unwrap();
    assert_eq!(to.usage(), Amounts::NONE);
    context.destroy(foreign).unwrap();
    context.change_owner(Some(&from)).unwrap();
    assert_eq!(from.usage().pinned, 0x3000);
    context.close().unwrap();
    assert_eq!((from.usage(), to.usage(), third.usage()), (Amounts::NONE, Amounts::NONE, Amounts::NONE));
}

#[test]
fn what_was_never_counted_has_no_owner() {
    let context = context(None);
    new_ioas(&context).unwrap();
    context.change_owner(None).unwrap();
    assert!(matches!(context.change_owner(Some(&account(Amounts::UNLIMITED))), Err(Error::Invalid(_))));
    assert!(context.account().is_none());
}
