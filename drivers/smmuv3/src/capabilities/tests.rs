//! Values that QEMU and other units report; the expectations are the specification's reading of their bits.

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
    let both: [(Change, Capability); 4] = [
        (|idr| idr[0] = idr[0] & !(3 << 2) | 1 << 2, names::AARCH64_TABLES),
        (|idr| idr[0] |= 3 << 21, names::LITTLE_ENDIAN_TABLES),
        (|idr| idr[0] = idr[0] & !(3 << 24) | 2 << 24, names::TERMINATED_FAULTS),
        (|idr| idr[5] &= !(1 << 4), names::GRANULE_4K),
    ];
    for (change, name) in both {
        assert_eq!(caps(change).first_stage(), missing(name));
        assert_eq!(caps(change).second_stage(), missing(name));
        assert!(!caps(change).summary().first_stage && !caps(change).summary().second_stage);
    }
    assert!(caps(|idr| idr[0] &= !(3 << 21)).first_stage().is_ok());
    assert_eq!(caps(|idr| idr[1] |= 1 << 30).require_own_structures(), missing(names::ANY_TABLE_ADDRESS));
    assert_eq!(caps(|idr| idr[1] |= 1 << 29).require_own_structures(), missing(names::ANY_QUEUE_ADDRESS));
    assert_eq!(caps(|idr| idr[1] &= !(31 << 21)).require_own_structures(), missing(names::COMMAND_QUEUE));
    let text = HwError::Missing(names::STAGE_1).to_string();
    assert_eq!(text, "the unit lacks stage-1 translation (SMMU_IDR0.S1P)");
}

#[test]
fn stages_follow_the_output_width() {
    let of = |oas: u32| caps(|idr| idr[5] = idr[5] & !7 | oas);
    let (three, four) =
        (|input_bits| StageShape { levels: 3, input_bits }, |input_bits| StageShape { levels: 4, input_bits });
    let expected = [(32, three(32)), (36, three(36)), (40, three(39)), (42, three(39)), (44, four(44)), (48, four(48))];
    for (oas, (bits, shape)) in (0..).zip(expected) {
        assert_eq!((of(oas).output_bits(), of(oas).output_size()), (bits, oas as u8));
        assert_eq!((of(oas).second_stage(), of(oas).first_stage()), (Ok(shape), Ok(four(48))));
    }
    for wide in [6, 7] {
        assert_eq!((of(wide).output_bits(), of(wide).output_size()), (48, 5));
    }
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
                coherent accesses, invalidation by range";
    assert_eq!(qemu().to_string(), text);
    let text = caps(|idr| *idr = [0x0144_1008, 0x0020_0008, 0, 0, 0, 0]).with_coherency(true).to_string();
    assert_eq!(
        text,
        "SMMUv3.1, 8-bit stream ids, 32-bit output addresses, coherent accesses, coherency as firmware says"
    );
}
