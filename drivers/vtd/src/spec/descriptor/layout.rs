//! The words of descriptors (section 6.5.2.1 to 6.5.2.9, and 7.6.1 for the response): fields at their bits, the rest 0.

use bitfield_struct::bitfield;

/// Types (bits 3:0; bits 11:9 extend them and are 0 in all of these).
pub mod kind {
    pub const CONTEXT_CACHE: u8 = 1;
    pub const IOTLB: u8 = 2;
    pub const DEVICE_TLB: u8 = 3;
    pub const INTERRUPT_ENTRIES: u8 = 4;
    pub const WAIT: u8 = 5;
    pub const PASID_IOTLB: u8 = 6;
    pub const PASID_CACHE: u8 = 7;
    pub const PASID_DEVICE_TLB: u8 = 8;
    pub const PAGE_GROUP_RESPONSE: u8 = 9;
}

#[bitfield(u64)]
pub struct ContextCache0 {
    #[bits(4)]
    pub kind: u8,
    #[bits(2)]
    pub granularity: u8,
    #[bits(10)]
    __: u16,
    pub domain_id: u16,
    pub source: u16,
    /// FM: phantom functions, which this driver leaves to the function they belong to.
    #[bits(2)]
    pub function_mask: u8,
    #[bits(14)]
    __: u16,
}

#[bitfield(u64)]
pub struct Iotlb0 {
    #[bits(4)]
    pub kind: u8,
    #[bits(2)]
    pub granularity: u8,
    pub drain_writes: bool,
    pub drain_reads: bool,
    #[bits(8)]
    __: u8,
    pub domain_id: u16,
    #[bits(32)]
    __: u32,
}

#[bitfield(u64)]
pub struct DeviceTlb0 {
    #[bits(4)]
    pub kind: u8,
    #[bits(8)]
    __: u8,
    #[bits(4)]
    pub physical_low: u16,
    #[bits(5)]
    pub most_pending: u8,
    #[bits(11)]
    __: u16,
    pub source: u16,
    #[bits(4)]
    __: u8,
    #[bits(12)]
    pub physical_high: u16,
}

#[bitfield(u64)]
pub struct DeviceTlb1 {
    pub size: bool,
    #[bits(11)]
    __: u16,
    #[bits(52)]
    pub frame: u64,
}

#[bitfield(u64)]
pub struct PasidDeviceTlb0 {
    #[bits(4)]
    pub kind: u8,
    #[bits(5)]
    pub most_pending: u8,
    #[bits(3)]
    __: u8,
    #[bits(4)]
    pub physical_low: u16,
    pub source: u16,
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    pub physical_high: u16,
}

#[bitfield(u64)]
pub struct PasidDeviceTlb1 {
    pub global: bool,
    #[bits(10)]
    __: u16,
    pub size: bool,
    #[bits(52)]
    pub frame: u64,
}

#[bitfield(u64)]
pub struct InterruptEntries0 {
    #[bits(4)]
    pub kind: u8,
    pub selective: bool,
    #[bits(22)]
    __: u32,
    #[bits(5)]
    pub index_mask: u8,
    pub index: u16,
    #[bits(16)]
    __: u16,
}

#[bitfield(u64)]
pub struct Pasid0 {
    #[bits(4)]
    pub kind: u8,
    #[bits(2)]
    pub granularity: u8,
    #[bits(10)]
    __: u16,
    pub domain_id: u16,
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
}

#[bitfield(u64)]
pub struct Address1 {
    #[bits(6)]
    pub mask: u8,
    pub leaves_only: bool,
    #[bits(5)]
    __: u8,
    #[bits(52)]
    pub frame: u64,
}

#[bitfield(u64)]
pub struct Wait0 {
    #[bits(4)]
    pub kind: u8,
    pub interrupt: bool,
    pub status_write: bool,
    pub fence: bool,
    pub page_request_drain: bool,
    #[bits(24)]
    __: u32,
    pub status_data: u32,
}

#[bitfield(u64)]
pub struct PageGroupResponse0 {
    #[bits(4)]
    pub kind: u8,
    pub pasid_present: bool,
    #[bits(7)]
    __: u8,
    #[bits(4)]
    pub code: u8,
    pub requester: u16,
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
}

#[bitfield(u64)]
pub struct PageGroupResponse1 {
    #[bits(3)]
    __: u8,
    #[bits(9)]
    pub group: u16,
    #[bits(52)]
    __: u64,
}
