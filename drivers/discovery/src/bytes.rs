//! A checked reader over the bytes of a firmware table.
//!
//! Every read is bounds-checked and little-endian; offsets in errors count from the start of the *table*, also when
//! the reader covers only a part of it. Knows no table.

use core::fmt;

/// A read that leaves the bytes there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfBounds {
    /// Where the read would have begun, in bytes from the start of the table.
    pub offset: usize,
    /// How many bytes it asked for.
    pub len: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at offset {:#x} leave the table", self.len, self.offset)
    }
}

impl core::error::Error for OutOfBounds {}

/// A run of bytes that knows where in its table it begins.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    data: &'a [u8],
    start: usize,
}

impl<'a> Bytes<'a> {
    /// All of a table.
    pub(crate) const fn new(table: &'a [u8]) -> Self {
        Self { data: table, start: 0 }
    }

    /// How many bytes there are.
    pub(crate) const fn len(self) -> usize {
        self.data.len()
    }

    /// Where the first byte lies, from the start of the table.
    pub(crate) const fn start(self) -> usize {
        self.start
    }

    /// The bytes themselves.
    pub(crate) const fn as_slice(self) -> &'a [u8] {
        self.data
    }

    /// The `len` bytes from `offset` (counted from the start of this run) on.
    pub(crate) fn part(self, offset: usize, len: usize) -> Result<Self, OutOfBounds> {
        let start = self.start.saturating_add(offset);
        let data = offset.checked_add(len).and_then(|end| self.data.get(offset..end));
        data.map(|data| Self { data, start }).ok_or(OutOfBounds { offset: start, len })
    }

    /// Everything from `offset` on.
    pub(crate) fn from(self, offset: usize) -> Result<Self, OutOfBounds> {
        self.part(offset, self.len().saturating_sub(offset))
    }

    /// The `N` bytes at `offset`.
    pub(crate) fn array<const N: usize>(self, offset: usize) -> Result<[u8; N], OutOfBounds> {
        let part = self.part(offset, N)?;
        part.data.try_into().map_err(|_| OutOfBounds { offset: part.start, len: N })
    }

    /// The byte at `offset`.
    pub(crate) fn u8(self, offset: usize) -> Result<u8, OutOfBounds> {
        Ok(u8::from_le_bytes(self.array(offset)?))
    }

    /// The 16-bit value at `offset`.
    pub(crate) fn u16(self, offset: usize) -> Result<u16, OutOfBounds> {
        Ok(u16::from_le_bytes(self.array(offset)?))
    }

    /// The 32-bit value at `offset`.
    pub(crate) fn u32(self, offset: usize) -> Result<u32, OutOfBounds> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    /// The 64-bit value at `offset`.
    pub(crate) fn u64(self, offset: usize) -> Result<u64, OutOfBounds> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_little_endian_and_end_with_the_bytes() {
        let bytes = Bytes::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(bytes.u8(8), Ok(9));
        assert_eq!(bytes.u16(1), Ok(0x0302));
        assert_eq!(bytes.u32(0), Ok(0x0403_0201));
        assert_eq!(bytes.u64(1), Ok(0x0908_0706_0504_0302));
        assert_eq!(bytes.u64(2), Err(OutOfBounds { offset: 2, len: 8 }));
        assert_eq!(bytes.u8(usize::MAX), Err(OutOfBounds { offset: usize::MAX, len: 1 }));
    }

    #[test]
    fn a_part_reports_offsets_in_the_table() {
        let part = Bytes::new(&[0, 1, 2, 3]).part(2, 2).unwrap();
        assert_eq!((part.start(), part.len(), part.u8(1)), (2, 2, Ok(3)));
        assert_eq!(part.u16(1), Err(OutOfBounds { offset: 3, len: 2 }));
        assert_eq!(part.from(2).unwrap().len(), 0);
        assert!(part.from(3).is_err());
    }
}
