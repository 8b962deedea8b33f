//! A guest's own stage 1 on top of a domain of SMMUv3: what its streams meet, what it may ask for, and who goes first.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    Domain, DomainConfig, HwError, Invalidation, Nested, NestedConfig, Stage, Target, Transition, Unit as _,
};
use iommu_models::smmuv3::{Command, Config, Execution};
use iommu_tests::smmuv3::bench::{Bench, map, stream};
use iommu_tests::smmuv3::case::Case;

const NEAR: u32 = 8;
const BESIDE: u32 = 0x11;
/// Kinds of a configuration and of a request.
const ENTRY: u32 = 0x534d_4d55;
const COMMAND: u32 = 0x534d_4d43;

fn cases() -> Vec<Case> {
    // Whatever errata its maker has: those have no nesting.
    let server = Config { iidr: 0, ..Config::server() };
    vec![
        Case::nested(Stage::Second),
        Case { config: server, name: "server".into(), ..Case::nested(Stage::Second) },
        Case {
            config: server.non_coherent(),
            non_coherent: true,
            name: "not snooped".into(),
            ..Case::nested(Stage::Second)
        },
    ]
}

fn parent(bench: &Bench) -> Box<dyn Domain> {
    let config = DomainConfig { nest_parent: true, ..DomainConfig::new(Stage::Second) };
    bench.unit.create_domain(&config).unwrap()
}

fn nested(bench: &Bench, parent: &dyn Domain, words: [u64; 2]) -> Result<Box<dyn Nested>, HwError> {
    bench.unit.create_nested(parent, &NestedConfig { kind: ENTRY, words: &words })
}

/// Memory of a guest, in which it has a context descriptor and tables: VA 0x4000 to its IPA 0x10_5000. Each level has a frame.
fn guest(bench: &Bench) -> (Box<dyn Domain>, Vec<PhysAddr>) {
    use iommu_hal::{FrameRequest, Hal, WalkerMemory};
    let parent = parent(bench);
    let frames: Vec<PhysAddr> = (0..5)
        .map(|_| {
            bench.memory.alloc_frames(FrameRequest::single(48, WalkerMemory::Coherent)).expect("memory of the guest")
        })
        .collect();
    // The guest's first five pages are those, in this order; and one of data.
    for (at, frame) in frames.iter().enumerate() {
        map(&*parent, at as u64 * 0x1000, frame.get(), 0x1000);
    }
    map(&*parent, 0x10_5000, 0x7_0000_0000, 0x1000);
    let word = |frame: usize, index: usize, value: u64| {
        // SAFETY: frames of the test's own memory, which hardware reads words of.
        let at = unsafe { bench.memory.phys_to_virt(frames[frame]).cast::<u64>().add(index) };
        // SAFETY: the same; 512 words each.
        unsafe { at.as_ptr().write_volatile(value) };
        bench.memory.clean(frames[frame].wrapping_add(index as u64 * 8), 8);
    };
    // T0SZ 16, write-back, EPD1, V, IPS 44 bits, AA64, R, A, ASET, ASID 9; TTB0 at page 1.
    word(0, 1, 0x1000);
    word(0, 3, 0xff);
    word(0, 0, 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 4 << 32 | 7 << 45 | 1 << 41 | 9 << 48);
    (1..4).for_each(|level| word(level, 0, (level as u64 + 1) << 12 | 3));
    word(4, 4, 0x10_5000 | 3 | 1 << 6 | 1 << 10 | 1 << 11);
    (parent, frames)
}

const STAGE_1: [u64; 2] = [1 | 5 << 1, 1 << 2 | 1 << 4 | 3 << 6];

#[test]
fn a_guests_streams_go_through_both_stages() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (parent, _frames) = guest(&bench);
        let nested = |words| nested(&bench, &*parent, words).unwrap();
        let (own, abort, bypass) = (nested(STAGE_1), nested([1, 0]), nested([1 | 4 << 1, 0]));
        let to = |target: Target<'_>| bench.unit.attach(stream(NEAR), target).unwrap();
        bench.attach(BESIDE, &*parent);
        assert_eq!(to(Target::Nested(&*own)), Transition::Hitless);
        for _ in 0..2 {
            bench.expect(NEAR, 0x4123, Ok(0x7_0000_0123));
            assert!(bench.read(NEAR, 0x10_5000).is_err() && bench.read(NEAR, 0x5000).is_err());
            // The parent alone, as the guest's bypass or without guest, and back: one word differs each time.
            assert_eq!(to(Target::Nested(&*bypass)), Transition::Hitless);
            bench.expect(NEAR, 0x10_5000, Ok(0x7_0000_0000));
            assert!(bench.read(NEAR, 0x4000).is_err() || bench.read(NEAR, 0x4000) != Ok(0x7_0000_0000));
            assert_eq!(to(Target::Paging(&*parent)), Transition::Hitless);
            bench.expect(NEAR, 0x10_5000, Ok(0x7_0000_0000));
            to(Target::Nested(&*abort));
            bench.expect_blocked(NEAR, 0x4000);
            assert_eq!(to(Target::Nested(&*own)), Transition::Hitless);
        }
        bench.expect(BESIDE, 0x10_5000, Ok(0x7_0000_0000));
        // What the host takes away is gone for the guest, too, whatever was cached under its own ASIDs.
        bench.expect(NEAR, 0x4000, Ok(0x7_0000_0000));
        iommu_tests::bench::unmap(&*parent, 0x10_5000, 0x1000);
        assert!(bench.read(NEAR, 0x4000).is_err(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn requests_reach_the_guests_own_streams_and_no_others() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (parent, _frames) = guest(&bench);
        let own = nested(&bench, &*parent, STAGE_1).unwrap();
        bench.unit.attach(stream(NEAR), Target::Nested(&*own)).unwrap();
        bench.attach(BESIDE, &*parent);
        let vmid = bench.model.translate(BESIDE, None, Iova::new(0x10_5000), false).unwrap().vmid.unwrap();
        let ask = |words| own.invalidate(&Invalidation { kind: COMMAND, words });
        bench.commands();
        let sync = Command::Sync { signal: 0, message: None };
        for (words, expected) in [
            ([6 | 0x77 << 32, 0], Command::ConfigCdAll { sid: NEAR }),
            ([5 | 0x77 << 32, 1], Command::ConfigCd { sid: NEAR, ssid: 0, leaf: true }),
            ([0x10 | 0x77 << 32, 0], Command::TlbiAll { vmid }),
            ([0x11 | 0x77 << 32 | 9 << 48, 0], Command::TlbiAsid { vmid, asid: 9 }),
        ] {
            ask(words).unwrap();
            assert_eq!(bench.commands(), [expected, sync], "{}", case.name);
        }
        for words in [[4, 31], [0x28, 0], [0x30, 0], [0x46, 0], [0x44, 0]] {
            assert!(matches!(ask(words), Err(HwError::Unsupported(_))), "{words:x?}");
        }
        assert_eq!(bench.commands(), []);
        bench.check();
    }
}

