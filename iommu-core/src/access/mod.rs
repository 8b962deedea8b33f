//! Software users of an address space: emulated devices, mediated devices without isolation in hardware.
//!
//! An [`Access`] is attached to one address space at a time, as a device is. It copies bytes ([`Access::read`],
//! [`Access::write`]) at any alignment and across areas, or pins a range ([`Access::pin`]) to work on it for longer.
//! Whatever is pinned stays mapped: who unmaps it, detaches the access or moves it elsewhere, has the access's
//! [`AccessUser`] told first, and fails with [`Error::Deadlock`] where it does not let go.
//!
//! Nobody is given a reference into a partition's memory: bytes are copied, by the memory's own source
//! ([`Memory::read`](crate::pages::Memory::read)) or, where there is only a physical address, by the embedder's
//! [`PhysMemory`].
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | a copy that meets an unmap half-way | ends with an error, and a prefix copied |
//! | bytes copied by one call of the embedder | at most 64 KiB |
//! | device memory ([`MemoryKind::Mmio`](crate::pages::MemoryKind)) | neither copied nor pinned |
//!
//! # Example
//!
//! ```
//! use iommu_core::access::{Access, AccessConfig, PhysMemory};
//! use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
//! use iommu_core::hw::Prot;
//! use iommu_core::ioas::{Ioas, IoasConfig, Placement};
//! use iommu_core::pages::MemoryError;
//! use std::sync::Arc;
//!
//! /// Memory that holds the low byte of each address, for ever.
//! struct Pattern;
//!
//! impl PhysMemory for Pattern {
//!     fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
//!         bytes.iter_mut().zip(phys.get()..).for_each(|(byte, at)| *byte = at as u8);
//!         Ok(())
//!     }
//!
//!     fn write(&self, _: PhysAddr, _: &[u8]) -> Result<(), MemoryError> {
//!         Err(MemoryError::Unsupported)
//!     }
//! }
//!
//! let ioas = Ioas::new(IoasConfig::default())?;
//! let two = [PhysExtent::new(PhysAddr::new(0x8000), 0x80), PhysExtent::new(PhysAddr::new(0x4000), 0x80)];
//! ioas.map_extents(&two, Placement::Fixed(Iova::new(0x1000)), Prot::READ)?;
//!
//! let access = Access::new(AccessConfig { phys: Some(Arc::new(Pattern)), ..AccessConfig::default() })?;
//! access.attach(&ioas)?;
//! let mut bytes = [0; 4];
//! access.read(Iova::new(0x107e), &mut bytes)?;
//! assert_eq!(bytes, [0x7e, 0x7f, 0, 1]);
//! # Ok::<(), iommu_core::Error>(())
//! ```

mod attach;
mod copy;
mod pin;
#[cfg(test)]
mod tests;

pub use pin::Pin;

use crate::addr::{Iova, IovaRange, PAGE_SIZE, PhysAddr};
use crate::error::Error;
use crate::ioas;
use crate::pages::MemoryError;
use crate::quota::{Account, Amounts, Ledger, transfer};
use crate::sync::{self, Mutex, Rank};
use alloc::sync::Arc;
use core::fmt;
use core::mem::size_of;
use iommu_alloc::Shared;

/// The embedder's side of an access. Called without any lock of this crate held.
pub trait AccessUser: Send + Sync {
    /// Whatever is pinned in `range` is to be let go of, before this returns if possible: drop the [`Pin`]s.
    ///
    /// May come more than once for the same range, from several CPUs, and where nothing is pinned any more.
    fn unmap(&self, range: IovaRange);
}

/// Reads and writes physical memory that has no source: what was mapped as plain extents. Called without any lock of this
/// crate held, and while the memory is mapped; it must not unmap anything itself.
pub trait PhysMemory: Send + Sync {
    /// Copies from physical address `phys` on.
    ///
    /// # Errors
    ///
    /// [`MemoryError`], where the embedder knows of no such memory.
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies to physical address `phys` on.
    ///
    /// # Errors
    ///
    /// As for [`PhysMemory::read`].
    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError>;
}

/// What an access is to be.
#[derive(Clone)]
pub struct AccessConfig {
    /// Who is told of unmaps. Without one nothing can be pinned, only read and written. It should not own the access,
    /// which owns it.
    pub user: Option<Arc<dyn AccessUser>>,
    /// What pins, and all areas of the address space, are multiples of, in bytes: a power of two, at most
    /// [`PAGE_SIZE`]. Copies are free of it.
    pub alignment: u64,
    /// Copies memory that has no source. Without one, such memory can be pinned, but neither read nor written.
    pub phys: Option<Arc<dyn PhysMemory>>,
    /// Who pays for the access and the records of its pins.
    pub account: Option<Account>,
}

