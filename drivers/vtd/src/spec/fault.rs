//! Fault recording register (section 11.4.7.5) and fault reasons (section 7.1.3).

mod reason;

pub use reason::Reason;

use bitfield_struct::bitfield;

/// A fault recording register, 128 bits.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct FaultRecord {
    #[bits(12)]
    __: u16,
    /// FI: page number of the address; for interrupt faults the index stands in its top 16 bits.
    #[bits(52)]
    pub info: u64,
    /// SID: who made the request.
    pub source: u16,
    #[bits(12)]
    __: u16,
    /// T2.
    pub type2: bool,
    /// PRIV: privileged access.
    pub privileged: bool,
    /// EXE: execute access.
    pub execute: bool,
    /// PP: the request carried a PASID.
    pub pasid_present: bool,
    /// FR: the reason.
    pub reason: u8,
    /// PV: the PASID.
    #[bits(20)]
    pub pasid: u32,
    /// AT: the request's address type.
    #[bits(2)]
    pub address_type: u8,
    /// T1: with T2, 0 and 0 a write, 1 and 0 a read, 0 and 1 a page request, 1 and 1 an AtomicOp.
    pub type1: bool,
    /// F: the record holds a fault; write 1 to clear.
    pub fault: bool,
}

const _: () = assert!(size_of::<FaultRecord>() == 16);
