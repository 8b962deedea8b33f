//! Which memory was written through a domain, over address spaces of several sizes.

use crate::common::*;
use iommu_core::device::{AttachTo, Feature};
use iommu_core::dirty::{DirtyBitmap, DirtyRead};
use iommu_core::hw::{Pasid, Prot, Stage, Stream, Unit as _};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_tests::mock::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;

variants! { [
    mapped_8k = (8 * K, false), mapped_16k = (16 * K, false), mapped_64k = (64 * K, false), mapped_128k = (128 * K, false),
    mapped_256k = (256 * K, false), mapped_640k = (640 * K, false), mapped_1m = (M, false), mapped_16m = (16 * M, false),
    mapped_128m = (128 * M, false), mapped_128m_huge = (128 * M, true),
]:
    enforce_dirty, set_dirty_tracking, pasid_set_dirty_tracking, device_dirty_capability, get_dirty_bitmap,
    get_dirty_bitmap_no_clear,
}

/// Bytes that are mapped, and whether in large pages.
type Case = (u64, bool);

fn config() -> HwptConfig {
    HwptConfig { dirty_tracking: true, pasid: true, ..HwptConfig::new(Stage::Second) }
}

/// An address space with memory and a domain that records.
struct Setup {
    hwpt: Hwpt,
    rig: Rig,
    unit: Arc<MockUnit>,
    source: Source,
    case: Case,
}

impl Setup {
    fn new(case: Case) -> Self {
        let mut rig = Rig::new(crate::common::Case::NoDomain);
        rig.base = APERTURE_START;
        let unit = MockUnit::new(&rig.world);
        let hwpt = Hwpt::new(&rig.ioas, &dynamic(&unit), config()).unwrap();
        let memory = if case.1 { MemoryConfig::contiguous(case.0, MOCK_HUGE) } else { MemoryConfig::scattered(case.0) };
        let source = rig.source_of(memory);
        rig.map_all(&source, rig.base);
        Self { hwpt, rig, unit, source, case }
    }

    fn domain(&self) -> &MockDomain {
        MockDomain::of(self.hwpt.domain())
    }

    /// Writes to `page`, counted in [`MOCK_PAGE`]s from the start, and notes in `dirty` what that makes dirty.
    fn write(&self, page: u64, dirty: &mut BTreeSet<u64>) {
        self.domain().device_writes(self.rig.base + page * MOCK_PAGE + page % MOCK_PAGE);
        let leaf = if self.case.1 { MOCK_HUGE / MOCK_PAGE } else { 1 };
        dirty.extend(page / leaf * leaf..(page / leaf + 1) * leaf);
    }

    /// Some pages: the first, the last, and a pattern.
    fn write_some(&self) -> BTreeSet<u64> {
        let mut dirty = BTreeSet::new();
        let pages = self.case.0 / MOCK_PAGE;
        // In large pages few writes make everything dirty.
        let step = if self.case.1 { 1500 } else { 3 };
        for page in (0..pages).step_by(step).chain([pages - 1]) {
            self.write(page, &mut dirty);
        }
        dirty
    }

    /// Reads a bitmap of all that is mapped, with a bit for each `page_size` bytes, that stands at `offset` in its memory.
    /// Exactly the bits of `dirty` are set, and nothing else is touched.
    #[track_caller]
    fn expect(&self, how: DirtyRead, page_size: u64, offset: usize, dirty: &BTreeSet<u64>) {
        let (len, base) = (self.case.0, self.rig.base);
        let bits = len / page_size;
        let bytes = bits.div_ceil(8) as usize;
        let mut memory = vec![0u8; offset + bytes + 1];
        memory[offset + bytes] = 0xa5;
        let mut bitmap = DirtyBitmap::new(&mut memory[offset..offset + bytes], iova(base), page_size).unwrap();
        self.hwpt.read_dirty(range(base, len), how, &mut bitmap).unwrap();
        let mut wanted = vec![0u8; offset + bytes + 1];
        wanted[offset + bytes] = 0xa5;
        for page in dirty {
            let bit = (page * MOCK_PAGE / page_size) as usize;
            wanted[offset + bit / 8] |= 1 << (bit % 8);
        }
        assert!(memory == wanted, "{how:?}, {page_size:#x} bytes a bit, at {offset:#x}");
    }

    fn close(self) {
        let Self { hwpt, rig, unit, .. } = self;
        drop(hwpt);
        assert_eq!(unit.attached(), 0);
        rig.close();
    }
}

/// Only units that can make domains that record, and only their devices lead there.
fn enforce_dirty(case: Case) {
    let setup = Setup::new(case);
    let mut capabilities = setup.unit.capabilities();
    capabilities.dirty_tracking = false;
    let plain = MockUnit::with(&setup.rig.world, UnitConfig { capabilities, ..UnitConfig::default() });
    assert_eq!(errno(Hwpt::new(&setup.rig.ioas, &dynamic(&plain), config())), EOPNOTSUPP);
    let without = Lead::device(&plain, 1);
    assert_eq!(errno(without.dev().attach(AttachTo::Hwpt(&setup.hwpt))), EINVAL);
    assert_eq!(plain.leads(without.stream), Leads::Blocked);
    // It gets a domain of its own, which does not record.
    without.dev().attach(AttachTo::Auto(&setup.rig.ioas)).unwrap();
    assert_eq!(without.mapped(), case.0);
    let with = Lead::device(&setup.unit, 2);
    with.dev().attach(AttachTo::Hwpt(&setup.hwpt)).unwrap();
    assert_eq!(with.mapped(), case.0);
    drop((with, without));
    setup.close();
}

