//! A guest's first stage on our second stage: the guest changes what it likes, and its devices reach what the host lets
//! them, with caches as stale as they may be.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    DeviceTlb, Domain, DomainConfig, Gather, HwError, Invalidation, Nested, NestedConfig, Pasid, RequesterId, Stage,
    Stream, StreamId, Target, Transition, Unit as _,
};
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::vtd::{Config, Descriptor, FaultCode, Granularity, Queue, Request};
use iommu_tests::bench::{Bench, map, range, stream, unmap};
use iommu_tests::case::Case;
use iommu_tests::four_pages::HUNG;
use iommu_vtd::guest::{ALL_PAGES, CHANGED, FIRST_STAGE, LEAVES_ONLY};

const RED: u16 = 0x0108;
const BLUE: u16 = 0x01a0;
const PAGE: u64 = 0x1000;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
/// Where the guest has its tables, and where other memory: guest-physical.
const TABLES: u64 = 0x10_0000;
const MEMORY: u64 = 4 * HUGE;
/// Where that memory is.
const HOST: u64 = 8 * HUGE;

/// A server's unit with nested translation, A/D bits in the second stage and the extended accessed flag.
fn server() -> Config {
    Config::server().ecap_bits(Config::ECAP_NEST | Config::ECAP_SSADS | Config::ECAP_EAFS, true)
}

fn case(config: Config) -> Case {
    Case { name: "nested".into(), config, stage: Stage::Second, non_coherent: false }
}

fn parent_config() -> DomainConfig {
    DomainConfig { nest_parent: true, ..DomainConfig::new(Stage::Second) }
}

/// A guest's memory: its tables in 16 pages at [`TABLES`], 1 GiB at [`MEMORY`] in pages and larger.
struct Guest<'b> {
    bench: &'b Bench,
    parent: Box<dyn Domain>,
    /// Host address of the tables.
    frames: u64,
    /// Tables in use.
    used: std::cell::Cell<u64>,
}

impl<'b> Guest<'b> {
    fn new(bench: &'b Bench) -> Self {
        Self::with(bench, parent_config())
    }

    fn with(bench: &'b Bench, config: DomainConfig) -> Self {
        let parent = bench.unit.create_domain(&config).unwrap();
        let request = FrameRequest { order: 4, address_bits: 46, memory: WalkerMemory::Coherent };
        let frames = bench.memory.alloc_frames(request).expect("frames").get();
        map(&*parent, TABLES, frames, 16 * PAGE);
        // Pages, so that single ones can be taken away.
        for page in 0..16 {
            map(&*parent, MEMORY + page * PAGE, HOST + page * PAGE, PAGE);
        }
        map(&*parent, MEMORY + LARGE, HOST + LARGE, 4 * LARGE);
        Self { bench, parent, frames, used: std::cell::Cell::new(0) }
    }

    fn table(&self) -> u64 {
        let at = self.used.replace(self.used.get() + 1);
        assert!(at < 16);
        TABLES + at * PAGE
    }

    fn host(&self, guest: u64) -> PhysAddr {
        PhysAddr::new(self.frames + (guest - TABLES))
    }

    /// Sets the entry of `level` for `iova` below `root`, with whatever tables that takes. 0 is a page's.
    fn set(&self, root: u64, levels: u64, iova: u64, level: u64, entry: u64) {
        let mut table = root;
        for above in (level + 1..levels).rev() {
            let at = self.host(table + (iova >> (12 + 9 * above) & 0x1ff) * 8);
            let found = self.bench.memory.read64(at);
            table = if found & 1 != 0 { found & !0xfff & !(1 << 63) } else { self.table() };
            self.bench.memory.write64(at, table | 7);
        }
        self.bench.memory.write64(self.host(table + (iova >> (12 + 9 * level) & 0x1ff) * 8), entry);
    }

