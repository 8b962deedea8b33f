//! What a unit reports in its identification registers.

use super::walk::Granule;

/// The unit's identity: raw registers (section 6.3.1 to 6.3.8), and what follows from them.
///
/// The constructors give sensible units; [`Config::idr0_bits`] and its like change single bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// IDR0: stages, formats, features.
    pub idr0: u32,
    /// IDR1: widths of stream and substream ids, sizes of queues.
    pub idr1: u32,
    /// IDR3: range invalidation and other features.
    pub idr3: u32,
    /// IDR5: output address size and granules.
    pub idr5: u32,
    /// IIDR.
    pub iidr: u32,
    /// AIDR: minor version in 3:0.
    pub aidr: u32,
    /// GBPA at reset.
    pub gbpa: u32,
    /// Length of the register window in bytes.
    pub window: usize,
}

impl Config {
    /// IDR0.S2P.
    pub const S2P: u32 = 1;
    /// IDR0.S1P.
    pub const S1P: u32 = 1 << 1;
    /// IDR0.COHACC: tables and queues are snooped.
    pub const COHACC: u32 = 1 << 4;
    /// IDR0.HYP: EL2 streams.
    pub const HYP: u32 = 1 << 9;
    /// IDR0.ATS.
    pub const ATS: u32 = 1 << 10;
    /// IDR0.NS1ATS: no ATS of stage 1 alone.
    pub const NS1ATS: u32 = 1 << 11;
    /// IDR0.ASID16.
    pub const ASID16: u32 = 1 << 12;
    /// IDR0.MSI.
    pub const MSI: u32 = 1 << 13;
    /// IDR0.SEV: CMD_SYNC wakes waiting CPUs.
    pub const SEV: u32 = 1 << 14;
    /// IDR0.PRI.
    pub const PRI: u32 = 1 << 16;
    /// IDR0.VMID16.
    pub const VMID16: u32 = 1 << 18;
    /// IDR0.CD2L.
    pub const CD2L: u32 = 1 << 19;
    /// IDR0.TERM_MODEL: terminated transactions abort, so CD.A must be set.
    pub const TERM_MODEL: u32 = 1 << 26;
    /// IDR0.ST_LEVEL: both bits.
    pub const ST_LEVEL: u32 = 3 << 27;
    /// IDR1.ATTR_PERMS_OVR: PRIVCFG and INSTCFG.
    pub const ATTR_PERMS_OVR: u32 = 1 << 26;
    /// IDR1.ATTR_TYPES_OVR.
    pub const ATTR_TYPES_OVR: u32 = 1 << 27;
    /// IDR1.REL, QUEUES_PRESET and TABLES_PRESET.
    pub const PRESET: u32 = 7 << 28;
    /// IDR3.RIL: invalidation by range.
    pub const RIL: u32 = 1 << 10;
    /// IDR3.STT: small translation tables.
    pub const STT: u32 = 1 << 9;
    /// IDR5.GRAN4K.
    pub const GRAN4K: u32 = 1 << 4;
    /// IDR5.GRAN16K.
    pub const GRAN16K: u32 = 1 << 5;
    /// IDR5.GRAN64K.
    pub const GRAN64K: u32 = 1 << 6;

    /// What QEMU 10 and 11 report for `-M virt,iommu=smmuv3`: both stages.
    pub const fn nested() -> Self {
        Self {
            idr0: 0x0d44_101b,
            idr1: 0x0273_0010,
            idr3: 0x1414,
            idr5: 0x74,
            iidr: 0,
            aidr: 1,
            gbpa: 0x1000,
            window: 0x2_0000,
        }
    }

    /// As [`Config::nested`] with stage 1 only.
    pub const fn stage_1() -> Self {
        Self::nested().idr0_bits(Self::S2P, false)
    }

    /// As [`Config::nested`] with stage 2 only.
    pub const fn stage_2() -> Self {
        Self::nested().idr0_bits(Self::S1P, false)
    }

