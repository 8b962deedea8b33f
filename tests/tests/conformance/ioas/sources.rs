//! Memory whose owner goes, and memory of devices.

use crate::common::*;
use iommu_core::addr::Iova;
use iommu_core::hw::Prot;
use iommu_core::ioas::Placement;
use iommu_tests::mock::*;
use std::sync::Arc;

/// Whoever brought the memory is gone, and so is every handle to it but the areas: what is mapped stays, and so do copies
/// of it and domains that come later.
pub fn fork_gone(case: Case) {
    let mut rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(4 * PAGE);
    source.memory.fill();
    rig.map_all(&source, base);
    let Source { memory, pages } = source;
    memory.go();
    let (bytes, phys, left) = (memory.peek(PAGE, 8), memory.phys(PAGE), Arc::downgrade(&memory));
    drop((memory, pages));
    assert!(left.upgrade().is_some_and(|memory| memory.is_pinned()));
    if case != Case::NoDomain {
        rig.add_domain().unwrap();
        for lead in &rig.leads {
            assert_eq!(lead.mapped(), 4 * PAGE);
            assert_eq!(lead.ways(base + PAGE), [(phys.get(), Prot::READ_WRITE)]);
        }
    }
    rig.ioas.copy(&rig.ioas, range(base + PAGE, PAGE), at(base + 8 * PAGE), Prot::READ).unwrap();
    assert_eq!(rig.ioas.translate(Iova::new(base + 8 * PAGE)), Some(phys));
    assert_eq!(bytes.len(), 8);
    assert_eq!(rig.ioas.unmap_all().unwrap(), 5 * PAGE);
    // The last area took the memory along.
    assert!(left.upgrade().is_none());
    rig.close();
}

/// Two owners map the same memory, each on its own; one goes.
pub fn fork_present(case: Case) {
    let rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(4 * PAGE);
    let other = Source::of(source.memory.alias(), None);
    let ioas = rig.another();
    rig.map_all(&source, base);
    ioas.map(&other.pages, 0, 4 * PAGE, at(base), Prot::READ).unwrap();
    assert_eq!(rig.world.pins(source.memory.phys(PAGE)), 2);
    drop(ioas);
    assert_eq!(rig.world.pins(source.memory.phys(PAGE)), 1);
    rig.expect(&[expected(base, 4 * PAGE, &source, 0, Prot::READ_WRITE)]);
    let access = rig.access(None, MOCK_PAGE);
    access.write(Iova::new(base + 5), b"present").unwrap();
    assert_eq!(other.memory.peek(5, 7), b"present");
    drop(access);
    rig.close();
}

pub fn dmabuf_simple(case: Case) {
    let rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source_of(MemoryConfig::contiguous(8 * PAGE, PAGE).mmio());
    for (offset, len) in [(0, 8 * PAGE), (PAGE, 2 * PAGE), (7 * PAGE, PAGE), (MOCK_PAGE, MOCK_PAGE)] {
        rig.ioas.map(&source.pages, offset, len, at(base), Prot::READ_WRITE).unwrap();
        rig.expect(&[expected(base, len, &source, offset, Prot::READ_WRITE)]);
        rig.unmap(base, len).unwrap();
    }
    for (offset, len) in [(0, 0), (0, 9 * PAGE), (8 * PAGE, PAGE), (7 * PAGE, 2 * PAGE)] {
        assert_eq!(errno(rig.ioas.map(&source.pages, offset, len, at(base), Prot::READ_WRITE)), EINVAL);
    }
    rig.map_all(&source, base);
    rig.ioas.copy(&rig.ioas, range(base, PAGE), at(base + 16 * PAGE), Prot::READ).unwrap();
    // Software does not read a device's registers by this way.
    let access = rig.access(Some(MockUser::new()), MOCK_PAGE);
    assert_eq!(errno(access.pin(range(base, PAGE), Prot::READ)), EINVAL);
    assert_eq!(errno(access.read(Iova::new(base), &mut [0; 4])), EINVAL);
    assert_eq!(errno(access.write(Iova::new(base), &[0; 4])), EINVAL);
    drop(access);
    rig.close();
}

pub fn dmabuf_revoke(case: Case) {
    let mut rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source_of(MemoryConfig::contiguous(8 * PAGE, PAGE).mmio().revocable());
    let stays = rig.source(PAGE);
    let other = rig.another();
    rig.map_all(&source, base);
    rig.map_all(&stays, base + 32 * PAGE);
    rig.ioas.copy(&rig.ioas, range(base + PAGE, PAGE), at(base + 16 * PAGE), Prot::READ).unwrap();
    other.copy(&rig.ioas, range(base, 8 * PAGE), Placement::Anywhere, Prot::READ).unwrap();
    source.memory.go();
    // Hardware that does not confirm still reaches it, so it stays pinned.
    if let Some(lead) = rig.leads.last() {
        lead.unit.script().fail(Call::Flush, 0, Script::TIMED_OUT, Effect::None);
        assert_eq!(errno(source.pages.revoke()), ETIMEDOUT);
        assert!(source.memory.is_pinned());
    }
    source.pages.revoke().unwrap();
    // No device reaches it, and it is not pinned (the mock sees that in this order). Its addresses are still taken.
    assert!(source.pages.is_revoked() && !source.memory.is_pinned());
    for lead in &rig.leads {
        assert_eq!(lead.mapped(), PAGE);
    }
    let info = rig.ioas.area(range(base, 1)).unwrap();
    assert!(info.revoked && info.range == range(base, 8 * PAGE), "{info:?}");
    assert_eq!(rig.ioas.translate(Iova::new(base)), None);
    assert_eq!(errno(rig.ioas.map(&stays.pages, 0, PAGE, at(base), Prot::READ)), EEXIST);
    // Neither mapped anew nor copied; and a domain that comes does not see it.
    assert_eq!(errno(rig.ioas.map(&source.pages, 0, PAGE, at(base + 64 * PAGE), Prot::READ)), ENODEV);
    assert_eq!(errno(rig.ioas.copy(&rig.ioas, range(base, PAGE), at(base + 64 * PAGE), Prot::READ)), ENODEV);
    if case != Case::NoDomain {
        let lead = rig.add_domain().unwrap();
        assert_eq!(rig.leads[lead].mapped(), PAGE);
    }
    assert_eq!(errno(source.pages.register()), ENODEV);
    // Of an area that was cut a part goes; the rest is still known.
    let cut = rig.source_of(MemoryConfig::contiguous(2 * PAGE, PAGE).revocable());
    rig.map_all(&cut, base + 128 * PAGE);
    rig.ioas.split(Iova::new(base + 129 * PAGE)).unwrap();
    rig.unmap(base + 128 * PAGE, PAGE).unwrap();
    cut.pages.revoke().unwrap();
    assert!(rig.ioas.area(range(base + 128 * PAGE, 2 * PAGE)).is_some_and(|area| area.revoked));
    assert!(!cut.memory.is_pinned());
    rig.unmap(base + 129 * PAGE, PAGE).unwrap();
    drop(cut);
    // Once more is no error. The areas go as any others.
    source.pages.revoke().unwrap();
    assert_eq!(rig.unmap(base, 8 * PAGE).unwrap(), 8 * PAGE);
    assert_eq!(rig.unmap(base + 16 * PAGE, PAGE).unwrap(), PAGE);
    rig.expect(&[expected(base + 32 * PAGE, PAGE, &stays, 0, Prot::READ_WRITE)]);
    drop((other, source));
    rig.close();
}
