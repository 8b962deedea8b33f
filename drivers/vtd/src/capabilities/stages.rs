//! Levels, widths and page sizes of either stage, what they are capable of, and PASIDs.

use super::{Capabilities, names, require};
use crate::spec::pasid::AddressWidth;
use crate::spec::registers::{CAP, ECAP};
use iommu_core::hw::{Capability, HwError, PageSizes};

/// Widest PASID there is: PCIe has no more bits for it.
const MOST_PASID_BITS: u8 = 20;

/// A first stage as a unit wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstStage {
    /// Levels of the tables: 4, or 5 (FSPM = 1).
    pub levels: u8,
    /// Usable input bits: the lower canonical half, or CAP.MGAW where that is less.
    pub input_bits: u8,
}

/// A second stage as a unit wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecondStage {
    /// Levels of the tables.
    pub levels: u8,
    /// The same as a context or PASID entry says it.
    pub width: AddressWidth,
    /// Usable input bits: the tables' width, or CAP.MGAW where that is less.
    pub input_bits: u8,
}

/// The depths of a second stage, the shallowest first: levels, bits, the entry's code, which is also the bit in SAGAW.
const DEPTHS: [(u8, u8, AddressWidth); 3] =
    [(3, 39, AddressWidth::Bits39), (4, 48, AddressWidth::Bits48), (5, 57, AddressWidth::Bits57)];

impl Capabilities {
    /// Maximum guest address width in bits.
    pub fn guest_bits(&self) -> u8 {
        self.cap.read(CAP::MGAW) as u8 + 1
    }

    /// Whether the second stage may have tables of this depth.
    pub fn has_width(&self, width: AddressWidth) -> bool {
        self.cap.read(CAP::SAGAW) >> (width as u8) & 1 != 0
    }

    /// The second stage to use: the shallowest tables that hold all of MGAW, else the deepest there are.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.SSTS, which only scalable mode asks for, or CAP.SAGAW.
    pub fn second_stage(&self) -> Result<SecondStage, HwError> {
        require(!self.scalable() || self.ecap.is_set(ECAP::SSTS), names::SECOND_STAGE)?;
        let guest_bits = self.guest_bits();
        let there = || DEPTHS.into_iter().filter(|(_, _, width)| self.has_width(*width));
        let chosen = there().find(|(_, bits, _)| *bits >= guest_bits).or_else(|| there().next_back());
        let (levels, bits, width) = chosen.ok_or(HwError::Missing(names::SECOND_STAGE_WIDTH))?;
        Ok(SecondStage { levels, width, input_bits: guest_bits.min(bits) })
    }

    /// AW of an entry that walks no second stage: the largest that the unit supports, as pass-through demands. A unit
    /// without a second stage may report none; then 48 bits is what hardware of scalable mode takes.
    pub fn idle_width(&self) -> AddressWidth {
        let deepest = DEPTHS.into_iter().rev().find(|(_, _, width)| self.has_width(*width));
        deepest.map_or(AddressWidth::Bits48, |(_, _, width)| width)
    }

    /// The first stage to use: 5 levels where the unit has them and addresses that need them, else 4.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.FSTS or ECAP.SMTS; [`HwError::Unsupported`] where legacy mode was chosen.
    pub fn first_stage(&self) -> Result<FirstStage, HwError> {
        self.require_scalable(self.ecap.is_set(ECAP::FSTS), names::FIRST_STAGE)?;
        let five = self.five_levels() && self.guest_bits() > 48;
        let (levels, bits) = if five { (5, 56) } else { (4, 47) };
        Ok(FirstStage { levels, input_bits: self.guest_bits().min(bits) })
    }

    /// Input bits of a first stage of 4 levels.
    ///
    /// # Errors
    ///
    /// As [`Capabilities::first_stage`].
    pub fn first_stage_bits(&self) -> Result<u8, HwError> {
        Ok(self.first_stage()?.input_bits.min(47))
    }

    /// CAP.FS5LP: first stages, a guest's too, may have 5 levels.
    pub fn five_levels(&self) -> bool {
        self.scalable() && self.cap.is_set(CAP::FS5LP)
    }

    /// Leaf sizes of the second stage.
    pub fn second_stage_pages(&self) -> PageSizes {
        let large = self.cap.read(CAP::SSLPS);
        PageSizes::new(1 << 12 | (large & 1) << 21 | (large >> 1 & 1) << 30)
    }