    /// A unit as servers have it: stream ids of 24 bits, substreams of 20 bits, 48 bits of address; EL2, ATS, PRI, MSI,
    /// SEV, hardware AF and dirty state, up to 16 stalls; command queue of 2^8 and event queue of 2^7 entries.
    pub const fn server() -> Self {
        let base = Self::nested();
        let added = 2 << 6 | Self::HYP | Self::ATS | Self::MSI | 1 << 14 | Self::PRI | Self::CD2L;
        Self {
            // STALL_MODEL 0, TERM_MODEL 0.
            idr0: base.idr0 & !(3 << 24 | Self::TERM_MODEL) | added,
            idr1: 24 | 20 << 6 | 7 << 11 | 7 << 16 | 8 << 21 | Self::ATTR_TYPES_OVR,
            // FWB and RIL, BBML 1.
            idr3: 1 << 8 | Self::RIL | 1 << 11 | 1 << 2,
            idr5: 5 | 7 << 4 | 16 << 16,
            // MMU-600 r2p0.
            iidr: 0x483 << 20 | 2 << 16 | 0x43b,
            aidr: 2,
            gbpa: 0,
            ..base
        }
    }

    /// A unit as small as it may be and still have both stages: stream ids of 6 bits in a linear table, ASIDs and VMIDs
    /// of 8 bits, 40 bits of address, 4 KiB granule only, queues of two entries, no ranges, nothing snooped.
    pub const fn small() -> Self {
        let base = Self::nested();
        Self {
            idr0: base.idr0 & !(Self::COHACC | Self::ASID16 | Self::VMID16 | Self::ST_LEVEL | Self::TERM_MODEL),
            idr1: 6 | 1 << 16 | 1 << 21,
            idr3: 0,
            idr5: 2 | Self::GRAN4K,
            aidr: 0,
            gbpa: 0,
            ..base
        }
    }

    /// The same unit with the bits of `mask` in IDR0 set or cleared.
    pub const fn idr0_bits(self, mask: u32, set: bool) -> Self {
        Self { idr0: if set { self.idr0 | mask } else { self.idr0 & !mask }, ..self }
    }

    /// The same unit without invalidation by range.
    pub const fn without_ril(self) -> Self {
        Self { idr3: self.idr3 & !Self::RIL, ..self }
    }

    /// The same unit with linear stream tables only.
    pub const fn linear(self) -> Self {
        self.idr0_bits(Self::ST_LEVEL, false)
    }

    /// The same unit, which snoops nothing.
    pub const fn non_coherent(self) -> Self {
        self.idr0_bits(Self::COHACC, false)
    }

    /// The same unit with stream ids of `bits` bits.
    pub const fn sid_bits(self, bits: u32) -> Self {
        Self { idr1: self.idr1 & !0x3f | bits, ..self }
    }

    /// The same unit with queues of 2^`log2` entries.
    pub const fn queues(self, log2: u32) -> Self {
        Self { idr1: self.idr1 & !(0x1f << 16 | 0x1f << 21) | log2 << 16 | log2 << 21, ..self }
    }

    /// The same unit with this IDR5.OAS.
    pub const fn oas(self, oas: u32) -> Self {
        Self { idr5: self.idr5 & !7 | oas, ..self }
    }

    /// The same unit with these granules only: [`Config::GRAN4K`] and its like.
    pub const fn granules(self, bits: u32) -> Self {
        Self { idr5: self.idr5 & !(7 << 4) | bits, ..self }
    }

    /// The same unit with this IDR0.HTTU: 0 no hardware updates, 1 access flags, 2 dirty state as well.
    pub const fn httu(self, level: u32) -> Self {
        Self { idr0: self.idr0 & !(3 << 6) | level << 6, ..self }
    }

    /// The same unit with substream ids of `bits` bits, at most 20, and 2-level CD tables where there are any.
    pub const fn ssid_bits(self, bits: u32) -> Self {
        Self { idr1: self.idr1 & !(0x1f << 6) | bits << 6, ..self }.idr0_bits(Self::CD2L, bits != 0)
    }

