//! Bus numbers and addresses, where no firmware gave any: the functions are found depth first, and each takes the next
//! that is free in the windows of its host bridge, so that what lies behind one bridge lies together.
//!
//! Memory only: BARs of I/O ports stay without an address, and bridges forward none. Nothing is put in order by size,
//! so some of the windows may be left to gaps. Once done everything is as firmware would have left it, for
//! [`super::enumerate`] to find.

use super::bars::{self, Bar, BarKind};
use super::config::{address_of, read32, write32};
use super::enumerate::on_bus;
use super::function::PciFunction;
use core::fmt;
use iommu_discovery::Sbdf;
use iommu_discovery::devicetree::PciWindow;
use iommu_discovery::mcfg::EcamRegion;
use iommu_discovery::topology::FunctionKind;
use pci_types::{ConfigRegionAccess, HeaderType, PciHeader};

/// How many bridges may follow one another. Real hierarchies have some five.
const MAX_DEPTH: usize = 32;

/// What a bridge's windows begin and end at.
const BRIDGE_ALIGN: u64 = 1 << 20;

/// Bridge registers (PCI-to-PCI Bridge Architecture Specification section 3.2.5).
mod reg {
    /// Primary, secondary and subordinate bus number, secondary latency timer.
    pub const BUSES: u16 = 0x18;
    /// Base and limit of I/O ports, and the secondary status, whose bits a one clears.
    pub const PORTS: u16 = 0x1c;
    /// Base and limit of memory.
    pub const MEMORY: u16 = 0x20;
    /// Base and limit of prefetchable memory; the lowest bits of each say whether it has 64 bits.
    pub const PREFETCHABLE: u16 = 0x24;
    /// The upper halves of those.
    pub const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
    pub const PREFETCHABLE_LIMIT_UPPER: u16 = 0x2c;
}

/// What does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AssignError {
    /// More bridges than the host bridge has buses.
    OutOfBuses {
        /// The bridge that got none.
        bridge: Sbdf,
    },
    /// Bridges behind bridges, more than any machine has.
    TooDeep {
        /// The bridge behind which nothing was looked at.
        bridge: Sbdf,
    },
    /// The windows are full.
    OutOfMemory {
        /// The function that got no address.
        function: Sbdf,
        /// How much it asked for.
        size: u64,
    },
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBuses { bridge } => write!(f, "no bus number is left for what is behind {bridge}"),
            Self::TooDeep { bridge } => write!(f, "too many bridges follow one another up to {bridge}"),
            Self::OutOfMemory { function, size } => write!(f, "no {size:#x} bytes are left for {function}"),
        }
    }
}

/// Gives bus numbers and addresses to everything behind the host bridge with these buses and windows. Windows that
/// begin elsewhere on the bus than for the CPU are left out: a BAR is taken for the address that the CPU sees.
///
/// # Safety
///
/// Nothing uses any function's registers, then or before: all of them move.
///
/// # Errors
///
/// [`AssignError`]; what came before has its addresses.
pub unsafe fn assign(
    config: &impl ConfigRegionAccess,
    region: &EcamRegion,
    windows: &[PciWindow],
) -> Result<(), AssignError> {
    let mut next = region.start_bus;
    // SAFETY: as the caller promises.
    unsafe { number(config, region, region.start_bus, MAX_DEPTH, &mut next) }?;
    let pool = |wide| {
        let same = windows.iter().find(|window| window.wide == wide && window.bus == window.cpu.start.get());
        // Address 0 means that there is none.
        same.map_or(Pool::EMPTY, |window| Pool { at: window.bus.max(1), end: window.bus + window.cpu.len })
    };
    let mut pools = Pools { narrow: pool(false), wide: pool(true) };
    // SAFETY: as the caller promises.
    unsafe { place(config, region.segment, region.start_bus, Wide::Every, &mut pools) }
}

/// Numbers the buses behind the bridges of `bus`, at most `depth` of them behind one another; `last` is the highest
/// number given so far.
///
/// # Safety
///
/// As for [`assign`].
unsafe fn number(
    config: &impl ConfigRegionAccess,
    region: &EcamRegion,
    bus: u8,
    depth: usize,
    last: &mut u8,
) -> Result<(), AssignError> {
    // SAFETY: as the caller promises.
    for function in unsafe { on_bus(config, region.segment, bus) } {
        let address = address_of(function.sbdf());
        if PciHeader::new(address).header_type(config) != HeaderType::PciPciBridge {
            continue;
        }
        if *last == region.end_bus {
            return Err(AssignError::OutOfBuses { bridge: function.sbdf() });
        }
        let depth = depth.checked_sub(1).ok_or(AssignError::TooDeep { bridge: function.sbdf() })?;
        *last += 1;
        let secondary = *last;
        let rest = read32(config, address, reg::BUSES) & 0xff00_0000;
        let numbers = |subordinate: u8| rest | u32::from_le_bytes([bus, secondary, subordinate, 0]);
        // Until it is known how many buses there are, the bridge forwards to all of those that are left.
        // SAFETY: nothing behind the bridge is in use.
        unsafe { write32(config, address, reg::BUSES, numbers(region.end_bus)) };
        // SAFETY: as the caller promises.
        let done = unsafe { number(config, region, secondary, depth, last) };
        // SAFETY: as above.
        unsafe { write32(config, address, reg::BUSES, numbers(*last)) };
        done?;
    }
    Ok(())
}

