//! A bitmap in the embedder's memory.

use crate::addr::{Iova, IovaRange};
use crate::error::Error;

/// A bitmap in the embedder's bytes, at any address: bit `n % 8` of byte `n / 8` stands for the `page_size` bytes from
/// `base + n * page_size` on. What lies below the base or beyond the last bit has no bit, and is passed over.
///
/// ```
/// use iommu_core::addr::{Iova, IovaRange};
/// use iommu_core::dirty::DirtyBitmap;
///
/// let mut bytes = [0; 4];
/// let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(0x10_0000), 4096)?;
/// bitmap.mark(IovaRange::from_len(Iova::new(0x10_7fff), 2).unwrap());
/// assert!(bitmap.is_dirty(Iova::new(0x10_7000)) && bitmap.is_dirty(Iova::new(0x10_8fff)));
/// assert_eq!(bytes, [0x80, 0x01, 0, 0]);
/// # Ok::<(), iommu_core::Error>(())
/// ```
pub struct DirtyBitmap<'a> {
    bytes: &'a mut [u8],
    base: Iova,
    /// Of the size of a page, which is a power of two.
    shift: u32,
}

impl<'a> DirtyBitmap<'a> {
    /// A bitmap in `bytes` for what begins at `base`, a bit for each `page_size` bytes. The bits stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where `page_size` is not a power of two; [`Error::Misaligned`] where `base` is not a multiple of
    /// it.
    pub fn new(bytes: &'a mut [u8], base: Iova, page_size: u64) -> Result<Self, Error> {
        if !page_size.is_power_of_two() {
            return Err(Error::Invalid("the size of a page of a dirty bitmap is a power of two"));
        }
        if !base.is_aligned(page_size) {
            return Err(Error::Misaligned { value: base.get(), align: page_size });
        }
        Ok(Self { bytes, base, shift: page_size.trailing_zeros() })
    }

    /// How many bytes a bit stands for.
    pub fn page_size(&self) -> u64 {
        1 << self.shift
    }

    /// The addresses that have a bit; `None` where there are no bits.
    pub(super) fn span(&self) -> Option<IovaRange> {
        let bits = (self.bytes.len() as u64).saturating_mul(8);
        // What lies beyond the last address has bits that stand for nothing.
        let len = u128::from(bits) << self.shift;
        let last = u128::from(self.base.get()).checked_add(len.checked_sub(1)?)?;
        IovaRange::new(self.base, Iova::new(u64::try_from(last).unwrap_or(u64::MAX)))
    }

    /// Sets the bits of all pages that `range` touches.
    pub fn mark(&mut self, range: IovaRange) {
        // A distance from the base, as sums could wrap.
        let Some(last) = range.last().get().checked_sub(self.base.get()) else { return };
        let first = range.start().get().saturating_sub(self.base.get());
        let (first, last) = (first >> self.shift, last >> self.shift);
        let (first_byte, last_byte) = (index(first), index(last));
        let (from, to) = (0xff << (first % 8), 0xff >> (7 - last % 8));
        if first_byte == last_byte {
            self.set(first_byte, from & to);
            return;
        }
        self.set(first_byte, from);
        let end = last_byte.min(self.bytes.len());
        if let Some(whole) = first_byte.checked_add(1).and_then(|begin| self.bytes.get_mut(begin..end)) {
            whole.fill(0xff);
        }
        self.set(last_byte, to);
    }

    /// Whether the bit of the page that holds `iova` is set. False where there is none.
    pub fn is_dirty(&self, iova: Iova) -> bool {
        let Some(distance) = iova.get().checked_sub(self.base.get()) else { return false };
        let page = distance >> self.shift;
        self.bytes.get(index(page)).is_some_and(|byte| byte >> (page % 8) & 1 != 0)
    }

    fn set(&mut self, at: usize, bits: u8) {
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte |= bits;
        }
    }
}

/// The byte that has the bit of `page`. No slice has the byte that stands for those that do not fit.
fn index(page: u64) -> usize {
    usize::try_from(page / 8).unwrap_or(usize::MAX)
}
