//! Every kind of request: what it needs, how it is answered, and what its fault record says.

mod walks;

use iommu_core::addr::Iova;
use iommu_hal::regs::Registers;
use iommu_models::vtd::{AddressType, Answer, Config, FaultCode, Operation, Request};
use walks::*;

const FRCD: usize = 0x220;
/// SRE, ERE, WPE, NXE, SMEP in word 2 of a PASID entry.
const SRE: u64 = 1;
const ERE: u64 = 1 << 1;
const WPE: u64 = 1 << 4;
const NXE: u64 = 1 << 5;
const SMEP: u64 = 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;

/// A unit of the time when requests could execute, with PASID 1 attached like requests without.
fn rig(kind: u64) -> Rig {
    let config = Config::server_nested().ecap_bits(Config::ECAP_ERS | Config::ECAP_SRS | Config::ECAP_PTRS, true);
    let rig = Rig::scalable(config, kind);
    // DTE, PASIDE.
    rig.add(rig.context_entry(), 3 << 2);
    rig.set(rig.context_entry() + 8, 0);
    for word in (0..8).rev() {
        rig.set(rig.pasids + 64 + word * 8, rig.get(rig.pasids + word * 8));
    }
    rig
}

/// Word 2 of the entry of PASID 1.
fn word(rig: &Rig) -> u64 {
    rig.pasids + 64 + 16
}

#[test]
fn supervisors_need_their_enable() {
    for kind in [FIRST, SECOND, NESTED, PASS] {
        let rig = rig(kind);
        let supervisor = tagged(1, 0, false).privileged();
        assert_eq!(rig.ask(&supervisor), Err(FaultCode::SUPERVISOR_DISABLED), "PGTT {kind}");
        rig.add(word(&rig), SRE);
        let page = if kind == PASS { 0 } else { PAGE };
        assert_eq!(rig.ask(&supervisor), Ok(page), "PGTT {kind}");
        assert_eq!(rig.ask(&tagged(1, 0, false)), Ok(page), "PGTT {kind}");
        // PR means nothing without PASID.
        assert_eq!(rig.ask(&request(0, false).privileged()), Ok(page));
    }
    // RID_PRIV makes requests without PASID a supervisor's.
    let rig = rig(FIRST);
    rig.add(rig.context_entry() + 8, 1 << 20);
    assert_eq!(rig.read(), Err(FaultCode::SUPERVISOR_DISABLED));
    rig.remove(rig.first[3], 4);
    rig.add(rig.pasids + 16, SRE);
    assert_eq!(rig.read(), Ok(PAGE));
    assert_eq!(rig.ask(&tagged(1, 0, false)), Err(FaultCode::USER));
}

#[test]
fn supervisors_reach_their_own_pages() {
    let rig = rig(FIRST);
    rig.add(word(&rig), SRE);
    let (user, supervisor) = (tagged(1, 0, true), tagged(1, 0, true).privileged());
    for at in rig.first.clone() {
        rig.remove(at, 4);
        assert_eq!((rig.ask(&user), rig.ask(&supervisor)), (Err(FaultCode::USER), Ok(PAGE)));
        rig.add(at, 4);
        // R/W is not theirs, unless WPE says so.
        rig.remove(at, 2);
        assert_eq!((rig.ask(&user), rig.ask(&supervisor)), (Err(FaultCode::NO_WRITE), Ok(PAGE)));
        assert_eq!(rig.ask(&supervisor.operation(Operation::Atomic)), Ok(PAGE));
        rig.add(word(&rig), WPE);
        assert_eq!(rig.ask(&supervisor), Err(FaultCode::NO_WRITE));
        assert_eq!(rig.ask(&supervisor.operation(Operation::Read)), Ok(PAGE));
        rig.remove(word(&rig), WPE);
        rig.add(at, 2);
    }
    // The second stage knows no privilege.
    let rig = self::rig(NESTED);
    rig.add(word(&rig), SRE);
    rig.remove(rig.first[3], 2);
    rig.set(rig.guest_leaf(GUEST_PAGE), PAGE | 1);
    assert_eq!(rig.ask(&supervisor), Err(FaultCode::NO_WRITE));
}

