//! Fault reasons.

use super::AddressType;

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
    /// Blocked without any record: an address that means an interrupt.
    NONE = 0x00;
    /// Legacy mode: root entry not present.
    LEGACY_ROOT_NOT_PRESENT = 0x01;
    /// Legacy mode: context entry not present.
    LEGACY_CONTEXT_NOT_PRESENT = 0x02;
    /// Legacy mode: a context entry that the unit cannot serve, or no memory at the top of its tables.
    LEGACY_CONTEXT_INVALID = 0x03;
    /// Legacy mode: the input is beyond its width.
    LEGACY_BEYOND_WIDTH = 0x04;
    /// Legacy mode: the tables forbid the write.
    LEGACY_WRITE = 0x05;
    /// Legacy mode: the tables forbid the read.
    LEGACY_READ = 0x06;
    /// Legacy mode: no memory at a paging entry below the top.
    LEGACY_ACCESS = 0x07;
    /// Legacy mode: no memory at the root entry.
    LEGACY_ROOT_ACCESS = 0x08;
    /// Legacy mode: no memory at the context entry.
    LEGACY_CONTEXT_ACCESS = 0x09;
    /// Legacy mode: reserved bits set in the root entry.
    LEGACY_ROOT_RESERVED = 0x0a;
    /// Legacy mode: reserved bits set in the context entry.
    LEGACY_CONTEXT_RESERVED = 0x0b;
    /// Legacy mode: reserved bits set in a paging entry.
    LEGACY_RESERVED = 0x0c;
    /// Legacy mode: the context entry does not let translation requests and translated requests through.
    LEGACY_BLOCKED = 0x0d;
    /// Legacy mode: the output lies where writes are interrupts.
    LEGACY_INTERRUPT_OUTPUT = 0x0e;
    /// A request without PASID to where interrupts go that is no interrupt (section 5.1.4.1).
    NO_INTERRUPT = 0x29;
    /// The translation mode is reserved or not supported, or the root table's address is beyond the host's.
    ROOT_ADDRESS = 0x30;
    /// A request with PASID in legacy mode.
    MODE = 0x31;
    /// Abort-DMA mode.
    ABORTED = 0x33;
    /// An execute request with PASID, on a unit that no longer knows them.
    NO_EXECUTE_REQUESTS = 0x34;
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
    /// Fields of the context entry contradict each other.
    CONTEXT_INVALID = 0x43;
    /// A translation request or translated request, but DTE is clear.
    DEVICE_TLB_DISABLED = 0x44;
    /// A request with PASID, but PASIDE is clear.
    PASID_DISABLED = 0x45;
    /// A PASID beyond the directory.
    PASID_TOO_LARGE = 0x46;
    /// A request with the PASID that stands for requests without.
    RID_PASID = 0x48;
    /// A translated request with PASID, but EPTR is clear.
    TRANSLATED_PASID = 0x49;
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
    /// An execute request, but ERE is clear.
    EXECUTE_DISABLED = 0x5c;
    /// A supervisor request, but SRE is clear.
    SUPERVISOR_DISABLED = 0x5d;
    /// No memory at a first-stage entry below the top.
    FIRST_ACCESS = 0x70;
    /// First-stage entry not present.
    FIRST_NOT_PRESENT = 0x71;
    /// Reserved bits set in a first-stage entry.
    FIRST_RESERVED = 0x72;
    /// No memory at the first-stage top table.
    FIRST_TOP_ACCESS = 0x73;
    /// Nested: the address in a first-stage entry is beyond the second stage's width.
    FIRST_BEYOND_WIDTH = 0x74;
    /// Nested: the second stage forbids to read the first-stage top table.
    FIRST_TOP_READ = 0x75;
    /// Nested: the second stage forbids to read a first-stage table below the top.
    FIRST_READ = 0x76;
    /// Nested: the second stage forbids to set accessed or dirty in a first-stage entry.
    FIRST_UPDATE = 0x77;
    /// No memory at a second-stage entry below the top.
    SECOND_ACCESS = 0x78;
    /// A second-stage entry that allows nothing, or entries that together do.
    SECOND_PERMISSION = 0x79;
    /// Reserved bits set in a second-stage entry.
    SECOND_RESERVED = 0x7a;
    /// No memory at the second-stage top table.
    SECOND_TOP_ACCESS = 0x7b;
    /// Accessed or dirty must be set, in second-stage tables that the walk does not snoop.
    SECOND_ACCESSED = 0x7c;
    /// Accessed or dirty could not be set in a second-stage entry, which kept changing.
    SECOND_UPDATE_FAILED = 0x7d;
    /// The input of the first stage is not canonical.
    NOT_CANONICAL = 0x80;
    /// A supervisor page, and the request is a user's.
    USER = 0x81;
    /// An execute request to a page that does not allow it.
    NO_EXECUTE = 0x82;
    /// Pass-through or a translated request to an address beyond the host's.
    BEYOND_HOST = 0x83;
    /// The input of the second stage is beyond its width.
    BEYOND_WIDTH = 0x84;
    /// The tables forbid the write.
    NO_WRITE = 0x85;
    /// The tables forbid the read.
    NO_READ = 0x86;
    /// The output lies where writes are interrupts.
    INTERRUPT_OUTPUT = 0x87;
    /// A PASID wider than the unit supports (PSS).
    PASID_BEYOND_UNIT = 0x89;
    /// Accessed or dirty must be set, in first-stage tables that the walk does not snoop.
    FIRST_ACCESSED = 0x90;
    /// Accessed or dirty could not be set in a first-stage entry, which kept changing.
    FIRST_UPDATE_FAILED = 0x91;
}

