//! A walker of scalable-mode tables that knows no driver and no cache: raw 8-byte words in, an address or a fault code
//! out.
//!
//! [`translate`] reads memory through a closure, so it runs on live memory as on a
//! [`Snapshot`](crate::memory::Snapshot); [`reachable`] lists all that a stream reaches.
//!
//! Root, context, PASID directory and PASID entry (sections 9.1 to 9.6), first and second stage (9.7, 9.8),
//! pass-through. Not: legacy mode, nested translation, updates of accessed and dirty bits.

mod code;
mod page;
mod reach;

pub use code::FaultCode;
pub(super) use page::page;
pub use reach::{Reach, reachable};

use super::Config;
use iommu_core::addr::{Iova, PhysAddr};

/// How the walker reads 8 bytes of memory; `None` where no memory answers.
pub type Read64<'a> = &'a dyn Fn(PhysAddr) -> Option<u64>;

/// Where a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the byte asked for lies.
    pub phys: PhysAddr,
    /// Size of the leaf that maps it, in bytes; 4 KiB in pass-through.
    pub size: u64,
    /// Whether a write would be let through as well.
    pub write: bool,
    /// Whether a read would be let through as well.
    pub read: bool,
    /// Domain id of the PASID entry.
    pub domain: u16,
}

/// Why a walk ended, and whether an entry on the way asked for silence (FPD).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    pub(super) code: FaultCode,
    pub(super) silent: bool,
}

impl Refused {
    const fn loud(code: FaultCode) -> Self {
        Self { code, silent: false }
    }
}

/// A scalable-mode context entry, present and checked (section 9.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Context(pub(super) [u64; 4]);

/// A PASID table entry, present and checked (section 9.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PasidEntry {
    pub(super) words: [u64; 8],
    /// Its number in the table.
    pub(super) pasid: u32,
    /// FPD here, in the directory or in the context entry.
    pub(super) silent: bool,
}

impl PasidEntry {
    pub(super) const fn kind(&self) -> u64 {
        self.words[0] >> 6 & 7
    }

    pub(super) const fn domain(&self) -> u16 {
        self.words[1] as u16
    }
}

/// Whether `address` lies where writes are interrupts: 0xFEE0_0000 to 0xFEEF_FFFF (section 3.14).
pub(super) const fn is_interrupt(address: u64) -> bool {
    address >> 20 == 0xfee
}

/// Bits of an address field in 63:12 that a host of this width leaves reserved.
const fn beyond(haw: u8) -> u64 {
    !((1 << haw) - 1)
}

fn at(base: u64, offset: u64) -> PhysAddr {
    PhysAddr::new((base & !0xfff) + offset)
}

/// Where a request of `requester` to `iova` goes, with the root table that `rtaddr` names: the value of RTADDR that was
/// latched, its mode included.
///
/// # Errors
///
/// The code (section 7.1.3) with which a unit as in `config` would report the request.
pub fn translate(
    read64: Read64<'_>,
    rtaddr: u64,
    config: &Config,
    requester: u16,
    pasid: Option<u32>,
    iova: Iova,
    write: bool,
) -> Result<Translation, FaultCode> {
    if pasid.is_none() && is_interrupt(iova.get()) {
        return Err(FaultCode::NONE);
    }
    let walk = || {
        let context = context(read64, rtaddr, config, requester, pasid.is_some())?;
        let entry = pasid_entry(read64, config, &context, pasid)?;
        page(read64, config, &entry, iova.get(), write).map(|found| (found, entry))
    };
    let (leaf, entry) = walk().map_err(|refused: Refused| refused.code)?;
    let phys = PhysAddr::new(leaf.phys + (iova.get() & (leaf.size - 1)));
    Ok(Translation { phys, size: leaf.size, write: leaf.write, read: leaf.read, domain: entry.domain() })
}

