//! Maps and what goes wrong with them, and what software sees.

use super::*;
use iommu_core::hw::HwError;

pub fn basic((domains, kind): Case) {
    let mut rig = rig(domains);
    let len = if kind == Kind::Huge { 2 * MOCK_HUGE } else { 16 * PAGE };
    let buffer = Buffer::new(&rig, kind, len);
    let base = rig.base;

    // All of it; half of it, twice, at another place.
    let (one, two, three) = (buffer.source(), buffer.source(), buffer.source());
    map(&rig.ioas, &one, 0, len, base, Prot::READ_WRITE);
    let whole = expected(base, len, &one, 0, Prot::READ_WRITE);
    rig.expect(&[whole]);
    buffer.expect_pins(&rig, 1);
    if kind == Kind::Huge {
        let leaves = rig.leads[0].unit.leaves(rig.leads[0].stream);
        assert_eq!(leaves.len(), 2, "contiguous memory is not in large pages");
    }
    map(&rig.ioas, &two, len / 2, len, base + 2 * len, Prot::READ);
    map(&rig.ioas, &three, 0, len / 2, base + 4 * len, Prot::WRITE);
    let halves = [
        expected(base + 2 * len, len / 2, &two, len / 2, Prot::READ),
        expected(base + 4 * len, len / 2, &three, 0, Prot::WRITE),
    ];
    let all = [whole, halves[0], halves[1]];
    rig.expect(&all);
    buffer.expect_pins(&rig, 3);

    // A domain that comes has everything; the first to come goes, and the others keep everything.
    add(&mut rig, 9).unwrap();
    rig.expect(&all);
    buffer.expect_pins(&rig, 3);
    rig.leads.remove(0);
    rig.expect(&all);
    assert_eq!(rig.unmap(base, len).unwrap(), len);
    rig.expect(&halves);
    buffer.expect_pins(&rig, 2);
    rig.leads.clear();
    buffer.expect_pins(&rig, 2);
    assert_eq!(rig.ioas.unmap_all().unwrap(), len);
    buffer.expect_pins(&rig, 0);

    // Memory that is not to be had, from the first byte on or from the middle; and a domain that refuses.
    for _ in 0..domains {
        let number = 10 + rig.leads.len() as u32;
        add(&mut rig, number).unwrap();
    }
    let bad = buffer.source();
    for after in [0, bad.memory.extents().len() as u64 / 2] {
        bad.memory.script().fail(Call::Pin, 0, HwError::InUse, Effect::None);
        bad.memory.fail_after(after);
        assert_eq!(errno(rig.ioas.map(&bad.pages, 0, len, at(base), Prot::READ)), EFAULT);
        rig.expect(&[]);
        buffer.expect_pins(&rig, 0);
    }
    for lead in &rig.leads {
        lead.unit.script().fail(Call::Map, 0, HwError::OutOfMemory, Effect::None);
        assert_eq!(errno(rig.ioas.map(&bad.pages, 0, len, at(base), Prot::READ)), ENOMEM);
        rig.expect(&[]);
        buffer.expect_pins(&rig, 0);
    }
    map(&rig.ioas, &bad, 0, len, base, Prot::READ);
    rig.close();
}

/// What devices may only read, they cannot write; what its owner writes, they see.
pub fn ro_unshare((domains, kind): Case) {
    let rig = rig(domains);
    let buffer = Buffer::with(&rig, kind, MOCK_HUGE, MemoryConfig::read_only);
    let base = rig.base;
    let source = buffer.source();
    assert_eq!(errno(rig.ioas.map(&source.pages, 0, PAGE, at(base), Prot::READ_WRITE)), EPERM);
    buffer.expect_pins(&rig, 0);
    map(&rig.ioas, &source, 0, MOCK_HUGE, base, Prot::READ);
    rig.expect(&[expected(base, MOCK_HUGE, &source, 0, Prot::READ)]);
    for lead in &rig.leads {
        assert_eq!(lead.unit.device_writes(lead.stream, base + 5), None);
    }
    let access = rig.access(None, MOCK_PAGE);
    buffer.memory().poke(PAGE - 2, b"fresh");
    let mut bytes = [0; 5];
    access.read(iova(base + PAGE - 2), &mut bytes).unwrap();
    assert_eq!(&bytes, b"fresh");
    assert_eq!(errno(access.write(iova(base), b"stale")), EPERM);
    drop(access);
    rig.close();
}

/// Memory that software filled through one address space is what devices of another see.
pub fn user_copy((domains, kind): Case) {
    let rig = rig(domains);
    let len = length(kind);
    let buffer = Buffer::new(&rig, kind, len);
    let base = rig.base;
    let ioas = rig.another();
    let access = rig.access(None, MOCK_PAGE);
    access.replace(&ioas).unwrap();
    let source = buffer.source();
    map(&ioas, &source, 0, len, base, Prot::READ_WRITE);
    access.write(iova(base + PAGE - 3), b"across").unwrap();
    assert_eq!(errno(access.write(iova(base + len - 3), b"beyond")), ENOENT);
    rig.ioas.copy(&ioas, range(base, len), at(base + len), Prot::READ).unwrap();
    let here = [expected(base + len, len, &source, 0, Prot::READ)];
    rig.expect(&here);
    buffer.expect_pins(&rig, 1);
    // The one it came from goes.
    assert_eq!(ioas.unmap_all().unwrap(), len);
    assert_eq!(errno(access.read(iova(base), &mut [0])), ENOENT);
    access.replace(&rig.ioas).unwrap();
    let mut bytes = [0; 6];
    access.read(iova(base + len + PAGE - 3), &mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    assert_eq!(buffer.memory().peek(PAGE - 3, 6), b"across");
    assert_eq!(errno(access.write(iova(base + len), b"x")), EPERM);
    rig.expect(&here);
    drop((ioas, access));
    rig.close();
}