    /// Maps a page to guest-physical memory: present, writable, user.
    fn map(&self, root: u64, iova: u64, guest: u64) {
        self.set(root, 4, iova, 0, guest | 7);
    }

    /// A first stage of 4 levels that leads page 5 to page 1 of the memory, and page 6 to page 2.
    fn first_stage(&self) -> (u64, Box<dyn Nested>) {
        let root = self.table();
        self.map(root, 5 * PAGE, MEMORY + PAGE);
        self.map(root, 6 * PAGE, MEMORY + 2 * PAGE);
        (root, self.nest(&[0, root, 48]).unwrap())
    }

    fn nest(&self, words: &[u64]) -> Result<Box<dyn Nested>, HwError> {
        self.bench.unit.create_nested(&*self.parent, &NestedConfig { kind: FIRST_STAGE, words })
    }

    #[track_caller]
    fn attach(&self, rid: u16, nested: &dyn Nested) -> Transition {
        self.bench.unit.attach(stream(rid), Target::Nested(nested)).expect("an attach")
    }

    /// Reads and writes at 5 and 6 go where [`Guest::first_stage`] says.
    #[track_caller]
    fn expect_all(&self, rid: u16) {
        self.bench.expect(rid, 5 * PAGE + 7, Ok(HOST + PAGE + 7));
        self.bench.expect(rid, 6 * PAGE + 7, Ok(HOST + 2 * PAGE + 7));
    }

    /// Gives the tables' frames back, once nobody walks them.
    #[allow(unsafe_code, reason = "a test that plays the guest")]
    fn end(self) {
        let Self { bench, parent, frames, .. } = self;
        drop(parent);
        let request = FrameRequest { order: 4, address_bits: 46, memory: WalkerMemory::Coherent };
        // SAFETY: allocated with that request; the domain through which they were reached is gone.
        unsafe { bench.memory.free_frames(PhysAddr::new(frames), request) };
        bench.check();
    }
}

fn request(first: u64, pages: u64) -> Invalidation {
    Invalidation { kind: CHANGED, words: [first, pages] }
}

#[test]
fn addresses_go_through_the_guests_stage_and_then_through_ours() {
    let bench = Bench::up(&case(server()));
    assert!(bench.unit.capabilities().nesting);
    let guest = Guest::new(&bench);
    let (root, nested) = guest.first_stage();
    // 2 MiB of the guest's on four of ours, and a page of the guest's in one of our large ones.
    guest.set(root, 4, 2 * LARGE, 1, (MEMORY + LARGE) | 7 | 1 << 7);
    guest.map(root, 7 * PAGE, MEMORY + 2 * LARGE + PAGE);
    // Beyond what the host mapped; read only.
    guest.map(root, 8 * PAGE, MEMORY + HUGE);
    guest.set(root, 4, 9 * PAGE, 0, (MEMORY + 3 * PAGE) | 5);
    assert_eq!(guest.attach(RED, &*nested), Transition::Hitless);
    guest.expect_all(RED);
    bench.expect(RED, 2 * LARGE + 0x12_3456, Ok(HOST + LARGE + 0x12_3456));
    bench.expect(RED, 7 * PAGE, Ok(HOST + 2 * LARGE + PAGE));
    bench.expect(RED, 8 * PAGE, Err(FaultCode::SECOND_PERMISSION));
    bench.expect(RED, 10 * PAGE, Err(FaultCode::FIRST_NOT_PRESENT));
    bench.expect(RED, 1 << 47, Err(FaultCode::NOT_CANONICAL));
    assert_eq!(bench.read(RED, 9 * PAGE), Ok(HOST + 3 * PAGE));
    assert!(bench.write(RED, 9 * PAGE).is_err());
    // Guest-physical addresses are none of the device's.
    bench.expect(RED, MEMORY, Err(FaultCode::FIRST_NOT_PRESENT));
    let entry = bench.entry(RED);
    // PGTT 3, AW of the second stage's 5 levels; the guest's root; neither SRE, WPE, EAFE nor 5 levels.
    assert_eq!((entry[0] >> 6 & 7, entry[0] >> 2 & 7, entry[2]), (3, 3, root));
    bench.attach(BLUE, &*guest.parent);
    bench.expect(BLUE, MEMORY, Ok(HOST));
    assert_eq!(bench.entry(BLUE)[0] >> 12, entry[0] >> 12, "the same second stage");
    assert_ne!(bench.domain_id(BLUE), bench.domain_id(RED));
    drop(nested);
    bench.expect(RED, 5 * PAGE, Err(FaultCode::CONTEXT_NOT_PRESENT));
    bench.expect(BLUE, MEMORY, Ok(HOST));
    guest.end();
}

