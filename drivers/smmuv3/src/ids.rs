//! ASIDs or VMIDs of one unit.

use alloc::vec::Vec;
use iommu_core::hw::HwError;

/// Id 0: as a VMID it tags what stage 1 alone translates, and as an ASID it is what an entry of zeros would have.
const RESERVED: u16 = 0;

/// Which ids of one kind are taken. An id is given back only after its invalidation was confirmed.
pub(crate) struct Ids {
    taken: Vec<u64>,
}

impl Ids {
    /// 2^`bits` ids, at most 16 bits.
    pub(crate) fn new(bits: u8) -> Result<Self, HwError> {
        let words = (1usize << bits.min(16)).div_ceil(64);
        let mut taken = Vec::new();
        taken.try_reserve_exact(words).map_err(|_| HwError::OutOfMemory)?;
        taken.resize(words, 0);
        if bits < 6 {
            // Ids that the unit does not have.
            taken[0] = u64::MAX << (1u32 << bits);
        }
        let mut ids = Self { taken };
        ids.take(RESERVED);
        Ok(ids)
    }

    /// The lowest free id.
    pub(crate) fn alloc(&mut self) -> Result<u16, HwError> {
        let free = self.taken.iter().enumerate().find(|(_, word)| **word != u64::MAX);
        let (word, bits) = free.ok_or(HwError::OutOfDomainIds)?;
        let id = (word as u32 * 64 + bits.trailing_ones()) as u16;
        self.take(id);
        Ok(id)
    }

    /// Gives an id back.
    pub(crate) fn free(&mut self, id: u16) {
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
        let mut ids = Ids::new(8).unwrap();
        let given: Vec<u16> = core::iter::from_fn(|| ids.alloc().ok()).collect();
        assert_eq!(given, (1..256).collect::<Vec<u16>>());
        assert_eq!(ids.alloc(), Err(HwError::OutOfDomainIds));
        ids.free(9);
        assert_eq!(ids.alloc(), Ok(9));
        let mut many = Ids::new(16).unwrap();
        assert_eq!(core::iter::from_fn(|| many.alloc().ok()).count(), 65_535);
    }
}
