//! The embedder's side of pages: where memory comes from.

use crate::addr::PhysExtent;
use core::fmt;

/// What kind of memory it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemoryKind {
    /// Ordinary memory.
    Ram,
    /// Registers or memory of a device (a BAR), for peer-to-peer DMA. Software accesses neither pin nor copy it.
    Mmio,
}

/// Why a source refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemoryError {
    /// No memory for what the source has to remember.
    OutOfMemory,
    /// The memory is not there, or not to be had.
    Unavailable,
    /// The source does not do this.
    Unsupported,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "out of memory",
            Self::Unavailable => "the memory is not to be had",
            Self::Unsupported => "the source does not do this",
        })
    }
}

impl core::error::Error for MemoryError {}

/// Where memory comes from: a partition's RAM, a BAR, memory on loan. Called without any lock of this crate held.
///
/// [`Pages`](super::Pages) ask what the memory is once, when they are made, and see to it that at most one pin is open at
/// any time, however many use it. While [`pin`](Memory::pin) or [`unpin`](Memory::unpin) runs, whoever wants the same
/// pages pinned waits for it: neither may pin, map or revoke those pages itself.
#[allow(clippy::len_without_is_empty)]
pub trait Memory: Send + Sync {
    /// Length in bytes. Never changes.
    fn len(&self) -> u64;

    /// What it is. Never changes.
    fn kind(&self) -> MemoryKind {
        MemoryKind::Ram
    }

    /// Whether it may be written. Never changes.
    fn writable(&self) -> bool {
        true
    }

    /// Whether its owner may take it back by [`Pages::revoke`](super::Pages::revoke). Never changes. Address spaces
    /// keep a record for memory that says so.
    fn revocable(&self) -> bool {
        false
    }

    /// How many extents [`Memory::pin`] will hand over, as far as known: a hint for the allocation.
    fn extents_hint(&self) -> usize {
        1
    }

    /// Keeps the memory where it is and hands it over as physically contiguous runs, in order, [`Memory::len`] bytes in
    /// all. Stops where `extent` fails, and passes the error on. After an error nothing is pinned.
    ///
    /// # Errors
    ///
    /// Whatever keeps the memory from being pinned, or the error of `extent`.
    fn pin(&self, extent: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError>;

    /// Ends what the one successful [`Memory::pin`] began.
    fn unpin(&self);

    /// Copies from `offset` on, while pinned. The range lies inside.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Unsupported`] where the source can not be read.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let _ = (offset, bytes);
        Err(MemoryError::Unsupported)
    }

    /// Copies to `offset` on, while pinned. The range lies inside. Never called where [`Memory::writable`] says no.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Unsupported`] where the source can not be written.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let _ = (offset, bytes);
        Err(MemoryError::Unsupported)
    }
}
