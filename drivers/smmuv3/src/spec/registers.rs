//! Registers of the Non-secure programming interface (section 6.3): offsets and fields.

#![allow(
    missing_docs,
    reason = "the macro documents registers and fields, not the types and constants it makes of them"
)]

use tock_registers::register_bitfields;

/// The first of the six identification registers [`IDR0`] to [`IDR5`], 32 bits each, side by side.
pub const IDR0_REG: usize = 0x00;
/// Number of identification registers.
pub const IDR_COUNT: usize = 6;
/// [`IIDR`]. 32 bits, read only.
pub const IIDR_REG: usize = 0x18;
/// Architecture version: ArchMajorRev in bits 7:4, ArchMinorRev in bits 3:0. 32 bits.
pub const AIDR_REG: usize = 0x1c;
/// [`CR0`]. 32 bits.
pub const CR0_REG: usize = 0x20;
/// What hardware has taken over from [`CR0_REG`]. 32 bits, read only.
pub const CR0ACK_REG: usize = 0x24;
/// [`CR1`]. 32 bits; changes only while SMMUEN and all queues are off.
pub const CR1_REG: usize = 0x28;
/// [`CR2`]. 32 bits; changes only while SMMUEN is off.
pub const CR2_REG: usize = 0x2c;
/// [`GBPA`]. 32 bits.
pub const GBPA_REG: usize = 0x44;
/// [`IRQ_CTRL`]. 32 bits.
pub const IRQ_CTRL_REG: usize = 0x50;
/// What hardware has taken over from [`IRQ_CTRL_REG`]. 32 bits, read only.
pub const IRQ_CTRLACK_REG: usize = 0x54;
/// [`GERROR`]. 32 bits, read only: a bit toggles when its error happens.
pub const GERROR_REG: usize = 0x60;
/// Bits as in [`GERROR_REG`]; an error is active where the two differ. 32 bits.
pub const GERRORN_REG: usize = 0x64;
/// Where the interrupt message of global errors is written, a multiple of 4; 0 for none (SMMU_GERROR_IRQ_CFG0). 64 bits; as
/// the two behind it there with IDR0.MSI, and changed only while this interrupt is off.
pub const GERROR_IRQ_CFG0_REG: usize = 0x68;
/// What is written there (SMMU_GERROR_IRQ_CFG1). 32 bits.
pub const GERROR_IRQ_CFG1_REG: usize = 0x70;
/// As which type of memory, an [`IRQ_CFG2`] (SMMU_GERROR_IRQ_CFG2). 32 bits.
pub const GERROR_IRQ_CFG2_REG: usize = 0x74;
/// [`STRTAB_BASE`]. 64 bits.
pub const STRTAB_BASE_REG: usize = 0x80;
/// [`STRTAB_BASE_CFG`]. 32 bits.
pub const STRTAB_BASE_CFG_REG: usize = 0x88;
/// Command queue, a [`QUEUE_BASE`]. 64 bits.
pub const CMDQ_BASE_REG: usize = 0x90;
/// Index that software writes its next command to, with a wrap bit above it. 32 bits.
pub const CMDQ_PROD_REG: usize = 0x98;
/// [`CMDQ_CONS`]. 32 bits.
pub const CMDQ_CONS_REG: usize = 0x9c;
/// Event queue, a [`QUEUE_BASE`]. 64 bits.
pub const EVENTQ_BASE_REG: usize = 0xa0;
/// As [`GERROR_IRQ_CFG0_REG`], of the event queue. 64 bits.
pub const EVENTQ_IRQ_CFG0_REG: usize = 0xb0;
/// As [`GERROR_IRQ_CFG1_REG`], of the event queue. 32 bits.
pub const EVENTQ_IRQ_CFG1_REG: usize = 0xb8;
/// As [`GERROR_IRQ_CFG2_REG`], of the event queue. 32 bits.
pub const EVENTQ_IRQ_CFG2_REG: usize = 0xbc;
/// Index that hardware writes its next event to, an [`EVENTQ`]; in page 1. 32 bits.
pub const EVENTQ_PROD_REG: usize = 0x1_00a8;
/// Index that software reads its next event from, an [`EVENTQ`]; in page 1. 32 bits.
pub const EVENTQ_CONS_REG: usize = 0x1_00ac;
/// End of the registers of both pages that this driver uses, in bytes.
pub const FIXED_END: usize = 0x1_00b0;

