//! Remapping registers (section 11.4): offsets and fields.

#![allow(
    missing_docs,
    reason = "the macro documents registers and fields, not the types and constants it makes of them"
)]

use tock_registers::register_bitfields;

/// Version: major in bits 7:4, minor in bits 3:0. 32 bits.
pub const VER: usize = 0x00;
/// [`CAP`]. 64 bits.
pub const CAP_REG: usize = 0x08;
/// [`ECAP`]. 64 bits.
pub const ECAP_REG: usize = 0x10;
/// Global command, write only. 32 bits, fields of [`GSTS`].
pub const GCMD_REG: usize = 0x18;
/// Global status, read only. 32 bits.
pub const GSTS_REG: usize = 0x1c;
/// [`RTADDR`]. 64 bits.
pub const RTADDR_REG: usize = 0x20;
/// [`FSTS`]. 32 bits.
pub const FSTS_REG: usize = 0x34;
/// [`FECTL`]: fault event control. 32 bits.
pub const FECTL_REG: usize = 0x38;
/// Data of the fault event's message. 32 bits.
pub const FEDATA_REG: usize = 0x3c;
/// Lower half of the fault event's address. 32 bits.
pub const FEADDR_REG: usize = 0x40;
/// Upper half of the fault event's address. 32 bits.
pub const FEUADDR_REG: usize = 0x44;
/// [`PMEN`]. 32 bits.
pub const PMEN_REG: usize = 0x64;
/// Invalidation queue head: byte offset of the next descriptor that hardware fetches. 64 bits, read only.
pub const IQH_REG: usize = 0x80;
/// Invalidation queue tail: byte offset of the next descriptor that software writes. 64 bits.
pub const IQT_REG: usize = 0x88;
/// [`IQA`]. 64 bits.
pub const IQA_REG: usize = 0x90;
/// Invalidation completion status. 32 bits.
pub const ICS_REG: usize = 0x9c;
/// Invalidation completion event control, fields of [`FECTL`]. 32 bits.
pub const IECTL_REG: usize = 0xa0;
/// [`IQERCD`]. 64 bits, read only.
pub const IQERCD_REG: usize = 0xb0;
/// Page request event control, fields of [`FECTL`]. 32 bits.
pub const PECTL_REG: usize = 0xe0;
/// End of the registers that every unit has, in bytes.
pub const FIXED_END: usize = 0xc0;

/// Length in bytes of the IVA and IOTLB registers, from ECAP.IRO on.
pub const IOTLB_LEN: usize = 16;

/// Length in bytes of one fault recording register.
pub const FRCD_LEN: usize = 16;