#[test]
fn a_cached_page_keeps_its_privilege() {
    let rig = rig(FIRST).on();
    rig.add(word(&rig), SRE);
    rig.remove(rig.first[3], 4);
    let found = |request: &Request| rig.live(request).map(|found| found.phys.get()).map_err(|blocked| blocked.code);
    let (user, supervisor) = (tagged(1, 0, true), tagged(1, 0, true).privileged());
    for _ in 0..2 {
        assert_eq!((found(&supervisor), found(&user)), (Ok(PAGE), Err(FaultCode::USER)));
    }
    assert_eq!(rig.model.cached()[2], 1);
}

#[test]
fn a_cached_page_keeps_its_enables() {
    let rig = rig(FIRST).on();
    let user = tagged(1, 0, false);
    assert!(rig.live(&user).is_ok());
    let code = |request: Request| rig.live(&request).unwrap_err().code;
    assert_eq!(code(user.privileged()), FaultCode::SUPERVISOR_DISABLED);
    assert_eq!(code(user.execute()), FaultCode::EXECUTE_DISABLED);
    assert_eq!(rig.model.cached()[2], 1);
}

#[test]
fn execution_needs_its_enable_and_its_right() {
    let execute = tagged(1, 0, false).execute();
    for kind in [FIRST, SECOND, NESTED] {
        let rig = rig(kind);
        assert_eq!(rig.ask(&execute), Err(FaultCode::EXECUTE_DISABLED), "PGTT {kind}");
        rig.add(word(&rig), ERE);
        assert_eq!(rig.ask(&execute), Ok(PAGE), "PGTT {kind}");
    }
    // Without PASID it does not count.
    assert_eq!(rig(FIRST).ask(&request(0, false).execute()), Ok(PAGE));
    let rig = rig(FIRST);
    rig.add(word(&rig), ERE | NXE);
    for at in rig.first.clone() {
        rig.add(at, NO_EXECUTE);
        assert_eq!((rig.ask(&execute), rig.ask(&tagged(1, 0, true))), (Err(FaultCode::NO_EXECUTE), Ok(PAGE)));
        rig.remove(at, NO_EXECUTE);
    }
    // SMEP: a supervisor does not execute a user's page.
    rig.add(word(&rig), SRE | SMEP);
    assert_eq!((rig.ask(&execute), rig.ask(&execute.privileged())), (Ok(PAGE), Err(FaultCode::NO_EXECUTE)));
    rig.remove(rig.first[3], 4);
    assert_eq!(rig.ask(&execute.privileged()), Ok(PAGE));
    // SSEE: the second stage has a right of its own.
    let rig = self::rig(SECOND);
    rig.add(word(&rig), ERE);
    rig.add(rig.pasids + 64, 1 << 5);
    assert_eq!(rig.ask(&execute), Err(FaultCode::NO_EXECUTE));
    rig.second.iter().for_each(|at| rig.add(*at, 4));
    assert_eq!(rig.ask(&execute), Ok(PAGE));
    // A unit that does not know them any more, and one that says so at once.
    let rig = Rig::scalable(Config::server(), FIRST);
    rig.add(rig.context_entry(), 1 << 3);
    rig.set(rig.pasids + 64 + 8, DOMAIN);
    rig.set(rig.pasids + 64 + 16, rig.first[0]);
    rig.set(rig.pasids + 64, FIRST << 6 | 2 << 2 | 1);
    assert_eq!((rig.ask(&tagged(1, 0, false)), rig.ask(&execute)), (Ok(PAGE), Err(FaultCode::EXECUTE_DISABLED)));
    let rig = Rig { config: Config { version: 0x80, ..rig.config }, ..rig };
    assert_eq!((rig.ask(&tagged(1, 0, false)), rig.ask(&execute)), (Ok(PAGE), Err(FaultCode::NO_EXECUTE_REQUESTS)));
}

