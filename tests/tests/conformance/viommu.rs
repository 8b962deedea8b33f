//! Virtual IOMMUs, what is made from them, and what their guests may ask for.

use crate::common::*;
use iommu_core::Error;
use iommu_core::device::{AttachTo, Feature};
use iommu_core::fault::{Cookie, Event, FaultQueue, FaultRouter};
use iommu_core::hw::{Invalidation, NestedConfig, PageRequest, Prot, ResponseCode, Stage, StreamId};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::Ioas;
use iommu_core::ioas::IoasConfig;
use iommu_core::nested::NestedHwpt;
use iommu_core::quota::{Account, Amounts};
use iommu_core::viommu::{DeviceInvalidation, Viommu};
use iommu_tests::mock::*;
use std::sync::Arc;

/// A guest: its memory, a virtual IOMMU on that, and a device.
struct Guest {
    lead: Lead,
    viommu: Viommu,
    parent: Hwpt,
    unit: Arc<MockUnit>,
    ioas: Ioas,
    source: Source,
    account: Account,
    world: World,
}

const BASE: u64 = APERTURE_START;

impl Guest {
    fn new() -> Self {
        let world = World::new();
        let unit = MockUnit::new(&world);
        let account = Account::new(Amounts::UNLIMITED).unwrap();
        let ioas = Ioas::new(IoasConfig { account: Some(account.clone()), ..IoasConfig::default() }).unwrap();
        let source = Source::new(&world, MemoryConfig::contiguous(16 * PAGE, PAGE), Some(&account));
        ioas.map(&source.pages, 0, 16 * PAGE, at(BASE), Prot::READ_WRITE).unwrap();
        let config = HwptConfig { nest_parent: true, pasid: true, ..HwptConfig::new(Stage::Second) };
        let parent = Hwpt::new(&ioas, &dynamic(&unit), config).unwrap();
        let viommu = Viommu::new(&parent).unwrap();
        let lead = Lead::device(&unit, 0x42);
        Self { lead, viommu, parent, unit, ioas, source, account, world }
    }

    fn nested(&self, value: u64) -> NestedHwpt {
        self.viommu.nested(&NestedConfig { kind: NESTED_KIND, words: &[value] }).unwrap()
    }

    /// Nothing is left of it, and nothing is charged.
    #[track_caller]
    fn close(self) {
        let Self { lead, viommu, parent, ioas, source, account, world, .. } = self;
        drop((lead, viommu, parent, ioas, source));
        world.assert_clean();
        assert_eq!(account.usage(), Amounts::NONE);
    }
}

/// Everything goes, whichever goes first.
#[test]
fn auto_destroy() {
    for first in 0..6 {
        let guest = Guest::new();
        let (account, world) = (guest.account.clone(), guest.world.clone());
        {
            let nested = guest.nested(7);
            let events = guest.viommu.events(1, 4).unwrap();
            let queue = guest.viommu.hw_queue(0, iova(BASE), PAGE).unwrap();
            let vdevice = guest.viommu.vdevice(guest.lead.dev(), 99).unwrap();
            guest.lead.dev().attach(AttachTo::Nested(&nested)).unwrap();
            let Guest { lead, viommu, parent, ioas, source, .. } = guest;
            match first {
                0 => drop(viommu),
                1 => drop(parent),
                2 => drop(nested),
                3 => drop(lead),
                4 => drop(ioas),
                _ => drop(vdevice),
            }
            drop((events, queue, source));
        }
        world.assert_clean();
        assert_eq!(account.usage(), Amounts::NONE);
    }
    let guest = Guest::new();
    let nested = guest.nested(7);
    guest.lead.dev().attach(AttachTo::Nested(&nested)).unwrap();
    let vdevice = guest.viommu.vdevice(guest.lead.dev(), 99).unwrap();
    let events = guest.viommu.events(1, 4).unwrap();
    let queue = guest.viommu.hw_queue(0, iova(BASE), PAGE).unwrap();
    let Guest { lead, viommu, parent, ioas, source, account, world, unit } = guest;
    drop(viommu);
    drop(parent);
    drop(ioas);
    drop(nested);
    assert!(matches!(unit.leads(lead.stream), Leads::Nested(..)), "what the device leads to went");
    drop(lead);
    drop((vdevice, events, queue, source));
    world.assert_clean();
    assert_eq!(account.usage(), Amounts::NONE);
}

