extern crate std;

use super::*;
use crate::addr::PhysExtent;
use crate::hw::Prot;
use crate::ioas::{Ioas, IoasConfig, Placement};
use crate::pages::{MemoryKind, Pages};
use crate::quota::Resource;
use crate::test_support::{Manner, MockMemory, Stop, platform};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex as StdMutex;
use std::time::Duration;
use std::vec::Vec;
use std::{thread, vec};

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

fn extent(start: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(start), len)
}

fn ioas() -> Ioas {
    platform();
    Ioas::new(IoasConfig::default()).unwrap()
}

fn map(ioas: &Ioas, memory: &Arc<MockMemory>, at: u64, prot: Prot) -> Pages {
    let pages = Pages::new(memory.clone(), None).unwrap();
    ioas.map(&pages, 0, pages.len(), Placement::Fixed(Iova::new(at)), prot).unwrap();
    pages
}

/// Pins of the area at `at`.
fn pins(ioas: &Ioas, at: u64) -> u32 {
    ioas.area(range(at, 1)).unwrap().pins
}

/// How many pins a user lets go of when it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LetsGo {
    All,
    One,
    Nothing,
    /// Of one, each time it has been told as often as this.
    OneIn(usize),
}

/// A user that keeps its pins here.
struct User {
    lets_go: StdMutex<LetsGo>,
    pins: StdMutex<Vec<Pin>>,
    told: StdMutex<Vec<IovaRange>>,
}

impl User {
    fn new(lets_go: LetsGo) -> Arc<Self> {
        let (pins, told) = Default::default();
        Arc::new(Self { lets_go: StdMutex::new(lets_go), pins, told })
    }

    fn access(self: &Arc<Self>) -> Access {
        Access::new(AccessConfig { user: Some(self.clone()), ..AccessConfig::default() }).unwrap()
    }

    fn hold(&self, pin: Pin) {
        self.pins.lock().unwrap().push(pin);
    }

    fn told(&self) -> Vec<IovaRange> {
        core::mem::take(&mut self.told.lock().unwrap())
    }
}

impl AccessUser for User {
    fn unmap(&self, range: IovaRange) {
        sync::assert_none_held();
        let told = {
            let mut told = self.told.lock().unwrap();
            told.push(range);
            told.len()
        };
        let mut pins = self.pins.lock().unwrap();
        let gone = match *self.lets_go.lock().unwrap() {
            LetsGo::All => pins.drain(..).collect(),
            LetsGo::One => pins.pop().into_iter().collect(),
            LetsGo::OneIn(count) if told % count == 0 => pins.pop().into_iter().collect(),
            LetsGo::OneIn(_) | LetsGo::Nothing => Vec::new(),
        };
        drop(pins);
        drop(gone);
    }
}

/// Physical memory from 0 on.
struct Phys(StdMutex<Vec<u8>>);

impl Phys {
    fn piece<R>(&self, phys: PhysAddr, len: usize, each: impl FnOnce(&mut [u8]) -> R) -> Result<R, MemoryError> {
        sync::assert_none_held();
        let start = phys.get() as usize;
        let mut bytes = self.0.lock().unwrap();
        bytes.get_mut(start..start + len).map(each).ok_or(MemoryError::Unavailable)
    }
}

impl PhysMemory for Phys {
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.piece(phys, bytes.len(), |piece| bytes.copy_from_slice(piece))
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.piece(phys, bytes.len(), |piece| piece.copy_from_slice(bytes))
    }
}

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed * 2 + 1;
    move |below| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[test]
fn what_an_access_is_must_make_sense() {
    for alignment in [0, 3, 8192] {
        let config = AccessConfig { alignment, ..AccessConfig::default() };
        assert!(matches!(Access::new(config).unwrap_err(), Error::Invalid(_)), "{alignment}");
    }
    let account = Account::new(Amounts { objects: 1, ..Amounts::UNLIMITED }).unwrap();
    let config = AccessConfig { account: Some(account.clone()), ..AccessConfig::default() };
    let access = Access::new(config.clone()).unwrap();
    assert_eq!(Access::new(config).unwrap_err(), Error::Quota(Resource::Objects));
    drop(access);
    assert_eq!(account.usage(), Amounts::NONE);
}

