//! What a guest may say, and what becomes of it, from raw bits.

use super::*;
use crate::spec::ste::WalkAttributes;
use iommu_core::addr::PhysAddr;

const RIL: u32 = 1 << 10;

/// A unit with everything: CD2L, 20 bits of substream, ATS, RIL, stalls that can be turned off.
fn caps(change: impl FnOnce(&mut [u32; 6])) -> Capabilities {
    let mut idr = [0x0d44_101b & !(3 << 24) | 1 << 10 | 1 << 19, 24 | 20 << 6, 0, RIL, 0, 5 | 7 << 4];
    change(&mut idr);
    Capabilities::new(idr, 2)
}

fn all() -> Capabilities {
    caps(|_| ())
}

const STAGE_2: Stage2Entry = Stage2Entry {
    vmid: 7,
    root: PhysAddr::new(0x5000),
    granule: 0,
    start_level: 2,
    input_bits: 48,
    output_size: 5,
    walk: WalkAttributes::COHERENT,
    track_dirty: false,
    stall: false,
};

fn of(caps: &Capabilities, kind: u32, words: &[u64]) -> Result<StreamEntry, HwError> {
    let aperture = IovaRange::from_len(Iova::new(0), 1 << 48).unwrap();
    entry(&NestedConfig { kind, words }, caps, STAGE_2, aperture)
}

#[track_caller]
fn refused(caps: &Capabilities, words: [u64; 2], named: &str) {
    match of(caps, STREAM_ENTRY, &words) {
        Err(HwError::Hardware(why)) => assert!(why.contains(named), "{why}"),
        other => panic!("{words:x?}: {other:?}"),
    }
}

/// V and Config 5.
const STAGE_1: u64 = 1 | 5 << 1;

#[test]
fn a_guests_entry_is_what_it_says_on_top_of_its_parent() {
    for word0 in [0, 5 << 1, 1, 1 | 1 << 1, 1 | 3 << 1, 4 << 1 | 0x5000] {
        assert_eq!(of(&all(), STREAM_ENTRY, &[word0, 0]), Ok(StreamEntry::Abort), "{word0:#x}");
    }
    assert_eq!(of(&all(), STREAM_ENTRY, &[1 | 4 << 1, 0]), Ok(StreamEntry::Stage2(STAGE_2)));
    let words = |words: [u64; 2]| of(&all(), STREAM_ENTRY, &words).unwrap().words(false, true);
    let [_, _, word2, word3, ..] = StreamEntry::Stage2(STAGE_2).words(false, false);
    // S1STALLD is set where the parent does not stall; S1Fmt and S1DSS mean nothing without substreams.
    let plain = words([STAGE_1 | 0x7040 | 1 << 4, 2 | 1 << 2 | 1 << 4 | 3 << 6]);
    let guest1 = 1 << 2 | 1 << 4 | 3 << 6 | 1 << 27;
    assert_eq!(plain, [1 | 7 << 1 | 0x7040, guest1, word2, word3, 0, 0, 0, 0]);
    let substreams = STAGE_1 | 0x10_0000 | 1 << 4 | 15 << 59;
    let found = words([substreams, 1 | 1 << 28]);
    assert_eq!(found[..2], [substreams | 2 << 1, 1 | 1 << 27 | 1 << 28]);
    // Without a device TLB there is nothing to let through.
    let entry = of(&all(), STREAM_ENTRY, &[substreams, 1 | 1 << 28]).unwrap();
    assert_eq!(entry.words(false, false)[1], 1 | 1 << 27);
    // The last that there is room for: of one descriptor, of a table.
    let last = (1 << 48) - 64;
    assert!(of(&all(), STREAM_ENTRY, &[STAGE_1 | last, 0]).is_ok());
    assert!(of(&all(), STREAM_ENTRY, &[STAGE_1 | ((1 << 48) - (1 << 26)) | 20 << 59, 0]).is_ok());
    // Where faults cannot stall at all there is no such bit.
    let terminates = caps(|idr| idr[0] |= 1 << 24);
    assert_eq!(of(&terminates, STREAM_ENTRY, &[STAGE_1, 0]).unwrap().words(false, false)[1], 0);
}

