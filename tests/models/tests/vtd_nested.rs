//! Nested translation: every first-stage address is the guest's, and the second stage has the last word.

mod walks;

use iommu_models::vtd::walk::{Stage, reachable};
use iommu_models::vtd::{AddressType, Config, FaultCode, Operation};
use walks::*;

fn rig() -> Rig {
    Rig::scalable(Config::server_nested(), NESTED)
}

/// Page walks snoop.
fn snooped(rig: Rig) -> Rig {
    rig.add(rig.pasids + 8, 1 << 23);
    rig
}

#[test]
fn a_request_goes_through_both_stages() {
    let rig = rig();
    let found = rig.trace(&request(0x123, true));
    let translation = found.result.unwrap();
    assert_eq!((translation.phys.get(), translation.size), (PAGE + 0x123, 0x1000));
    // Four levels for each of four tables and for the page, and the four tables themselves.
    let count = |stage| found.steps.iter().filter(|step| step.stage == stage).count();
    assert_eq!((count(Stage::First), count(Stage::Second)), (4, 20));
    let inputs: Vec<u64> = found
        .steps
        .iter()
        .filter(|step| step.stage == Stage::Second && step.level == 1)
        .map(|step| step.input)
        .collect();
    assert_eq!(inputs, [GUEST_TABLES[0], GUEST_TABLES[1], GUEST_TABLES[2], GUEST_TABLES[3], GUEST_PAGE + 0x123]);
    let rig = rig.on();
    assert_eq!((rig.access(5, false), rig.access(5, true)), (Ok(PAGE + 5), Ok(PAGE + 5)));
    // It moves with the second stage, and with the first.
    let rig = snooped(self::rig());
    rig.map_guest(GUEST_PAGE, 0x8000 | 3);
    assert_eq!(rig.read(), Ok(0x8000));
    rig.map_guest(0xa000, 0xb000 | 3);
    rig.set(rig.first[3], 0xa000 | LEAF);
    assert_eq!(rig.read(), Ok(0xb000));
    let all = reachable(&|phys| rig.memory.device_read64(phys), rig.root, &rig.config, RID, None).unwrap();
    assert_eq!(all.iter().map(|reach| (reach.iova.get(), reach.phys.get())).collect::<Vec<_>>(), [(0, 0xb000)]);
}

#[test]
fn a_table_that_moves_is_found_where_the_second_stage_puts_it() {
    for (depth, guest) in GUEST_TABLES.iter().enumerate() {
        let rig = rig();
        let request = iommu_hal::FrameRequest::single(46, iommu_hal::WalkerMemory::Coherent);
        let other = iommu_hal::Hal::alloc_frames(&*rig.memory, request).unwrap().get();
        rig.map_guest(*guest, other | 3);
        assert_eq!(rig.read(), Err(FaultCode::FIRST_NOT_PRESENT), "table {depth}");
        rig.set(other, rig.get(rig.first[depth]));
        assert_eq!(rig.read(), Ok(PAGE), "table {depth}");
    }
}

#[test]
fn the_second_stage_forbids_to_read_tables() {
    for (depth, guest) in GUEST_TABLES.iter().enumerate() {
        let rig = rig();
        let leaf = rig.guest_leaf(*guest);
        let entry = rig.get(leaf);
        // Write-only.
        let code = if depth == 0 { FaultCode::FIRST_TOP_READ } else { FaultCode::FIRST_READ };
        assert_eq!(rig.read_with(leaf, entry & !1), Err(code), "table {depth}");
        // Nothing at all, and reserved bits: the second stage's own codes.
        assert_eq!(rig.read_with(leaf, entry & !3), Err(FaultCode::SECOND_PERMISSION), "table {depth}");
        assert_eq!(rig.read_with(leaf, entry | 1 << 62), Err(FaultCode::SECOND_RESERVED), "table {depth}");
        // Read-only is enough where nothing is to be set.
        assert_eq!(rig.read_with(leaf, entry & !2), Ok(PAGE), "table {depth}");
        // No memory where the second stage leads.
        let code = if depth == 0 { FaultCode::FIRST_TOP_ACCESS } else { FaultCode::FIRST_ACCESS };
        assert_eq!(rig.read_with(leaf, 0x1000 | 3), Err(code), "table {depth}");
    }
    // And where its own tables are gone.
    let rig = rig();
    assert_eq!(rig.read_with(rig.second[2], 0x1000 | 3), Err(FaultCode::SECOND_ACCESS));
    assert_eq!(rig.read_with(rig.pasids, rig.get(rig.pasids) & 0xfff | 0x1000), Err(FaultCode::SECOND_TOP_ACCESS));
}

