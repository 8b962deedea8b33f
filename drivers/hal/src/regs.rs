//! Registers: one small trait, and hardware as its first implementation.

use crate::barrier;
use core::ptr::NonNull;

/// A window of device registers. Offsets are in bytes from its start, and naturally aligned.
///
/// An access outside of the window is a bug of the driver: reads give all ones, as from a bus where nobody answers, and
/// writes go nowhere.
pub trait Registers: Send + Sync {
    /// Length of the window in bytes.
    fn len(&self) -> usize;

    /// Whether the window is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the 32-bit register at `offset`.
    fn read32(&self, offset: usize) -> u32;

    /// Writes the 32-bit register at `offset`. Every earlier store of this CPU is visible to the device first.
    fn write32(&self, offset: usize, value: u32);

    /// Reads the 64-bit register at `offset` in one access.
    fn read64(&self, offset: usize) -> u64;

    /// Writes the 64-bit register at `offset` in one access. Every earlier store of this CPU is visible to the device
    /// first.
    fn write64(&self, offset: usize, value: u64);
}

macro_rules! forward {
    ($($pointer:ty),*) => { $(
        impl<T: Registers + ?Sized> Registers for $pointer {
            fn len(&self) -> usize {
                (**self).len()
            }
            fn read32(&self, offset: usize) -> u32 {
                (**self).read32(offset)
            }
            fn write32(&self, offset: usize, value: u32) {
                (**self).write32(offset, value)
            }
            fn read64(&self, offset: usize) -> u64 {
                (**self).read64(offset)
            }
            fn write64(&self, offset: usize, value: u64) {
                (**self).write64(offset, value)
            }
        }
    )* };
}

forward!(&T, alloc::sync::Arc<T>);

/// Registers mapped into this CPU's address space.
#[derive(Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: device registers belong to no CPU; the trait's accesses are single volatile loads and stores.
unsafe impl Send for Mmio {}
// SAFETY: as above; concurrent accesses are ordered by the bus, and drivers serialise sequences themselves.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// The `len` bytes of registers mapped at `base`.
    ///
    /// # Safety
    ///
    /// For the lifetime of the value `base` is the start of `len` bytes mapped as device memory (uncached, unordered
    /// stores not merged), aligned to 8 bytes; nothing else in the program accesses them; and no access to them can
    /// break Rust's memory safety other than by DMA that the embedder has accounted for.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// Pointer to the register at `offset`, where all of it lies in the window and it is aligned.
    fn pointer<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let size = size_of::<T>();
        let inside = offset.is_multiple_of(size) && offset.checked_add(size).is_some_and(|end| end <= self.len);
        // SAFETY: the offset lies within the mapping that `new` was promised.
        inside.then(|| unsafe { self.base.add(offset) }.cast())
    }
}

impl Registers for Mmio {
    fn len(&self) -> usize {
        self.len
    }

    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: the pointer lies in the window and is aligned.
        let value = self.pointer(offset).map_or(u32::MAX, |pointer| unsafe { access::load32(pointer) });
        barrier::after_device_load();
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        barrier::before_device_store();
        if let Some(pointer) = self.pointer(offset) {
            // SAFETY: the pointer lies in the window and is aligned.
            unsafe { access::store32(pointer, value) };
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        // SAFETY: the pointer lies in the window and is aligned.
        let value = self.pointer(offset).map_or(u64::MAX, |pointer| unsafe { access::load64(pointer) });
        barrier::after_device_load();
        value
    }

    fn write64(&self, offset: usize, value: u64) {
        barrier::before_device_store();
        if let Some(pointer) = self.pointer(offset) {
            // SAFETY: the pointer lies in the window and is aligned.
            unsafe { access::store64(pointer, value) };
        }
    }
}

/// One load or store instruction each. On aarch64 plain `ldr` and `str`: a hypervisor above us cannot decode others.
mod access {
    use core::ptr::NonNull;

    macro_rules! accessors {
        ($load:ident, $store:ident, $type:ty, $ldr:literal, $str:literal) => {
            /// # Safety
            ///
            /// `pointer` is a mapped, aligned device register.
            #[inline]
            pub(super) unsafe fn $load(pointer: NonNull<$type>) -> $type {
                #[cfg(target_arch = "aarch64")]
                {
                    let value: $type;
                    // SAFETY: as the caller promises; the instruction only loads.
                    unsafe {
                        core::arch::asm!($ldr, value = out(reg) value, address = in(reg) pointer.as_ptr(),
                            options(nostack, preserves_flags));
                    }
                    value
                }
                #[cfg(not(target_arch = "aarch64"))]
                // SAFETY: as the caller promises.
                unsafe {
                    pointer.read_volatile()
                }
            }

            /// # Safety
            ///
            /// `pointer` is a mapped, aligned device register, and the write is one that may be made.
            #[inline]
            pub(super) unsafe fn $store(pointer: NonNull<$type>, value: $type) {
                #[cfg(target_arch = "aarch64")]
                // SAFETY: as the caller promises; the instruction only stores.
                unsafe {
                    core::arch::asm!($str, value = in(reg) value, address = in(reg) pointer.as_ptr(),
                        options(nostack, preserves_flags));
                }
                #[cfg(not(target_arch = "aarch64"))]
                // SAFETY: as the caller promises.
                unsafe {
                    pointer.write_volatile(value)
                }
            }
        };
    }

    accessors!(load32, store32, u32, "ldr {value:w}, [{address}]", "str {value:w}, [{address}]");
    accessors!(load64, store64, u64, "ldr {value:x}, [{address}]", "str {value:x}, [{address}]");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_outside_of_the_window_reads_all_ones_and_writes_nothing() {
        let mut memory = [0u64; 4];
        // SAFETY: the array outlives the window and is used through it only.
        let regs = unsafe { Mmio::new(NonNull::from(&mut memory).cast(), 16) };
        regs.write64(8, 5);
        regs.write64(16, 6);
        regs.write32(13, 7);
        assert_eq!(regs.read64(8), 5);
        assert_eq!(regs.read64(16), u64::MAX);
        assert_eq!(regs.read64(usize::MAX - 7), u64::MAX);
        assert_eq!(regs.read32(14), u32::MAX);
        assert_eq!(memory[2..], [0, 0]);
    }
}
