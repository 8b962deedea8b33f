//! Base address registers: where they point and how much they decode (PCI 3.0 section 6.2.5.1).

use super::config::{read32, write32};
use iommu_core::addr::PhysAddr;
use pci_types::{CommandRegister, ConfigRegionAccess, PciAddress};

/// What a BAR decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory, at an address of 32 bits.
    Memory32,
    /// Memory, at an address of 64 bits; takes the next register as well.
    Memory64,
}

/// A base address register that is implemented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Where, as firmware or [`super::assign`] set it; 0 where neither did.
    pub base: PhysAddr,
    /// How many bytes or ports.
    pub size: u64,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
}

/// Reads and sizes the first `count` BARs, with the function's decoding off meanwhile. The second register of a 64-bit
/// BAR is `None`, as is one that is not implemented or of a kind that is reserved.
///
/// # Safety
///
/// Nothing accesses the function's registers meanwhile, by CPU or DMA.
pub(super) unsafe fn size_all(config: &impl ConfigRegionAccess, address: PciAddress, count: usize) -> [Option<Bar>; 6] {
    let mut bars = [None; 6];
    let command = read32(config, address, 4) & 0xffff;
    let decoding = u32::from((CommandRegister::IO_ENABLE | CommandRegister::MEMORY_ENABLE).bits());
    // The upper half of the register is status bits that a one clears: they are written as zeros.
    // SAFETY: as the caller promises, nobody needs the decoding; it is restored below.
    unsafe { write32(config, address, 4, command & !decoding) };
    let mut index = 0;
    while index < count {
        // SAFETY: the function decodes nothing, so the values written for sizing move nothing.
        let bar = unsafe { size(config, address, index, count) };
        bars[index] = bar;
        index += if bar.is_some_and(|bar| bar.kind == BarKind::Memory64) { 2 } else { 1 };
    }
    // SAFETY: restores what was there.
    unsafe { write32(config, address, 4, command) };
    bars
}

/// Has BAR `index`, of this kind, decode from `base` on.
///
/// # Safety
///
/// The function's decoding is off, and the addresses are to be its alone.
pub(super) unsafe fn set(
    config: &impl ConfigRegionAccess,
    address: PciAddress,
    index: usize,
    kind: BarKind,
    base: u64,
) {
    let offset = 0x10 + 4 * index as u16;
    // SAFETY: as the caller promises.
    unsafe {
        write32(config, address, offset, base as u32);
        if kind == BarKind::Memory64 {
            write32(config, address, offset + 4, (base >> 32) as u32);
        }
    }
}

/// Reads and sizes one BAR and leaves it as it was.
///
/// # Safety
///
/// The function's decoding is off.
unsafe fn size(config: &impl ConfigRegionAccess, address: PciAddress, index: usize, count: usize) -> Option<Bar> {
    let offset = 0x10 + 4 * index as u16;
    let low = read32(config, address, offset);
    // SAFETY: the caller promises what `mask` asks for.
    let low_mask = unsafe { mask(config, address, offset, low) };
    if low_mask == 0 {
        return None;
    }
    if low & 1 != 0 {
        let mask = low_mask & !0x3;
        // The upper half may be wired to zero: ports have 16 bits.
        let mask = if mask >> 16 == 0 { mask | 0xffff_0000 } else { mask };
        let base = PhysAddr::new(u64::from(low & !0x3));
        return Some(Bar { kind: BarKind::Io, base, size: u64::from((!mask).wrapping_add(1)), prefetchable: false });
    }
    let prefetchable = low & 1 << 3 != 0;
    let (low_base, low_mask) = (u64::from(low & !0xf), u64::from(low_mask & !0xf));
    match low >> 1 & 3 {
        0 => {
            let size = u64::from((!low_mask as u32).wrapping_add(1));
            Some(Bar { kind: BarKind::Memory32, base: PhysAddr::new(low_base), size, prefetchable })
        }
        2 if index + 1 < count => {
            let high = read32(config, address, offset + 4);
            // SAFETY: the caller promises what `mask` asks for.
            let high_mask = unsafe { mask(config, address, offset + 4, high) };
            let size = (!(u64::from(high_mask) << 32 | low_mask)).wrapping_add(1);
            let base = PhysAddr::new(u64::from(high) << 32 | low_base);
            Some(Bar { kind: BarKind::Memory64, base, size, prefetchable })
        }
        _ => None,
    }
}

/// The bits of a BAR that can be written, and those that say what it is.
///
/// # Safety
///
/// The function's decoding is off; `value` is what the register holds.
unsafe fn mask(config: &impl ConfigRegionAccess, address: PciAddress, offset: u16, value: u32) -> u32 {
    // SAFETY: as the caller promises: nothing is decoded while the register holds another value than its own.
    unsafe {
        write32(config, address, offset, u32::MAX);
        let mask = read32(config, address, offset);
        write32(config, address, offset, value);
        mask
    }
}
