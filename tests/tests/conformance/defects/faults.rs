//! Queues of faults and events.

use crate::common::*;
use crate::heap;
use iommu_core::device::AttachTo;
use iommu_core::fault::{Cookie, Event, FaultQueue, FaultRouter, MOST_EVENTS};
use iommu_core::hw::{AccessKind, Fault, FaultKind, PageRequest, Prot, ResponseCode, Stage, StreamId};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_core::viommu::{EventQueue, Viommu};
use iommu_tests::mock::*;
use std::sync::Arc;

/// A device behind a router, whose faults go to a queue.
struct Faulty {
    lead: Lead,
    queue: FaultQueue,
    router: FaultRouter,
    unit: Arc<MockUnit>,
    _hwpt: Hwpt,
    _ioas: Ioas,
}

impl Faulty {
    fn new(depth: usize) -> Self {
        let world = World::new();
        let unit = MockUnit::new(&world);
        let ioas = Ioas::new(IoasConfig::default()).unwrap();
        let (queue, router) = (FaultQueue::new(depth).unwrap(), FaultRouter::new(dynamic(&unit)).unwrap());
        let config = HwptConfig { faults: Some(queue.clone()), ..HwptConfig::new(Stage::Second) };
        let hwpt = Hwpt::new(&ioas, &dynamic(&unit), config).unwrap();
        let lead = Lead::configured(&unit, 0x30, |config| config.router = Some(router.clone()));
        lead.dev().attach(AttachTo::Hwpt(&hwpt)).unwrap();
        Self { lead, queue, router, unit, _hwpt: hwpt, _ioas: ioas }
    }

    fn request(&self, group: u16, page: u64, last: bool) {
        let iova = iova(page * PAGE);
        self.router.page_request(&PageRequest { stream: self.lead.stream, iova, prot: Prot::READ, group, last });
    }

    fn fault(&self, page: u64) -> bool {
        self.router.fault(&Fault {
            stream: self.lead.stream,
            iova: iova(page * PAGE),
            granule: PAGE,
            access: AccessKind::Read,
            kind: FaultKind::NotMapped,
            code: 0,
            text: "not mapped",
            stalled: None,
        })
    }
}

/// 2. Reading a queue ends, whatever is wrong with where the events go, and groups are delivered whole or not at all; an
///    answer that is none answers nothing.
#[test]
fn reading_faults_ends_and_gives_whole_groups() {
    let faulty = Faulty::new(16);
    let pages = 5;
    for page in 0..pages {
        faulty.request(1, page, page + 1 == pages);
    }
    faulty.request(2, 9, true);
    // No memory for the group: said so, at once, each time; and the group is still whole.
    for _ in 0..3 {
        let (result, failed) = heap::failing(0, true, || faulty.queue.read());
        assert_eq!((failed, result.map_err(|error| error.errno())), (1, Err(ENOMEM)));
    }
    let mut cookies = Vec::new();
    for count in [pages as usize, 1] {
        let record = faulty.queue.read().unwrap().unwrap();
        let Event::PageRequests { cookie, requests } = record.event else { panic!("{record:?}") };
        assert_eq!((requests.len(), record.lost), (count, false));
        cookies.push(cookie);
    }
    assert!(faulty.queue.read().unwrap().is_none());
    let wrong = [0, u64::MAX, cookies[0].get() ^ 1 << 63, cookies[1].get() + (1 << 20)];
    for raw in wrong {
        assert_eq!(errno(faulty.queue.respond(Cookie::new(raw), ResponseCode::Success)), EINVAL, "{raw:#x}");
    }
    // Not for an owner to say.
    assert_eq!(errno(faulty.queue.respond(cookies[0], ResponseCode::Failure)), EINVAL);
    assert!(faulty.unit.responses().is_empty());
    faulty.queue.respond(cookies[1], ResponseCode::Invalid).unwrap();
    faulty.queue.respond(cookies[0], ResponseCode::Success).unwrap();
    assert_eq!(faulty.unit.responses().len(), 2);
}

/// 3. Queues of events are bounded, take no memory while they are filled, and tell what was lost by the sequence.
#[test]
fn event_queues_are_bounded_and_count_what_is_lost() {
    for depth in [0, MOST_EVENTS + 1, usize::MAX] {
        assert_eq!(FaultQueue::new(depth).err().map(|error| error.errno()), Some(EINVAL));
    }
    let faulty = Faulty::new(4);
    heap::without(|| {
        for page in 0..7 {
            assert!(faulty.fault(page));
        }
    });
    for sequence in 0..4 {
        let record = faulty.queue.read().unwrap().unwrap();
        assert_eq!((record.sequence, record.lost), (sequence, false));
        assert!(matches!(record.event, Event::Fault(fault) if fault.iova == iova(u64::from(sequence) * PAGE)));
    }
    let record = faulty.queue.read().unwrap().unwrap();
    assert!(record.lost && record.event == Event::Lost && record.sequence == 6, "{record:?}");
    assert!(faulty.queue.read().unwrap().is_none());
    // What comes next is not said to be lost once more.
    assert!(faulty.fault(50));
    let record = faulty.queue.read().unwrap().unwrap();
    assert_eq!((record.sequence, record.lost), (7, false));

    let world = World::new();
    let unit = MockUnit::new(&world);
    let ioas = Ioas::new(IoasConfig::default()).unwrap();
    let config = HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) };
    let parent = Hwpt::new(&ioas, &dynamic(&unit), config).unwrap();
    let viommu = Viommu::new(&parent).unwrap();
    for depth in [0, EventQueue::MOST_EVENTS + 1, usize::MAX] {
        assert_eq!(viommu.events(1, depth).err().map(|error| error.errno()), Some(EINVAL));
    }
    let lead = Lead::device(&unit, 9);
    let vdevice = viommu.vdevice(lead.dev(), 0x1234).unwrap();
    let events = viommu.events(1, 3).unwrap();
    heap::without(|| {
        for word in 0..5 {
            let seen = viommu.post(1, Some(StreamId::new(9)), [word, 2, 3, 4]).unwrap();
            assert_eq!(seen, word < 3);
        }
        assert!(!viommu.post(2, None, [0; 4]).unwrap());
        assert!(!viommu.post(1, Some(StreamId::new(8)), [0; 4]).unwrap());
    });
    for word in 0..3u32 {
        let event = events.read().unwrap();
        assert_eq!((event.sequence, event.lost, event.virt_id), (word, false, Some(0x1234)));
        assert_eq!(event.words, [u64::from(word), 2, 3, 4]);
    }
    assert!(viommu.post(1, None, [7; 4]).unwrap());
    let event = events.read().unwrap();
    assert_eq!((event.sequence, event.lost, event.virt_id, event.words), (5, true, None, [7; 4]));
    assert!(events.read().is_none());
    drop((events, vdevice, lead));
}