#[test]
fn accessed_and_dirty_in_tables_need_write_permission() {
    for (depth, guest) in GUEST_TABLES.iter().enumerate() {
        let rig = snooped(rig());
        let leaf = rig.guest_leaf(*guest);
        rig.remove(rig.first[depth], 1 << 5);
        rig.remove(leaf, 2);
        assert_eq!(rig.read(), Err(FaultCode::FIRST_UPDATE), "table {depth}");
        rig.add(leaf, 2);
        assert_eq!(rig.read(), Ok(PAGE));
        rig.add(rig.first[depth], 1 << 5);
        rig.remove(leaf, 2);
        assert_eq!(rig.read(), Ok(PAGE));
        // Dirty, in the leaf.
        if depth == 3 {
            rig.remove(rig.first[depth], 1 << 6);
            assert_eq!((rig.read(), rig.write()), (Ok(PAGE), Err(FaultCode::FIRST_UPDATE)));
        }
    }
}

#[test]
fn with_dirty_tracking_below_tables_are_read_for_writing() {
    for (depth, guest) in GUEST_TABLES.iter().enumerate() {
        let rig = snooped(rig());
        rig.add(rig.pasids, 1 << 9);
        assert_eq!(rig.read(), Ok(PAGE));
        rig.remove(rig.guest_leaf(*guest), 2);
        let code = if depth == 0 { FaultCode::FIRST_TOP_READ } else { FaultCode::FIRST_READ };
        assert_eq!(rig.read(), Err(code), "table {depth}");
    }
}

#[test]
fn guest_addresses_keep_to_the_second_stages_width() {
    let rig = rig();
    // FSPTPTR.
    let invalid = Err(FaultCode::PASID_INVALID);
    let pointer = rig.pasids + 16;
    rig.set(rig.pasids, rig.get(rig.pasids) & !(7 << 2) | 1 << 2);
    // Three levels: 39 bits.
    assert_eq!(rig.read_with(pointer, 1 << 39), invalid);
    assert_eq!(rig.read_with(pointer, 1 << 38), Err(FaultCode::SECOND_PERMISSION));
    // MGAW.
    let rig = Rig::scalable(Config::server_nested().guest_bits(40), NESTED);
    let pointer = rig.pasids + 16;
    assert_eq!(rig.read_with(pointer, 1 << 40), invalid);
    assert_eq!(rig.read_with(pointer, 1 << 39), Err(FaultCode::SECOND_PERMISSION));
    // Addresses in entries, those of leaves included.
    for (depth, at) in rig.first.iter().enumerate() {
        let entry = if depth == 3 { LEAF } else { TABLE };
        assert_eq!(rig.read_with(*at, 1 << 40 | entry), Err(FaultCode::FIRST_BEYOND_WIDTH), "table {depth}");
        assert_eq!(rig.read_with(*at, 1 << 39 | entry), Err(FaultCode::SECOND_PERMISSION), "table {depth}");
        // Beyond the host it is reserved before anything else.
        assert_eq!(rig.read_with(*at, 1 << 46 | entry), Err(FaultCode::FIRST_RESERVED), "table {depth}");
    }
}