register_bitfields! { u32,
    /// Features (SMMU_IDR0).
    pub IDR0 [
        /// Stage 2.
        S2P OFFSET(0) NUMBITS(1) [],
        /// Stage 1.
        S1P OFFSET(1) NUMBITS(1) [],
        /// Table formats: bit 0 is AArch32, bit 1 is AArch64.
        TTF OFFSET(2) NUMBITS(2) [],
        /// Tables, queues and structures are accessed coherently.
        COHACC OFFSET(4) NUMBITS(1) [],
        /// The CPUs' TLB maintenance reaches the unit.
        BTM OFFSET(5) NUMBITS(1) [],
        /// Hardware updates: 0 none, 1 access flags, 2 dirty state too.
        HTTU OFFSET(6) NUMBITS(2) [],
        /// Streams of EL2.
        HYP OFFSET(9) NUMBITS(1) [],
        /// Address translation services of PCIe.
        ATS OFFSET(10) NUMBITS(1) [],
        /// ASIDs have 16 bits, not 8.
        ASID16 OFFSET(12) NUMBITS(1) [],
        /// Message-signalled interrupts.
        MSI OFFSET(13) NUMBITS(1) [],
        /// CMD_SYNC can complete by an event to the CPUs.
        SEV OFFSET(14) NUMBITS(1) [],
        /// Page requests.
        PRI OFFSET(16) NUMBITS(1) [],
        /// VMIDs have 16 bits, not 8.
        VMID16 OFFSET(18) NUMBITS(1) [],
        /// Two-level tables of context descriptors.
        CD2L OFFSET(19) NUMBITS(1) [],
        /// Byte order of page tables.
        TTENDIAN OFFSET(21) NUMBITS(2) [
            Mixed = 0,
            Little = 2,
            Big = 3
        ],
        /// What may happen to a faulting access.
        STALL_MODEL OFFSET(24) NUMBITS(2) [
            StallOrTerminate = 0,
            Terminate = 1,
            Stall = 2
        ],
        /// Terminated accesses always abort.
        TERM_MODEL OFFSET(26) NUMBITS(1) [],
        /// Stream tables: 0 linear, 1 also two-level.
        ST_LEVEL OFFSET(27) NUMBITS(2) []
    ],
    /// Sizes (SMMU_IDR1).
    pub IDR1 [
        /// Stream ids have this many bits.
        SIDSIZE OFFSET(0) NUMBITS(6) [],
        /// Substream ids have this many bits.
        SSIDSIZE OFFSET(6) NUMBITS(5) [],
        /// log2 of the most entries of the event queue.
        EVENTQS OFFSET(16) NUMBITS(5) [],
        /// log2 of the most entries of the command queue.
        CMDQS OFFSET(21) NUMBITS(5) [],
        /// Memory type and shareability of accesses can be overridden.
        ATTR_TYPES_OVR OFFSET(27) NUMBITS(1) [],
        /// Preset addresses are offsets.
        REL OFFSET(28) NUMBITS(1) [],
        /// Queue addresses are fixed.
        QUEUES_PRESET OFFSET(29) NUMBITS(1) [],
        /// Table addresses are fixed.
        TABLES_PRESET OFFSET(30) NUMBITS(1) []
    ],
    /// More features (SMMU_IDR3).
    pub IDR3 [
        /// Execution can be refused by exception level in stage 2.
        XNX OFFSET(4) NUMBITS(1) [],
        /// Invalidation by range, and level hints.
        RIL OFFSET(10) NUMBITS(1) [],
        /// How live entries may change their size: 0 not, 1 with a flag for the while, 2 at once.
        BBML OFFSET(11) NUMBITS(2) []
    ],
    /// Who made it (SMMU_IIDR).
    pub IIDR [
        /// JEP106 code.
        IMPLEMENTER OFFSET(0) NUMBITS(12) [],
        /// Minor revision: p0, p1.
        REVISION OFFSET(12) NUMBITS(4) [],
        /// Major revision: r0, r1.
        VARIANT OFFSET(16) NUMBITS(4) [],
        /// Product.
        PRODUCT OFFSET(20) NUMBITS(12) []
    ],
    /// Addresses (SMMU_IDR5).
    pub IDR5 [
        /// Output addresses: 0 32, 1 36, 2 40, 3 42, 4 44, 5 48, 6 52 bits.
        OAS OFFSET(0) NUMBITS(3) [],
        /// 4 KiB granule.
        GRAN4K OFFSET(4) NUMBITS(1) [],
        /// 16 KiB granule.
        GRAN16K OFFSET(5) NUMBITS(1) [],
        /// 64 KiB granule.
        GRAN64K OFFSET(6) NUMBITS(1) []
    ],
    /// Enables (SMMU_CR0). Each takes effect once CR0ACK agrees.
    pub CR0 [
        /// Translation. While it is off, GBPA decides.
        SMMUEN OFFSET(0) NUMBITS(1) [],
        /// Page request queue.
        PRIQEN OFFSET(1) NUMBITS(1) [],
        /// Event queue.
        EVENTQEN OFFSET(2) NUMBITS(1) [],
        /// Command queue.
        CMDQEN OFFSET(3) NUMBITS(1) [],
        /// Accesses that a device claims to have translated are checked against the stream table.
        ATSCHK OFFSET(4) NUMBITS(1) [],
        /// VMID wildcard.
        VMW OFFSET(6) NUMBITS(3) []
    ],
    /// How the unit accesses memory (SMMU_CR1). Cacheability: 0 none, 1 write-back, 2 write-through;
    /// shareability: 0 none, 2 outer, 3 inner.
    pub CR1 [
        /// Inner cacheability of queues.
        QUEUE_IC OFFSET(0) NUMBITS(2) [],
        /// Outer cacheability of queues.
        QUEUE_OC OFFSET(2) NUMBITS(2) [],
        /// Shareability of queues.
        QUEUE_SH OFFSET(4) NUMBITS(2) [],
        /// Inner cacheability of the stream table.
        TABLE_IC OFFSET(6) NUMBITS(2) [],
        /// Outer cacheability of the stream table.
        TABLE_OC OFFSET(8) NUMBITS(2) [],
        /// Shareability of the stream table.
        TABLE_SH OFFSET(10) NUMBITS(2) []
    ],
    /// More of how the unit works (SMMU_CR2).
    pub CR2 [
        /// EL2 streams have ASIDs.
        E2H OFFSET(0) NUMBITS(1) [],
        /// Record C_BAD_STREAMID events.
        RECINVSID OFFSET(1) NUMBITS(1) [],
        /// Private TLB maintenance: that of the CPUs is ignored.
        PTM OFFSET(2) NUMBITS(1) []
    ],
    /// What happens to accesses while SMMUEN is off (SMMU_GBPA).
    pub GBPA [
        /// They are aborted, not passed through.
        ABORT OFFSET(20) NUMBITS(1) [],
        /// Written with 1 to have the other fields taken over; reads 1 until they are.
        UPDATE OFFSET(31) NUMBITS(1) []
    ],
    /// Interrupts of the unit itself (SMMU_IRQ_CTRL). Each takes effect once IRQ_CTRLACK agrees.
    pub IRQ_CTRL [
        /// Of global errors.
        GERROR_IRQEN OFFSET(0) NUMBITS(1) [],
        /// Of page requests.
        PRIQ_IRQEN OFFSET(1) NUMBITS(1) [],
        /// Of the event queue.
        EVENTQ_IRQEN OFFSET(2) NUMBITS(1) []
    ],
    /// How an interrupt message is written (SMMU_GERROR_IRQ_CFG2, SMMU_EVENTQ_IRQ_CFG2).
    pub IRQ_CFG2 [
        /// Memory type, as STE.MemAttr has it.
        MEMATTR OFFSET(0) NUMBITS(4) [
            DeviceNGnRE = 1
        ],
        /// Shareability, which device memory has none of.
        SH OFFSET(4) NUMBITS(2) []
    ],
    /// Global errors (SMMU_GERROR).
    pub GERROR [
        /// A command could not be carried out: CMDQ_CONS says which and why.
        CMDQ_ERR OFFSET(0) NUMBITS(1) [],
        /// An event could not be written: events are lost.
        EVENTQ_ABT_ERR OFFSET(2) NUMBITS(1) [],
        /// A page request could not be written.
        PRIQ_ABT_ERR OFFSET(3) NUMBITS(1) [],
        /// The interrupt message of a CMD_SYNC was refused.
        MSI_CMDQ_ABT_ERR OFFSET(4) NUMBITS(1) [],
        /// The interrupt message of the event queue was refused.
        MSI_EVENTQ_ABT_ERR OFFSET(5) NUMBITS(1) [],
        /// The interrupt message of the page request queue was refused.
        MSI_PRIQ_ABT_ERR OFFSET(6) NUMBITS(1) [],
        /// The interrupt message of global errors was refused.
        MSI_GERROR_ABT_ERR OFFSET(7) NUMBITS(1) [],
        /// The unit has entered service failure mode.
        SFM_ERR OFFSET(8) NUMBITS(1) [],
        /// A command of an enhanced command queue could not be carried out; with IDR1.ECMDQ.
        CMDQP_ERR OFFSET(9) NUMBITS(1) [],
        /// A lookup in the device permission table failed; with IDR3.DPT.
        DPT_ERR OFFSET(10) NUMBITS(1) []
    ],
    /// Shape of the stream table (SMMU_STRTAB_BASE_CFG).
    pub STRTAB_BASE_CFG [
        /// The table serves 2^LOG2SIZE stream ids.
        LOG2SIZE OFFSET(0) NUMBITS(6) [],
        /// Stream id bits that a level-2 table resolves: 6, 8 or 10.
        SPLIT OFFSET(6) NUMBITS(5) [],
        /// Levels.
        FMT OFFSET(16) NUMBITS(2) [
            Linear = 0,
            TwoLevel = 1
        ]
    ],
    /// Command queue read index (SMMU_CMDQ_CONS).
    pub CMDQ_CONS [
        /// Index and wrap bit of the next command that hardware reads.
        RD OFFSET(0) NUMBITS(20) [],
        /// Why it stopped there, once GERROR.CMDQ_ERR is active: see [`command`](super::command).
        ERR OFFSET(24) NUMBITS(7) []
    ],
    /// Event queue indices (SMMU_EVENTQ_PROD, SMMU_EVENTQ_CONS).
    pub EVENTQ [
        /// Index and wrap bit.
        INDEX OFFSET(0) NUMBITS(20) [],
        /// PROD: toggles when events are lost because the queue is full. CONS: the value of it that software has seen.
        OVERFLOW OFFSET(31) NUMBITS(1) []
    ]
}

register_bitfields! { u64,
    /// Stream table (SMMU_STRTAB_BASE).
    pub STRTAB_BASE [
        /// Address in units of 64 bytes.
        ADDR OFFSET(6) NUMBITS(46) [],
        /// Read-allocate hint.
        RA OFFSET(62) NUMBITS(1) []
    ],
    /// A queue (SMMU_CMDQ_BASE, SMMU_EVENTQ_BASE).
    pub QUEUE_BASE [
        /// The queue has 2^LOG2SIZE entries.
        LOG2SIZE OFFSET(0) NUMBITS(5) [],
        /// Address in units of 32 bytes.
        ADDR OFFSET(5) NUMBITS(47) [],
        /// Read- or write-allocate hint.
        ALLOCATE OFFSET(62) NUMBITS(1) []
    ]
}
