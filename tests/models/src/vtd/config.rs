//! What a unit reports in VER, CAP and ECAP, and the width of the host's addresses.

/// The unit's identity: raw registers, and what follows from them.
///
/// The constructors give sensible units; [`Config::cap_bits`] and [`Config::ecap_bits`] change single bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// VER (section 11.4.1): major in bits 7:4, minor in 3:0.
    pub version: u32,
    /// CAP (section 11.4.2).
    pub cap: u64,
    /// ECAP (section 11.4.3).
    pub ecap: u64,
    /// Host address width in bits, as DMAR reports it.
    pub haw: u8,
    /// Length of the register window in bytes.
    pub window: usize,
}

impl Config {
    /// CAP.RWBF: a write-buffer flush is required.
    pub const CAP_RWBF: u64 = 1 << 4;
    /// CAP.PLMR: a low protected memory region.
    pub const CAP_PLMR: u64 = 1 << 5;
    /// CAP.PHMR: a high protected memory region.
    pub const CAP_PHMR: u64 = 1 << 6;
    /// CAP.CM: entries that are not present may be cached.
    pub const CAP_CM: u64 = 1 << 7;
    /// CAP.ZLR: zero-length reads of pages that are write-only.
    pub const CAP_ZLR: u64 = 1 << 22;
    /// CAP.SSLPS: second-stage leaves of 2 MiB.
    pub const CAP_SSLPS_2M: u64 = 1 << 34;
    /// CAP.SSLPS: second-stage leaves of 1 GiB.
    pub const CAP_SSLPS_1G: u64 = 1 << 35;
    /// CAP.PSI: page-selective invalidation of the second stage.
    pub const CAP_PSI: u64 = 1 << 39;
    /// CAP.FS1GP: first-stage leaves of 1 GiB.
    pub const CAP_FS1GP: u64 = 1 << 56;
    /// CAP.FS5LP: first stage of 5 levels.
    pub const CAP_FS5LP: u64 = 1 << 60;
    /// CAP.ESRTPS: SRTP also drops every cache.
    pub const CAP_ESRTPS: u64 = 1 << 63;

    /// ECAP.C: root, context and PASID structures are snooped, and in legacy mode page walks.
    pub const ECAP_C: u64 = 1;
    /// ECAP.QI: queued invalidation.
    pub const ECAP_QI: u64 = 1 << 1;
    /// ECAP.DT: device TLBs.
    pub const ECAP_DT: u64 = 1 << 2;
    /// ECAP.IR: interrupt remapping.
    pub const ECAP_IR: u64 = 1 << 3;
    /// ECAP.PT: pass-through.
    pub const ECAP_PT: u64 = 1 << 6;
    /// ECAP.SC: snoop control.
    pub const ECAP_SC: u64 = 1 << 7;
    /// ECAP.MTS: memory types.
    pub const ECAP_MTS: u64 = 1 << 25;
    /// ECAP.NEST: nested translation.
    pub const ECAP_NEST: u64 = 1 << 26;
    /// ECAP.PRS: page requests.
    pub const ECAP_PRS: u64 = 1 << 29;
    /// ECAP.ERS: execute requests, up to revision 4.0.
    pub const ECAP_ERS: u64 = 1 << 30;
    /// ECAP.SRS: supervisor requests.
    pub const ECAP_SRS: u64 = 1 << 31;
    /// ECAP.NWFS: the no-write flag of translation requests.
    pub const ECAP_NWFS: u64 = 1 << 33;
    /// ECAP.EAFS: the extended accessed flag.
    pub const ECAP_EAFS: u64 = 1 << 34;
    /// ECAP.PASID: requests with PASID.
    pub const ECAP_PASID: u64 = 1 << 40;
    /// ECAP.DIT: device-TLB invalidations name the physical function.
    pub const ECAP_DIT: u64 = 1 << 41;
    /// ECAP.PDS: waits can drain page requests.
    pub const ECAP_PDS: u64 = 1 << 42;
    /// ECAP.SMTS: scalable mode.
    pub const ECAP_SMTS: u64 = 1 << 43;
    /// ECAP.SSADS: accessed and dirty bits in the second stage.
    pub const ECAP_SSADS: u64 = 1 << 45;
    /// ECAP.SSTS: second stage in scalable mode.
    pub const ECAP_SSTS: u64 = 1 << 46;
    /// ECAP.FSTS: first stage in scalable mode.
    pub const ECAP_FSTS: u64 = 1 << 47;
    /// ECAP.SMPWCS: page walks can snoop.
    pub const ECAP_SMPWCS: u64 = 1 << 48;
    /// ECAP.RPS: RID_PASID.
    pub const ECAP_RPS: u64 = 1 << 49;
    /// ECAP.ADMS: abort-DMA mode.
    pub const ECAP_ADMS: u64 = 1 << 52;
    /// ECAP.RPRIVS: RID_PRIV.
    pub const ECAP_RPRIVS: u64 = 1 << 53;
    /// ECAP.PTRS: PASIDs in translated requests.
    pub const ECAP_PTRS: u64 = 1 << 56;