    /// The same unit with this IDR0.STALL_MODEL: 0 faults stall or terminate, 1 they terminate, 2 they stall.
    pub const fn stalling(self, model: u32) -> Self {
        Self { idr0: self.idr0 & !(3 << 24) | model << 24, ..self }
    }

    /// The same unit with or without ATS, and page requests with it.
    pub const fn ats(self, has: bool) -> Self {
        self.idr0_bits(if has { Self::ATS } else { Self::ATS | Self::PRI }, has)
    }

    /// The same unit with this IDR3.BBML: how much of break-before-make it does without.
    pub const fn break_level(self, level: u32) -> Self {
        Self { idr3: self.idr3 & !(3 << 11) | level << 11, ..self }
    }

    pub(super) const fn has(&self, bits: u32) -> bool {
        self.idr0 & bits == bits
    }

    /// HTTU: 0 none, 1 access flags, 2 and 3 dirty state as well.
    pub(super) const fn updates(&self) -> u32 {
        self.idr0 >> 6 & 3
    }

    pub(super) const fn stall_model(&self) -> u32 {
        self.idr0 >> 24 & 3
    }

    pub(super) const fn two_level(&self) -> bool {
        self.idr0 >> 27 & 3 == 1
    }

    pub(super) const fn sid_size(&self) -> u32 {
        self.idr1 & 0x3f
    }

    pub(super) const fn ssid_size(&self) -> u32 {
        self.idr1 >> 6 & 0x1f
    }

    pub(super) const fn event_log2(&self) -> u32 {
        self.idr1 >> 16 & 0x1f
    }

    pub(super) const fn command_log2(&self) -> u32 {
        self.idr1 >> 21 & 0x1f
    }

    pub(super) const fn pri_log2(&self) -> u32 {
        self.idr1 >> 11 & 0x1f
    }

    pub(super) const fn ril(&self) -> bool {
        self.idr3 & Self::RIL != 0
    }

    pub(super) const fn hierarchical_disable(&self) -> bool {
        self.idr3 >> 2 & 1 != 0
    }

    pub(super) const fn forced_write_back(&self) -> bool {
        self.idr3 >> 8 & 1 != 0
    }

    pub(super) const fn small_tables(&self) -> bool {
        self.idr3 >> 9 & 1 != 0
    }

    pub(super) const fn bbml(&self) -> u32 {
        self.idr3 >> 11 & 3
    }

    pub(super) const fn has_granule(&self, granule: Granule) -> bool {
        let bit = match granule.bits() {
            12 => Self::GRAN4K,
            14 => Self::GRAN16K,
            _ => Self::GRAN64K,
        };
        self.idr5 & bit != 0
    }

    /// log2 of the smallest granule, which is that of ATS (STU).
    pub(super) const fn smallest_granule(&self) -> u32 {
        match self.idr5 >> 4 & 7 {
            granules if granules & 1 != 0 => 12,
            granules if granules & 2 != 0 => 14,
            _ => 16,
        }
    }

    /// The largest T0SZ, T1SZ or S2T0SZ.
    pub(super) const fn most_t0sz(&self, granule: Granule) -> u32 {
        match (self.small_tables(), granule.bits()) {
            (false, _) => 39,
            (true, 16) => 47,
            _ => 48,
        }
    }

    /// Width in bits of an address size in the encoding of OAS, IPS and S2PS; `None` where it is reserved.
    pub(super) const fn width(code: u64) -> Option<u32> {
        match code {
            0 => Some(32),
            1 => Some(36),
            2 => Some(40),
            3 => Some(42),
            4 => Some(44),
            5 => Some(48),
            6 => Some(52),
            _ => None,
        }
    }

    /// Width in bits of the addresses that the unit gives.
    pub fn output_bits(&self) -> u32 {
        Self::width((self.idr5 & 7).into()).unwrap_or(52)
    }
}
