//! The specification's table of what to invalidate after which change (revision 5.10, section 6.5.3.3, table 28, with 6.2 for
//! caching mode and 6.8 for the write buffer), row by row: the driver makes the change, and the queue must have executed what
//! the row asks for, as raw descriptors, kinds in the order of section 6.5.2.12, and nothing that concerns anybody else.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    DeviceTlb, Domain, DomainConfig, Gather, Invalidation, NestedConfig, Pasid, Prot, RequesterId, Stage, Stream,
    StreamId, Target, Unit as _,
};
use iommu_models::vtd::{Config, Model};
use iommu_tests::bench::{Bench, config_for, extent, map, memory, range};
use iommu_tests::case::Case;
use iommu_tests::spy::{Spy, WBF};
use iommu_vtd::Unit;
use std::sync::Arc;

const RID: u16 = 0x0108;
const PHYS: u64 = 0x10_0000_0000;
const LARGE: u64 = 1 << 21;
const PASID: u32 = 0x1_2345;

/// DW and DR, bits 6 and 7: every unit here drains both.
const DRAIN: u64 = 3 << 6;
/// All addresses: S, and ones in all bits of the address but the highest.
const ALL: u64 = 0x7fff_ffff_ffff_f000;
/// MIP of the function's device TLB.
const DEPTH: u64 = 4;

const fn sid(rid: u16) -> u64 {
    rid as u64
}

/// Type 1, G = 3.
const fn context(did: u16) -> [u64; 2] {
    [1 | 3 << 4 | (did as u64) << 16 | sid(RID) << 32, 0]
}

/// Type 1, G = 2.
const fn contexts_of(did: u16) -> [u64; 2] {
    [1 | 2 << 4 | (did as u64) << 16, 0]
}

/// Type 7, G = 1.
const fn pasid_cache(did: u16, pasid: u32) -> [u64; 2] {
    [7 | 1 << 4 | (did as u64) << 16 | (pasid as u64) << 32, 0]
}

/// Type 7, G = 0.
const fn pasid_caches_of(did: u16) -> [u64; 2] {
    [7 | (did as u64) << 16, 0]
}

const CONTEXTS: [u64; 2] = [1 | 1 << 4, 0];
const PASID_CACHES: [u64; 2] = [7 | 3 << 4, 0];
const IOTLB: [u64; 2] = [2 | 1 << 4 | DRAIN, 0];

/// Type 2, G = 2.
const fn iotlb(did: u16) -> [u64; 2] {
    [2 | 2 << 4 | DRAIN | (did as u64) << 16, 0]
}

/// Type 2, G = 3.
const fn iotlb_pages(did: u16, address: u64, mask: u64, hint: u64) -> [u64; 2] {
    [2 | 3 << 4 | DRAIN | (did as u64) << 16, address | hint << 6 | mask]
}

/// Type 6, G = 2.
const fn pasid_iotlb(did: u16, pasid: u32) -> [u64; 2] {
    [6 | 2 << 4 | (did as u64) << 16 | (pasid as u64) << 32, 0]
}

/// Type 6, G = 3.
const fn pasid_iotlb_pages(did: u16, pasid: u32, address: u64, mask: u64, hint: u64) -> [u64; 2] {
    [6 | 3 << 4 | (did as u64) << 16 | (pasid as u64) << 32, address | hint << 6 | mask]
}

/// Type 3: of requests without PASID.
const fn device_tlb(address: u64) -> [u64; 2] {
    [3 | DEPTH << 16 | sid(RID) << 32, address]
}

/// Type 8: of requests with PASID.
const fn pasid_device_tlb(pasid: u32, address: u64) -> [u64; 2] {
    [8 | DEPTH << 4 | sid(RID) << 16 | (pasid as u64) << 32, address]
}

/// Everything of the device's, by type.
fn all_of_device(pasid: Option<u32>) -> [u64; 2] {
    match pasid {
        None => device_tlb(ALL | 1),
        Some(pasid) => pasid_device_tlb(pasid, ALL | 1 << 11),
    }
}