    /// What QEMU 10 and 11 report by default: legacy mode, second stage of 3 and 4 levels, pass-through.
    pub const fn legacy() -> Self {
        Self { ecap: 0x0000_0000_00f0_0f4a, ..Self::second_stage() }
    }

    /// What QEMU 10 and 11 report with `x-scalable-mode=on`: second stage of 3 and 4 levels, pass-through.
    pub const fn second_stage() -> Self {
        Self { version: 0x10, cap: 0x00d2_008c_222f_0606, ecap: 0x0000_4800_80f0_0f4a, haw: 48, window: 0x1000 }
    }

    /// What QEMU 10 and 11 report with `x-scalable-mode=on,x-flts=on`: first stage of 4 levels only, pass-through.
    pub const fn first_stage() -> Self {
        Self { cap: 0x01d2_008c_222f_0606, ecap: 0x0000_8800_00f0_0f4a, ..Self::second_stage() }
    }

    /// A unit as servers have it: both stages, up to 5 levels, PASIDs of 20 bits, device TLBs, snooped page walks, four
    /// fault records, SRTP that drops the caches; 46 bits of address.
    pub const fn server() -> Self {
        let second = Self::second_stage();
        // SAGAW 3, 4 and 5 levels; MGAW 57; NFR 3.
        let cap = second.cap & !(0x1f << 8 | 0x3f << 16 | 0xff << 40)
            | 0xe << 8
            | 56 << 16
            | 3 << 40
            | Self::CAP_ESRTPS
            | Self::CAP_FS5LP
            | Self::CAP_FS1GP;
        let ecap = second.ecap
            | Self::ECAP_SMPWCS
            | Self::ECAP_RPS
            | Self::ECAP_FSTS
            | Self::ECAP_PASID
            | Self::ECAP_SC
            | Self::ECAP_DT
            | Self::ECAP_C
            | Self::ECAP_PDS;
        Self { version: 0x40, cap, ecap, haw: 46, window: 0x1000 }.pasid_bits(20)
    }

    /// [`Config::server`] with all that the specification adds: nested translation, accessed and dirty bits in the
    /// second stage, the extended accessed flag, abort-DMA mode, page requests, RID_PRIV, the no-write flag.
    pub const fn server_nested() -> Self {
        let more = Self::ECAP_NEST
            | Self::ECAP_SSADS
            | Self::ECAP_EAFS
            | Self::ECAP_ADMS
            | Self::ECAP_PRS
            | Self::ECAP_RPRIVS
            | Self::ECAP_NWFS;
        Self::server().ecap_bits(more, true)
    }

    /// The same unit with the bits of `mask` in CAP set or cleared.
    pub const fn cap_bits(self, mask: u64, set: bool) -> Self {
        Self { cap: if set { self.cap | mask } else { self.cap & !mask }, ..self }
    }

    /// The same unit with the bits of `mask` in ECAP set or cleared.
    pub const fn ecap_bits(self, mask: u64, set: bool) -> Self {
        Self { ecap: if set { self.ecap | mask } else { self.ecap & !mask }, ..self }
    }

