//! That the stand-ins see misuse.

use super::*;
use iommu_core::addr::PhysExtent;
use iommu_core::hw::{Domain, DomainConfig, Gather, HwError, Prot, Stage, Stream, StreamId, Target, Unit};
use iommu_core::pages::{Memory, MemoryError};
use std::sync::Arc;

const AT: Iova = Iova::new(APERTURE_START);

struct Set {
    world: World,
    unit: Arc<MockUnit>,
    domain: Box<dyn Domain>,
}

fn set() -> Set {
    let world = World::new();
    let unit = MockUnit::new(&world);
    let domain = unit.create_domain(&DomainConfig::new(Stage::Second)).unwrap();
    Set { world, unit, domain }
}

fn pin(memory: &MockMemory) -> Vec<PhysExtent> {
    let mut all = Vec::new();
    memory
        .pin(&mut |extent| {
            all.push(extent);
            Ok(())
        })
        .unwrap();
    all
}

fn page(world: &World) -> PhysExtent {
    world.phys(MOCK_PAGE, MOCK_PAGE)
}

#[test]
fn what_is_mapped_is_found_until_it_is_flushed() {
    let Set { world, unit, domain } = set();
    let memory = MockMemory::new(&world, MemoryConfig::scattered(0x3000));
    let extents = pin(&memory);
    assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), 0x3000);
    domain.map(AT, &extents, Prot::READ).unwrap();
    let mock = MockDomain::of(&*domain);
    assert_eq!((mock.mapped(), mock.leaves().len()), (0x3000, 6));
    let stream = Stream::function(StreamId::new(3));
    unit.attach(stream, Target::Paging(&*domain)).unwrap();
    let third = APERTURE_START + 0x2801;
    assert_eq!(unit.ways(stream, third), [(memory.phys(0x2801), Prot::READ)]);
    assert_eq!(memory.offset_of(memory.phys(0x2801)), Some(0x2801));
    let mut gather = Gather::new();
    domain.unmap(range(APERTURE_START, 0x3000), &mut gather).unwrap();
    assert_eq!(domain.translate(Iova::new(third)), None);
    assert_eq!(unit.ways(stream, third).len(), 1);
    domain.flush(&mut gather).unwrap();
    assert!(unit.ways(stream, third).is_empty() && gather.is_empty());
    memory.unpin();
    unit.detach(stream).unwrap();
    drop(domain);
    world.assert_clean();
}

#[test]
fn large_leaves_where_both_sides_are_aligned() {
    let Set { world, domain, .. } = set();
    domain.map(AT, &[world.phys(2 * MOCK_HUGE, MOCK_HUGE)], Prot::READ_WRITE).unwrap();
    assert_eq!(MockDomain::of(&*domain).leaves().len(), 2);
    let mut gather = Gather::new();
    let cut = range(APERTURE_START, MOCK_PAGE);
    let error = domain.unmap(cut, &mut gather).unwrap_err();
    assert_eq!(error, HwError::SplitsLeaf { iova: AT, size: MOCK_HUGE });
    domain.split(Iova::new(APERTURE_START + MOCK_PAGE)).unwrap();
    assert_eq!(MockDomain::of(&*domain).leaves().len(), 513);
    domain.unmap(cut, &mut gather).unwrap();
}

#[test]
#[should_panic(expected = "mapped over the leaf")]
fn a_map_over_what_is_mapped() {
    let Set { world, domain, .. } = set();
    domain.map(AT, &[page(&world)], Prot::READ).unwrap();
    let _ = domain.map(AT, &[page(&world)], Prot::READ);
}

#[test]
#[should_panic(expected = "was flushed")]
fn a_map_before_the_flush() {
    let Set { world, domain, .. } = set();
    domain.map(AT, &[page(&world)], Prot::READ).unwrap();
    domain.unmap(range(APERTURE_START, MOCK_PAGE), &mut Gather::new()).unwrap();
    let _ = domain.map(AT, &[page(&world)], Prot::READ);
}

#[test]
#[should_panic(expected = "is unmapped")]
fn an_unmap_of_nothing() {
    let Set { domain, .. } = set();
    let _ = domain.unmap(range(APERTURE_START, MOCK_PAGE), &mut Gather::new());
}

#[test]
#[should_panic(expected = "gather of another domain")]
fn a_foreign_gather() {
    let Set { world, unit, domain } = set();
    let other = unit.create_domain(&DomainConfig::new(Stage::Second)).unwrap();
    let mut gather = Gather::new();
    for domain in [domain, other] {
        domain.map(AT, &[page(&world)], Prot::READ).unwrap();
        let _ = domain.unmap(range(APERTURE_START, MOCK_PAGE), &mut gather);
    }
}

#[test]
#[should_panic(expected = "is not pinned")]
fn a_map_of_what_is_not_pinned() {
    let Set { world, domain, .. } = set();
    let memory = MockMemory::new(&world, MemoryConfig::scattered(0x1000));
    let _ = domain.map(AT, memory.extents(), Prot::READ);
}

#[test]
#[should_panic(expected = "can be reached through")]
fn an_unpin_before_the_flush() {
    let Set { world, domain, .. } = set();
    let memory = MockMemory::new(&world, MemoryConfig::scattered(0x1000));
    domain.map(AT, &pin(&memory), Prot::READ).unwrap();
    domain.unmap(range(APERTURE_START, 0x1000), &mut Gather::new()).unwrap();
    memory.unpin();
}

