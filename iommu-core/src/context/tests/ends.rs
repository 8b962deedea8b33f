//! How each kind of object ends, and what keeps it from that.

use super::*;
use crate::access::{Access, AccessConfig, AccessUser};
use crate::addr::{Iova, IovaRange};
use crate::device::{AttachTo, Device, DeviceConfig, Feature, Features, Function};
use crate::group::{Group, OwnerId};
use crate::hw::{
    Domain, DomainConfig, Fault, FaultReport, HwError, Invalidation, Nested, NestedConfig, Pasid, Prot, Stage, Stream,
    StreamId, Target, Transition, Unit, UnitCapabilities,
};
use crate::hwpt::HwptConfig;
use crate::ioas::tests::{TIMEOUT, range, unit};
use crate::ioas::{Placement, RangeLock};
use crate::nested::NestedHwpt;
use crate::pasid::PasidSpace;
use crate::viommu::Viommu;
use alloc::boxed::Box;

#[test]
fn what_can_not_be_ended_is_still_there() {
    let context = context(None);
    let ioas = new_ioas(&context).unwrap();
    let hardware = Arc::<Hardware>::default();
    let hwpt = new_hwpt(&context, ioas, &hardware).unwrap();
    let at = Placement::Fixed(Iova::new(0x1000));
    let extent = PhysExtent::new(PhysAddr::new(0x5000), 0x1000);
    context.get::<Ioas>(ioas).unwrap().map_extents(&[extent], at, Prot::READ_WRITE).unwrap();
    assert!(is_busy(context.destroy(ioas)));
    hardware.fail_flush(Some(TIMEOUT));
    for _ in 0..2 {
        assert_eq!(context.destroy(hwpt), Err(Error::Hardware(TIMEOUT)));
        let domain = context.get::<Hwpt>(hwpt).unwrap();
        assert!(domain.domain().translate(Iova::new(0x1000)).is_some() && is_busy(context.destroy(ioas)));
    }
    assert_eq!(context.close(), Err(Error::Hardware(TIMEOUT)));
    assert_eq!((context.len(), hardware.reachable()), (2, 1));
    hardware.fail_flush(None);
    context.close().unwrap();
    assert!(context.is_empty() && hardware.reachable() == 0);
}

#[test]
fn an_address_space_stays_as_long_as_it_is_used() {
    let context = context(None);
    let ioas = new_ioas(&context).unwrap();
    let access = context.create(&[], || Access::new(AccessConfig::default())).unwrap();
    context.get::<Access>(access).unwrap().attach(&context.get::<Ioas>(ioas).unwrap()).unwrap();
    assert!(is_busy(context.destroy(ioas)));
    context.get::<Access>(access).unwrap().detach().unwrap();
    let extent = PhysExtent::new(PhysAddr::new(0x5000), 0x1000);
    let at = context.get::<Ioas>(ioas).unwrap().map_extents(&[extent], Placement::Anywhere, Prot::READ).unwrap();
    let lock = context.create::<RangeLock>(&[], || context.get::<Ioas>(ioas)?.lock(range(at.get(), 0x1000), true));
    // Whether or not it was said that the lock depends on it.
    assert!(is_busy(context.destroy(ioas)));
    context.destroy(lock.unwrap()).unwrap();
    context.destroy(ioas).unwrap();
    context.destroy(access).unwrap();
}

/// A device, attached to a domain that was chosen for it.
pub(super) fn device(context: &Context, ioas: ObjectId, unit: Arc<dyn Unit>) -> ObjectId {
    context
        .create(&[], || {
            let device = new_device(context, unit, None)?;
            device.attach(AttachTo::Auto(&*context.get::<Ioas>(ioas)?))?;
            Ok(device)
        })
        .unwrap()
}

fn new_device(context: &Context, unit: Arc<dyn Unit>, function: Option<Arc<dyn Function>>) -> Result<Device, Error> {
    let (streams, account) = ([StreamId::new(5)], context.account());
    let (streams, regions, router) = (&streams[..], &[][..], None);
    let config = DeviceConfig { unit, streams, function, regions, coherent: true, isolated_msi: true, router, account };
    let device = Device::new(&Group::new(None)?, &config)?;
    device.bind(OwnerId(1), false)?;
    Ok(device)
}

