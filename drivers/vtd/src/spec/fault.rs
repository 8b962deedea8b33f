//! Fault recording register (section 11.4.7.5) and fault reasons (section 7.1.3).

use bitfield_struct::bitfield;
use iommu_core::hw::FaultKind;

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

/// What a fault reason means: its class and words for it. Unlisted codes are [`FaultKind::Unknown`].
pub fn reason(code: u8) -> (FaultKind, &'static str) {
    use FaultKind::*;
    match code {
        // Legacy mode; QEMU gives 1 and 2 in scalable mode too.
        0x01 => (Blocked, "root entry not present"),
        0x02 => (Blocked, "context entry not present"),
        0x03 => (Structure, "context entry invalid"),
        0x04 => (Address, "address beyond the domain's width"),
        0x05 => (Permission, "no write permission in the second stage"),
        0x06 => (Permission, "no read permission in the second stage"),
        0x07 => (Structure, "next-level table cannot be read"),
        0x08 => (Structure, "root table cannot be read"),
        0x09 => (Structure, "context table cannot be read"),
        0x0a => (Structure, "reserved bits in the root entry"),
        0x0b => (Structure, "reserved bits in the context entry"),
        0x0c => (Structure, "reserved bits in a paging entry"),
        0x0d => (Request, "translation type blocks the request"),
        0x0e => (Address, "output in the interrupt range"),
        // Interrupt remapping.
        0x20 => (Interrupt, "reserved bits in the interrupt request"),
        0x21 => (Interrupt, "interrupt index beyond the table"),
        0x22 => (Interrupt, "interrupt entry not present"),
        0x23 => (Interrupt, "interrupt table cannot be read"),
        0x24 => (Interrupt, "reserved bits in the interrupt entry"),
        0x25 => (Interrupt, "compatibility-format interrupt blocked"),
        0x26 => (Interrupt, "source id does not match the interrupt entry"),
        // Scalable mode.
        0x30 => (Structure, "root table address invalid"),
        0x31 => (Request, "request with PASID in this table mode"),
        0x32 => (Request, "page request in this table mode"),
        0x38 => (Structure, "root entry cannot be read"),
        0x39 => (Blocked, "root entry not present"),
        0x3a => (Structure, "reserved bits in the root entry"),
        0x40 => (Structure, "context entry cannot be read"),
        0x41 => (Blocked, "context entry not present"),
        0x42 => (Structure, "reserved bits in the context entry"),
        0x43 => (Structure, "context entry invalid"),
        0x44 => (Request, "device TLB not enabled"),
        0x45 => (Request, "PASID not enabled"),
        0x46 => (Request, "PASID beyond the directory"),
        0x47 => (Request, "page requests not enabled"),
        0x48 => (Structure, "RID_PASID beyond the directory"),
        0x50 => (Structure, "PASID directory entry cannot be read"),
        0x51 => (Blocked, "PASID directory entry not present"),
        0x52 => (Structure, "reserved bits in the PASID directory entry"),
        0x58 => (Structure, "PASID entry cannot be read"),
        0x59 => (Blocked, "PASID entry not present"),
        0x5a => (Structure, "reserved bits in the PASID entry"),
        0x5b => (Structure, "PASID entry invalid"),
        0x5c => (Request, "execute requests not enabled"),
        0x5d => (Request, "supervisor requests not enabled"),
        0x70 => (Structure, "first-stage entry cannot be read"),
        0x71 => (NotMapped, "first-stage entry not present"),
        0x72 => (Structure, "reserved bits in a first-stage entry"),
        0x73 => (Structure, "first-stage root cannot be read"),
        0x74 => (Address, "first-stage table beyond the second stage's width"),
        0x75..=0x77 => (Structure, "second stage refuses a first-stage table"),
        0x78 => (Structure, "second-stage entry cannot be read"),
        0x79 => (Permission, "no permission in the second stage"),
        0x7a => (Structure, "reserved bits in a second-stage entry"),
        0x7b => (Structure, "second-stage root invalid"),
        0x7c => (Structure, "second-stage A/D update without snooping"),
        0x80 => (Address, "address not canonical"),
        0x81 => (Permission, "first-stage page is for supervisors"),
        0x82 => (Permission, "no execute permission"),
        0x83 => (Address, "address beyond the hardware's width"),
        0x84 => (Address, "address beyond the second stage's width"),
        0x85 => (Permission, "no write permission"),
        0x86 => (Permission, "no read permission"),
        0x87 => (Address, "output in the interrupt range"),
        0x90 => (Structure, "first-stage A/D update without snooping"),
        _ => (Unknown, "unknown reason"),
    }
}
