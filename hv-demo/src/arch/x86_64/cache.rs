//! Cache maintenance for agents that do not snoop.

use core::arch::x86_64::{__cpuid, _mm_clflush, _mm_mfence};
use iommu_core::addr::PhysAddr;

/// Writes the `len` bytes from `phys` back to memory, and returns once that is done.
pub fn clean(phys: PhysAddr, len: usize) {
    flush(phys, len);
}

/// Discards cached copies of the `len` bytes from `phys`. On x86 this writes them back first; a line that no CPU has
/// written since the agent's own write is clean and is merely dropped.
pub fn invalidate(phys: PhysAddr, len: usize) {
    flush(phys, len);
}

fn flush(phys: PhysAddr, len: usize) {
    let line = line_size();
    let start = phys.get() & !(line - 1);
    let end = phys.get().saturating_add(len as u64);
    // SAFETY: fences and flushes change no data; `flush` is called for memory, all of which is mapped to itself.
    unsafe {
        // CLFLUSH is ordered by fences only with respect to stores of other lines.
        _mm_mfence();
        for line in (start..end).step_by(line as usize) {
            _mm_clflush(core::ptr::with_exposed_provenance(line as usize));
        }
        _mm_mfence();
    }
}

/// The size that CLFLUSH works on, in bytes.
fn line_size() -> u64 {
    let size = u64::from(__cpuid(1).ebx >> 8 & 0xff) * 8;
    // A CPU that does not say: flushing more often than needed is harmless.
    if size.is_power_of_two() { size } else { 16 }
}