#[test]
fn flags_and_five_levels_are_in_the_entry() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::with(&bench, DomainConfig { enforce_coherency: true, ..parent_config() });
    // SRE bit 0, FSPM bits 3:2, WPE bit 4, EAFE bit 7 of word 2; PGSNP bit 24 of word 1.
    for (flags, levels, word) in [(0, 48, 0), (1, 48, 1), (5, 48, 0x11), (2, 48, 0x80), (7, 57, 0x95)] {
        let root = guest.table();
        guest.set(root, if levels == 57 { 5 } else { 4 }, 5 * PAGE, 0, (MEMORY + PAGE) | 7);
        let nested = guest.nest(&[flags, root, levels]).unwrap();
        guest.attach(RED, &*nested);
        bench.expect(RED, 5 * PAGE, Ok(HOST + PAGE));
        let entry = bench.entry(RED);
        assert_eq!((entry[2], entry[1] >> 24 & 1), (root | word, 1), "{flags:#x} {levels}");
        // In all but the last, there is no room for the tables of another.
        drop(nested);
        guest.used.set(0);
        (0..16 * 512).for_each(|word| bench.memory.write64(PhysAddr::new(guest.frames + 8 * word), 0));
    }
    guest.end();
}

#[test]
fn what_the_host_takes_away_is_gone_for_the_guest() {
    for caching in [false, true] {
        let config = if caching { server().caching_mode() } else { server() };
        let bench = Bench::up(&case(config));
        let guest = Guest::new(&bench);
        let (root, nested) = guest.first_stage();
        guest.map(root, 7 * PAGE, MEMORY + 3 * PAGE);
        guest.attach(RED, &*nested);
        guest.expect_all(RED);
        bench.expect(RED, 7 * PAGE, Ok(HOST + 3 * PAGE));
        let id = bench.domain_id(RED);
        bench.invalidations();
        // Nobody leads to the parent itself: one for the guest's domain id, and that is all.
        unmap(&*guest.parent, MEMORY + PAGE, PAGE);
        let granularity = Granularity::Domain(id);
        assert_eq!(bench.invalidations(), [Descriptor::Iotlb { granularity, drain_writes: true, drain_reads: true }]);
        bench.expect(RED, 5 * PAGE, Err(FaultCode::SECOND_PERMISSION));
        bench.expect(RED, 6 * PAGE, Ok(HOST + 2 * PAGE));
        // Several ranges at once, the tables of the guest among them.
        let mut gather = Gather::new();
        guest.parent.unmap(range(MEMORY + 2 * PAGE, PAGE), &mut gather).unwrap();
        guest.parent.unmap(range(TABLES, 16 * PAGE), &mut gather).unwrap();
        guest.parent.flush(&mut gather).unwrap();
        bench.expect(RED, 7 * PAGE, Err(FaultCode::SECOND_PERMISSION));
        // And back: with caching mode the lack of it was cached.
        map(&*guest.parent, TABLES, guest.frames, 16 * PAGE);
        map(&*guest.parent, MEMORY + PAGE, HOST + 9 * PAGE, 2 * PAGE);
        bench.expect(RED, 5 * PAGE, Ok(HOST + 9 * PAGE));
        bench.expect(RED, 6 * PAGE, Ok(HOST + 10 * PAGE));
        drop(nested);
        guest.end();
    }
}

