//! Cache maintenance for agents that do not snoop, to the point where all of them see the same memory.

use aarch64_cpu::asm::barrier;
use core::arch::asm;
use iommu_core::addr::PhysAddr;

/// Writes the `len` bytes from `phys` back to memory, and returns once that is done.
pub fn clean(phys: PhysAddr, len: usize) {
    for line in lines(phys, len) {
        // SAFETY: cleaning changes no data; the range is memory, all of which is mapped to itself.
        unsafe { asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    barrier::dsb(barrier::SY);
}

/// Discards cached copies of the `len` bytes from `phys`. They are written back first, for the sake of what shares a
/// line with them; a line that no CPU has written since the agent's own write is clean and is merely dropped.
pub fn invalidate(phys: PhysAddr, len: usize) {
    for line in lines(phys, len) {
        // SAFETY: as above.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    barrier::dsb(barrier::SY);
}

/// The start of each cache line that a range touches.
fn lines(phys: PhysAddr, len: usize) -> impl Iterator<Item = u64> {
    let types: u64;
    // SAFETY: reads what caches there are (CTR_EL0), and changes nothing.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack, preserves_flags)) };
    // DminLine: the smallest line of all data caches, as the power of two of its 4-byte words.
    let line = 4u64 << (types >> 16 & 0xf);
    let start = phys.get() & !(line - 1);
    (start..phys.get().saturating_add(len as u64)).step_by(line as usize)
}
