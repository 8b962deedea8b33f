//! Memory sources.

use super::{Call, Event, Outside, Script, World, lock, violation};
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_core::hw::{HwError, unique_number};
use iommu_core::pages::{Memory, MemoryError, MemoryKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// How memory lies in the physical address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// In one run, at a multiple of this.
    Contiguous(u64),
    /// In runs of this many bytes, none next to another.
    Scattered(u64),
}

/// What memory is to be.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// Length in bytes.
    pub len: u64,
    /// How it lies.
    pub layout: Layout,
    /// Whether it may be written.
    pub writable: bool,
    /// What it is.
    pub kind: MemoryKind,
    /// Whether its owner may take it back.
    pub revocable: bool,
}

impl MemoryConfig {
    /// `len` bytes of ordinary memory in pages of 4 KiB, none next to another.
    pub const fn scattered(len: u64) -> Self {
        Self { len, layout: Layout::Scattered(4096), writable: true, kind: MemoryKind::Ram, revocable: false }
    }

    /// `len` bytes of ordinary memory in one run, at a multiple of `align`.
    pub const fn contiguous(len: u64, align: u64) -> Self {
        Self { len, layout: Layout::Contiguous(align), writable: true, kind: MemoryKind::Ram, revocable: false }
    }

    /// The same, not writable.
    pub const fn read_only(self) -> Self {
        Self { writable: false, ..self }
    }

    /// The same, on loan.
    pub const fn revocable(self) -> Self {
        Self { revocable: true, ..self }
    }

    /// The same as memory of a device.
    pub const fn mmio(self) -> Self {
        Self { kind: MemoryKind::Mmio, ..self }
    }
}

/// A source of memory with real bytes behind it.
pub struct MockMemory {
    world: World,
    number: u64,
    config: MemoryConfig,
    extents: Arc<Vec<PhysExtent>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    pinned: AtomicBool,
    gone: AtomicBool,
    /// Times that it was pinned.
    pins: AtomicU64,
    script: Script,
    /// A pin that is to fail does so after this many extents.
    fail_after: AtomicU64,
}

impl MockMemory {
    /// Memory of `world`, all zeros.
    pub fn new(world: &World, config: MemoryConfig) -> Arc<Self> {
        let extents = match config.layout {
            Layout::Contiguous(align) => vec![world.phys(config.len, align)],
            Layout::Scattered(run) => {
                let starts = (0..config.len).step_by(run as usize);
                let mut runs: Vec<_> =
                    starts.map(|at| world.phys(run.min(config.len - at), run & run.wrapping_neg())).collect();
                // What follows in the memory lies before in the physical address space, but for the last run, which may
                // be shorter.
                let whole = (config.len / run) as usize;
                runs[..whole].reverse();
                runs
            }
        };
        world.own(&extents);
        let bytes = Arc::default();
        Self::of(world, config, Arc::new(extents), bytes)
    }

    fn of(world: &World, config: MemoryConfig, extents: Arc<Vec<PhysExtent>>, bytes: Arc<Mutex<Vec<u8>>>) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            number: unique_number(),
            config,
            extents,
            bytes,
            pinned: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            pins: AtomicU64::new(0),
            script: Script::default(),
            fail_after: AtomicU64::new(0),
        })
    }

    /// Another source of the same memory: pinned on its own.
    pub fn alias(&self) -> Arc<Self> {
        Self::of(&self.world, self.config, self.extents.clone(), self.bytes.clone())
    }

    /// What names it in [`Event`]s.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Which of its calls fail. Any error stands for [`MemoryError::Unavailable`], but for [`HwError::OutOfMemory`].
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// A pin that is to fail hands over this many extents before.
    pub fn fail_after(&self, extents: u64) {
        self.fail_after.store(extents, Ordering::Relaxed);
    }

    /// Pins fail from now on, and so do reads and writes.
    pub fn go(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether it is pinned.
    pub fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Acquire)
    }

    /// How often it was pinned so far.
    pub fn pins(&self) -> u64 {
        self.pins.load(Ordering::Relaxed)
    }

    /// Its runs, in order.
    pub fn extents(&self) -> &[PhysExtent] {
        &self.extents
    }

    /// The physical address of the byte at `offset`.
    pub fn phys(&self, offset: u64) -> PhysAddr {
        let mut left = offset;
        for extent in self.extents.iter() {
            if left < extent.len {
                return extent.start.wrapping_add(left);
            }
            left -= extent.len;
        }
        panic!("{offset:#x} is beyond the memory's end");
    }

    /// The offset of the byte at `phys`, where it is this memory's.
    pub fn offset_of(&self, phys: PhysAddr) -> Option<u64> {
        let mut at = 0;
        for extent in self.extents.iter() {
            let inside = phys.get().wrapping_sub(extent.start.get());
            if inside < extent.len {
                return Some(at + inside);
            }
            at += extent.len;
        }
        None
    }

    /// Its bytes, which are there once they are asked for.
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        let mut bytes = lock(&self.bytes);
        bytes.resize(self.config.len as usize, 0);
        bytes
    }

    /// Its bytes, as its owner reads them.
    pub fn peek(&self, offset: u64, len: u64) -> Vec<u8> {
        self.bytes()[offset as usize..(offset + len) as usize].to_vec()
    }

    /// Its bytes, as its owner writes them.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.bytes()[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Fills it with bytes that differ from place to place.
    pub fn fill(&self) {
        for (at, byte) in self.bytes().iter_mut().enumerate() {
            *byte = (at as u32).wrapping_mul(0x9e37_79b1).to_be_bytes()[0];
        }
    }

    fn check(&self, call: Call, offset: u64, len: usize) -> Result<(), MemoryError> {
        if !self.is_pinned() {
            violation(format_args!("{call:?} of memory that is not pinned"));
        }
        if offset.checked_add(len as u64).is_none_or(|end| end > self.config.len) {
            violation(format_args!("{call:?} of {len} bytes at {offset:#x}, beyond the memory's end"));
            return Err(MemoryError::Unavailable);
        }
        if self.gone.load(Ordering::Relaxed) || self.config.kind == MemoryKind::Mmio {
            violation(format_args!("{call:?} of memory that is revoked or a device's"));
        }
        self.script.next(call).map_err(|(error, _)| reason(error))
    }
}

