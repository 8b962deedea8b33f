//! What the unit's TLB was seen to take in: a hit's line does not say which entry it was.

use crate::dialect::Regime;
use crate::event::{Span, Stage};

/// How an entry is tagged, as the trace says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// -1 for none, as for stage 2.
    pub asid: u64,
    /// The VMID.
    pub vmid: u64,
}

impl Tag {
    /// The id of the domain: an ASID under VMID 0 for stage 1, a VMID for stage 2, which counts for what a guest's stage 1 is
    /// on top of it, too, whatever the guest's ASIDs. `None` for any other tag.
    pub fn domain(self, regime: Regime) -> Option<u16> {
        match (regime, self.asid) {
            (Regime::One(Stage::First), asid) if self.vmid == 0 => u16::try_from(asid).ok(),
            (Regime::One(Stage::Second), u64::MAX) | (Regime::Nested, _) => u16::try_from(self.vmid).ok(),
            _ => None,
        }
    }

    /// Whether it is of no ASID, as what stage 2 alone has translated.
    pub fn is_stage_2(self) -> bool {
        self.asid == u64::MAX
    }
}

/// An entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its tag.
    pub tag: Tag,
    /// The addresses that it covers.
    pub block: Span,
    /// Where they lie in memory.
    pub phys: u64,
    /// Whether it lets reads through.
    pub readable: bool,
    /// Whether it lets writes through.
    pub writable: bool,
    /// What of these two the trace shows where it is used: for a guest's, what the guest's stage 1 lets through.
    pub shown: (bool, bool),
}

/// All entries ever taken in, the newest last. Those that were dropped stay: that they are not used any more is for the
/// checks to see.
#[derive(Default)]
pub struct Tlb(Vec<Entry>);

impl Tlb {
    /// An entry was taken in.
    pub fn insert(&mut self, entry: Entry) {
        self.0.retain(|held| (held.tag, held.block) != (entry.tag, entry.block));
        self.0.push(entry);
    }

    /// Whether there is anything of this tag.
    pub fn knows(&self, tag: Tag) -> bool {
        self.0.iter().any(|entry| entry.tag == tag)
    }

    /// The entry that a hit used: the newest there, among those that lead to `phys` where that is known.
    pub fn find(&self, tag: Tag, iova: u64, phys: Option<u64>) -> Option<Entry> {
        let covers = |entry: &&Entry| entry.tag == tag && (entry.block.first..=entry.block.last).contains(&iova);
        let leads = |entry: &&Entry| phys.is_none_or(|phys| entry.phys.wrapping_add(iova - entry.block.first) == phys);
        self.0.iter().rev().filter(covers).find(leads).copied()
    }
}

/// The block around `address` of an entry at `level` for tables of granule `granule`, as commands and the trace number
/// both; `None` where there is none such.
pub fn block(address: u64, granule: u64, level: u64) -> Option<Span> {
    let page = page_bits(granule)?;
    let bits = page + (page - 3) * u32::try_from(3u64.checked_sub(level)?).ok()?;
    Some(Span::block(address, 1u64.checked_shl(bits)? - 1))
}

/// Offset bits of a page of tables of granule `granule`.
pub fn page_bits(granule: u64) -> Option<u32> {
    (1..=3).contains(&granule).then_some(10 + 2 * granule as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag { asid: 1, vmid: 0 };

    #[test]
    fn blocks() {
        assert_eq!(block(0x1234_5678, 1, 3), Some(Span { first: 0x1234_5000, last: 0x1234_5fff }));
        assert_eq!(block(0x1234_5678, 1, 2), Some(Span { first: 0x1220_0000, last: 0x123f_ffff }));
        assert_eq!(block(0x1_2345_6789, 1, 1), Some(Span { first: 0x1_0000_0000, last: 0x1_3fff_ffff }));
        assert_eq!(block(0x1234_5678, 3, 3), Some(Span { first: 0x1234_0000, last: 0x1234_ffff }));
        assert_eq!((block(0, 0, 3), block(0, 4, 3), block(0, 1, 4)), (None, None, None));
    }

    #[test]
    fn domains() {
        let stage2 = Tag { asid: u64::MAX, vmid: 2 };
        let (first, second) = (Regime::One(Stage::First), Regime::One(Stage::Second));
        assert_eq!((TAG.domain(first), TAG.domain(second)), (Some(1), None));
        assert_eq!((stage2.domain(first), stage2.domain(second)), (None, Some(2)));
        let guest = Tag { asid: 1, vmid: 2 };
        assert_eq!((guest.domain(first), guest.domain(second)), (None, None));
        assert_eq!((guest.domain(Regime::Nested), stage2.domain(Regime::Nested)), (Some(2), Some(2)));
    }

    #[test]
    fn the_newest_that_fits() {
        let mut tlb = Tlb::default();
        let page = Entry {
            tag: TAG,
            block: Span { first: 0x1000, last: 0x1fff },
            phys: 0x5000,
            readable: true,
            writable: false,
            shown: (true, false),
        };
        let large = Entry { block: Span { first: 0, last: 0x1f_ffff }, phys: 0x20_0000, ..page };
        tlb.insert(page);
        tlb.insert(large);
        assert_eq!(tlb.find(TAG, 0x1010, None), Some(large));
        assert_eq!(tlb.find(TAG, 0x1010, Some(0x5010)), Some(page));
        assert_eq!(tlb.find(TAG, 0x1010, Some(0x6010)), None);
        assert_eq!(tlb.find(Tag { asid: 2, ..TAG }, 0x1010, None), None);
        tlb.insert(Entry { phys: 0x6000, ..page });
        assert_eq!(tlb.find(TAG, 0x1010, Some(0x5010)), None, "replaced");
    }
}