#[test]
fn negative_tests() {
    let guest = Guest::new();
    let plain = Hwpt::new(&guest.ioas, &dynamic(&guest.unit), HwptConfig::new(Stage::Second)).unwrap();
    assert_eq!(errno(Viommu::new(&plain)), EINVAL);
    let viommu = &guest.viommu;
    // First stages of a kind, or with values, that the driver does not know.
    assert_eq!(errno(viommu.nested(&NestedConfig { kind: 0, words: &[1] })), EOPNOTSUPP);
    assert!(viommu.nested(&NestedConfig { kind: NESTED_KIND, words: &[1, 2] }).is_err());
    // Queues of events.
    assert_eq!(errno(viommu.events(1, 0)), EINVAL);
    assert_eq!(errno(viommu.events(1, usize::MAX)), EINVAL);
    let events = viommu.events(1, 2).unwrap();
    assert_eq!(errno(viommu.events(1, 2)), EEXIST);
    let other = viommu.events(2, 2).unwrap();
    // What is in use does not go.
    let Guest { viommu, .. } = guest;
    let (viommu, error) = viommu.destroy().unwrap_err();
    assert_eq!(error, Error::Busy);
    drop((events, other));
    let nested = viommu.nested(&NestedConfig { kind: NESTED_KIND, words: &[1] }).unwrap();
    let (viommu, error) = viommu.destroy().unwrap_err();
    assert_eq!(error, Error::Busy);
    drop(nested);
    let (parent, error) = guest.parent.destroy().unwrap_err();
    assert_eq!(error, Error::Busy);
    viommu.destroy().map_err(|(_, error)| error).unwrap();
    parent.destroy().map_err(|(_, error)| error).unwrap();
    drop(plain);
}

fn request(lead: &Lead, group: u16, page: u64, last: bool) -> PageRequest {
    PageRequest { stream: lead.stream, iova: iova(page), prot: Prot::READ, group, last }
}

/// Page requests of a device behind a guest's first stage.
#[test]
fn alloc_nested_iopf() {
    let mut guest = Guest::new();
    let router = FaultRouter::new(dynamic(&guest.unit)).unwrap();
    let function = MockFunction::capable(&guest.world);
    guest.lead = Lead::configured(&guest.unit, 0x43, |config| {
        config.router = Some(router.clone());
        config.function = Some(function.clone());
    });
    let lead = &guest.lead;
    let queue = FaultQueue::new(8).unwrap();
    let config = NestedConfig { kind: NESTED_KIND, words: &[1] };
    let nested = guest.viommu.nested_with_faults(&config, queue.clone()).unwrap();
    lead.dev().enable(Feature::Ats).unwrap();
    lead.dev().enable(Feature::Pri).unwrap();
    lead.dev().attach(AttachTo::Nested(&nested)).unwrap();

    // Whole groups only, under a cookie.
    router.page_request(&request(lead, 5, 0x1000, false));
    assert_eq!(queue.read().unwrap(), None);
    router.page_request(&request(lead, 5, 0x2000, true));
    let record = queue.read().unwrap().unwrap();
    let Event::PageRequests { cookie, requests } = record.event else { panic!("{record:?}") };
    assert_eq!(requests.iter().map(|request| request.iova.get()).collect::<Vec<_>>(), [0x1000, 0x2000]);
    assert!(guest.unit.responses().is_empty());
    // Only by the cookie, only once, only what there is to say.
    assert_eq!(errno(queue.respond(Cookie::new(cookie.get() ^ 1), ResponseCode::Success)), EINVAL);
    queue.respond(cookie, ResponseCode::Success).unwrap();
    let answers = guest.unit.responses();
    assert_eq!(
        answers.iter().map(|answer| (answer.group, answer.code)).collect::<Vec<_>>(),
        [(5, ResponseCode::Success)]
    );
    assert_eq!(errno(queue.respond(cookie, ResponseCode::Success)), EINVAL);
    // What is not answered when the device goes is answered INVALID: read or not.
    for group in [6, 7] {
        router.page_request(&request(lead, group, 0x3000, true));
    }
    let read = queue.read().unwrap().unwrap();
    let Event::PageRequests { cookie, .. } = read.event else { panic!("{read:?}") };
    lead.dev().detach().unwrap();
    let mut answers: Vec<_> = guest.unit.responses().iter().map(|answer| (answer.group, answer.code)).collect();
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(answers, [(6, ResponseCode::Invalid), (7, ResponseCode::Invalid)]);
    assert_eq!(errno(queue.respond(cookie, ResponseCode::Success)), EINVAL);
    // Nobody's: refused at once.
    router.page_request(&request(lead, 8, 0x3000, true));
    assert_eq!(guest.unit.responses().len(), 1);
    drop(nested);
    guest.close();
}