#[test]
fn both_at_once_needs_both() {
    let atomic = request(0, false).operation(Operation::Atomic);
    let rig = rig(SECOND);
    assert_eq!(rig.ask(&atomic), Ok(PAGE));
    rig.set(rig.second[3], PAGE | 1);
    assert_eq!(rig.ask(&atomic), Err(FaultCode::NO_WRITE));
    rig.set(rig.second[3], PAGE | 2);
    assert_eq!(rig.ask(&atomic), Err(FaultCode::NO_READ));
    let rig = self::rig(FIRST);
    rig.remove(rig.first[0], 2);
    assert_eq!(rig.ask(&atomic), Err(FaultCode::NO_WRITE));
}

#[test]
fn rights_that_cancel_each_other_are_none() {
    let rig = rig(SECOND);
    rig.remove(rig.second[0], 2);
    rig.remove(rig.second[3], 1);
    assert_eq!((rig.read(), rig.write()), (Err(FaultCode::SECOND_PERMISSION), Err(FaultCode::SECOND_PERMISSION)));
}

#[test]
fn a_read_of_nothing_is_content_with_write_permission() {
    let nothing = request(0, false).operation(Operation::ZeroLengthRead);
    for (zlr, code) in [(true, Ok(PAGE)), (false, Err(FaultCode::NO_READ))] {
        let rig = Rig::scalable(Config::server().cap_bits(Config::CAP_ZLR, zlr), SECOND).on();
        rig.set(rig.second[3], PAGE | 2);
        assert_eq!(rig.ask(&nothing), code);
        // Cached or not.
        assert_eq!(rig.access(0, true), Ok(PAGE));
        assert_eq!(rig.live(&nothing).map(|found| found.phys.get()).map_err(|blocked| blocked.code), code);
        assert_eq!(rig.access(0, false), Err(FaultCode::NO_READ));
    }
    let rig = Rig::legacy(Config::server().cap_bits(Config::CAP_ZLR, false));
    rig.set(rig.second[3], PAGE | 2);
    assert_eq!(rig.ask(&nothing), Err(FaultCode::LEGACY_READ));
}

#[test]
fn translations_need_their_enable() {
    let rig = rig(SECOND);
    let ask = |pasid: Option<u32>, address| {
        let iova = Iova::new(if address == AddressType::Translated { PAGE } else { 0 });
        rig.ask(&Request::new(RID, pasid, iova, false).address(address))
    };
    let [translation, translated] = [AddressType::Translation, AddressType::Translated];
    for pasid in [None, Some(1)] {
        assert_eq!(ask(pasid, translation), Ok(PAGE), "{pasid:?}");
    }
    assert_eq!(ask(None, translated), Ok(PAGE));
    // EPTR.
    assert_eq!(ask(Some(1), translated), Err(FaultCode::TRANSLATED_PASID));
    rig.add(rig.context_entry(), 1 << 6);
    assert_eq!(ask(Some(1), translated), Ok(PAGE));
    assert_eq!(ask(Some(0), translated), Err(FaultCode::RID_PASID));
    // DTE.
    rig.remove(rig.context_entry(), 1 << 2);
    for (pasid, address) in [(None, translation), (None, translated), (Some(1), translation), (Some(1), translated)] {
        assert_eq!(ask(pasid, address), Err(FaultCode::DEVICE_TLB_DISABLED), "{pasid:?} {address:?}");
    }
    assert_eq!(rig.read(), Ok(PAGE));
}

#[test]
fn a_translated_address_is_the_hosts() {
    let rig = rig(SECOND).on();
    let to = |address| {
        let request = request(address, true).address(AddressType::Translated);
        rig.live(&request).map(|found| found.phys.get()).map_err(|blocked| blocked.code)
    };
    // No table is asked.
    assert_eq!(to(0x7777_7123), Ok(0x7777_7123));
    assert_eq!(to(1 << 46), Err(FaultCode::BEYOND_HOST));
    assert_eq!(to(0xfee1_2000), Err(FaultCode::INTERRUPT_OUTPUT));
    assert_eq!(rig.model.cached()[1..], [0, 0]);
    // But for the context entry.
    rig.set(rig.context_entry() + 32, 0);
    let stranger = Request { requester: RID + 1, ..request(0x5000, true).address(AddressType::Translated) };
    assert_eq!(rig.live(&stranger).unwrap_err().code, FaultCode::CONTEXT_NOT_PRESENT);
}

