//! Bytes copied from and to an address space, in chunks, by the embedder.

use super::pin::let_go;
use super::{Access, AccessInner, Operation, Pin};
use crate::addr::{Iova, IovaRange};
use crate::error::Error;
use crate::hw::Prot;
use crate::ioas::AreaUse;
use crate::pages::{MemoryError, Pages};
use crate::sync;

/// What one call of the embedder copies at most, in bytes: no chunk reaches over a multiple of it. A chunk is also what an
/// unmap waits for at most.
const CHUNK: u64 = 64 << 10;

/// The caller's side of a copy.
enum Buffer<'a> {
    /// From memory to here.
    Read(&'a mut [u8]),
    /// From here to memory.
    Write(&'a [u8]),
}

impl Buffer<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Read(bytes) => bytes.len() as u64,
            Self::Write(bytes) => bytes.len() as u64,
        }
    }

    fn prot(&self) -> Prot {
        match self {
            Self::Read(_) => Prot::READ,
            Self::Write(_) => Prot::WRITE,
        }
    }

    /// The `len` bytes from `at`.
    fn part(&mut self, at: u64, len: u64) -> Option<Buffer<'_>> {
        let start = usize::try_from(at).ok()?;
        let end = usize::try_from(at.checked_add(len)?).ok()?;
        Some(match self {
            Self::Read(bytes) => Buffer::Read(bytes.get_mut(start..end)?),
            Self::Write(bytes) => Buffer::Write(bytes.get(start..end)?),
        })
    }
}

impl Access {
    /// Copies what is mapped from `iova` on into `bytes`, at any alignment and across areas.
    ///
    /// All of the range is checked before anything is copied. Another CPU that unmaps part of it meanwhile does not wait
    /// for the rest of the copy: then this ends with an error after a prefix.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] for no bytes; [`Error::Overflow`]; [`Error::NotFound`] where nothing is mapped, or the access is
    /// not attached; [`Error::ReadOnly`] where an area does not allow it; [`Error::Invalid`] for device memory;
    /// [`Error::Revoked`]; [`Error::BadMemory`] where the embedder cannot copy; [`Error::Busy`] where an area is being
    /// unmapped, and while the access is being moved or detached.
    pub fn read(&self, iova: Iova, bytes: &mut [u8]) -> Result<(), Error> {
        copy(&self.0, iova, Buffer::Read(bytes))
    }

    /// Copies `bytes` to what is mapped from `iova` on. As [`Access::read`], with the same errors.
    ///
    /// # Errors
    ///
    /// As for [`Access::read`].
    pub fn write(&self, iova: Iova, bytes: &[u8]) -> Result<(), Error> {
        copy(&self.0, iova, Buffer::Write(bytes))
    }
}

impl Pin {
    /// Copies from `offset` bytes behind the start of the pin into `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] for no bytes; [`Error::ReadOnly`] where it was not pinned for reading; [`Error::NotFound`] beyond
    /// the end; [`Error::BadMemory`] where the embedder cannot copy: a prefix may have been copied then.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.copy(offset, Buffer::Read(bytes))
    }

    /// Copies `bytes` to `offset` bytes behind the start of the pin.
    ///
    /// # Errors
    ///
    /// As for [`Pin::read`], with writing in the place of reading.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.copy(offset, Buffer::Write(bytes))
    }

    fn copy(&self, offset: u64, mut buffer: Buffer<'_>) -> Result<(), Error> {
        let (prot, len) = (buffer.prot(), buffer.len());
        let less = len.checked_sub(1).ok_or(Error::Empty)?;
        if prot.read && !self.prot.read || prot.write && !self.prot.write {
            return Err(Error::ReadOnly);
        }
        let (start, last) = (self.range().start(), self.range().last());
        let size = last.get().saturating_sub(start.get());
        if offset.checked_add(less).is_none_or(|end| end > size) {
            return Err(Error::NotFound { iova: last.wrapping_add(1) });
        }
        let mut done = 0;
        while done < len {
            let at = start.wrapping_add(offset.saturating_add(done));
            let area = self.area(at).ok_or(Error::NotFound { iova: at })?;
            done = self.access.copy_chunk(area, at, &mut buffer, done)?;
        }
        Ok(())
    }
}