fn set_dirty_tracking(case: Case) {
    let setup = Setup::new(case);
    let none = BTreeSet::new();
    // A domain that was not made for it.
    let plain = Hwpt::new(&setup.rig.ioas, &dynamic(&setup.unit), HwptConfig::new(Stage::Second)).unwrap();
    assert_eq!(errno(plain.set_dirty_tracking(true)), EOPNOTSUPP);
    drop(plain);
    // Not started: what is asked makes no sense. Stopping what was not started is fine.
    let mut byte = [0; 1];
    let mut bitmap = DirtyBitmap::new(&mut byte, iova(setup.rig.base), 4096).unwrap();
    assert_eq!(errno(setup.hwpt.read_dirty(range(setup.rig.base, PAGE), DirtyRead::Clear, &mut bitmap)), EINVAL);
    setup.hwpt.set_dirty_tracking(false).unwrap();
    setup.write_some();
    // Starting is a clean point, and so is starting again.
    setup.hwpt.set_dirty_tracking(true).unwrap();
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &none);
    let dirty = setup.write_some();
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &dirty);
    setup.hwpt.set_dirty_tracking(true).unwrap();
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &none);
    let dirty = setup.write_some();
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &dirty);
    setup.hwpt.set_dirty_tracking(false).unwrap();
    setup.write_some();
    setup.hwpt.set_dirty_tracking(true).unwrap();
    setup.expect(DirtyRead::Clear, MOCK_PAGE, 0, &none);
    // Hardware that does not confirm that it forgot what was read: all may be dirty, until a new start.
    let first = BTreeSet::from_iter(0..if case.1 { MOCK_HUGE / MOCK_PAGE } else { 1 });
    setup.write(0, &mut BTreeSet::new());
    setup.unit.script().fail(Call::Flush, 0, Script::TIMED_OUT, Effect::None);
    let mut bytes = vec![0; (case.0 / PAGE).div_ceil(8) as usize];
    let mut bitmap = DirtyBitmap::new(&mut bytes, iova(setup.rig.base), PAGE).unwrap();
    let all = range(setup.rig.base, case.0);
    assert_eq!(errno(setup.hwpt.read_dirty(all, DirtyRead::Clear, &mut bitmap)), ETIMEDOUT);
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &(0..case.0 / MOCK_PAGE).collect());
    setup.hwpt.set_dirty_tracking(true).unwrap();
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &none);
    setup.write(0, &mut BTreeSet::new());
    setup.expect(DirtyRead::Clear, MOCK_PAGE, 0, &first);
    // Hardware that does not confirm: tried again.
    setup.unit.script().fail(Call::SetDirty, 0, Script::TIMED_OUT, Effect::None);
    assert_eq!(errno(setup.hwpt.set_dirty_tracking(false)), ETIMEDOUT);
    setup.hwpt.set_dirty_tracking(false).unwrap();
    setup.close();
}

/// What one PASID of a function writes is recorded like what a whole function writes.
fn pasid_set_dirty_tracking(case: Case) {
    let setup = Setup::new(case);
    let function = MockFunction::capable(&setup.rig.world);
    let lead = Lead::configured(&setup.unit, 5, |config| config.function = Some(function.clone()));
    let pasid = Pasid::new(33).unwrap();
    lead.dev().enable(Feature::Pasid).unwrap();
    lead.dev().attach_pasid(pasid, AttachTo::Hwpt(&setup.hwpt)).unwrap();
    setup.hwpt.set_dirty_tracking(true).unwrap();
    let stream = Stream { pasid: Some(pasid), ..lead.stream };
    let leaf = if case.1 { MOCK_HUGE / MOCK_PAGE } else { 1 };
    assert_eq!(setup.unit.device_writes(lead.stream, setup.rig.base), None);
    assert_eq!(setup.unit.device_writes(stream, setup.rig.base + 5), Some(setup.source.memory.phys(5)));
    setup.expect(DirtyRead::Clear, MOCK_PAGE, 0, &(0..leaf).collect());
    setup.expect(DirtyRead::Clear, MOCK_PAGE, 0, &BTreeSet::new());
    lead.dev().detach_pasid(pasid).unwrap();
    drop(lead);
    setup.close();
}

fn device_dirty_capability(case: Case) {
    let setup = Setup::new(case);
    assert!(setup.unit.capabilities().dirty_tracking);
    assert!(setup.domain().config().dirty_tracking && setup.hwpt.config().dirty_tracking);
    setup.close();
}