#[test]
fn what_the_host_takes_away_is_reached_by_no_request_on_its_way() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (_, nested) = guest.first_stage();
    guest.attach(RED, &*nested);
    bench.attach(BLUE, &*guest.parent);
    // Requests have the device's addresses, and a page-selective invalidation drains those with addresses in its range:
    // it is of no use for a guest's (section 6.5.4).
    bench.model.linger(true);
    guest.expect_all(RED);
    bench.expect(BLUE, MEMORY + PAGE, Ok(HOST + PAGE));
    let to = |frame| bench.model.in_flight().iter().filter(|request| request.phys == PhysAddr::new(frame)).count();
    assert!(to(HOST + PAGE) >= 2 && to(HOST + 2 * PAGE) >= 1);
    unmap(&*guest.parent, MEMORY + PAGE, PAGE);
    assert_eq!(to(HOST + PAGE), 0, "{:x?}", bench.model.in_flight());
    unmap(&*guest.parent, MEMORY + 2 * PAGE, 2 * PAGE);
    assert_eq!(to(HOST + 2 * PAGE), 0, "{:x?}", bench.model.in_flight());
    bench.model.linger(false);
    drop(nested);
    guest.end();
}

#[test]
fn a_guests_request_reaches_its_own_translations_only() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (root, nested) = guest.first_stage();
    let (other_root, other) = guest.first_stage();
    guest.attach(RED, &*nested);
    guest.attach(BLUE, &*other);
    guest.expect_all(RED);
    guest.expect_all(BLUE);
    let id = bench.domain_id(RED);
    bench.invalidations();
    // Both guests change page 5, and one says so.
    guest.map(root, 5 * PAGE, MEMORY + 3 * PAGE);
    guest.map(other_root, 5 * PAGE, MEMORY + 3 * PAGE);
    nested.invalidate(&request((5 * PAGE) | LEAVES_ONLY, 1)).unwrap();
    let pages = |address, mask, leaf_only| {
        Descriptor::PasidIotlb(Granularity::Pages { domain: id, pasid: Some(0), address, mask, leaf_only })
    };
    assert_eq!(bench.invalidations(), [pages(5 * PAGE, 0, true)]);
    bench.expect(RED, 5 * PAGE, Ok(HOST + 3 * PAGE));
    bench.expect(BLUE, 5 * PAGE, Ok(HOST + PAGE));
    // Widened to a block; with what is cached of tables; everything.
    guest.set(root, 4, 0, 1, 0);
    nested.invalidate(&request(5 * PAGE, 4)).unwrap();
    assert_eq!(bench.invalidations(), [pages(0, 4, false)]);
    bench.expect(RED, 5 * PAGE, Err(FaultCode::FIRST_NOT_PRESENT));
    nested.invalidate(&request(0, ALL_PAGES)).unwrap();
    let all = |domain| Descriptor::PasidIotlb(Granularity::Pasid { domain, pasid: 0 });
    assert_eq!(bench.invalidations(), [all(id)]);
    bench.expect(BLUE, 5 * PAGE, Ok(HOST + PAGE));
    // Hostile ones ask hardware nothing.
    for words in
        [[5 * PAGE, 0], [(5 * PAGE) | 2, 1], [u64::MAX, 1], [PAGE, ALL_PAGES], [0, 1 << 52], [1 << 63, 1 << 52]]
    {
        let found = nested.invalidate(&Invalidation { kind: CHANGED, words });
        assert!(matches!(found, Err(HwError::Hardware(_))), "{words:x?}: {found:?}");
    }
    for kind in [0, 2, u32::MAX] {
        let found = nested.invalidate(&Invalidation { kind, words: [0, 1] });
        assert!(matches!(found, Err(HwError::Unsupported(_))));
    }
    assert_eq!(bench.invalidations(), []);
    // Nobody leads to it: nothing is cached.
    bench.detach(RED);
    bench.invalidations();
    nested.invalidate(&request(0, ALL_PAGES)).unwrap();
    assert_eq!(bench.invalidations(), []);
    // Hardware that does not confirm is reported.
    guest.attach(RED, &*nested);
    bench.model.set_queue(Queue::Stopped);
    assert_eq!(nested.invalidate(&request(0, ALL_PAGES)), Err(HUNG));
    bench.model.set_queue(Queue::Running);
    drop((nested, other));
    guest.end();
}