/// Free addresses, taken from the lowest up.
#[derive(Clone, Copy)]
struct Pool {
    at: u64,
    end: u64,
}

impl Pool {
    const EMPTY: Self = Self { at: 0, end: 0 };

    /// Takes `size` bytes, a power of two, aligned to it.
    fn take(&mut self, size: u64) -> Option<u64> {
        let base = self.at.checked_next_multiple_of(size)?;
        let end = base.checked_add(size).filter(|end| *end <= self.end)?;
        self.at = end;
        Some(base)
    }

    /// Goes on to where a bridge's window may begin or end.
    fn align(&mut self) -> u64 {
        self.at = self.at.next_multiple_of(BRIDGE_ALIGN);
        self.at
    }
}

struct Pools {
    /// Below 4 GiB.
    narrow: Pool,
    /// For BARs of 64 bits.
    wide: Pool,
}

/// Which memory may be placed above 4 GiB, as far as the bridges above forward it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wide {
    /// On the root bus, every BAR that has the bits.
    Every,
    /// Behind bridges, what is prefetchable.
    Prefetchable,
    /// Behind a bridge with a prefetchable window of 32 bits, none.
    Never,
}

/// Gives addresses to the functions of `bus` and to what is behind its bridges.
///
/// # Safety
///
/// As for [`assign`].
unsafe fn place(
    config: &impl ConfigRegionAccess,
    segment: u16,
    bus: u8,
    wide: Wide,
    pools: &mut Pools,
) -> Result<(), AssignError> {
    // SAFETY: as the caller promises.
    for function in unsafe { on_bus(config, segment, bus) } {
        // SAFETY: as the caller promises, nothing accesses the function's registers.
        unsafe { function.set_memory_decoding(config, false) };
        for (index, bar) in function.bars.iter().enumerate() {
            let Some(bar) = bar.filter(|bar| bar.kind != BarKind::Io) else { continue };
            let base = pools.choose(bar, wide).take(bar.size);
            let no_room = AssignError::OutOfMemory { function: function.sbdf(), size: bar.size };
            // SAFETY: the function decodes nothing, and the addresses are nobody else's.
            unsafe { bars::set(config, address_of(function.sbdf()), index, bar.kind, base.ok_or(no_room)?) };
        }
        if let FunctionKind::Bridge { secondary, .. } = function.function.kind {
            // SAFETY: as the caller promises.
            unsafe { place_behind(config, &function, secondary, wide, pools) }?;
        }
    }
    Ok(())
}

/// Gives addresses to what is behind a bridge, has it forward them and nothing else, and switches that on.
///
/// # Safety
///
/// As for [`assign`].
unsafe fn place_behind(
    config: &impl ConfigRegionAccess,
    bridge: &PciFunction,
    secondary: u8,
    wide: Wide,
    pools: &mut Pools,
) -> Result<(), AssignError> {
    let address = address_of(bridge.sbdf());
    let has_wide = read32(config, address, reg::PREFETCHABLE) & 0xf == 1 && wide != Wide::Never;
    let below = if has_wide { Wide::Prefetchable } else { Wide::Never };
    let (narrow, prefetchable) = (pools.narrow.align(), pools.wide.align());
    // SAFETY: as the caller promises.
    unsafe { place(config, bridge.sbdf().segment, secondary, below, pools) }?;
    let narrow = narrow..pools.narrow.align();
    let prefetchable = prefetchable..pools.wide.align();
    // Bits 31:20 of the first and of the last byte, in bits 15:4 of a half each.
    let halves = |first: u64, last: u64| (first >> 16 & 0xfff0) as u32 | (last & 0xfff0_0000) as u32;
    // A window whose base lies above its limit forwards nothing.
    let shut = halves(0xfff0_0000, 0);
    let memory = if narrow.is_empty() { shut } else { halves(narrow.start, narrow.end - 1) };
    let open = has_wide && !prefetchable.is_empty();
    let last = prefetchable.end.saturating_sub(1);
    let (low, base, limit) = if open {
        (halves(prefetchable.start, last), (prefetchable.start >> 32) as u32, (last >> 32) as u32)
    } else {
        (shut, 0, 0)
    };
    // SAFETY: nothing behind the bridge is in use, and the addresses are its alone.
    unsafe {
        // The status above the ports' window is cleared by ones: it is written as zeros.
        write32(config, address, reg::PORTS, 0x00f0);
        write32(config, address, reg::MEMORY, memory);
        write32(config, address, reg::PREFETCHABLE, low);
        write32(config, address, reg::PREFETCHABLE_BASE_UPPER, base);
        write32(config, address, reg::PREFETCHABLE_LIMIT_UPPER, limit);
        bridge.set_memory_decoding(config, true);
    }
    Ok(())
}

impl Pools {
    /// Where a BAR's memory comes from.
    fn choose(&mut self, bar: Bar, wide: Wide) -> &mut Pool {
        let forwarded = wide == Wide::Every || wide == Wide::Prefetchable && bar.prefetchable;
        let above = bar.kind == BarKind::Memory64 && forwarded && self.wide.end != 0;
        if above { &mut self.wide } else { &mut self.narrow }
    }
}
