//! The pieces of a transfer: as QEMU splits it, and as memory lies behind it.

use crate::event::Span;

/// The accesses that QEMU makes of a transfer that leads to no memory: 4 bytes each at most, aligned to their size, a
/// power of two. One that leads to memory is looked up once for each entry that it needs.
pub struct Accesses {
    next: Option<u64>,
    last: u64,
}

impl Accesses {
    /// Those of a transfer of `span`.
    pub fn of(span: Span) -> Self {
        Self { next: Some(span.first), last: span.last }
    }
}

impl Iterator for Accesses {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let address = self.next?;
        // One less than what is left, and than the size.
        let left = self.last - address;
        let size = [4, 2, 1].into_iter().find(|size| address % size == 0 && left >= size - 1).unwrap_or(1);
        self.next = if left < size { None } else { Some(address + size) };
        Some(address)
    }
}

/// The memory of a transfer, consumed from its start.
pub struct Frames<'a> {
    frames: &'a [Span],
    offset: u64,
}

impl<'a> Frames<'a> {
    /// All of `frames`.
    pub fn new(frames: &'a [Span]) -> Self {
        Self { frames, offset: 0 }
    }

    /// Whether the next `len` bytes are those from `phys` on; otherwise where they stop to be, and what is due there.
    pub fn take(&mut self, phys: u64, len: u64) -> Result<(), (u64, u64)> {
        let mut done = 0;
        while done < len {
            let Some((frame, rest)) = self.frames.split_first() else { return Err((done, 0)) };
            let due = frame.first + self.offset;
            if phys.wrapping_add(done) != due {
                return Err((done, due));
            }
            let left = frame.last - due;
            let part = len - done;
            if left < part {
                (self.frames, self.offset) = (rest, 0);
                done += left + 1;
            } else {
                self.offset += part;
                done += part;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_to_nowhere_is_split_as_qemu_does() {
        let split = |first, len| Accesses::of(Span::from_len(first, len).unwrap()).collect::<Vec<_>>();
        assert_eq!(split(0x1000, 16), [0x1000, 0x1004, 0x1008, 0x100c]);
        assert_eq!(split(0x1001, 8), [0x1001, 0x1002, 0x1004, 0x1008]);
        assert_eq!(split(0x1000, 7), [0x1000, 0x1004, 0x1006]);
        assert_eq!(split(0x1003, 1), [0x1003]);
        assert_eq!(split(u64::MAX - 3, 4), [u64::MAX - 3]);
    }

    #[test]
    fn frames_are_consumed_in_order() {
        let frames = [Span::from_len(0x7000, 0x1000).unwrap(), Span::from_len(0x8000, 0x800).unwrap()];
        let mut left = Frames::new(&frames);
        assert_eq!(left.take(0x7000, 0x10), Ok(()));
        assert_eq!(left.take(0x7010, 0x1000), Ok(()), "two frames that are neighbours");
        assert_eq!(left.take(0x8011, 1), Err((0, 0x8010)));
        assert_eq!(left.take(0x8010, 0x7f0), Ok(()));
        assert_eq!(left.take(0x8800, 1), Err((0, 0)), "beyond the last frame");
    }
}