#[test]
fn bytes_are_copied_at_any_alignment_and_across_areas() {
    // Areas of 100, 7, 1 and 50 bytes behind each other, from sources and plain, of one run and several.
    let phys = Arc::new(Phys(StdMutex::new(vec![0; 4096])));
    let config = AccessConfig { phys: Some(phys.clone()), ..AccessConfig::default() };
    let access = Access::new(config).unwrap();
    let ioas = ioas();
    let sources = [MockMemory::scattered(13, 10).shared(), MockMemory::scattered(5, 10).shared()];
    let at = |iova| Placement::Fixed(Iova::new(iova));
    let part = Pages::new(sources[0].clone(), None).unwrap();
    ioas.map(&part, 20, 100, at(1000), Prot::READ_WRITE).unwrap();
    ioas.map_extents(&[extent(100, 3), extent(300, 1), extent(200, 3)], at(1100), Prot::READ_WRITE).unwrap();
    ioas.map_extents(&[extent(50, 1)], at(1107), Prot::READ_WRITE).unwrap();
    map(&ioas, &sources[1], 1108, Prot::READ_WRITE);
    access.attach(&ioas).unwrap();

    let mut oracle: Vec<u8> = (20..120u8).chain([0; 8]).chain(0..50).collect();
    let mut random = random(7);
    for round in 0..3000 {
        let from = random(158);
        let len = 1 + random(158 - from);
        let (iova, span) = (Iova::new(1000 + from), from as usize..(from + len) as usize);
        if round % 2 == 0 {
            let bytes: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
            access.write(iova, &bytes).unwrap();
            oracle[span].copy_from_slice(&bytes);
        } else {
            let mut bytes = vec![0; len as usize];
            access.read(iova, &mut bytes).unwrap();
            assert_eq!(bytes, oracle[span], "{from} {len}");
        }
    }
    // Where it went.
    let whole = sources[0].bytes.lock().unwrap().clone();
    assert_eq!((&whole[20..120], &whole[..20]), (&oracle[..100], &(0..20).collect::<Vec<u8>>()[..]));
    assert!(whole[120..].iter().copied().eq(120..130));
    assert_eq!(*sources[1].bytes.lock().unwrap(), oracle[108..]);
    let flat = phys.0.lock().unwrap();
    let plain: Vec<u8> = [100, 101, 102, 300, 200, 201, 202, 50].iter().map(|&at: &usize| flat[at]).collect();
    assert_eq!(plain, oracle[100..108]);
    assert!((0..4).all(|area| pins(&ioas, [1000, 1100, 1107, 1108][area]) == 0));
}

#[test]
fn a_copy_that_cannot_be_whole_copies_nothing() {
    let access = Access::new(AccessConfig::default()).unwrap();
    let error = |iova, len| {
        let mut bytes = vec![0xaa; len];
        let error = access.read(Iova::new(iova), &mut bytes).unwrap_err();
        assert!(bytes.iter().all(|&byte| byte == 0xaa), "something was read");
        error
    };
    assert_eq!(error(5, 1), Error::NotFound { iova: Iova::new(5) });
    let ioas = ioas();
    access.attach(&ioas).unwrap();
    let memory = MockMemory::scattered(1, 0x1000).shared();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let before = memory.bytes.lock().unwrap().clone();
    let write = |iova, len| {
        let error = access.write(Iova::new(iova), &vec![0xaa; len]).unwrap_err();
        assert_eq!(*memory.bytes.lock().unwrap(), before, "something was written");
        error
    };
    // A hole behind, before, and none of it mapped.
    assert_eq!(error(0x1ff0, 0x11), Error::NotFound { iova: Iova::new(0x2000) });
    assert_eq!(write(0x1ff0, 0x11), Error::NotFound { iova: Iova::new(0x2000) });
    assert_eq!(error(0xfff, 2), Error::NotFound { iova: Iova::new(0xfff) });
    assert_eq!(error(0x8000, 1), Error::NotFound { iova: Iova::new(0x8000) });
    // Protection.
    map(&ioas, &MockMemory::scattered(1, 0x10).shared(), 0x2000, Prot::READ);
    map(&ioas, &MockMemory::scattered(1, 0x10).shared(), 0x2010, Prot::WRITE);
    assert_eq!(write(0x1ff0, 0x11), Error::ReadOnly);
    assert_eq!(error(0x1ff0, 0x21), Error::ReadOnly);
    assert!(access.read(Iova::new(0x1ff0), &mut [0; 0x20]).is_ok());
    assert!(access.write(Iova::new(0x2010), &[0; 0x10]).is_ok());
    // Memory that nobody can copy.
    let at = |iova| Placement::Fixed(Iova::new(iova));
    ioas.map_extents(&[extent(0, 0x10)], at(0xff0), Prot::READ_WRITE).unwrap();
    assert_eq!(error(0xff0, 0x20), Error::BadMemory);
    map(&ioas, &MockMemory::new(&[extent(0, 0x10)]).shared(), 0xfe0, Prot::READ_WRITE);
    assert_eq!(error(0xfe0, 1), Error::BadMemory);
    map(&ioas, &MockMemory::scattered(1, 0x10).shared(), 0x5000, Prot::READ_WRITE);
    ioas.map_extents(&[extent(0, 0x10)], at(0x5010), Prot::READ_WRITE).unwrap();
    assert_eq!(error(0x5000, 0x20), Error::BadMemory);
    // Device memory.
    let mut bar = MockMemory::scattered(1, 0x10);
    bar.kind = MemoryKind::Mmio;
    map(&ioas, &bar.shared(), 0x3000, Prot::READ_WRITE);
    assert!(matches!(error(0x3000, 1), Error::Invalid(_)));
    // Numbers.
    assert_eq!(error(0x1000, 0), Error::Empty);
    assert_eq!(error(u64::MAX, 2), Error::Overflow { iova: Iova::new(u64::MAX) });
    assert_eq!(pins(&ioas, 0x1000) + pins(&ioas, 0x2000) + pins(&ioas, 0x3000), 0);
}

