//! Fault reasons (section 7.1.3).

use core::fmt;
use iommu_core::hw::FaultKind;

macro_rules! reasons {
    ($($code:literal $name:ident = $kind:ident, $text:literal;)*) => {
        /// Why hardware refused a request, in the order of the codes.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reason {
            $(
                #[doc = concat!($text, " (", stringify!($code), ").")]
                $name,
            )*
            /// A code that the specification reserves, or that came after this driver.
            Unknown(u8),
        }

        impl Reason {
            /// Every reason that there are words for.
            pub const KNOWN: &[Self] = &[$(Self::$name),*];

            /// The reason with this code.
            pub const fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$name,)*
                    _ => Self::Unknown(code),
                }
            }

            /// The code, as FRCD.FR has it.
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Unknown(code) => code,
                }
            }

            /// What all drivers agree on about it.
            pub const fn kind(self) -> FaultKind {
                match self {
                    $(Self::$name => FaultKind::$kind,)*
                    Self::Unknown(_) => FaultKind::Unknown,
                }
            }

            /// In words.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unknown(_) => "unknown reason",
                }
            }
        }
    };
}

reasons! {
    // Legacy mode. Units of scalable mode give some of them, too: QEMU does for entries that are not present.
    0x01 LegacyRootNotPresent = Blocked, "root entry not present";
    0x02 LegacyContextNotPresent = Blocked, "context entry not present";
    0x03 LegacyContextInvalid = Structure, "context entry with fields that do not go together";
    0x04 LegacyBeyondWidth = Address, "address beyond the domain's width";
    0x05 LegacyWrite = Permission, "no write permission in the second stage";
    0x06 LegacyRead = Permission, "no read permission in the second stage";
    0x07 LegacyTableAccess = Structure, "paging entry cannot be read";
    0x08 LegacyRootAccess = Structure, "root table cannot be read";
    0x09 LegacyContextAccess = Structure, "context table cannot be read";
    0x0a LegacyRootReserved = Structure, "reserved bits in the root entry";
    0x0b LegacyContextReserved = Structure, "reserved bits in the context entry";
    0x0c LegacyPagingReserved = Structure, "reserved bits in a paging entry";
    0x0d LegacyTranslationType = Request, "translation type blocks the request";
    0x0e LegacyInterruptRange = Address, "output in the interrupt range";
    // Interrupt remapping.
    0x20 InterruptRequestReserved = Interrupt, "reserved bits in the interrupt request";
    0x21 InterruptIndex = Interrupt, "interrupt index beyond the table";
    0x22 InterruptNotPresent = Interrupt, "interrupt entry not present";
    0x23 InterruptAccess = Interrupt, "interrupt table cannot be read";
    0x24 InterruptReserved = Interrupt, "reserved bits in the interrupt entry";
    0x25 InterruptCompatibility = Interrupt, "compatibility-format interrupt blocked";
    0x26 InterruptSource = Interrupt, "source id does not match the interrupt entry";
    0x27 PostedAccess = Interrupt, "posted-interrupt descriptor cannot be read";
    0x28 PostedReserved = Interrupt, "reserved bits in the posted-interrupt descriptor";
    0x29 NoInterrupt = Address, "request to the interrupt range that is no interrupt";
    // Scalable mode: where the tables begin.
    0x30 RootAddress = Structure, "root table address or table mode invalid";
    0x31 ModeForPasid = Request, "request with PASID in this table mode";
    0x32 ModeForPageRequest = Request, "page request in this table mode";
    0x33 Aborted = Blocked, "all DMA of the unit is aborted";
    0x34 ExecuteUnknown = Request, "execute request on a unit that no longer knows them";
    // Scalable mode: root entry.
    0x38 RootAccess = Structure, "root entry cannot be read";
    0x39 RootNotPresent = Blocked, "root entry not present";
    0x3a RootReserved = Structure, "reserved bits in the root entry";
    // Scalable mode: context entry.
    0x40 ContextAccess = Structure, "context entry cannot be read";
    0x41 ContextNotPresent = Blocked, "context entry not present";
    0x42 ContextReserved = Structure, "reserved bits in the context entry";
    0x43 ContextInvalid = Structure, "context entry with fields that do not go together";
    0x44 DeviceTlbDisabled = Request, "device TLB not enabled";
    0x45 PasidDisabled = Request, "PASID not enabled";
    0x46 PasidTooLarge = Request, "PASID beyond the directory";
    0x47 PageRequestDisabled = Request, "page requests not enabled";
    0x48 RidPasid = Request, "request with the PASID of requests without one";
    0x49 TranslatedPasid = Request, "translated request with PASID not enabled";
    // Scalable mode: PASID directory entry.
    0x50 DirectoryAccess = Structure, "PASID directory entry cannot be read";
    0x51 DirectoryNotPresent = Blocked, "PASID directory entry not present";
    0x52 DirectoryReserved = Structure, "reserved bits in the PASID directory entry";
    // Scalable mode: PASID table entry.
    0x58 PasidAccess = Structure, "PASID entry cannot be read";
    0x59 PasidNotPresent = Blocked, "PASID entry not present";
    0x5a PasidReserved = Structure, "reserved bits in the PASID entry";
    0x5b PasidInvalid = Structure, "PASID entry with fields that do not go together";
    0x5c ExecuteDisabled = Request, "execute requests not enabled";
    0x5d SupervisorDisabled = Request, "supervisor requests not enabled";
    0x60 PermissionTableSize = Address, "translated request beyond the host permission table";
    // Scalable mode: first-stage entries, and in nested translation what the second stage says of them.
    0x70 FirstAccess = Structure, "first-stage entry cannot be read";
    0x71 FirstNotPresent = NotMapped, "first-stage entry not present";
    0x72 FirstReserved = Structure, "reserved bits in a first-stage entry";
    0x73 FirstRootAccess = Structure, "first-stage root cannot be read";
    0x74 FirstBeyondWidth = Address, "first-stage table beyond the second stage's width";
    0x75 NestedRootRead = Structure, "second stage does not let the first-stage root be read";
    0x76 NestedRead = Structure, "second stage does not let a first-stage entry be read";
    0x77 NestedWrite = Structure, "second stage does not let a first-stage entry's A/D be updated";
    // Scalable mode: second-stage entries.
    0x78 SecondAccess = Structure, "second-stage entry cannot be read";
    0x79 SecondPermission = Permission, "no permission in the second stage";
    0x7a SecondReserved = Structure, "reserved bits in a second-stage entry";
    0x7b SecondRoot = Structure, "second-stage root invalid";
    0x7c SecondDirtyNoSnoop = Structure, "second-stage A/D update without snooping";
    0x7d SecondDirtyFailed = Structure, "second-stage A/D update failed";
    // Scalable mode: the address, and what the page allows.
    0x80 NotCanonical = Address, "address not canonical";
    0x81 Supervisor = Permission, "first-stage page is for supervisors";
    0x82 NoExecute = Permission, "no execute permission";
    0x83 BeyondHost = Address, "address beyond the hardware's width";
    0x84 SecondBeyondWidth = Address, "address beyond the second stage's width";
    0x85 NoWrite = Permission, "no write permission";
    0x86 NoRead = Permission, "no read permission";
    0x87 InterruptRange = Address, "output in the interrupt range";
    0x89 PasidTooWide = Request, "PASID wider than the unit supports";
    0x90 FirstDirtyNoSnoop = Structure, "first-stage A/D update without snooping";
    0x91 FirstDirtyFailed = Structure, "first-stage A/D update failed";
    // Host permission tables.
    0xa0 PermissionAccess = Structure, "host permission entry cannot be read";
    0xa1 PermissionReserved = Structure, "reserved bits in a host permission entry";
    0xa2 PermissionRootAccess = Structure, "host permission root cannot be read";
    0xa3 PermissionNone = Permission, "no entry in the host permission table";
    0xa4 PermissionWrite = Permission, "no write permission in the host permission table";
    0xa5 PermissionRead = Permission, "no read permission in the host permission table";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}, {}", self.code(), self.text())
    }
}
