//! The table of what to invalidate after which change (IHI 0070, sections 3.21.3, 4.3 to 4.5 and 4.7.2), row by row: the driver
//! makes the change, and the queue must have executed what the row asks for, as raw commands, with a CMD_SYNC between
//! configuration, translations and device TLBs, and nothing that concerns anybody else.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    DeviceTlb, Domain, DomainConfig, Gather, Invalidation, Nested, NestedConfig, Pasid, Prot, Stage, Stream, StreamId,
    Target, Unit as _,
};
use iommu_hal::mem::Frames;
use iommu_hal::{FrameRequest, WalkerMemory};
use iommu_models::smmuv3::Config;
use iommu_tests::smmuv3::bench::{Bench, extent, map, range, stream};
use iommu_tests::smmuv3::case::Case;

const SID: u32 = 0x11;
const PASID: u32 = 0x1_2345;
const PHYS: u64 = 0x10_0000_0000;
const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const G1: u64 = 1 << 30;

const OF_SID: u64 = (SID as u64) << 32;
const SSID: u64 = (PASID as u64) << 12;
const CFGI_STE: [u64; 2] = [0x03 | OF_SID, 1];
const CFGI_CD: [u64; 2] = [0x05 | SSID | OF_SID, 1];
const CFGI_CD_ALL: [u64; 2] = [0x06 | OF_SID, 0];
const ATC_ALL: [u64; 2] = [0x40 | OF_SID, 52];
const ATC_ALL_OF_PASID: [u64; 2] = [0x40 | 1 << 11 | SSID | OF_SID, 52];
/// Leaf, and TG of 4 KiB.
const LEAF: u64 = 1;
const TG: u64 = 1 << 10;

const fn nh_asid(asid: u16) -> [u64; 2] {
    [0x11 | (asid as u64) << 48, 0]
}

const fn s12_vmall(vmid: u16) -> [u64; 2] {
    [0x28 | (vmid as u64) << 32, 0]
}

const fn nh_all(vmid: u16) -> [u64; 2] {
    [0x10 | (vmid as u64) << 32, 0]
}

/// Configuration, translations, device TLBs, stalled accesses.
fn rank(command: &[u64; 2]) -> u8 {
    match command[0] as u8 {
        0x03..=0x06 => 0,
        0x10..=0x30 => 1,
        0x40 => 2,
        0x44 | 0x45 => 3,
        other => panic!("command {other:#x}"),
    }
}

/// A unit with everything, and one without invalidation by range.
fn benches() -> [(Bench, bool); 2] {
    [Config::server(), Config::server().without_ril()].map(|config| {
        let case = Case {
            name: "a row".into(),
            config,
            stage: Stage::First,
            non_coherent: false,
            coherent: None,
            stream_bits: 16,
            completion: iommu_smmuv3::Completion::Poll,
        };
        (Bench::up(&case), config.idr3 & Config::RIL != 0)
    })
}

fn substream() -> Stream {
    Stream::with_pasid(StreamId::new(SID), Pasid::new(PASID).unwrap())
}

/// What was executed since the last look, in groups between CMD_SYNCs, none of them empty; the rule of order kept.
fn executed(bench: &Bench) -> Vec<Vec<[u64; 2]>> {
    let raw: Vec<[u64; 2]> = bench.model.take_log().into_iter().map(|executed| executed.raw).collect();
    let groups: Vec<Vec<[u64; 2]>> =
        raw.split(|command| command[0] as u8 == 0x46).filter(|group| !group.is_empty()).map(<[_]>::to_vec).collect();
    assert_eq!(raw.last().map_or(0x46, |last| last[0] as u8), 0x46, "all of it is waited for");
    for group in &groups {
        assert!(group.iter().all(|command| rank(command) == rank(&group[0])), "kinds side by side: {group:x?}");
    }
    groups
}

/// All that was executed, without CMD_SYNCs.
fn commands(bench: &Bench) -> Vec<[u64; 2]> {
    executed(bench).concat()
}