/// How a unit answers a request that it blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Unsupported request. A device turns its ATS off after one to a translation request.
    Unsupported,
    /// Completer abort.
    Aborted,
    /// A translation completion that allows nothing; no fault, but for the code that says otherwise.
    Empty,
}

impl FaultCode {
    /// The first stage forbids the write: [`FaultCode::NO_WRITE`].
    pub const FIRST_WRITE: Self = Self::NO_WRITE;

    /// Whether FPD in an entry on the way silences it (table of section 7.1.3, column "qualified").
    pub const fn is_qualified(self) -> bool {
        !matches!(self.0, 0x01 | 0x08..=0x0a | 0x29 | 0x30..=0x3a | 0x40 | 0x50 | 0x58)
    }

    /// How a request with this AT is answered (table of section 7.1.3).
    pub const fn answer(self, address: AddressType) -> Answer {
        match (address, self.0) {
            (AddressType::Untranslated, _) | (AddressType::Translated, ..0x50 | 0x80..) => Answer::Unsupported,
            (AddressType::Translated, _) => Answer::Aborted,
            (AddressType::Translation, 0x00..=0x02 | 0x0d | 0x31..=0x34 | 0x39 | 0x41 | 0x44..=0x46 | 0x48 | 0x89) => {
                Answer::Unsupported
            }
            (
                AddressType::Translation,
                0x04..=0x06 | 0x51 | 0x59 | 0x5c | 0x5d | 0x70..=0x77 | 0x79 | 0x80..=0x86 | 0x90 | 0x91,
            ) => Answer::Empty,
            (AddressType::Translation, _) => Answer::Aborted,
        }
    }

    /// Whether a request with this AT that ends so is a fault that software gets to see, FPD aside.
    pub const fn is_fault(self, address: AddressType) -> bool {
        self.0 != 0 && (self.0 == 0x91 || !matches!(self.answer(address), Answer::Empty))
    }

    /// Whether root and context entry alone give it, whatever the request.
    pub(in crate::vtd) const fn is_context(self) -> bool {
        matches!(self.0, 0x01..=0x03 | 0x0a | 0x0b | 0x39..=0x3a | 0x41..=0x43)
    }

    /// Whether PASID directory and table alone give it, whatever the request.
    pub(in crate::vtd) const fn is_pasid(self) -> bool {
        matches!(self.0, 0x51..=0x52 | 0x59..=0x5b)
    }
}

impl core::fmt::Debug for FaultCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.name().unwrap_or("?"))
    }
}