    /// The same unit with PASIDs of `bits` bits, 1 to 20: ECAP.PSS.
    pub const fn pasid_bits(self, bits: u32) -> Self {
        Self { ecap: self.ecap & !(0x1f << 35) | (bits as u64 - 1) << 35, ..self }
    }

    /// The same unit with second-stage tables of these depths alone: bit 1 three levels, bit 2 four, bit 3 five.
    pub const fn depths(self, sagaw: u64) -> Self {
        Self { cap: self.cap & !(0x1f << 8) | sagaw << 8, ..self }
    }

    /// The same unit with guest addresses of `bits` bits: CAP.MGAW.
    pub const fn guest_bits(self, bits: u32) -> Self {
        Self { cap: self.cap & !(0x3f << 16) | (bits as u64 - 1) << 16, ..self }
    }

    /// The same unit with domain ids of `4 + 2 * nd` bits: CAP.ND.
    pub const fn domain_ids(self, nd: u64) -> Self {
        Self { cap: self.cap & !7 | nd, ..self }
    }

    /// The same unit with caching mode, as QEMU's `caching-mode=on`.
    pub const fn caching_mode(self) -> Self {
        self.cap_bits(Self::CAP_CM, true)
    }

    pub(super) const fn cap_bit(&self, bit: u32) -> bool {
        self.cap >> bit & 1 != 0
    }

    pub(super) const fn ecap_bit(&self, bit: u32) -> bool {
        self.ecap >> bit & 1 != 0
    }

    pub(super) const fn caching(&self) -> bool {
        self.cap & Self::CAP_CM != 0
    }

    /// Second-stage depths: bit 1 three levels, bit 2 four, bit 3 five.
    pub(super) const fn sagaw(&self) -> u64 {
        self.cap >> 8 & 0x1f
    }

    /// Width of guest addresses in bits.
    pub(super) const fn mgaw(&self) -> u32 {
        (self.cap >> 16 & 0x3f) as u32 + 1
    }

    /// Largest address mask of a page-selective invalidation.
    pub(super) const fn mamv(&self) -> u64 {
        self.cap >> 48 & 0x3f
    }

    /// Offset of the first fault record.
    pub(super) const fn fault_offset(&self) -> usize {
        (self.cap >> 24 & 0x3ff) as usize * 16
    }

    /// Number of fault records.
    pub(super) const fn fault_records(&self) -> usize {
        (self.cap >> 40 & 0xff) as usize + 1
    }

    /// Offset of IVA; IOTLB follows.
    pub(super) const fn iotlb_offset(&self) -> usize {
        (self.ecap >> 8 & 0x3ff) as usize * 16
    }

    /// Whether the second stage has tables for this value of AW.
    pub(super) const fn has_width(&self, width: u64) -> bool {
        self.sagaw() & 0xe & 1 << (width & 0xf) != 0
    }

    /// Width in bits of the second stage's input for this value of AW, which must be valid.
    pub(super) const fn input_bits(&self, width: u64) -> u32 {
        let table = 12 + 9 * (width as u32 + 2);
        if table < self.mgaw() { table } else { self.mgaw() }
    }

    /// Width in bits of the largest AGAW; 48 where there is no second stage.
    pub const fn address_bits(&self) -> u32 {
        match self.sagaw() {
            sagaw if sagaw & 8 != 0 => 57,
            sagaw if sagaw & 4 == 0 && sagaw & 2 != 0 => 39,
            _ => 48,
        }
    }

    /// Width of domain ids in bits.
    pub(super) const fn domain_bits(&self) -> u32 {
        4 + 2 * (self.cap & 7) as u32
    }

    /// Bits of a domain id that the unit looks at.
    pub(super) const fn domain_mask(&self) -> u16 {
        ((1u64 << self.domain_bits()) - 1) as u16
    }

    /// Width of PASIDs in bits.
    pub(super) const fn pasid_width(&self) -> u32 {
        (self.ecap >> 35 & 0x1f) as u32 + 1
    }
}