/// The last groups are these; whatever came before is configuration of the same stream.
#[track_caller]
fn ends_with(bench: &Bench, expected: &[&[[u64; 2]]]) {
    let groups = executed(bench);
    let (before, last) = groups.split_at(groups.len().saturating_sub(expected.len()));
    assert_eq!(last, expected.iter().map(|group| group.to_vec()).collect::<Vec<_>>(), "all of it: {groups:x?}");
    let own = |command: &[u64; 2]| rank(command) == 0 && command[0] >> 32 == u64::from(SID);
    assert!(before.concat().iter().all(own), "{before:x?}");
}

fn domain(bench: &Bench, stage: Stage) -> Box<dyn Domain> {
    let domain = bench.unit.create_domain(&DomainConfig::new(stage)).unwrap();
    map(&*domain, K4, PHYS, K4);
    domain
}

/// ASID and VMID under which an access of `stream` to the first page is cached.
fn tags(bench: &Bench, stream: Stream) -> (u16, u16) {
    let found = bench.model.translate(SID, stream.pasid.map(Pasid::get), Iova::new(K4), false).unwrap();
    (found.asid.unwrap_or(0), found.vmid.unwrap_or(0))
}

fn unmap(domain: &dyn Domain, start: u64, len: u64) {
    let mut gather = Gather::new();
    domain.unmap(range(start, len), &mut gather).unwrap();
    domain.flush(&mut gather).unwrap();
}

const TLB: DeviceTlb = DeviceTlb { queue_depth: 4, physical: StreamId::new(SID), global_invalidate: false };

#[test]
fn a_stream_attached() {
    for (bench, _) in benches() {
        for stage in [Stage::First, Stage::Second] {
            let domain = domain(&bench, stage);
            bench.model.take_log();
            bench.attach(SID, &*domain);
            // The words that are not in use yet, with the path to them; then the one that leads somewhere.
            let groups = executed(&bench);
            assert_eq!(groups, [vec![[0x03 | OF_SID, 0]], vec![CFGI_STE]], "{stage:?}");
            bench.detach(SID);
        }
        bench.check();
    }
}

#[test]
fn a_stream_detached() {
    for (bench, _) in benches() {
        for atc in [false, true] {
            for stage in [Stage::First, Stage::Second] {
                let domain = domain(&bench, stage);
                bench.attach(SID, &*domain);
                let (asid, vmid) = tags(&bench, stream(SID));
                bench.model.take_log();
                bench.detach(SID);
                let (configuration, translations): (&[_], _) = match stage {
                    Stage::First => (&[CFGI_STE, CFGI_CD_ALL], nh_asid(asid)),
                    Stage::Second => (&[CFGI_STE], s12_vmall(vmid)),
                };
                match atc {
                    false => ends_with(&bench, &[configuration, &[translations]]),
                    true => ends_with(&bench, &[configuration, &[translations], &[ATC_ALL]]),
                }
            }
            bench.unit.attach(stream(SID), Target::Identity).unwrap();
            bench.model.take_log();
            bench.detach(SID);
            match atc {
                false => ends_with(&bench, &[&[CFGI_STE]]),
                true => ends_with(&bench, &[&[CFGI_STE], &[ATC_ALL]]),
            }
            bench.unit.set_device_tlb(StreamId::new(SID), Some(TLB)).unwrap();
        }
        bench.check();
    }
}

#[test]
fn a_substream_attached_and_detached() {
    for (bench, _) in benches() {
        let (function, part) = (domain(&bench, Stage::First), domain(&bench, Stage::First));
        bench.attach(SID, &*function);
        bench.model.take_log();
        bench.unit.attach(substream(), Target::Paging(&*part)).unwrap();
        // The entry leads to a table, of which the descriptor then becomes valid: nothing but configuration of this stream.
        let groups = executed(&bench);
        assert_eq!(groups.last(), Some(&vec![CFGI_CD]), "{groups:x?}");
        assert!(groups.concat().iter().all(|command| rank(command) == 0 && command[0] >> 32 == u64::from(SID)));
        assert!(groups.concat().contains(&CFGI_STE));
        let (asid, vmid) = tags(&bench, substream());
        assert_eq!(vmid, 0, "stage 1 alone is under VMID 0");
        for atc in [false, true] {
            bench.model.take_log();
            bench.unit.detach(substream()).unwrap();
            match atc {
                false => ends_with(&bench, &[&[CFGI_CD], &[nh_asid(asid)]]),
                true => ends_with(&bench, &[&[CFGI_CD], &[nh_asid(asid)], &[ATC_ALL_OF_PASID]]),
            }
            bench.unit.attach(substream(), Target::Paging(&*part)).unwrap();
            bench.unit.set_device_tlb(StreamId::new(SID), Some(TLB)).unwrap();
        }
        bench.check();
    }
}