#[test]
fn streams_move_between_the_domain_and_guests_on_top_of_it() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (_, nested) = guest.first_stage();
    let (_, other) = guest.first_stage();
    for _ in 0..3 {
        bench.attach(RED, &*guest.parent);
        bench.expect(RED, MEMORY, Ok(HOST));
        assert_eq!(guest.attach(RED, &*nested), Transition::ThroughBlocked);
        guest.expect_all(RED);
        assert_eq!(guest.attach(RED, &*nested), Transition::Hitless);
        assert_eq!(guest.attach(RED, &*other), Transition::ThroughBlocked);
        guest.expect_all(RED);
        unmap(&*guest.parent, MEMORY + PAGE, PAGE);
        bench.expect(RED, 5 * PAGE, Err(FaultCode::SECOND_PERMISSION));
        map(&*guest.parent, MEMORY + PAGE, HOST + PAGE, PAGE);
    }
    drop((nested, other));
    guest.end();
}

#[test]
fn a_domain_that_is_retired_takes_its_guests_along() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (_, nested) = guest.first_stage();
    guest.attach(RED, &*nested);
    bench.attach(BLUE, &*guest.parent);
    guest.expect_all(RED);
    bench.expect(BLUE, MEMORY, Ok(HOST));
    guest.parent.retire().unwrap();
    for rid in [RED, BLUE] {
        bench.expect(rid, 5 * PAGE, Err(FaultCode::CONTEXT_NOT_PRESENT));
    }
    // It is not gone yet.
    guest.attach(RED, &*nested);
    guest.expect_all(RED);
    guest.end();
    // Now it is, and the guest's first stage leads nowhere.
    bench.expect(RED, 5 * PAGE, Err(FaultCode::CONTEXT_NOT_PRESENT));
    assert_eq!(bench.unit.attach(stream(RED), Target::Nested(&*nested)), Err(HwError::ForeignDomain));
    bench.expect(RED, 5 * PAGE, Err(FaultCode::CONTEXT_NOT_PRESENT));
    nested.invalidate(&request(0, ALL_PAGES)).unwrap();
    drop(nested);
    bench.check();
}

#[test]
fn guests_record_writes_with_the_domain() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::with(&bench, DomainConfig { dirty_tracking: true, ..parent_config() });
    let (_, nested) = guest.first_stage();
    guest.attach(RED, &*nested);
    guest.expect_all(RED);
    let dirty = || {
        let mut found = Vec::new();
        guest.parent.read_dirty(range(MEMORY, LARGE), &mut |range| found.push(range)).unwrap();
        found
    };
    assert_eq!(dirty(), []);
    guest.parent.set_dirty_tracking(true).unwrap();
    // Section 6.2.3.1: all entries with the same second stage say the same.
    assert_eq!(bench.entry(RED)[0] >> 9 & 1, 1);
    bench.write(RED, 5 * PAGE).unwrap();
    assert_eq!(dirty(), [range(MEMORY + PAGE, PAGE)]);
    let mut gather = Gather::new();
    guest.parent.read_and_clear_dirty(range(MEMORY, LARGE), &mut gather, &mut |_| ()).unwrap();
    guest.parent.flush(&mut gather).unwrap();
    assert_eq!(dirty(), []);
    bench.write(RED, 5 * PAGE).unwrap();
    assert_eq!(dirty(), [range(MEMORY + PAGE, PAGE)]);
    let (_, later) = guest.first_stage();
    guest.attach(BLUE, &*later);
    bench.write(BLUE, 6 * PAGE).unwrap();
    assert_eq!(dirty(), [range(MEMORY + PAGE, 2 * PAGE)]);
    guest.parent.set_dirty_tracking(false).unwrap();
    assert_eq!((bench.entry(RED)[0] >> 9 & 1, bench.entry(BLUE)[0] >> 9 & 1), (0, 0));
    drop((nested, later));
    guest.end();
}

