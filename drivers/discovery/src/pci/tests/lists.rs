//! Lists of capabilities that lead astray.

use super::*;
use proptest::prelude::*;

fn read(space: &Space) -> Result<Capabilities, PciError> {
    Capabilities::read(space)
}

#[test]
fn nothing_there() {
    let space = Space::whole();
    space.0.lock().unwrap().dies_after = Some(0);
    assert_eq!(read(&space), Err(PciError::Absent { offset: 4 }));
    // The ids of a virtual function are all ones.
    assert!(read(&Space::whole().with(0, |_| u32::MAX)).is_ok());
}

#[test]
fn no_list() {
    let space = Space::whole().with(4, |word| word & !(1 << 20));
    assert_eq!(read(&space), Ok(Capabilities::default()));
    assert_eq!(read(&Space::whole().with(0x34, |_| 0)), Ok(Capabilities::default()));
    // A conventional function has no extended capabilities, whatever lies there.
    let space = Space::whole().with(EXPRESS_AT, |_| 0x0001);
    assert_eq!(read(&space), Ok(Capabilities::default()));
    for nothing in [0, u32::MAX] {
        let found = read(&Space::whole().with(0x100, |_| nothing)).unwrap();
        assert!(found.express.is_some() && found.pasid.is_none() && found.ats.is_none());
    }
}

#[test]
fn standard_lists_that_lead_astray() {
    // The two lowest bits of pointers are reserved.
    assert!(read(&Space::whole().with(0x34, |_| 0xffff_ff43)).unwrap().express.is_some());
    let space = Space::whole().with(0x34, |_| 0x3c);
    assert_eq!(read(&space), Err(PciError::OutOfPlace { offset: 0x3c }));
    let space = Space::whole().with(EXPRESS_AT, |word| word | 0x04 << 8);
    assert_eq!(read(&space), Err(PciError::OutOfPlace { offset: 4 }));
    let space = Space::whole().with(EXPRESS_AT, |word| word | 0x40 << 8);
    assert_eq!(read(&space), Err(PciError::Loop { offset: 0x40 }));
    let space = Space::whole().with(EXPRESS_AT, |word| word | 0x80 << 8).with(0x80, |_| 0xa0 << 8 | 9);
    let space = space.with(0xa0, |_| 0x80 << 8 | 5);
    assert_eq!(read(&space), Err(PciError::Loop { offset: 0x80 }));
    let space = Space::whole().with(EXPRESS_AT, |word| word | 0x80 << 8).with(0x80, |_| u32::MAX);
    assert_eq!(read(&space), Err(PciError::Absent { offset: 0x80 }));
}

#[test]
fn extended_lists_that_lead_astray() {
    let next = |at: u32| move |word: u32| word & 0xf_ffff | at << 20;
    for at in [4, 0xfc] {
        assert_eq!(read(&Space::whole().with(PRI_AT, next(at))), Err(PciError::OutOfPlace { offset: at as u16 }));
    }
    for at in [PASID_AT, ATS_AT, PRI_AT] {
        let space = Space::whole().with(PRI_AT, next(at.into()));
        assert_eq!(read(&space), Err(PciError::Loop { offset: at }));
    }
    let space = Space::whole().with(PRI_AT, next(0x200)).with(0x200, |_| u32::MAX);
    assert_eq!(read(&space), Err(PciError::Absent { offset: 0x200 }));
    // The two lowest bits of a pointer are reserved; id 0 is a gap.
    let space = Space::whole().with(PASID_AT, |_| 0x2030_0000).with(0x200, |_| u32::from(ATS_AT) << 20);
    let found = read(&space).unwrap();
    assert!(found.pasid.is_none() && found.ats.is_some());
}

