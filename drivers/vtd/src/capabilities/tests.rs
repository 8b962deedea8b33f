use super::*;
use crate::spec::pasid::AddressWidth;
use alloc::string::ToString;

// Values that real QEMU versions report; the expectations are the specification's reading of their bits.
const SECOND: Capabilities = Capabilities::new(0x00d2_008c_222f_0606, 0x0000_4800_80f0_0f4a);
const FIRST: Capabilities = Capabilities::new(0x01d2_008c_222f_0606, 0x0000_8800_00f0_0f4a);
const NARROW: Capabilities = Capabilities::new(0x00d2_008c_2226_0206, 0x0000_4800_80f0_0f4a);
const LEGACY: Capabilities = Capabilities::new(0x00d2_008c_222f_0606, 0x0000_0000_00f0_0f4a);
const INTERRUPTS_ONLY: Capabilities = Capabilities::new(0x00d2_008c_2226_0006, 0x0000_0000_00f0_0f4a);
/// A unit with everything, from the bit numbers: 3, 4 and 5 levels, 57 bits, 5 levels of the first stage.
const ALL: Capabilities = Capabilities::new(
    7 << 9 | 56 << 16 | 0x22 << 24 | 3 << 34 | 1 << 39 | 7 << 40 | 48 << 48 | 1 << 54 | 1 << 55 | 1 << 56 | 1 << 60 | 6,
    0x0fff_ffff_ffff_ff00 & !(0x1f << 35) | 19 << 35 | 0xff,
);

/// The same with some bits of ECAP cleared.
fn without(caps: Capabilities, bits: &[u32]) -> Capabilities {
    Capabilities::new(caps.cap(), bits.iter().fold(caps.ecap(), |ecap, bit| ecap & !(1 << bit)))
}