/// What a guest says goes to the driver, word for word, and the driver's answer to it.
#[test]
fn alloc_with_data() {
    let guest = Guest::new();
    let nested = guest.nested(0x1122_3344_5566_7788);
    guest.lead.dev().attach(AttachTo::Nested(&nested)).unwrap();
    assert_eq!(guest.unit.iotlb(guest.lead.stream), Some([0x1122_3344_5566_7788; 4]));
    let words = [3, 0];
    assert_eq!(nested.invalidate(&[Invalidation { kind: NESTED_KIND, words }]), (1, Ok(())));
    assert_eq!(guest.unit.iotlb(guest.lead.stream).unwrap()[3], 0);
    // Data that the driver does not take.
    for words in [&[][..], &[1, 2], &[0; 9]] {
        assert!(guest.viommu.nested(&NestedConfig { kind: NESTED_KIND, words }).is_err());
    }
    guest.unit.script().fail(Call::CreateNested, 0, iommu_core::hw::HwError::OutOfMemory, Effect::None);
    assert_eq!(errno(guest.viommu.nested(&NestedConfig { kind: NESTED_KIND, words: &[1] })), ENOMEM);
    drop(nested);
    guest.close();
}

#[test]
fn vdevice_alloc() {
    let guest = Guest::new();
    let viommu = &guest.viommu;
    let second = Lead::device(&guest.unit, 0x50);
    let one = viommu.vdevice(guest.lead.dev(), 0x99).unwrap();
    assert_eq!(one.virt_id(), 0x99);
    // A number names one device, and a device has one number.
    assert_eq!(errno(viommu.vdevice(second.dev(), 0x99)), EEXIST);
    assert_eq!(errno(viommu.vdevice(guest.lead.dev(), 0x98)), EEXIST);
    let two = viommu.vdevice(second.dev(), 0x98).unwrap();
    // Not behind another unit; not of nobody.
    let other = MockUnit::new(&guest.world);
    let far = Lead::device(&other, 0x42);
    assert_eq!(errno(viommu.vdevice(far.dev(), 1)), EINVAL);
    let unbound = Lead::device(&guest.unit, 0x51);
    unbound.dev().unbind().unwrap();
    assert_eq!(errno(viommu.vdevice(unbound.dev(), 1)), EINVAL);
    // Another guest's numbers are its own.
    let else_one = Viommu::new(&guest.parent).unwrap();
    let third = Lead::device(&guest.unit, 0x52);
    let same = else_one.vdevice(third.dev(), 0x99).unwrap();
    assert_eq!(errno(else_one.vdevice(second.dev(), 0x97)), EEXIST);
    // Free again.
    drop(one);
    let again = viommu.vdevice(guest.lead.dev(), 0x99).unwrap();
    drop((again, two, same, else_one, second, third, far, unbound));
    guest.close();
}

fn cache(virt_id: u64, id: u64, flags: u64) -> DeviceInvalidation {
    DeviceInvalidation { virt_id, request: Invalidation { kind: DEVICE_KIND, words: [id, flags] } }
}

#[test]
fn vdevice_cache() {
    let guest = Guest::new();
    let stream = StreamId::new(0x42);
    let second = Lead::device(&guest.unit, 0x50);
    let one = guest.viommu.vdevice(guest.lead.dev(), 0x99).unwrap();
    let two = guest.viommu.vdevice(second.dev(), 0x98).unwrap();
    guest.unit.fill_caches(stream, 0xcafe);
    guest.unit.fill_caches(StreamId::new(0x50), 0xbeef);
    let invalidate = |requests: &[DeviceInvalidation]| guest.viommu.invalidate(requests);
    assert_eq!(invalidate(&[]), (0, Ok(())));
    // Those before the one that is wrong.
    let kind = DeviceInvalidation { virt_id: 0x99, request: Invalidation { kind: 0, words: [1, 0] } };
    for (wrong, number) in [(cache(0x97, 0, 0), ENOENT), (cache(0x99, 0, 1 << 4), EOPNOTSUPP), (kind, EOPNOTSUPP)] {
        let (done, result) = invalidate(&[wrong, cache(0x99, 0, 0)]);
        assert_eq!((done, errno(result)), (0, number));
    }
    let (done, result) = invalidate(&[cache(0x99, 1, 0), cache(0x99, DEVICE_CACHES, 0), cache(0x99, 2, 0)]);
    assert!(done == 1 && result.is_err());
    assert_eq!(guest.unit.caches(stream), [0xcafe, 0, 0xcafe, 0xcafe]);
    assert_eq!(invalidate(&[cache(0x98, 3, 0), cache(0x99, 0, INVALIDATE_ALL)]), (2, Ok(())));
    assert_eq!(guest.unit.caches(stream), [0; 4]);
    assert_eq!(guest.unit.caches(StreamId::new(0x50)), [0xbeef, 0xbeef, 0xbeef, 0]);
    one.invalidate(&cache(0, 0, 0).request).unwrap();
    drop((one, two, second));
    guest.close();
}