    /// Leaf sizes of the first stage.
    pub fn first_stage_pages(&self) -> PageSizes {
        PageSizes::new(1 << 12 | 1 << 21 | self.cap.read(CAP::FS1GP) << 30)
    }

    /// A guest's first stage can stand on our second stage (PGTT = 3).
    pub fn nesting(&self) -> bool {
        self.require_nesting().is_ok()
    }

    /// Asks for nested translation.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the first that is not there of ECAP.NEST, ECAP.FSTS, ECAP.SSTS, CAP.SAGAW and ECAP.SMTS;
    /// [`HwError::Unsupported`] where legacy mode was chosen.
    pub fn require_nesting(&self) -> Result<(), HwError> {
        self.require_scalable(self.ecap.is_set(ECAP::NEST), names::NESTING)?;
        self.first_stage()?;
        self.second_stage().map(|_| ())
    }

    /// Hardware can note in leaves of the second stage what was accessed and written (SSADE). It updates entries only
    /// where its page walks snoop; else it refuses the access (section 3.7.2).
    pub fn tracks_second_stage(&self) -> bool {
        self.require_dirty_tracking().is_ok()
    }

    /// Asks for accessed and dirty bits of the second stage.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the first that is not there of ECAP.SSADS, ECAP.SMPWCS, ECAP.SSTS, CAP.SAGAW and
    /// ECAP.SMTS; [`HwError::Unsupported`] where legacy mode was chosen.
    pub fn require_dirty_tracking(&self) -> Result<(), HwError> {
        self.require_scalable(self.ecap.is_set(ECAP::SSADS), names::DIRTY_TRACKING)?;
        require(self.page_walk_snoop(), names::PAGE_WALK_SNOOP)?;
        self.second_stage().map(|_| ())
    }

    /// Width in bits of the PASIDs that tables may hold.
    fn pasid_width(&self) -> u8 {
        (self.ecap.read(ECAP::PSS) as u8 + 1).min(MOST_PASID_BITS)
    }

    /// Asks for page walks that snoop the caches.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.SMPWCS.
    pub fn require_page_walk_snoop(&self) -> Result<(), HwError> {
        require(self.page_walk_snoop(), names::PAGE_WALK_SNOOP)
    }

    /// Width of PASIDs in bits; 0 where requests with PASID are refused.
    pub fn pasid_bits(&self) -> u8 {
        if self.require_pasids().is_ok() { self.pasid_width() } else { 0 }
    }

    /// Asks for requests with PASID.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.PASID or ECAP.SMTS; [`HwError::Unsupported`] where legacy mode was chosen.
    pub fn require_pasids(&self) -> Result<(), HwError> {
        self.require_scalable(self.ecap.is_set(ECAP::PASID), names::PASIDS)
    }

    /// Asks for requests with this PASID.
    ///
    /// # Errors
    ///
    /// As [`Capabilities::require_pasids`]; [`HwError::Missing`] names ECAP.PSS where the PASID has too many bits.
    pub fn require_pasid(&self, pasid: u32) -> Result<(), HwError> {
        self.require_pasids()?;
        require(pasid >> self.pasid_bits() == 0, names::PASID_WIDTH)
    }

    /// ECAP.RPS: the PASID of requests without one is that of the context entry (RID_PASID); else it is 0.
    pub fn honours_rid_pasid(&self) -> bool {
        self.scalable() && self.ecap.is_set(ECAP::RPS)
    }

    /// Asks for requests without PASID to have this one; 0 is what they have anyway.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.RPS or ECAP.SMTS, or ECAP.PSS where it has too many bits;
    /// [`HwError::Unsupported`] where legacy mode was chosen.
    pub fn require_rid_pasid(&self, pasid: u32) -> Result<(), HwError> {
        if pasid == 0 {
            return Ok(());
        }
        self.require_scalable(self.ecap.is_set(ECAP::RPS), names::RID_PASID)?;
        require(pasid >> self.pasid_width() == 0, names::PASID_WIDTH)
    }

    /// What only scalable mode has.
    fn require_scalable(&self, present: bool, capability: Capability) -> Result<(), HwError> {
        require(present, capability)?;
        require(self.ecap.is_set(ECAP::SMTS), names::SCALABLE_MODE)?;
        if self.scalable() { Ok(()) } else { Err(HwError::Unsupported("this in legacy mode, which was chosen")) }
    }
}
