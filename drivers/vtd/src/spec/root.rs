//! Root entries: of scalable mode (section 9.2), two pointers to context tables, one for each half of the bus; of legacy mode
//! (section 9.1), one pointer for all of it.

use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// 64-bit words in a root entry: in scalable mode word 0 serves devices 0 to 15 of the bus, word 1 devices 16 to 31; in
/// legacy mode word 0 serves all of them, and word 1 is reserved.
pub const ROOT_ENTRY_WORDS: usize = 2;

/// One half of a scalable-mode root entry, and word 0 of a legacy-mode one, which has the same fields (P and CTP).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootHalf {
    /// LP or UP: the context table is present.
    pub present: bool,
    #[bits(11)]
    __: u16,
    /// LCTP or UCTP: frame number of the context table.
    #[bits(52)]
    pub frame: u64,
}

const _: () = assert!(size_of::<RootHalf>() == 8);

impl RootHalf {
    /// A present half that leads to the context table at `table`.
    pub fn to(table: PhysAddr) -> Self {
        Self::new().with_present(true).with_frame(table.get() >> 12)
    }

    /// Where the context table stands; `None` where not present.
    pub fn table(self) -> Option<PhysAddr> {
        self.present().then(|| PhysAddr::new(self.frame() << 12))
    }
}