#[test]
fn a_translation_says_what_is_allowed() {
    let rig = rig(SECOND).on();
    let ask = request(0x123, false).operation(Operation::Atomic).address(AddressType::Translation);
    for (rights, read, write) in [(3, true, true), (1, true, false), (2, false, true)] {
        let rig = self::rig(SECOND).on();
        rig.set(rig.second[3], PAGE | rights);
        for _ in 0..2 {
            let found = rig.live(&ask).unwrap();
            assert_eq!((found.phys.get(), found.size), (PAGE + 0x123, 0x1000));
            assert_eq!((found.read, found.write, found.untranslated_only), (read, write, false));
        }
        // NW: no write permission is asked for, and none given.
        let found = rig.live(&ask.operation(Operation::Read)).unwrap();
        assert_eq!((found.read, found.write), (read, false));
    }
    // N comes from the leaf or from PGSNP.
    assert!(!rig.live(&ask).unwrap().snoop);
    for (at, bit) in [(3, 1 << 11), (0, 0)] {
        let rig = self::rig(SECOND).on();
        rig.add(rig.second[at], bit);
        rig.add(rig.pasids + 8, if bit == 0 { 1 << 24 } else { 0 });
        assert!(rig.live(&ask).unwrap().snoop);
    }
    let nested = self::rig(NESTED).on();
    assert!(!nested.live(&ask).unwrap().snoop);
    let nested = self::rig(NESTED).on();
    nested.add(nested.guest_leaf(GUEST_PAGE), 1 << 11);
    assert!(nested.live(&ask).unwrap().snoop);
    // PRIV is the request's, not RID_PRIV's.
    let rig = self::rig(FIRST).on();
    rig.add(word(&rig), SRE);
    rig.add(rig.pasids + 16, SRE);
    rig.add(rig.context_entry() + 8, 1 << 20);
    let with = tagged(1, 0, false).privileged().address(AddressType::Translation);
    assert!(rig.live(&with).unwrap().privileged);
    assert!(!rig.live(&ask).unwrap().privileged);
}

#[test]
fn a_translation_of_where_interrupts_go_says_untranslated_only() {
    let ask = request(0xfee0_0000, false).operation(Operation::Atomic).address(AddressType::Translation);
    let rig = rig(SECOND).on();
    let found = rig.live(&ask).unwrap();
    assert_eq!((found.read, found.write, found.untranslated_only), (false, true, true));
    let found = rig.live(&ask.operation(Operation::Read)).unwrap();
    assert_eq!((found.read, found.write, found.untranslated_only), (false, false, false));
    // A translation elsewhere that leads there is refused.
    rig.set(rig.second[3], 0xfee0_0000 | 3);
    let blocked = rig.live(&ask.at(Iova::new(0))).unwrap_err();
    assert_eq!((blocked.code, blocked.answer), (FaultCode::INTERRUPT_OUTPUT, Answer::Aborted));
    // While translation is off a device gets nothing.
    let rig = self::rig(SECOND);
    let blocked = rig.live(&ask).unwrap_err();
    assert_eq!((blocked.code, blocked.reported, blocked.answer), (FaultCode::NONE, false, Answer::Unsupported));
}

