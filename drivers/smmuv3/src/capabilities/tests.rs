//! Values that QEMU and other units report; the expectations are the specification's reading of their bits.

extern crate std;

use super::*;
use alloc::string::ToString;

/// QEMU 10 and 11, `-M virt,iommu=smmuv3`.
const IDR: [u32; 6] = [0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74];

fn caps(change: impl FnOnce(&mut [u32; 6])) -> Capabilities {
    let mut idr = IDR;
    change(&mut idr);
    Capabilities::new(idr, 1)
}

fn qemu() -> Capabilities {
    caps(|_| {})
}

#[test]
fn fields_are_where_the_specification_says() {
    let caps = qemu();
    assert_eq!((caps.version(), caps.stream_bits(), caps.substream_bits()), ((3, 1), 16, 0));
    assert_eq!((caps.asid_bits(), caps.vmid_bits(), caps.output_bits(), caps.output_size()), (16, 16, 44, 4));
    assert_eq!((caps.command_queue_log2(), caps.event_queue_log2()), (19, 19));
    assert!(caps.two_level_streams() && caps.range_invalidation());
    assert!(!caps.hypervisor_streams() && !caps.ats() && !caps.attribute_override() && !caps.must_disable_stalls());
    assert_eq!((caps.memory(), caps.walk_attributes()), (WalkerMemory::Coherent, WalkAttributes::COHERENT));
    assert_eq!(caps.require_own_structures(), Ok(()));
    let summary =
        UnitCapabilities { first_stage: true, second_stage: true, identity: true, nesting: true, ..Default::default() };
    assert_eq!(caps.summary(), summary);
    let other = self::caps(|idr| {
        idr[0] = idr[0] & !(1 << 12 | 1 << 18 | 3 << 24) | 1 << 9 | 1 << 10;
        idr[1] = 4 << 21 | 3 << 16 | 20 << 6 | 1 << 27 | 33;
    });
    assert_eq!((other.asid_bits(), other.vmid_bits(), other.stream_bits(), other.substream_bits()), (8, 8, 32, 20));
    assert_eq!((other.command_queue_log2(), other.event_queue_log2()), (4, 3));
    assert!(other.hypervisor_streams() && other.ats() && other.attribute_override() && other.must_disable_stalls());
}

#[test]
fn what_is_lacking_is_named() {
    fn missing<T>(name: Capability) -> Result<T, HwError> {
        Err(HwError::Missing(name))
    }
    assert_eq!(caps(|idr| idr[0] &= !2).first_stage(), missing(names::STAGE_1));
    assert!(caps(|idr| idr[0] &= !2).second_stage().is_ok());
    assert_eq!(caps(|idr| idr[0] &= !1).second_stage(), missing(names::STAGE_2));
    assert!(caps(|idr| idr[0] &= !1).first_stage().is_ok());
    type Change = fn(&mut [u32; 6]);
    let both: [(Change, Capability); 3] = [
        (|idr| idr[0] = idr[0] & !(3 << 2) | 1 << 2, names::AARCH64_TABLES),
        (|idr| idr[0] |= 3 << 21, names::LITTLE_ENDIAN_TABLES),
        (|idr| idr[5] &= !(7 << 4), names::GRANULE_4K),
    ];
    for (change, name) in both {
        assert_eq!(caps(change).first_stage(), missing(name));
        assert_eq!(caps(change).second_stage(), missing(name));
        assert_eq!(caps(change).require_nesting(), missing(name));
        assert!(!caps(change).summary().first_stage && !caps(change).summary().second_stage);
    }
    assert_eq!(caps(|idr| idr[0] &= !2).require_nesting(), missing(names::STAGE_1));
    assert_eq!(caps(|idr| idr[0] &= !1).require_nesting(), missing(names::STAGE_2));
    assert_eq!(qemu().require_nesting(), Ok(()));
    // MMU-600 r1p0.
    assert_eq!(qemu().with_implementation(0x4831_043b).require_nesting(), missing(names::NESTING));
    assert!(caps(|idr| idr[0] &= !(3 << 21)).first_stage().is_ok());
    assert_eq!(caps(|idr| idr[1] |= 1 << 30).require_own_structures(), missing(names::ANY_TABLE_ADDRESS));
    assert_eq!(caps(|idr| idr[1] |= 1 << 29).require_own_structures(), missing(names::ANY_QUEUE_ADDRESS));
    assert_eq!(caps(|idr| idr[1] &= !(31 << 21)).require_own_structures(), missing(names::COMMAND_QUEUE));
    let text = HwError::Missing(names::STAGE_1).to_string();
    assert_eq!(text, "the unit lacks stage-1 translation (SMMU_IDR0.S1P)");
}