#[test]
fn an_unpin_after_the_domain_has_gone() {
    let Set { world, domain, .. } = set();
    let memory = MockMemory::new(&world, MemoryConfig::contiguous(MOCK_HUGE, MOCK_HUGE));
    domain.map(AT, &pin(&memory), Prot::READ).unwrap();
    drop(domain);
    memory.unpin();
    world.assert_clean();
}

#[test]
#[should_panic(expected = "can be reached through")]
fn an_unpin_after_a_domain_went_unconfirmed() {
    let Set { world, unit, domain } = set();
    let memory = MockMemory::new(&world, MemoryConfig::scattered(0x1000));
    domain.map(AT, &pin(&memory), Prot::READ).unwrap();
    unit.script().fail(Call::Retire, 0, Script::TIMED_OUT, Effect::Done);
    drop(domain);
    memory.unpin();
}

#[test]
#[should_panic(expected = "pinned twice")]
fn a_second_pin() {
    let memory = MockMemory::new(&World::new(), MemoryConfig::scattered(0x1000));
    pin(&memory);
    pin(&memory);
}

#[test]
#[should_panic(expected = "unpinned that is not pinned")]
fn an_unpin_too_many() {
    MockMemory::new(&World::new(), MemoryConfig::scattered(0x1000)).unpin();
}

#[test]
#[should_panic(expected = "memory that is not pinned")]
fn a_read_of_what_is_not_pinned() {
    let memory = MockMemory::new(&World::new(), MemoryConfig::scattered(0x1000));
    let _ = memory.read(0, &mut [0]);
}

#[test]
#[should_panic(expected = "leads to it")]
fn a_domain_that_goes_while_it_is_used() {
    let Set { unit, domain, .. } = set();
    unit.attach(Stream::function(StreamId::new(3)), Target::Paging(&*domain)).unwrap();
    drop(domain);
}

#[test]
fn pins_fail_where_they_are_told_to_and_are_counted() {
    let world = World::new();
    let memory = MockMemory::new(&world, MemoryConfig::scattered(0x4000));
    memory.script().fail(Call::Pin, 1, HwError::OutOfMemory, Effect::None);
    memory.fail_after(2);
    pin(&memory);
    let alias = memory.alias();
    pin(&alias);
    assert_eq!((world.pinned_pages(), world.pins(memory.phys(0))), (8, 2));
    memory.unpin();
    let mut seen = 0;
    let result = memory.pin(&mut |_| {
        seen += 1;
        Ok(())
    });
    assert_eq!((seen, result), (2, Err(MemoryError::OutOfMemory)));
    assert_eq!(world.pins(memory.phys(0)), 1);
    alias.unpin();
    world.assert_clean();
}

#[test]
fn hardware_that_does_not_confirm_a_map_may_have_done_it() {
    for effect in [Effect::None, Effect::Done] {
        let Set { world, unit, domain } = set();
        let memory = MockMemory::new(&world, MemoryConfig::scattered(0x1000));
        let extents = pin(&memory);
        unit.script().fail(Call::Map, 0, Script::TIMED_OUT, effect);
        assert_eq!(domain.map(AT, &extents, Prot::READ), Err(Script::TIMED_OUT));
        assert!(world.reaches(extents[0]).is_some());
        let mut gather = Gather::new();
        let unmapped = domain.unmap(range(APERTURE_START, 0x1000), &mut gather);
        assert_eq!(unmapped.is_ok(), effect == Effect::Done);
        if unmapped.is_err() {
            gather.add_everything();
        }
        domain.flush(&mut gather).unwrap();
        memory.unpin();
        world.assert_clean();
    }
}

#[test]
fn writes_are_recorded_until_read_and_again_after_the_flush() {
    let Set { world, unit, .. } = set();
    let config = DomainConfig { dirty_tracking: true, ..DomainConfig::new(Stage::Second) };
    let domain = unit.create_domain(&config).unwrap();
    domain.map(AT, &[world.phys(4 * MOCK_PAGE, MOCK_PAGE)], Prot::READ_WRITE).unwrap();
    let mock = MockDomain::of(&*domain);
    let all = range(APERTURE_START, 4 * MOCK_PAGE);
    let read = |gather: Option<&mut Gather>| {
        let mut found = Vec::new();
        match gather {
            None => domain.read_dirty(all, &mut |range| found.push(range)).unwrap(),
            Some(gather) => domain.read_and_clear_dirty(all, gather, &mut |range| found.push(range)).unwrap(),
        }
        found
    };
    mock.device_writes(APERTURE_START);
    assert!(read(None).is_empty());
    domain.set_dirty_tracking(true).unwrap();
    for page in [1, 2] {
        mock.device_writes(APERTURE_START + page * MOCK_PAGE + 7);
    }
    let both = [range(APERTURE_START + MOCK_PAGE, 2 * MOCK_PAGE)];
    assert_eq!(read(None), both);
    let mut gather = Gather::new();
    assert_eq!(read(Some(&mut gather)), both);
    mock.device_writes(APERTURE_START + MOCK_PAGE);
    assert!(read(None).is_empty());
    domain.flush(&mut gather).unwrap();
    mock.device_writes(APERTURE_START + MOCK_PAGE);
    assert_eq!(read(None), [range(APERTURE_START + MOCK_PAGE, MOCK_PAGE)]);
}