#[test]
fn a_device_that_may_ask_again_is_no_fault() {
    let ask = request(0, true).address(AddressType::Translation);
    let live = |rig: Rig, code, answer, reported| {
        let rig = rig.on();
        let blocked = rig.live(&ask).unwrap_err();
        assert_eq!((blocked.code, blocked.answer, blocked.reported), (code, answer, reported));
        assert_eq!(rig.model.read32(0x34) & 2 != 0, reported);
        assert_eq!(rig.model.take_faults().len(), usize::from(reported));
    };
    let with = |kind, change: &dyn Fn(&Rig)| {
        let rig = rig(kind);
        change(&rig);
        rig
    };
    let [empty, aborted, unsupported] = [Answer::Empty, Answer::Aborted, Answer::Unsupported];
    let r = |kind, at: fn(&Rig) -> u64, value| with(kind, &|rig| rig.set(at(rig), value));
    live(r(SECOND, |rig| rig.second[3], 0), FaultCode::SECOND_PERMISSION, empty, false);
    live(r(FIRST, |rig| rig.first[3], 0), FaultCode::FIRST_NOT_PRESENT, empty, false);
    live(r(FIRST, |rig| rig.first[3], PAGE | 0x63), FaultCode::USER, empty, false);
    live(r(SECOND, |rig| rig.pasids, 0), FaultCode::PASID_NOT_PRESENT, empty, false);
    live(r(SECOND, |rig| rig.directory, 0), FaultCode::DIRECTORY_NOT_PRESENT, empty, false);
    live(r(SECOND, |rig| rig.second[3], 1 << 62 | 3), FaultCode::SECOND_RESERVED, aborted, true);
    live(r(SECOND, |rig| rig.pasids, 1), FaultCode::PASID_INVALID, aborted, true);
    live(r(SECOND, |rig| rig.directory, 5), FaultCode::DIRECTORY_RESERVED, aborted, true);
    live(r(SECOND, |rig| rig.context_entry(), 0), FaultCode::CONTEXT_NOT_PRESENT, unsupported, true);
    live(r(SECOND, |rig| rig.table(), 0), FaultCode::ROOT_NOT_PRESENT, unsupported, true);
    live(
        with(SECOND, &|rig| rig.remove(rig.context_entry(), 1 << 2)),
        FaultCode::DEVICE_TLB_DISABLED,
        unsupported,
        true,
    );
}

#[test]
fn a_fault_record_tells_all_of_it() {
    // Nothing is mapped at page 1.
    let live = |request: &Request| {
        let rig = rig(FIRST).on();
        rig.add(word(&rig), SRE | ERE);
        assert_eq!(rig.live(request).unwrap_err().code, FaultCode::FIRST_NOT_PRESENT);
        assert_eq!(rig.model.read64(FRCD), 0x1000);
        let record = rig.model.take_faults()[0];
        assert_eq!((record.operation, record.address), (request.operation, request.address));
        rig.model.read64(FRCD + 8)
    };
    let base = 1 << 63 | 0x71 << 32 | u64::from(RID);
    let (t1, t2, exe, privileged, pp) = (1 << 62, 1 << 28, 1 << 30, 1 << 29, 1 << 31 | 1 << 40);
    assert_eq!(live(&request(0x1234, true)), base);
    assert_eq!(live(&request(0x1234, false)), base | t1);
    assert_eq!(live(&request(0x1234, false).operation(Operation::ZeroLengthRead)), base | t1);
    assert_eq!(live(&request(0x1234, false).operation(Operation::Atomic)), base | t1 | t2);
    assert_eq!(live(&tagged(1, 0x1234, true)), base | pp);
    assert_eq!(live(&tagged(1, 0x1234, false).execute()), base | pp | t1 | exe);
    assert_eq!(live(&tagged(1, 0x1234, true).privileged()), base | pp | privileged);
    // Neither is known of a request without PASID.
    assert_eq!(live(&request(0x1234, false).execute().privileged()), base | t1);
}

#[test]
fn a_fault_record_tells_the_address_type() {
    let rig = rig(SECOND).on();
    rig.remove(rig.context_entry(), 1 << 2);
    for (slot, (address, at)) in
        [(AddressType::Translation, 1 << 60), (AddressType::Translated, 2 << 60)].into_iter().enumerate()
    {
        assert!(rig.live(&request(0x3000, true).address(address)).is_err());
        let upper = rig.model.read64(FRCD + slot * 16 + 8);
        assert_eq!(upper, 1 << 63 | at | 0x44 << 32 | u64::from(RID));
    }
}

