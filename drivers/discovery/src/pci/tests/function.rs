//! A function that is switched, and such that do not obey.

use super::*;
use iommu_core::device::{Feature, Features, Function};
use iommu_core::hw::{HwError, StreamId};

const ALL: PciConfig = PciConfig { ats: true, pasid: true, physical: None };

const ATS_CONTROL: u16 = ATS_AT + 4;
const PASID_CONTROL: u16 = PASID_AT + 4;
const ATS_ON: u32 = 1 << 31;
const PASID_ON: u32 = 1 << 16;

fn function(space: Space) -> PciFunction<Space> {
    let function = PciFunction::new(space, ALL).unwrap();
    function.config().writes();
    function
}

fn is_broken(result: Result<(), HwError>) -> bool {
    matches!(result, Err(HwError::Hardware(_)))
}

#[test]
fn it_has_what_it_says_and_may() {
    let features = function(Space::whole()).features();
    let expected = Features {
        pasid_bits: 20,
        ats: true,
        ats_queue_depth: 8,
        ats_global_invalidate: true,
        physical: None,
        pri: false,
    };
    assert_eq!(features, expected);
    let features = |space, config| PciFunction::new(space, config).unwrap().features();
    assert_eq!(features(Space::whole(), PciConfig::default()), Features::default());
    assert_eq!(features(Space::new(0), ALL), Features::default());
    // Requests for addresses that are not aligned are not what the unit answers.
    let unaligned = Space::whole().with(ATS_CONTROL, |word| word & !(1 << 5));
    assert!(!features(unaligned, ALL).ats);
    // No PASID but 0 is none.
    assert_eq!(features(Space::whole().with(PASID_CONTROL, |_| 0), ALL).pasid_bits, 0);
}

#[test]
fn each_bit_is_written_alone() {
    let function = function(Space::whole());
    let space = function.config();
    let (pasid, ats) = (space.get(PASID_CONTROL), space.get(ATS_CONTROL));
    function.set_feature(Feature::Pasid, true).unwrap();
    assert_eq!(space.writes(), [(PASID_CONTROL, pasid | PASID_ON)], "neither execute nor privileged");
    function.set_feature(Feature::Ats, true).unwrap();
    assert_eq!(space.writes(), [(ATS_CONTROL, ats | ATS_ON)]);
    function.set_feature(Feature::Ats, false).unwrap();
    assert_eq!(space.writes(), [(ATS_CONTROL, ats)]);
    function.set_feature(Feature::Pasid, false).unwrap();
    assert_eq!(space.writes(), [(PASID_CONTROL, pasid)]);
    // Status bits, which ones would clear, are written as zeros.
    function.set_bus_master(true).unwrap();
    assert_eq!((space.writes(), space.get(4)), (vec![(4, 4)], 0xf910_0004));
    function.set_bus_master(false).unwrap();
    assert_eq!((space.writes(), space.get(4)), (vec![(4, 0)], 0xf910_0000));
}

#[test]
fn other_bits_of_the_command_stay() {
    let function = function(Space::whole().with(4, |word| word | 0x0142));
    function.set_bus_master(true).unwrap();
    assert_eq!(function.config().get(4), 0xf910_0146);
    function.set_bus_master(false).unwrap();
    assert_eq!(function.config().get(4), 0xf910_0142);
}

#[test]
fn the_smallest_unit_becomes_a_page() {
    let function = function(Space::whole().with(ATS_CONTROL, |word| word | 9 << 16));
    function.set_feature(Feature::Ats, true).unwrap();
    assert_eq!(function.config().get(ATS_CONTROL) >> 16, 0x8000);
    // One that keeps another does not go on.
    let function =
        self::function(Space::whole().with(ATS_CONTROL, |word| word | 9 << 16).stuck(ATS_CONTROL, 0x1f << 16));
    assert!(is_broken(function.set_feature(Feature::Ats, true)));
    assert_eq!(function.config().get(ATS_CONTROL) >> 16, 9, "as before");
}

#[test]
fn pasids_keep_while_translations_are_cached() {
    let function = function(Space::whole());
    function.set_feature(Feature::Ats, true).unwrap();
    function.config().writes();
    assert!(is_broken(function.set_feature(Feature::Pasid, true)));
    assert!(is_broken(function.set_feature(Feature::Pasid, false)));
    assert_eq!(function.config().writes(), []);
}

