//! Domains that come and go, and devices that move between them.

use super::*;
use iommu_core::device::AttachTo;
use iommu_core::hw::HwError;
use iommu_core::hwpt::Hwpt;
use iommu_core::ioas::Placement;

/// Devices move from one address space to another.
pub fn replace((domains, kind): Case) {
    let mut rig = rig(0);
    let len = length(kind);
    let (one, two) = (Buffer::new(&rig, kind, len), Buffer::new(&rig, kind, len));
    let (first, second) = (one.source(), two.source());
    let base = rig.base;
    let ioas = rig.another();
    map(&rig.ioas, &first, 0, len, base, Prot::READ_WRITE);
    map(&ioas, &second, 0, len, base + PAGE, Prot::READ);
    let old = [expected(base, len, &first, 0, Prot::READ_WRITE)];
    let new = [expected(base + PAGE, len, &second, 0, Prot::READ)];
    for number in 0..domains {
        let unit = MockUnit::new(&rig.world);
        let lead = Lead::device(&unit, 0x300 + number as u32);
        lead.dev().attach(AttachTo::Auto(&rig.ioas)).unwrap();
        rig.leads.push(lead);
    }
    rig.expect(&old);
    for lead in &rig.leads {
        // A switch that fails leaves the device where it was, also where hardware had blocked it in between.
        for (error, effect) in [(HwError::OutOfMemory, Effect::None), (Script::TIMED_OUT, Effect::Done)] {
            lead.unit.script().fail(Call::Attach, 0, error, effect);
            assert!(lead.dev().replace(AttachTo::Auto(&ioas)).is_err());
            assert!(!lead.unit.script().succeed());
            expect_tables(lead, &old);
        }
        lead.dev().replace(AttachTo::Auto(&ioas)).unwrap();
        expect_tables(lead, &new);
    }
    rig.world.record();
    for lead in &rig.leads {
        lead.dev().replace(AttachTo::Auto(&rig.ioas)).unwrap();
        let dropped = |event: &Event| matches!(event, Event::DropDomain { .. });
        assert_eq!(rig.world.events().iter().filter(|event| dropped(event)).count(), 1);
        expect_tables(lead, &old);
    }
    assert_eq!(rig.ioas.unmap_all().unwrap(), len);
    rig.expect(&[]);
    drop(ioas);
    rig.close();
}

pub fn alloc_hwpt((domains, kind): Case) {
    let rig = rig(domains);
    let len = length(kind);
    let buffer = Buffer::new(&rig, kind, len);
    let base = rig.base;
    let sources: Vec<_> = (0..3).map(|_| buffer.source()).collect();
    let mut areas = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let place = base + index as u64 * 2 * len + index as u64 * MOCK_PAGE;
        map(&rig.ioas, source, MOCK_PAGE, len, place, Prot::READ);
        areas.push(expected(place, len - MOCK_PAGE, source, MOCK_PAGE, Prot::READ));
    }
    rig.expect(&areas);
    let unit = MockUnit::new(&rig.world);
    let config = || HwptConfig::new(Stage::Second);
    // Wherever filling it fails, none of it is left.
    let maps = {
        let before = unit.counts().of(Call::Map);
        drop(Hwpt::new(&rig.ioas, &dynamic(&unit), config()).unwrap());
        unit.counts().of(Call::Map) - before
    };
    assert!(maps >= 3);
    for nth in 0..maps {
        for (error, effect, number) in
            [(HwError::OutOfMemory, Effect::None, ENOMEM), (Script::TIMED_OUT, Effect::Done, 110)]
        {
            let reachable = rig.world.reachable();
            unit.script().fail(Call::Map, nth, error, effect);
            assert_eq!(errno(Hwpt::new(&rig.ioas, &dynamic(&unit), config())), number);
            assert!(!unit.script().succeed());
            assert_eq!(rig.world.reachable(), reachable);
            rig.expect(&areas);
        }
    }
    // As many as one likes; each has everything, and goes without the others.
    let many: Vec<_> = (0..4).map(|number| Lead::domain(&unit, 0x400 + number, &rig.ioas, config()).unwrap()).collect();
    for lead in &many {
        expect_tables(lead, &areas);
    }
    assert_eq!(rig.unmap(areas[1].iova, areas[1].len).unwrap(), areas[1].len);
    areas.remove(1);
    for lead in many {
        expect_tables(&lead, &areas);
        drop(lead);
        rig.expect(&areas);
    }
    // One that hardware does not let go of is still there, whole, and can be ended later.
    let hwpt = Hwpt::new(&rig.ioas, &dynamic(&unit), config()).unwrap();
    unit.script().fail(Call::Retire, 0, Script::TIMED_OUT, Effect::None);
    let (hwpt, error) = hwpt.destroy().unwrap_err();
    assert_eq!(error.errno(), ETIMEDOUT);
    let place = base + 16 * len;
    map(&rig.ioas, &sources[1], 0, PAGE, place, Prot::READ);
    assert_eq!(MockDomain::of(hwpt.domain()).mapped(), areas.iter().map(|area| area.len).sum::<u64>() + PAGE);
    assert_eq!(rig.unmap(place, PAGE).unwrap(), PAGE);
    hwpt.destroy().map_err(|(_, error)| error).unwrap();
    rig.expect(&areas);
    let got = rig.ioas.map(&sources[1].pages, 0, len, Placement::Anywhere, Prot::READ).unwrap();
    assert_eq!(rig.unmap(got.get(), len).unwrap(), len);
    rig.close();
}
