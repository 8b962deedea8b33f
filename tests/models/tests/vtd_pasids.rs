//! PASIDs: which are let in, where their entries lie, and what stands for requests without one.

mod walks;

use iommu_core::addr::Iova;
use iommu_models::vtd::{Config, FaultCode, Request};
use walks::*;

/// PASIDs enabled; the entry that every test begins with is number 0.
fn rig(config: Config) -> Rig {
    let rig = Rig::scalable(config, SECOND);
    rig.add(rig.context_entry(), 1 << 3);
    rig
}

/// Copies entry 0 to `pasid` of the table at hand.
fn copy(rig: &Rig, pasid: u64) {
    for word in (0..8).rev() {
        rig.set(rig.pasids + (pasid & 63) * 64 + word * 8, rig.get(rig.pasids + word * 8));
    }
}

#[test]
fn they_need_their_enable() {
    let rig = rig(Config::server());
    copy(&rig, 7);
    assert_eq!(rig.ask(&tagged(7, 0x10, true)), Ok(PAGE + 0x10));
    assert_eq!(rig.trace(&tagged(7, 0, true)).entry.map(|entry| (entry.pasid, entry.domain())), Some((7, 5)));
    rig.remove(rig.context_entry(), 1 << 3);
    assert_eq!(rig.ask(&tagged(7, 0, true)), Err(FaultCode::PASID_DISABLED));
    assert_eq!(rig.read(), Ok(PAGE), "without PASID it does not count");
    // A unit without PASIDs has no such bit.
    let rig = self::rig(Config::second_stage());
    assert_eq!(rig.read(), Err(FaultCode::CONTEXT_RESERVED));
    rig.remove(rig.context_entry(), 1 << 3);
    assert_eq!(rig.ask(&tagged(7, 0, true)), Err(FaultCode::PASID_DISABLED));
}

#[test]
fn entries_lie_where_directory_and_table_say() {
    let rig = rig(Config::server());
    // 20 bits: directories of 2^14 entries. This one has 4 KiB of them: PASIDs up to 32767.
    rig.add(rig.context_entry(), 7 << 9);
    let table = rig.first[0];
    for pasid in [63, 64, 65, 4095, 8192, 32767u64] {
        let found = |pasid| rig.trace(&tagged(pasid as u32, 0, false)).entry.map(|entry| entry.domain());
        rig.set(rig.directory + (pasid >> 6) * 8, table | 1);
        let entry = table + (pasid & 63) * 64;
        rig.set(entry + 8, 77);
        rig.set(entry, rig.get(rig.pasids));
        assert_eq!(found(pasid), Some(77), "PASID {pasid}");
        assert_eq!(rig.ask(&tagged(pasid as u32, 0, false)), Ok(PAGE));
        rig.set(entry, 0);
        rig.set(entry + 8, 0);
        assert_eq!(rig.ask(&tagged(pasid as u32, 0, false)), Err(FaultCode::PASID_NOT_PRESENT));
        rig.set(rig.directory + (pasid >> 6) * 8, if pasid == 63 { rig.pasids | 1 } else { 0 });
    }
}

#[test]
fn directories_have_as_many_entries_as_pdts_says() {
    for pdts in 0..8u64 {
        let rig = rig(Config::server());
        rig.add(rig.context_entry(), pdts << 9);
        let first = 1u32 << (13 + pdts);
        // The last one is looked for in the directory, which ends long before in memory.
        let found = rig.ask(&tagged(first - 1, 0, false));
        assert_ne!(found, Err(FaultCode::PASID_TOO_LARGE), "PDTS {pdts}");
        if pdts < 7 {
            assert_eq!(rig.ask(&tagged(first, 0, false)), Err(FaultCode::PASID_TOO_LARGE), "PDTS {pdts}");
        }
        // RID_PASID likewise.
        rig.set(rig.context_entry() + 8, u64::from(first - 1));
        assert_ne!(rig.read(), Err(FaultCode::CONTEXT_INVALID), "PDTS {pdts}");
        if pdts < 7 {
            rig.set(rig.context_entry() + 8, u64::from(first));
            assert_eq!(rig.read(), Err(FaultCode::CONTEXT_INVALID), "PDTS {pdts}");
        }
    }
}