/// Copies, area by area and chunk by chunk, each kept from being unmapped while it is copied and no longer.
fn copy(access: &AccessInner, iova: Iova, mut buffer: Buffer<'_>) -> Result<(), Error> {
    let (prot, len) = (buffer.prot(), buffer.len());
    if len == 0 {
        return Err(Error::Empty);
    }
    let range = IovaRange::from_len(iova, len).ok_or(Error::Overflow { iova })?;
    let operation = access.enter(iova)?;
    let mut kept = Kept::new(&operation, range.start(), prot)?;
    if let Some(area) = &kept.area {
        operation.check(area.range, range, prot)?;
    }
    let mut done = 0;
    loop {
        let at = iova.wrapping_add(done);
        let area = kept.area.as_ref().ok_or(Error::NotFound { iova: at })?;
        done = access.copy_chunk(area, at, &mut buffer, done)?;
        if done >= len {
            return Ok(());
        }
        kept.release();
        operation.renew();
        kept = Kept::new(&operation, iova.wrapping_add(done), prot)?;
    }
}

/// An area that is let go of when this is dropped.
struct Kept<'a> {
    operation: &'a Operation<'a>,
    area: Option<AreaUse>,
}

impl<'a> Kept<'a> {
    fn new(operation: &'a Operation<'a>, at: Iova, prot: Prot) -> Result<Self, Error> {
        let area = operation.area(at, prot, |area| operation.access.can_copy(area.pin.pages()))?;
        Ok(Self { operation, area: Some(area) })
    }

    fn release(&mut self) {
        if let Some(area) = self.area.take() {
            let_go(&self.operation.space, area);
        }
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

impl Operation<'_> {
    /// Whether all of `range` behind the area at `first` can be copied.
    fn check(&self, first: IovaRange, range: IovaRange, prot: Prot) -> Result<(), Error> {
        let mut last = first.last();
        while last < range.last() {
            let Some(at) = last.checked_add(1) else { break };
            let kept = Kept::new(self, at, prot)?;
            last = kept.area.as_ref().map_or(Iova::new(u64::MAX), |area| area.range.last());
        }
        Ok(())
    }
}

impl AccessInner {
    fn can_copy(&self, pages: &Pages) -> bool {
        pages.source().is_some() || self.phys.is_some()
    }

    /// Copies as much as one chunk, and the area, have from `at`, to or from byte `done` of `buffer`. Returns how far that
    /// got.
    fn copy_chunk(&self, area: &AreaUse, at: Iova, buffer: &mut Buffer<'_>, done: u64) -> Result<u64, Error> {
        let offset = area.offset.saturating_add(at.get().saturating_sub(area.range.start().get()));
        let in_area = area.range.last().get().saturating_sub(at.get()).saturating_add(1);
        let len = (CHUNK - offset % CHUNK).min(in_area).min(buffer.len().saturating_sub(done));
        let part = buffer.part(done, len).ok_or(Error::BadMemory)?;
        self.copy_part(area, offset, part).map_err(|error| match error {
            MemoryError::OutOfMemory => Error::OutOfMemory,
            MemoryError::Unavailable | MemoryError::Unsupported => Error::BadMemory,
        })?;
        Ok(done.saturating_add(len))
    }

    /// Has the source copy, or whoever knows physical memory.
    fn copy_part(&self, area: &AreaUse, offset: u64, mut part: Buffer<'_>) -> Result<(), MemoryError> {
        sync::assert_none_held();
        if let Some(source) = area.pin.pages().source() {
            let result = match &mut part {
                Buffer::Read(bytes) => source.read(offset, bytes),
                Buffer::Write(bytes) => source.write(offset, bytes),
            };
            if result != Err(MemoryError::Unsupported) {
                return result;
            }
        }
        let phys = self.phys.as_ref().ok_or(MemoryError::Unsupported)?;
        let mut at = 0;
        for run in area.pin.extents(offset, part.len()) {
            match part.part(at, run.len).ok_or(MemoryError::Unavailable)? {
                Buffer::Read(bytes) => phys.read(run.start, bytes)?,
                Buffer::Write(bytes) => phys.write(run.start, bytes)?,
            }
            at = at.saturating_add(run.len);
        }
        Ok(())
    }
}