#[test]
fn a_source_that_does_not_copy_has_its_memory_copied() {
    let ioas = ioas();
    let phys = Arc::new(Phys(StdMutex::new((0..=255).collect())));
    let access = Access::new(AccessConfig { phys: Some(phys.clone()), ..AccessConfig::default() }).unwrap();
    access.attach(&ioas).unwrap();
    let memory = MockMemory::new(&[extent(0x20, 2), extent(0x40, 2)]).shared();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let mut bytes = [0; 3];
    access.read(Iova::new(0x1001), &mut bytes).unwrap();
    assert_eq!(bytes, [0x21, 0x40, 0x41]);
    access.write(Iova::new(0x1001), &[1, 2]).unwrap();
    let content = phys.0.lock().unwrap().clone();
    assert_eq!((content[0x21], content[0x40]), (1, 2));
    // One that does, and fails, has the last word.
    let refusals = [(MemoryError::Unavailable, Error::BadMemory), (MemoryError::OutOfMemory, Error::OutOfMemory)];
    for (refusal, error) in refusals {
        memory.set(Manner::Refuses(refusal));
        assert_eq!(access.read(Iova::new(0x1001), &mut bytes), Err(error));
        assert_eq!(access.write(Iova::new(0x1001), &bytes), Err(error));
    }
    assert_eq!(bytes, [0x21, 0x40, 0x41]);
}

#[test]
fn the_embedder_copies_in_chunks() {
    let memory = MockMemory::scattered(3, 100_000).shared();
    let ioas = ioas();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let access = Access::new(AccessConfig::default()).unwrap();
    access.attach(&ioas).unwrap();
    let mut bytes = vec![0; 299_999];
    access.read(Iova::new(0x1001), &mut bytes).unwrap();
    assert_eq!(bytes, memory.bytes.lock().unwrap()[1..]);
    // Whoever waits sees it get on with each.
    assert_eq!(access.0.state.lock().ended, 5);
    bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
    access.write(Iova::new(0x1001), &bytes).unwrap();
    assert_eq!(bytes, memory.bytes.lock().unwrap()[1..]);
    assert_eq!(memory.longest.load(Ordering::Relaxed), 64 << 10);
    assert_eq!(pins(&ioas, 0x1000), 0);
    // The highest addresses.
    map(&ioas, &MockMemory::scattered(1, 0x100).shared(), u64::MAX - 0xff, Prot::READ_WRITE);
    let mut bytes = [0; 0x100];
    access.read(Iova::new(u64::MAX - 0xff), &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[0xff]), (0, 4));
}

#[test]
fn a_pin_is_the_whole_range_or_nothing() {
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let user = User::new(LetsGo::All);
    let config = AccessConfig { user: Some(user), account: Some(account.clone()), ..AccessConfig::default() };
    let access = Access::new(config).unwrap();
    let idle = account.usage();
    let ioas = ioas();
    access.attach(&ioas).unwrap();
    // Each area is another part of the same memory.
    let runs: Vec<_> = (0..26).map(|run| extent(0x800 * run, 0x80)).collect();
    let pages = Pages::from_extents(&runs).unwrap();
    for area in 0..12 {
        let at = Placement::Fixed(Iova::new(0x1000 + 0x100 * area));
        ioas.map(&pages, 0x40 + 0x100 * area, 0x100, at, Prot::READ_WRITE).unwrap();
    }
    let all_pins = || (0..12).map(|area| pins(&ioas, 0x1000 + 0x100 * area)).collect::<Vec<_>>();
    for (start, len) in [(0x1000, 1), (0x1001, 0x7f), (0x1010, 0xf0), (0x10ff, 2), (0x1070, 0x210), (0x1000, 0xc00)] {
        let pin = access.pin(range(start, len), Prot::READ_WRITE).unwrap();
        assert_eq!(pin.range(), range(start, len));
        let held: Vec<_> = (start..start + len).map(|at| ioas.translate(Iova::new(at)).unwrap().get()).collect();
        let given = pin.extents().flat_map(|run| run.start.get()..run.start.get() + run.len).collect::<Vec<_>>();
        assert_eq!(given, held, "{start:#x} {len:#x}");
        let touched = |area: &u64| (0x1000 + 0x100 * area) < start + len && start < 0x1100 + 0x100 * area;
        assert_eq!(all_pins(), (0..12).map(|area| u32::from(touched(&area))).collect::<Vec<_>>());
        drop(pin);
        assert_eq!((all_pins(), account.usage()), (vec![0; 12], idle));
    }
    // A hole, and too little quota for the records.
    let error = access.pin(range(0x1000, 0xc01), Prot::READ).unwrap_err();
    assert_eq!(error, Error::NotFound { iova: Iova::new(0x1c00) });
    assert_eq!((all_pins(), account.usage()), (vec![0; 12], idle));
    let mut refused = 0;
    for metadata in (idle.metadata..idle.metadata + 4096).step_by(8) {
        account.set_limits(Amounts { metadata, ..Amounts::UNLIMITED });
        let Err(error) = access.pin(range(0x1000, 0xc00), Prot::READ) else { break };
        assert_eq!(error, Error::Quota(Resource::Metadata));
        assert_eq!((all_pins(), account.usage()), (vec![0; 12], idle));
        refused += 1;
    }
    // A pin of one area takes no memory.
    account.set_limits(Amounts { metadata: 0, ..Amounts::UNLIMITED });
    assert!(refused > 10 && access.pin(range(0x1000, 0x100), Prot::READ).is_ok());
}