fn reason(error: HwError) -> MemoryError {
    match error {
        HwError::OutOfMemory => MemoryError::OutOfMemory,
        HwError::Unsupported(_) => MemoryError::Unsupported,
        _ => MemoryError::Unavailable,
    }
}

impl Memory for MockMemory {
    fn len(&self) -> u64 {
        self.config.len
    }

    fn kind(&self) -> MemoryKind {
        self.config.kind
    }

    fn writable(&self) -> bool {
        self.config.writable
    }

    fn revocable(&self) -> bool {
        self.config.revocable
    }

    fn extents_hint(&self) -> usize {
        self.extents.len()
    }

    fn pin(&self, extent: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError> {
        let failure = {
            let _outside = Outside::enter();
            if self.pinned.swap(true, Ordering::AcqRel) {
                violation(format_args!("memory is pinned twice"));
            }
            self.pins.fetch_add(1, Ordering::Relaxed);
            self.world.note(Event::Pin { memory: self.number });
            let gone = self.gone.load(Ordering::Relaxed);
            let failure = self.script.next(Call::Pin).err().map(|(error, _)| reason(error));
            failure.or(gone.then_some(MemoryError::Unavailable))
        };
        // Pinned page by page, as it is handed over.
        let mut handed = 0;
        let mut result = Ok(());
        for part in self.extents.iter() {
            if let Some(error) = failure
                && handed as u64 >= self.fail_after.load(Ordering::Relaxed)
            {
                result = Err(error);
                break;
            }
            {
                let _outside = Outside::enter();
                self.world.pin(&[*part]);
            }
            handed += 1;
            result = extent(*part);
            if result.is_err() {
                break;
            }
        }
        let _outside = Outside::enter();
        let result = result.and(failure.map_or(Ok(()), Err));
        if result.is_err() {
            // It was never handed over whole, so nothing can be mapped yet.
            self.world.unpin(&self.extents[..handed], true);
            self.world.note(Event::Unpin { memory: self.number });
            self.pinned.store(false, Ordering::Release);
        }
        result
    }

    fn unpin(&self) {
        let _outside = Outside::enter();
        if !self.pinned.swap(false, Ordering::AcqRel) {
            violation(format_args!("memory is unpinned that is not pinned"));
            return;
        }
        self.world.note(Event::Unpin { memory: self.number });
        self.world.unpin(&self.extents, true);
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let _outside = Outside::enter();
        self.check(Call::Read, offset, bytes.len())?;
        bytes.copy_from_slice(&self.bytes()[offset as usize..offset as usize + bytes.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let _outside = Outside::enter();
        self.check(Call::Write, offset, bytes.len())?;
        if !self.config.writable {
            violation(format_args!("a write to read-only memory"));
        }
        self.bytes()[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl Drop for MockMemory {
    fn drop(&mut self) {
        if *self.pinned.get_mut() {
            violation(format_args!("a source goes while it is pinned"));
        }
    }
}
