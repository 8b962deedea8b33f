//! What the reference repeats with the Nth allocation failing: here also the Nth pin, and the Nth call of a driver, which
//! refuses, or does not confirm what it has done or has not. Each ends with an error, and nothing is left of it.
//!
//! The suite `fail_nth` does the same for each operation and compares the state before and after.

use crate::common::*;
use crate::heap;
use iommu_core::Error;
use iommu_core::access::{Access, AccessConfig};
use iommu_core::addr::PhysExtent;
use iommu_core::device::{AttachTo, Device, DeviceConfig, Feature};
use iommu_core::fault::{FaultQueue, FaultRouter};
use iommu_core::group::Group;
use iommu_core::hw::{HwError, NestedConfig, Pasid, Prot, Stage, StreamId};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig, Owner, Placement};
use iommu_core::nested::NestedHwpt;
use iommu_core::pages::Pages;
use iommu_core::quota::{Account, Amounts};
use iommu_core::viommu::Viommu;
use iommu_tests::mock::*;
use std::sync::Arc;

const BASE: u64 = APERTURE_START;

/// What the embedder has before anything begins.
struct Scene {
    world: World,
    units: [Arc<MockUnit>; 2],
    function: Arc<MockFunction>,
    memory: [Arc<MockMemory>; 2],
    user: Arc<MockUser>,
    plain: PhysExtent,
    account: Account,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let memory = || MockMemory::new(&world, MemoryConfig::scattered(6 * PAGE));
        Self {
            units: [MockUnit::new(&world), MockUnit::new(&world)],
            function: MockFunction::capable(&world),
            memory: [memory(), memory()],
            user: MockUser::new(),
            plain: world.phys(MOCK_HUGE, MOCK_HUGE),
            account: Account::new(Amounts::UNLIMITED).unwrap(),
            world,
        }
    }

    fn ioas(&self) -> Result<Ioas, Error> {
        Ioas::new(IoasConfig { account: Some(self.account.clone()), ..IoasConfig::default() })
    }

    fn pages(&self, which: usize) -> Result<Pages, Error> {
        Pages::new(self.memory[which].clone(), Some(&self.account))
    }

    fn device(&self, which: usize, with: impl FnOnce(&mut DeviceConfig<'_>)) -> Result<Device, Error> {
        let group = Group::new(Some(&self.account))?;
        let streams = [StreamId::new(0x10), StreamId::new(0x11)];
        let mut config = DeviceConfig {
            unit: self.units[which].clone(),
            streams: &streams,
            function: None,
            regions: &[],
            coherent: true,
            isolated_msi: true,
            router: None,
            account: Some(self.account.clone()),
        };
        with(&mut config);
        let device = Device::new(&group, &config)?;
        device.bind(OWNER, false)?;
        Ok(device)
    }

    fn access(&self, user: bool) -> Result<Access, Error> {
        let user = user.then(|| self.user.clone() as _);
        Access::new(AccessConfig {
            user,
            alignment: MOCK_PAGE,
            account: Some(self.account.clone()),
            ..AccessConfig::default()
        })
    }
}

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    Heap,
    Pin(HwError),
    Driver(HwError, Effect),
    Function,
}

const FAILURES: [Failure; 7] = [
    Failure::Heap,
    Failure::Pin(HwError::OutOfMemory),
    Failure::Pin(HwError::InUse),
    Failure::Driver(HwError::OutOfMemory, Effect::None),
    Failure::Driver(Script::TIMED_OUT, Effect::None),
    Failure::Driver(Script::TIMED_OUT, Effect::Done),
    Failure::Function,
];