/// Reads root and context entry.
pub(super) fn context(
    read64: Read64<'_>,
    rtaddr: u64,
    config: &Config,
    requester: u16,
    with_pasid: bool,
) -> Result<Context, Refused> {
    let (bus, devfn) = (u64::from(requester >> 8), u64::from(requester & 0xff));
    match rtaddr >> 10 & 3 {
        1 => {}
        // Legacy mode, whose tables this walker does not read.
        0 if !with_pasid => return Err(Refused::loud(FaultCode::LEGACY_CONTEXT_NOT_PRESENT)),
        // Abort-DMA mode blocks without a record (section 3.5).
        3 => return Err(Refused::loud(FaultCode::NONE)),
        _ => return Err(Refused::loud(FaultCode::MODE)),
    }
    if rtaddr & beyond(config.haw) != 0 {
        return Err(Refused::loud(FaultCode::ROOT_ADDRESS));
    }
    let root = read64(at(rtaddr, bus * 16 + (devfn >> 7) * 8)).ok_or(Refused::loud(FaultCode::ROOT_ACCESS))?;
    if root & 1 == 0 {
        return Err(Refused::loud(FaultCode::ROOT_NOT_PRESENT));
    }
    if root & (0xffe | beyond(config.haw)) != 0 {
        return Err(Refused::loud(FaultCode::ROOT_RESERVED));
    }
    let mut words = [0; 4];
    for (word, offset) in words.iter_mut().zip([0, 8, 16, 24]) {
        let phys = at(root, (devfn & 0x7f) * 32 + offset);
        *word = read64(phys).ok_or(Refused::loud(FaultCode::CONTEXT_ACCESS))?;
    }
    let silent = words[0] & 2 != 0;
    if words[0] & 1 == 0 {
        return Err(Refused { code: FaultCode::CONTEXT_NOT_PRESENT, silent });
    }
    let mut reserved = [0x1e0 | beyond(config.haw), !0x1f_ffff, !0, !0];
    // Enables of what the unit does not have: DTE, PASIDE, PRE, RID_PRIV.
    for (ecap, word, bit) in [(2, 0, 2), (40, 0, 3), (29, 0, 4), (53, 1, 20)] {
        if !config.ecap_bit(ecap) {
            reserved[word] |= 1 << bit;
        }
    }
    if words.iter().zip(reserved).any(|(word, reserved)| word & reserved != 0) {
        return Err(Refused { code: FaultCode::CONTEXT_RESERVED, silent });
    }
    Ok(Context(words))
}

/// Reads PASID directory entry and PASID entry for a request with `pasid`, or without one.
pub(super) fn pasid_entry(
    read64: Read64<'_>,
    config: &Config,
    context: &Context,
    pasid: Option<u32>,
) -> Result<PasidEntry, Refused> {
    let words = context.0;
    let mut silent = words[0] & 2 != 0;
    let directory = 1 << ((words[0] >> 9 & 7) + 13);
    let pasid = match pasid {
        Some(_) if words[0] & 1 << 3 == 0 => return Err(Refused { code: FaultCode::PASID_DISABLED, silent }),
        Some(pasid) if pasid >= directory || pasid >> config.pasid_bits() != 0 => {
            return Err(Refused { code: FaultCode::PASID_TOO_LARGE, silent });
        }
        Some(pasid) => pasid,
        // RPS says whether the field is looked at.
        None if !config.ecap_bit(49) => 0,
        None if words[1] as u32 & 0xf_ffff >= directory => {
            return Err(Refused { code: FaultCode::RID_PASID, silent });
        }
        None => words[1] as u32 & 0xf_ffff,
    };
    let directory = read64(at(words[0], u64::from(pasid >> 6) * 8));
    let directory = directory.ok_or(Refused { code: FaultCode::DIRECTORY_ACCESS, silent })?;
    silent |= directory & 2 != 0;
    if directory & 1 == 0 {
        return Err(Refused { code: FaultCode::DIRECTORY_NOT_PRESENT, silent });
    }
    if directory & (0xffc | beyond(config.haw)) != 0 {
        return Err(Refused { code: FaultCode::DIRECTORY_RESERVED, silent });
    }
    let mut words = [0; 8];
    for (index, word) in words.iter_mut().enumerate() {
        let phys = at(directory, u64::from(pasid & 0x3f) * 64 + index as u64 * 8);
        *word = read64(phys).ok_or(Refused { code: FaultCode::PASID_ACCESS, silent })?;
    }
    silent |= words[0] & 2 != 0;
    check_pasid_entry(config, &words).map_err(|code| Refused { code, silent })?;
    Ok(PasidEntry { words, pasid, silent })
}

fn check_pasid_entry(config: &Config, words: &[u64; 8]) -> Result<(), FaultCode> {
    if words[0] & 1 == 0 {
        return Err(FaultCode::PASID_NOT_PRESENT);
    }
    let high = beyond(config.haw);
    let mut reserved = [0xc00 | high, 0x7f << 16, 0xf00 | high, !0, !0, !0, !0, !0];
    // Enables of what the unit does not have: SSADE, PWSNP, PGSNP, SRE, ERE, EAFE.
    for (ecap, word, bit) in [(45, 0, 9), (48, 1, 23), (7, 1, 24), (31, 2, 0), (30, 2, 1), (34, 2, 7)] {
        if !config.ecap_bit(ecap) {
            reserved[word] |= 1 << bit;
        }
    }
    if words.iter().zip(reserved).any(|(word, reserved)| word & reserved != 0) {
        return Err(FaultCode::PASID_RESERVED);
    }
    let width = config.sagaw() & 0xe & 1 << (words[0] >> 2 & 7) != 0;
    let mode = words[2] >> 2 & 3;
    let valid = match words[0] >> 6 & 7 {
        1 => config.ecap_bit(47) && (mode == 0 || mode == 1 && config.cap_bit(60)),
        2 => config.ecap_bit(46) && width,
        // The width is looked at in pass-through too (section 9.6).
        4 => config.ecap_bit(6) && width,
        // Nested translation is not modelled; the others are reserved.
        _ => false,
    };
    if valid { Ok(()) } else { Err(FaultCode::PASID_INVALID) }
}
