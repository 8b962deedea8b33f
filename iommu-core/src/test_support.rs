//! What the tests of this crate share: a platform on which the order of locks is checked, and a source of memory that
//! watches how it is treated.

extern crate std;

use crate::addr::{PhysAddr, PhysExtent};
use crate::pages::{Memory, MemoryError, MemoryKind};
use crate::sync::{self, Platform};
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::vec::Vec;

/// Numbers that threads have as CPUs, by index. A thread gives its own back when it ends.
static TAKEN: Mutex<Vec<bool>> = Mutex::new(Vec::new());

struct Cpu(usize);

impl Cpu {
    fn new() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.iter().position(|taken| !taken);
        let number = free.unwrap_or_else(|| {
            taken.push(true);
            taken.len() - 1
        });
        taken[number] = true;
        Self(number)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[self.0] = false;
    }
}

std::thread_local! {
    static CPU: Cpu = Cpu::new();
    static DICE: Cell<u32> = const { Cell::new(0) };
}

/// Makes every thread of the test a CPU of its own, so that broken lock orders panic, and lets others run now and then
/// before a lock is taken. Tests that take locks call it first; it does not matter how often.
pub(crate) fn platform() {
    sync::set_platform(Platform {
        wait: std::thread::yield_now,
        // A thread that is ending is not checked.
        cpu: || CPU.try_with(|cpu| cpu.0).unwrap_or(usize::MAX),
        before_lock: || {
            let _ = DICE.try_with(|dice| {
                // Numerical Recipes' constants.
                let mut next = dice.get();
                if next == 0 {
                    next = CPU.try_with(|cpu| cpu.0 as u32).unwrap_or(0);
                }
                dice.set(next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
                if dice.get() >> 28 == 0 {
                    std::thread::yield_now();
                }
            });
        },
    });
}

/// How a source behaves when it is asked to pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    Good,
    /// Refuses at once, copies too.
    Refuses(MemoryError),
    /// Hands over one byte less than it has, or one extent more, and says that all is well.
    TooShort,
    TooLong,
    /// As the one before, but passes the refusal on.
    TooLongButListens,
    /// Hands over a run that wraps, and says that all is well.
    Wraps,
    /// Hands everything over, but says that all is well whatever it is told.
    Deaf,
}

/// A source of memory. Panics where it is pinned twice at a time, unpinned while it is not pinned, or called with a lock
/// held.
pub(crate) struct MockMemory {
    pub(crate) extents: Vec<PhysExtent>,
    pub(crate) kind: MemoryKind,
    pub(crate) writable: bool,
    pub(crate) revocable: bool,
    pub(crate) hint: usize,
    pub(crate) manner: Mutex<Manner>,
    /// Its content.
    pub(crate) bytes: Mutex<Vec<u8>>,
    /// How often it is pinned now, and was ever.
    open: AtomicUsize,
    pins: AtomicUsize,
    /// The longest piece that was copied at once.
    pub(crate) longest: AtomicUsize,
    /// Called in the middle of whatever it is asked for.
    pub(crate) meanwhile: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl MockMemory {
    pub(crate) fn new(extents: &[PhysExtent]) -> Self {
        Self {
            extents: extents.to_vec(),
            kind: MemoryKind::Ram,
            writable: true,
            revocable: false,
            hint: extents.len(),
            manner: Mutex::new(Manner::Good),
            bytes: Mutex::new(Vec::new()),
            open: AtomicUsize::new(0),
            pins: AtomicUsize::new(0),
            longest: AtomicUsize::new(0),
            meanwhile: Mutex::new(None),
        }
    }

    /// `count` runs of `len` bytes each that do not touch, with content that can be read and written.
    pub(crate) fn scattered(count: u64, len: u64) -> Self {
        let extents: Vec<_> = (0..count).map(|run| PhysExtent::new(PhysAddr::new((2 * run + 1) * len), len)).collect();
        let memory = Self::new(&extents);
        *memory.bytes.lock().unwrap() = (0..count * len).map(|at| (at % 251) as u8).collect();
        memory
    }

    pub(crate) fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    pub(crate) fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// From now on `call` is called in the middle of whatever it is asked for.
    pub(crate) fn meanwhile(&self, call: impl Fn() + Send + Sync + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Arc::new(call));
    }

    fn call_meanwhile(&self) {
        let call = self.meanwhile.lock().unwrap().clone();
        call.inspect(|call| call());
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 1
    }

    /// How often it was pinned.
    pub(crate) fn pins(&self) -> usize {
        self.pins.load(Ordering::SeqCst)
    }

    /// The bytes of a copy; `Unsupported` where the source has no content.
    fn copy(&self, offset: u64, len: usize, each: &mut dyn FnMut(&mut [u8])) -> Result<(), MemoryError> {
        sync::assert_none_held();
        assert!(self.is_pinned(), "copied while not pinned");
        assert!(offset + len as u64 <= self.len(), "copied beyond the end");
        self.call_meanwhile();
        if let Manner::Refuses(error) = *self.manner.lock().unwrap() {
            return Err(error);
        }
        let mut bytes = self.bytes.lock().unwrap();
        let piece = bytes.get_mut(offset as usize..offset as usize + len).ok_or(MemoryError::Unsupported)?;
        each(piece);
        self.longest.fetch_max(len, Ordering::Relaxed);
        Ok(())
    }
}

impl Memory for MockMemory {
    fn len(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    fn kind(&self) -> MemoryKind {
        self.kind
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn revocable(&self) -> bool {
        self.revocable
    }

    fn extents_hint(&self) -> usize {
        self.hint
    }

    fn pin(&self, extent: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError> {
        sync::assert_none_held();
        assert_eq!(self.open.fetch_add(1, Ordering::SeqCst), 0, "pinned twice");
        std::thread::yield_now();
        self.call_meanwhile();
        let manner = *self.manner.lock().unwrap();
        let result = match manner {
            Manner::Refuses(error) => Err(error),
            Manner::Wraps => extent(PhysExtent::new(PhysAddr::new(u64::MAX), 2)),
            Manner::TooShort => self.extents.split_last().map_or(Ok(()), |(last, others)| {
                others.iter().try_for_each(|&run| extent(run))?;
                extent(PhysExtent::new(last.start, last.len - 1))
            }),
            _ => self.extents.iter().try_for_each(|&run| extent(run)),
        };
        let result = match manner {
            Manner::TooLong | Manner::TooLongButListens => extent(PhysExtent::new(PhysAddr::new(1 << 50), 1)),
            _ => result,
        };
        let result = match manner {
            Manner::Refuses(_) | Manner::Good | Manner::TooLongButListens => result,
            _ => Ok(()),
        };
        match result {
            Ok(()) => self.pins.fetch_add(1, Ordering::SeqCst),
            Err(_) => self.open.fetch_sub(1, Ordering::SeqCst),
        };
        result
    }

    fn unpin(&self) {
        sync::assert_none_held();
        std::thread::yield_now();
        self.call_meanwhile();
        assert_eq!(self.open.fetch_sub(1, Ordering::SeqCst), 1, "unpinned while not pinned");
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.copy(offset, bytes.len(), &mut |piece| bytes.copy_from_slice(piece))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        assert!(self.writable, "written to though read-only");
        self.copy(offset, bytes.len(), &mut |piece| piece.copy_from_slice(bytes))
    }
}

/// Tells threads to stop when it goes, also by a panic: else a test that fails would never end.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
