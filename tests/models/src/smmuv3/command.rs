//! Commands (section 4) as a unit understands them.

mod decode;

pub(super) use decode::decode;

/// What a TLB invalidation covers, of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// First address.
    pub address: u64,
    /// Length in bytes; `None` for a single address, whatever leaf holds it.
    pub len: Option<u64>,
    /// Only leaves (Leaf).
    pub leaf_only: bool,
    /// The level of the leaves, 1 to 3; 0 where it is not known (TTL).
    pub level: u8,
    /// log2 of the granule (TG); 0 for any.
    pub granule: u8,
}

/// A command that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// CMD_PREFETCH_CONFIG and CMD_PREFETCH_ADDR: caches may be filled.
    Prefetch {
        /// Stream id.
        sid: u32,
        /// Substream id.
        ssid: Option<u32>,
        /// The first address; `None` for the configuration alone.
        address: Option<u64>,
    },
    /// CMD_CFGI_STE.
    ConfigSte {
        /// Stream id.
        sid: u32,
        /// Only the STE, not the level-1 descriptor.
        leaf: bool,
    },
    /// CMD_CFGI_STE_RANGE, of 2^`log2` streams.
    ConfigRange {
        /// First stream id.
        sid: u32,
        /// log2 of their number.
        log2: u8,
    },
    /// CMD_CFGI_ALL.
    ConfigAll,
    /// CMD_CFGI_CD.
    ConfigCd {
        /// Stream id.
        sid: u32,
        /// Substream id.
        ssid: u32,
        /// Only the CD, not the level-1 descriptor.
        leaf: bool,
    },
    /// CMD_CFGI_CD_ALL.
    ConfigCdAll {
        /// Stream id.
        sid: u32,
    },
    /// CMD_TLBI_NH_ALL: stage 1 of a VMID.
    TlbiAll {
        /// VMID.
        vmid: u16,
    },
    /// CMD_TLBI_NH_ASID.
    TlbiAsid {
        /// VMID.
        vmid: u16,
        /// ASID.
        asid: u16,
    },
    /// CMD_TLBI_NH_VA, and CMD_TLBI_NH_VAA without ASID.
    TlbiVa {
        /// VMID.
        vmid: u16,
        /// ASID; `None` for all.
        asid: Option<u16>,
        /// Where.
        scope: Scope,
    },
    /// CMD_TLBI_EL2_ALL.
    TlbiEl2All,
    /// CMD_TLBI_EL2_ASID.
    TlbiEl2Asid {
        /// ASID.
        asid: u16,
    },
    /// CMD_TLBI_EL2_VA, and CMD_TLBI_EL2_VAA without ASID.
    TlbiEl2Va {
        /// ASID; `None` for all.
        asid: Option<u16>,
        /// Where.
        scope: Scope,
    },
    /// CMD_TLBI_S12_VMALL.
    TlbiVmid {
        /// VMID.
        vmid: u16,
    },
    /// CMD_TLBI_S2_IPA.
    TlbiIpa {
        /// VMID.
        vmid: u16,
        /// Where.
        scope: Scope,
    },
    /// CMD_TLBI_NSNH_ALL.
    TlbiEverything,
    /// CMD_ATC_INV.
    AtcInvalidate {
        /// Stream id.
        sid: u32,
        /// Substream id; `None` for what was asked for without one.
        ssid: Option<u32>,
        /// With a substream id: of every substream.
        global: bool,
        /// Address and size as they stand in the second word.
        address: u64,
    },
    /// CMD_PRI_RESP.
    PageResponse {
        /// Stream id.
        sid: u32,
        /// Substream id.
        ssid: Option<u32>,
        /// Group.
        group: u16,
        /// 0 response failure, 1 invalid request, 2 success.
        code: u8,
    },
    /// CMD_RESUME.
    Resume {
        /// Stream id.
        sid: u32,
        /// Stall tag.
        tag: u16,
        /// What becomes of it.
        action: Action,
    },
    /// CMD_STALL_TERM.
    StallTerminate {
        /// Stream id.
        sid: u32,
    },
    /// CMD_SYNC.
    Sync {
        /// 0 none, 1 interrupt, 2 event to waiting CPUs.
        signal: u8,
        /// Where the interrupt is written, and what; `None` where it goes by wire, as it does in units without messages.
        message: Option<(u64, u32)>,
    },
}

/// What CMD_RESUME does with a request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ac set: it is translated again, as if it had just come.
    Retry,
    /// Ac and Ab clear: it reads zeros, or writes nothing.
    Zeros,
    /// Ac clear, Ab set: it is aborted.
    Abort,
}

/// A command that was consumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Where it stood in the queue: its number, not bytes.
    pub slot: usize,
    /// Its words.
    pub raw: [u64; 2],
    /// What it says.
    pub command: Command,
}

impl Command {
    /// Whether it takes effect only later, at the latest at the CMD_SYNC behind it.
    pub(super) const fn is_invalidation(&self) -> bool {
        !matches!(
            self,
            Self::Prefetch { .. }
                | Self::PageResponse { .. }
                | Self::Resume { .. }
                | Self::StallTerminate { .. }
                | Self::Sync { .. }
        )
    }

    /// Whether it invalidates STEs or CDs.
    pub(super) const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::ConfigSte { .. }
                | Self::ConfigRange { .. }
                | Self::ConfigAll
                | Self::ConfigCd { .. }
                | Self::ConfigCdAll { .. }
        )
    }
}