register_bitfields! { u64,
    /// Capabilities (section 11.4.2).
    pub CAP [
        /// Domain ids have 4 + 2 * ND bits.
        ND OFFSET(0) NUMBITS(3) [],
        /// Advanced fault log.
        AFL OFFSET(3) NUMBITS(1) [],
        /// Write buffers must be flushed.
        RWBF OFFSET(4) NUMBITS(1) [],
        /// Protected low-memory region.
        PLMR OFFSET(5) NUMBITS(1) [],
        /// Protected high-memory region.
        PHMR OFFSET(6) NUMBITS(1) [],
        /// Caching mode: not-present and erroneous entries may be cached.
        CM OFFSET(7) NUMBITS(1) [],
        /// Supported adjusted guest address widths: bit 1 is 39, bit 2 is 48, bit 3 is 57 bits.
        SAGAW OFFSET(8) NUMBITS(5) [],
        /// Maximum guest address width, minus 1.
        MGAW OFFSET(16) NUMBITS(6) [],
        /// Reads of length zero succeed where a page may only be written.
        ZLR OFFSET(22) NUMBITS(1) [],
        /// Offset of the fault recording registers, in 16-byte units.
        FRO OFFSET(24) NUMBITS(10) [],
        /// Second-stage large pages: bit 0 is 2 MiB, bit 1 is 1 GiB.
        SSLPS OFFSET(34) NUMBITS(4) [],
        /// Page-selective invalidation.
        PSI OFFSET(39) NUMBITS(1) [],
        /// Number of fault recording registers, minus 1.
        NFR OFFSET(40) NUMBITS(8) [],
        /// Largest address mask of page-selective invalidation.
        MAMV OFFSET(48) NUMBITS(6) [],
        /// Write draining.
        DWD OFFSET(54) NUMBITS(1) [],
        /// Read draining.
        DRD OFFSET(55) NUMBITS(1) [],
        /// First-stage 1 GiB pages.
        FS1GP OFFSET(56) NUMBITS(1) [],
        /// Posted interrupts.
        PI OFFSET(59) NUMBITS(1) [],
        /// First-stage 5-level paging.
        FS5LP OFFSET(60) NUMBITS(1) [],
        /// Enhanced commands.
        ECMDS OFFSET(61) NUMBITS(1) [],
        /// Setting the interrupt table pointer invalidates the interrupt entry cache.
        ESIRTPS OFFSET(62) NUMBITS(1) [],
        /// Setting the root table pointer invalidates all remapping caches.
        ESRTPS OFFSET(63) NUMBITS(1) []
    ],
    /// Extended capabilities (section 11.4.3).
    pub ECAP [
        /// Hardware snoops the caches when it reads root, context and PASID structures.
        C OFFSET(0) NUMBITS(1) [],
        /// Queued invalidation.
        QI OFFSET(1) NUMBITS(1) [],
        /// Device TLBs.
        DT OFFSET(2) NUMBITS(1) [],
        /// Interrupt remapping.
        IR OFFSET(3) NUMBITS(1) [],
        /// Interrupts to x2APIC destinations.
        EIM OFFSET(4) NUMBITS(1) [],
        /// Pass-through.
        PT OFFSET(6) NUMBITS(1) [],
        /// Snoop control.
        SC OFFSET(7) NUMBITS(1) [],
        /// Offset of the IOTLB registers, in 16-byte units.
        IRO OFFSET(8) NUMBITS(10) [],
        /// Largest handle mask of an interrupt entry invalidation.
        MHMV OFFSET(20) NUMBITS(4) [],
        /// Memory types.
        MTS OFFSET(25) NUMBITS(1) [],
        /// Nested translation.
        NEST OFFSET(26) NUMBITS(1) [],
        /// Page requests.
        PRS OFFSET(29) NUMBITS(1) [],
        /// Execute requests.
        ERS OFFSET(30) NUMBITS(1) [],
        /// Supervisor requests.
        SRS OFFSET(31) NUMBITS(1) [],
        /// The no-write flag of translation requests.
        NWFS OFFSET(33) NUMBITS(1) [],
        /// Extended accessed flags of the first stage.
        EAFS OFFSET(34) NUMBITS(1) [],
        /// PASIDs have PSS + 1 bits.
        PSS OFFSET(35) NUMBITS(5) [],
        /// Requests with PASID.
        PASID OFFSET(40) NUMBITS(1) [],
        /// Device-TLB invalidations are throttled by physical function: they must name it.
        DIT OFFSET(41) NUMBITS(1) [],
        /// Page requests can be drained.
        PDS OFFSET(42) NUMBITS(1) [],
        /// Scalable-mode translation.
        SMTS OFFSET(43) NUMBITS(1) [],
        /// Virtual commands.
        VCS OFFSET(44) NUMBITS(1) [],
        /// Second-stage accessed and dirty bits.
        SSADS OFFSET(45) NUMBITS(1) [],
        /// Second-stage translation in scalable mode.
        SSTS OFFSET(46) NUMBITS(1) [],
        /// First-stage translation in scalable mode.
        FSTS OFFSET(47) NUMBITS(1) [],
        /// Page walks of scalable mode can snoop the caches.
        SMPWCS OFFSET(48) NUMBITS(1) [],
        /// The RID_PASID field of context entries is honoured.
        RPS OFFSET(49) NUMBITS(1) [],
        /// Performance monitoring.
        PMS OFFSET(51) NUMBITS(1) [],
        /// Abort-DMA mode.
        ADMS OFFSET(52) NUMBITS(1) [],
        /// The RID_PRIV field of context entries is honoured.
        RPRIVS OFFSET(53) NUMBITS(1) []
    ],
    /// Root table address (section 11.4.5).
    pub RTADDR [
        /// Translation table mode.
        TTM OFFSET(10) NUMBITS(2) [
            Legacy = 0,
            Scalable = 1,
            AbortDma = 3
        ],
        /// Frame number of the root table.
        RTA OFFSET(12) NUMBITS(52) []
    ],
    /// Invalidation queue address (section 11.4.9.3).
    pub IQA [
        /// The queue has 2^QS frames.
        QS OFFSET(0) NUMBITS(3) [],
        /// Descriptors have 256 bits.
        DW OFFSET(11) NUMBITS(1) [],
        /// Frame number of the queue.
        IQA OFFSET(12) NUMBITS(52) []
    ],
    /// Invalidation queue error record (section 11.4.9.9).
    pub IQERCD [
        /// Why the queue stopped.
        IQEI OFFSET(0) NUMBITS(4) [],
        /// Source id of the device TLB that timed out.
        ITESID OFFSET(32) NUMBITS(16) [],
        /// Source id of the unexpected completion.
        ICESID OFFSET(48) NUMBITS(16) []
    ]
}

register_bitfields! { u32,
    /// Global status (section 11.4.4.2). The bits of the command register stand at the same places.
    pub GSTS [
        /// Compatibility-format interrupts.
        CFIS OFFSET(23) NUMBITS(1) [],
        /// Interrupt remapping table pointer.
        IRTPS OFFSET(24) NUMBITS(1) [],
        /// Interrupt remapping.
        IRES OFFSET(25) NUMBITS(1) [],
        /// Queued invalidation.
        QIES OFFSET(26) NUMBITS(1) [],
        /// Write-buffer flush.
        WBFS OFFSET(27) NUMBITS(1) [],
        /// Root table pointer.
        RTPS OFFSET(30) NUMBITS(1) [],
        /// Translation.
        TES OFFSET(31) NUMBITS(1) []
    ],
    /// Fault status (section 11.4.7.1).
    pub FSTS [
        /// A fault was lost because the records were full; write 1 to clear.
        PFO OFFSET(0) NUMBITS(1) [],
        /// A fault is pending; read only.
        PPF OFFSET(1) NUMBITS(1) [],
        /// Invalidation queue error; write 1 to clear.
        IQE OFFSET(4) NUMBITS(1) [],
        /// Unexpected invalidation completion; write 1 to clear.
        ICE OFFSET(5) NUMBITS(1) [],
        /// A device TLB did not answer; write 1 to clear.
        ITE OFFSET(6) NUMBITS(1) [],
        /// Index of the first pending fault record.
        FRI OFFSET(8) NUMBITS(8) []
    ],
    /// Fault event control (section 11.4.7.2). Those of invalidation completions and page requests look the same.
    pub FECTL [
        /// A message is held back; read only.
        IP OFFSET(30) NUMBITS(1) [],
        /// The fault interrupt is masked.
        IM OFFSET(31) NUMBITS(1) []
    ],
    /// Protected memory enable (section 11.4.8.1).
    pub PMEN [
        /// The regions are in force; read only.
        PRS OFFSET(0) NUMBITS(1) [],
        /// The regions are to be in force.
        EPM OFFSET(31) NUMBITS(1) []
    ]
}