#[test]
fn leaves_set() {
    for (bench, _) in benches() {
        for stage in [Stage::First, Stage::Second] {
            let domain = domain(&bench, stage);
            bench.attach(SID, &*domain);
            bench.model.take_log();
            map(&*domain, M2, PHYS + M2, M2);
            map(&*domain, 2 * M2, PHYS, K4);
            assert_eq!(commands(&bench), [] as [[u64; 2]; 0], "{stage:?}: what is not valid is never cached");
            bench.detach(SID);
        }
    }
}

#[test]
fn leaves_gone() {
    for (bench, ril) in benches() {
        for stage in [Stage::First, Stage::Second] {
            let domain = domain(&bench, stage);
            bench.attach(SID, &*domain);
            map(&*domain, 8 * K4, PHYS + 8 * K4, K4);
            map(&*domain, M2, PHYS + M2, M2);
            map(&*domain, G1, PHYS + G1, G1);
            let (asid, vmid) = tags(&bench, stream(SID));
            let low = match stage {
                Stage::First => 0x12 | u64::from(asid) << 48,
                Stage::Second => 0x2a | u64::from(vmid) << 32,
            };
            bench.model.take_log();
            // The page's neighbour keeps its table; a block has none.
            for (start, len, scale, ttl) in [(8 * K4, K4, 0u64, 3u64), (M2, M2, 9, 2), (G1, G1, 18, 1)] {
                unmap(&*domain, start, len);
                let expected = match ril {
                    true => [low | scale << 20, start | LEAF | TG | ttl << 8],
                    false => [low, start | LEAF],
                };
                assert_eq!(commands(&bench), [expected], "{stage:?}: {len:#x} at {start:#x}");
            }
            // All that a table translates takes it along: no Leaf, and no level.
            (0..512).for_each(|page| map(&*domain, 2 * M2 + page * K4, PHYS + (page << 13), K4));
            unmap(&*domain, 2 * M2, M2);
            let expected = if ril { [low | 9 << 20, (2 * M2) | TG] } else { [low, 2 * M2] };
            let found = commands(&bench);
            let all = if stage == Stage::First { nh_asid(asid) } else { s12_vmall(vmid) };
            assert!(found == [expected] || !ril && found == [all], "{stage:?}: a table: {found:x?}");
            bench.detach(SID);
        }
        bench.check();
    }
}

#[test]
fn a_gibibyte_of_pages_and_scattered_ones() {
    for (bench, ril) in benches() {
        let domain = domain(&bench, Stage::Second);
        bench.attach(SID, &*domain);
        let (_, vmid) = tags(&bench, stream(SID));
        bench.model.take_log();
        for page in 0..512u64 {
            map(&*domain, 0x4000_0000 + (page << 12), PHYS + (page << 13), K4);
        }
        let mut gather = Gather::new();
        (0..512u64).for_each(|page| domain.unmap(range(0x4000_0000 + (page << 12), K4), &mut gather).unwrap());
        domain.flush(&mut gather).unwrap();
        let found = commands(&bench);
        match ril {
            // One run of 512 leaves of one level; tables that are emptied page by page stay.
            true => assert_eq!(found, [[0x2a | u64::from(vmid) << 32 | 9 << 20, 0x4000_0000 | LEAF | TG | 3 << 8]]),
            false => assert_eq!(found, [s12_vmall(vmid)]),
        }
    }
}