/// One page of the device's.
fn page_of_device(pasid: Option<u32>, address: u64) -> [u64; 2] {
    match pasid {
        None => device_tlb(address),
        Some(pasid) => pasid_device_tlb(pasid, address),
    }
}

/// In which order kinds must come.
fn rank(low: u64) -> u8 {
    match low & 0xf {
        1 => 0,
        7 => 1,
        2 | 6 => 2,
        3 | 8 => 3,
        other => panic!("type {other}"),
    }
}

/// A unit with what a row needs.
struct Row {
    bench: Bench,
    caching: bool,
}

fn case(name: &str, config: Config, stage: Stage) -> Case {
    Case { name: name.into(), config, stage, non_coherent: false }
}

/// Units of scalable mode with everything, without and with caching mode.
fn scalable() -> [Row; 2] {
    let config = Config::server_nested().ecap_bits(Config::ECAP_SSADS, true).cap_bits(Config::CAP_ESRTPS, false);
    [config, config.caching_mode()].map(|config| Row {
        bench: Bench::up(&case("scalable", config, Stage::Second)),
        caching: config.cap & Config::CAP_CM != 0,
    })
}

/// Units of legacy mode with device TLBs.
fn legacy() -> [Row; 2] {
    let config = Config::legacy().ecap_bits(Config::ECAP_DT, true);
    [config, config.caching_mode()].map(|config| Row {
        bench: Bench::up(&case("legacy", config, Stage::Second)),
        caching: config.cap & Config::CAP_CM != 0,
    })
}

fn who(pasid: Option<u32>) -> Stream {
    let rid = RequesterId::new(RID);
    pasid.map_or(Stream::function(rid), |pasid| Stream::with_pasid(rid, Pasid::new(pasid).unwrap()))
}

/// The PASID under which a stream's translations are cached.
fn index(pasid: Option<u32>) -> u32 {
    pasid.unwrap_or(0)
}

impl Row {
    /// What was executed since the last look, but for waits.
    fn log(&self) -> Vec<[u64; 2]> {
        let log = self.bench.model.take_log().into_iter().inspect(|it| assert_eq!(it.raw[2..], [0, 0]));
        log.map(|it| [it.raw[0], it.raw[1]]).filter(|raw| raw[0] & 0xf != 5).collect()
    }

    /// `change` must be followed by `required`, in the order of kinds, and by nothing else but what `allowed` names.
    #[track_caller]
    fn expect(&self, name: &str, required: &[[u64; 2]], allowed: &[[u64; 2]], change: impl FnOnce()) {
        self.log();
        change();
        let log = self.log();
        let name = format!("{name}, caching mode {}", self.caching);
        for one in required {
            assert!(log.contains(one), "{name}: {one:x?} is not in {log:x?}");
        }
        for one in &log {
            assert!(required.contains(one) || allowed.contains(one), "{name}: {one:x?} in {log:x?}");
        }
        assert!(log.is_sorted_by_key(|one| rank(one[0])), "{name}: {log:x?}");
        self.bench.check();
    }

    /// The word `at` of the entry that leads a stream, as the unit reads it.
    fn entry(&self, pasid: Option<u32>, at: u64) -> u64 {
        let read = self.bench.reader();
        let root = self.bench.model.root();
        let pointer = read((root & !0xfff) + u64::from(RID >> 8) * 16).unwrap() & !0xfff;
        if root >> 10 & 3 == 0 {
            return read(pointer + u64::from(RID & 0xff) * 16 + at * 8).unwrap();
        }
        let directory = read(pointer + u64::from(RID & 0x7f) * 32).unwrap() & !0xfff;
        let index = u64::from(index(pasid));
        let table = read(directory + (index >> 6) * 8).unwrap() & !0xfff;
        read(table + (index & 0x3f) * 64 + at * 8).unwrap()
    }

    /// The domain id in the entry that leads a stream.
    fn did(&self, pasid: Option<u32>) -> u16 {
        let word = self.entry(pasid, 1);
        if self.bench.model.root() >> 10 & 3 == 0 { (word >> 8) as u16 } else { word as u16 }
    }

    fn domain(&self, stage: Stage) -> Box<dyn Domain> {
        self.bench.unit.create_domain(&DomainConfig::new(stage)).unwrap()
    }