#[test]
fn every_other_value_is_refused() {
    for kind in [0, 1, COMMAND] {
        assert!(matches!(of(&all(), kind, &[STAGE_1, 0]), Err(HwError::Unsupported(_))));
    }
    for words in [&[][..], &[STAGE_1], &[STAGE_1, 0, 0]] {
        assert!(matches!(of(&all(), STREAM_ENTRY, words), Err(HwError::Hardware(_))));
    }
    for bit in (0..64).filter(|bit| !(0..52).chain(59..64).any(|mine| mine == *bit)) {
        refused(&all(), [STAGE_1 | 1 << bit, 0], "not the guest's");
    }
    for bit in (0..64).filter(|bit| !matches!(bit, 0..8 | 27..30)) {
        refused(&all(), [STAGE_1, 1 << bit], "not the guest's");
    }
    for config in [6, 7] {
        refused(&all(), [1 | config << 1, 0], "stage 2");
    }
    let narrow = caps(|idr| idr[1] = 24 | 4 << 6);
    refused(&narrow, [STAGE_1 | 5 << 59, 0], "S1CDMax");
    refused(&all(), [STAGE_1 | 21 << 59, 0], "S1CDMax");
    assert!(of(&narrow, STREAM_ENTRY, &[STAGE_1 | 4 << 59, 0]).is_ok());
    refused(&all(), [STAGE_1 | 6 << 59, 3], "S1DSS");
    refused(&all(), [STAGE_1 | 6 << 59 | 3 << 4, 0], "S1Fmt");
    let linear = caps(|idr| idr[0] &= !(1 << 19));
    refused(&linear, [STAGE_1 | 15 << 59 | 1 << 4, 0], "CD2L");
    // Not aligned: 64 descriptors, 512 and 16 level-1 descriptors.
    for (word0, step) in [(6 << 59, 1 << 12), (15 << 59 | 1 << 4, 1 << 12), (14 << 59 | 2 << 4, 1 << 7)] {
        assert!(of(&all(), STREAM_ENTRY, &[STAGE_1 | word0 | step, 0]).is_ok());
        refused(&all(), [STAGE_1 | word0 | step >> 1, 0], "aligned");
    }
    for pointer in [1 << 48, 1 << 51, 0x000f_ffff_ffff_ffc0] {
        refused(&all(), [STAGE_1 | pointer, 0], "aperture");
    }
    refused(&all(), [STAGE_1, 1 << 6], "S1CSH");
    refused(&caps(|idr| idr[0] |= 1 << 24), [STAGE_1, 1 << 27], "S1STALLD");
    refused(&caps(|idr| idr[0] &= !(1 << 10)), [STAGE_1, 1 << 28], "SMMU_IDR0.ATS");
    refused(&all(), [STAGE_1, 2 << 28], "EATS");
    refused(&all(), [STAGE_1, 3 << 28], "EATS");
}

#[test]
fn a_guest_that_may_stall_may_and_then_translates_nothing_ahead() {
    let aperture = IovaRange::from_len(Iova::new(0), 1 << 48).unwrap();
    let stalling = Stage2Entry { stall: true, ..STAGE_2 };
    let of = |word1| {
        let config = NestedConfig { kind: STREAM_ENTRY, words: &[STAGE_1, word1] };
        entry(&config, &all(), stalling, aperture).map(|entry| entry.words(false, true)[1])
    };
    assert_eq!((of(0), of(1 << 27)), (Ok(0), Ok(1 << 27)));
    assert!(matches!(of(1 << 28), Err(HwError::Hardware(_))));
}

fn asked(caps: &Capabilities, low: u64, high: u64) -> Result<GuestRequest, HwError> {
    request(&Invalidation { kind: COMMAND, words: [low, high] }, caps, 20)
}

