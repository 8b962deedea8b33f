//! A walker of stream tables and what they lead to that knows no driver and no cache: raw 8-byte words in, an address
//! or an event type out.
//!
//! [`translate`] reads memory through a closure, so it runs on live memory as on a
//! [`Snapshot`](crate::memory::Snapshot); [`reachable`] lists all that a stream reaches.
//!
//! Linear and 2-level stream tables (section 5.1), STE (5.2), linear and 2-level CD tables (5.3), CD (5.4), Armv8
//! translation tables of stage 1, stage 2 and both, of each granule. Not: addresses beyond 48 bits, AArch32 formats,
//! memory attributes but for what S2PTW and hardware updates ask of them. Accessed and dirty flags are not written, and a
//! leaf that a write would make dirty lets it through.

mod ats;
mod code;
mod context;
mod first;
mod granule;
mod page;
mod reach;
mod request;
mod second;
mod stream;
mod view;

pub use ats::{Denied, Granted};
pub(super) use ats::{ask, translated};
pub use code::FaultCode;
pub(super) use code::{Class, Policy, Refused};
pub(super) use granule::Granule;
pub(super) use page::{Cursor, Host};
pub use reach::{Reach, reachable};
pub(super) use request::{Entry, Found, Regime, Request, request};
pub(super) use view::View;
pub use view::{Order, Piece, Stage, Structure};

use super::Config;
use iommu_core::addr::{Iova, PhysAddr};
use request::Rights;
use view::Plain;

/// How the walker reads 8 bytes of memory; `None` where no memory answers.
pub type Read64<'a> = &'a dyn Fn(PhysAddr) -> Option<u64>;

/// Where the stream table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tables {
    /// STRTAB_BASE.
    pub base: u64,
    /// STRTAB_BASE_CFG.
    pub config: u32,
}

/// Where a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the byte asked for lies.
    pub phys: PhysAddr,
    /// Size of the leaf that maps it, in bytes, the smaller of two; 4 KiB in bypass.
    pub size: u64,
    /// Whether a write would be let through as well.
    pub write: bool,
    /// Whether a read would be let through as well.
    pub read: bool,
    /// ASID of the CD; `None` without stage 1.
    pub asid: Option<u16>,
    /// VMID of the STE, which also tags stage 1 alone; `None` in bypass.
    pub vmid: Option<u16>,
}

/// Where a request of stream `sid` to `iova` goes, with the stream table in `tables`. STRW 2 means EL2 without E2H.
///
/// # Errors
///
/// The type (section 7.3) of the event that a unit as in `config` would record; [`FaultCode::NONE`] where an STE aborts
/// without one.
pub fn translate(
    read64: Read64<'_>,
    tables: Tables,
    config: &Config,
    sid: u32,
    ssid: Option<u32>,
    iova: Iova,
    write: bool,
) -> Result<Translation, FaultCode> {
    let request_for = Request { sid, ssid, iova: iova.get(), write };
    let found = request(&mut Plain(read64), config, tables, request_for);
    let found = found.map_err(|refused: Refused| refused.code)?;
    let (asid, vmid) = match found.regime {
        None => (None, None),
        Some(Regime::First { vmid, asid, .. }) => (asid, Some(vmid)),
        Some(Regime::Second { vmid }) => (None, Some(vmid)),
    };
    let Rights { read, write, clean } = found.entry.rights();
    let phys = PhysAddr::new(found.phys());
    Ok(Translation { phys, size: found.entry.mask() + 1, write: write || clean, read, asid, vmid })
}