    fn attach(&self, pasid: Option<u32>, target: Target<'_>) {
        self.bench.unit.attach(who(pasid), target).unwrap();
    }

    fn detach(&self, pasid: Option<u32>) {
        self.bench.unit.detach(who(pasid)).unwrap();
    }

    fn set_device_tlb(&self, on: bool) {
        let stream = StreamId::from(RequesterId::new(RID));
        let tlb = DeviceTlb { queue_depth: DEPTH as u8, physical: stream, global_invalidate: false };
        self.bench.unit.set_device_tlb(stream, on.then_some(tlb)).unwrap();
    }
}

/// Without caching mode nothing, with it what is given.
fn when(caching: bool, rows: &[[u64; 2]]) -> Vec<[u64; 2]> {
    if caching { rows.to_vec() } else { Vec::new() }
}

#[test]
fn the_root_pointer_is_set() {
    for (config, itself) in [Config::second_stage(), Config::server(), Config::legacy()]
        .into_iter()
        .flat_map(|config| [false, true].map(|itself| (config.cap_bits(Config::CAP_ESRTPS, itself), itself)))
    {
        let memory = memory(false);
        let model = Arc::new(Model::new(config, memory.clone()));
        let unit = Unit::bring_up(memory, Arc::new(Spy::new(model.clone())), config_for(&config)).unwrap();
        let log: Vec<u64> = model.take_log().iter().map(|it| it.raw[0]).filter(|low| low & 0xf != 5).collect();
        let scalable = config.ecap & 1 << 43 != 0;
        let expected = match (itself, scalable) {
            (true, _) => vec![],
            (false, true) => vec![CONTEXTS[0], PASID_CACHES[0], IOTLB[0]],
            (false, false) => vec![CONTEXTS[0], IOTLB[0]],
        };
        assert_eq!(log, expected);
        drop(unit);
    }
}

#[test]
fn a_first_stream_of_a_requester() {
    for row in scalable() {
        let domain = row.domain(Stage::Second);
        // The ids are known only afterwards: this one is the second of the unit, after that of pass-through.
        row.log();
        row.attach(None, Target::Paging(&*domain));
        let (did, log) = (row.did(None), row.log());
        let required = [context(0), pasid_caches_of(0), iotlb(0)];
        let entry = [pasid_cache(0, 0), pasid_cache(did, 0), pasid_iotlb(0, 0), pasid_iotlb(did, 0), iotlb(did)];
        if !row.caching {
            assert_eq!(log, [[0; 2]; 0]);
            continue;
        }
        assert!(required[..1].iter().all(|one| log.contains(one)), "{log:x?}");
        // The lack of the PASID entry: by domain id 0, one of the ways to say so.
        assert!(log.contains(&required[1]) || log.contains(&entry[0]), "{log:x?}");
        assert!(log.iter().all(|one| required.contains(one) || entry.contains(one)), "{log:x?}");
        assert!(log.is_sorted_by_key(|one| rank(one[0])), "{log:x?}");
        row.bench.check();
    }
}

#[test]
fn the_last_stream_of_a_requester_goes() {
    for row in scalable() {
        for pasid in [None, Some(PASID)] {
            let domain = row.domain(Stage::Second);
            row.attach(pasid, Target::Paging(&*domain));
            let did = row.did(pasid);
            let required = [context(0), pasid_cache(did, index(pasid)), iotlb(did)];
            // What a directory entry that goes with it asks for may come along.
            let allowed = [PASID_CACHES, IOTLB];
            row.expect("context entry cleared", &required, &allowed, || row.detach(pasid));
        }
    }
}