#[test]
fn pins_that_may_not_be_are_refused() {
    let ioas = ioas();
    let memory = MockMemory::scattered(1, 0x1000).shared();
    map(&ioas, &memory, 0x1000, Prot::READ);
    let nobody = Access::new(AccessConfig::default()).unwrap();
    nobody.attach(&ioas).unwrap();
    assert!(matches!(nobody.pin(range(0x1000, 1), Prot::READ).unwrap_err(), Error::Invalid(_)));
    let user = User::new(LetsGo::All);
    let config = AccessConfig { user: Some(user), alignment: 0x100, ..AccessConfig::default() };
    let access = Access::new(config).unwrap();
    let error = |range, prot| access.pin(range, prot).unwrap_err();
    assert_eq!(error(range(0x1000, 0x100), Prot::READ), Error::NotFound { iova: Iova::new(0x1000) });
    access.attach(&ioas).unwrap();
    let none = Prot { read: false, write: false };
    assert_eq!(error(range(0x1000, 0x100), none), Error::Protection(none));
    assert_eq!(error(range(0x1001, 0xff), Prot::READ), Error::Misaligned { value: 0x1001, align: 0x100 });
    assert_eq!(error(range(0x1000, 0xff), Prot::READ), Error::Misaligned { value: 0x10ff, align: 0x100 });
    assert_eq!(error(range(0x1000, 0x100), Prot::WRITE), Error::ReadOnly);
    assert_eq!(error(range(0x1000, 0x100), Prot::READ_WRITE), Error::ReadOnly);
    assert_eq!(error(IovaRange::FULL, Prot::READ), Error::NotFound { iova: Iova::new(0) });
    let mut bar = MockMemory::scattered(1, 0x100);
    bar.kind = MemoryKind::Mmio;
    map(&ioas, &bar.shared(), 0x2000, Prot::READ_WRITE);
    assert!(matches!(error(range(0x2000, 0x100), Prot::READ), Error::Invalid(_)));
    assert!(matches!(error(range(0x1f00, 0x200), Prot::READ), Error::Invalid(_)));
    assert_eq!((pins(&ioas, 0x1000), pins(&ioas, 0x2000)), (0, 0));
    assert!(access.pin(range(0x1000, 0x1000), Prot::READ).is_ok());
}

#[test]
fn a_pin_is_read_and_written_inside_of_its_range() {
    let ioas = ioas();
    let sources = [MockMemory::scattered(1, 0x100).shared(), MockMemory::scattered(2, 0x80).shared()];
    map(&ioas, &sources[0], 0x1000, Prot::READ_WRITE);
    map(&ioas, &sources[1], 0x1100, Prot::READ_WRITE);
    map(&ioas, &MockMemory::scattered(1, 0x100).shared(), 0x1200, Prot::READ_WRITE);
    let access = User::new(LetsGo::All).access();
    access.attach(&ioas).unwrap();
    let pin = access.pin(range(0x1080, 0x180), Prot::READ_WRITE).unwrap();
    pin.write(0x7e, &[1, 2, 3, 4]).unwrap();
    assert_eq!(
        (sources[0].bytes.lock().unwrap()[0xfe..].to_vec(), sources[1].bytes.lock().unwrap()[..2].to_vec()),
        (vec![1, 2], vec![3, 4])
    );
    let mut bytes = [0; 4];
    pin.read(0x7d, &mut bytes).unwrap();
    assert_eq!(bytes, [(0xfd % 251) as u8, 1, 2, 3]);
    assert!(pin.read(0x17c, &mut bytes).is_ok());
    assert_eq!(bytes, [0xfc - 251, 0xfd - 251, 0xfe - 251, 0xff - 251]);
    let beyond = Error::NotFound { iova: Iova::new(0x1200) };
    for offset in [0x17d, 0x180, u64::MAX - 1, u64::MAX] {
        let mut bytes = [0xaa; 4];
        assert_eq!(pin.read(offset, &mut bytes).unwrap_err(), beyond);
        assert_eq!(bytes, [0xaa; 4]);
        assert_eq!(pin.write(offset, &bytes).unwrap_err(), beyond);
    }
    assert_eq!(pin.read(0, &mut []).unwrap_err(), Error::Empty);
    // Each byte by itself, in a pin that ends inside of an area.
    let pin = access.pin(range(0x10f0, 0x190), Prot::READ).unwrap();
    for offset in 0..0x190 {
        let (mut one, mut other) = ([0], [1]);
        pin.read(offset, &mut one).unwrap();
        access.read(Iova::new(0x10f0 + offset), &mut other).unwrap();
        assert_eq!(one, other, "{offset:#x}");
    }
    assert!(pin.read(0x190, &mut [0]).is_err());
    let read_only = access.pin(range(0x1000, 1), Prot::READ).unwrap();
    assert_eq!(read_only.write(0, &[1]).unwrap_err(), Error::ReadOnly);
    let write_only = access.pin(range(0x1000, 1), Prot::WRITE).unwrap();
    assert_eq!(write_only.read(0, &mut [0]).unwrap_err(), Error::ReadOnly);
}