#[test]
fn both_stages_have_to_allow_it() {
    let rig = rig();
    let page = rig.guest_leaf(GUEST_PAGE);
    let atomic = request(0, false).operation(Operation::Atomic);
    assert_eq!(rig.ask(&atomic), Ok(PAGE));
    rig.set(page, PAGE | 1);
    assert_eq!((rig.read(), rig.write()), (Ok(PAGE), Err(FaultCode::NO_WRITE)));
    assert_eq!(rig.ask(&atomic), Err(FaultCode::NO_WRITE));
    rig.set(page, PAGE | 2);
    assert_eq!((rig.read(), rig.write()), (Err(FaultCode::NO_READ), Ok(PAGE)));
    assert_eq!(rig.ask(&atomic), Err(FaultCode::NO_READ));
    rig.set(page, PAGE);
    assert_eq!((rig.read(), rig.write()), (Err(FaultCode::SECOND_PERMISSION), Err(FaultCode::SECOND_PERMISSION)));
    rig.set(page, PAGE | 3);
    for at in rig.first.clone() {
        rig.remove(at, 2);
        assert_eq!((rig.read(), rig.write()), (Ok(PAGE), Err(FaultCode::NO_WRITE)));
        rig.add(at, 2);
        rig.remove(at, 4);
        assert_eq!(rig.read(), Err(FaultCode::USER));
        rig.add(at, 4);
    }
    assert_eq!(rig.walk(1 << 47, false), Err(FaultCode::NOT_CANONICAL));
    rig.set(page, 0xfee0_1000 | 3);
    assert_eq!(rig.read(), Err(FaultCode::INTERRUPT_OUTPUT));
    // What the guest writes into its entry is no host address.
    rig.set(page, PAGE | 3);
    rig.set(rig.first[3], 0xfee0_0000 | LEAF);
    assert_eq!(rig.read(), Err(FaultCode::SECOND_PERMISSION));
}

#[test]
fn the_smaller_leaf_counts() {
    let rig = rig();
    // 2 MiB in the first stage over pages of 4 KiB, then the other way round, then both.
    rig.set(rig.first[2], 0x80 | LEAF);
    let found = |iova| rig.trace(&request(iova, false)).result.map(|found| (found.phys.get(), found.size));
    assert_eq!(found(GUEST_PAGE + 7), Ok((PAGE + 7, 0x1000)));
    assert_eq!(found(0x1_0000), Err(FaultCode::SECOND_PERMISSION));
    let below = rig.get(rig.second[2]);
    rig.set(rig.second[2], 0x4000_0083);
    assert_eq!(found(GUEST_PAGE + 7), Err(FaultCode::FIRST_TOP_ACCESS), "tables lie in the same 2 MiB");
    rig.set(rig.second[2], below);
    rig.set(rig.second[2] + 8, 0x4000_0083);
    rig.set(rig.first[2], 0x20_0080 | LEAF);
    assert_eq!(found(0x12_3456), Ok((0x4012_3456, 0x20_0000)));
    rig.set(rig.first[2], GUEST_TABLES[3] | TABLE);
    rig.set(rig.first[3], 0x27_7000 | LEAF);
    assert_eq!(found(0x456), Ok((0x4007_7456, 0x1000)));
    // All that is reachable is cut into the smaller ones.
    rig.set(rig.first[2], 0x80 | LEAF);
    let all = reachable(&|phys| rig.memory.device_read64(phys), rig.root, &rig.config, RID, None).unwrap();
    let all: Vec<_> = all.iter().map(|reach| (reach.iova.get(), reach.phys.get(), reach.len)).collect();
    let expected: Vec<_> = GUEST_TABLES.iter().zip(&rig.first).map(|(guest, host)| (*guest, *host, 0x1000)).collect();
    assert_eq!(all, [&expected[..], &[(GUEST_PAGE, PAGE, 0x1000)]].concat());
}

#[test]
fn a_device_may_ask_for_it() {
    let rig = rig().on();
    rig.add(rig.context_entry(), 1 << 2);
    rig.set(rig.guest_leaf(GUEST_PAGE), PAGE | 1);
    let ask = request(0x10, false).operation(Operation::Atomic).address(AddressType::Translation);
    let found = rig.live(&ask).unwrap();
    assert_eq!((found.phys.get(), found.read, found.write), (PAGE + 0x10, true, false));
}

#[test]
fn five_levels_over_three() {
    let rig = rig();
    // A top table at guest page 5, and a second stage without its uppermost table.
    let request = iommu_hal::FrameRequest::single(46, iommu_hal::WalkerMemory::Coherent);
    let top = iommu_hal::Hal::alloc_frames(&*rig.memory, request).unwrap().get();
    rig.map_guest(0x6000, top | 3);
    rig.set(top, GUEST_TABLES[0] | TABLE);
    rig.set(rig.pasids + 16, 0x6000 | 1 << 2);
    rig.set(rig.pasids, rig.second[1] | NESTED << 6 | 1 << 2 | 1);
    assert_eq!(rig.read(), Ok(PAGE));
    assert_eq!(rig.walk(1 << 56, false), Err(FaultCode::NOT_CANONICAL));
    assert_eq!(rig.walk(1 << 47, false), Err(FaultCode::FIRST_NOT_PRESENT));
}