#[test]
fn a_context_entry_changes_while_it_is_present() {
    for row in scalable() {
        let domain = row.domain(Stage::Second);
        row.attach(None, Target::Paging(&*domain));
        row.attach(Some(1), Target::Paging(&*domain));
        let did = row.did(None);
        // Device TLBs are allowed, and are not any more. Nothing behind the entry changes: whose entries it is about is
        // said by domain or globally.
        let wide = [PASID_CACHES, IOTLB, pasid_caches_of(did), iotlb(did)];
        row.expect("DTE is set", &[context(0)], &wide, || row.set_device_tlb(true));
        row.bench.model.endpoint(RID).forget();
        let devices = [all_of_device(None), all_of_device(Some(1))];
        let log_allowed: Vec<[u64; 2]> = wide.iter().chain(&devices).copied().collect();
        row.expect("DTE is cleared", &[context(0)], &log_allowed, || row.set_device_tlb(false));
        // A larger directory takes the old one's place.
        let growth = [PASID_CACHES, IOTLB, pasid_caches_of(0), iotlb(0), pasid_caches_of(did), iotlb(did)];
        let far = [
            pasid_cache(0, 0xf_fffe),
            pasid_cache(did, 0xf_fffe),
            pasid_iotlb(0, 0xf_fffe),
            pasid_iotlb(did, 0xf_fffe),
        ];
        let allowed: Vec<[u64; 2]> = growth.into_iter().chain(far).collect();
        row.log();
        row.attach(Some(0xf_fffe), Target::Paging(&*domain));
        let log = row.log();
        assert!(log.contains(&context(0)), "{log:x?}");
        assert!(log.iter().all(|one| *one == context(0) || allowed.contains(one)), "{log:x?}");
        row.bench.check();
    }
}

#[test]
fn pasid_entries_come_and_go() {
    for row in scalable() {
        // Something else keeps the context entry.
        let other = row.domain(Stage::Second);
        row.attach(Some(2), Target::Paging(&*other));
        for ats in [false, true] {
            row.set_device_tlb(ats);
            for pasid in [None, Some(PASID), Some(3)] {
                let (first, second) = (row.domain(Stage::First), row.domain(Stage::Second));
                for (target, by_pasid) in
                    [(Target::Paging(&*first), true), (Target::Paging(&*second), false), (Target::Identity, true)]
                {
                    row.attach(pasid, target);
                    let (did, at) = (row.did(pasid), index(pasid));
                    let tlb = if by_pasid { pasid_iotlb(did, at) } else { iotlb(did) };
                    let mut required = vec![pasid_cache(did, at), tlb];
                    if ats {
                        required.push(all_of_device(pasid));
                    }
                    row.expect("PASID entry cleared", &required, &[], || row.detach(pasid));
                    let new = [pasid_cache(0, at), pasid_cache(did, at), pasid_iotlb(0, at), pasid_iotlb(did, at)];
                    let required = when(row.caching, &new[..1]);
                    let allowed = when(row.caching, &[new[1], new[2], new[3], pasid_caches_of(0), iotlb(0)]);
                    row.expect("PASID entry set", &required, &allowed, || row.attach(pasid, target));
                    row.detach(pasid);
                }
            }
        }
    }
}

#[test]
fn a_directory_entry_is_set() {
    for row in scalable() {
        let domain = row.domain(Stage::Second);
        row.attach(Some(1), Target::Paging(&*domain));
        let did = row.did(Some(1));
        let required = when(row.caching, &[pasid_caches_of(0), iotlb(0)]);
        let at = 0x45;
        let entry = [pasid_cache(0, at), pasid_cache(did, at), pasid_iotlb(0, at), pasid_iotlb(did, at)];
        row.expect("directory entry set", &required, &when(row.caching, &entry), || {
            row.attach(Some(at), Target::Paging(&*domain));
        });
    }
}

#[test]
fn writes_are_recorded_from_now_on() {
    for row in scalable() {
        let config = DomainConfig { dirty_tracking: true, ..DomainConfig::new(Stage::Second) };
        let domain = row.bench.unit.create_domain(&config).unwrap();
        row.set_device_tlb(true);
        for pasid in [None, Some(5)] {
            row.attach(pasid, Target::Paging(&*domain));
        }
        let did = row.did(None);
        // All PASIDs of the domain at once, as each of them changes.
        let required = [pasid_caches_of(did), iotlb(did), all_of_device(None), all_of_device(Some(5))];
        for on in [true, false, true] {
            assert_eq!(row.entry(None, 0) >> 9 & 1, u64::from(!on));
            row.expect("SSADE", &required, &[], || domain.set_dirty_tracking(on).unwrap());
            assert_eq!(row.entry(Some(5), 0) >> 9 & 1, u64::from(on));
        }
    }
}