#[test]
fn what_was_written_counts_as_clean_again() {
    for (bench, ril) in benches() {
        for stage in [Stage::First, Stage::Second] {
            let config = DomainConfig { dirty_tracking: true, ..DomainConfig::new(stage) };
            let domain = bench.unit.create_domain(&config).unwrap();
            map(&*domain, K4, PHYS, K4);
            bench.attach(SID, &*domain);
            bench.expect(SID, K4, Ok(PHYS));
            let (asid, vmid) = tags(&bench, stream(SID));
            bench.model.take_log();
            let (mut gather, mut dirty) = (Gather::new(), Vec::new());
            domain.read_and_clear_dirty(range(K4, K4), &mut gather, &mut |range| dirty.push(range)).unwrap();
            assert_eq!(dirty, [range(K4, K4)], "{stage:?}");
            domain.flush(&mut gather).unwrap();
            let low = match stage {
                Stage::First => 0x12 | u64::from(asid) << 48,
                Stage::Second => 0x2a | u64::from(vmid) << 32,
            };
            let expected = if ril { [low, K4 | LEAF | TG | 3 << 8] } else { [low, K4 | LEAF] };
            assert_eq!(commands(&bench), [expected], "{stage:?}");
            bench.detach(SID);
        }
    }
}

/// A guest's stage 1 of blocks of 1 GiB that lead to themselves, and its context descriptor.
fn guest(bench: &Bench, parent: &dyn Domain) -> Box<dyn Nested> {
    let request = FrameRequest::single(40, WalkerMemory::Coherent);
    let frames = [(); 2].map(|()| Frames::alloc(bench.memory.clone(), request).unwrap());
    let [context, root] = frames.each_ref().map(|frames| frames.phys().get());
    for at in [context, root] {
        parent.map(Iova::new(at), &[extent(at, K4)], Prot::READ_WRITE).unwrap();
    }
    bench.memory.write64(PhysAddr::new(root), 1 << 11 | 1 << 10 | 3 << 8 | 1 << 6 | 1);
    let low = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 7 << 45 | 9 << 48;
    for (at, word) in [low, root, 0, 0xff].into_iter().enumerate() {
        bench.memory.write64(PhysAddr::new(context + at as u64 * 8), word);
    }
    std::mem::forget(frames);
    let words = [1 | 5 << 1 | context, 1 << 2 | 1 << 4 | 3 << 6 | 1 << 28];
    bench.unit.create_nested(parent, &NestedConfig { kind: 0x534d_4d55, words: &words }).unwrap()
}

#[test]
fn stage_2_under_a_guest() {
    for (bench, ril) in benches() {
        let parent =
            bench.unit.create_domain(&DomainConfig { nest_parent: true, ..DomainConfig::new(Stage::Second) }).unwrap();
        map(&*parent, K4, PHYS, 2 * K4);
        let nested = guest(&bench, &*parent);
        bench.unit.set_device_tlb(StreamId::new(SID), Some(TLB)).unwrap();
        bench.unit.attach(stream(SID), Target::Nested(&*nested)).unwrap();
        bench.expect(SID, K4, Ok(PHYS));
        let (asid, vmid) = tags(&bench, stream(SID));
        assert_eq!(asid, 9, "the guest's");
        bench.model.take_log();
        unmap(&*parent, K4, K4);
        let low = 0x2a | u64::from(vmid) << 32;
        let ipa = if ril { [low, K4 | LEAF | TG | 3 << 8] } else { [low, K4 | LEAF] };
        // Where the guest leads to it nobody knows: all of its own goes, in the TLB, once no walk finds what stage 2 had, and in
        // the device.
        let groups = executed(&bench);
        assert_eq!(groups, [vec![ipa], vec![nh_all(vmid)], vec![ATC_ALL]]);
        assert!(bench.read(SID, K4).is_err());
        bench.detach(SID);
        ends_with(&bench, &[&[CFGI_STE, CFGI_CD_ALL], &[s12_vmall(vmid)], &[ATC_ALL]]);
        drop(nested);
        bench.model.take_log();
        // Without a guest the addresses alone.
        bench.attach(SID, &*parent);
        bench.model.take_log();
        unmap(&*parent, 2 * K4, K4);
        let page = [0x40 | OF_SID, 2 * K4];
        let ipa = if ril { [low, (2 * K4) | LEAF | TG | 3 << 8] } else { [low, (2 * K4) | LEAF] };
        assert_eq!(executed(&bench), [vec![ipa], vec![page]]);
        bench.check();
    }
}

