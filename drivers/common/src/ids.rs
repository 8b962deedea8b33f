//! Domain ids, ASIDs, VMIDs of one unit.

use alloc::vec::Vec;
use iommu_core::hw::HwError;

/// Id 0, which no domain has. VT-d: in caching mode hardware tags with it what it caches of entries that are not present.
/// SMMUv3: as a VMID it tags what stage 1 alone translates, and as an ASID it is what an entry of zeros would have.
const RESERVED: u16 = 0;

/// Which ids are taken. An id is given back only after its invalidation was confirmed; one whose invalidation never
/// was stays taken for ever.
///
/// Ids are handed out in turn, so that one that was given back rests until all others had their turn.
pub struct Ids {
    taken: Vec<u64>,
    /// Where the next search begins.
    next: u32,
}

impl Ids {
    /// 2^`bits` ids, at most 16 bits.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub fn new(bits: u8) -> Result<Self, HwError> {
        let words = (1usize << bits.min(16)).div_ceil(64);
        let mut taken = Vec::new();
        taken.try_reserve_exact(words).map_err(|_| HwError::OutOfMemory)?;
        taken.resize(words, 0);
        if bits < 6 {
            // Ids that the unit does not have.
            taken[0] = u64::MAX << (1u32 << bits);
        }
        let mut ids = Self { taken, next: 0 };
        ids.take(RESERVED);
        Ok(ids)
    }

    /// The free id whose turn it is.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfDomainIds`].
    pub fn alloc(&mut self) -> Result<u16, HwError> {
        let id = self.free_from(self.next).or_else(|| self.free_from(0)).ok_or(HwError::OutOfDomainIds)?;
        self.take(id);
        self.next = u32::from(id) + 1;
        Ok(id)
    }

    /// The lowest free id that is not below `first`.
    fn free_from(&self, first: u32) -> Option<u16> {
        let (start, passed) = ((first / 64) as usize, (1u64 << (first % 64)) - 1);
        let words = self.taken.iter().enumerate().skip(start);
        let found = words.map(|(at, word)| (at, if at == start { word | passed } else { *word }));
        let (at, word) = { found }.find(|(_, word)| *word != u64::MAX)?;
        u16::try_from(at as u32 * 64 + word.trailing_ones()).ok()
    }

    /// Gives an id back, of which hardware has confirmed that nothing is cached under it.
    pub fn free(&mut self, id: u16) {
        if let Some(word) = self.taken.get_mut(usize::from(id / 64)) {
            *word &= !(1 << (id % 64));
        }
    }

    fn take(&mut self, id: u16) {
        if let Some(word) = self.taken.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_run_out_and_come_back_and_zero_is_never_given() {
        let mut ids = Ids::new(4).unwrap();
        let given: Vec<u16> = core::iter::from_fn(|| ids.alloc().ok()).collect();
        assert_eq!(given, (1..16).collect::<Vec<u16>>());
        assert_eq!(ids.alloc(), Err(HwError::OutOfDomainIds));
        ids.free(9);
        assert_eq!(ids.alloc(), Ok(9));
        assert_eq!(ids.alloc(), Err(HwError::OutOfDomainIds));
        let mut many = Ids::new(16).unwrap();
        assert_eq!(core::iter::from_fn(|| many.alloc().ok()).count(), 65_535);
    }

    #[test]
    fn an_id_that_came_back_rests_until_all_others_had_their_turn() {
        let mut ids = Ids::new(8).unwrap();
        let first = ids.alloc().unwrap();
        ids.free(first);
        for turn in 2..256 {
            let id = ids.alloc().unwrap();
            assert_eq!(id, turn);
            ids.free(id);
        }
        assert_eq!(ids.alloc(), Ok(first));
        // Those in use are left out, and the turn goes on behind the last word.
        (2..=200).for_each(|id| assert_eq!(ids.alloc(), Ok(id)));
        ids.free(100);
        (201..=255).for_each(|id| assert_eq!(ids.alloc(), Ok(id)));
        assert_eq!(ids.alloc(), Ok(100));
        assert_eq!(ids.alloc(), Err(HwError::OutOfDomainIds));
    }
}
