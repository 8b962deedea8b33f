//! Ordering of this CPU's stores as a device observes them.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("iommu-hal does not know this architecture's barriers between memory and devices");

/// Makes every earlier store of this CPU visible to devices before any later store, to memory or to a register.
#[inline]
pub fn before_device_store() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a data memory barrier has no operand and touches no memory or register.
    unsafe {
        // Outer shareable: the device may sit outside of the CPUs' inner shareable domain.
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    // x86 keeps stores in order by itself; the compiler must as well.
    #[cfg(not(target_arch = "aarch64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
}

/// Makes what a device wrote before an observed completion visible to every later load.
#[inline]
pub fn after_device_load() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a data memory barrier has no operand and touches no memory or register.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
}
