//! Invalidation registers (sections 11.4.6 and 6.5.1): what units without a queue have in its place.

#![allow(
    missing_docs,
    reason = "the macro documents registers and fields, not the types and constants it makes of them"
)]

use tock_registers::register_bitfields;

/// [`CCMD`]. 64 bits.
pub const CCMD_REG: usize = 0x28;
/// Offset of [`IVA`] from the IOTLB registers (ECAP.IRO). 64 bits.
pub const IVA_OFFSET: usize = 0;
/// Offset of [`IOTLB`] from there. 64 bits.
pub const IOTLB_OFFSET: usize = 8;

register_bitfields! { u64,
    /// Context command.
    pub CCMD [
        /// Domain id.
        DID OFFSET(0) NUMBITS(16) [],
        /// Source id.
        SID OFFSET(16) NUMBITS(16) [],
        /// Low bits of the function number that are ignored.
        FM OFFSET(32) NUMBITS(2) [],
        /// What was done: as CIRG, 0 for nothing.
        CAIG OFFSET(59) NUMBITS(2) [],
        /// What is to be done.
        CIRG OFFSET(61) NUMBITS(2) [
            Global = 1,
            Domain = 2,
            Device = 3
        ],
        /// Set by software to begin, cleared by hardware at the end.
        ICC OFFSET(63) NUMBITS(1) []
    ],
    /// Invalidate address.
    pub IVA [
        /// 2^AM pages.
        AM OFFSET(0) NUMBITS(6) [],
        /// Only leaves changed.
        IH OFFSET(6) NUMBITS(1) [],
        /// Number of the first page.
        ADDR OFFSET(12) NUMBITS(52) []
    ],
    /// IOTLB invalidate.
    pub IOTLB [
        /// Domain id.
        DID OFFSET(32) NUMBITS(16) [],
        /// Writes are drained.
        DW OFFSET(48) NUMBITS(1) [],
        /// Reads are drained.
        DR OFFSET(49) NUMBITS(1) [],
        /// What was done: as IIRG, 0 for nothing.
        IAIG OFFSET(57) NUMBITS(2) [],
        /// What is to be done.
        IIRG OFFSET(60) NUMBITS(2) [
            Global = 1,
            Domain = 2,
            Pages = 3
        ],
        /// Set by software to begin, cleared by hardware at the end.
        IVT OFFSET(63) NUMBITS(1) []
    ]
}