#[test]
fn whoever_goes_first_leaves_nothing_behind() {
    for case in cases() {
        for nested_first in [true, false] {
            let bench = Bench::up(&case);
            let (parent, _frames) = guest(&bench);
            let own = nested(&bench, &*parent, STAGE_1).unwrap();
            bench.unit.attach(stream(NEAR), Target::Nested(&*own)).unwrap();
            bench.attach(BESIDE, &*parent);
            bench.expect(NEAR, 0x4000, Ok(0x7_0000_0000));
            if nested_first {
                drop(own);
                bench.expect_blocked(NEAR, 0x4000);
                bench.expect(BESIDE, 0x10_5000, Ok(0x7_0000_0000));
                // The VMID is the parent's still: no other domain gets it.
                let other = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
                bench.attach(NEAR, &*other);
                assert_ne!(bench.tag(NEAR, 0x1000), bench.tag(BESIDE, 0x10_5000), "{}", case.name);
                drop(parent);
            } else {
                drop(parent);
                bench.expect_blocked(NEAR, 0x4000);
                let refused = bench.unit.attach(stream(NEAR), Target::Nested(&*own));
                assert_eq!(refused, Err(HwError::ForeignDomain), "{}", case.name);
                drop(own);
            }
            bench.expect_blocked(BESIDE, 0x10_5000);
            bench.check();
        }
    }
}

#[test]
fn a_domain_that_was_not_made_for_it_takes_no_guest() {
    for case in cases() {
        let bench = Bench::up(&case);
        let plain = bench.domain();
        assert!(matches!(nested(&bench, &*plain, STAGE_1), Err(HwError::Unsupported(_))));
        let first = bench.unit.create_domain(&DomainConfig::new(Stage::First)).unwrap();
        assert!(matches!(nested(&bench, &*first, STAGE_1), Err(HwError::Unsupported(_))));
        let other = Bench::up(&case);
        let foreign = self::parent(&other);
        assert!(matches!(nested(&bench, &*foreign, STAGE_1), Err(HwError::ForeignDomain)));
        assert!(matches!(nested(&bench, &*self::parent(&bench), [1 | 6 << 1, 0]), Err(HwError::Hardware(_))));
        bench.check();
    }
}

/// What stage 2 led to is kept for walks of stage 1, too: one between the two invalidations, in whatever order they take effect,
/// must not bring it back into what is kept of both stages.
#[test]
fn what_the_host_takes_away_does_not_come_back_by_a_walk_in_between() {
    for case in cases() {
        for execution in [Execution::Queued, Execution::Late, Execution::Reversed] {
            let bench = Bench::up(&case);
            let (parent, _frames) = guest(&bench);
            let own = nested(&bench, &*parent, STAGE_1).unwrap();
            bench.attach(BESIDE, &*parent);
            bench.unit.attach(stream(NEAR), Target::Nested(&*own)).unwrap();
            bench.expect(BESIDE, 0x10_5000, Ok(0x7_0000_0000));
            bench.expect(NEAR, 0x4000, Ok(0x7_0000_0000));
            bench.model.set_execution(execution);
            bench
                .model
                .on_command(Some(Box::new(move |model, _| _ = model.dma(NEAR, None, Iova::new(0x4000), 1, false))));
            iommu_tests::bench::unmap(&*parent, 0x10_5000, 0x1000);
            bench.model.on_command(None);
            assert!(bench.read(NEAR, 0x4000).is_err(), "{}: {execution:?}", case.name);
            bench.expect(BESIDE, 0x10_5000, Err(case.not_mapped()));
            bench.check();
        }
    }
}

/// A parent that goes gives its VMID back: what its guest asks for afterwards reaches nobody.
#[test]
fn a_guest_without_its_parent_asks_for_nothing() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (parent, _frames) = guest(&bench);
        let own = nested(&bench, &*parent, STAGE_1).unwrap();
        bench.unit.attach(stream(NEAR), Target::Nested(&*own)).unwrap();
        drop(parent);
        bench.commands();
        for words in [[6, 0], [0x10, 0], [0x11 | 9 << 48, 0], [0x12 | 9 << 48, 0x4000], [0x13, 0x4001]] {
            own.invalidate(&Invalidation { kind: COMMAND, words }).unwrap();
            assert_eq!(bench.commands(), [], "{}: {words:x?}", case.name);
        }
        bench.check();
    }
}
