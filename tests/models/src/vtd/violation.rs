//! What a driver must not do.

use iommu_core::addr::PhysAddr;

/// A breach of the specification that a unit cannot report, or does not have to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// An access of `width` bytes to an offset that is not a multiple of them.
    Misaligned {
        /// Offset in bytes.
        offset: usize,
        /// Width in bytes.
        width: usize,
    },
    /// An access outside of the window.
    OutsideWindow {
        /// Offset in bytes.
        offset: usize,
        /// Width in bytes.
        width: usize,
    },
    /// An access that is not as wide as the register, or begins inside of it.
    WrongWidth {
        /// Offset in bytes.
        offset: usize,
        /// Width in bytes.
        width: usize,
    },
    /// A write to a register that is read only.
    ReadOnly {
        /// Offset in bytes.
        offset: usize,
        /// What was written.
        value: u64,
    },
    /// A write to where this unit has no register, or has one that is not modelled.
    NoRegister {
        /// Offset in bytes.
        offset: usize,
        /// What was written.
        value: u64,
    },
    /// Reserved bits set in a write.
    ReservedBits {
        /// Offset of the register in bytes.
        offset: usize,
        /// The reserved bits that were set.
        bits: u64,
    },
    /// One write to GCMD that commands several things (section 11.4.4).
    ManyCommands {
        /// The bits commanded.
        bits: u32,
    },
    /// A write to GCMD before the last command was answered (section 11.4.4).
    CommandWhilePending {
        /// The bits that were not answered.
        pending: u32,
        /// What was written.
        value: u32,
    },
    /// A command that the unit does not have.
    NoCommand {
        /// The bits commanded.
        bits: u32,
    },
    /// Translation enabled before a root table was set.
    NoRoot,
    /// A root table with another translation mode, set while translation is enabled (section 11.4.5).
    ModeWhileTranslating {
        /// The new RTADDR.
        rtaddr: u64,
    },
    /// A root table with a translation mode that the unit does not have.
    NoMode {
        /// The new RTADDR.
        rtaddr: u64,
    },
    /// The queue was enabled at an address not aligned to its size.
    QueueMisaligned {
        /// The value of IQA.
        iqa: u64,
    },
    /// The queue was enabled with a tail that is not zero (section 6.5.2).
    TailNotZero {
        /// The value of IQT.
        iqt: u64,
    },
    /// The queue's address or width changed while it is enabled.
    QueueMoved {
        /// What was written to IQA.
        iqa: u64,
    },
    /// The queue was disabled with work in it.
    QueueNotEmpty {
        /// The value of IQH.
        iqh: u64,
        /// The value of IQT.
        iqt: u64,
    },
    /// The queue was disabled while descriptors that were fetched are not done: no wait came last (section 6.5.2).
    QueueNotQuiet {
        /// How many.
        pending: usize,
    },
    /// A tail that is not a multiple of a descriptor's size.
    TailMisaligned {
        /// What was written to IQT.
        iqt: u64,
    },
    /// A tail beyond the queue.
    TailOutOfRange {
        /// What was written to IQT.
        iqt: u64,
    },
    /// A device-TLB invalidation while translation is disabled (section 4.3).
    DeviceTlbWhileDisabled {
        /// The descriptor's first 8 bytes.
        descriptor: u64,
    },
    /// A page-selective invalidation of an address that is not aligned to its mask.
    InvalidationMisaligned {
        /// First address.
        address: u64,
        /// Address mask: 2^mask pages.
        mask: u8,
    },
    /// A wait that reports to where no memory is.
    StatusNowhere {
        /// The address.
        address: PhysAddr,
    },
    /// An invalidation through CCMD or the IOTLB registers where these are not to be used: the queue is enabled, the mode
    /// is not legacy, or the unit's version has them no more (sections 6.5.1, 6.5.2).
    InvalidationByRegister {
        /// Offset of the register in bytes.
        offset: usize,
        /// What was written.
        value: u64,
    },
    /// A write to a register that hardware owns until what was commanded through it is done (section 6.9).
    WriteWhilePending {
        /// Offset of the register in bytes.
        offset: usize,
        /// What was written.
        value: u64,
    },
    /// A protected memory region changed while it protects (section 11.4.8).
    ProtectedRegionMoved {
        /// Offset of the register in bytes.
        offset: usize,
        /// What was written.
        value: u64,
    },
    /// A device-TLB invalidation whose address and size mean nothing: all bits set.
    DeviceTlbSize {
        /// The descriptor's second 8 bytes.
        address: u64,
    },
    /// A device-TLB invalidation that lets hardware send more at once than the device takes (MIP).
    DeviceTlbDepth {
        /// The descriptor's first 8 bytes.
        descriptor: u64,
        /// How many invalidations the device takes at once.
        depth: u8,
    },
    /// A device-TLB invalidation that names another physical function than the device's (ECAP.DIT).
    DeviceTlbFunction {
        /// The descriptor's first 8 bytes.
        descriptor: u64,
        /// The device's physical function.
        function: u16,
    },
    /// Two PASID or context entries with one domain id that lead to different tables, or to a table and to none (sections
    /// 6.2.2.1 and 6.2.3.1): seen when the second one is cached.
    DomainShared {
        /// The domain id.
        domain: u16,
    },
    /// Domain id 0 in an entry of a unit with caching mode, which keeps it for itself (sections 6.2.2 and 6.2.3).
    DomainReserved {
        /// Source id of the request that met the entry.
        requester: u16,
    },
}
