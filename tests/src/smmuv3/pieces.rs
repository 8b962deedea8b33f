//! Single pieces of a walk, from the raw bits of the specification: what a cache holds of each structure.
//!
//! [`iommu_models::smmuv3::walk`] does whole walks and checks every bit; this takes them apart and checks none.

use iommu_models::smmuv3::walk::Tables;

/// How memory is read; `None` where there is none.
pub type Read<'a> = &'a dyn Fn(u64) -> Option<u64>;

const ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;

/// Where the STE of `sid` is: in a linear table, or behind a level-1 descriptor.
pub enum SteAt {
    /// Here.
    Linear(u64),
    /// In the table that the descriptor here leads to.
    Behind(u64),
}

/// Where the STE of `sid` is to be looked for.
pub fn ste_at(tables: Tables, sid: u32) -> SteAt {
    let base = tables.base & ADDRESS;
    match tables.config >> 16 & 3 {
        1 => SteAt::Behind(base + u64::from(sid >> (tables.config >> 6 & 0x1f)) * 8),
        _ => SteAt::Linear(base + u64::from(sid) * 64),
    }
}

/// Where the STE of `sid` stands in the table that `descriptor` leads to; `None` where it leads nowhere.
pub fn ste_behind(tables: Tables, descriptor: u64, sid: u32) -> Option<u64> {
    let inside = u64::from(sid) & ((1 << (tables.config >> 6 & 0x1f)) - 1);
    let span = descriptor & 0x1f;
    (span != 0 && inside >> (span - 1) == 0).then(|| (descriptor & ADDRESS) + inside * 64)
}

/// What an STE or CD leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leads {
    /// Nowhere.
    Nowhere,
    /// To the same address.
    Through,
    /// To a CD.
    Cd(u64),
    /// To page tables.
    Tables(Top),
}

/// The top of page tables and how they are tagged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Top {
    /// The table.
    pub table: u64,
    /// Its level, as Armv8 counts.
    pub level: u32,
    /// Width of addresses.
    pub input_bits: u32,
    /// Stage 2: by VMID; otherwise by ASID.
    pub second: bool,
    /// ASID or VMID.
    pub tag: u16,
}

/// What an STE of these words leads to.
pub fn ste_leads(words: &[u64; 8]) -> Leads {
    match (words[0] & 1, words[0] >> 1 & 7) {
        (1, 4) => Leads::Through,
        (1, 5) => Leads::Cd(words[0] & ADDRESS),
        (1, 6) => Leads::Tables(Top {
            table: words[3] & 0x000f_ffff_ffff_fff0,
            level: 2 - (words[2] >> 38 & 3) as u32,
            input_bits: 64 - (words[2] >> 32 & 0x3f) as u32,
            second: true,
            tag: words[2] as u16,
        }),
        _ => Leads::Nowhere,
    }
}

/// What a CD of these words leads to.
pub fn cd_leads(words: &[u64; 8]) -> Leads {
    if words[0] >> 31 & 1 == 0 {
        return Leads::Nowhere;
    }
    let input_bits = 64 - (words[0] & 0x3f) as u32;
    Leads::Tables(Top {
        table: words[1] & 0x000f_ffff_ffff_fff0,
        level: 3 - (input_bits - 13) / 9,
        input_bits,
        second: false,
        tag: (words[0] >> 48) as u16,
    })
}

/// Where the descriptor for `iova` stands in the table of `level` at `table`.
pub const fn slot(top: &Top, table: u64, iova: u64, level: u32) -> u64 {
    let index = iova >> (39 - 9 * level);
    // The top table may have more entries than 512.
    table + if level == top.level { index } else { index & 0x1ff } * 8
}

/// Whether a descriptor is valid.
pub const fn is_present(word: u64) -> bool {
    word & 1 != 0
}

/// Whether a valid descriptor of `level` is a leaf.
pub const fn is_leaf(word: u64, level: u32) -> bool {
    level == 3 || word & 2 == 0
}

/// Where a descriptor of `level` leads.
pub const fn address(word: u64, level: u32) -> u64 {
    let inside = if is_leaf(word, level) { (1 << (39 - 9 * level)) - 1 } else { 0xfff };
    word & 0x0000_ffff_ffff_ffff & !inside
}

/// Whether a leaf lets reads and writes through.
pub const fn rights(second: bool, word: u64) -> (bool, bool) {
    if second { (word >> 6 & 1 != 0, word >> 7 & 1 != 0) } else { (true, word >> 7 & 1 == 0) }
}