#[test]
fn what_firmware_left_on_goes_off_in_order() {
    let space = Space::whole().with(ATS_CONTROL, |word| word | ATS_ON).with(PASID_CONTROL, |word| word | 7 << 16);
    let space = space.with(PRI_AT + 4, |word| word | 1 | 3 << 16);
    let function = PciFunction::new(space, PciConfig::default()).unwrap();
    let offsets: Vec<_> = function.config().writes().iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [PRI_AT + 4, ATS_CONTROL, PASID_CONTROL]);
    let now = function.read_capabilities().unwrap();
    assert_eq!((now.ats.unwrap().enabled, now.pasid.unwrap().enabled, now.pri.unwrap().enabled), (false, false, false));
    assert_eq!(function.config().get(PASID_CONTROL) >> 16, 0);
    // Status of page requests was not cleared on the way.
    assert_eq!(function.config().get(PRI_AT + 4) >> 16, 0x8103);
    for (at, bits) in [(ATS_CONTROL, ATS_ON), (PASID_CONTROL, PASID_ON), (PRI_AT + 4, 1)] {
        let space = Space::whole().with(at, |word| word | bits).stuck(at, bits);
        let error = PciError::Stuck { offset: at, written: 0, read: bits };
        assert_eq!(PciFunction::new(space, ALL).err(), Some(error));
    }
}

#[test]
fn bits_that_do_not_stick_are_an_error_and_change_nothing() {
    for (feature, at, bits) in [(Feature::Ats, ATS_CONTROL, ATS_ON), (Feature::Pasid, PASID_CONTROL, PASID_ON)] {
        let function = function(Space::whole().stuck(at, bits));
        let before = function.config().get(at);
        assert!(is_broken(function.set_feature(feature, true)));
        assert_eq!(function.config().get(at), before);
    }
    let function = function(Space::whole().stuck(4, 4));
    assert!(is_broken(function.set_bus_master(true)));
    // On, and it does not go off.
    for (feature, at, bits) in [(Feature::Ats, ATS_CONTROL, ATS_ON), (Feature::Pasid, PASID_CONTROL, PASID_ON)] {
        let function = self::function(Space::whole());
        function.set_feature(feature, true).unwrap();
        function.config().0.lock().unwrap().writable[usize::from(at) / 4] = 0;
        assert!(is_broken(function.set_feature(feature, false)));
        assert!(function.config().get(at) & bits != 0);
    }
}

#[test]
fn what_was_pulled_out_is_an_error() {
    type Operation = fn(&PciFunction<Space>) -> Result<(), HwError>;
    let operations: [Operation; 4] = [
        |function| function.set_feature(Feature::Ats, true),
        |function| function.set_feature(Feature::Pasid, true),
        |function| function.set_bus_master(true),
        |function| function.set_bus_master(false),
    ];
    for (operation, dies_after) in operations.into_iter().flat_map(|operation| [(operation, 0), (operation, 1)]) {
        let function = function(Space::whole());
        function.config().0.lock().unwrap().dies_after = Some(dies_after);
        assert_eq!(operation(&function), Err(HwError::Hardware("the function does not answer")));
        assert!(function.read_capabilities().is_err());
    }
}

#[test]
fn what_it_does_not_have_is_not_switched() {
    let function = PciFunction::new(Space::whole(), PciConfig::default()).unwrap();
    for feature in [Feature::Ats, Feature::Pasid, Feature::Pri] {
        assert!(matches!(function.set_feature(feature, true), Err(HwError::Unsupported(_))));
    }
    assert_eq!(function.config().writes(), []);
}

#[test]
fn a_virtual_function_uses_its_physical_ones_registers() {
    let space = || {
        let space = Space::whole().with(0, |_| u32::MAX).with(ATS_CONTROL, |word| word & !0x1f);
        space.stuck(ATS_CONTROL, 0x1f << 16)
    };
    let stream = StreamId::new(0x300);
    let of = |ats: Option<Ats>| PciConfig { physical: Some(PhysicalFunction { stream, ats }), ..ALL };
    let shared = Capabilities::read(&Space::whole()).unwrap().ats;
    let function = PciFunction::new(space(), of(shared)).unwrap();
    let features = function.features();
    // The depth of its own field, 0, would mean 32.
    assert_eq!((features.ats, features.ats_queue_depth, features.physical), (true, 8, Some(stream)));
    assert_eq!(features.pasid_bits, 0);
    function.set_feature(Feature::Ats, true).unwrap();
    assert!(matches!(function.set_feature(Feature::Pasid, true), Err(HwError::Unsupported(_))));
    // Without the physical one's there is none; and its smallest unit must be a page.
    assert!(!PciFunction::new(space(), of(None)).unwrap().features().ats);
    let function = PciFunction::new(space(), of(shared.map(|ats| Ats { stu: 4, ..ats }))).unwrap();
    assert!(is_broken(function.set_feature(Feature::Ats, true)));
    assert_eq!(function.config().get(ATS_CONTROL) & ATS_ON, 0);
}