#[test]
fn an_unmap_has_pins_let_go_of_or_fails() {
    let ioas = ioas();
    let memory = MockMemory::scattered(1, 0x1000).shared();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let user = User::new(LetsGo::Nothing);
    let access = user.access();
    access.attach(&ioas).unwrap();
    user.hold(access.pin(range(0x1800, 0x10), Prot::READ).unwrap());
    assert_eq!(ioas.unmap(range(0x1000, 0x1000)).unwrap_err(), Error::Deadlock);
    assert!(user.told().len() >= 100 && pins(&ioas, 0x1000) == 1 && memory.is_pinned());
    // All is as before.
    user.hold(access.pin(range(0x1000, 0x10), Prot::READ).unwrap());
    *user.lets_go.lock().unwrap() = LetsGo::One;
    assert_eq!(ioas.unmap(range(0x1000, 0x1000)), Ok(0x1000));
    assert_eq!(user.told(), [range(0x1000, 0x1000); 2]);
    assert!(!memory.is_pinned() && user.pins.lock().unwrap().is_empty());

    // Who has nothing pinned is not told.
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let idler = User::new(LetsGo::All);
    let idle = idler.access();
    idle.attach(&ioas).unwrap();
    user.hold(access.pin(range(0x1000, 0x10), Prot::READ).unwrap());
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert_eq!((user.told().len(), idler.told()), (1, vec![]));
}

#[test]
fn who_unmaps_waits_for_a_copy() {
    let ioas = ioas();
    let memory = MockMemory::scattered(1, 0x1000).shared();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let access = Access::new(AccessConfig::default()).unwrap();
    access.attach(&ioas).unwrap();
    let copying = Arc::new(AtomicBool::new(false));
    let seen = copying.clone();
    memory.meanwhile(move || {
        seen.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
    });
    thread::scope(|scope| {
        scope.spawn(|| access.read(Iova::new(0x1000), &mut [0]).unwrap());
        while !copying.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        assert_eq!(ioas.unmap_all(), Ok(0x1000));
        assert!(!memory.is_pinned());
    });
}

#[test]
fn a_copy_lets_an_unmap_through_between_its_chunks() {
    const LEN: usize = 50 * (64 << 10);
    let ioas = ioas();
    let mut memory = MockMemory::new(&[extent(0, LEN as u64)]);
    *memory.bytes.get_mut().unwrap() = vec![7; LEN];
    let memory = memory.shared();
    map(&ioas, &memory, 0, Prot::READ_WRITE);
    let access = Access::new(AccessConfig::default()).unwrap();
    access.attach(&ioas).unwrap();
    let chunks = Arc::new(AtomicUsize::new(0));
    let seen = chunks.clone();
    memory.meanwhile(move || {
        seen.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(4));
    });
    thread::scope(|scope| {
        let copying = scope.spawn(|| {
            let mut bytes = vec![0; LEN];
            let error = access.read(Iova::new(0), &mut bytes).unwrap_err();
            assert!(matches!(error, Error::Busy | Error::NotFound { .. }), "{error}");
            bytes.iter().filter(|&&byte| byte == 7).count()
        });
        while chunks.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert_eq!(ioas.unmap_all(), Ok(LEN as u64));
        assert!(!memory.is_pinned());
        // Whole chunks, from the start, and not all.
        let copied = copying.join().unwrap();
        assert!(copied > 0 && copied < LEN && copied % (64 << 10) == 0, "{copied}");
    });
}