/// Does all of `does` again and again, with the Nth of each kind failing, until there is none so many.
fn each<Kept>(does: impl Fn(&Scene) -> Result<Kept, Error>) {
    set_outside(heap::Outside::enter, heap::Outside::leave);
    let (mut noticed, mut unnoticed) = (0, 0);
    for failure in FAILURES {
        let plans = if matches!(failure, Failure::Driver(..) | Failure::Pin(_)) { 2 } else { 1 };
        for which in 0..plans {
            for nth in 0.. {
                let scene = Scene::new();
                let mut allocations = usize::MAX;
                match failure {
                    Failure::Heap => allocations = nth,
                    Failure::Pin(error) => {
                        scene.memory[which].script().fail(Call::Pin, nth as u64, error, Effect::None);
                        scene.memory[which].fail_after(1);
                    }
                    Failure::Driver(error, effect) => scene.units[which].script().fail_any(nth as u64, error, effect),
                    Failure::Function => scene.function.script().fail_any(nth as u64, HwError::InUse, Effect::None),
                }
                let (result, failed) = heap::failing(allocations, true, || does(&scene));
                // Whether the plan is still to come, that is, there were not so many calls.
                let to_come = match failure {
                    Failure::Heap => failed == 0,
                    Failure::Pin(_) => scene.memory[which].script().succeed(),
                    Failure::Driver(..) => scene.units[which].script().succeed(),
                    Failure::Function => scene.function.script().succeed(),
                };
                // Whatever was made goes, in its own order, now that nothing fails any more.
                match result.map(drop) {
                    // Some can do without: what shrinks memory, and what ends a domain and can be tried again later.
                    Ok(_) if !to_come => unnoticed += 1,
                    Ok(_) => {}
                    Err(error) => {
                        assert!(!to_come, "{failure:?} {nth}: {error:?}, and nothing had failed");
                        noticed += 1;
                        let wanted = match failure {
                            Failure::Heap | Failure::Pin(HwError::OutOfMemory) => ENOMEM,
                            Failure::Driver(HwError::OutOfMemory, _) => ENOMEM,
                            Failure::Driver(..) => ETIMEDOUT,
                            Failure::Pin(_) => EFAULT,
                            Failure::Function => EBUSY,
                        };
                        assert_eq!(error.errno(), wanted, "{failure:?} {nth}: {error:?}");
                    }
                }
                scene.user.let_go();
                scene.world.assert_clean();
                assert!(scene.units.iter().all(|unit| unit.attached() == 0), "{failure:?} {nth}");
                assert_eq!(scene.account.usage(), Amounts::NONE, "{failure:?} {nth}");
                if to_come {
                    break;
                }
            }
        }
    }
    assert!(noticed > 3 && unnoticed * 5 < noticed, "{noticed} failures were noticed, {unnoticed} were not");
}

/// Maps of memory with and without a source, and of a copy; an unmap.
fn maps(scene: &Scene, ioas: &Ioas) -> Result<(), Error> {
    let (one, two) = (scene.pages(0)?, scene.pages(1)?);
    ioas.map(&one, 0, 6 * PAGE, at(BASE), Prot::READ_WRITE)?;
    ioas.map(&two, PAGE, 2 * PAGE, at(BASE + 6 * PAGE), Prot::READ)?;
    ioas.map_extents(&[scene.plain, scene.plain], at(BASE + (1 << 28)), Prot::READ_WRITE)?;
    // Of two areas.
    ioas.copy(ioas, range(BASE + 5 * PAGE, 3 * PAGE), Placement::Anywhere, Prot::READ)?;
    ioas.unmap(range(BASE, 6 * PAGE))?;
    Ok(())
}

#[test]
fn basic() {
    each(|scene| {
        let (ioas, other) = (scene.ioas()?, scene.ioas()?);
        ioas.reserve(range(BASE + (1 << 24), PAGE), Owner::Embedder(1))?;
        ioas.allow(&[range(BASE, 1 << 24)])?;
        maps(scene, &ioas)?;
        other.copy(&ioas, range(BASE + (1 << 28), PAGE), at(PAGE), Prot::READ)?;
        ioas.split(iova(BASE + (1 << 28) + MOCK_HUGE))?;
        Ok((ioas, other))
    });
}

#[test]
fn map_domain() {
    each(|scene| {
        let ioas = scene.ioas()?;
        let device = scene.device(0, |_| {})?;
        device.attach(AttachTo::Auto(&ioas))?;
        maps(scene, &ioas)?;
        device.detach()?;
        device.attach(AttachTo::Auto(&ioas))?;
        Ok((device, ioas))
    });
}

/// Memory that is shared by handle, and pinned before it is mapped.
#[test]
fn map_file_domain() {
    each(|scene| {
        let ioas = scene.ioas()?;
        let device = scene.device(0, |_| {})?;
        device.attach(AttachTo::Auto(&ioas))?;
        let pages = scene.pages(0)?;
        let pin = pages.register()?;
        let first = ioas.map(&pages, 0, 3 * PAGE, Placement::Anywhere, Prot::READ_WRITE)?;
        ioas.map(&pages, PAGE, 5 * PAGE, Placement::Anywhere, Prot::READ)?;
        ioas.unmap(range(first.get(), 3 * PAGE))?;
        Ok((device, ioas, pin))
    });
}