#[test]
fn a_device_goes_with_what_it_is_attached_to() {
    let context = context(None);
    let ioas = new_ioas(&context).unwrap();
    let hardware = Arc::<Hardware>::default();
    let id = device(&context, ioas, unit(&hardware));
    assert!(context.get::<Device>(id).unwrap().is_attached() && is_busy(context.destroy(ioas)));
    context.destroy(id).unwrap();
    context.destroy(ioas).unwrap();
    // In whatever order they were made.
    let ioas = new_ioas(&context).unwrap();
    device(&context, ioas, unit(&hardware));
    context.close().unwrap();
    assert!(context.is_empty());
}

/// Switches bus mastering off when it likes.
struct Stubborn(AtomicBool);

impl Function for Stubborn {
    fn features(&self) -> Features {
        Features::default()
    }

    fn set_feature(&self, _: Feature, _: bool) -> Result<(), HwError> {
        Ok(())
    }

    fn set_bus_master(&self, on: bool) -> Result<(), HwError> {
        if on || !self.0.load(Ordering::SeqCst) { Ok(()) } else { Err(TIMEOUT) }
    }
}

#[test]
fn a_device_that_does_not_stop_is_still_there() {
    let context = context(None);
    let ioas = new_ioas(&context).unwrap();
    let function = Arc::new(Stubborn(AtomicBool::new(true)));
    let id = context.create(&[], || new_device(&context, unit(&Arc::default()), Some(function.clone()))).unwrap();
    context.get::<Device>(id).unwrap().attach(AttachTo::Auto(&context.get::<Ioas>(ioas).unwrap())).unwrap();
    assert_eq!(context.destroy(id), Err(Error::Hardware(TIMEOUT)));
    assert!(context.get::<Device>(id).unwrap().is_attached() && is_busy(context.destroy(ioas)));
    function.0.store(false, Ordering::SeqCst);
    context.destroy(id).unwrap();
    context.destroy(ioas).unwrap();
}

/// Does not let go of what it has pinned.
struct Deaf;

impl AccessUser for Deaf {
    fn unmap(&self, _: IovaRange) {}
}

#[test]
fn an_access_that_does_not_let_go_is_still_there() {
    let context = context(None);
    let ioas = new_ioas(&context).unwrap();
    let config = AccessConfig { user: Some(Arc::new(Deaf)), ..AccessConfig::default() };
    let access = context.create(&[], || Access::new(config)).unwrap();
    let pin = {
        let (ioas, access) = (context.get::<Ioas>(ioas).unwrap(), context.get::<Access>(access).unwrap());
        access.attach(&ioas).unwrap();
        let extent = PhysExtent::new(PhysAddr::new(0x5000), 0x1000);
        ioas.map_extents(&[extent], Placement::Fixed(Iova::new(0x1000)), Prot::READ).unwrap();
        access.pin(range(0x1000, 0x1000), Prot::READ).unwrap()
    };
    assert_eq!(context.destroy(access), Err(Error::Deadlock));
    assert!(context.get::<Access>(access).is_ok() && is_busy(context.destroy(ioas)));
    drop(pin);
    context.destroy(access).unwrap();
    context.destroy(ioas).unwrap();
}

#[test]
fn a_domain_that_was_left_over_goes_with_its_address_space() {
    let context = context(None);
    let ioas = new_ioas(&context).unwrap();
    let hardware = Arc::<Hardware>::default();
    let outside = hwpt(&context.get::<Ioas>(ioas).unwrap(), &hardware).unwrap();
    assert!(is_busy(context.destroy(ioas)));
    hardware.fail_flush(Some(TIMEOUT));
    drop(outside);
    assert_eq!(context.destroy(ioas), Err(Error::Hardware(TIMEOUT)));
    hardware.fail_flush(None);
    context.destroy(ioas).unwrap();
}