#[test]
fn who_detaches_waits_for_all_of_a_copy() {
    // More chunks than there are rounds.
    const LEN: usize = 120 * (64 << 10);
    let ioas = ioas();
    let mut memory = MockMemory::new(&[extent(0, LEN as u64)]);
    *memory.bytes.get_mut().unwrap() = vec![7; LEN];
    let memory = memory.shared();
    map(&ioas, &memory, 0, Prot::READ_WRITE);
    let access = Access::new(AccessConfig::default()).unwrap();
    access.attach(&ioas).unwrap();
    let chunks = Arc::new(AtomicUsize::new(0));
    let seen = chunks.clone();
    memory.meanwhile(move || {
        seen.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(4));
    });
    thread::scope(|scope| {
        let copying = scope.spawn(|| {
            let mut bytes = vec![0; LEN];
            access.read(Iova::new(0), &mut bytes).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 7));
        });
        while chunks.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        access.detach().unwrap();
        assert_eq!(chunks.load(Ordering::SeqCst), 120);
        copying.join().unwrap();
    });
}

#[test]
fn a_copy_that_waits_for_its_own_end_is_told_so() {
    let ioas = ioas();
    let memory = MockMemory::scattered(1, 0x1000).shared();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let access = Arc::new(Access::new(AccessConfig::default()).unwrap());
    access.attach(&ioas).unwrap();
    let (inner, outcome) = (Arc::downgrade(&access), Arc::new(StdMutex::new(None)));
    let seen = outcome.clone();
    memory.meanwhile(move || *seen.lock().unwrap() = inner.upgrade().map(|access| access.detach()));
    access.read(Iova::new(0x1000), &mut [0]).unwrap();
    assert_eq!(*outcome.lock().unwrap(), Some(Err(Error::Deadlock)));
    *memory.meanwhile.lock().unwrap() = None;
    assert!(access.read(Iova::new(0x1000), &mut [0]).is_ok() && access.detach().is_ok());
}