#[test]
fn a_fault_record_is_as_wide_as_the_tables() {
    // The upper half of the first stage loses its sign: bits above the largest AGAW are reserved.
    for (config, bits) in [(Config::server(), 57), (Config::first_stage(), 48)] {
        let rig = Rig::scalable(config, FIRST).on();
        let iova = u64::MAX << 47;
        assert_eq!(rig.access(iova, true), Err(FaultCode::FIRST_NOT_PRESENT));
        assert_eq!(rig.model.read64(FRCD), iova & ((1 << bits) - 1));
        assert_eq!(rig.model.take_faults()[0].page, Iova::new(iova));
    }
    // A unit without PASIDs has no place for one.
    let rig = Rig::scalable(Config::second_stage(), SECOND).on();
    assert_eq!(rig.live(&tagged(5, 0x1000, true)).unwrap_err().code, FaultCode::PASID_DISABLED);
    assert_eq!(rig.model.read64(FRCD + 8), 1 << 63 | 0x45 << 32 | u64::from(RID));
}

#[test]
fn a_large_leaf_around_where_interrupts_go() {
    // 1 GiB from 0xc000_0000 on.
    let ask = |iova: u64| request(iova, true);
    for kind in [FIRST, SECOND] {
        let rig = rig(kind).on();
        let (table, leaf) = if kind == FIRST { (rig.first[1], 0x80 | LEAF) } else { (rig.second[1], 0x83) };
        rig.set(table, 0xc000_0000 | leaf);
        // Beside it, so that it is cached; then into it, whole pages of it and the last byte.
        for iova in [0, 0x3ed0_0000, 0x3eff_f000, 0x3f00_0000] {
            let allowed = !(0x3ee0_0000..0x3ef0_0000).contains(&iova);
            let found = rig.live(&ask(iova)).map(|found| found.phys.get()).map_err(|blocked| blocked.code);
            let expected = if allowed { Ok(0xc000_0000 + iova) } else { Err(FaultCode::INTERRUPT_OUTPUT) };
            assert_eq!(found, expected, "PGTT {kind} at {iova:#x}");
        }
        for iova in [0x3ee0_0000, 0x3eef_ffff] {
            assert_eq!(rig.live(&ask(iova)).unwrap_err().code, FaultCode::INTERRUPT_OUTPUT, "PGTT {kind}");
        }
        // A translation is of all of it.
        let blocked = rig.live(&ask(0).address(AddressType::Translation)).unwrap_err();
        assert_eq!((blocked.code, blocked.answer), (FaultCode::INTERRUPT_OUTPUT, Answer::Aborted));
    }
}

#[test]
fn what_goes_to_the_interrupts_without_being_one() {
    let at = |operation| request(0xfee0_0000, false).operation(operation);
    // Mapped or not makes no difference.
    let rig = rig(SECOND).on();
    let [read, write, both, nothing] =
        [Operation::Read, Operation::Write, Operation::Atomic, Operation::ZeroLengthRead].map(at);
    for (request, code, reported) in
        [(write, FaultCode::NONE, false), (read, FaultCode::NO_INTERRUPT, true), (both, FaultCode::NO_INTERRUPT, true)]
    {
        assert_eq!(rig.ask(&request), Err(code));
        let blocked = rig.live(&request).unwrap_err();
        assert_eq!((blocked.code, blocked.reported), (code, reported));
    }
    assert_eq!(rig.model.take_faults().len(), 2);
    assert_eq!(rig.ask(&nothing), Ok(0xfee0_0000));
    assert!(rig.live(&nothing).is_ok());
    // No FPD silences it.
    rig.add(rig.context_entry(), 2);
    assert!(rig.live(&read).unwrap_err().reported);
    // With a PASID it is an address like any other.
    assert_eq!(rig.ask(&tagged(1, 0xfee0_0000, false)), Err(FaultCode::SECOND_PERMISSION));
    // While translation is off there is nobody to report it.
    let rig = self::rig(SECOND);
    assert!(!rig.live(&read).unwrap_err().reported);
}