#[test]
fn a_set_of_pasids_closes_for_all_its_handles() {
    let context = context(None);
    let space = PasidSpace::new(8, &[]).unwrap();
    let set = space.set(9, None).unwrap();
    let handle = set.clone();
    let id = context.create(&[], move || Ok(set)).unwrap();
    let (first, last) = (Pasid::new(0).unwrap(), Pasid::new(9).unwrap());
    handle.alloc(first, last, None).unwrap();
    context.destroy(id).unwrap();
    assert!(handle.is_empty() && handle.alloc(first, last, None).is_err());
}

/// A unit on which guests can put first stages that do nothing.
struct Nesting(Arc<dyn Unit>);

struct Nothing;

impl Nested for Nothing {
    fn invalidate(&self, _: &Invalidation) -> Result<(), HwError> {
        Ok(())
    }
}

impl Unit for Nesting {
    fn capabilities(&self) -> UnitCapabilities {
        self.0.capabilities()
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        self.0.create_domain(config)
    }

    fn create_nested(&self, _: &dyn Domain, _: &NestedConfig<'_>) -> Result<Box<dyn Nested>, HwError> {
        Ok(Box::new(Nothing))
    }

    fn attach(&self, _: Stream, _: Target<'_>) -> Result<Transition, HwError> {
        Ok(Transition::Hitless)
    }

    fn report_faults(&self, report: &mut dyn FnMut(&Fault)) -> FaultReport {
        self.0.report_faults(report)
    }
}

#[test]
fn a_virtual_iommu_goes_in_order() {
    let account = account(Amounts::UNLIMITED);
    let context = context(Some(&account));
    let ioas = new_ioas(&context).unwrap();
    let unit: Arc<dyn Unit> = Arc::new(Nesting(unit(&Arc::default())));
    let config = HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) };
    let parent = context.create(&[ioas], || Hwpt::new(&*context.get::<Ioas>(ioas)?, &unit, config)).unwrap();
    let viommu = context.create(&[parent], || Viommu::new(&*context.get::<Hwpt>(parent)?)).unwrap();
    let device = context.create(&[], || new_device(&context, unit, None)).unwrap();
    let make_vdevice = || context.get::<Viommu>(viommu)?.vdevice(&*context.get::<Device>(device)?, 3);
    // Whether or not it is said on whom they depend.
    let vdevice = context.create(&[], make_vdevice).unwrap();
    let guests = NestedConfig { kind: 0, words: &[] };
    let nested = context.create(&[], || context.get::<Viommu>(viommu)?.nested(&guests)).unwrap();
    let events = context.create(&[], || context.get::<Viommu>(viommu)?.events(0, 4)).unwrap();
    assert_eq!(account.usage().objects, 7);
    context
        .get::<Device>(device)
        .unwrap()
        .attach(AttachTo::Nested(&context.get::<NestedHwpt>(nested).unwrap()))
        .unwrap();
    let below = [ioas, parent, viommu, nested];
    assert!(below.iter().all(|&id| is_busy(context.destroy(id))));
    context.tombstone(vdevice).unwrap();
    context.destroy(device).unwrap();
    assert!(is_gone(&context, vdevice) && is_busy(context.destroy(viommu)));
    context.destroy(nested).unwrap();
    assert!(is_busy(context.destroy(viommu)));
    context.destroy(events).unwrap();
    context.destroy(viommu).unwrap();
    assert_eq!((account.usage().objects, context.len()), (2, 3));
    // All of it once more, for the context to find the order.
    let viommu = context.create(&[parent], || Viommu::new(&*context.get::<Hwpt>(parent)?)).unwrap();
    let nested = context.create(&[viommu], || context.get::<Viommu>(viommu)?.nested(&guests)).unwrap();
    context.create(&[viommu], || context.get::<Viommu>(viommu)?.events(0, 4)).unwrap();
    assert!(is_busy(context.destroy(viommu)) && context.get::<NestedHwpt>(nested).is_ok());
    context.close().unwrap();
    assert_eq!((account.usage(), context.len()), (Amounts::NONE, 0));
}