#[test]
fn detaching_has_everything_let_go_of_or_changes_nothing() {
    let (ioas, other) = (ioas(), self::ioas());
    let memory = MockMemory::scattered(1, 0x1000).shared();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let user = User::new(LetsGo::Nothing);
    let access = user.access();
    // Nothing to detach, nothing to replace.
    access.detach().unwrap();
    assert_eq!(access.replace(&ioas).unwrap_err(), Error::NoSuchObject);
    access.attach(&ioas).unwrap();
    assert!(matches!(access.attach(&other).unwrap_err(), Error::Invalid(_)));
    assert!(matches!(access.attach(&ioas).unwrap_err(), Error::Invalid(_)));
    user.hold(access.pin(range(0x1000, 0x10), Prot::READ).unwrap());
    access.replace(&ioas).unwrap();
    assert!(user.told().is_empty(), "nothing was to be done");
    type Change<'a> = &'a dyn Fn() -> Result<(), Error>;
    let changes: [Change<'_>; 2] = [&|| access.detach(), &|| access.replace(&other)];
    for change in changes {
        assert_eq!(change().unwrap_err(), Error::Deadlock);
        assert_eq!(user.told(), [IovaRange::FULL; 100]);
        // Attached as before, to the old one and to it alone.
        assert!(access.read(Iova::new(0x1000), &mut [0]).is_ok() && pins(&ioas, 0x1000) == 1);
        assert_eq!(Shared::owners(&access.0), 3, "the handle, the pin and one address space");
    }
    // As long as something goes, however slowly, it goes on.
    *user.lets_go.lock().unwrap() = LetsGo::OneIn(50);
    (0..4).for_each(|_| user.hold(access.pin(range(0x1000, 0x10), Prot::READ).unwrap()));
    access.replace(&other).unwrap();
    assert_eq!((user.told().len(), pins(&ioas, 0x1000)), (250, 0));
    assert_eq!(access.read(Iova::new(0x1000), &mut [0]).unwrap_err(), Error::NotFound { iova: Iova::new(0x1000) });
    access.replace(&ioas).unwrap();
    assert!(access.read(Iova::new(0x1000), &mut [0]).is_ok() && user.told().is_empty());
    access.detach().unwrap();
    assert!(matches!(access.read(Iova::new(0x1000), &mut [0]).unwrap_err(), Error::NotFound { .. }));
    assert_eq!(Shared::owners(&access.0), 1);
    drop(ioas);
    assert!(!memory.is_pinned());
}

#[test]
fn alignment_is_a_condition_and_a_consequence() {
    let (even, uneven) = (ioas(), ioas());
    map(&uneven, &MockMemory::scattered(1, 0x10).shared(), 0x10, Prot::READ_WRITE);
    map(&even, &MockMemory::scattered(1, 0x100).shared(), 0x100, Prot::READ_WRITE);
    let access = Access::new(AccessConfig { alignment: 0x100, ..AccessConfig::default() }).unwrap();
    assert_eq!(access.attach(&uneven).unwrap_err(), Error::AddressInUse { range: range(0x10, 0x10) });
    access.attach(&even).unwrap();
    assert_eq!((even.alignment(), uneven.alignment()), (0x100, 1));
    assert_eq!(access.replace(&uneven).unwrap_err(), Error::AddressInUse { range: range(0x10, 0x10) });
    assert!(access.read(Iova::new(0x1ff), &mut [0]).is_ok());
    uneven.unmap_all().unwrap();
    access.replace(&uneven).unwrap();
    assert_eq!((even.alignment(), uneven.alignment()), (1, 0x100));
    drop(access);
    assert_eq!(uneven.alignment(), 1);
}

/// A user that looks at what it may do while it is told.
struct Curious {
    access: StdMutex<Option<Access>>,
    pin: StdMutex<Option<Pin>>,
    told: AtomicUsize,
}

impl AccessUser for Curious {
    fn unmap(&self, _: IovaRange) {
        let access = self.access.lock().unwrap();
        let access = access.as_ref().unwrap();
        assert_eq!(access.pin(range(0x1000, 1), Prot::READ).unwrap_err(), Error::Busy);
        assert_eq!(access.read(Iova::new(0x1000), &mut [0]).unwrap_err(), Error::Busy);
        assert_eq!(access.detach().unwrap_err(), Error::Busy);
        let mut pin = self.pin.lock().unwrap();
        // What is pinned can still be used.
        pin.as_ref().unwrap().read(0, &mut [0]).unwrap();
        *pin = None;
        self.told.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nothing_new_begins_while_it_is_detached() {
    let ioas = ioas();
    map(&ioas, &MockMemory::scattered(1, 0x1000).shared(), 0x1000, Prot::READ_WRITE);
    let curious =
        Arc::new(Curious { access: StdMutex::new(None), pin: StdMutex::new(None), told: AtomicUsize::new(0) });
    let config = AccessConfig { user: Some(curious.clone()), ..AccessConfig::default() };
    let access = Access::new(config).unwrap();
    access.attach(&ioas).unwrap();
    *curious.pin.lock().unwrap() = Some(access.pin(range(0x1000, 1), Prot::READ).unwrap());
    *curious.access.lock().unwrap() = Some(Access(access.0.clone()));
    access.detach().unwrap();
    assert_eq!(curious.told.load(Ordering::Relaxed), 1);
    // Both own each other.
    *curious.access.lock().unwrap() = None;
}

#[test]
fn pins_outlive_the_handle() {
    let ioas = ioas();
    let memory = MockMemory::scattered(1, 0x1000).shared();
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let user = User::new(LetsGo::Nothing);
    let config = AccessConfig {
        user: Some(user.clone()),
        alignment: 0x100,
        account: Some(account.clone()),
        ..AccessConfig::default()
    };
    let access = Access::new(config).unwrap();
    access.attach(&ioas).unwrap();
    let pins: Vec<_> = (0..2).map(|_| access.pin(range(0x1000, 0x100), Prot::READ_WRITE).unwrap()).collect();
    drop(access);
    assert!(user.told().is_empty(), "dropping tells nobody");
    pins[0].write(1, &[9]).unwrap();
    assert_eq!(ioas.alignment(), 0x100);
    for pin in pins {
        // Somebody could still let go, so is told.
        assert_eq!(ioas.unmap(range(0x1000, 0x1000)).unwrap_err(), Error::Deadlock);
        assert!(!user.told().is_empty());
        drop(pin);
    }
    assert_eq!((ioas.alignment(), account.usage(), Arc::strong_count(&user)), (1, Amounts::NONE, 1));
    assert_eq!(ioas.unmap(range(0x1000, 0x1000)), Ok(0x1000));
    assert!(!memory.is_pinned() && user.told().is_empty());

    // The same where the address space's handle goes first.
    map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let access = user.access();
    access.attach(&ioas).unwrap();
    let pin = access.pin(range(0x1000, 0x100), Prot::READ).unwrap();
    drop((ioas, access));
    assert!(memory.is_pinned() && pin.read(0, &mut [0]).is_ok());
    drop(pin);
    assert!(!memory.is_pinned() && Arc::strong_count(&user) == 1);
}

#[test]
fn revoked_memory_is_let_go_of_and_cannot_be_read() {
    let ioas = ioas();
    let mut memory = MockMemory::scattered(1, 0x1000);
    memory.revocable = true;
    let memory = memory.shared();
    let pages = map(&ioas, &memory, 0x1000, Prot::READ_WRITE);
    let user = User::new(LetsGo::Nothing);
    let access = user.access();
    access.attach(&ioas).unwrap();
    user.hold(access.pin(range(0x1000, 0x10), Prot::READ).unwrap());
    assert_eq!(pages.revoke().unwrap_err(), Error::Deadlock);
    assert!(memory.is_pinned() && pages.is_revoked());
    *user.lets_go.lock().unwrap() = LetsGo::All;
    pages.revoke().unwrap();
    assert!(!memory.is_pinned() && user.pins.lock().unwrap().is_empty());
    assert_eq!(access.read(Iova::new(0x1000), &mut [0]).unwrap_err(), Error::Revoked);
    assert_eq!(access.pin(range(0x1000, 1), Prot::READ).unwrap_err(), Error::Revoked);
    assert!(ioas.area(IovaRange::FULL).unwrap().revoked);
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    drop(pages);
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn copies_and_pins_among_unmaps() {
    let ioas = ioas();
    let memory = MockMemory::scattered(2, 0x1000).shared();
    let pages = Pages::new(memory.clone(), None).unwrap();
    let done = AtomicBool::new(false);
    let user = User::new(LetsGo::All);
    let [access, copier] = [user.access(), Access::new(AccessConfig::default()).unwrap()];
    access.attach(&ioas).unwrap();
    copier.attach(&ioas).unwrap();
    let (pinned, copied) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (ioas, done, user, access, copier) = (&ioas, &done, &user, &access, &copier);
        let (pinned, copied) = (&pinned, &copied);
        let may_be = |error| matches!(error, Error::NotFound { .. } | Error::Busy);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                match access.pin(range(0x1000, 0x1800), Prot::READ) {
                    Ok(pin) => {
                        let mut bytes = [0; 2];
                        pin.read(0xfff, &mut bytes).unwrap();
                        assert_eq!(bytes, [(0xfff % 251) as u8, (0x1000 % 251) as u8]);
                        user.hold(pin);
                        pinned.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => assert!(may_be(error), "{error}"),
                }
                if pinned.load(Ordering::Relaxed) % 3 == 0 {
                    user.pins.lock().unwrap().pop();
                }
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let mut bytes = [0; 0x20];
                match copier.read(Iova::new(0x2ff0), &mut bytes) {
                    Ok(()) => _ = copied.fetch_add(1, Ordering::Relaxed),
                    Err(error) => assert!(may_be(error), "{error}"),
                }
            }
        });
        let stop = Stop(done);
        for round in 0..1_000_000 {
            if round > 400 && pinned.load(Ordering::Relaxed).min(copied.load(Ordering::Relaxed)) > 10 {
                break;
            }
            ioas.map(&pages, 0, 0x2000, Placement::Fixed(Iova::new(0x1000)), Prot::READ_WRITE).unwrap();
            let rest = ioas.map(&pages, 0, 0x100, Placement::Fixed(Iova::new(0x3000)), Prot::READ_WRITE);
            rest.unwrap();
            (0..20).for_each(|_| thread::yield_now());
            assert_eq!(ioas.unmap(range(0x1000, 0x2100)), Ok(0x2100));
        }
        drop(stop);
    });
    user.pins.lock().unwrap().clear();
    assert!(!memory.is_pinned() && memory.pins() >= 1);
    assert!(pinned.load(Ordering::Relaxed) > 10 && copied.load(Ordering::Relaxed) > 10);
}

