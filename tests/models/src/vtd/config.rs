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
    /// CAP.CM: entries that are not present may be cached.
    pub const CAP_CM: u64 = 1 << 7;
    /// CAP.RWBF: a write-buffer flush is required.
    pub const CAP_RWBF: u64 = 1 << 4;
    /// CAP.ESRTPS: SRTP also drops every cache.
    pub const CAP_ESRTPS: u64 = 1 << 63;
    /// ECAP.SC: snoop control.
    pub const ECAP_SC: u64 = 1 << 7;
    /// ECAP.PT: pass-through.
    pub const ECAP_PT: u64 = 1 << 6;
    /// ECAP.DT: device TLBs.
    pub const ECAP_DT: u64 = 1 << 2;
    /// ECAP.PASID: requests with PASID.
    pub const ECAP_PASID: u64 = 1 << 40;
    /// ECAP.SMPWCS: page walks can snoop.
    pub const ECAP_SMPWCS: u64 = 1 << 48;

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
        // SAGAW 3, 4 and 5 levels; MGAW 57; NFR 3; ESRTPS, FS5LP, FS1GP.
        let cap = second.cap & !(0x1f << 8 | 0x3f << 16 | 0xff << 40)
            | 0xe << 8
            | 56 << 16
            | 3 << 40
            | Self::CAP_ESRTPS
            | 1 << 60
            | 1 << 56;
        // SMPWCS, RPS, FSTS, PASID, PSS 20 bits, SC, DT, C, PDS.
        let ecap = second.ecap
            | Self::ECAP_SMPWCS
            | 1 << 49
            | 1 << 47
            | Self::ECAP_PASID
            | 19 << 35
            | Self::ECAP_SC
            | Self::ECAP_DT
            | 1
            | 1 << 42;
        Self { version: 0x40, cap, ecap, haw: 46, window: 0x1000 }
    }

    /// The same unit with the bits of `mask` in CAP set or cleared.
    pub const fn cap_bits(self, mask: u64, set: bool) -> Self {
        Self { cap: if set { self.cap | mask } else { self.cap & !mask }, ..self }
    }

    /// The same unit with the bits of `mask` in ECAP set or cleared.
    pub const fn ecap_bits(self, mask: u64, set: bool) -> Self {
        Self { ecap: if set { self.ecap | mask } else { self.ecap & !mask }, ..self }
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