/// S2T0SZ, S2SL0 and S2TG of the architecture's table of initial lookups (VTCR_EL2 of the Arm Architecture Reference
/// Manual): bits that each start resolves without concatenation, and at most with it; and the output width that it needs.
const STARTS: [(Granule, u8, u8, u8, u8); 8] = [
    // Granule, SL0, fewest bits, most bits, output bits.
    (Granule::Kib4, 0, 22, 34, 0),
    (Granule::Kib4, 1, 31, 43, 0),
    (Granule::Kib4, 2, 40, 48, 44),
    (Granule::Kib16, 1, 26, 40, 0),
    (Granule::Kib16, 2, 37, 48, 42),
    (Granule::Kib64, 0, 17, 33, 0),
    (Granule::Kib64, 1, 30, 46, 0),
    (Granule::Kib64, 2, 43, 48, 44),
];

#[test]
fn stages_follow_the_output_width_and_the_granule() {
    let widths = [32, 36, 40, 42, 44, 48, 48, 48];
    for (granule, gran, tg) in [(Granule::Kib4, 4, 0), (Granule::Kib16, 5, 2), (Granule::Kib64, 6, 1)] {
        for (oas, bits) in (0..).zip(widths) {
            for aarch32 in [false, true] {
                let caps = caps(|idr| {
                    idr[5] = oas | 1 << gran;
                    idr[0] = idr[0] & !(3 << 2) | if aarch32 { 3 << 2 } else { 2 << 2 };
                });
                assert_eq!((caps.output_bits(), u32::from(caps.output_size())), (bits, oas.min(5)));
                let first = caps.first_stage().unwrap();
                let levels = if granule == Granule::Kib64 { 3 } else { 4 };
                assert_eq!((first.granule, first.levels, first.input_bits), (granule, levels, 48));
                assert_eq!(first.granule_code(), tg);
                let second = caps.second_stage().unwrap();
                let expected = if aarch32 { bits.max(40) } else { bits };
                assert_eq!((second.granule, second.granule_code(), second.input_bits), (granule, tg, expected));
                let start = |row: &&(Granule, u8, u8, u8, u8)| (row.0, row.1) == (granule, second.start_code());
                let (_, _, least, most, output) = STARTS.iter().find(start).unwrap();
                let place = std::format!("{granule:?}, {bits} bits: {second:?}");
                assert!((*least..=*most).contains(&expected) && bits >= *output, "{place}");
            }
        }
    }
    // What each is, once and for all.
    let of = |granule, oas| {
        let shape = caps(|idr| idr[5] = idr[5] & !7 | oas).with_granule(Some(granule)).second_stage().unwrap();
        (shape.levels, shape.input_bits)
    };
    assert_eq!([0, 1, 2, 3, 4, 5].map(|oas| of(Granule::Kib4, oas).0), [3, 3, 3, 3, 4, 4]);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|oas| of(Granule::Kib16, oas).0), [2, 2, 2, 3, 3, 3]);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|oas| of(Granule::Kib64, oas).0), [2, 2, 2, 2, 3, 3]);
}

#[test]
fn the_granule_is_the_smallest_or_the_one_that_was_chosen() {
    let with = |bits: u32| caps(|idr| idr[5] = 4 | bits << 4);
    let all = [(1, Granule::Kib4), (2, Granule::Kib16), (4, Granule::Kib64)];
    for bits in 1..8 {
        let (_, smallest) = all.into_iter().find(|(bit, _)| bits & bit != 0).unwrap();
        assert_eq!(with(bits).granule(), Ok(smallest));
        for (bit, granule) in all {
            let chosen = with(bits).with_granule(Some(granule));
            assert_eq!(chosen.granule().ok(), (bits & bit != 0).then_some(granule));
            assert_eq!(chosen.require_own_structures().is_ok(), bits & bit != 0);
        }
    }
    let missing = |granule, name| {
        assert_eq!(with(0).with_granule(Some(granule)).second_stage(), Err(HwError::Missing(name)));
    };
    missing(Granule::Kib16, names::GRANULE_16K);
    missing(Granule::Kib64, names::GRANULE_64K);
    assert_eq!(with(0).require_own_structures(), Ok(()));
    // Leaves, and the contiguous groups of them.
    let sizes = |granule| qemu().page_sizes(granule).mask();
    let (kb, mb, gb) = (1 << 10, 1 << 20, 1 << 30);
    assert_eq!(sizes(Granule::Kib4), (4 * kb) | (64 * kb) | (2 * mb) | (32 * mb) | gb | (16 * gb));
    assert_eq!(sizes(Granule::Kib16), (16 * kb) | (2 * mb) | (32 * mb) | gb);
    assert_eq!(sizes(Granule::Kib64), (64 * kb) | (2 * mb) | (512 * mb) | (16 * gb));
}