#[test]
fn they_are_as_wide_as_the_unit_says() {
    for bits in [1, 2, 6, 12] {
        let rig = rig(Config::server().pasid_bits(bits));
        let last = (1u64 << bits) - 1;
        rig.set(rig.directory + (last >> 6) * 8, rig.pasids | 1);
        copy(&rig, last);
        assert_eq!(rig.ask(&tagged(last as u32, 0, false)), Ok(PAGE), "{bits} bits");
        assert_eq!(rig.ask(&tagged(last as u32 + 1, 0, false)), Err(FaultCode::PASID_BEYOND_UNIT), "{bits} bits");
    }
    // A PASID of more than 20 bits fits no prefix, and no directory.
    let rig = rig(Config::server());
    rig.add(rig.context_entry(), 7 << 9);
    assert_eq!(rig.ask(&tagged(1 << 20, 0, false)), Err(FaultCode::PASID_TOO_LARGE));
}

#[test]
fn requests_without_have_one_all_the_same() {
    let rig = rig(Config::server());
    copy(&rig, 9);
    rig.set(rig.pasids + 9 * 64 + 8, 99);
    let domain = |request: &Request| rig.trace(request).result.map(|found| found.domain);
    let plain = request(0, false);
    assert_eq!(domain(&plain), Ok(5));
    rig.set(rig.context_entry() + 8, 9);
    assert_eq!(domain(&plain), Ok(99));
    assert_eq!(rig.trace(&plain).entry.unwrap().pasid, 9);
    // Nobody else may use it; number 0 is one like any other now.
    assert_eq!(rig.ask(&tagged(9, 0, false)), Err(FaultCode::RID_PASID));
    assert_eq!(rig.ask(&tagged(0, 0, false)), Ok(PAGE));
    // Without RPS the field is reserved, and it is number 0.
    let rig = self::rig(Config::server().ecap_bits(Config::ECAP_RPS, false));
    copy(&rig, 9);
    assert_eq!(rig.trace(&plain).entry.unwrap().pasid, 0);
    assert_eq!(rig.ask(&tagged(0, 0, false)), Err(FaultCode::RID_PASID));
    rig.set(rig.context_entry() + 8, 9);
    assert_eq!(rig.ask(&plain), Err(FaultCode::CONTEXT_RESERVED));
}

#[test]
fn memory_that_does_not_answer() {
    let rig = rig(Config::server());
    let entry = rig.context_entry();
    assert_eq!(rig.read_with(entry, 0x1000 | 1), Err(FaultCode::DIRECTORY_ACCESS));
    assert_eq!(rig.read_with(rig.directory, 0x1000 | 1), Err(FaultCode::PASID_ACCESS));
    assert_eq!(rig.read_with(rig.table(), 0x1000 | 1), Err(FaultCode::CONTEXT_ACCESS));
}

#[test]
fn memory_that_does_not_answer_is_never_silent() {
    for (entry, code) in [(0, FaultCode::DIRECTORY_ACCESS), (1, FaultCode::PASID_ACCESS)] {
        let rig = rig(Config::server()).on();
        // FPD, in an entry that leads nowhere.
        rig.set([rig.context_entry(), rig.directory][entry], 0x1000 | 3);
        let blocked = rig.live(&request(0, false)).unwrap_err();
        assert_eq!((blocked.code, blocked.reported), (code, true));
    }
    // What memory holds is silenced.
    let rig = rig(Config::server()).on();
    rig.add(rig.context_entry(), 2);
    rig.set(rig.directory, 0);
    let blocked = rig.live(&request(0, false)).unwrap_err();
    assert_eq!((blocked.code, blocked.reported), (FaultCode::DIRECTORY_NOT_PRESENT, false));
}

#[test]
fn each_is_cached_and_isolated_by_itself() {
    let rig = rig(Config::server()).on();
    copy(&rig, 1);
    // Two PASIDs with tables of their own.
    let other = rig.first[0];
    rig.set(rig.pasids + 2 * 64 + 8, 6);
    rig.set(rig.pasids + 2 * 64, other | SECOND << 6 | 1 << 2 | 1);
    rig.set(other, rig.first[1] | 3);
    rig.set(rig.first[1], rig.first[2] | 3);
    rig.set(rig.first[2], 0x8000 | 3);
    let ask = |pasid| {
        let request = Request::new(RID, pasid, Iova::new(0), true);
        rig.live(&request).map(|found| found.phys.get()).map_err(|blocked| blocked.code)
    };
    for _ in 0..2 {
        assert_eq!((ask(None), ask(Some(1)), ask(Some(2))), (Ok(PAGE), Ok(PAGE), Ok(0x8000)));
        assert_eq!(ask(Some(3)), Err(FaultCode::PASID_NOT_PRESENT));
        assert_eq!(ask(Some(64)), Err(FaultCode::DIRECTORY_NOT_PRESENT));
    }
    // Another requester has none of it.
    let stranger = Request::new(RID + 1, Some(2), Iova::new(0), true);
    assert_eq!(rig.live(&stranger).unwrap_err().code, FaultCode::CONTEXT_NOT_PRESENT);
}