#[test]
fn hw_queue() {
    let guest = Guest::new();
    let viommu = &guest.viommu;
    let queue = |index, start: u64, len| viommu.hw_queue(index, iova(start), len);
    assert_eq!(errno(queue(0, BASE, 0)), EINVAL);
    assert_eq!(errno(queue(0, u64::MAX - 1, PAGE)), EOVERFLOW);
    assert_eq!(errno(queue(0, BASE + 16 * PAGE, PAGE)), ENOENT);
    assert_eq!(errno(queue(0, BASE + 15 * PAGE, 2 * PAGE)), ENOENT);
    // Not one run; and one that is, of two areas.
    let scattered = Source::new(&guest.world, MemoryConfig::scattered(4 * PAGE), Some(&guest.account));
    guest.ioas.map(&scattered.pages, 0, 4 * PAGE, at(BASE + 32 * PAGE), Prot::READ_WRITE).unwrap();
    assert_eq!(errno(queue(0, BASE + 32 * PAGE, 2 * PAGE)), EFAULT);
    assert_eq!(errno(queue(0, BASE + 33 * PAGE - 8, 16)), EFAULT);
    guest.ioas.map(&guest.source.pages, 0, 2 * PAGE, at(BASE + 64 * PAGE), Prot::READ_WRITE).unwrap();
    guest.ioas.map(&guest.source.pages, 2 * PAGE, 2 * PAGE, at(BASE + 66 * PAGE), Prot::READ_WRITE).unwrap();

    let objects = || guest.account.usage().objects;
    let before = objects();
    let one = queue(0, BASE + 65 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(objects(), before + 1);
    assert_eq!(
        (one.index(), one.range(), one.base()),
        (0, range(BASE + 65 * PAGE, 2 * PAGE), guest.source.memory.phys(PAGE))
    );
    assert_eq!(errno(queue(0, BASE, PAGE)), EEXIST);
    let two = queue(1, BASE + 64 * PAGE, PAGE).unwrap();
    // What hardware reads by its physical address stays mapped.
    for (start, len) in [(64, 2), (66, 2), (64, 4), (0, 128)] {
        assert_eq!(errno(guest.ioas.unmap(range(BASE + start * PAGE, len * PAGE))), EBUSY);
    }
    assert_eq!(errno(guest.ioas.unmap_all()), EBUSY);
    drop(one);
    assert_eq!(guest.ioas.unmap(range(BASE + 66 * PAGE, 2 * PAGE)).unwrap(), 2 * PAGE);
    assert_eq!(errno(guest.ioas.unmap(range(BASE + 64 * PAGE, 2 * PAGE))), EBUSY);
    let again = queue(0, BASE, PAGE).unwrap();
    drop((two, again));
    assert_eq!(objects(), before);
    guest.ioas.unmap_all().unwrap();
    drop(scattered);
    guest.close();
}

#[test]
fn vdevice_tombstone() {
    for by_drop in [false, true] {
        let mut guest = Guest::new();
        let vdevice = guest.viommu.vdevice(guest.lead.dev(), 0x99).unwrap();
        guest.unit.fill_caches(StreamId::new(0x42), 1);
        assert!(!vdevice.is_tombstone());
        if by_drop {
            guest.lead = Lead::device(&guest.unit, 0x60);
        } else {
            guest.lead.dev().unbind().unwrap();
        }
        // The number reaches nothing, and names nothing else, until it is given up.
        assert!(vdevice.is_tombstone());
        assert_eq!(errno(vdevice.invalidate(&cache(0, 0, 0).request)), ENOENT);
        let (done, result) = guest.viommu.invalidate(&[cache(0x99, 0, 0)]);
        assert_eq!((done, errno(result)), (0, ENOENT));
        assert_eq!(guest.unit.caches(StreamId::new(0x42)), [1; 4]);
        let other = Lead::device(&guest.unit, 0x61);
        assert_eq!(errno(guest.viommu.vdevice(other.dev(), 0x99)), EEXIST);
        if !by_drop {
            // Bound again it is still not what the guest knew.
            guest.lead.dev().bind(OWNER, false).unwrap();
            assert!(vdevice.is_tombstone());
        }
        drop(vdevice);
        let new = guest.viommu.vdevice(other.dev(), 0x99).unwrap();
        drop((new, other));
        guest.close();
    }
}