#[test]
fn copies_and_pins_among_replaces() {
    let spaces = [ioas(), ioas()];
    let memory = [MockMemory::scattered(1, 0x1000).shared(), MockMemory::scattered(1, 0x1000).shared()];
    (0..2).for_each(|at| {
        memory[at].bytes.lock().unwrap().fill(at as u8);
        map(&spaces[at], &memory[at], 0x1000, Prot::READ_WRITE);
    });
    let user = User::new(LetsGo::All);
    let access = user.access();
    access.attach(&spaces[0]).unwrap();
    let done = AtomicBool::new(false);
    let used = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (done, user, access, used) = (&done, &user, &access, &used);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let mut bytes = [0; 8];
                match access.read(Iova::new(0x1100), &mut bytes) {
                    Ok(()) => assert!(bytes == [0; 8] || bytes == [1; 8]),
                    Err(error) => assert_eq!(error, Error::Busy),
                }
                match access.pin(range(0x1000, 0x800), Prot::READ) {
                    Ok(pin) => {
                        used.fetch_add(1, Ordering::Relaxed);
                        user.hold(pin);
                    }
                    Err(error) => assert_eq!(error, Error::Busy),
                }
            }
        });
        let stop = Stop(done);
        for round in 1..1_000_000 {
            if round > 1000 && used.load(Ordering::Relaxed) > 10 {
                break;
            }
            access.replace(&spaces[round % 2]).unwrap();
            // Nothing is left of what was pinned in the other one.
            assert_eq!(pins(&spaces[(round + 1) % 2], 0x1000), 0);
            let mut bytes = [9; 8];
            access.read(Iova::new(0x1000), &mut bytes).unwrap();
            assert_eq!(bytes, [(round % 2) as u8; 8]);
        }
        drop(stop);
    });
    assert!(used.load(Ordering::Relaxed) > 10);
    user.pins.lock().unwrap().clear();
    drop((spaces, access));
    assert!(memory.iter().all(|memory| !memory.is_pinned()));
}
