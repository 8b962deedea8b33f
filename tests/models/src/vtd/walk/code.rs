//! Fault reasons.

/// A fault reason as FRCD holds it (section 7.1.3).
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
    /// Blocked without any record: abort-DMA mode, or an address that means an interrupt.
    NONE = 0x00;
    /// Legacy mode: the context entry is not present. Stands for all of legacy mode, which is not modelled.
    LEGACY_CONTEXT_NOT_PRESENT = 0x02;
    /// The root table's address is beyond the host's.
    ROOT_ADDRESS = 0x30;
    /// The translation mode is reserved, or is legacy and the request has a PASID.
    MODE = 0x31;
    /// No memory at the root entry.
    ROOT_ACCESS = 0x38;
    /// Root entry not present.
    ROOT_NOT_PRESENT = 0x39;
    /// Reserved bits set in the root entry.
    ROOT_RESERVED = 0x3a;
    /// No memory at the context entry.
    CONTEXT_ACCESS = 0x40;
    /// Context entry not present.
    CONTEXT_NOT_PRESENT = 0x41;
    /// Reserved bits set in the context entry.
    CONTEXT_RESERVED = 0x42;
    /// A request with PASID, but PASIDE is clear.
    PASID_DISABLED = 0x45;
    /// A PASID beyond the directory or the unit's width.
    PASID_TOO_LARGE = 0x46;
    /// RID_PASID lies beyond the directory.
    RID_PASID = 0x48;
    /// No memory at the PASID directory entry.
    DIRECTORY_ACCESS = 0x50;
    /// PASID directory entry not present.
    DIRECTORY_NOT_PRESENT = 0x51;
    /// Reserved bits set in the PASID directory entry.
    DIRECTORY_RESERVED = 0x52;
    /// No memory at the PASID table entry.
    PASID_ACCESS = 0x58;
    /// PASID table entry not present.
    PASID_NOT_PRESENT = 0x59;
    /// Reserved bits set in the PASID table entry.
    PASID_RESERVED = 0x5a;
    /// A PASID table entry that the unit cannot serve.
    PASID_INVALID = 0x5b;
    /// No memory at a first-stage entry below the top.
    FIRST_ACCESS = 0x70;
    /// First-stage entry not present.
    FIRST_NOT_PRESENT = 0x71;
    /// Reserved bits set in a first-stage entry.
    FIRST_RESERVED = 0x72;
    /// No memory at the first-stage top table.
    FIRST_TOP_ACCESS = 0x73;
    /// No memory at a second-stage entry.
    SECOND_ACCESS = 0x78;
    /// A second-stage entry lacks the permission asked for, or is not present.
    SECOND_PERMISSION = 0x79;
    /// Reserved bits set in a second-stage entry.
    SECOND_RESERVED = 0x7a;
    /// The input of the first stage is not canonical.
    NOT_CANONICAL = 0x80;
    /// A supervisor page, and requests are the user's.
    USER = 0x81;
    /// Pass-through to an address beyond the host's.
    BEYOND_HOST = 0x83;
    /// The input of the second stage is beyond its width.
    BEYOND_WIDTH = 0x84;
    /// The first stage forbids the write.
    FIRST_WRITE = 0x85;
    /// The output lies where writes are interrupts.
    INTERRUPT_OUTPUT = 0x87;
    /// Accessed or dirty must be set, in tables that the walk does not snoop.
    FIRST_ACCESSED = 0x90;
}

impl FaultCode {
    /// Whether FPD in an entry on the way silences it (table of section 7.1.3, column "qualified").
    pub const fn is_qualified(self) -> bool {
        !matches!(self.0, 0x30..=0x3a | 0x40 | 0x50 | 0x58)
    }
}

impl core::fmt::Debug for FaultCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.name().unwrap_or("?"))
    }
}
