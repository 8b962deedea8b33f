//! What a driver must not do.

/// A breach of the specification that a unit cannot report, or does not have to. Offsets are of registers, in bytes.
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
    /// An access of 8 bytes to a register of 4.
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
    /// A write to where this unit has no register, or has one that is not modelled. The copies in page 0 of the
    /// registers of page 1 are none.
    NoRegister {
        /// Offset in bytes.
        offset: usize,
        /// What was written.
        value: u64,
    },
    /// Reserved bits set in a write, or bits of an address beyond the output address size.
    ReservedBits {
        /// Offset in bytes.
        offset: usize,
        /// The reserved bits that were set.
        bits: u64,
    },
    /// A write to what may be written only while the enable that guards it is off, and acknowledged as off.
    WhileEnabled {
        /// Offset in bytes.
        offset: usize,
        /// What was written.
        value: u64,
    },
    /// A field of CR0, IRQ_CTRL or GBPA was changed before its last change was acknowledged.
    BeforeAcknowledged {
        /// Offset in bytes.
        offset: usize,
        /// What was written.
        value: u32,
    },
    /// GBPA was written without UPDATE, which does nothing.
    WithoutUpdate {
        /// What was written.
        value: u32,
    },
    /// GERRORN was toggled where no error is active.
    NoSuchError {
        /// The bits that were toggled.
        bits: u32,
    },
    /// The base of a table or queue that was enabled is not aligned to its size.
    BaseMisaligned {
        /// Offset in bytes.
        offset: usize,
        /// The base register.
        base: u64,
    },
    /// A stream table of a format that the unit does not have, or with a split that no unit has.
    Format {
        /// STRTAB_BASE_CFG.
        value: u32,
    },
    /// A queue larger than the unit allows, or of no size.
    QueueSize {
        /// Offset of the base register in bytes.
        offset: usize,
        /// log2 of its entries.
        log2: u32,
    },
    /// SMMUEN was set before everything that caches may hold after reset was invalidated.
    CachesUnknown {
        /// CFGI_ALL was missing.
        configuration: bool,
        /// TLBI_NSNH_ALL was missing.
        translations: bool,
        /// TLBI_EL2_ALL was missing, and the unit has EL2 streams.
        el2: bool,
    },
    /// An index beyond its queue: bits above the wrap bit are set.
    Index {
        /// Offset in bytes.
        offset: usize,
        /// What was written.
        value: u32,
    },
    /// The command queue was overrun, or its producer went back.
    Produced {
        /// PROD.
        prod: u32,
        /// CONS.
        cons: u32,
    },
    /// More events or page requests were consumed than there are, or the consumer went back.
    Consumed {
        /// PROD.
        prod: u32,
        /// CONS.
        cons: u32,
    },
    /// OVACKFLG was toggled without overflow.
    NoOverflow {
        /// What was written to EVENTQ_CONS or PRIQ_CONS.
        value: u32,
    },
    /// A CMD_SYNC that reports to where no memory is.
    MessageNowhere {
        /// The address.
        address: u64,
    },
    /// Two translations of different sizes for one address are cached at once: break-before-make was left out, and the
    /// unit is not one that allows it (IDR3.BBML is below 2).
    Conflict {
        /// The address.
        iova: u64,
    },
    /// A translation was changed, and the new one came to be cached while the old one was: break-before-make was left out.
    Changed {
        /// The address.
        iova: u64,
    },
    /// Leaves of a contiguous group that are valid, and do not map contiguous memory alike; with IDR3.BBML 2 the
    /// contiguous bit itself may differ.
    Contiguous {
        /// The address.
        iova: u64,
    },
    /// A TLB invalidation with granule whose address is not aligned for its level: what it covers is unpredictable (section
    /// 4.4.1), here nothing.
    RangeMisaligned {
        /// The address.
        address: u64,
        /// log2 of the granule.
        granule: u8,
        /// TTL.
        level: u8,
    },
    /// Hardware updates of a stage whose walks are not coherent and write-back cacheable (IDR0.COHACC, IR, OR and SH).
    UpdatesNotSnooped {
        /// Stage 2.
        second: bool,
    },
    /// A stream, substream, VMID or address in a command that is beyond what the unit has: the command does nothing.
    OutOfRange {
        /// The command.
        command: [u64; 2],
    },
    /// A command was written to after it was handed over and before it was consumed.
    CommandChanged {
        /// Its number in the queue.
        slot: usize,
    },
    /// CMD_RESUME for what no record told of, or what was answered already.
    StrayResume {
        /// Stream id.
        sid: u32,
        /// Stall tag.
        tag: u16,
    },
    /// CMD_STALL_TERM for a stream whose STE, as the unit sees it, does not terminate new requests: whether anything is
    /// terminated is UNPREDICTABLE, here nothing.
    StallTermWhileLive {
        /// Stream id.
        sid: u32,
    },
    /// CR0.ATSCHK was changed while an STE with EATS of 2 may be cached.
    SplitStageUnchecked,
    /// Base or size of a queue was not set up when it was enabled: its indices are more than a queue apart.
    Indices {
        /// Offset of the base register in bytes.
        offset: usize,
        /// PROD.
        prod: u32,
        /// CONS.
        cons: u32,
    },
}
