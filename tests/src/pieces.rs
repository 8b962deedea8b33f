//! Single pieces of a walk, from the raw bits of the specification: what a cache holds of each structure.
//!
//! [`iommu_models::vtd::walk`] does whole walks and checks every bit; this takes them apart and checks none.

use iommu_core::addr::PhysAddr;

/// How memory is read; `None` where there is none.
pub type Read<'a> = &'a dyn Fn(u64) -> Option<u64>;

/// What stands in a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<T> {
    /// An entry that is present.
    Present(T),
    /// An entry that is not.
    Absent,
    /// No memory that is allocated.
    Nothing(PhysAddr),
}

/// A context entry (section 9.4).
pub type Context = [u64; 4];
/// A PASID table entry (section 9.6).
pub type PasidEntry = [u64; 8];

const POINTER: u64 = 0x000f_ffff_ffff_f000;

fn words<const N: usize>(read: Read<'_>, at: u64, present: impl Fn(u64) -> bool) -> Found<[u64; N]> {
    let mut words = [0; N];
    for (index, word) in words.iter_mut().enumerate() {
        let at = at + index as u64 * 8;
        let Some(value) = read(at) else { return Found::Nothing(PhysAddr::new(at)) };
        *word = value;
    }
    if present(words[0]) { Found::Present(words) } else { Found::Absent }
}

/// The context entry of `requester` below the root table at `rtaddr`.
pub fn context(read: Read<'_>, rtaddr: u64, requester: u16) -> Found<Context> {
    let (bus, devfn) = (u64::from(requester >> 8), u64::from(requester & 0xff));
    match words::<1>(read, (rtaddr & POINTER) + bus * 16 + (devfn >> 7) * 8, |word| word & 1 != 0) {
        Found::Present([root]) => words(read, (root & POINTER) + (devfn & 0x7f) * 32, |word| word & 1 != 0),
        Found::Absent => Found::Absent,
        Found::Nothing(at) => Found::Nothing(at),
    }
}

/// The entry of PASID 0 behind `context`.
pub fn pasid_entry(read: Read<'_>, context: &Context) -> Found<PasidEntry> {
    match words::<1>(read, context[0] & POINTER, |word| word & 1 != 0) {
        Found::Present([directory]) => words(read, directory & POINTER, |word| word & 1 != 0),
        Found::Absent => Found::Absent,
        Found::Nothing(at) => Found::Nothing(at),
    }
}

/// PGTT: 1 first stage, 2 second stage, 4 pass-through.
pub const fn kind(entry: &PasidEntry) -> u64 {
    entry[0] >> 6 & 7
}

/// DID.
pub const fn domain_id(entry: &PasidEntry) -> u16 {
    entry[1] as u16
}

/// The top table behind `entry` and its level, the lowest being 1; `None` in pass-through.
pub const fn top(entry: &PasidEntry) -> Option<(u64, u32)> {
    match kind(entry) {
        1 => Some((entry[2] & POINTER, if entry[2] >> 2 & 3 == 1 { 5 } else { 4 })),
        2 => Some((entry[0] & POINTER, (entry[0] >> 2 & 7) as u32 + 2)),
        _ => None,
    }
}

/// Where the entry for `iova` stands in the table of `level` at `table`.
pub const fn slot(table: u64, iova: u64, level: u32) -> u64 {
    table + (iova >> (3 + 9 * level) & 0x1ff) * 8
}

/// Whether a paging entry is present; `kind` as [`kind`].
pub const fn is_present(kind: u64, word: u64) -> bool {
    word & if kind == 1 { 1 } else { 3 } != 0
}

/// Whether a present paging entry of `level` is a leaf.
pub const fn is_leaf(word: u64, level: u32) -> bool {
    level == 1 || word & 1 << 7 != 0
}

/// Where a paging entry of `level` leads.
pub const fn address(word: u64, level: u32) -> u64 {
    if is_leaf(word, level) { word & POINTER & !((1 << (3 + 9 * level)) - 1) } else { word & POINTER }
}

/// Whether a present paging entry lets reads and writes through.
pub const fn rights(kind: u64, word: u64) -> (bool, bool) {
    (kind == 1 || word & 1 != 0, word & 2 != 0)
}

/// Every frame of the tables behind `entry`, the top one first.
pub fn table_frames(read: Read<'_>, entry: &PasidEntry) -> Vec<u64> {
    let mut found = Vec::new();
    let mut left: Vec<(u64, u32)> = top(entry).into_iter().collect();
    while let Some((table, level)) = left.pop() {
        found.push(table);
        for word in (0..512).filter_map(|index| read(table + index * 8)) {
            if is_present(kind(entry), word) && !is_leaf(word, level) {
                left.push((address(word, level), level - 1));
            }
        }
    }
    found
}