/// Places of a bitmap in its memory: nothing is as it should be for machines.
const OFFSETS: [usize; 3] = [0, 2048, 0xff1];

/// Sizes of what a bit stands for, as far as they divide `len`.
fn page_sizes(len: u64) -> impl Iterator<Item = u64> {
    // Of what is large, two of them are enough.
    let sizes = if len > 2 * M { &[MOCK_PAGE, 16 * PAGE][..] } else { &[MOCK_PAGE, PAGE, 2 * PAGE, 16 * PAGE] };
    sizes.iter().copied().filter(move |size| len.is_multiple_of(*size))
}

fn get_dirty_bitmap(case: Case) {
    let setup = Setup::new(case);
    setup.hwpt.set_dirty_tracking(true).unwrap();
    let none = BTreeSet::new();
    for offset in OFFSETS {
        for page_size in page_sizes(case.0) {
            let dirty = setup.write_some();
            setup.expect(DirtyRead::Clear, page_size, offset, &dirty);
            setup.expect(DirtyRead::Clear, page_size, offset, &none);
        }
    }
    nonsense(&setup);
    // Part by part; bits that were set stay.
    let (len, base) = (case.0, setup.rig.base);
    let dirty = setup.write_some();
    let mut bytes = vec![0; (len / MOCK_PAGE).div_ceil(8) as usize];
    let part = if case.1 { MOCK_HUGE } else { PAGE };
    for start in (0..len).step_by(part as usize).take(64) {
        let mut bitmap = DirtyBitmap::new(&mut bytes, iova(base), MOCK_PAGE).unwrap();
        setup.hwpt.read_dirty(range(base + start, part), DirtyRead::Clear, &mut bitmap).unwrap();
        let pages = start / MOCK_PAGE..(start + part) / MOCK_PAGE;
        assert!(pages.clone().all(|page| bitmap.is_dirty(iova(base + page * MOCK_PAGE)) == dirty.contains(&page)));
    }
    // What the bitmap has no bit for stays dirty.
    let dirty = setup.write_some();
    let mut few = [0; 1];
    let mut bitmap = DirtyBitmap::new(&mut few, iova(base), MOCK_PAGE).unwrap();
    setup.hwpt.read_dirty(range(base, len), DirtyRead::Clear, &mut bitmap).unwrap();
    let left = if case.1 { dirty.clone() } else { dirty.iter().copied().filter(|&page| page >= 8).collect() };
    setup.expect(DirtyRead::Clear, MOCK_PAGE, 0, &left);
    // What is not mapped is clean, and no error.
    bytes.fill(0);
    let mut bitmap = DirtyBitmap::new(&mut bytes, iova(base + len), MOCK_PAGE).unwrap();
    setup.hwpt.read_dirty(range(base + len, len), DirtyRead::Clear, &mut bitmap).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    setup.close();
}

fn nonsense(setup: &Setup) {
    let (base, mut bytes) = (setup.rig.base, [0; 64]);
    assert_eq!(errno(DirtyBitmap::new(&mut bytes, iova(base), 0)), EINVAL);
    assert_eq!(errno(DirtyBitmap::new(&mut bytes, iova(base), 3 * 4096)), EINVAL);
    assert_eq!(errno(DirtyBitmap::new(&mut bytes, iova(base + MOCK_PAGE), PAGE)), EINVAL);
    let mut bitmap = DirtyBitmap::new(&mut bytes, iova(base), PAGE).unwrap();
    for (start, len) in [(1, PAGE), (0, 1), (MOCK_PAGE, PAGE), (0, MOCK_PAGE), (0, PAGE + 1)] {
        let result = setup.hwpt.read_dirty(range(base + start, len), DirtyRead::Peek, &mut bitmap);
        assert_eq!(errno(result), EINVAL, "{start} {len}");
    }
    assert_eq!(bytes, [0; 64]);
}

fn get_dirty_bitmap_no_clear(case: Case) {
    let setup = Setup::new(case);
    setup.hwpt.set_dirty_tracking(true).unwrap();
    let flushes = setup.unit.counts().of(Call::Flush);
    for offset in OFFSETS {
        let dirty = setup.write_some();
        for page_size in page_sizes(case.0) {
            setup.expect(DirtyRead::Peek, page_size, offset, &dirty);
            setup.expect(DirtyRead::Peek, page_size, offset, &dirty);
        }
    }
    assert_eq!(setup.unit.counts().of(Call::Flush), flushes, "looking changes nothing");
    let dirty = setup.write_some();
    setup.expect(DirtyRead::Clear, MOCK_PAGE, 0, &dirty);
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &BTreeSet::new());
    // Read-only memory cannot become dirty; what is unmapped is clean when it comes back.
    setup.rig.ioas.unmap_all().unwrap();
    let read_only = setup.rig.ioas.map(&setup.source.pages, 0, case.0, at(setup.rig.base), Prot::READ).unwrap();
    assert_eq!(read_only.get(), setup.rig.base);
    setup.expect(DirtyRead::Peek, MOCK_PAGE, 0, &BTreeSet::new());
    setup.close();
}
