//! Event types.

/// An event type as a record holds it (section 7.3), by the specification's names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultCode(pub u8);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl FaultCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// The name of the constant; `None` for a code that nothing here gives.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Blocked without any record: an STE that aborts, or GBPA.
    NONE = 0x00;
    /// The stream id is beyond the table, or its level-1 descriptor is not valid.
    C_BAD_STREAMID = 0x02;
    /// No memory at the STE or its level-1 descriptor.
    F_STE_FETCH = 0x03;
    /// The STE is not valid, or asks for what the unit cannot do.
    C_BAD_STE = 0x04;
    /// A request for translations of a stream that may not have any.
    F_BAD_ATS_TREQ = 0x05;
    /// A request without substream where S1DSS terminates them, or one of substream 0 where S1DSS takes it.
    F_STREAM_DISABLED = 0x06;
    /// A translated request of a stream that may not send any.
    F_TRANSL_FORBIDDEN = 0x07;
    /// A substream where there are none, beyond the table, or behind a level-1 descriptor that is not valid.
    C_BAD_SUBSTREAMID = 0x08;
    /// No memory at the CD or its level-1 descriptor.
    F_CD_FETCH = 0x09;
    /// The CD is not valid, or asks for what the unit cannot do.
    C_BAD_CD = 0x0a;
    /// No memory at a translation table.
    F_WALK_EABT = 0x0b;
    /// No valid descriptor, or an address beyond the tables.
    F_TRANSLATION = 0x10;
    /// An address beyond what the tables, or the unit, may give.
    F_ADDR_SIZE = 0x11;
    /// The access flag is clear.
    F_ACCESS = 0x12;
    /// The leaf, or a table on the way, forbids the access.
    F_PERMISSION = 0x13;
}

impl core::fmt::Debug for FaultCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.name().unwrap_or("?"))
    }
}

/// What the unit was after when it was refused (CLASS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) enum Class {
    /// A CD.
    Cd = 0,
    /// A table of stage 1.
    Table = 1,
    /// The request's own address.
    Input = 2,
}

/// What a stage makes of faults (section 5.5): A, R and S of a CD; S2R and S2S of an STE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Policy {
    /// R is clear: no record.
    pub(in crate::smmuv3) silent: bool,
    /// S: the request waits for an answer.
    pub(in crate::smmuv3) stalls: bool,
    /// A: the device is told; otherwise it reads zeros and writes nothing.
    pub(in crate::smmuv3) aborts: bool,
}

impl Policy {
    /// Of the configuration itself: recorded and aborted.
    pub(super) const NONE: Self = Self { silent: false, stalls: false, aborts: true };
}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Refused {
    pub(in crate::smmuv3) code: FaultCode,
    /// It was stage 2 that refused.
    pub(in crate::smmuv3) second: bool,
    pub(in crate::smmuv3) class: Class,
    /// The input of stage 2.
    pub(in crate::smmuv3) ipa: u64,
    /// What could not be read.
    pub(in crate::smmuv3) fetch: u64,
    /// What stage 2 refused was a write: that of an accessed or dirty flag into a table of stage 1 (TTRnW clear).
    pub(in crate::smmuv3) table_write: bool,
    /// What the stage that refused makes of it.
    pub(in crate::smmuv3) policy: Policy,
    /// STE.MEV, or no STE was found: like events may be merged.
    pub(in crate::smmuv3) merges: bool,
}

impl Refused {
    /// By the configuration, or by stage 1.
    pub(super) const fn by(code: FaultCode) -> Self {
        let (second, class, table_write) = (false, Class::Input, false);
        Self { code, second, class, ipa: 0, fetch: 0, table_write, policy: Policy::NONE, merges: true }
    }

    /// For want of memory at `fetch`.
    pub(super) const fn fetching(code: FaultCode, fetch: u64) -> Self {
        Self { fetch, ..Self::by(code) }
    }
}
