//! What a guest says of its own first stage, word by word, and what of it is believed.
//!
//! # First stage
//!
//! [`NestedConfig`] of kind [`FIRST_STAGE`] has three words:
//!
//! | Word | Content |
//! |---|---|
//! | 0 | flags: [`SUPERVISOR`], [`EXTENDED_ACCESSED`], [`WRITE_PROTECT`]; all other bits 0 |
//! | 1 | guest-physical address of the root table, a multiple of 4096 inside of the parent's aperture |
//! | 2 | width of addresses in bits: 48 (4 levels) or 57 (5 levels, only with CAP.FS5LP) |
//!
//! # Requests
//!
//! [`Invalidation`] of kind [`CHANGED`] says which of the guest's translations changed:
//!
//! | Word | Content |
//! |---|---|
//! | 0 | first address, a multiple of 4096; in bit 0 [`LEAVES_ONLY`]; bits 11:1 are 0 |
//! | 1 | number of pages of 4096 bytes, at least 1; [`ALL_PAGES`] with address 0 is everything |
//!
//! What hardware is asked for covers the pages and may cover more, but never anything that is not cached for this first
//! stage: a guest can only make its own devices slower. Nothing that the host changes is left to the guest's requests.

use crate::capabilities::Capabilities;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{HwError, Invalidation, NestedConfig};

/// Kind of a [`NestedConfig`]: a guest's first stage in VT-d's format.
pub const FIRST_STAGE: u32 = 1;

/// SRE: requests of PASIDs that ask for supervisor privilege get it, and reach pages of the guest's tables that are not for
/// user accesses. What those lead to is the parent's to say all the same. Only with ECAP.SRS. Requests without PASID
/// never have that privilege.
pub const SUPERVISOR: u64 = 1 << 0;

/// EAFE: hardware sets the extended-accessed flag in the guest's entries. Only with ECAP.EAFS.
pub const EXTENDED_ACCESSED: u64 = 1 << 1;

/// WPE: supervisor writes honour the R/W flag of the guest's entries; without effect unless [`SUPERVISOR`].
pub const WRITE_PROTECT: u64 = 1 << 2;

/// Kind of an [`Invalidation`]: translations of the guest's first stage changed.
pub const CHANGED: u32 = 1;

/// In word 0 of a request: no entry that leads to a table changed, so that what is cached of those may stay.
pub const LEAVES_ONLY: u64 = 1 << 0;

/// In word 1 of a request: all pages there are.
pub const ALL_PAGES: u64 = u64::MAX;

/// A guest's first stage that hardware may be pointed at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FirstStage {
    pub(super) root: u64,
    pub(super) five_levels: bool,
    pub(super) supervisor: bool,
    pub(super) extended_accessed: bool,
    pub(super) write_protect: bool,
}

impl FirstStage {
    /// Checks every value: those of a guest must not cause faults of the architecture (section 6.2.3.1).
    pub(super) fn of(config: &NestedConfig<'_>, caps: &Capabilities, aperture: IovaRange) -> Result<Self, HwError> {
        if config.kind != FIRST_STAGE {
            return Err(HwError::Unsupported("this kind of nested translation"));
        }
        let &[flags, root, width] = config.words else {
            return Err(HwError::Hardware("a first stage that is not described in three words"));
        };
        if flags & !(SUPERVISOR | EXTENDED_ACCESSED | WRITE_PROTECT) != 0 {
            return Err(HwError::Hardware("unknown flags of a first stage"));
        }
        let flag = |flag| flags & flag != 0;
        if flag(SUPERVISOR) && !caps.supervisor_requests() {
            return Err(HwError::Hardware("SRE of a first stage, without ECAP.SRS"));
        }
        if flag(EXTENDED_ACCESSED) && !caps.extended_accessed() {
            return Err(HwError::Hardware("EAFE of a first stage, without ECAP.EAFS"));
        }
        let five_levels = match width {
            48 => false,
            57 if caps.five_levels() => true,
            57 => return Err(HwError::Hardware("a first stage of 57 bits, without CAP.FS5LP")),
            _ => return Err(HwError::Hardware("a first stage that has neither 48 nor 57 bits")),
        };
        if root % PAGE != 0 {
            return Err(HwError::Hardware("the root of a first stage inside of a page"));
        }
        if !IovaRange::from_len(Iova::new(root), PAGE).is_some_and(|root| aperture.covers(root)) {
            return Err(HwError::Hardware("the root of a first stage beyond its parent's aperture"));
        }
        Ok(Self {
            root,
            five_levels,
            supervisor: flag(SUPERVISOR),
            extended_accessed: flag(EXTENDED_ACCESSED),
            write_protect: flag(WRITE_PROTECT),
        })
    }
}

/// A request that hardware may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request {
    /// `None` is everything.
    pub(super) range: Option<IovaRange>,
    pub(super) leaves_only: bool,
}

impl Request {
    pub(super) fn of(request: &Invalidation) -> Result<Self, HwError> {
        if request.kind != CHANGED {
            return Err(HwError::Unsupported("this kind of request"));
        }
        let [first, pages] = request.words;
        let (address, leaves_only) = (first & !LEAVES_ONLY, first & LEAVES_ONLY != 0);
        if address % PAGE != 0 {
            return Err(HwError::Hardware("a request with reserved bits, or for an address inside of a page"));
        }
        let range = match (address, pages) {
            (0, ALL_PAGES) => None,
            _ => {
                let len = pages.checked_mul(PAGE).filter(|len| *len != 0);
                let range = len.and_then(|len| IovaRange::from_len(Iova::new(address), len));
                Some(range.ok_or(HwError::Hardware("a request for no pages, or for more than there are"))?)
            }
        };
        Ok(Self { range, leaves_only })
    }
}