#[test]
fn second_stage_tables_change() {
    for row in scalable().into_iter().chain(legacy()) {
        let domain = row.domain(Stage::Second);
        map(&*domain, 0x10_0000, PHYS, 0x1000);
        row.set_device_tlb(true);
        row.attach(None, Target::Paging(&*domain));
        let did = row.did(None);
        let mapped = when(row.caching, &[iotlb_pages(did, 0x5000, 0, 0)]);
        row.expect("leaf set", &mapped, &[], || map(&*domain, 0x5000, PHYS, 0x1000));
        let gone = [iotlb_pages(did, 0x5000, 0, 1), page_of_device(None, 0x5000)];
        row.expect("leaf gone", &gone, &[], || unmap(&*domain, 0x5000, 0x1000));
        // A table with all that it translates: entries above it too.
        map(&*domain, LARGE, PHYS, 0x1000);
        let pages: Vec<_> = (1..512u64).map(|page| extent(PHYS + page * 0x3000, 0x1000)).collect();
        domain.map(Iova::new(LARGE + 0x1000), &pages, Prot::READ_WRITE).unwrap();
        // S is set, and the size is in the address: 2 MiB are nine bits, of which eight are ones.
        let device = device_tlb(LARGE | 0xf_f000 | 1);
        let gone = [iotlb_pages(did, LARGE, 9, 0), device];
        row.expect("table gone", &gone, &[], || unmap(&*domain, LARGE, LARGE));
    }
}

#[test]
fn first_stage_tables_change() {
    for row in scalable() {
        let domain = row.domain(Stage::First);
        map(&*domain, 0x10_0000, PHYS, 0x1000);
        row.set_device_tlb(true);
        for pasid in [None, Some(7)] {
            row.attach(pasid, Target::Paging(&*domain));
        }
        let did = row.did(None);
        row.expect("leaf set", &[], &[], || map(&*domain, 0x5000, PHYS, 0x1000));
        let gone = [
            pasid_iotlb_pages(did, 0, 0x5000, 0, 1),
            pasid_iotlb_pages(did, 7, 0x5000, 0, 1),
            page_of_device(None, 0x5000),
            page_of_device(Some(7), 0x5000),
        ];
        row.expect("leaf gone", &gone, &[], || unmap(&*domain, 0x5000, 0x1000));
    }
}

/// A guest's first stage on a parent that leads to the frames of its tables at their own addresses.
fn nested(row: &Row, parent: &dyn Domain) -> Box<dyn iommu_core::hw::Nested> {
    let frame = |row: &Row| {
        use iommu_hal::{FrameRequest, Hal, WalkerMemory};
        row.bench.memory.alloc_frames(FrameRequest::single(46, WalkerMemory::Coherent)).unwrap()
    };
    let root: PhysAddr = frame(row);
    map(parent, root.get(), root.get(), 0x1000);
    let words = [0, root.get(), 48];
    row.bench.unit.create_nested(parent, &NestedConfig { kind: 1, words: &words }).unwrap()
}

#[test]
fn a_second_stage_changes_under_a_guests_first_stage() {
    for row in scalable() {
        let config = DomainConfig { nest_parent: true, ..DomainConfig::new(Stage::Second) };
        let parent = row.bench.unit.create_domain(&config).unwrap();
        let guest = nested(&row, &*parent);
        map(&*parent, 0x5000, PHYS, 0x1000);
        row.set_device_tlb(true);
        row.attach(Some(9), Target::Nested(&*guest));
        let did = row.did(Some(9));
        assert_eq!(row.entry(Some(9), 0) >> 6 & 7, 3, "PGTT");
        row.log();
        unmap(&*parent, 0x5000, 0x1000);
        let log = row.log();
        // By its own domain id, and all of the device TLB, which knows the guest's addresses only.
        assert!(log.contains(&iotlb(did)) || log.contains(&iotlb_pages(did, 0x5000, 0, 1)), "{log:x?}");
        assert!(log.contains(&all_of_device(Some(9))), "{log:x?}");
        assert!(log.is_sorted_by_key(|one| rank(one[0])));
        // The guest's own changes: its PASID and its domain id, and no other.
        let one_page = Invalidation { kind: 1, words: [0x7000, 1] };
        let required = [pasid_iotlb_pages(did, 9, 0x7000, 0, 0), page_of_device(Some(9), 0x7000)];
        row.expect("the guest's leaf", &required, &[], || guest.invalidate(&one_page).unwrap());
        // Its end.
        let required = [context(0), pasid_cache(did, 9), iotlb(did), all_of_device(Some(9))];
        row.expect("the guest's entry", &required, &[PASID_CACHES, IOTLB], || row.detach(Some(9)));
    }
}

