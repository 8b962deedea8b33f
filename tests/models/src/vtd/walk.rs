//! A walker of the unit's tables that knows no driver and no cache: raw 8-byte words in, an address or a fault code
//! out.
//!
//! * [`translate`] reads memory through a closure, so it runs on live memory as on a
//!   [`Snapshot`](crate::memory::Snapshot); [`reachable`] lists all that a stream reaches; [`trace`] gives each entry
//!   that a walk met.
//! * [`View`] is what stands between a walk and memory: caches of paging structures, software that writes between two
//!   parts of a wide entry, accessed and dirty bits that are written.
//!
//! Root, context, PASID directory and PASID entry (sections 9.1 to 9.6), first and second stage (9.7, 9.8), one on the
//! other, pass-through, legacy mode, abort-DMA mode. Written from revision 5.10 of the specification; where it has
//! become more lenient than 4.0, the stricter rule holds: drivers meet both.
//!
//! A walk goes through steps, each of which can be kept: `context`, `admit`, `pasid_entry`, [`Regime`], `page`.

mod code;
mod context;
mod first;
mod page;
mod pasid;
mod reach;
mod regime;
mod request;
mod second;
mod trace;
mod view;

pub use code::{Answer, FaultCode};
pub use context::{Admission, Context};
pub(super) use context::{admit, context};
pub use page::Leaf;
pub(super) use page::page;
pub use pasid::PasidEntry;
pub(super) use pasid::pasid_entry;
pub use reach::{Reach, reachable};
pub use regime::Regime;
pub use request::{AddressType, Operation, Request};
pub use trace::{Trace, trace};
pub use view::{Cursor, Order, Piece, Pieces, Plain, Rights, Stage, Step, Structure, View};

use super::Config;
use iommu_core::addr::{Iova, PhysAddr};

/// How the walker reads 8 bytes of memory; `None` where no memory answers.
pub type Read64<'a> = &'a dyn Fn(PhysAddr) -> Option<u64>;

/// Where a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the byte asked for lies.
    pub phys: PhysAddr,
    /// Size of the leaf that maps it, in bytes, the smaller of two; 4 KiB in pass-through.
    pub size: u64,
    /// Whether a write would be let through as well.
    pub write: bool,
    /// Whether a read would be let through as well.
    pub read: bool,
    /// Domain id of the PASID entry, or of the context entry in legacy mode.
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

/// Why a walk of tables ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    Fault(FaultCode),
    /// An entry changed before its accessed or dirty bit was set: the walk begins anew. With what it is reported if
    /// that does not end.
    Changed(FaultCode),
}

impl From<FaultCode> for Stop {
    fn from(code: FaultCode) -> Self {
        Self::Fault(code)
    }
}

/// Whether `address` lies where writes are interrupts: 0xFEE0_0000 to 0xFEEF_FFFF (section 3.15).
pub(super) const fn is_interrupt(address: u64) -> bool {
    address >> 20 == 0xfee
}

/// What becomes of a request that [is none of the tables'](Request::is_interrupt) (section 3.15): a read of nothing
/// completes, a write is an interrupt, whatever its length, and anything else a fault.
pub(super) fn not_remapped(request: &Request) -> Result<(), Refused> {
    match request.operation {
        Operation::ZeroLengthRead => Ok(()),
        Operation::Write => Err(Refused { code: FaultCode::NONE, silent: true }),
        Operation::Read | Operation::Atomic => Err(Refused::loud(FaultCode::NO_INTERRUPT)),
    }
}

/// Bits of an address field in 63:12 that a host of this width leaves reserved.
const fn beyond(haw: u8) -> u64 {
    !((1 << haw) - 1)
}

/// Bits 51:12 of a paging-structure entry at or above the host's width.
const fn address_reserved(config: &Config) -> u64 {
    beyond(config.haw) & 0x000f_ffff_ffff_f000
}

/// The address in a paging-structure entry.
const fn address(entry: u64) -> u64 {
    entry & 0x000f_ffff_ffff_f000
}

/// Number of the entry for `input` in a table of `level`.
const fn index(input: u64, level: u32) -> u64 {
    input >> (3 + 9 * level) & 0x1ff
}

/// Bytes below an entry of `level`, the lowest of which is 1.
const fn size(level: u32) -> u64 {
    1 << (3 + 9 * level)
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
    let request = Request::new(requester, pasid, iova, write);
    trace(read64, rtaddr, config, &request).result
}

/// Where a request of any kind goes, through whatever `view` keeps.
///
/// # Errors
///
/// As [`translate`].
pub fn through(view: &mut dyn View, rtaddr: u64, config: &Config, asked: &Request) -> Result<Translation, FaultCode> {
    let mut domain = None;
    let found = request(view, rtaddr, config, asked, |context, _| domain = context.domain());
    found.map(|found| translation(asked, found, domain)).map_err(|refused| refused.code)
}

/// What was found, as a test asks for it.
fn translation(asked: &Request, found: Option<(Regime, Leaf)>, domain: Option<u16>) -> Translation {
    match found {
        Some((regime, leaf)) => {
            let phys = PhysAddr::new(leaf.phys + (asked.iova.get() & (leaf.size - 1)));
            let (read, write) = leaf.allows(&regime, regime.is_privileged(asked));
            Translation { phys, size: leaf.size, write, read, domain: regime.domain }
        }
        // A translated request, or a read of nothing where interrupts go.
        None => {
            let phys = PhysAddr::new(asked.iova.get());
            Translation { phys, size: 0x1000, write: true, read: true, domain: domain.unwrap_or_default() }
        }
    }
}

/// The regime of a request, and the leaf; `None` for what goes out as it is.
fn request(
    view: &mut dyn View,
    rtaddr: u64,
    config: &Config,
    request: &Request,
    mut met: impl FnMut(&Context, Option<&PasidEntry>),
) -> Result<Option<(Regime, Leaf)>, Refused> {
    if request.is_interrupt() {
        return not_remapped(request).map(|()| None);
    }
    let context = context(view, rtaddr, config, request)?;
    met(&context, None);
    let regime = match admit(config, &context, request)? {
        Admission::Translated => return Ok(None),
        Admission::Legacy => Regime::of_context(config, &context),
        Admission::Pasid(pasid) => {
            let entry = pasid_entry(view, config, &context, pasid)?;
            met(&context, Some(&entry));
            Regime::of_pasid(config, &context, &entry)
        }
    };
    let leaf = page(view, config, &regime, request)?;
    Ok(Some((regime, leaf)))
}