fn missing<T: fmt::Debug>(found: Result<T, HwError>) -> &'static str {
    match found {
        Err(HwError::Missing(capability)) => capability.field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn widths_follow_sagaw_and_mgaw() {
    let four = SecondStage { levels: 4, width: AddressWidth::Bits48, input_bits: 48 };
    let three = SecondStage { levels: 3, width: AddressWidth::Bits39, input_bits: 39 };
    let five = SecondStage { levels: 5, width: AddressWidth::Bits57, input_bits: 57 };
    assert_eq!(SECOND.second_stage(), Ok(four));
    assert_eq!(NARROW.second_stage(), Ok(three));
    assert_eq!(ALL.second_stage(), Ok(five));
    // Every set of depths with widths around every border: SAGAW bits 1, 2 and 3, MGAW.
    let stage = |sagaw: u64, bits: u64| {
        Capabilities::new(sagaw << 9 | (bits - 1) << 16, SECOND.ecap())
            .second_stage()
            .map(|stage| (stage.levels, stage.input_bits, stage.width as u8))
            .ok()
    };
    let expected = [
        // Depths: 3, 4, 3 and 4, 5, 3 and 5, 4 and 5, all.
        (39, [(3, 39), (4, 39), (3, 39), (5, 39), (3, 39), (4, 39), (3, 39)]),
        (40, [(3, 39), (4, 40), (4, 40), (5, 40), (5, 40), (4, 40), (4, 40)]),
        (48, [(3, 39), (4, 48), (4, 48), (5, 48), (5, 48), (4, 48), (4, 48)]),
        (49, [(3, 39), (4, 48), (4, 48), (5, 49), (5, 49), (5, 49), (5, 49)]),
        (57, [(3, 39), (4, 48), (4, 48), (5, 57), (5, 57), (5, 57), (5, 57)]),
        (64, [(3, 39), (4, 48), (4, 48), (5, 57), (5, 57), (5, 57), (5, 57)]),
    ];
    for (bits, stages) in expected {
        for (sagaw, (levels, input)) in (1..).zip(stages) {
            assert_eq!(stage(sagaw, bits), Some((levels, input, levels - 2)), "{bits} bits, depths {sagaw:#b}");
        }
    }
    assert_eq!(missing(Capabilities::new(0x11 << 8, SECOND.ecap()).second_stage()), "CAP.SAGAW");
    assert_eq!((SECOND.idle_width(), NARROW.idle_width()), (AddressWidth::Bits48, AddressWidth::Bits39));
    assert_eq!((ALL.idle_width(), INTERRUPTS_ONLY.idle_width()), (AddressWidth::Bits57, AddressWidth::Bits48));
}

#[test]
fn five_levels_of_the_first_stage_need_both_the_capability_and_the_width() {
    assert_eq!(FIRST.first_stage(), Ok(FirstStage { levels: 4, input_bits: 47 }));
    assert_eq!(ALL.first_stage(), Ok(FirstStage { levels: 5, input_bits: 56 }));
    let of = |cap, bits: u64| Capabilities::new(cap | (bits - 1) << 16, FIRST.ecap()).first_stage();
    assert_eq!(of(1 << 60, 48), Ok(FirstStage { levels: 4, input_bits: 47 }));
    assert_eq!(of(1 << 60, 50), Ok(FirstStage { levels: 5, input_bits: 50 }));
    assert_eq!(of(0, 57), Ok(FirstStage { levels: 4, input_bits: 47 }));
    assert_eq!(of(0, 39), Ok(FirstStage { levels: 4, input_bits: 39 }));
    assert_eq!(ALL.first_stage_bits(), Ok(47));
}

#[test]
fn what_is_lacking_is_named() {
    assert_eq!(missing(FIRST.second_stage()), "ECAP.SSTS");
    assert_eq!(missing(SECOND.first_stage()), "ECAP.FSTS");
    assert_eq!(missing(LEGACY.first_stage()), "ECAP.FSTS");
    assert_eq!(missing(LEGACY.require_scalable_mode()), "ECAP.SMTS");
    assert_eq!(missing(without(SECOND, &[1]).require_scalable_mode()), "ECAP.QI");
    assert_eq!(missing(without(ALL, &[46, 47]).require_scalable_mode()), "ECAP.SSTS");
    assert_eq!(missing(SECOND.require_pasids()), "ECAP.PASID");
    assert_eq!(missing(SECOND.require_rid_pasid(1)), "ECAP.RPS");
    assert_eq!((SECOND.require_rid_pasid(0), LEGACY.require_rid_pasid(0)), (Ok(()), Ok(())));
    assert_eq!((ALL.require_rid_pasid(0xf_ffff), missing(ALL.require_rid_pasid(0x10_0000))), (Ok(()), "ECAP.PSS"));
    assert_eq!(missing(SECOND.require_nesting()), "ECAP.NEST");
    assert_eq!(missing(without(ALL, &[46]).require_nesting()), "ECAP.SSTS");
    assert_eq!(missing(without(ALL, &[47]).require_nesting()), "ECAP.FSTS");
    assert_eq!(missing(SECOND.require_dirty_tracking()), "ECAP.SSADS");
    assert_eq!(missing(without(ALL, &[48]).require_dirty_tracking()), "ECAP.SMPWCS");
    assert_eq!(missing(SECOND.require_snoop_control()), "ECAP.SC");
    assert_eq!(missing(SECOND.require_device_tlbs()), "ECAP.DT");
    assert_eq!(missing(SECOND.require_abort_mode()), "ECAP.ADMS");
    assert_eq!(missing(without(SECOND, &[6]).require_pass_through()), "ECAP.PT");
    for asked in [Capabilities::require_nesting, Capabilities::require_dirty_tracking, Capabilities::require_pasids] {
        assert_eq!(asked(&ALL), Ok(()));
    }
}

#[test]
fn a_unit_without_scalable_mode_or_told_not_to_use_it_has_nothing_of_it() {
    assert_eq!((LEGACY.mode(), SECOND.mode()), (Mode::Legacy, Mode::Scalable));
    // Bits of scalable mode that stand without it, and all of them with another mode chosen.
    for caps in [without(ALL, &[43]), ALL.in_mode(Mode::Legacy)] {
        assert_eq!(caps.mode(), Mode::Legacy);
        assert!(!caps.nesting() && !caps.tracks_second_stage() && !caps.honours_rid_pasid());
        assert!(!caps.page_walk_snoop() && !caps.supervisor_requests() && !caps.extended_accessed());
        assert!(caps.first_stage().is_err() && !caps.five_levels() && caps.pasid_bits() == 0);
        assert!(caps.snoop_control() && caps.device_tlbs() && caps.pass_through());
        assert_eq!(caps.second_stage().map(|stage| stage.levels), Ok(5));
    }
    assert_eq!(missing(without(ALL, &[43]).first_stage()), "ECAP.SMTS");
    assert!(matches!(ALL.in_mode(Mode::Legacy).first_stage(), Err(HwError::Unsupported(_))));
    assert_eq!(LEGACY.second_stage().map(|stage| stage.levels), Ok(4));
}

#[test]
fn pasids_have_the_width_that_pss_says_and_no_more_than_twenty_bits() {
    let width = |pss: u64| Capabilities::new(ALL.cap(), ALL.ecap() & !(0x1f << 35) | pss << 35).pasid_bits();
    assert_eq!([0, 15, 18, 19, 20, 31].map(width), [1, 16, 19, 20, 20, 20]);
    assert_eq!((SECOND.pasid_bits(), LEGACY.pasid_bits()), (0, 0));
    // What QEMU 10 reports with PASIDs: PSS = 0, so that 0 and 1 are all there are.
    let narrow = Capabilities::new(SECOND.cap(), SECOND.ecap() | 1 << 40);
    assert_eq!((narrow.require_pasid(1), missing(narrow.require_pasid(2))), (Ok(()), "ECAP.PSS"));
    assert_eq!((ALL.require_pasid(0xf_ffff), missing(ALL.require_pasid(0x10_0000))), (Ok(()), "ECAP.PSS"));
    assert_eq!(missing(SECOND.require_pasid(0)), "ECAP.PASID");
}

#[test]
fn how_tables_are_read_depends_on_the_mode() {
    let read = |ecap: u64, mode| {
        let caps = Capabilities::new(0, 1 << 43 | ecap).in_mode(mode);
        [caps.structure_memory(), caps.paging_memory()].map(|memory| memory == WalkerMemory::Coherent)
    };
    // C is bit 0, SMPWCS bit 48.
    assert_eq!([0, 1, 1 << 48].map(|ecap| read(ecap, Mode::Scalable)), [[false; 2], [true, false], [false, true]]);
    assert_eq!([0, 1, 1 << 48].map(|ecap| read(ecap, Mode::Legacy)), [[false; 2], [true; 2], [false; 2]]);
}

#[test]
fn contradictions_are_told() {
    for caps in [SECOND, FIRST, NARROW, LEGACY, ALL, ALL.in_mode(Mode::Legacy)] {
        assert_eq!(caps.check(0x1000), Ok(()));
    }
    let hardware = |caps: Capabilities, window| match caps.check(window) {
        Err(HwError::Hardware(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(hardware(Capabilities::new(SECOND.cap() | 7, SECOND.ecap()), 0x1000).contains("CAP.ND"));
    let narrow = Capabilities::new(SECOND.cap() & !(0x3f << 16) | 28 << 16, SECOND.ecap());
    assert!(hardware(narrow, 0x1000).contains("CAP.MGAW"));
    // One record at 0x220.
    assert_eq!(SECOND.check(0x230), Ok(()));
    assert!(hardware(SECOND, 0x22f).contains("CAP.FRO"));
    assert!(hardware(Capabilities::new(SECOND.cap() | 0xff << 40, SECOND.ecap()), 0x1000).contains("CAP.NFR"));
    assert_eq!(Capabilities::new(SECOND.cap() | 0xdd << 40, SECOND.ecap()).check(0x1000), Ok(()));
    assert!(hardware(Capabilities::new(SECOND.cap() & !(0x3ff << 24), SECOND.ecap()), 0x1000).contains("CAP.FRO"));

    assert_eq!(missing(INTERRUPTS_ONLY.check(0x1000)), "CAP.SAGAW");
    assert_eq!(missing(Capabilities::new(INTERRUPTS_ONLY.cap(), SECOND.ecap()).check(0x1000)), "CAP.SAGAW");
    assert_eq!(Capabilities::new(INTERRUPTS_ONLY.cap(), FIRST.ecap()).check(0x1000), Ok(()));
    assert_eq!(missing(without(SECOND, &[1]).check(0x1000)), "ECAP.QI");
    assert_eq!(missing(LEGACY.in_mode(Mode::Scalable).check(0x1000)), "ECAP.SMTS");
}

#[test]
fn without_a_queue_the_registers_must_be_there() {
    let registers = without(LEGACY, &[1]);
    assert_eq!((registers.iotlb_offset(), registers.check(0x1000)), (0xf0, Ok(())));
    assert_eq!(registers.with_version(0x5f).check(0x1000), Ok(()));
    assert_eq!(missing(registers.with_version(0x60).check(0x1000)), "VER.MAX");
    assert_eq!(LEGACY.with_version(0x60).check(0x1000), Ok(()));
    let at = |iro: u64| Capabilities::new(LEGACY.cap(), registers.ecap() & !(0x3ff << 8) | iro << 8).check(0x1000);
    assert_eq!(at(0xff), Ok(()));
    assert!(matches!(at(0x100), Err(HwError::Hardware(_))));
    assert!(matches!(at(0), Err(HwError::Hardware(_))));
}

#[test]
fn fields_are_where_the_specification_says() {
    assert_eq!(SECOND.fault_offset(), 0x220);
    assert_eq!((SECOND.fault_records(), ALL.fault_records()), (1, 8));
    assert_eq!(SECOND.domain_id_bits(), 16);
    assert_eq!(SECOND.max_address_mask(), 18);
    assert!(SECOND.page_selective() && SECOND.drains_reads() && SECOND.drains_writes());
    assert!(!SECOND.caching_mode() && Capabilities::new(0x00d2_008c_222f_0686, 0).caching_mode());
    assert_eq!(SECOND.second_stage_pages().mask(), 1 << 12 | 1 << 21 | 1 << 30);
    assert_eq!(FIRST.first_stage_pages().mask(), 1 << 12 | 1 << 21 | 1 << 30);
    // One bit at a time: (bit of ECAP, who reports it).
    type Reports = fn(&Capabilities) -> bool;
    let single: [(u32, Reports); 10] = [
        (1, Capabilities::queued_invalidation),
        (2, Capabilities::device_tlbs),
        (3, Capabilities::interrupt_remapping),
        (4, Capabilities::extended_interrupts),
        (6, Capabilities::pass_through),
        (7, Capabilities::snoop_control),
        (31, Capabilities::supervisor_requests),
        (34, Capabilities::extended_accessed),
        (41, Capabilities::invalidation_throttle),
        (52, Capabilities::abort_mode),
    ];
    for (bit, reported) in single {
        assert!(reported(&Capabilities::new(0, 1 << 43 | 1 << bit)), "bit {bit}");
        assert!(!reported(&Capabilities::new(0, !(1 << bit))), "bit {bit}");
    }
}

#[test]
fn the_text_says_what_there_is() {
    let text = ALL.to_string();
    for words in ["scalable mode, 57-bit", "second stage of 5 levels (4K, 2M, 1G)", "first stage of 5", "20-bit PASIDs"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let text = without(LEGACY, &[1]).to_string();
    assert!(text.starts_with("legacy mode, 48-bit") && text.contains("through registers"), "{text}");
    assert!(!text.contains("first stage") && !text.contains("queued"), "{text}");
    assert!(ALL.in_mode(Mode::Legacy).to_string().contains("scalable mode not used"));
}