#[test]
fn a_root_has_the_same_properties_for_all_who_share_it() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (root, nested) = guest.first_stage();
    // Section 6.2.3.1: what hardware keeps of tables it keeps by their address.
    for words in [[0, root, 57], [2, root, 48]] {
        assert!(matches!(guest.nest(&words), Err(HwError::Hardware(_))), "{words:x?}");
    }
    // SRE and WPE are the PASID's.
    let same = guest.nest(&[5, root, 48]).unwrap();
    drop(nested);
    assert!(guest.nest(&[2, root, 48]).is_err(), "one is left");
    drop(same);
    drop(guest.nest(&[2, root, 48]).unwrap());
    drop(guest.nest(&[0, root, 57]).unwrap());
    guest.end();
}

#[test]
fn what_cannot_be_is_refused_and_costs_nothing() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let before = bench.memory.in_use();
    let (aperture, root) = (guest.parent.geometry().aperture, TABLES);
    // More often than there are domain ids.
    for n in 0..0x1_0010u64 {
        let words = [[1 << (3 + n % 61), root, 48], [0, root | 1 << (n % 12), 48], [0, root, 49 + n % 8]];
        for words in &words[..if n < 0x100 { 3 } else { 1 }] {
            assert!(matches!(guest.nest(words), Err(HwError::Hardware(_))), "{words:x?}");
        }
    }
    assert!(guest.nest(&[0, aperture.last().get() - 0xfff, 48]).is_ok());
    assert!(guest.nest(&[0, aperture.last().get() + 1, 48]).is_err());
    for words in [&[][..], &[0], &[0, root], &[0, root, 48, 0]] {
        assert!(matches!(guest.nest(words), Err(HwError::Hardware(_))));
    }
    let kind = NestedConfig { kind: 7, words: &[0, root, 48] };
    assert!(matches!(bench.unit.create_nested(&*guest.parent, &kind), Err(HwError::Unsupported(_))));
    let config = NestedConfig { kind: FIRST_STAGE, words: &[0, root, 48] };
    // Not made for it; another unit's, both ways.
    let plain = bench.domain();
    assert!(matches!(bench.unit.create_nested(&*plain, &config), Err(HwError::Unsupported(_))));
    let elsewhere = Bench::up(&case(server()));
    assert_eq!(elsewhere.unit.create_nested(&*guest.parent, &config).err(), Some(HwError::ForeignDomain));
    let (_, nested) = guest.first_stage();
    let found = elsewhere.unit.attach(stream(RED), Target::Nested(&*nested));
    assert_eq!(found, Err(HwError::ForeignDomain));
    drop((plain, nested));
    assert_eq!(bench.memory.in_use(), before);
    guest.end();
    // NEST, FSTS and SSTS are needed, and a second stage.
    for (bit, field) in [(26, "ECAP.NEST"), (47, "ECAP.FSTS"), (46, "ECAP.SSTS")] {
        let stage = if bit == 46 { Stage::First } else { Stage::Second };
        let bench = Bench::up(&Case { stage, ..case(server().ecap_bits(1 << bit, false)) });
        assert!(!bench.unit.capabilities().nesting);
        match bench.unit.create_domain(&parent_config()).err() {
            Some(HwError::Missing(capability)) => assert_eq!(capability.field, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let first = DomainConfig { stage: Stage::First, ..parent_config() };
    assert!(matches!(bench.unit.create_domain(&first).err(), Some(HwError::Unsupported(_))));
}

#[test]
fn an_end_that_is_not_confirmed_keeps_the_domain_id() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (_, nested) = guest.first_stage();
    guest.attach(RED, &*nested);
    guest.expect_all(RED);
    let id = bench.domain_id(RED);
    bench.model.set_queue(Queue::Stopped);
    drop(nested);
    // Still found through stale entries, which must not be taken for another's.
    bench.expect(RED, 5 * PAGE, Ok(HOST + PAGE));
    let (_, next) = guest.first_stage();
    guest.attach(BLUE, &*next);
    assert_ne!(bench.domain_id(BLUE), id);
    guest.expect_all(BLUE);
    // It still counts as somebody who leads there: what the host takes away has to be confirmed for it too.
    let mut gather = Gather::new();
    guest.parent.unmap(range(MEMORY + PAGE, PAGE), &mut gather).unwrap();
    assert_eq!(guest.parent.flush(&mut gather), Err(HUNG));
    bench.model.set_queue(Queue::Running);
    bench.unit.sync().unwrap();
    bench.invalidations();
    guest.parent.flush(&mut gather).unwrap();
    assert_eq!(bench.invalidations().len(), 2, "of both domain ids");
    drop(next);
    bench.detach(RED);
    guest.end();
}

fn adi(pasid: u32) -> Stream {
    Stream::with_pasid(RequesterId::new(RED), Pasid::new(pasid).expect("20 bits"))
}

/// Where requests with a PASID go.
fn go(bench: &Bench, request: Request) -> Result<u64, FaultCode> {
    bench.model.request(&request).map(|done| done.phys.get()).map_err(|blocked| blocked.code)
}

#[test]
fn a_pasid_leads_to_a_guest_and_the_function_to_the_domain() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (root, nested) = guest.first_stage();
    // A page that is none of a user's.
    guest.set(root, 4, 8 * PAGE, 0, (MEMORY + 4 * PAGE) | 3);
    let supervisor = guest.nest(&[1, root, 48]).unwrap();
    bench.attach(RED, &*guest.parent);
    for (pasid, nested) in [(5, &nested), (0x5_4321, &supervisor)] {
        bench.unit.attach(adi(pasid), Target::Nested(&**nested)).unwrap();
        let user = |iova| Request::new(RED, Some(pasid), Iova::new(iova), true);
        assert_eq!(go(&bench, user(5 * PAGE)), Ok(HOST + PAGE));
        assert_eq!(go(&bench, user(8 * PAGE)), Err(FaultCode::USER));
        let privileged = go(&bench, user(8 * PAGE).privileged());
        // SRE: a supervisor's page is reached by those who ask for it, and the host's stage holds all the same.
        let expected = if pasid == 5 { Err(FaultCode::SUPERVISOR_DISABLED) } else { Ok(HOST + 4 * PAGE) };
        assert_eq!(privileged, expected, "{pasid:#x}");
    }
    bench.expect(RED, MEMORY, Ok(HOST));
    bench.invalidations();
    // A request names the guest's own PASID.
    guest.map(root, 5 * PAGE, MEMORY + 3 * PAGE);
    nested.invalidate(&request((5 * PAGE) | LEAVES_ONLY, 1)).unwrap();
    let [Descriptor::PasidIotlb(Granularity::Pages { pasid: Some(5), address, mask: 0, leaf_only: true, .. })] =
        bench.invalidations()[..]
    else {
        panic!("one for PASID 5");
    };
    assert_eq!(address, 5 * PAGE);
    let at = |pasid| go(&bench, Request::new(RED, Some(pasid), Iova::new(5 * PAGE), true));
    assert_eq!((at(5), at(0x5_4321)), (Ok(HOST + 3 * PAGE), Ok(HOST + PAGE)), "the other has not asked");
    // What the host takes away is gone for all three.
    unmap(&*guest.parent, MEMORY + PAGE, 3 * PAGE);
    assert_eq!((at(5), at(0x5_4321)), (Err(FaultCode::SECOND_PERMISSION), Err(FaultCode::SECOND_PERMISSION)));
    bench.expect(RED, MEMORY + PAGE, Err(FaultCode::SECOND_PERMISSION));
    guest.parent.retire().unwrap();
    assert!(at(5).is_err() && at(0x5_4321).is_err() && bench.read(RED, MEMORY).is_err());
    drop((nested, supervisor));
    guest.end();
}