#[test]
fn commands_are_those_of_the_guests_streams_whatever_it_says() {
    let stream = 0xdead_beef << 32;
    assert_eq!(asked(&all(), 3 | stream, 1), Ok(GuestRequest::Contexts));
    assert_eq!(asked(&all(), 6 | stream, 0), Ok(GuestRequest::Contexts));
    assert_eq!(
        asked(&all(), 5 | 0xf_edcb << 12 | stream, 1),
        Ok(GuestRequest::Context { index: 0xf_edcb, leaf: true })
    );
    assert_eq!(asked(&all(), 5 | stream, 0), Ok(GuestRequest::Context { index: 0, leaf: false }));
    let vmid = 0xffff << 32;
    assert_eq!(asked(&all(), 0x10 | vmid, 0), Ok(GuestRequest::All));
    assert_eq!(asked(&all(), 0x11 | vmid | 0x1234 << 48, 0), Ok(GuestRequest::Asid(0x1234)));
    let one = Pages { address: 0x1234_5000, leaves_only: true, range: None };
    assert_eq!(
        asked(&all(), 0x12 | vmid | 9 << 48, 0x1234_5001),
        Ok(GuestRequest::Pages { asid: Some(9), pages: one })
    );
    assert_eq!(asked(&all(), 0x13 | 9 << 48, 0x1234_5001), Ok(GuestRequest::Pages { asid: None, pages: one }));
    // A range of 32 * 2^3 pages of 64 KiB, of which the level is not believed; the address is one of such a page.
    let range = Range { granule: 3, num: 31, scale: 3, level: 0 };
    let pages = Pages { address: 0x1234_0000, leaves_only: false, range: Some(range) };
    assert_eq!(
        asked(&all(), 0x12 | 31 << 12 | 3 << 20, 0x1234_5000 | 3 << 10 | 3 << 8),
        Ok(GuestRequest::Pages { asid: Some(0), pages })
    );
    // Nothing but a level is one page; more than there are addresses is everything.
    let none = Pages { address: 0x1234_4000, leaves_only: false, range: None };
    assert_eq!(
        asked(&all(), 0x12, 0x1234_5000 | 2 << 10 | 2 << 8),
        Ok(GuestRequest::Pages { asid: Some(0), pages: none })
    );
    // Of every ASID: entries that are global are among those, and none of what goes by ASID.
    assert_eq!(asked(&all(), 0x12 | 5 << 48 | 31 << 12 | 31 << 20, 3 << 10), Ok(GuestRequest::All));
    assert_eq!(asked(&all(), 0x13 | 31 << 12 | 31 << 20, 3 << 10), Ok(GuestRequest::All));
    let device = |pasid, global, pages| Ok(GuestRequest::Device { pasid, global, pages });
    assert_eq!(asked(&all(), 0x40 | stream, 52), device(None, false, AtcPages::ALL));
    let pages = AtcPages { address: 0x20_0000, size: 9 };
    let low = 0x40 | 1 << 9 | 1 << 11 | 5 << 12 | stream;
    assert_eq!(asked(&all(), low, 0x3f_f000 | 9), device(Pasid::new(5), true, pages));
}

#[test]
fn every_other_command_is_refused() {
    let mut known = 0;
    for opcode in 0..=255 {
        match asked(&all(), opcode, 0) {
            Ok(_) => known += 1,
            Err(error) => assert!(matches!(error, HwError::Unsupported(_)), "{opcode:#x}: {error}"),
        }
    }
    assert_eq!(known, 8);
    // Bits that no command has: SSec, and those between the fields.
    for opcode in [0x03, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x40] {
        assert!(matches!(asked(&all(), opcode | 1 << 10, 0), Err(HwError::Hardware(_))), "{opcode:#x}");
        assert!(asked(&all(), opcode | 1 << 8, 0).is_err());
    }
    for (low, high) in [(0x06, 1), (0x10, 1), (0x11, 1), (0x03, 2), (0x12, 2), (0x40, 1 << 6), (0x40, 53), (0x40, 63)] {
        assert!(matches!(asked(&all(), low, high), Err(HwError::Hardware(_))), "{low:#x} {high:#x}");
    }
    let small = caps(|idr| {
        idr[0] &= !(1 << 12 | 1 << 10);
        idr[1] = 24 | 4 << 6;
        idr[3] = 0;
    });
    for (low, high) in [
        (0x11 | 0x100 << 48, 0),
        (0x12 | 0x100 << 48, 0),
        (0x05 | 16 << 12, 0),
        (0x12 | 1 << 12, 1 << 10),
        (0x12, 1 << 10),
        (0x40, 0),
    ] {
        assert!(matches!(asked(&small, low, high), Err(HwError::Hardware(_))), "{low:#x} {high:#x}");
    }
    // NUM and SCALE without TG.
    assert!(matches!(asked(&all(), 0x12 | 1 << 12, 0), Err(HwError::Hardware(_))));
    let other = Invalidation { kind: STREAM_ENTRY, words: [6, 0] };
    assert!(matches!(request(&other, &all(), 20), Err(HwError::Unsupported(_))));
    let narrow = Invalidation { kind: COMMAND, words: [0x40 | 1 << 11 | 16 << 12, 0] };
    assert!(matches!(request(&narrow, &all(), 4), Err(HwError::Hardware(_))));
}