impl Default for AccessConfig {
    /// Nobody is told, nobody pays, and any alignment will do.
    fn default() -> Self {
        Self { user: None, alignment: 1, phys: None, account: None }
    }
}

/// An access. Dropped, it detaches; pins that are still held then stay valid, and it stays with the address space until the
/// last of them is dropped.
pub struct Access(Shared<AccessInner>);

impl Access {
    /// An access that is not attached.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an alignment that is no power of two or larger than [`PAGE_SIZE`]; [`Error::Quota`],
    /// [`Error::OutOfMemory`].
    pub fn new(config: AccessConfig) -> Result<Self, Error> {
        let AccessConfig { user, alignment, phys, account } = config;
        if !alignment.is_power_of_two() || alignment > PAGE_SIZE {
            return Err(Error::Invalid("the alignment is no power of two, or larger than a page"));
        }
        let ledger = Ledger::new(account);
        let metadata = (size_of::<AccessInner>() + size_of::<usize>()) as u64;
        ledger.charge(Amounts { metadata, objects: 1, ..Amounts::NONE })?;
        let state = Mutex::new(Rank::Space, State::default());
        Ok(Self(Shared::try_new(AccessInner { user, alignment, phys, ledger, state })?))
    }

    /// Moves its cost to another account, that of its pins too.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`], [`Error::Busy`]; [`Error::Invalid`] where it was made without an account. Nothing has changed.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        transfer(&[self.ledger()], to)
    }

    /// What moves its costs together with those of others.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("alignment", &self.0.alignment).finish_non_exhaustive()
    }
}

/// What the handle, the pins and the address space share.
pub(crate) struct AccessInner {
    user: Option<Arc<dyn AccessUser>>,
    alignment: u64,
    phys: Option<Arc<dyn PhysMemory>>,
    ledger: Ledger,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    space: Option<Shared<ioas::Inner>>,
    /// It is being attached, moved or detached: nothing new is begun.
    changing: bool,
    /// The handle is gone; the last pin detaches.
    orphan: bool,
    /// Pins that are held.
    pins: usize,
    /// Operations that were begun and that have ended, since ever, modulo 2^64: pins being made, chunks being copied.
    /// Never wraps apart: there are no 2^63 at a time.
    begun: u64,
    ended: u64,
}

/// How long, in turns of [`sync::relax`], one notification waits for what is being copied.
const PATIENCE: u32 = 1 << 12;

impl AccessInner {
    /// What areas must be multiples of for this access, in bytes.
    pub(crate) fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Tells the embedder that `range` goes, and waits for a while for operations that are under way. No lock is held.
    pub(crate) fn notify(&self, range: IovaRange) {
        let (pins, begun) = {
            let state = self.state.lock();
            (state.pins, state.begun)
        };
        if pins != 0
            && let Some(user) = &self.user
        {
            sync::assert_none_held();
            user.unmap(range);
        }
        // They get on by themselves, as far as the embedder's copying does.
        for _ in 0..PATIENCE {
            if self.state.lock().ended.wrapping_sub(begun).cast_signed() >= 0 {
                break;
            }
            sync::relax();
        }
    }

    /// Begins an operation on the address space.
    fn enter(&self, at: Iova) -> Result<Operation<'_>, Error> {
        let mut state = self.state.lock();
        if state.changing {
            return Err(Error::Busy);
        }
        let space = state.space.clone().ok_or(Error::NotFound { iova: at })?;
        state.begun = state.begun.wrapping_add(1);
        Ok(Operation { access: self, space })
    }
}

impl Drop for AccessInner {
    fn drop(&mut self) {
        // The embedder's user may go with it.
        sync::assert_none_held();
    }
}

/// An operation under way: the access is not detached meanwhile.
struct Operation<'a> {
    access: &'a AccessInner,
    space: Shared<ioas::Inner>,
}

impl Operation<'_> {
    /// It has let go of what it held, and goes on: who waits for it has seen it get on.
    fn renew(&self) {
        let mut state = self.access.state.lock();
        state.begun = state.begun.wrapping_add(1);
        state.ended = state.ended.wrapping_add(1);
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        let mut state = self.access.state.lock();
        state.ended = state.ended.wrapping_add(1);
    }
}