#[test]
fn device_tlbs_of_a_guest_forget_all_that_the_host_changes_and_what_the_guest_asks_for() {
    let bench = Bench::up(&case(server()));
    let guest = Guest::new(&bench);
    let (root, nested) = guest.first_stage();
    let source = StreamId::new(RED.into());
    let tlb = DeviceTlb { queue_depth: 4, physical: source, global_invalidate: false };
    bench.unit.set_device_tlb(source, Some(tlb)).unwrap();
    let endpoint = bench.model.endpoint(RED);
    guest.attach(RED, &*nested);
    bench.unit.attach(adi(5), Target::Nested(&*nested)).unwrap();
    let go = |pasid, iova| endpoint.dma(pasid, Iova::new(iova), 1, true).map(|extents| extents[0].start.get());
    for _ in 0..2 {
        for pasid in [None, Some(5)] {
            assert_eq!(go(pasid, 5 * PAGE), Ok(HOST + PAGE));
            assert_eq!(go(pasid, 6 * PAGE), Ok(HOST + 2 * PAGE));
        }
        assert_eq!(endpoint.cached().len(), 4);
        // The guest's request: its page, of either kind of requests.
        guest.map(root, 5 * PAGE, MEMORY + 3 * PAGE);
        nested.invalidate(&request((5 * PAGE) | LEAVES_ONLY, 1)).unwrap();
        assert_eq!(endpoint.cached().len(), 2);
        assert_eq!((go(None, 5 * PAGE), go(Some(5), 5 * PAGE)), (Ok(HOST + 3 * PAGE), Ok(HOST + 3 * PAGE)));
        // The host's change: nobody knows at which of the guest's addresses.
        unmap(&*guest.parent, MEMORY + 2 * PAGE, PAGE);
        assert_eq!(endpoint.cached(), []);
        assert!(go(None, 6 * PAGE).is_err() && go(Some(5), 6 * PAGE).is_err());
        map(&*guest.parent, MEMORY + 2 * PAGE, HOST + 2 * PAGE, PAGE);
        guest.map(root, 5 * PAGE, MEMORY + PAGE);
        nested.invalidate(&request(0, ALL_PAGES)).unwrap();
    }
    drop(nested);
    assert_eq!(endpoint.cached(), []);
    endpoint.forget();
    bench.unit.set_device_tlb(source, None).unwrap();
    guest.end();
}

#[test]
fn the_id_of_a_first_stage_that_hardware_did_not_let_go_of_is_not_given_again() {
    // ND, bits 2:0: 16 of them.
    let mut config = server();
    config.cap &= !7;
    let bench = Bench::up(&case(config));
    let free = || std::iter::from_fn(|| bench.unit.create_domain(&parent_config()).ok()).collect::<Vec<_>>().len();
    let before = free();
    let guest = Guest::new(&bench);
    let (_, nested) = guest.first_stage();
    guest.attach(RED, &*nested);
    bench.expect(RED, 5 * PAGE, Ok(HOST + PAGE));
    bench.model.set_queue(Queue::Stopped);
    drop(nested);
    bench.model.set_queue(Queue::Running);
    assert_eq!((before, free()), (14, 12), "its own, and the parent's");
    guest.end();
    assert_eq!(free(), 13);
}