#[test]
fn what_a_guest_asks_for() {
    for (bench, _) in benches() {
        let parent =
            bench.unit.create_domain(&DomainConfig { nest_parent: true, ..DomainConfig::new(Stage::Second) }).unwrap();
        map(&*parent, K4, PHYS, K4);
        let nested = guest(&bench, &*parent);
        bench.unit.attach(stream(SID), Target::Nested(&*nested)).unwrap();
        let (_, vmid) = tags(&bench, stream(SID));
        let of_vmid = u64::from(vmid) << 32;
        // Stream ids and VMIDs as the guest has them, which are nobody's here.
        let (theirs, theirs_vmid) = (0x7777u64 << 32, 0x4444u64 << 32);
        for (asked, expected) in [
            ([0x03 | theirs, 1], CFGI_CD_ALL),
            ([0x05 | theirs, 1], [0x05 | OF_SID, 1]),
            ([0x06 | theirs, 0], CFGI_CD_ALL),
            ([0x10 | theirs_vmid, 0], nh_all(vmid)),
            ([0x11 | theirs_vmid | 9 << 48, 0], [0x11 | of_vmid | 9 << 48, 0]),
            ([0x12 | theirs_vmid | 9 << 48, 0x5000 | LEAF], [0x12 | of_vmid | 9 << 48, 0x5000 | LEAF]),
            ([0x13 | theirs_vmid, 0x5000], [0x13 | of_vmid, 0x5000]),
        ] {
            bench.model.take_log();
            nested.invalidate(&Invalidation { kind: 0x534d_4d43, words: asked }).unwrap();
            assert_eq!(commands(&bench), [expected], "{asked:x?}");
        }
        for refused in [[0x28 | theirs_vmid, 0], [0x30, 0], [0x04, 31], [0x46, 0], [0x20, 0], [0x11 | 1 << 8, 0]] {
            bench.model.take_log();
            let found = nested.invalidate(&Invalidation { kind: 0x534d_4d43, words: refused });
            assert!(found.is_err(), "{refused:x?}");
            assert_eq!(commands(&bench), [] as [[u64; 2]; 0], "{refused:x?}");
        }
        bench.check();
    }
}

#[test]
fn a_device_tlb_on_and_off() {
    for (bench, _) in benches() {
        let domain = domain(&bench, Stage::First);
        bench.attach(SID, &*domain);
        bench.model.take_log();
        bench.unit.set_device_tlb(StreamId::new(SID), Some(TLB)).unwrap();
        assert_eq!(commands(&bench), [CFGI_STE]);
        bench.unit.set_device_tlb(StreamId::new(SID), None).unwrap();
        // What it still holds goes first, and then it is let through no more.
        assert_eq!(executed(&bench), [vec![ATC_ALL], vec![CFGI_STE]]);
        bench.check();
    }
}

#[test]
fn an_id_to_be_used_again() {
    for (bench, _) in benches() {
        for stage in [Stage::First, Stage::Second] {
            let domain = domain(&bench, stage);
            bench.attach(SID, &*domain);
            let (asid, vmid) = tags(&bench, stream(SID));
            bench.detach(SID);
            bench.model.take_log();
            drop(domain);
            let expected = if stage == Stage::First { nh_asid(asid) } else { s12_vmall(vmid) };
            assert_eq!(commands(&bench), [expected], "{stage:?}");
        }
    }
}

#[test]
fn stalled_accesses_of_a_stream_that_leaves() {
    for (bench, _) in benches() {
        let config = DomainConfig { stall: true, ..DomainConfig::new(Stage::First) };
        let domain = bench.unit.create_domain(&config).unwrap();
        bench.attach(SID, &*domain);
        bench.model.take_log();
        bench.detach(SID);
        let groups = executed(&bench);
        assert_eq!(groups.last(), Some(&vec![[0x45 | OF_SID, 0]]), "behind all others: {groups:x?}");
        bench.check();
    }
}