#[test]
fn map_two_domains() {
    each(|scene| {
        let ioas = scene.ioas()?;
        let (one, two) = (scene.device(0, |_| {})?, scene.device(1, |_| {})?);
        one.attach(AttachTo::Auto(&ioas))?;
        maps(scene, &ioas)?;
        // Into an address space that is not empty.
        two.attach(AttachTo::Auto(&ioas))?;
        ioas.unmap_all()?;
        maps(scene, &ioas)?;
        one.detach()?;
        Ok((one, two, ioas))
    });
}

#[test]
fn access_rw() {
    each(|scene| {
        let ioas = scene.ioas()?;
        let access = scene.access(false)?;
        access.attach(&ioas)?;
        let (one, two) = (scene.pages(0)?, scene.pages(1)?);
        ioas.map(&one, 0, 2 * PAGE, at(BASE), Prot::READ_WRITE)?;
        ioas.map(&two, 0, 2 * PAGE, at(BASE + 2 * PAGE), Prot::READ_WRITE)?;
        let mut bytes = [1; 700];
        for start in [0, 13, 2 * PAGE - 300] {
            access.write(iova(BASE + start), &bytes)?;
            access.read(iova(BASE + start), &mut bytes)?;
        }
        Ok((access, ioas))
    });
}

fn pins(scene: &Scene, access: &Access, ioas: &Ioas) -> Result<(), Error> {
    access.attach(ioas)?;
    let (one, two) = (scene.pages(0)?, scene.pages(1)?);
    ioas.map(&one, 0, 2 * PAGE, at(BASE), Prot::READ_WRITE)?;
    ioas.map(&two, 0, 2 * PAGE, at(BASE + 2 * PAGE), Prot::READ_WRITE)?;
    for (start, len) in [(0, PAGE), (PAGE, 2 * PAGE), (0, 4 * PAGE)] {
        scene.user.hold(access.pin(range(BASE + start, len), Prot::READ)?);
    }
    // Its user lets go of what goes.
    ioas.unmap(range(BASE, 2 * PAGE))?;
    scene.user.hold(access.pin(range(BASE + 2 * PAGE, 2 * PAGE), Prot::READ_WRITE)?);
    Ok(())
}

#[test]
fn access_pin() {
    each(|scene| {
        let (ioas, other) = (scene.ioas()?, scene.ioas()?);
        let access = scene.access(true)?;
        pins(scene, &access, &ioas)?;
        access.replace(&other)?;
        Ok((access, ioas, other))
    });
}

#[test]
fn access_pin_domain() {
    each(|scene| {
        let ioas = scene.ioas()?;
        let device = scene.device(0, |_| {})?;
        device.attach(AttachTo::Auto(&ioas))?;
        let access = scene.access(true)?;
        pins(scene, &access, &ioas)?;
        device.detach()?;
        Ok((access, device, ioas))
    });
}

#[test]
fn device() {
    each(|scene| {
        let (ioas, other) = (scene.ioas()?, scene.ioas()?);
        ioas.map_extents(&[scene.plain], at(BASE), Prot::READ_WRITE)?;
        let unit = dynamic(&scene.units[0]);
        let queue = FaultQueue::new(4)?;
        let router = FaultRouter::new(unit.clone())?;
        let device = scene.device(0, |config| {
            config.function = Some(scene.function.clone());
            config.router = Some(router.clone());
        })?;
        device.enable(Feature::Pasid)?;
        let config = HwptConfig { pasid: true, nest_parent: true, ..HwptConfig::new(Stage::Second) };
        let hwpt = Hwpt::new(&ioas, &unit, config.clone())?;
        let second = Hwpt::new(&other, &unit, config)?;
        device.attach(AttachTo::Hwpt(&hwpt))?;
        device.replace(AttachTo::Hwpt(&second))?;
        let pasid = Pasid::new(7).ok_or(Error::Busy)?;
        device.attach_pasid(pasid, AttachTo::Hwpt(&hwpt))?;
        let guest = NestedConfig { kind: NESTED_KIND, words: &[1] };
        let nested = NestedHwpt::with_faults(&second, &guest, queue)?;
        device.replace_pasid(pasid, AttachTo::Nested(&nested))?;
        let viommu = Viommu::new(&hwpt)?;
        let vdevice = viommu.vdevice(&device, 9)?;
        let events = viommu.events(1, 4)?;
        let hw_queue = viommu.hw_queue(0, iova(BASE), PAGE)?;
        device.detach_pasid(pasid)?;
        device.replace(AttachTo::Hwpt(&hwpt))?;
        Ok((device, (vdevice, events, hw_queue), viommu, nested, (hwpt, second), (ioas, other)))
    });
}