#[test]
fn a_domain_id_may_be_used_again() {
    for row in scalable() {
        for stage in [Stage::First, Stage::Second] {
            let domain = row.domain(stage);
            row.attach(None, Target::Paging(&*domain));
            let did = row.did(None);
            row.detach(None);
            row.expect("domain id", &[pasid_caches_of(did), iotlb(did)], &[], || drop(domain));
        }
    }
    for row in legacy() {
        let domain = row.domain(Stage::Second);
        row.attach(None, Target::Paging(&*domain));
        let did = row.did(None);
        row.detach(None);
        row.expect("domain id", &[contexts_of(did), iotlb(did)], &[], || drop(domain));
    }
}

#[test]
fn legacy_context_entries_come_go_and_change() {
    for row in legacy() {
        for ats in [false, true] {
            row.set_device_tlb(ats);
            let (red, blue) = (row.domain(Stage::Second), row.domain(Stage::Second));
            row.log();
            row.attach(None, Target::Paging(&*red));
            let (did, log) = (row.did(None), row.log());
            let set = when(row.caching, &[context(0), iotlb(0), iotlb(did)]);
            assert!(set.iter().all(|one| log.contains(one)) && log.len() == set.len(), "{log:x?}, not {set:x?}");
            let mut gone = vec![context(did), iotlb(did)];
            if ats {
                gone.push(all_of_device(None));
            }
            // Elsewhere: the old one goes, by its own domain id, and the new one comes.
            row.log();
            row.attach(None, Target::Paging(&*blue));
            let (new, log) = (row.did(None), row.log());
            assert_ne!(new, did);
            assert!(log.len() >= gone.len() && log[..gone.len()] == gone[..], "{log:x?}, not {gone:x?}");
            let set = when(row.caching, &[context(0), iotlb(0), iotlb(new)]);
            assert!(log[gone.len()..].iter().all(|one| set.contains(one)), "{log:x?}");
            let mut gone = vec![context(new), iotlb(new)];
            if ats {
                gone.push(all_of_device(None));
            }
            row.expect("legacy context entry cleared", &gone, &[], || row.detach(None));
        }
    }
}

#[test]
fn where_nothing_is_invalidated_a_write_buffer_is_flushed() {
    for config in [Config::server(), Config::second_stage(), Config::first_stage(), Config::legacy()] {
        for buffered in [false, true] {
            let stage = if config == Config::first_stage() { Stage::First } else { Stage::Second };
            let bench = Bench::up(&case("buffered", config.cap_bits(Config::CAP_RWBF, buffered), stage));
            let domain = bench.domain();
            bench.spy.take_writes();
            let flushes = || bench.spy.take_commands().iter().filter(|command| *command & WBF != 0).count();
            bench.attach(RID, &*domain);
            assert_eq!(flushes(), usize::from(buffered), "an attach");
            map(&*domain, 0x5000, PHYS, 0x1000);
            assert_eq!(flushes(), usize::from(buffered), "a map");
            unmap(&*domain, 0x5000, 0x1000);
            bench.detach(RID);
            assert_eq!(flushes(), 0, "invalidations do it by themselves");
            bench.check();
        }
    }
}

fn unmap(domain: &dyn Domain, iova: u64, len: u64) {
    let mut gather = Gather::new();
    domain.unmap(range(iova, len), &mut gather).unwrap();
    domain.flush(&mut gather).unwrap();
}