#[test]
fn the_longest_lists_there_are() {
    let mut space = Space::new(0);
    for at in (0x40..0x100).step_by(4).filter(|at| *at != 0x40) {
        let next = if at == 0xfc { 0 } else { at + 4 };
        space = space.with(at, |_| u32::from(next) << 8 | 9);
    }
    space = space.with(EXPRESS_AT, |word| word | 0x44 << 8);
    for at in (0x100..0x1000).step_by(4) {
        let next = if at == 0xffc { 0 } else { at + 4 };
        space = space.with(at, |_| u32::from(next) << 20 | 0x7777);
    }
    assert!(read(&space).is_ok());
    assert_eq!(space.reads(), 1 + 2 + 48 + 960);
}

#[test]
fn capabilities_that_leave_the_space() {
    for (id, at, len) in [(0x0f, 0xffc, 8), (0x1b, 0xffc, 8), (0x13, 0xffc, 8), (0x10, 0xff0, 0x14), (0x23, 0xff8, 12)]
    {
        let space = Space::new(0).with(0x100, |_| u32::from(at) << 20 | 7);
        space.capability(at, id, 0);
        assert_eq!(read(&space), Err(PciError::Length { offset: at, len }));
    }
    let long = |len: u32| read(&Space::whole().with(SIOV_AT + 4, |_| len << 20 | 0x8086));
    assert_eq!(long(0x17), Err(PciError::Length { offset: SIOV_AT, len: 0x17 }));
    assert_eq!(long(0xfff), Err(PciError::Length { offset: SIOV_AT, len: 0xfff }));
    assert!(long(0x18).unwrap().siov.is_some());
}

#[test]
fn fields_that_cannot_be() {
    for bits in [21, 31] {
        let space = Space::whole().with(PASID_AT + 4, |_| bits << 8);
        assert_eq!(read(&space), Err(PciError::Field { offset: PASID_AT + 4, value: bits << 8 }));
    }
    for at in [PASID_AT + 4, ATS_AT + 4, PRI_AT + 4, SRIOV_AT + 8, SIOV_AT + 8, SIOV_AT + 0x14] {
        assert_eq!(read(&Space::whole().with(at, |_| u32::MAX)), Err(PciError::Absent { offset: at }));
    }
}

#[test]
fn the_first_of_two_counts() {
    let space = Space::whole().with(SIOV_AT, |word| word | 0x200 << 20);
    space.capability(0x200, 0x0f, 0x300);
    space.capability(0x300, 0x23, 0);
    space.set(0x304, 0x0180_8086, 0);
    space.set(0x308, 5, 0);
    let found = read(&space).unwrap();
    assert_eq!((found.ats.unwrap().offset, found.siov.unwrap().offset), (ATS_AT, SIOV_AT));
}

#[test]
fn other_vendors_capabilities_are_none_of_ours() {
    let space = Space::whole().with(SIOV_AT + 8, |word| word + 1);
    assert_eq!(read(&space).unwrap().siov, None);
    let space = Space::whole().with(SIOV_AT + 4, |word| word ^ 1);
    assert_eq!(read(&space).unwrap().siov, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a configuration space holds: an answer, after no more reads than there are words, thrice over.
    #[test]
    fn arbitrary_spaces_are_read_in_bounded_time(
        words in prop::collection::vec((0u16..1024, prop_oneof![any::<u32>(), (0u32..0x30, 0u32..0x400).prop_map(|(id, at)| at << 22 | 1 << 16 | id)]), 0..200),
        whole in any::<bool>(),
    ) {
        let mut space = if whole { Space::whole() } else { Space::new(0) };
        for (at, value) in words {
            space = space.with(at * 4, |_| value);
        }
        let found = read(&space);
        prop_assert!(space.reads() <= 3 * 1024 && space.writes().is_empty());
        if let Ok(found) = found {
            prop_assert!(found.pasid.is_none_or(|pasid| pasid.bits <= 20));
            prop_assert!(found.ats.is_none_or(|ats| ats.queue_depth < 32 && ats.offset >= 0x100));
            prop_assert!(found.express.is_some() || found.ats.is_none() && found.siov.is_none());
        }
    }
}