#[test]
fn faults_stall_where_they_are_asked_to_and_can() {
    let of = |model: u32| caps(|idr| idr[0] = idr[0] & !(3 << 24) | model << 24);
    assert_eq!([of(0), of(1), of(2)].map(|caps| caps.stall(true)), [Ok(true), Ok(false), Ok(true)]);
    let never = Err(HwError::Missing(names::TERMINATED_FAULTS));
    assert_eq!([of(0), of(1), of(2)].map(|caps| caps.stall(false)), [Ok(false), Ok(false), never]);
    assert_eq!([of(0), of(1), of(2)].map(|caps| caps.must_disable_stalls()), [true, false, false]);
    assert_eq!([of(0), of(1), of(2)].map(|caps| caps.summary().second_stage), [true, true, false]);
}

#[test]
fn dirty_state_needs_updates_and_coherent_walks() {
    let of = |httu: u32| caps(|idr| idr[0] = idr[0] & !(3 << 6) | httu << 6);
    let lacking = Err(HwError::Missing(names::DIRTY_TRACKING));
    assert_eq!([0, 1, 2, 3].map(|httu| of(httu).require_dirty_tracking()), [lacking, lacking, Ok(()), Ok(())]);
    assert_eq!([0, 1, 2, 3].map(|httu| of(httu).summary().dirty_tracking), [false, false, true, true]);
    let blind = of(2).with_coherency(false);
    assert_eq!(blind.require_dirty_tracking(), Err(HwError::Missing(names::COHERENT_WALKS)));
    assert!(!blind.summary().dirty_tracking);
}

#[test]
fn what_else_there_is() {
    // BBML, CD2L, SEV, each alone.
    assert_eq!([0, 1, 2, 3].map(|bbml| caps(|idr| idr[3] = bbml << 11).resizes_live()), [false, false, true, false]);
    assert!(caps(|idr| idr[0] |= 1 << 19).two_level_contexts() && !qemu().two_level_contexts());
    let events = caps(|idr| idr[0] |= 1 << 14);
    assert!(events.events() && !qemu().events());
    // MMU-600 r0p2 has them by name alone.
    assert!(!events.with_implementation(0x4830_243b).events());
    assert!(events.with_implementation(0x4830_343b).events());
    assert_eq!(caps(|idr| idr[1] = 31 << 6).substream_bits(), 20);
}

#[test]
fn firmware_decides_about_coherency() {
    let caps = qemu().with_coherency(false);
    assert_eq!((caps.memory(), caps.walk_attributes()), (WalkerMemory::NonCoherent, WalkAttributes::NON_COHERENT));
    let without = self::caps(|idr| idr[0] &= !(1 << 4));
    assert_eq!(without.memory(), WalkerMemory::NonCoherent);
    assert_eq!(without.with_coherency(true).memory(), WalkerMemory::Coherent);
}

#[test]
fn capabilities_read_as_words() {
    let text = "SMMUv3.1, 16-bit stream ids, 44-bit output addresses, stage 1 of 4 levels, 16-bit ASIDs, \
                stage 2 of 4 levels, 16-bit VMIDs, 4K granule, 16K granule, 64K granule, two-level stream tables, \
                coherent accesses, invalidation by range, live changes of size";
    assert_eq!(qemu().to_string(), text);
    let text = caps(|idr| *idr = [0x0144_1008, 0x0020_0008, 0, 0, 0, 0]).with_coherency(true).to_string();
    assert_eq!(
        text,
        "SMMUv3.1, 8-bit stream ids, 32-bit output addresses, coherent accesses, coherency as firmware says"
    );
}