/// Bytes in a page.
const PAGE: u64 = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;

    // Server-like: NEST (26), SMTS (43), SSTS (46), FSTS (47), SRS (31), EAFS (34); FS5LP (CAP 60), SAGAW 4 levels, MGAW 48.
    const CAP: u64 = 1 << 60 | 47 << 16 | 1 << 10;
    const ECAP: u64 = 1 << 26 | 1 << 43 | 1 << 46 | 1 << 47 | 1 << 31 | 1 << 34;
    const SRS: u64 = 1 << 31;
    const EAFS: u64 = 1 << 34;

    fn check(cap: u64, ecap: u64, kind: u32, words: &[u64]) -> Result<FirstStage, HwError> {
        let aperture = IovaRange::from_len(Iova::new(0), 1 << 48).unwrap();
        FirstStage::of(&NestedConfig { kind, words }, &Capabilities::new(cap, ecap), aperture)
    }

    #[track_caller]
    fn refused(cap: u64, ecap: u64, words: &[u64], named: &str) {
        match check(cap, ecap, 1, words) {
            Err(HwError::Hardware(why)) => assert!(why.contains(named), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_first_stage_is_what_its_words_say() {
        let plain = check(CAP, ECAP, 1, &[0, 0x5000, 48]).unwrap();
        let expected = FirstStage {
            root: 0x5000,
            five_levels: false,
            supervisor: false,
            extended_accessed: false,
            write_protect: false,
        };
        assert_eq!(plain, expected);
        assert_eq!(check(CAP, ECAP, 1, &[1, 0x5000, 48]), Ok(FirstStage { supervisor: true, ..plain }));
        assert_eq!(check(CAP, ECAP, 1, &[2, 0x5000, 48]), Ok(FirstStage { extended_accessed: true, ..plain }));
        assert_eq!(check(CAP, ECAP, 1, &[4, 0x5000, 48]), Ok(FirstStage { write_protect: true, ..plain }));
        assert_eq!(check(CAP, ECAP, 1, &[0, 0x5000, 57]), Ok(FirstStage { five_levels: true, ..plain }));
        let last = (1 << 48) - 0x1000;
        assert_eq!(check(CAP, ECAP, 1, &[0, last, 48]), Ok(FirstStage { root: last, ..plain }));
    }

    #[test]
    fn every_other_value_is_refused() {
        for kind in [0, 2, u32::MAX] {
            assert!(matches!(check(CAP, ECAP, kind, &[0, 0x5000, 48]), Err(HwError::Unsupported(_))));
        }
        for words in [&[][..], &[0, 0x5000], &[0, 0x5000, 48, 0]] {
            refused(CAP, ECAP, words, "three words");
        }
        for bit in 3..64 {
            refused(CAP, ECAP, &[1 << bit, 0x5000, 48], "unknown flags");
        }
        refused(CAP, ECAP & !SRS, &[1, 0x5000, 48], "ECAP.SRS");
        refused(CAP, ECAP & !EAFS, &[2, 0x5000, 48], "ECAP.EAFS");
        refused(CAP & !(1 << 60), ECAP, &[0, 0x5000, 57], "CAP.FS5LP");
        for width in [0, 39, 47, 49, 56, 58, 64, u64::MAX] {
            refused(CAP, ECAP, &[0, 0x5000, width], "neither 48 nor 57");
        }
        for bit in 0..12 {
            refused(CAP, ECAP, &[0, 0x4_0000 | 1 << bit, 48], "inside of a page");
        }
        for root in [1 << 48, 1 << 52, 1 << 63, !0xfff] {
            refused(CAP, ECAP, &[0, root, 48], "aperture");
        }
    }

    #[test]
    fn requests_are_checked() {
        let request = |first, pages| Request::of(&Invalidation { kind: 1, words: [first, pages] });
        let range = |start, len| IovaRange::from_len(Iova::new(start), len);
        assert_eq!(request(0x5000, 3), Ok(Request { range: range(0x5000, 0x3000), leaves_only: false }));
        assert_eq!(request(0x5001, 3), Ok(Request { range: range(0x5000, 0x3000), leaves_only: true }));
        assert_eq!(request(0, u64::MAX), Ok(Request { range: None, leaves_only: false }));
        // The last page of all, and all pages but counted.
        let last = u64::MAX - 0xfff;
        assert_eq!(request(last, 1), Ok(Request { range: range(last, 0x1000), leaves_only: false }));
        for (first, pages) in [(0x5000, 0), (0, 0), (0x5000, u64::MAX), (last, 2), (0x1000, 1 << 52), (0x5000, 1 << 63)]
        {
            assert!(matches!(request(first, pages), Err(HwError::Hardware(_))), "{first:#x} {pages:#x}");
        }
        for bit in 1..12 {
            assert!(matches!(request(1 << bit, 1), Err(HwError::Hardware(_))));
        }
        for kind in [0, 2, u32::MAX] {
            let other = Request::of(&Invalidation { kind, words: [0, 1] });
            assert!(matches!(other, Err(HwError::Unsupported(_))));
        }
    }
}
